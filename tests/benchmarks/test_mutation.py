"""The score counts what no test noticed, and nothing that was not tried."""

from __future__ import annotations

from benchmarks.mutation import read, table

RESULTS = """
    postfacta_core.policy.health.x_fold__mutmut_1: killed
    postfacta_core.policy.health.x_fold__mutmut_2: timeout
    postfacta_core.policy.health.x_fold__mutmut_3: survived
    postfacta_core.policy.health.x_fold__mutmut_4: no tests
    postfacta_core.policy.health.x_fold__mutmut_5: not checked
    postfacta_core.policy.pool.xǁLendingǁadmit__mutmut_1: killed
    postfacta_core.policy.pool.xǁLendingǁadmit__mutmut_2: check was interrupted by user
    postfacta_core.clock.x_random_id__mutmut_1: survived
"""


def test_a_break_that_survives_or_that_no_test_runs_lowers_the_score() -> None:
    counts, survivors = read(RESULTS)
    assert list(table(counts))[2:] == ["| health | 4 | 2 | 50.0 % |", "| pool | 1 | 1 | 100.0 % |"]
    assert survivors == [
        "postfacta_core.policy.health.x_fold__mutmut_3: survived",
        "postfacta_core.policy.health.x_fold__mutmut_4: no tests",
    ]
