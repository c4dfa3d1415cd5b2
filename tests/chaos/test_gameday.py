"""The game day holds in its short form; its table, its rules and its faults fit together."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml

from chaos.durations import seconds
from chaos.gameday.__main__ import main
from chaos.gameday.day import RUNBOOKS
from chaos.gameday.faults import FAULTS
from chaos.gameday.rows import TableError, alerts_of, read_table
from chaos.gameday.site import missing_programs, write_rules
from chaos.prometheus import RULES, Prometheus, make_history
from postfacta_lab.engine.processes import wait_until

SHORT = ("--compress", "20", "--calm", "15")
ROWS = ("proxy-killed", "error-burst")


def needs_programs() -> None:
    """Skip without the programs, but never where everything must be there."""
    if missing := missing_programs():
        if os.environ.get("TEST_REQUIRE_ALL"):
            pytest.fail(f"{', '.join(missing)} is not installed")
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.mark.long
def test_two_faults_fire_their_own_alerts_and_calm_fires_none(tmp_path: Path) -> None:
    needs_programs()
    code = main([*ROWS, *SHORT, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "gameday.json").read_text())
    assert {row["name"]: row["reasons"] for row in found["rows"]} == {name: [] for name in ROWS}
    assert found["calm"]["reasons"] == []
    assert (code, found["verdict"], found["noise"]) == (0, "pass", 0)
    assert found["calm"]["watchdog"] > 0
    assert found["notifications"] >= len(ROWS)
    assert all(row["users"]["requests"] > 0 for row in found["rows"])
    burst = found["rows"][1]
    assert burst["users"]["failed"] > 0
    assert burst["findings"][0]["severity"] == "page"
    assert "<svg" in (tmp_path / "report.html").read_text()
    # And a PostFacta out of their reach has made an incident of it.
    kept = (tmp_path / "incident.md").read_text()
    assert f"Caused {ROWS[0]}: SIGKILL to HAProxy" in kept
    fired = {row["findings"][0]["alert"].partition(" (")[0] for row in found["rows"]}
    assert [name for name in fired if kept.count(name) < 2] == []  # It fired, and it was resolved.
    assert found["incident"]["entries"] >= 2 * len(ROWS) + 2 * len(fired)


def test_each_alert_is_caused_by_a_row_or_says_why_not() -> None:
    table = read_table()
    expected = {pattern.alert for row in table.rows for pattern in row.expect}
    assert expected | set(table.not_caused) == alerts_of(sorted(RULES.glob("*.yml")))
    assert not expected & set(table.not_caused)
    assert all(len(reason) > 10 for reason in table.not_caused.values())


def test_each_row_names_a_fault_and_a_runbook_that_exist() -> None:
    rows = read_table().rows
    assert {row.fault for row in rows} == set(FAULTS)
    assert [row.runbook for row in rows if not (RUNBOOKS / row.runbook).is_file()] == []
    assert [row.runbook for row in rows] == [f"{row.expect[0].alert}.md" for row in rows]


def test_what_a_row_allows_is_an_alert_that_exists() -> None:
    known = alerts_of(sorted(RULES.glob("*.yml")))
    assert [it for row in read_table().rows for it in row.allow if it.alert not in known] == []


def test_a_row_of_the_short_form_is_one_of_the_long() -> None:
    assert set(ROWS) <= {row.name for row in read_table().rows}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"expects": []}, "row one: unknown key 'expects'"),
        ({"expect": []}, "row one: a fault without an alert"),
        ({"runbook": None}, "row one: 'runbook' is missing"),
        ({"allow": [{"slo": "one"}]}, "names no alert; write a name"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_with_the_row(
    change: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    row = {
        "id": "one",
        "what": "it",
        "fault": "flood",
        "expect": ["A"],
        "runbook": "A.md",
        **change,
    }
    path = tmp_path / "table.yaml"
    path.write_text(
        json.dumps({"rows": [{key: value for key, value in row.items() if value is not None}]})
    )
    with pytest.raises(TableError, match=complaint):
        read_table(path)


def test_compressed_rules_are_the_deployed_ones_at_another_pace(tmp_path: Path) -> None:
    needs_programs()
    written = write_rules(tmp_path, 10)
    assert alerts_of(written) == alerts_of(sorted(RULES.glob("*.yml")))
    done = subprocess.run(  # noqa: S603 - an argument list, no shell
        [Prometheus.program("promtool") or "promtool", "check", "rules", *map(str, written)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    waits = {path.name: Counter(_waits(path)) for path in written}
    for path in sorted(RULES.glob("*.yml")):
        if path.name in waits:
            shorter = Counter(
                {(name, wait / 10): count for (name, wait), count in Counter(_waits(path)).items()}
            )
            assert waits[path.name] == shorter, path.name


def _waits(path: Path) -> list[tuple[str, float]]:
    groups = yaml.safe_load(path.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    return [(rule["alert"], round(seconds(str(rule.get("for", "0s"))), 3)) for rule in rules]


def test_a_prometheus_may_be_given_a_calm_past(tmp_path: Path) -> None:
    needs_programs()
    config = tmp_path / "base.yml"
    config.write_text("global: {scrape_interval: 15s}\nscrape_configs: [{job_name: nobody}]\n")
    prometheus = Prometheus(tmp_path / "one", {"nobody": ["127.0.0.1:1"]}, by=10.0, config=config)
    labels = {"__name__": "slo:slice_bad:bool", "slo": 'odd "one"'}
    values = [(float(at), "0") for at in range(0, 30, 6)]
    make_history(prometheus.data, [(labels, values)], length=600.0, folder=tmp_path)
    with prometheus:
        ((found, past),) = prometheus.query("count_over_time(slo:slice_bad:bool[590s])")
        assert found["slo"] == 'odd "one"'
        assert 96 <= int(past[0][1]) <= 99
        wait_until(lambda: bool(prometheus.query("up")), "it has scraped", within=20.0)
        assert prometheus.query("up")[0][0]["job"] == "nobody"
