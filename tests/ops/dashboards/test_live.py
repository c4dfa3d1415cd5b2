"""Every query gets an answer from a real Prometheus that scraped the real service, or it is known why not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Mapping

import pytest

from tests.kit.every import every
from tests.kit.pg import open_folder
from tests.ops.dashboards.reading import ROOT, Asked, asked, filled, seen
from tests.ops.dashboards.scene import EXPORTER, Scene, played
from tests.ops.dashboards.test_queries import COUNTERS_NOT_NAMED_SO, GAUGES_NAMED_SO, recorded
from tests.ops.prometheus import needs

pytestmark = needs("prometheus")

RULES = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
# What Prometheus makes by itself.
OWN = {"up", "ALERTS"}

# Queries without an answer here, by a pattern of where they stand, and why that is right.
EMPTY: Mapping[str, str] = {
    r"postfacta-runtime/.*/Crashes of background tasks/A": "no task crashes",
}
# Those that may be empty or not, as the machine pleases.
PERHAPS: Mapping[str, str] = {
    r"postfacta-database/Statements/Failures by SQLSTATE/A": "on a busy machine a deadline may end a statement",
    r"postfacta-slo/PostFacta: .*/All and bad/B": "a machine that stands still has one scrape with a bad request",
    r"postfacta-slo/PostFacta: .*/Budget lasts for/A": "nothing is spent of it while no answer is slow or refused",
    r"postfacta-runtime/Memory, CPU, files/(Memory|CPU)/B": "the machine that tests run on may have no limit",
    r"postfacta-runtime/Memory, CPU, files/Share of memory in use/A": "as above",
    r".*/@Alert/A": "whether an alert fires is for the rules to say",
    r"postfacta-runtime/.*/Lost traces and log lines/B": "log lines are left out when there are too many",
}


@pytest.fixture(scope="module")
def scene(programs: None) -> Generator[Scene]:
    with open_folder() as folder, played(folder, rules=RULES) as running:
        yield running


def reason(query: Asked, among: Mapping[str, str]) -> str:
    """Return why a query may be empty; nothing if it may not."""
    return next((why for pattern, why in among.items() if re.fullmatch(pattern, str(query))), "")


def check_every_query(rule: Callable[[Asked], None]) -> None:
    """Check every query.

    Without PostgreSQL's exporter, skip in the end for those that only it answers.
    """
    missing = EXPORTER is None
    left_out = [
        query
        for query in asked()
        if missing and any(m.metric.startswith("pg_") for m in seen(query.expr))
    ]
    with every() as case:
        for query in asked():
            if query not in left_out:
                with case(query):
                    rule(query)
    if left_out:
        without_exporter(f"{len(left_out)} queries were not asked")


def without_exporter(why: str) -> None:
    """Skip, but fail where nothing may be missing."""
    (pytest.fail if "TEST_REQUIRE_ALL" in os.environ else pytest.skip)(
        f"{why}: prometheus-postgres-exporter is not installed"
    )


def test_every_metric_exists(scene: Scene) -> None:
    def exists(query: Asked) -> None:
        for one in seen(query.expr):
            assert one.metric in recorded() | OWN or scene.kind_of(one.metric), one.metric

    check_every_query(exists)


def test_what_grows_is_what_prometheus_knows_as_a_counter(scene: Scene) -> None:
    def is_typed_so(query: Asked) -> None:
        for one in seen(query.expr):
            kind = scene.kind_of(one.metric)
            grows = kind in {"counter", "histogram"}
            assert grows is bool(set(one.functions) & {"rate", "increase"}), (one.metric, kind)

    check_every_query(is_typed_so)


def test_it_has_an_answer(scene: Scene) -> None:
    def is_answered(query: Asked) -> None:
        answers = [
            value
            for job in ("postfacta", "billing")
            for value in scene.ask(filled(query.expr, job=job))
        ]
        if not answers:
            assert reason(query, {**EMPTY, **PERHAPS}), "no answer, and it is not known why"
        assert not (answers and reason(query, EMPTY)), "it has an answer: strike it off the list"

    check_every_query(is_answered)


def test_no_reason_is_left_over() -> None:
    places = [str(query) for query in asked()]
    for pattern in (*EMPTY, *PERHAPS):
        assert [place for place in places if re.fullmatch(pattern, place)], pattern


def test_every_rule_could_be_evaluated(scene: Scene) -> None:
    rules = [rule for group in scene.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert rules
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule.get("lastError")] == []


def test_the_names_that_mislead_are_as_they_were_listed(scene: Scene) -> None:
    if EXPORTER is None:
        without_exporter("the names of its metrics")
    assert {scene.kind_of(name) for name in GAUGES_NAMED_SO} == {"gauge"}
    assert {scene.kind_of(name) for name in COUNTERS_NOT_NAMED_SO} == {"counter"}


def test_the_choices_of_the_reader_are_there(scene: Scene) -> None:
    builds = scene.prometheus.query("postfacta_build_info", at=scene.moment)
    jobs = {sample.labels["job"] for sample in builds}
    assert jobs == {"postfacta", "billing"}
