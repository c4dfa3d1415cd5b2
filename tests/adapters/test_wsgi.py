"""`harden` for WSGI keeps its promises in a server's thread, and an application sees plain WSGI."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from postfacta_adapters._wsgi import Environ
from postfacta_adapters.wsgi import HardenedWsgi, harden
from postfacta_core import HardenOptions, harden as harden_asgi
from postfacta_core.asgi import Telemetry
from postfacta_core.context import current_request
from postfacta_core.deadlines import TransferLimits
from postfacta_core.deadlines.present import current_deadline
from postfacta_core.errors import CircuitOpenError
from postfacta_core.events import DeadlineExceeded, Event, fan_out
from tests.kit.every import every
from tests.kit.waiting import wait_until

OK: Final = "200 OK"
TEXT: Final = [("Content-Type", "text/plain")]
# A server that waits for its client; the application must not wait with it.
SPAN: ContextVar[str] = ContextVar("span", default="none")


@dataclass
class Response:
    """What a server would have sent."""

    status: str = ""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    pieces: list[bytes] = field(default_factory=list[bytes])

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


def environ_of(method: str = "GET", path: str = "/", body: bytes = b"", **more: Any) -> Any:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "wsgi.input": io.BytesIO(body),
    }
    if body:
        environ |= {"CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "text/plain"}
    environ |= more
    setup_testing_defaults(environ)
    return environ


def call(
    app: Any, method: str = "GET", path: str = "/", body: bytes = b"", **more: Any
) -> Response:
    """Serve a request as a server does that is strict about PEP 3333."""
    response = Response()

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        response.status = status
        response.headers = {name.lower(): value for name, value in headers}
        return response.pieces.append

    pieces = validator(app)(environ_of(method, path, body, **more), start)
    try:
        response.pieces.extend(pieces)
    finally:
        pieces.close()  # type: ignore[attr-defined]
    return response


def no_start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
    """Begin a response that no client gets."""


Make = Callable[..., HardenedWsgi]


@pytest.fixture
def hardened() -> Generator[Make]:
    """Harden applications, and end their loops."""
    made: list[HardenedWsgi] = []

    def make(app: Any, options: HardenOptions | None = None, **more: Any) -> HardenedWsgi:
        made.append(harden(app, service="shop", options=options, **more))
        return made[-1]

    yield make
    for app in made:
        app.close()


def answering(body: Iterable[bytes] = (b"all",), headers: list[tuple[str, str]] = TEXT) -> Any:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start(OK, list(headers))
        return body

    return app


def echo(environ: Any, start: Any) -> list[bytes]:
    body = environ["wsgi.input"].read(300_000)
    start(OK, list(TEXT))
    return [b"%d" % len(body)]


def metric(app: HardenedWsgi, name: str, **labels: str) -> float:
    registry = app.hardened.telemetry.metrics.registry
    for family in registry.collect():
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


def test_both_sides_see_plain_wsgi(hardened: Make) -> None:
    app = hardened(validator(echo))
    with every() as case:
        for method, body in (
            ("GET", b""),
            ("POST", b"four"),
            ("HEAD", b""),
            ("PUT", b"x" * 200_000),
        ):
            with case(method):
                response = call(app, method, "/echo", body)
                assert response.status == OK
                assert response.body == (b"" if method == "HEAD" else b"%d" % len(body))
                assert len(response.headers["x-request-id"]) == 32


def test_pieces_go_out_one_by_one(hardened: Make) -> None:
    taken: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        for piece in (b"a", b"", b"b"):
            taken.append(piece)
            yield piece

    response = hardened(answering(pieces()))(environ_of(), no_start)
    stream = iter(response)
    assert next(stream) == b"a"
    assert taken == [b"a"]
    assert list(stream) == [b"b"]


def test_what_is_written_comes_first(hardened: Make) -> None:
    def app(environ: Any, start: Any) -> list[bytes]:
        write = start(OK, list(TEXT))
        write(b"first ")
        return [b"second"]

    assert call(hardened(app)).body == b"first second"


def test_what_is_behind_the_last_piece_runs(hardened: Make) -> None:
    ends: list[str] = []

    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            yield b"all"
            ends.append("generator")

        def close(self) -> None:
            ends.append("closed")

    app = hardened(answering(Pieces(), [*TEXT, ("Content-Length", "3")]))
    assert call(app).body == b"all"
    assert ends == ["generator", "closed"]


def test_a_crash_is_a_problem_with_its_id(hardened: Make) -> None:
    def crash(environ: Any, start: Any) -> list[bytes]:
        raise LookupError("a secret")

    response = call(hardened(crash))
    assert response.status == "500 Internal Server Error"
    assert response.headers["x-request-id"].encode() in response.body
    assert b"secret" not in response.body


def test_a_refusal_of_a_guard_is_503(hardened: Make) -> None:
    def refuse(environ: Any, start: Any) -> list[bytes]:
        raise CircuitOpenError("billing", retry_after=3.0)

    response = call(hardened(refuse))
    assert (response.status, response.headers["retry-after"]) == ("503 Service Unavailable", "3")


def test_probes_and_metrics_do_not_reach_the_application(hardened: Make) -> None:
    app = hardened(answering())
    assert call(app, path="/healthz/ready").status == OK
    call(app, path="/orders")
    assert b"http_server_requests_total" in call(app, path="/metrics").body


def test_callers_beyond_their_rate_are_refused(hardened: Make) -> None:
    app = hardened(answering(), HardenOptions(rate_limits=["2/hour per client"]))
    statuses = [call(app).status[:3] for _ in range(3)]
    assert statuses == ["200", "200", "429"]


def test_a_body_is_bounded_whatever_was_announced(hardened: Make) -> None:
    app = hardened(echo, HardenOptions(limits=TransferLimits(max_body_bytes=100_000)))
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    with every() as case:
        for name, more in (("announced", {}), ("chunked", chunked | {"CONTENT_LENGTH": ""})):
            with case(name):
                response = call_plainly(app, "POST", b"x" * 200_000, **more)
                # The phrase is another since Python 3.13.
                assert response.status[:3] == "413"
        with case("in bounds"):
            assert call_plainly(app, "POST", b"x" * 99_000, **chunked).body == b"99000"


def call_plainly(app: Any, method: str, body: bytes, **more: Any) -> Response:
    """Serve a request without the strict layer, which knows no body without a length."""
    response = Response()

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        response.status = status

    response.pieces = list(app(environ_of(method, "/", body, **more), start))
    return response


def test_a_body_that_was_cut_never_looks_whole(hardened: Make) -> None:
    bodies: list[bytes] = []

    def app(environ: Any, start: Any) -> list[bytes]:
        bodies.append(environ["wsgi.input"].read())
        start(OK, list(TEXT))
        return [b"stored"]

    environ = environ_of("POST", "/", b"half")
    environ["CONTENT_LENGTH"] = "8"
    with suppress(BrokenPipeError):
        list(hardened(app)(environ, no_start))
    assert bodies == []


def test_a_response_that_was_cut_never_looks_whole(hardened: Make) -> None:
    closed: list[bool] = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"half"
            raise LookupError
        finally:
            closed.append(True)

    response = hardened(answering(pieces()))(environ_of(), no_start)
    stream = iter(response)
    assert next(stream) == b"half"
    with pytest.raises(BrokenPipeError):
        next(stream)
    assert closed == [True]


def test_a_client_that_leaves_ends_the_application(hardened: Make) -> None:
    closed = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield b"on"
        finally:
            closed.set()

    app = hardened(answering(pieces()))
    stream: Any = iter(app(environ_of(), no_start))
    next(stream)
    stream.close()
    assert closed.is_set()
    wait_until(
        lambda: metric(app, "postfacta_stream_duration_seconds_count", outcome="left") == 1,
        "the client that left is not counted",
    )


def test_what_a_thread_begins_after_its_deadline_is_refused(hardened: Make) -> None:
    late = threading.Event()
    left: list[float] = []

    def app(environ: Any, start: Any) -> list[bytes]:
        request = current_request()
        assert request is not None
        assert late.wait(30)
        wait_until(lambda: request.deadline == request.started, "the request has not ended")
        deadline = current_deadline()
        left.append(-1.0 if deadline is None else deadline.remaining())
        start(OK, list(TEXT))
        return [b"too late"]

    def note(event: Event) -> None:
        if isinstance(event, DeadlineExceeded):
            late.set()

    telemetry = Telemetry()
    telemetry.observer = fan_out([telemetry.observer, note])
    response = call(hardened(app, telemetry=telemetry), HTTP_X_REQUEST_TIMEOUT="0.05")
    assert response.status == "504 Gateway Timeout"
    assert left[0] <= 0


def test_the_application_runs_in_the_context_of_its_thread(hardened: Make) -> None:
    def app(environ: Any, start: Any) -> list[bytes]:
        request = current_request()
        assert request is not None
        start(OK, list(TEXT))
        return [f"{SPAN.get()} {request.request_id}".encode()]

    SPAN.set("of the server")
    response = call(hardened(app), HTTP_X_REQUEST_ID="of-the-caller")
    assert response.body == b"of the server of-the-caller"


def test_the_id_is_handed_on_where_it_is_asked_for(hardened: Make) -> None:
    def app(environ: Any, start: Any) -> list[bytes]:
        start(OK, list(TEXT))
        return [environ.get("HTTP_X_REQUEST_ID", "none").encode()]

    asked = call(hardened(app, HardenOptions(request_id_header=True)))
    assert asked.body.decode() == asked.headers["x-request-id"]
    assert call(hardened(app)).body == b"none"


def test_the_path_is_what_the_client_sent(hardened: Make) -> None:
    def route_of(environ: Environ) -> str:
        return str(environ["SCRIPT_NAME"]) + "/{name}"

    app = hardened(answering(), route_of=route_of)
    call(app, path="/caf\xc3\xa9", SCRIPT_NAME="/shop")
    labels = {"http_route": "/shop/{name}", "http_response_status_code": "200"}
    wait_until(
        lambda: metric(app, "http_server_requests_total", **labels) == 1, "no request of the route"
    )


def test_a_resource_that_does_not_open_fails_the_request_alone(hardened: Make) -> None:
    opened: list[str] = []

    class Database:
        async def __aenter__(self) -> None:
            opened.append("tried")
            if len(opened) == 1:
                raise ConnectionRefusedError("no database")

        async def __aexit__(self, *error: object) -> None:
            opened.append("closed")

    app = hardened(answering(), resources=[Database()])
    with pytest.raises(ConnectionRefusedError):
        call(app)
    assert call(app).status == OK
    app.close()
    assert opened == ["tried", "tried", "closed"]


def test_what_is_no_wsgi_application_is_refused_where_it_is_given() -> None:
    async def of_asgi(scope: Any, receive: Any, send: Any) -> None: ...

    with every() as case:
        for name, app, rule in (
            ("nothing", None, "a WSGI application"),
            ("ASGI", of_asgi, "takes those of ASGI"),
            ("hardened", harden(echo, service="shop"), "not hardened yet"),
            ("hardened ASGI", harden_asgi(of_asgi, service="shop"), "not hardened yet"),
        ):
            with case(name), pytest.raises(ValueError, match=rule):
                harden(app, service="shop")  # type: ignore[arg-type]


def test_an_application_that_breaks_wsgi_is_a_crash(hardened: Make) -> None:
    def silent(environ: Any, start: Any) -> list[bytes]:
        return [b"no status"]

    def twice(environ: Any, start: Any) -> list[bytes]:
        start(OK, list(TEXT))
        start(OK, list(TEXT))
        return []

    with every() as case:
        for app in (silent, twice):
            with case(app.__name__):
                assert call(hardened(app)).status[:3] == "500"


def test_an_error_page_may_replace_what_has_not_begun(hardened: Make) -> None:
    error = LookupError("of a template")

    def app(environ: Any, start: Any) -> list[bytes]:
        start(OK, list(TEXT))
        start("500 Broken Page", list(TEXT), (LookupError, error, None))
        return [b"sorry"]

    response = call(hardened(app))
    assert (response.status, response.body) == ("500 Broken Page", b"sorry")
