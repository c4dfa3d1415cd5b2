"""A loan that is held for nothing while its response streams is named once, with its request."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import pytest

from postfacta_core.context import RequestContext
from postfacta_core.events import ConnectionHeld
from postfacta_core.health import holders
from postfacta_core.health.holders import Holders
from postfacta_core.testing import ManualClock, RecordingObserver


@pytest.fixture(autouse=True)
def no_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the pools of one test alone."""
    monkeypatch.setattr(holders, "_POOLS", WeakValueDictionary[int, Holders]())


@dataclass(eq=False)
class Loan:
    """A loan, as its pool keeps it."""

    since: float
    quiet_since: float
    request: RequestContext | None
    is_named: bool = False


@dataclass
class Pool:
    """Lends to requests, by a clock that the test moves."""

    clock: ManualClock = field(default_factory=ManualClock)
    observer: RecordingObserver = field(default_factory=RecordingObserver)
    lent: list[Loan] = field(default_factory=list[Loan])

    def __post_init__(self) -> None:
        self.holders = Holders(
            "billing", lambda: self.lent, observe=self.observer, clock=self.clock
        )

    def lend(self, route: str | None = "/live", *, request_id: str = "r-1") -> Loan:
        request = RequestContext(request_id, self.clock())
        request.route = route
        loan = Loan(self.clock(), self.clock(), request)
        self.lent.append(loan)
        return loan


def test_a_quiet_loan_of_a_stream_is_named_once() -> None:
    pool = Pool()
    pool.lend()
    pool.clock.advance(4.99)
    assert holders.look() == []
    pool.clock.advance(0.01)
    event = ConnectionHeld("billing", "/live", "r-1", 5.0)
    assert holders.look() == [event]
    pool.clock.advance(60)
    assert holders.look() == [event._replace(seconds=65.0)]
    assert pool.observer.events == [event]
    assert holders.rows() == [
        {"pool": "billing", "route": "/live", "request_id": "r-1", "seconds": 65.0}
    ]


@pytest.mark.parametrize("reason", ["statement", "no stream", "no request"])
def test_a_loan_that_is_used_or_of_no_stream_is_not_named(reason: str) -> None:
    pool = Pool()
    loan = pool.lend(route=None if reason == "no stream" else "/live")
    if reason == "statement":
        loan.quiet_since = math.inf
    if reason == "no request":
        loan.request = None
    pool.clock.advance(600)
    assert holders.look() == []
    assert pool.holders.oldest() == 600


def test_a_statement_begins_the_time_anew() -> None:
    pool = Pool()
    loan = pool.lend()
    pool.clock.advance(4)
    loan.quiet_since = pool.clock()
    pool.clock.advance(4)
    assert holders.look() == []
    pool.clock.advance(1)
    assert [event.seconds for event in holders.look()] == [9.0]


def test_the_oldest_twenty_of_all_pools_are_shown() -> None:
    first, second = Pool(), Pool()
    for number in range(15):
        for pool in (first, second):
            pool.lend(request_id=f"r-{number}")
            pool.clock.advance(1)
    for pool in (first, second):
        pool.clock.advance(10)
    shown = holders.look()
    assert len(shown) == 20
    assert [event.seconds for event in shown] == sorted(
        (event.seconds for event in shown), reverse=True
    )
    assert shown[0].seconds == 25.0


def test_a_pool_without_loans_has_no_oldest_and_one_that_is_gone_none_at_all() -> None:
    pool = Pool()
    assert pool.holders.oldest() == 0.0
    pool.lend()
    pool.clock.advance(9)
    assert len(holders.look()) == 1
    del pool
    gc.collect()
    assert holders.look() == []
