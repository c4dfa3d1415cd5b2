"""Go through PostFacta as a user does, again and again, and expose whether that worked as Prometheus metrics.

A journey signs in by token, lists incidents, sends the one write of the day again, and reads what
it recorded. The write has an Idempotency-Key: each time it goes through a whole transaction, and
only the first of a day adds a row, which is an exercise.

    POSTFACTA_PROBE_TOKEN=... python journey_probe.py --url https://postfacta.example
    python journey_probe.py --url http://127.0.0.1:8080 --token-file /run/secrets/probe_token --once

The token needs the scopes incidents:read and incidents:write. With the service's traffic key the
journey counts as `synthetic`, and stays out of the users' objectives. It needs Python 3.11, and
nothing else.

With --once it makes one journey and ends with 0 if that worked, with 1 if not. Wrong usage ends
with 2.
"""

# ruff: noqa: INP001 - a command, and no package

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

__all__ = ["STEPS", "Board", "Journey", "Outcome", "main"]

STEPS = ("sign_in", "list", "write", "read")
"""What a journey consists of, in this order."""

_MOST_BYTES = 1_000_000


class StepError(Exception):
    """What went wrong in a step; the text holds no secret."""


class UsageError(Exception):
    """How the probe was called."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one journey went.

    Attributes:
        seconds: How long each step took that was begun.
        reason: What went wrong, and in which step; empty if nothing did.
        ended: When it ended, by the monotonic clock.
    """

    seconds: Mapping[str, float]
    reason: str
    ended: float

    @property
    def is_success(self) -> bool:
        """Whether it got to its end."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Journey:
    """What a user does.

    Attributes:
        url: Where the service is, without a path.
        token: Who asks.
        traffic_key: Proves that this is synthetic traffic; empty leaves it among the users'.
        timeout: Seconds that the whole journey may take.
    """

    url: str
    token: str = field(repr=False)
    traffic_key: str = field(default="", repr=False)
    timeout: float = 10.0

    def run(self, *, clock: Callable[[], float] = time.monotonic) -> Outcome:
        """Make it once. It never raises: what goes wrong is the outcome."""
        until = clock() + self.timeout
        seconds: dict[str, float] = {}
        found = ""
        for step in STEPS:
            began = clock()
            try:
                found = self._step(step, found, until - began)
            except StepError as error:
                return Outcome({**seconds, step: clock() - began}, f"{step}: {error}", clock())
            seconds[step] = clock() - began
        return Outcome(seconds, "", clock())

    def _step(self, step: str, found: str, left: float) -> str:
        """Take a step; what the write answered is what the last one reads."""
        if step == "sign_in":
            self._ask("/api/v1/me", left)
        elif step == "list":
            _need(self._ask("/api/v1/incidents?kind=exercise&limit=5", left), "items", list)
        elif step == "write":
            return str(_need(self._ask("/api/v1/incidents", left, body=_exercise()), "id", str))
        else:
            incident = self._ask(f"/api/v1/incidents/{found}", left)
            if incident.get("id") != found:
                raise StepError("what was recorded cannot be read back")
        return found

    def _ask(
        self, path: str, left: float, *, body: Mapping[str, str] | None = None
    ) -> Mapping[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
        if self.traffic_key:
            headers |= {"X-Traffic-Class": "synthetic", "X-Traffic-Key": self.traffic_key}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers |= {"Content-Type": "application/json", "Idempotency-Key": f'"{body["title"]}"'}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)  # noqa: S310 - checked before
        try:
            # A proxy of the environment's would be probed instead.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
            with opener.open(request, timeout=max(left, 0.001)) as answer:
                found = json.loads(answer.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise StepError(f"status {error.code}") from None
        except TimeoutError:
            raise StepError(f"no answer within the {self.timeout:g} s of a journey") from None
        except urllib.error.URLError as error:
            raise StepError(f"no connection: {error.reason}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise StepError(f"no usable answer: {type(error).__name__}") from None
        if not isinstance(found, dict):
            raise StepError("the answer is no JSON object")
        return cast("dict[str, Any]", found)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the token is for the service alone."""

    def redirect_request(  # noqa: PLR0917 - as the base class has it
        self,
        req: urllib.request.Request,
        fp: object,
        code: int,
        msg: str,
        headers: object,
        newurl: str,
    ) -> None:
        return None


def _need(answer: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(answer.get(name), kind):
        raise StepError(f"the answer has no {name!r}")
    return answer[name]


def _exercise() -> dict[str, str]:
    """Describe the write of the day: the same body, so that the same key fits."""
    day = f"{datetime.now(UTC):%Y-%m-%d}"  # noqa: TID251 - a script of its own: it takes the machine's day
    return {
        "title": f"Journey probe {day}",
        "description": "Recorded by the journey probe, to see that writing works.",
        "severity": "LOW",
        "kind": "exercise",
    }


class Board:
    """Holds the last outcome for scrapes from any thread.

    Args:
        stale_after: Seconds after which an outcome says nothing any more: then the probe itself
            hangs.
        clock: Monotonic seconds.
    """

    def __init__(self, *, stale_after: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stale_after = stale_after
        self._clock = clock
        self._last: Outcome | None = None
        self._counts = {"success": 0, "failure": 0}
        self._lock = threading.Lock()

    def put(self, outcome: Outcome) -> None:
        """Replace the last outcome."""
        with self._lock:
            self._last = outcome
            self._counts["success" if outcome.is_success else "failure"] += 1

    def text(self) -> str:
        """Write it as Prometheus reads it; nothing about a journey before the first has ended."""
        with self._lock:
            last = self._last
            counts = dict(self._counts)
        lines = [
            *_head("postfacta_journeys_total", "counter", "Journeys by how they ended."),
            *(
                f'postfacta_journeys_total{{outcome="{name}"}} {count}'
                for name, count in counts.items()
            ),
        ]
        if last is not None:
            fresh = self._clock() - last.ended <= self._stale_after
            lines += [
                *_head(
                    "probe_success",
                    "gauge",
                    "1 if the last journey got to its end, and not long ago.",
                ),
                f"probe_success {int(last.is_success and fresh)}",
                *_head("probe_duration_seconds", "gauge", "How long the last journey took."),
                f"probe_duration_seconds {sum(last.seconds.values()):.6f}",
                *_head(
                    "postfacta_journey_step_seconds",
                    "gauge",
                    "How long each step took that was begun.",
                ),
                *(
                    f'postfacta_journey_step_seconds{{step="{step}"}} {taken:.6f}'
                    for step, taken in last.seconds.items()
                ),
            ]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> tuple[str, str]:
    return f"# HELP {name} {about}", f"# TYPE {name} {kind}"


def _serve(board: Board, host: str, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout: ClassVar[float | None] = 10.0

        def do_GET(self) -> None:
            known = urlsplit(self.path).path == "/metrics"
            body = (board.text() if known else "the metrics are at /metrics\n").encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Log nothing: a line for each scrape would be noise."""

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def main(argv: list[str] | None = None) -> int:
    """Probe until the process is ended, or once; return the exit code."""
    options = _parse(argv)
    try:
        journey = _journey(options)
    except UsageError as error:
        print(f"journey_probe: {error}", file=sys.stderr)  # noqa: T201 - its job
        return 2
    if options.once:
        outcome = journey.run()
        taken = ", ".join(
            f"{step} {1000 * seconds:.0f} ms" for step, seconds in outcome.seconds.items()
        )
        print(f"{outcome.reason or 'ok'} ({taken})")  # noqa: T201 - its job
        return 0 if outcome.is_success else 1
    board = Board(stale_after=2 * options.interval + options.timeout)
    try:
        server = _serve(board, options.host, options.port)
    except OSError as error:
        reason = (
            f"cannot listen on {options.host}:{options.port}: {error.strerror}; take another --port"
        )
        print(f"journey_probe: {reason}", file=sys.stderr)  # noqa: T201 - its job
        return 1
    print(f"listening on http://{options.host}:{server.server_port}/metrics", flush=True)  # noqa: T201 - its job
    _keep_probing(journey, board, options.interval)
    return 0


def _keep_probing(journey: Journey, board: Board, interval: float) -> None:
    said = ""
    try:
        while True:
            began = time.monotonic()
            outcome = journey.run()
            board.put(outcome)
            if outcome.reason != said:  # once for each change, and not for each journey
                said = outcome.reason
                print(f"journey: {said or 'ok again'}", file=sys.stderr, flush=True)  # noqa: T201 - its log
            time.sleep(max(0.0, interval - (time.monotonic() - began)))  # noqa: TID251 - a thread of its own
    except KeyboardInterrupt:
        return


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "journey_probe.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--url", required=True, help="where users come in, such as https://postfacta.example"
    )
    parser.add_argument(
        "--token-file", type=Path, help="holds the token; else POSTFACTA_PROBE_TOKEN does"
    )
    parser.add_argument(
        "--traffic-key-file",
        type=Path,
        help="holds the traffic key; else POSTFACTA_PROBE_TRAFFIC_KEY does",
    )
    parser.add_argument(
        "--interval", type=float, default=15.0, help="seconds between journeys (%(default)g)"
    )
    parser.add_argument(
        "--timeout", type=float, default=10.0, help="seconds a journey may take (%(default)g)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="where the metrics are served (%(default)s)"
    )
    parser.add_argument("--port", type=int, default=9117, help="(%(default)s; 0 takes a free one)")
    parser.add_argument(
        "--once", action="store_true", help="make one journey, and report its outcome"
    )
    return parser.parse_args(argv)


def _journey(options: argparse.Namespace) -> Journey:
    parts = urlsplit(str(options.url))
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
        raise UsageError(
            f"--url {options.url}: write a scheme and a host, such as https://postfacta.example"
        )
    if options.interval <= 0 or options.timeout <= 0:
        raise UsageError("--interval and --timeout must be above 0")
    token = _secret(options.token_file, "POSTFACTA_PROBE_TOKEN")
    if not token:
        raise UsageError("no token: give --token-file, or set POSTFACTA_PROBE_TOKEN")
    return Journey(
        url=f"{parts.scheme}://{parts.netloc}",
        token=token,
        traffic_key=_secret(options.traffic_key_file, "POSTFACTA_PROBE_TRAFFIC_KEY"),
        timeout=options.timeout,
    )


def _secret(file: Path | None, variable: str) -> str:
    if file is None:
        return os.environ.get(variable, "")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"cannot read {file}: {reason}") from None


if __name__ == "__main__":
    sys.exit(main())
