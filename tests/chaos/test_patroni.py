"""A cluster of Patroni fails over under writes without a loss, and two servers that take writes at once would be seen."""

from __future__ import annotations

import pytest

from chaos.patroni.__main__ import KINDS, drill
from chaos.patroni.primaries import Accepted, conflicts, losses
from tests.kit.pg import open_folder
from tests.ops.prometheus import needs


def _accepted(*writes: tuple[str, int, float]) -> list[Accepted]:
    """Make writes from server, timeline and the moment they were sent.

    Each is answered after a second.
    """
    return [
        Accepted(number, server, timeline, sent, sent + 1.0)
        for number, (server, timeline, sent) in enumerate(writes)
    ]


@pytest.mark.parametrize(
    "writes",
    [
        pytest.param([("one", 1, 0.0), ("one", 1, 5.0)], id="one server"),
        pytest.param(
            [("one", 1, 0.0), ("two", 2, 5.0), ("one", 3, 10.0)], id="one after the other"
        ),
        # It may have been done before the other began.
        pytest.param(
            [("one", 1, 5.5), ("two", 2, 5.0)], id="a write that overlaps the first of the other"
        ),
    ],
)
def test_servers_that_take_turns_are_no_conflict(writes: list[tuple[str, int, float]]) -> None:
    assert conflicts(_accepted(*writes)) == []


@pytest.mark.parametrize(
    ("writes", "found"),
    [
        pytest.param(
            [("one", 1, 0.0), ("two", 2, 5.0), ("one", 1, 8.0)],
            "one took a write on timeline 1, sent 2.000 s after two had taken one on timeline 2",
            id="the former goes on",
        ),
        pytest.param(
            [("one", 1, 0.0), ("two", 1, 5.0)],
            "one and two took writes on timeline 1",
            id="no promotion",
        ),
    ],
)
def test_two_servers_at_once_are_a_conflict(
    writes: list[tuple[str, int, float]], found: str
) -> None:
    assert conflicts(_accepted(*writes)) == [found]


def test_a_write_that_is_gone_or_there_twice_is_a_loss() -> None:
    writes = _accepted(("one", 1, 0.0), ("one", 1, 2.0), ("two", 2, 4.0))
    assert losses(writes, {0: 1, 2: 2}) == [
        "write 1 of one is stored 0 times",
        "write 2 of two is stored 2 times",
    ]


@needs("etcd", "etcd-server")
@needs("haproxy", "haproxy")
@pytest.mark.long
def test_a_switchover_under_writes_loses_nothing() -> None:
    with open_folder() as folder:
        outcome = drill(folder, ["switchover"], enough=20)
    assert (outcome.flaws, outcome.lost) == ([], 0)
    assert len(outcome.probed) == 2  # the former leader, and the one that it was switched to


@needs("etcd", "etcd-server")
@needs("haproxy", "haproxy")
@pytest.mark.long
def test_each_failover_loses_nothing_and_two_servers_never_take_writes_at_once() -> None:
    with open_folder() as folder:
        outcome = drill(folder, list(KINDS))
    assert outcome.flaws == []


@needs("etcd", "etcd-server")
@needs("haproxy", "haproxy")
@pytest.mark.long
def test_without_a_synchronous_standby_writes_are_lost_and_that_is_seen() -> None:
    with open_folder() as folder:
        outcome = drill(folder, ["behind"], synchronous=False, enough=20)
    assert outcome.lost > 0
    assert any(" lost, such as " in flaw for flaw in outcome.flaws)
