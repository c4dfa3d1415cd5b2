"""Load a running service with a believable mix, open loop, and fail the run if users would have noticed.

    python -m loadtests --url http://127.0.0.1:8080 [--path /invoices/7 ...] [--rate 10] [--seconds 30]

Without `--path` and `--mix` it asks for what PostFacta has. Arrivals come from a schedule made before the run, one
greenlet each, so a slow service is not spared. The gate (`gate.py`) sets the exit code: 0 pass, 1 failed, 2 invalid
run, 3 nothing measured. It writes `load.json` and `report.html`. Only this machine is loaded, and hosts that
LOAD_HOSTS lists.
"""

from __future__ import annotations

import os
import secrets
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from locust import FastHttpUser, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import WorkerRunner

from loadtests import arrivals, gate, report
from loadtests.mix import Ask, read_mix

__all__ = ["OpenLoop"]

_LOCAL = {"127.0.0.1", "localhost", "::1"}
_NUMBERS: Mapping[str, tuple[float, str]] = {
    "rate": (10.0, "arrivals a second"),
    "seconds": (30.0, "length of the schedule"),
    "warm-up": (2.0, "seconds from the start that are not judged"),
    "patience": (20.0, "seconds to wait for the last answers"),
    "cap": (500.0, "requests in flight at most; what comes above is dropped and counted"),
    "seed": (1.0, "of the Poisson schedule and the mix"),
    "max-failed": (0.001, "largest share of failures"),
    "max-p95": (0.2, "largest 95th percentile, in seconds"),
    "max-p99": (0.5, "largest 99th percentile, in seconds"),
    "min-count": (100.0, "fewest requests that a verdict can rest on"),
}


# Locust and gevent leave much untyped: this is what we use of them.


class _Gevent(Protocol):
    def sleep(self, seconds: float) -> None: ...
    def spawn(self, run: Callable[..., object], *arguments: object) -> object: ...
    def joinall(self, greenlets: Sequence[object], timeout: float) -> object: ...
    def killall(self, greenlets: Sequence[object], *, block: bool) -> object: ...


class _Runner(Protocol):
    def quit(self) -> None: ...


class _World(Protocol):
    host: str | None
    parsed_options: Namespace
    runner: _Runner


class _Answer(Protocol):
    status_code: int


class _Client(Protocol):
    def request(
        self,
        method: str,
        url: str,
        *,
        name: str,
        headers: Mapping[str, str],
        json: object,
    ) -> _Answer: ...


gevent = cast("_Gevent", import_module("gevent"))


class OpenLoop(FastHttpUser):
    """The one user: it follows the schedule, whatever becomes of the answers."""

    fixed_count = 1
    network_timeout = 30.0
    connection_timeout = 5.0
    max_redirects = 0  # a page for signing in is not what was asked for
    concurrency = 2000  # sockets; the cap on requests in flight lies below it

    @task
    def follow(self) -> None:
        """Send each arrival at its moment, wait for the last answers, then judge and end the run."""
        world = cast("_World", self.environment)
        options = world.parsed_options
        try:
            moments = _schedule(options)
            asks = read_mix(options.path, options.mix)
        except ValueError as error:
            print(error)  # noqa: T201 - its job
            gevent.spawn(world.runner.quit)
            raise StopUser from None
        meter = arrivals.Meter(cap=int(options.cap))
        mix = arrivals.luck(int(options.seed)).choices(
            asks, weights=[ask.share for ask in asks], k=len(moments)
        )
        began = time.perf_counter()
        sent: list[object] = []
        for moment, ask in zip(moments, mix, strict=True):
            gevent.sleep(max(0.0, moment - (time.perf_counter() - began)))
            if meter.admit(moment):
                sent.append(gevent.spawn(self._send, ask, moment, began, meter))
        gevent.joinall(sent, options.patience)
        run = gate.Run(
            samples=tuple(meter.samples),
            planned=len(moments),
            seconds=options.seconds,
            dropped=tuple(meter.dropped),
            unfinished=meter.in_flight,
            warm_up=options.warm_up,
        )
        gevent.killall(sent, block=False)
        _RUNS[id(world)] = run
        gevent.spawn(world.runner.quit)
        raise StopUser

    def _send(self, ask: Ask, intended: float, start: float, meter: arrivals.Meter) -> None:
        began = time.perf_counter() - start
        try:
            answer = cast("_Client", self.client).request(
                ask.method,
                ask.path,
                name=ask.route,
                headers=_headers(ask),
                json=ask.body,
            )
            code = int(answer.status_code or 0)
            error = "" if ask.is_good(code) else str(code or type(getattr(answer, "error", None)).__name__)
        except Exception as failure:  # noqa: BLE001 - whatever it is, a user would have seen it
            error = type(failure).__name__
        ended = time.perf_counter() - start
        meter.finish(arrivals.Sample(ask.route, intended, began, ended, error))


_RUNS: dict[
    int, gate.Run
] = {}  # Locust makes the users itself: this is how one hands its run to the listener.


def _schedule(options: Namespace) -> Sequence[float]:
    if options.arrivals == "poisson":
        return arrivals.poisson(options.rate, options.seconds, seed=int(options.seed))
    return arrivals.constant(options.rate, options.seconds)


def _headers(ask: Ask) -> dict[str, str]:
    headers = {"X-Traffic-Class": "load"}
    if token := os.environ.get("TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    if key := os.environ.get("TRAFFIC_KEY"):
        headers["X-Traffic-Key"] = key
    if ask.method not in {"GET", "HEAD"}:
        headers["Idempotency-Key"] = str(uuid.uuid4())
    if secrets.randbelow(100) == 0:
        headers["traceparent"] = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    return headers


def _limits(options: Namespace) -> gate.Limits:
    return gate.Limits(
        failed=options.max_failed, p95=options.max_p95, p99=options.max_p99, count=int(options.min_count)
    )


# Locust leaves the types of its listeners open.
@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: ArgumentParser, **_: Any) -> None:
    for name, (default, about) in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=float, default=default, help=about)
    parser.add_argument(
        "--path", action="append", default=[], help="of the service, asked for by GET; may be repeated"
    )
    parser.add_argument("--mix", type=Path, help="a file of requests, instead: YAML or JSON")
    parser.add_argument("--arrivals", choices=("constant", "poisson"), default="poisson", help="the schedule")
    parser.add_argument("--report", type=Path, default=Path("build/load"), help="folder of the report")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _refuse_strangers(environment: Environment, **_: Any) -> None:
    world = cast("_World", environment)
    allowed = _LOCAL | set(os.environ.get("LOAD_HOSTS", "").split(","))
    host = urlsplit(world.host or "").hostname or ""
    if host not in allowed:
        print(f"{host or 'no host'} is not this machine: list it in LOAD_HOSTS if it is yours")  # noqa: T201 - its job
        gevent.spawn(world.runner.quit)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Environment, **_: Any) -> None:
    """Judge the run, write the reports, and set the exit code whatever happened."""
    if isinstance(environment.runner, WorkerRunner):
        return  # it fires there too, with nothing measured
    options = cast("_World", environment).parsed_options
    nothing = gate.Run(samples=(), planned=0, seconds=options.seconds)
    run, limits = _RUNS.pop(id(environment), nothing), _limits(options)
    outcome = gate.judge(run, limits)
    about = {
        name: f"{getattr(options, name.replace('-', '_')):g}" for name in ("rate", "seconds", "cap", "seed")
    }
    report.write(options.report, run, outcome, limits=limits, about={"arrivals": options.arrivals, **about})
    print(report.as_text(outcome))  # noqa: T201 - its job
    print(f"report: {options.report / 'report.html'}")  # noqa: T201 - its job
    environment.process_exit_code = int(outcome.verdict)
