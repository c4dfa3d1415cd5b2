"""Every query of a dashboard keeps the rules by which its numbers mean something."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import yaml

from tests.kit.every import every
from tests.ops.dashboards.reading import BOARDS, ROOT, Asked, asked, filled, seen

QUERIES = asked()
GROWING = frozenset({"rate", "increase"})
# They are told of a whole service by a rule or by Prometheus itself, and have no instance.
WHOLE = re.compile(r"slo:|ALERTS$")

# Names of a convention, or of an exporter, which are not what their ends promise. The live test
# asks for their types.
GAUGES_NAMED_SO = {"db_client_connection_count", "pg_stat_activity_count", "pg_locks_count"}
COUNTERS_NOT_NAMED_SO = {
    "pg_stat_database_xact_commit",
    "pg_stat_database_xact_rollback",
    "pg_stat_database_deadlocks",
}


@cache
def recorded() -> frozenset[str]:
    """List what the rules record."""
    rules = (ROOT / "deploy/prometheus/rules").glob("*.yml")
    return frozenset(
        rule["record"]
        for file in rules
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    )


def test_there_are_queries() -> None:
    assert len(QUERIES) > 100


def parses(query: Asked) -> None:
    assert seen(query.expr)


def asks_how_fast(query: Asked) -> None:
    for one in seen(query.expr):
        named_so = (
            re.search(r"_(total|bucket|sum|count)$", one.metric)
            and one.metric not in GAUGES_NAMED_SO
        )
        if named_so or one.metric in COUNTERS_NOT_NAMED_SO:
            assert one.is_range, one
            assert one.functions[-1] in GROWING, one
        elif one.is_range:
            assert one.functions[-1] not in GROWING, f"{one.metric} may fall"


def has_the_graphs_window(query: Asked) -> None:
    windows = re.findall(r"\[([^\]]*)\]", query.expr)
    assert set(windows) <= {"$__rate_interval", "$__range"}
    for call in re.findall(r"(\w+)\([^()]*\[\$__range\]", query.expr):
        # Over the whole span a rate is a mean; a number of events is what a reader wants to see.
        assert call in {"increase", "changes", "avg_over_time"}, call


def asks_for_the_choice(query: Asked) -> None:
    for one in seen(query.expr):
        named = (
            filled('job="$job"') in one.matchers and filled('instance=~"$instance"') in one.matchers
        )
        of_server = one.metric.startswith("pg_") and one.matchers == filled('{job="$postgres"}')
        of_whole = WHOLE.match(one.metric) and 'service="postfacta"' in one.matchers
        # Its selectors stand in the file of the objectives, with the job that they name.
        of_file = query.board == "postfacta-slo" and 'job="postfacta' in one.matchers
        of_slo_event = query.board == "postfacta-slo" and one.metric == "ALERTS"
        of_choice = query.board == "postfacta-slo" and WHOLE.match(one.metric)
        assert named or of_server or of_whole or of_file or of_slo_event or of_choice, one


def names_recorded(query: Asked) -> None:
    names = {one.metric for one in seen(query.expr) if ":" in one.metric}
    assert names <= recorded()


def check_every_query(rule: Callable[[Asked], None]) -> None:
    with every() as case:
        for query in QUERIES:
            with case(query):
                rule(query)


def test_it_is_promql() -> None:
    check_every_query(parses)


def test_what_grows_is_only_asked_for_how_fast() -> None:
    check_every_query(asks_how_fast)


def test_a_rate_is_over_as_much_time_as_the_graph_needs() -> None:
    check_every_query(has_the_graphs_window)


def test_it_asks_for_what_the_reader_chose() -> None:
    check_every_query(asks_for_the_choice)


def test_what_a_rule_records_is_recorded_by_ours() -> None:
    check_every_query(names_recorded)


def test_the_rules_above_see_what_breaks_them() -> None:
    def broken(expr: str, **of: Any) -> Asked:
        return Asked("postfacta-overview", "", "A", expr, **of)

    chosen = '{job="$job",instance=~"$instance"}'
    with pytest.raises(AssertionError):
        asks_how_fast(broken(f"sum(requests_total{chosen})"))
    with pytest.raises(AssertionError, match="may fall"):
        asks_how_fast(broken(f"rate(temperature{chosen}[$__rate_interval])"))
    with pytest.raises(AssertionError):
        has_the_graphs_window(broken(f"rate(requests_total{chosen}[5m])"))
    with pytest.raises(AssertionError):
        has_the_graphs_window(broken(f"rate(requests_total{chosen}[$__range])"))
    with pytest.raises(AssertionError):
        asks_for_the_choice(broken('up{job="$job"}'))
    with pytest.raises(AssertionError):
        names_recorded(broken("slo:unheard_of:ratio"))
    with pytest.raises(ValueError, match=r"."):
        parses(broken("sum by (route"))


def test_exemplars_are_asked_of_a_histogram_alone() -> None:
    targets = [
        t
        for board in BOARDS.values()
        for p in board["panels"]
        for t in p.get("targets", ())
        if t["exemplar"]
    ]
    assert targets
    assert all("_bucket" in target["expr"] for target in targets)
