"""A client of Toxiproxy's HTTP API: for the fault proxy here, and for the original as well."""

from __future__ import annotations

import http.client
import json
import selectors
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

__all__ = ["Toxiproxy", "ToxiproxyError", "fault_proxy"]

_PATIENCE = 30.0


class ToxiproxyError(Exception):
    """The proxy refused a request.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Toxiproxy:
    """Speaks to one fault proxy, on a new connection for each request; it leaves the proxies alone.

    Args:
        url: Where its API listens, such as `http://127.0.0.1:8474`.
        timeout: Seconds that a request may take.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        self.url = url
        self._timeout = timeout

    def version(self) -> str:
        return str(self._ask("GET", "/version")["version"])

    def proxies(self) -> dict[str, Any]:
        """Ask for all proxies by name, with their toxics."""
        return self._ask("GET", "/proxies")

    def create(self, name: str, upstream: str, *, listen: str = "127.0.0.1:0") -> str:
        """Make a proxy that listens at once.

        Returns:
            The host and port to connect to.
        """
        new = {"name": name, "listen": listen, "upstream": upstream, "enabled": True}
        return str(self._ask("POST", "/proxies", new)["listen"])

    def delete(self, name: str) -> None:
        """Remove a proxy, and close its connections."""
        self._ask("DELETE", _path(name))

    def enable(self, name: str) -> None:
        """Enable a proxy again, on the same address."""
        self._ask("POST", _path(name), {"enabled": True})

    def disable(self, name: str) -> None:
        """Make a proxy refuse connections, and close those that live."""
        self._ask("POST", _path(name), {"enabled": False})

    def redirect(self, name: str, upstream: str) -> None:
        """Change the upstream of a proxy, and close the connections that live."""
        self._ask("POST", _path(name), {"upstream": upstream})

    def add(
        self,
        name: str,
        kind: str,
        /,
        *,
        stream: str = "downstream",
        toxicity: float = 1.0,
        toxic: str | None = None,
        **attributes: int,
    ) -> str:
        """Add a toxic to a proxy.

        Args:
            name: The proxy's.
            kind: The toxic's type, such as `latency`.
            stream: `downstream` (from the server) or `upstream` (to it).
            toxicity: The share of connections it acts on, 0 to 1.
            toxic: The toxic's name; default: `<type>_<stream>`.
            attributes: What its type takes.

        Returns:
            The toxic's name.
        """
        new: dict[str, object] = {"type": kind, "stream": stream, "toxicity": toxicity}
        if toxic is not None:
            new["name"] = toxic
        return str(self._ask("POST", _path(name, ""), {**new, "attributes": attributes})["name"])

    def change(self, name: str, toxic: str, /, *, toxicity: float | None = None, **attributes: int) -> None:
        """Change attributes of a toxic; those not named stay."""
        changes: dict[str, object] = {} if toxicity is None else {"toxicity": toxicity}
        self._ask("POST", _path(name, toxic), {**changes, "attributes": attributes})

    def remove(self, name: str, toxic: str) -> None:
        """Remove a toxic from a proxy."""
        self._ask("DELETE", _path(name, toxic))

    def reset(self) -> None:
        """Enable all proxies, and take all toxics off."""
        self._ask("POST", "/reset")

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        # Not through a proxy of the environment: it would stand between us and our own machine.
        with closing(
            http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=self._timeout)
        ) as connection:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
        if answer.status >= 400:
            try:
                message = str(json.loads(text)["error"])
            except (ValueError, KeyError, TypeError):
                message = text
            raise ToxiproxyError(message, answer.status)
        known: dict[str, Any] = json.loads(text) if text else {}
        return known


@contextmanager
def fault_proxy() -> Generator[Toxiproxy]:
    """Run the fault proxy as a process on a free port until the block ends.

    Raises:
        RuntimeError: If it does not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "postfacta_lab", "proxy", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        yield Toxiproxy(_address(process))
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


def _address(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        raise RuntimeError("its output is not read")
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(_PATIENCE) else ""
    if not line.startswith("listening on "):
        raise RuntimeError(f"the fault proxy did not start: {line!r}")
    return line.removeprefix("listening on ").strip()


def _path(name: str, toxic: str | None = None) -> str:
    path = f"/proxies/{quote(name, safe='')}"
    if toxic is None:
        return path
    return f"{path}/toxics/{quote(toxic, safe='')}" if toxic else f"{path}/toxics"
