"""The report and the gate, asked of a real Prometheus with thirty days behind it."""

from __future__ import annotations

# YAML is read without types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from postfacta_core.clock import WALL
from postfacta_lab.engine.processes import free_port
from postfacta_slo.promise.openslo import read
from postfacta_slo.rules.alerts import rules_of
from postfacta_slo.status import query
from tests.ops.prometheus import Prometheus, needs, scrape_config
from tests.ops.slo.history import EVERY, Series, write_blocks

ROOT = Path(__file__).parents[3]
OBJECTIVES = ROOT / "deploy/slo/postfacta.openslo.yaml"
POLICY = ROOT / "deploy/slo/policy.yaml"

pytestmark = [needs("prometheus"), needs("promtool"), pytest.mark.usefixtures("programs")]

MINUTE = 1 / 1440
# As days before the end: when which objective was bad, and for how long.
OUTAGES: dict[str, list[tuple[float, float]]] = {
    "availability": [(10.0, 120.0), (2.0, 87.5)],
    "latency-p95": [(20.0, 300.0)],
    "latency-p99": [],
}
# Nothing was recorded of this one before.
BEGAN = {"latency-p99": 10.0}
AIMS = {"availability": 0.99, "latency-p95": 0.99, "latency-p99": 0.99, "success-rate": 0.995}
ROUTES = {"/api/v1/incidents": 40, "/incidents/{ref}": 8, "/login": 0}


def _of(slo: str) -> dict[str, str]:
    return {"service": "postfacta", "slo": slo}


def _is_bad(slo: str, ago: float) -> float | None:
    if ago > BEGAN.get(slo, 99.0):
        return None
    return float(any(begin - minutes * MINUTE < ago <= begin for begin, minutes in OUTAGES[slo]))


def _constant(value: float) -> Callable[[float], float]:
    return lambda ago: value


def _each_day(count: int) -> Callable[[float], float]:
    return lambda ago: max(0.0, 30 - ago) // 1 * count


def _history() -> Iterator[Series]:
    """Grouped by name, as promtool wants them."""
    for slo, aim in AIMS.items():
        yield Series("slo:objective:ratio", _of(slo), _constant(aim))
    for slo in AIMS:
        yield Series(
            "slo:time_period:days", _of(slo), _constant(1 / 24 if slo == "success-rate" else 30.0)
        )
    for slo in OUTAGES:
        yield Series("slo:slice_bad:bool", _of(slo), partial(_is_bad, slo))
    yield Series("slo:slice_judged:bool", _of("latency-p95"), lambda ago: float(ago % 1 < 0.75))
    # Twice as many requests in the older half, of which each hundredth fails; none in the newer
    # half.
    yield Series("slo:sli_bad:rate5m", _of("success-rate"), lambda ago: 0.2 if ago > 15 else 0.0)
    yield Series(
        "slo:sli_total:rate5m", _of("success-rate"), lambda ago: 20.0 if ago > 15 else 10.0
    )
    yield Series("slo:period_ok:bool", _of("success-rate"), lambda ago: float(ago <= 15))
    yield Series("slo:sli_error:ratio_rate6h", _of("availability"), _constant(0.02))
    for route, count in ROUTES.items():
        status = "500" if count else "200"
        labels = {
            "job": "postfacta",
            "traffic": "user",
            "http_route": route,
            "http_request_method": "GET",
            "http_response_status_code": status,
            "error_type": status if count else "",
        }
        yield Series("http_server_requests_total", labels, _each_day(count))


@pytest.fixture(scope="module")
def prometheus(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("month")
    write_blocks(folder, list(_history()), int(WALL()) // EVERY * EVERY)
    with Prometheus(folder, scrape_config({}), keep="90d") as running:
        yield running


def slo(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "postfacta_slo", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def reported(prometheus: Prometheus, *words: str) -> dict[str, Any]:
    done = slo("report", "--prometheus", prometheus.url, "--format", "json", *words)
    assert done.returncode == 0, done.stderr
    return {one["slo"]: one for one in json.loads(done.stdout)["objectives"]}


def policy(tmp_path: Path, **changes: object) -> str:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(POLICY.read_text()) | changes))
    return str(file)


def test_a_month_is_reported_as_it_was(prometheus: Prometheus) -> None:
    found = reported(prometheus)
    assert [*found] == ["availability", "latency-p95", "latency-p99", "success-rate"]
    availability = found["availability"]
    assert availability["coverage"] > 0.999
    # 207.5 of 432 minutes. A sample more or less is 2.5 minutes.
    assert availability["remaining_ratio"] == pytest.approx(1 - 207.5 / 432, abs=0.01)
    assert availability["budget"] == pytest.approx(432)
    assert availability["burn"] == pytest.approx({"6h": 2.0})
    assert availability["exhausted_in_seconds"] == pytest.approx(
        availability["remaining_ratio"] * 30 * 86_400 / 2.0
    )
    assert found["latency-p95"]["remaining_ratio"] == pytest.approx(1 - 300 / 432, abs=0.01)
    assert found["latency-p95"]["judged"] == pytest.approx(0.75, abs=0.001)


def test_busy_hours_weigh_more_than_quiet_ones(prometheus: Prometheus) -> None:
    success = reported(prometheus, "--slo", "success-rate")["success-rate"]
    # 0.2 of 20 a second failed for half of the time: 0.1 of 15 in the mean.
    assert success["achieved"] == pytest.approx(1 - 0.1 / 15, abs=1e-5)
    assert success["total"] == pytest.approx(15 * 30 * 86_400, rel=0.001)
    assert success["remaining_ratio"] == pytest.approx(1 - 0.1 / 15 / 0.005, abs=0.01)
    assert success["hours"]["known"] == pytest.approx(720, abs=1)
    assert success["hours"]["met"] == pytest.approx(360, abs=1)


def test_what_was_recorded_for_a_third_of_the_window_is_no_figure(prometheus: Prometheus) -> None:
    whole = reported(prometheus)["latency-p99"]
    assert whole["sufficient"] is False
    assert whole["coverage"] == pytest.approx(1 / 3, abs=0.001)
    assert "achieved" not in whole
    week = reported(prometheus, "--window", "7d")["latency-p99"]
    assert (week["sufficient"], week["achieved"]) == (True, 1.0)


def test_with_the_file_of_objectives_it_says_where_most_failed(prometheus: Prometheus) -> None:
    found = reported(prometheus, "--file", str(OBJECTIVES))["success-rate"]["failures"]
    assert [*found] == ["/api/v1/incidents", "/incidents/{ref}"]
    # Each day so many, for 30 days; what the first sample already counts is no increase.
    assert found["/api/v1/incidents"] == pytest.approx(30 * 40, rel=0.05)


@pytest.mark.parametrize(
    ("form", "told"),
    [("text", "insufficient data"), ("md", "## postfacta / availability: 99 %"), ("html", "<svg")],
)
def test_each_format_is_made_of_it(prometheus: Prometheus, form: str, told: str) -> None:
    done = slo("report", "--prometheus", prometheus.url, "--format", form)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


@pytest.mark.parametrize(
    ("window", "level", "code"),
    [("30d", "normal", 0), ("7d", "restricted", 3), ("3d", "exhausted", 4)],
)
def test_the_gate_opens_and_closes_by_what_is_left(
    prometheus: Prometheus, tmp_path: Path, window: str, level: str, code: int
) -> None:
    file = policy(tmp_path, objectives=["availability"], window=window)
    done = slo("budget", "--prometheus", prometheus.url, "--policy", file, "--check")
    assert (done.returncode, done.stdout.split(":")[0]) == (code, level), done.stderr


def test_the_gate_of_our_own_policy_is_closed_while_one_objective_is_not_measured(
    prometheus: Prometheus,
) -> None:
    done = slo("budget", "--prometheus", prometheus.url, "--policy", str(POLICY), "--check")
    assert done.returncode == 2
    assert "latency-p99: 33% of the window is recorded" in done.stdout


@pytest.mark.usefixtures("programs")
def test_without_an_answer_there_is_no_data_and_no_trace(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = slo("budget", "--prometheus", url, "--policy", str(POLICY), "--check")
    assert (done.returncode, done.stderr) == (2, "")
    assert "Connection refused" in done.stdout
    done = slo("report", "--prometheus", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"slo: cannot ask {url}: Connection refused\n"


@pytest.mark.usefixtures("programs")
def test_an_invalid_policy_is_reported_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("levels: [")
    done = slo("budget", "--prometheus", "http://127.0.0.1:1", "--policy", str(file), "--check")
    assert done.returncode == 1
    assert str(file) in done.stderr


def test_all_that_is_asked_is_recorded_by_the_generated_rules() -> None:
    """What is not recorded would be reported as no data, for ever."""
    model = read(yaml.safe_load_all(OBJECTIVES.read_text()))
    recorded = {
        rule["record"]
        for group in rules_of(model)["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    asked = {*re.findall(r"slo:[a-z_]+:[a-z0-9_]+", Path(query.__file__).read_text())}
    asked |= {"slo:slice_bad:bool", "slo:sli_bad:rate5m", "slo:sli_total:rate5m"}
    asked |= {f"slo:sli_error:ratio_rate{window}" for window in ("1h", "6h", "3d")}
    assert asked <= recorded, asked - recorded
