"""Instances that share a limit count as one, and again after Valkey's primary is lost."""

from __future__ import annotations

import pytest

from chaos.sentinel import LIMIT, Row, Shared, drill, exit_code
from chaos.stack import prepare
from postfacta_lab.engine.processes import wait_until
from tests.kit.pg import open_folder


def test_sentinel_names_another_primary() -> None:
    with open_folder() as folder, Shared(folder) as shared:
        former = shared.primary()
        former.kill()
        wait_until(
            lambda: shared.primary() is not former, "another is primary", within=60.0, every=0.1
        )


@pytest.mark.long
def test_four_instances_count_as_one_before_and_after_the_primary_is_lost() -> None:
    with open_folder() as folder:
        rows: list[Row] = drill(folder, prepare(folder / "template"))
    assert exit_code(rows) in {0, 77}
    assert [row.faults for row in rows] == [()] * 5


def test_a_busy_machine_leaves_counts_unjudged_and_never_odd_answers() -> None:
    slip = ("1068 passed, of 1000",)
    cases = (
        (Row("x", 1000, LIMIT, None), 0, "yes"),
        (Row("x", 1068, LIMIT, None, slips=slip, others=0.5), 1, "1068 passed, of 1000"),
        (
            Row("x", 1068, LIMIT, None, slips=slip, others=0.8),
            77,
            "not judged: 1068 passed, of 1000",
        ),
        (
            Row("x", 1068, LIMIT, None, ("answers: {500: 1}",), 0.8, slip),
            1,
            "answers: {500: 1}; not judged",
        ),
    )
    for row, code, words in cases:
        assert exit_code([row]) == code
        assert row.verdict.startswith(words)
