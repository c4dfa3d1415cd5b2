"""The load of `postfacta lab load` from several processes or machines, by Locust's workers.

    locust -f loadtests/locustfile.py --headless --only-summary --host http://127.0.0.1:8080 --mix
    loadtests/postfacta.yaml locust ... --master --expect-workers 2 --workers 2      beside it,
    twice: locust -f loadtests/locustfile.py --worker

Mix, schedule and gate are the lab's. Each of `--workers` sends its part of the rate, and the master
judges all that they sent. Only this machine is loaded, and hosts that LOAD_HOSTS lists.
docs/how-to/scale-out-load.md.
"""

from __future__ import annotations

import secrets
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from locust import FastHttpUser, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from postfacta_lab.engine.variables import credentials, refuse_strangers
from postfacta_lab.load import gate, generator
from postfacta_lab.load.command import Report
from postfacta_lab.load.mix import Ask, read_mix

__all__ = ["OpenLoop"]

_NUMBERS: Mapping[str, tuple[float, str]] = {
    "rate": (10.0, "arrivals a second, of all workers"),
    "seconds": (30.0, "length of the schedule"),
    "warm-up": (2.0, "seconds from the start that are not judged"),
    "patience": (20.0, "seconds to wait for the last answers"),
    "cap": (
        500.0,
        "requests in flight at most, of each worker; what comes above is dropped and counted",
    ),
    "seed": (1.0, "of the Poisson schedule and the mix"),
    "failed": (0.001, "largest share of failures"),
    "p95": (0.2, "largest 95th percentile, in seconds"),
    "p99": (0.5, "largest 99th percentile, in seconds"),
    "min-count": (100.0, "fewest requests that a verdict can rest on"),
    "workers": (1.0, "processes that share the rate; the master waits for all of them"),
}


# Locust and gevent leave much untyped: this is what we use of them.


class _Gevent(Protocol):
    def sleep(self, seconds: float) -> None: ...
    def spawn(self, run: Callable[..., object], *arguments: object) -> object: ...
    def joinall(self, greenlets: Sequence[object], timeout: float) -> object: ...
    def killall(self, greenlets: Sequence[object], *, block: bool) -> object: ...


class _Runner(Protocol):
    worker_index: int

    def quit(self) -> None: ...
    def register_message(self, name: str, listener: Callable[..., None]) -> None: ...
    def send_message(self, name: str, data: object) -> None: ...


class _World(Protocol):
    host: str | None
    parsed_options: Namespace
    runner: _Runner


class _Answer(Protocol):
    status_code: int


class _Message(Protocol):
    data: Mapping[str, Any]


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
            moments = _schedule(options, getattr(world.runner, "worker_index", 0))
            asks = read_mix(options.path, Path(options.mix) if options.mix else None)
        except ValueError as error:
            print(error)  # noqa: T201 - its job
            gevent.spawn(world.runner.quit)
            raise StopUser from None
        meter = generator.Meter(cap=int(options.cap))
        mix = generator.randomness(int(options.seed)).choices(
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
            warm_up=options.warm_up,
        )
        gevent.killall(sent, block=False)
        if isinstance(cast("Environment", self.environment).runner, WorkerRunner):
            world.runner.send_message("run", asdict(run))
        else:
            _RUNS.append(run)
            gevent.spawn(world.runner.quit)
        raise StopUser

    def _send(self, ask: Ask, intended: float, start: float, meter: generator.Meter) -> None:
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
            error = (
                ""
                if ask.is_good(code)
                else str(code or type(getattr(answer, "error", None)).__name__)
            )
        except Exception as failure:  # noqa: BLE001 - whatever it is, a user would have seen it
            error = type(failure).__name__
        ended = time.perf_counter() - start
        meter.finish(gate.Sample(ask.route, intended, began, ended, error))


# Locust makes the users itself: this is how they hand over what they did.
_RUNS: list[gate.Run] = []


def _schedule(options: Namespace, worker: int) -> Sequence[float]:
    rate = options.rate / options.workers
    return generator.moments(
        options.arrivals, rate, options.seconds, seed=int(options.seed) + worker
    )


def _headers(ask: Ask) -> dict[str, str]:
    headers = {"X-Traffic-Class": "load", **credentials()}
    if ask.method not in {"GET", "HEAD"}:
        headers["Idempotency-Key"] = str(uuid.uuid4())
    if secrets.randbelow(100) == 0:
        headers["traceparent"] = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    return headers


def _limits(options: Namespace) -> gate.Limits:
    return gate.Limits(
        failed=options.failed, p95=options.p95, p99=options.p99, count=int(options.min_count)
    )


# Locust leaves the types of its listeners open.
@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: ArgumentParser, **_: Any) -> None:
    for name, (default, about) in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=float, default=default, help=about)
    parser.add_argument(
        "--path",
        action="append",
        default=[],
        help="of the service, asked for by GET; may be repeated",
    )
    # As text: they are sent to workers.
    parser.add_argument("--mix", help="a file of requests, instead: YAML or JSON")
    parser.add_argument(
        "--arrivals", choices=("constant", "poisson"), default="poisson", help="the schedule"
    )
    parser.add_argument("--report", default="build/load", help="folder of the report")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _await_workers(environment: Environment, **_: Any) -> None:
    """Have each worker run one user, and judge when the last of them has sent what it did."""
    if isinstance(environment.runner, MasterRunner):
        world = cast("_World", environment)
        options = world.parsed_options
        OpenLoop.fixed_count = int(options.workers)
        options.num_users = options.spawn_rate = int(options.workers)

        def collect(environment: Environment, msg: _Message, **_: Any) -> None:
            _RUNS.append(_received(msg.data))
            if len(_RUNS) == int(options.workers):
                gevent.spawn(world.runner.quit)

        world.runner.register_message("run", collect)


def _received(data: Mapping[str, Any]) -> gate.Run:
    figures = {name: value for name, value in data.items() if name != "samples"}
    return gate.Run(samples=tuple(gate.Sample(**sample) for sample in data["samples"]), **figures)


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _refuse_strangers(environment: Environment, **_: Any) -> None:
    world = cast("_World", environment)
    try:
        refuse_strangers(world.host or "")
    except ValueError as error:
        print(error)  # noqa: T201 - its job
        gevent.spawn(world.runner.quit)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Environment, **_: Any) -> None:
    """Judge the run, write the reports, and set the exit code whatever happened."""
    if isinstance(environment.runner, WorkerRunner):
        return  # it fires there too, with nothing measured
    options = cast("_World", environment).parsed_options
    run = _together(options)
    limits = _limits(options)
    about = {name: f"{getattr(options, name.replace('-', '_')):g}" for name in _NUMBERS}
    report = Report([gate.judge(run, limits)], limits, {"arrivals": options.arrivals, **about})
    report.write(Path(options.report))
    print(report.as_text())  # noqa: T201 - its job
    print(f"report: {Path(options.report) / 'report.html'}")  # noqa: T201 - its job
    environment.process_exit_code = int(report.verdict)


def _together(options: Namespace) -> gate.Run:
    """Add up what all workers did; a worker that is missing leaves its arrivals without an end."""
    missing = int(options.workers) - len(_RUNS)
    return gate.Run(
        samples=tuple(sample for run in _RUNS for sample in run.samples),
        planned=sum(run.planned for run in _RUNS) + (missing if _RUNS else 0),
        seconds=options.seconds,
        dropped=tuple(at for run in _RUNS for at in run.dropped),
        warm_up=options.warm_up,
    )
