"""Promtool is asked at each moment at which something changes, and about nothing that is in doubt."""

from __future__ import annotations

from dataclasses import replace

from postfacta_slo.proofs.scenario import Assertion, Scenario, firing

from .files import APP, model, objective

OWN = 'slo="a"'
HERE = Scenario(model(APP).source, objective("success-rate", APP))


def asked(checks: list[Assertion]) -> list[tuple[int, list[str]]]:
    return [(check.sample, sorted(check.values)) for check in checks]


def test_an_alert_is_asked_for_just_before_and_at_each_change_and_at_the_end() -> None:
    checks = firing(
        OWN, {"fast": [False, False, True, True, False, False, False]}, {"fast": "page"}, every=4
    )
    fires = ['{burnrate_tier="fast", severity="page"}']
    assert asked(checks) == [(4, []), (8, fires), (12, fires), (16, []), (24, [])]
    assert {check.expression for check in checks} == {
        'count by (burnrate_tier, severity) (ALERTS{alertstate="firing",slo="a"})'
    }
    assert all(value == 1 for check in checks for value in check.values.values())


def test_what_is_in_doubt_is_not_asked() -> None:
    said: dict[str, list[bool | None]] = {
        "fast": [False, None, True],
        "slow": [False, False, False],
    }
    checks = firing(OWN, said, {"fast": "page", "slow": "ticket"}, every=1)
    assert [check.sample for check in checks] == [0, 2]
    doubtful = firing(
        OWN,
        {"fast": [False, True, True], "slow": [False, None, True]},
        {"fast": "page", "slow": "x"},
        every=1,
    )
    assert [check.sample for check in doubtful] == [0, 1, 2]
    assert 'burnrate_tier=~"fast"' in doubtful[1].expression
    assert "=~" not in doubtful[2].expression
    assert firing(OWN, {"fast": [None, None]}, {"fast": "page"}, every=1) == []


def test_an_alert_without_tiers_has_no_label_for_one() -> None:
    assert firing(OWN, {"": [True]}, {"": "ticket"}, every=1)[0].values == {
        '{severity="ticket"}': 1
    }


def test_an_alert_that_flaps_is_not_asked_for_without_end() -> None:
    checks = firing(
        OWN, {"fast": [place % 2 == 0 for place in range(1000)]}, {"fast": "page"}, every=1
    )
    assert len(checks) == 25
    assert checks[-1].sample == 999


def test_silence_is_asked_for_over_the_whole_time() -> None:
    check = HERE.silence(40, OWN)
    assert check.expression == 'count_over_time(ALERTS{alertstate="firing",slo="a"}[615s])'
    assert (check.sample, check.values) == (40, {})


def test_a_test_is_written_as_promtool_reads_it_and_compresses_all_its_times() -> None:
    checks = [Assertion("up", 4, {"{}": 1.0}), Assertion("down", 8, {})]
    assert HERE.written("it works", {"up": "1+0x8"}, checks) == {
        "name": "it works",
        "interval": "15s",
        "input_series": [{"series": "up", "values": "1+0x8"}],
        "promql_expr_test": [
            {"expr": "up", "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": 1.0}]},
            {"expr": "down", "eval_time": "2m", "exp_samples": []},
        ],
    }
    compressed = replace(HERE, compress=15).written("it works", {}, checks)
    assert compressed["interval"] == "1s"
    assert [one["eval_time"] for one in compressed["promql_expr_test"]] == ["4s", "8s"]
