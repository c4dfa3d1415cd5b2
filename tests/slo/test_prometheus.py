"""What is asked of a Prometheus, and what becomes of answers that no sound one would give."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs

import pytest

from postfacta_slo.status import prometheus
from postfacta_slo.status.prometheus import Line, Point, Prometheus, PrometheusError, check_address
from tests.kit.every import every

Answer = Callable[[BaseHTTPRequestHandler, str], None]


@contextmanager
def server(answer: Answer) -> Generator[str]:
    """Answer each POST, and each GET, by a function that gets its form, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self, self.rfile.read(int(self.headers["Content-Length"])).decode())

        def do_GET(self) -> None:
            answer(self, "")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def sending(body: str, status: int = 200, **headers: str) -> Answer:
    def answer(to: BaseHTTPRequestHandler, form: str) -> None:
        to.send_response(status)
        for name, value in headers.items():
            to.send_header(name, value)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body.encode())

    return answer


def vector(*values: tuple[str, str]) -> str:
    result = [{"metric": {"slo": name}, "value": [1000.5, text]} for name, text in values]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


def test_a_question_is_asked_as_it_is_meant_and_its_answer_read() -> None:
    asked: list[tuple[str, dict[str, list[str]]]] = []

    def answer(to: BaseHTTPRequestHandler, form: str) -> None:
        asked.append((to.path, parse_qs(form)))
        sending(vector(("a", "0.25"), ("b", "+Inf")))(to, form)

    with server(answer) as url:
        found = Prometheus(f"{url}/below/").instant('up{job="a+b&c"}', at=1000.5)
    assert found == [Point({"slo": "a"}, 0.25), Point({"slo": "b"}, float("inf"))]
    assert asked == [("/below/api/v1/query", {"query": ['up{job="a+b&c"}'], "time": ["1000.5"]})]


def test_what_is_not_a_number_is_left_out() -> None:
    with server(sending(vector(("a", "NaN"), ("b", "1")))) as url:
        assert Prometheus(url).instant("x") == [Point({"slo": "b"}, 1.0)]


def test_a_scalar_is_a_point_without_labels() -> None:
    body = '{"status": "success", "data": {"resultType": "scalar", "result": [1, "42"]}}'
    with server(sending(body)) as url:
        assert Prometheus(url).instant("42") == [Point({}, 42.0)]


def test_a_line_has_its_points_in_order_and_gaps_where_nothing_is_known() -> None:
    series: dict[str, object] = {"metric": {}, "values": [[60, "1"], [120, "NaN"], [180, "3"]]}
    body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": [series]}})
    forms: list[str] = []

    def answer(to: BaseHTTPRequestHandler, form: str) -> None:
        forms.append(form)
        sending(body)(to, form)

    with server(answer) as url:
        found = Prometheus(url).over_time("x", start=60, end=180, step=60)
    assert found == [Line({}, [(60, 1.0), (180, 3.0)])]
    assert parse_qs(forms[0]) == {"query": ["x"], "start": ["60"], "end": ["180"], "step": ["60"]}


@pytest.mark.parametrize(
    ("credentials", "token", "sent"),
    [
        ("", "", None),
        ("ada:p%40ss@", "", "Basic " + base64.b64encode(b"ada:p@ss").decode()),
        ("ada@", "", "Basic " + base64.b64encode(b"ada:").decode()),
        ("", "t0ken", "Bearer t0ken"),
    ],
)
def test_credentials_are_sent_and_not_shown(credentials: str, token: str, sent: str | None) -> None:
    seen: list[str | None] = []

    def answer(to: BaseHTTPRequestHandler, form: str) -> None:
        seen.append(to.headers["Authorization"])
        sending("no", 403)(to, form)

    with server(answer) as url:
        asked = Prometheus(url.replace("//", f"//{credentials}"), token=token)
        with pytest.raises(PrometheusError, match="403 Forbidden") as caught:
            asked.instant("x")
    assert seen == [sent]
    assert asked.name == url
    assert not any(secret in str(caught.value) for secret in ("p@ss", "p%40ss", "ada", "t0ken"))


def test_redirects_are_not_followed() -> None:
    reached: list[str] = []

    def catch(to: BaseHTTPRequestHandler, form: str) -> None:
        reached.append(to.path)

    with (
        server(catch) as elsewhere,
        server(sending("", 302, Location=elsewhere)) as url,
        pytest.raises(PrometheusError, match="answers 302"),
    ):
        Prometheus(url.replace("//", "//ada:secret@")).instant("x")
    assert reached == []


def test_an_answer_that_is_of_no_use_says_why_in_one_line() -> None:
    cases: list[tuple[str, int, str]] = [
        (
            '{"status": "error", "errorType": "bad_data", "error": "no such thing"}',
            400,
            "bad_data: no such thing",
        ),
        (
            '{"status": "error", "errorType": "timeout", "error": "' + "x" * 999 + '"}',
            503,
            "timeout: xxx",
        ),
        ('{"status": "error"}', 400, "is the address right"),
        ("<html>bad gateway</html>", 502, "answers 502 Bad Gateway"),
        ("<html>a welcome</html>", 200, "is the address right"),
        ("[]", 200, "is the address right"),
        ('{"status": "success"}', 200, "is the address right"),
        ('{"status": "success", "data": {"result": []}}', 200, "is the address right"),
        (
            '{"status": "success", "data": {"resultType": "vector", "result": [{}]}}',
            200,
            "is the address right",
        ),
        (
            '{"status": "success", "data": {"resultType": "vector", "result": 7}}',
            200,
            "is the address right",
        ),
    ]
    with every() as case:
        for body, status, told in cases:
            with case(body, status, told):
                with (
                    server(sending(body, status)) as url,
                    pytest.raises(PrometheusError, match=told) as caught,
                ):
                    Prometheus(url).instant("x")
                assert len(str(caught.value)) < 500


def test_a_line_that_is_no_line_is_of_no_use_either() -> None:
    body = '{"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[1]]}]}}'
    with server(sending(body)) as url, pytest.raises(PrometheusError, match="is the address right"):
        Prometheus(url).over_time("x", start=0, end=1, step=1)


def test_an_answer_is_not_read_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_MOST_BYTES", 1000)
    with (
        server(sending("x" * 1001)) as url,
        pytest.raises(PrometheusError, match="more than 1000 bytes"),
    ):
        Prometheus(url).instant("x")


def test_a_dead_server_is_reported_without_a_trace() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        PrometheusError, match=f"cannot ask http://127.0.0.1:{port}: Connection refused"
    ):
        Prometheus(f"http://127.0.0.1:{port}").instant("x")


def test_one_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = Prometheus(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.05)
        with pytest.raises(PrometheusError, match="did not answer in time"):
            asked.instant("x")


def test_one_that_sends_a_byte_now_and_then_is_given_up_too() -> None:
    """Each byte comes in time; the given clock says that all of them together do not."""
    moments: Iterator[int] = count(step=4)

    with server(sending(vector(("a", "1")))) as url:
        asked = Prometheus(url, timeout=4, clock=lambda: float(next(moments)))
        with pytest.raises(PrometheusError, match="did not answer in time"):
            asked.instant("x")


def test_a_truncated_answer_is_reported() -> None:
    def answer(to: BaseHTTPRequestHandler, form: str) -> None:
        to.wfile.write(b"nonsense\r\n\r\n")

    with server(answer) as url, pytest.raises(PrometheusError, match="cannot ask"):
        Prometheus(url).instant("x")


@pytest.mark.parametrize(
    "url", ["http://localhost:9090", "https://ada:secret@metrics.example/below"]
)
def test_an_address_may_have_a_path_and_a_password(url: str) -> None:
    assert check_address(f" {url}/ ") == url


def test_what_is_no_address_is_refused_and_not_repeated() -> None:
    cases = [
        "",
        "localhost:9090",
        "file:///etc/passwd",
        "http://",
        "http://h:port",
        "http://h:0",
        "http://a b",
        "http://h/?q=1",
        "http://h/#x",
    ]
    with every() as case:
        for url in cases:
            with case(url):
                with pytest.raises(ValueError, match="of a Prometheus") as caught:
                    check_address(url.replace("//", "//ada:hunter2@"))
                assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan")])
def test_a_question_without_any_time_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="needs some time"):
        Prometheus("http://localhost", timeout=timeout)
