"""People can read what is promised."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings

from postfacta_slo.promise.openslo import read
from postfacta_slo.rules.table import table_of

from .files import APP, Documents, model, some_documents


def test_each_objective_is_a_row() -> None:
    page = table_of(model(APP))
    assert (
        "| `availability` | 99 % good | 30d | 1m slices, bad above 5 % | 7.2 h | `requests-failed` |"
        in page
    )
    assert (
        "| `success-rate` | 99.5 % good | 1h | events | 0.5 % of them | `requests-failed` |" in page
    )
    assert "bad above 5 %, judged from 20 requests on" in page


def test_each_tier_is_a_row_with_the_time_that_it_takes() -> None:
    page = table_of(model(APP))
    assert "| `availability` | fast | page | 1h, 5m | 14.4 | 14.4 % | 2m | 2 % | 10.6 min |" in page
    assert (
        "| `success-rate` | fast | page | 5m, 1m | 12 | 6 %, ≥ 10 failures | 1m | 100 % | 1.3 min |"
        in page
    )


def test_a_threshold_says_what_is_good() -> None:
    page = table_of(model())
    assert "# good while the max is < 600\norders_oldest_unprocessed_seconds" in page
    assert (
        "# good while the quantile 0.9 is ≤ 1\nhttp_request_duration_highr_seconds_bucket" in page
    )


def test_without_alerts_there_is_no_table_of_them() -> None:
    found = model()
    quiet = replace(found, objectives=found.objectives[1:])
    assert "## Alert" not in table_of(quiet)
    assert "## Alert `OrdersApiErrorBudgetBurn`" in table_of(found)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(some_documents())
def test_each_row_has_as_many_cells_as_its_head(file: Documents) -> None:
    rows = [
        line.replace("\\|", "") for line in table_of(read(file)).split("\n") if line.startswith("|")
    ]
    assert {row.count("|") for row in rows} <= {7, 10}
