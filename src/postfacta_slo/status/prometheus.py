"""Query a Prometheus by its HTTP API, in bounded time."""

from __future__ import annotations

import base64
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Any, Final, TypeVar

from postfacta_core.clock import MONOTONIC, Clock

T = TypeVar("T")

_CHUNK: Final = 65_536
_MOST_BYTES: Final = 32 * 1024 * 1024  # Of an answer.
_SHOWN: Final = 300  # Characters of a server's message.


class PrometheusError(Exception):
    """It gave no usable answer; the text names the server and the reason, without a password."""


@dataclass(frozen=True, slots=True)
class Point:
    """One series at one moment."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Line:
    """One series over time.

    Pairs of seconds since the epoch and a value, in order, with gaps left out.
    """

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: a password is for the host that it was given for."""

    def redirect_request(  # noqa: PLR0917 - as the base class has it
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Return None, so that the redirect itself is the answer."""


# It asks the environment for no proxy: what a service measures stays near it.
_OPENER: Final = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))


def check_address(url: str) -> str:
    """Return an address of a Prometheus without its final slashes."""
    url = url.strip()
    try:
        parts = urllib.parse.urlsplit(url)
        is_http = parts.scheme in {"http", "https"}
        is_sound = is_http and bool(parts.hostname) and parts.port != 0
    except ValueError:  # Such as a port of letters.
        is_sound = False
    if not is_sound or any(char.isspace() for char in url):
        raise ValueError(
            "is no address of a Prometheus: write http://host:9090, or"
            " https://user:password@host/path"
        )
    if "?" in url or "#" in url:
        raise ValueError("is more than the address of a Prometheus: leave out what follows ? or #")
    return url.rstrip("/")


class Prometheus:
    """Queries one server. It may be used from any thread, and keeps no connection."""

    def __init__(
        self, url: str, *, timeout: float = 10.0, token: str = "", clock: Clock = MONOTONIC
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"a query needs some time: {timeout=}")
        parts = urllib.parse.urlsplit(check_address(url))
        host = parts.netloc.rpartition("@")[2]
        # The address without user and password, to be shown.
        self.name: str = urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
        self._timeout = timeout
        self._headers = _credentials(parts, token)
        self._clock = clock

    def instant(self, query: str, *, at: float | None = None) -> list[Point]:
        """Query all series of an expression at one moment, by default now.

        What is not a number is left out.
        """
        form = {"query": query}
        if at is not None:
            form["time"] = repr(at)
        return self._ask("query", form, _points)

    def over_time(self, query: str, *, start: float, end: float, step: float) -> list[Line]:
        """Query an expression at each step from start to end, in seconds since the epoch."""
        form = {
            "query": query,
            "start": repr(start),
            "end": repr(end),
            "step": repr(step),
        }
        return self._ask("query_range", form, _lines)

    def _ask(
        self, endpoint: str, form: Mapping[str, str], read: Callable[[Any], list[T]]
    ) -> list[T]:
        body = urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(  # noqa: S310 - http and https alone, see check_address
            f"{self.name}/api/v1/{endpoint}", body, self._headers
        )
        try:
            answer: Any = json.loads(self._read(request))
            if answer["status"] == "success":
                return read(answer["data"])
            reason = f"{answer['errorType']}: {answer['error']}"[:_SHOWN]
        except (OSError, HTTPException) as error:
            raise PrometheusError(f"cannot ask {self.name}: {_reason(error)}") from None
        except (ValueError, KeyError, TypeError, IndexError):
            raise PrometheusError(
                f"{self.name} answers what no Prometheus would: is the address right?"
            ) from None
        raise PrometheusError(f"{self.name} refuses the query: {reason}")

    def _read(self, request: urllib.request.Request) -> bytes:
        end = self._clock() + self._timeout
        try:
            with _OPENER.open(request, timeout=self._timeout) as response:
                return self._body(response, end)
        except urllib.error.HTTPError as refusal:
            # An expression that cannot be parsed is answered by a status of 400 and a document with
            # the reason.
            with refusal:
                body = refusal.read(_CHUNK)
            if body.lstrip().startswith(b"{"):
                return body
            raise PrometheusError(f"{self.name} answers {refusal.code} {refusal.reason}") from None

    def _body(self, response: HTTPResponse, end: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        # The timeout of a socket is for each wait: one that sends a byte now and then would take
        # for ever.
        while part := response.read1(_CHUNK):
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                raise PrometheusError(
                    f"{self.name} answers more than {_MOST_BYTES} bytes: ask for less"
                )
            if self._clock() >= end:
                raise TimeoutError
        return b"".join(parts)


def _credentials(parts: urllib.parse.SplitResult, token: str) -> dict[str, str]:
    if token:
        return {"Authorization": f"Bearer {token}"}
    if parts.username is None:
        return {}
    user = urllib.parse.unquote(parts.username)
    password = urllib.parse.unquote(parts.password or "")
    encoded = base64.b64encode(f"{user}:{password}".encode())
    return {"Authorization": f"Basic {encoded.decode()}"}


def _points(data: Any) -> list[Point]:
    if data["resultType"] == "scalar":
        return [Point({}, float(data["result"][1]))]
    points = [Point(series["metric"], float(series["value"][1])) for series in data["result"]]
    return [point for point in points if not math.isnan(point.value)]


def _lines(data: Any) -> list[Line]:
    return [Line(series["metric"], _pairs(series["values"])) for series in data["result"]]


def _pairs(values: Sequence[tuple[float, str]]) -> list[tuple[float, float]]:
    pairs = [(float(at), float(text)) for at, text in values]
    return [pair for pair in pairs if not math.isnan(pair[1])]


def _reason(error: OSError | HTTPException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
