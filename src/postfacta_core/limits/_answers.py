"""What the endings of requests show: how long each kind usually takes, and the sums of a window.

1. An ending is kept as it came, and added up with others by `fold`: a request pays for a place in a
   list, and not for twelve sums.
2. What reads or sets anything here folds before, so that each ending counts by what was known as it
   came.
3. What is usual is learned only while the service is calm, and rises slowly.

The rules of the limiter that are named here stand in `_overload`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

# How much longer than usual a request may take (rule 2). `OverloadLimiter` leaves as much above the
# limit at which a slow service is full.
TOLERANCE: Final = 1.25
# It bounds the memory, for an application whose routes have no names.
_KINDS: Final = 256
# The share of one answer in a moving average: about the last 16 count.
_WEIGHT: Final = 1 / 16
# How fast a usual time may rise with an answer: slowly, since an overload that is not yet noticed
# must not be learned.
_UP: Final = 1 / 32
# A request that was seen to wait for the loop had waited in its socket before, unseen (rule 2).
_LAG_COUNTS: Final = 4.0
# Of a kind's first answer: it may have been a quick one.
_FIRST: Final = 1.25
# How late one request counts at most: a few that take for ever are no queue (rule 9).
_LATEST: Final = 2.0
_NEVER_ANSWERED: Final = [math.inf]
# Seconds after which a request that tells nothing lends its slot: such as a hung route, or an
# undeclared long-poll (rule 8).
_HANGS: Final = 2.0
# Of a kind that was never answered: it is no queue, in which some are answered all the time.
_UNKNOWN_HANGS: Final = 0.1


class Ending(IntEnum):
    """How a request ended."""

    ANSWERED = 0
    LOST = 1  # It was given up.
    LEFT = 2  # Its caller left before it began: its kind is unknown.
    UNKNOWN = 3  # It is no evidence.
    UNTIMED = 4  # It was answered, late for a known reason.


_LEFT: Final = Ending.LEFT
_UNTIMED: Final = Ending.UNTIMED


@dataclass(slots=True)
class Trial:
    """A cut under way: limit and stretch (length by usual length) before it, and its beginning."""

    origin: float
    stretch: float
    since: float
    is_test: bool = False
    beyond: int = 0  # The most room in addition to the limit since it began.
    ended: int = 0
    took: float = 0.0
    usual: float = 0.0

    def add(self, took: float, usual: float) -> None:
        self.ended += 1
        self.took += took
        self.usual += usual


class Answers:
    """The endings of one limiter's requests. Times are seconds, moments those of its clock.

    Attributes:
        pending: What ended since the last `fold`: now, when it was admitted, its ending, its kind,
            the seconds that it was known to wait, and those until the event loop began it.
        kinds: The usual time of each kind, and when one was answered last.
        mean: The usual time of all.
        lag: How late the loop usually begins a request.
        tolerance: How many times as long as usual a request may take, and `spare` the seconds
            besides.
        stretch: How many times as long as usual those of the last window took.
        is_calm: What ends now tells what is usual.
        grew_at: When the limit grew, and `untried` how many admitted since are to be answered
            before it grows again.
        trial: A cut whose effect is measured.
        ended: Of this window, those that tell something; `answered` of them, and `untimed` besides.
        took: What the answered worked, `usual` what they usually take, `held` its squares.
        allowed: What they may take, with the untimed.
        late: How late all that ended were, each by what it may take; `waited` for something known.
    """

    def __init__(self, spare: float) -> None:
        self.pending: list[tuple[float, float, Ending, Hashable, float, float]] = []
        self.kinds: dict[Hashable, list[float]] = {}
        self.mean = [0.0]
        self.lag = 0.0
        self.tolerance = TOLERANCE
        self.spare = spare
        self.stretch = 1.0
        self.is_calm = True
        self.grew_at = -math.inf
        self.untried = 0.0
        self.trial: Trial | None = None
        self._lag_weight = _LAG_COUNTS - 1.0
        self.open()

    def open(self) -> None:
        """Begin a window."""
        self.ended = self.answered = self.untimed = 0
        self.took = self.usual = self.held = self.allowed = self.late = self.waited = 0.0

    def weigh_lag(self, own_share: float) -> None:
        """Note which share of the loop's lag is the service's own, from 0 to 1."""
        self._lag_weight = _LAG_COUNTS * max(own_share, 0.5) - 1.0

    def await_answers(self, now: float, count: float) -> None:
        """Let the limit grow again only once this many, admitted from now on, were answered."""
        self.grew_at = now
        self.untried = count

    def fold(self) -> None:  # noqa: PLR0915 - in one frame and by local names, for each answer
        """Add up what ended, in its order."""
        kinds = self.kinds
        tolerance = self.tolerance
        spare = self.spare
        lag_weight = self._lag_weight
        grew_at = self.grew_at
        trial = self.trial
        is_calm = self.is_calm
        mean = self.mean[0]
        usual_lag = self.lag
        late = self.late
        took = self.took
        usual = self.usual
        held = self.held
        allowed = self.allowed
        answered = self.answered
        for now, admitted, ending, kind, waited, lag in self.pending:
            if ending:
                self.mean[0] = mean
                is_late, may_take = self._weigh(now - admitted, ending, kind, waited, lag)
                late += is_late
                allowed += may_take
                continue
            life = now - admitted
            work = life - waited - lag
            record = kinds[kind] if kind in kinds else self._learn_kind(kind, work)
            takes = record[0]
            may_take = takes * tolerance + spare
            age = life + lag * lag_weight
            late += age / may_take if age < _LATEST * may_take else _LATEST
            allowed += may_take
            answered += 1
            usual_lag += (lag - usual_lag) * _WEIGHT
            mean += (takes - mean) * _WEIGHT
            record[1] = now
            took += work
            usual += takes
            held += takes * takes
            if waited:
                self.waited += waited
            if admitted >= grew_at:
                self.untried -= 1.0
            if trial is not None and admitted >= trial.since:
                trial.add(work, takes)
            if is_calm:
                longer = work - takes
                if longer > 0.0:
                    rise = longer if longer < takes else takes  # noqa: FURB136 - min() is a call
                    record[0] = takes + rise * _UP
                else:
                    record[0] = takes + longer * _WEIGHT
        self.mean[0] = mean
        self.lag = usual_lag
        self.late = late
        self.took = took
        self.usual = usual
        self.held = held
        self.allowed = allowed
        self.ended += answered - self.answered
        self.answered = answered
        self.pending.clear()

    def _weigh(  # noqa: PLR0917 - as an ending is kept
        self, life: float, ending: Ending, kind: Hashable, waited: float, lag: float
    ) -> tuple[float, float]:
        """Count one that was not answered, or late for a reason.

        Return how late it is, and what it may take.
        """
        if ending == _UNTIMED:
            self.untimed += 1
            return 0.0, self.kinds.get(kind, self.mean)[0] * self.tolerance + self.spare
        record = self.mean  # Of what left before it began: its kind is unknown.
        if ending != _LEFT:
            record = self.kinds.get(kind, _NEVER_ANSWERED)  # Else it is unknown whether it is late.
        may_take = record[0] * self.tolerance + self.spare
        age = life + lag * self._lag_weight
        if age <= may_take:
            return 0.0, 0.0
        self.ended += 1
        self.waited += waited
        return min(age / may_take, _LATEST), 0.0

    def has_answered(self, kind: Hashable) -> bool:
        """Return whether a request of this kind was ever answered."""
        return self._record_of(kind) is not None

    def is_silent(self, kind: Hashable, admitted: float, now: float) -> bool:
        """Return whether a request that runs tells nothing.

        None of its kind was answered for longer than they take, or ever.
        """
        record = self._record_of(kind)
        if record is None:
            return now > admitted + _UNKNOWN_HANGS
        return now > max(admitted + _HANGS, record[1] + max(_HANGS, 2.0 * record[0]))

    def _record_of(self, kind: Hashable) -> list[float] | None:
        self.fold()
        # Kinds beyond the most share one.
        return self.kinds.get(kind) or self.kinds.get(None)

    def _learn_kind(self, kind: Hashable, took: float) -> list[float]:
        if len(self.kinds) >= _KINDS:
            kind = None
            if (record := self.kinds.get(kind)) is not None:
                return record
        record = self.kinds[kind] = [_FIRST * max(took, 0.0) / max(1.0, self.stretch), 0.0]
        return record
