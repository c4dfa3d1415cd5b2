"""A client of the fault proxy, which breaks TCP connections on request, or of Toxiproxy 2.12."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

__all__ = ["Toxiproxy", "ToxiproxyError", "fault_proxy"]


class ToxiproxyError(Exception):
    """The proxy refused a request, with an HTTP `status`."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Toxiproxy:
    """Speaks to the fault proxy whose API listens at `url`, such as `http://127.0.0.1:8474`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def proxies(self) -> dict[str, Any]:
        """Ask for all proxies by name, with their toxics."""
        return self._ask("GET", "/proxies")

    def create(self, name: str, upstream: str, *, listen: str = "127.0.0.1:0") -> str:
        """Make a proxy that listens at once; return the host and port to connect to."""
        new = {"name": name, "listen": listen, "upstream": upstream, "enabled": True}
        return str(self._ask("POST", "/proxies", new)["listen"])

    def delete(self, name: str) -> None:
        """Remove a proxy, and close its connections."""
        self._ask("DELETE", _path(name))

    def update(self, name: str, **fields: object) -> None:
        """Change `listen`, `upstream`, `enabled`; a new address or False ends its connections."""
        self._ask("POST", _path(name), fields)

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
        """Add a toxic of a type, such as `latency`, with its attributes.

        Return the name it was given.
        """
        new = {
            "name": toxic,
            "type": kind,
            "stream": stream,
            "toxicity": toxicity,
            "attributes": attributes,
        }
        return str(self._ask("POST", f"{_path(name)}/toxics", new)["name"])

    def change(
        self,
        name: str,
        toxic: str,
        /,
        *,
        toxicity: float | None = None,
        **attributes: int,
    ) -> None:
        """Change attributes of a toxic; those not named stay."""
        self._ask("POST", _path(name, toxic), {"toxicity": toxicity, "attributes": attributes})

    def remove(self, name: str, toxic: str) -> None:
        """Remove a toxic from a proxy."""
        self._ask("DELETE", _path(name, toxic))

    def reset(self) -> None:
        """Enable all proxies, and take all toxics off."""
        self._ask("POST", "/reset")

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        # Not through a proxy of the environment: it would stand between us and our own machine.
        with closing(
            http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        ) as connection:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            document: dict[str, Any] = json.loads(answer.read() or b"{}")
        if answer.status >= 400:
            raise ToxiproxyError(str(document["error"]), answer.status)
        return document


@contextmanager
def fault_proxy() -> Generator[Toxiproxy]:
    """Run the fault proxy on a free port until the block ends, or raise `RuntimeError`."""
    command = [sys.executable, "-m", "postfacta_lab", "proxy", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own program
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line.startswith("listening on "):
                raise RuntimeError(f"the fault proxy did not start: {line!r}")
            yield Toxiproxy(line.removeprefix("listening on ").strip())
        finally:
            process.kill()  # it has nothing to save


def _path(*names: str) -> str:
    return "/proxies/" + "/toxics/".join(quote(name, safe="") for name in names)
