"""`postfacta lab advise` finds the figures of a known load, and advises nothing of what it cannot know."""

from __future__ import annotations

import json
import math
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from postfacta_core.telemetry.catalogue import INSTRUMENTS, POLICY_METRICS
from postfacta_lab.__main__ import main
from postfacta_lab.advise.advice import NAMES, Advice, as_toml
from postfacta_lab.advise.figures import Histogram
from postfacta_lab.load.gate import Sample, row

DURATIONS = "http_server_request_duration_seconds"
CALLS = "http_client_request_duration_seconds"
ROUTE = 'http_request_method="GET",http_route="/invoices/{id}",traffic="user"'
ANSWERED = f'{ROUTE},outcome="2xx"'
BILLING = 'error_type="",server_address="billing.internal",server_port="90"'
POOL = 'db_client_connection_pool_name="main"'
MOMENTS = "process_start_time_seconds 1000\nhttp_last_request_received_time 1100\n"


def histogram(name: str, labels: str, *buckets: tuple[str, int]) -> str:
    lines = [f'{name}_bucket{{{labels},le="{bound}"}} {count}' for bound, count in buckets]
    return "\n".join([*lines, ""])


def loans(count: int, total: float) -> str:
    use = "db_client_connection_use_time_seconds"
    most = f"db_client_connection_max{{{POOL}}} 20\n"
    return f"{use}_count{{{POOL}}} {count}\n{use}_sum{{{POOL}}} {total}\n{most}"


SLOW = histogram(
    DURATIONS, ANSWERED, ("0.5", 4000), ("2.5", 9995), ("10", 10_000), ("+Inf", 10_000)
)
QUICK = histogram(CALLS, BILLING, ("0.05", 940), ("0.1", 955), ("0.5", 995), ("+Inf", 1000))
GUARDS = (
    'postfacta_breaker_state{breaker="billing",state="open"} 0\n'
    'postfacta_hedge_attempts_total{operation="reads",outcome="first"} 0\n'
)


class Advising:
    """Runs the command on texts, and keeps what it printed and wrote."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.file = folder / "numbers.toml"

    def __call__(self, text: str | bytes, *options: str) -> tuple[int, str]:
        source = self.folder / "source"
        source.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self.run(str(source), *options)

    def run(self, *words: str) -> tuple[int, str]:
        code = main(["advise", *words, "--toml", str(self.file)])
        printed = self.capsys.readouterr()
        return code, printed.out + printed.err

    @property
    def numbers(self) -> dict[str, Any]:
        return tomllib.loads(self.file.read_text())


@pytest.fixture
def advising(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Advising:
    return Advising(tmp_path, capsys)


def test_a_request_may_take_its_longest_in_a_thousand(advising: Advising) -> None:
    code, printed = advising(SLOW)
    assert code == 0
    assert "p99.9 of 10,000: at most 2.5 s" in printed
    assert advising.numbers == {"routes": {"GET /invoices/{id}": {"request_timeout": 2.5}}}


def test_no_time_out_is_shorter_than_a_pause_of_the_process(advising: Advising) -> None:
    advising(histogram(DURATIONS, ANSWERED, ("0.005", 9000), ("+Inf", 9000)))
    assert advising.numbers["routes"]["GET /invoices/{id}"]["request_timeout"] == 1.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (histogram(DURATIONS, ANSWERED, ("1", 40), ("+Inf", 40)), "too few: 40 of 5,000"),
        (histogram(DURATIONS, ANSWERED, ("1", 40), ("+Inf", 9000)), "above the last bucket"),
        (SLOW + f'http_server_requests_total{{{ROUTE},http_response_status_code="504"}} 12\n', "12 of 10,012"),
        (loans(99, 5.0) + MOMENTS, "too few: 99 of 100"),
        (loans(100, 5.0), "how long its loans were counted is not known"),
        ('postfacta_ratelimit_decisions_total{policy="api",decision="limited"} 3\n', "3 of 3 limited"),
    ],
)  # fmt: skip
def test_what_is_not_known_has_no_number(advising: Advising, text: str, why: str) -> None:
    code, printed = advising(text)
    assert code == 2, printed
    assert why in printed
    assert advising.numbers == {}
    assert why in advising.file.read_text()


def test_streams_and_synthetic_requests_do_not_count(advising: Advising) -> None:
    others = ("stream", "user"), ("2xx", "synthetic"), ("5xx", "user")
    more = "".join(
        histogram(
            DURATIONS,
            f'{ROUTE.replace("user", traffic)},outcome="{outcome}"',
            *(("2.5", 0), ("10", 90_000), ("+Inf", 90_000)),
        )
        for outcome, traffic in others
    )
    advising(SLOW + more)
    assert advising.numbers["routes"]["GET /invoices/{id}"]["request_timeout"] == 2.5


def test_guards_get_the_percentiles_of_their_dependency(advising: Advising) -> None:
    code, printed = advising(QUICK + GUARDS, "--guard", "reads=billing.internal:90")
    assert code == 0, printed
    assert advising.numbers["guards"] == {
        "breaker": {"billing": {"slow_call_duration": 0.5}},
        "hedge": {"reads": {"delay": 0.1}},
    }


def test_what_takes_no_time_is_hedged_at_once(advising: Advising) -> None:
    calls = histogram(CALLS, BILLING, ("0", 1000), ("0.1", 1000), ("+Inf", 1000))
    advising(calls + 'postfacta_hedge_attempts_total{operation="billing"} 0\n')
    assert advising.numbers["guards"]["hedge"]["billing"] == {"delay": 0.0}


def test_a_method_that_no_route_has_is_left_out(advising: Advising) -> None:
    advising(SLOW + SLOW.replace("GET", "_OTHER"))
    assert [*advising.numbers["routes"]] == ["GET /invoices/{id}"]


def test_a_dependency_without_a_guard_is_a_remark(advising: Advising) -> None:
    _, printed = advising(QUICK)
    assert "billing.internal:90" in printed
    assert advising.numbers == {}
    assert "# billing.internal:90 delay = 0.1: p95 of 1,000" in advising.file.read_text()


def test_a_pool_has_room_for_what_is_busy(advising: Advising) -> None:
    # 10,000 loans of 0.065 s in 100 s: 6.5 are busy, which are 65 % of 10.
    _, printed = advising(loans(10_000, 650.0) + MOMENTS)
    assert "6.50 busy on average, of 20: 10,000 loans in 100 s" in printed
    assert printed.split()[:4] == ["pool", "main", "size", "10"]


def test_of_two_workers_the_busiest_and_the_oldest_count(advising: Advising) -> None:
    workers = [
        loans(count, total).replace(POOL, f'{POOL},worker="{worker}"')
        for worker, count, total in ((1, 10_000, 650.0), (2, 200, 1.0))
    ]
    starts = 'process_start_time_seconds{worker="2"} 1060\n' + MOMENTS
    _, printed = advising("".join([*workers, starts]))
    assert "6.50 busy on average, of 20: 10,000 loans in 100 s" in printed


def test_an_earlier_scrape_is_left_out(advising: Advising) -> None:
    before = advising.folder / "before"
    before.write_text(loans(9000, 10.0) + "http_last_request_received_time 1080\n")
    _, printed = advising(loans(10_000, 140.0) + MOMENTS, "--since", str(before))
    assert "6.50 busy on average, of 20: 1,000 loans in 20 s" in printed


def test_a_report_of_load_has_exact_percentiles(advising: Advising) -> None:
    latencies = [0.1] * 5990 + [3.21] * 10
    samples = [Sample("GET /invoices/7", 0.0, 0.0, latency) for latency in latencies]
    figures = row("GET /invoices/7", samples)
    rows = [
        {"route": name, "count": 6000, "failed": 0, "p999": figures.p999}
        for name in ("all", "GET /invoices/7", "search")
    ]
    code, printed = advising(json.dumps({"rows": rows}))
    assert code == 0, printed
    assert advising.numbers == {"routes": {"GET /invoices/7": {"request_timeout": 3.3}}}
    assert "# search request_timeout = 3.3" in advising.file.read_text()
    rows[1]["failed"] = 10
    code, printed = advising(json.dumps({"rows": rows[:2]}))
    assert code == 2
    assert "10 of 6,000 failed" in printed


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has nothing that was measured"),
        ("# TYPE up gauge\nup 1\n", "has nothing that was measured"),
        ("<html><body>404</body></html>", "is no text of Prometheus's metrics"),
        ("\x00\x01\x02", "is no text of Prometheus's metrics"),
        (b"\xff\xfe\x00", "is no text"),
        (SLOW.replace("9995", "NaN"), "is nan, and no number"),
        (SLOW.replace("9995", "-1"), "is -1, and no number"),
        (SLOW.replace("9995", "3000"), "counts of its buckets fall"),
        (SLOW.replace('"+Inf"', '"20"'), "last bucket is missing"),
        (SLOW.replace('"2.5"', '"quick"'), "whose bound is quick"),
        ("{}", "is no report of this version's"),
        ('{"rows": [{"route": "x", "count": 1, "failed": 0, "p999": NaN}]}', "figures that no run has"),
        ('{"rows": 7}', "is no report of this version's"),
        ("{", "Expecting property name"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_a_harmful_source_is_refused_in_one_sentence(
    advising: Advising, text: str | bytes, complaint: str
) -> None:
    code, printed = advising(text)
    assert code == 3
    assert complaint in printed
    assert printed.count("\n") == 1
    assert len(printed) < 400
    assert not advising.file.exists()


def test_a_restart_between_two_scrapes_is_refused(advising: Advising) -> None:
    before = advising.folder / "before"
    before.write_text(SLOW)
    for after in (SLOW.replace("9995", "8000"), QUICK):
        code, printed = advising(after, "--since", str(before))
        assert code == 3
        assert "the service was restarted between the two scrapes" in printed


def test_a_wrong_command_names_what_is_wrong(
    advising: Advising, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_lab.advise.command._MOST_BYTES", 1000)
    for words, complaint in (
        (("missing",), "No such file"),
        (("http://127.0.0.1:1/metrics",), "refused"),
        ((str(advising.folder),), "Is a directory"),
    ):
        code, printed = advising.run(*words)
        assert (code, complaint in printed) == (3, True), printed
    code, printed = advising(QUICK, "--guard", "billing")
    assert "--guard must be such as billing=billing.internal:8080" in printed
    code, printed = advising("#" * 1001)
    assert "more than 1,000 bytes" in printed


@pytest.fixture
def metrics_address() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.headers["Authorization"] == "Bearer a token"
            self.send_response(200 if is_known else 401)
            self.end_headers()
            self.wfile.write(SLOW.encode())

        def log_message(self, *args: object, **kwargs: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_the_file_is_written_only_if_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "metrics.txt"
    limits = "postfacta_ratelimit_decisions_total"
    source.write_text(
        f'{SLOW}{limits}{{policy="api",decision="allowed"}} 90\n'
        f'{limits}{{policy="sign-in",decision="limited"}} 9\n'
    )
    assert main(["advise", str(source)]) == 0
    assert "0 of 90 limited" in capsys.readouterr().out
    assert [*tmp_path.iterdir()] == [source]


def test_an_address_is_read_with_the_token(
    advising: Advising, metrics_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = advising.run(metrics_address)
    assert code == 3
    assert "401" in printed
    monkeypatch.setenv("TOKEN", "a token")
    code, printed = advising.run(metrics_address)
    assert code == 0, printed


def test_each_series_exists_in_the_catalogue() -> None:
    known = {*INSTRUMENTS, *POLICY_METRICS, "process_start_time_seconds"}
    assert set(NAMES) <= known


@given(st.text(), st.text(), st.floats(0.0, 1e9))
def test_any_name_is_a_key_of_the_file(name: str, why: str, value: float) -> None:
    name = name.encode("utf-8", "replace").decode()
    why = why.encode("utf-8", "replace").decode()
    table = ("guards", "hedge", name)
    advices = [
        Advice("hedge", "delay", value, why, table),
        Advice("hedge", "delay", value / 2, why, table),
        Advice(name, "delay", None, why),
    ]
    assert tomllib.loads(as_toml(advices)) == {"guards": {"hedge": {name: {"delay": value}}}}


@given(
    st.lists(st.floats(0.001, 20.0), min_size=1, max_size=200), st.sampled_from((0.5, 0.95, 0.99))
)
def test_a_percentile_is_never_below_the_exact_one(values: list[float], share: float) -> None:
    bounds = (0.01, 0.1, 1.0, 10.0, math.inf)
    buckets = Histogram([(bound, sum(value <= bound for value in values)) for bound in bounds])
    exact = sorted(values)[math.ceil(round(share * len(values), 6)) - 1]
    assert buckets.percentile(share) == min(bound for bound in bounds if bound >= exact)
