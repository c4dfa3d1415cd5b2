"""A session of requests is guarded as a client of httpx is, by a real server."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from requests.adapters import HTTPAdapter

from postfacta_adapters.httpx import Outgoing
from postfacta_core.backoff import Backoff
from postfacta_core.errors import CircuitOpenError, DeadlineExceededError
from postfacta_core.events import HttpCallFinished
from postfacta_core.guards._circuit import CircuitConfig
from postfacta_core.guards.breaker import CircuitBreaker
from postfacta_core.guards.retry import Retry
from postfacta_core.guards.timeout import Timeout
from postfacta_core.testing import RecordingObserver
from tests.adapters.test_httpx import request


@dataclass
class Upstream:
    """A server: `/N` answers status N, `/busy` refuses once, `/slow` answers when it may."""

    url: str = ""
    seen: list[tuple[str, dict[str, str], bytes]] = field(
        default_factory=list[tuple[str, dict[str, str], bytes]]
    )
    may_answer: threading.Event = field(default_factory=threading.Event)

    def status(self, path: str) -> int:
        if path == "/slow":
            self.may_answer.wait(60)
        if path == "/busy":
            return 429 if len(self.seen) == 1 else 200
        return int(path[1:]) if path[1:].isdigit() else 200


@pytest.fixture
def upstream() -> Generator[Upstream]:
    service = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            service.seen.append((self.command, headers, self.rfile.read(length)))
            with suppress(ConnectionError):
                self.send_response(service.status(self.path))
                self.send_header("retry-after", "0")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - its own names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield service
    service.may_answer.set()
    server.shutdown()
    server.server_close()
    thread.join()


def session_of(outgoing: Outgoing) -> requests.Session:
    session = requests.Session()
    session.mount("http://", outgoing.adapter(HTTPAdapter()))
    return session


def retry(attempts: int = 3) -> Retry:
    return Retry("billing", attempts=attempts, backoff=Backoff(base=0.001, cap=0.001))


def test_a_session_passes_on_the_present_request(upstream: Upstream) -> None:
    observer = RecordingObserver()
    with session_of(Outgoing("billing", observer=observer)) as session, request(60):
        answer = session.get(f"{upstream.url}/200", params={"n": 7})
        assert (answer.status_code, answer.json()) == (200, {})
    ((method, headers, _),) = upstream.seen
    assert method == "GET"
    assert headers["x-request-id"] == "request-id"
    assert 0 < float(headers["x-request-timeout"]) < 60
    (finished,) = observer.of(HttpCallFinished)
    assert (finished.status, finished.address, finished.error_type) == (200, "127.0.0.1", "")


@pytest.mark.parametrize(
    ("method", "path", "body", "tries"),
    [
        ("GET", "/500", None, 3),
        ("POST", "/500", b"x", 1),
        ("POST", "/busy", b"x", 2),
        ("PUT", "/500", b"x", 3),
        ("GET", "/500", iter([b""]), 1),
    ],
)
def test_a_request_is_sent_again_only_if_that_is_safe(
    upstream: Upstream, method: str, path: str, body: bytes | Iterator[bytes] | None, tries: int
) -> None:
    with session_of(Outgoing("billing", retry())) as session:
        answer = session.request(method, upstream.url + path, data=body)
    assert answer.status_code == (200 if path == "/busy" else 500)
    assert [(seen[0], seen[2]) for seen in upstream.seen] == [
        (method, body if isinstance(body, bytes) else b"")
    ] * tries


def test_nothing_sent_is_sent_again_whatever_the_method_is() -> None:
    observer = RecordingObserver()
    with (
        session_of(Outgoing("billing", retry(), observer=observer)) as session,
        pytest.raises(requests.ConnectionError),
    ):
        session.post("http://127.0.0.1:1/", data=b"x")
    assert len(observer.of(HttpCallFinished)) == 3


def test_an_open_circuit_is_an_error_of_the_session(upstream: Upstream) -> None:
    circuit = CircuitBreaker("billing", config=CircuitConfig(minimum_number_of_calls=1))
    with session_of(Outgoing("billing", circuit)) as session:
        assert session.get(f"{upstream.url}/500").status_code == 500
        with pytest.raises(requests.RequestException) as caught:
            session.get(f"{upstream.url}/200")
    assert isinstance(caught.value, CircuitOpenError)
    assert caught.value.response is None
    assert caught.value.request is not None
    assert str(caught.value) == str(CircuitOpenError(*caught.value.args))
    copied = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - it was just written
    assert type(copied) is CircuitOpenError
    assert len(upstream.seen) == 1


def test_a_wait_ends_with_the_time_of_the_request(upstream: Upstream) -> None:
    with (
        session_of(Outgoing("billing")) as session,
        request(0.2),
        pytest.raises(requests.Timeout) as caught,
    ):
        session.get(f"{upstream.url}/slow", timeout=60)
    assert isinstance(caught.value, DeadlineExceededError)
    assert isinstance(caught.value.__cause__, requests.ReadTimeout)


def test_a_time_of_the_session_that_is_shorter_stays(upstream: Upstream) -> None:
    with (
        session_of(Outgoing("billing")) as session,
        request(60),
        pytest.raises(requests.ReadTimeout) as caught,
    ):
        session.get(f"{upstream.url}/slow", timeout=(60, 0.05))
    assert not isinstance(caught.value, DeadlineExceededError)


def test_without_time_left_nothing_is_sent(upstream: Upstream) -> None:
    with (
        session_of(Outgoing("billing")) as session,
        request(0),
        pytest.raises(DeadlineExceededError) as caught,
    ):
        session.get(f"{upstream.url}/200")
    assert isinstance(caught.value, requests.Timeout)
    assert upstream.seen == []


def test_a_streamed_body_is_the_sessions(upstream: Upstream) -> None:
    with (
        session_of(Outgoing("billing")) as session,
        session.get(f"{upstream.url}/200", stream=True) as answer,
    ):
        assert b"".join(answer.iter_content(1)) == b"{}"


def test_what_no_session_can_do_is_refused() -> None:
    with pytest.raises(TypeError, match="a sync client needs guards of plain functions"):
        Outgoing("billing", Timeout(5)).adapter(HTTPAdapter())
    with pytest.raises(TypeError, match="leave out first, idle and counts"):
        Outgoing("billing", first=5).adapter(HTTPAdapter())


def test_what_is_no_adapter_is_refused() -> None:
    with pytest.raises(TypeError, match="needs an adapter, such as HTTPAdapter"):
        Outgoing("billing").adapter(object())


def test_a_timeout_that_is_no_number_is_refused(upstream: Upstream) -> None:
    from urllib3 import Timeout as Waits  # noqa: PLC0415 - this test alone

    with (
        session_of(Outgoing("billing")) as session,
        pytest.raises(TypeError, match="needs its timeout in seconds"),
    ):
        session.get(f"{upstream.url}/200", timeout=Waits(3))  # type: ignore[arg-type]
    assert upstream.seen == []
