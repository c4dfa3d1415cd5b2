"""Instances that share a limit count as one, and again after Valkey's primary is lost."""

from __future__ import annotations

import pytest

from chaos.sentinel import LIMIT, Row, Shared, drill
from chaos.stack import prepare
from postfacta_lab.engine.processes import wait_until
from tests.kit.pg import open_folder


def test_sentinel_names_another_primary() -> None:
    with open_folder() as folder, Shared(folder) as shared:
        former = shared.primary()
        former.kill()
        wait_until(lambda: shared.primary() is not former, "another is primary", within=60.0, every=0.1)


@pytest.mark.long
def test_four_instances_count_as_one_before_and_after_the_primary_is_lost() -> None:
    with open_folder() as folder:
        rows: list[Row] = drill(folder, prepare(folder / "template"))
    assert [row.flaws for row in rows] == [()] * 5
    assert all(abs(row.passed - LIMIT) <= LIMIT * 0.02 for row in rows if row.wanted)
