"""Decide whether a request starts, waits or is refused, from those that the service completes.

1. The limit is what is proved: the allowances of a second's answers (Little's law, N = X * T).
2. An allowance is 1.25 times what requests of this kind usually take, and `spare`. What is usual is
   learned only while the service is calm. A known wait is no part of it.
3. The limit falls only while requests are late and one finds no room, or requests are lost. It
   grows, at most to twice, while requests find no room and none is late; then not again before
   half as many, admitted since, are answered.
4. A lost request took at least as long as it lived, and is no answer. Within its allowance it says
   nothing; nor does one of a kind that was never answered.
5. A cut is an experiment. If requests admitted after it are no faster in proportion, the service is
   slow and not full: what it takes now is usual (`scale`). That verdict is tested again.
6. A burst waits first come, first served. After a refusal the newest goes first, waits are short,
   and a newcomer replaces the oldest (CoDel and adaptive LIFO; see `_waiting`).
7. Higher priorities go first. Lower ones may use a part of the limit; the highest has a reserve.
8. What tells nothing holds no slot while others find no room.
9. A request counts as at most twice as late as it may be.
10. One client holds at most half of the limit while others find no room.
11. Where the event loop beats, requests that find no room are let in until there is evidence of
    harm (see `_growth`); meanwhile the queue is patient. While all find room, the limit falls
    towards three times of what is used.

Why, and what each rule won and cost, is in docs/decisions/0015-a-limit-that-is-proved.md, under the
same numbers, and in 0033-waiting-is-not-work.md. A request costs O(1); a window of measurements
closes 20 times a second at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from operator import itemgetter
from typing import Final

from ..events import Mode, Sample
from ..validation import validation
from ._answers import TOLERANCE, Answers, Ending as Ending, Trial
from ._growth import Growth
from ._waiting import ADMIT, NOBODY, Admit, Priority, Shed, Wait, WaitingLine

# The seconds after which to try again, spread so that those refused together return apart.
_SHEDS: Final = (Shed(1.0), Shed(2.0), Shed(3.0))
# The parts of the limit that the priorities may use, the highest first (rule 7).
_SHARES: Final = (1.0, 1.0, 0.9, 0.8)
# A window has this many endings or is this old: of fewer, one odd request decides.
_FEWEST: Final = 8
_LONGEST = 1.0
# A smaller one is late by more than this, or it is chance.
_CHANCE: Final = 1.25
# As often as the event loop beats: the sweep looks 20 times a second.
_SHORTEST = 0.05
# The longest time between two tests of the verdict that the service is slow (rule 5).
_PAUSE: Final = 30.0
_UNKNOWN: Final = Ending.UNKNOWN
_UNTIMED: Final = Ending.UNTIMED
_NONE: Final = 1e-9  # In place of 0 below a fraction.


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadConfig:
    """What the limiter starts from. None of it needs setting.

    Attributes:
        spare: Seconds that a request may wait inside the service, beyond what it usually takes.
        patience: Seconds that a caller may wait in a burst before it is admitted.
        start: The limit before anything is known.
    """

    spare: float = 0.1
    patience: float = 0.5
    start: int = 8

    def __post_init__(self) -> None:
        validation.seconds("OverloadConfig.spare", self.spare, example="0.1")
        validation.seconds("OverloadConfig.patience", self.patience, example="0.5")
        validation.whole("OverloadConfig.start", self.start, example="8")


class OverloadLimiter:
    """Decides how many requests run at once, which wait, and which are refused.

    It belongs to one event loop, whose single thread is its lock.

    Args:
        name: Its metric label.
        config: What it starts from.
        explores: Whether it lets requests in that find no room, while nothing shows harm. Only
            where `beat` is called 20 times a second.

    Attributes:
        limit: The present one; what counts is its whole part.
        in_flight: Requests admitted that have not finished.
    """

    def __init__(
        self, name: str, config: OverloadConfig | None = None, *, explores: bool = False
    ) -> None:
        self.name: str = validation.name("OverloadLimiter.name", name, example='"requests"')
        config = config or OverloadConfig()
        self.limit: float = float(config.start)
        self.in_flight: int = 0
        self._config = config
        self._line = WaitingLine(config.spare, config.patience)
        self._growth = Growth() if explores else None
        self._answers = Answers(config.spare)
        self._note = self._answers.pending.append
        self._test_at = -math.inf
        self._rate = self._work = self._pressure = self._queue_seconds = 0.0
        self._scale = 1.0
        self._is_overloaded = self._was_short = False
        self._beyond = (
            0  # Slots of the crowd beyond half of the limit: room for others in addition.
        )
        self._peak = 0
        self._test_every = 1.0
        self._verdicts = {"queue": 0, "slow": 0}
        self._counts = {mode: ([0] * len(Priority), [0] * len(Priority)) for mode in Mode}
        self.mode = Mode.ENFORCE
        self._set_limit(self.limit)
        self._open(-math.inf)

    @property
    def mode(self) -> Mode:
        """How the decisions are used. In `shadow` one that would wait counts as refused.

        `off` is for the runner.
        """
        return self._mode

    @mode.setter
    def mode(self, new: Mode) -> None:
        self._mode = new
        self._admitted, self._refused = self._counts[new]

    @property
    def waiting(self) -> int:
        """The requests in the queue."""
        return self._line.count

    def arrive(
        self,
        priority: int,
        now: float,
        *,
        luck: float = 0.0,
        client_of: Callable[[], Hashable] | None = None,
    ) -> Admit | Wait | Shed:
        """Decide about a request that came now.

        `luck` from 0 up to, not including, 1 spreads the time of a new try.

        `client_of` is called if it finds no room.
        """
        line = self._line
        if line.count:
            self._hand_over(now)
        if self.in_flight < self._rooms[priority]:
            self.in_flight += 1
            if self.in_flight > self._peak:  # noqa: PLR1730 - max() is a call, for each request
                self._peak = self.in_flight
            self._admitted[priority] += 1
            return ADMIT
        self._was_short = True
        if now >= self._closes:
            self._close(now)
        client = None if client_of is None else client_of()
        if self._beyond and self._has_room(priority, client):
            self.in_flight += 1
            self._admitted[priority] += 1
            return ADMIT
        shed = _SHEDS[int(luck * len(_SHEDS))]
        is_shadow = self._mode is Mode.SHADOW
        if is_shadow or line.is_full(now):
            line.refuse(now)
            displaced = None if is_shadow else line.displaced_by(priority, now, client)
            if displaced is None:
                self._refused[priority] += 1
                return shed
            self._decide(displaced, displaced.shed, now)
        return line.enter(priority, now, shed=shed, mode=self._mode, client=client)

    def arrive_in(
        self,
        mode: Mode,
        priority: int,
        now: float,
        *,
        luck: float = 0.0,
        client_of: Callable[[], Hashable] | None = None,
    ) -> Admit | Wait | Shed:
        """Decide as `arrive` does, in another mode than the limiter's.

        For one request, and where it is counted.
        """
        own_mode = self._mode
        self.mode = mode
        decision = self.arrive(priority, now, luck=luck, client_of=client_of)
        self.mode = own_mode
        return decision

    def finish(  # noqa: PLR0917 - by position and in one frame, for each request
        self,
        now: float,
        admitted: float,
        ending: Ending = Ending.ANSWERED,
        kind: Hashable = None,
        waited: float = 0.0,
        lag: float = 0.0,
    ) -> None:
        """Free the slot of a request that was admitted at a moment and ended now; learn from it.

        Requests of one kind, the route, take about as long as each other. `waited` seconds are
        known to be a wait, such as for a connection of a pool; `lag` seconds passed until the event
        loop began it.
        """
        self.in_flight -= 1
        if ending < _UNKNOWN:
            self._note((now, admitted, ending, kind, waited, lag))
            if now >= self._closes:
                self._close(now)
        elif ending == _UNTIMED:
            self._note((now, admitted, ending, kind, waited, lag))
        if self._line.count:
            self._hand_over(now)

    def resume(self) -> None:
        """Re-admit a request that gave back its slot while it waited; may exceed the limit."""
        self.in_flight += 1

    def lend(self, now: float) -> None:
        """Give the slot of a request that runs to others.

        `resume` must follow before its `finish`.
        """
        self.in_flight -= 1
        if self._line.count:
            self._hand_over(now)

    @property
    def is_short(self) -> bool:
        """Whether requests wait, or found no room of late."""
        return self._line.count > 0 or self._was_short or self._is_overloaded

    def has_answered(self, kind: Hashable) -> bool:
        """Return whether a request of this kind was ever answered."""
        return self._answers.has_answered(kind)

    def is_silent(self, kind: Hashable, admitted: float, now: float) -> bool:
        """Return whether a request that runs tells nothing.

        None of its kind was answered for longer than they take, or ever.
        """
        return self._answers.is_silent(kind, admitted, now)

    def share(self, holders: Mapping[Hashable, int]) -> None:
        """Leave half of the limit to others, by each client's slots while requests find no room.

        What one client holds beyond half cannot be taken back: it is room for others in addition,
        who go first. Where all come from one address there are no others, and nothing changes.
        """
        client, slots = max(holders.items(), key=itemgetter(1), default=(None, 0))
        self._beyond = max(0, slots - max(1, int(self.limit) // 2))
        trial = self._answers.trial
        if trial is not None:
            trial.beyond = max(trial.beyond, self._beyond)
        self._line.set_crowd(client if self._beyond else NOBODY)

    def give_up(self, wait: Wait, now: float) -> Admit | Shed:
        """End a wait for good.

        A caller that was cancelled and gets `ADMIT` hands the slot back by `finish`.
        """
        if wait.verdict is None:
            self._decide(wait, wait.shed, now)
        return wait.verdict or wait.shed

    def beat(self, now: float, own_share: float = 1.0) -> None:
        """Record a heartbeat of the event loop, some 20 a second.

        `own_share` is the service's share of its lag, from 0 to 1.
        """
        self._answers.fold()
        self._answers.weigh_lag(own_share)
        self._is_overloaded = self._line.is_overloaded(now)
        if self._growth is not None:
            self._explore(self._growth, now)
        if self._line.count:
            self._hand_over(now)

    def tally(self) -> Iterator[Sample]:
        label = (self.name,)
        gauges = {
            "limit": int(self.limit),
            "inflight": self.in_flight,
            "queued": self._line.count,
            "queue_time_seconds_total": self._queue_seconds,
            "pressure": self._pressure,
            "work": self._work,
            "scale": self._scale,
            "overloaded": self._is_overloaded,
        }
        for gauge, value in gauges.items():
            yield Sample(f"postfacta_limiter_{gauge}", label, float(value))
        for verdict, count in self._verdicts.items():
            yield Sample("postfacta_limiter_verdicts_total", (self.name, verdict), float(count))
        for mode in (Mode.ENFORCE, Mode.SHADOW):
            for decision, counts in zip(("admitted", "shed"), self._counts[mode], strict=True):
                for priority, count in zip(Priority, counts, strict=True):
                    labels = (self.name, priority.name.lower(), decision, mode.value)
                    yield Sample("postfacta_limiter_decisions_total", labels, float(count))

    def _explore(self, growth: Growth, now: float) -> None:
        line = self._line
        answers = self._answers
        if not self.in_flight:
            growth.rest(now)
        if growth.begins_short(now, is_short=line.count > 0):
            self._await_answers(now)
        growth.look(now, answers.kinds.values(), answers.mean[0], self._scale, self._rate)
        is_harmed = (
            answers.trial is not None
            or self._pressure > 1.0
            or (answers.ended > 1 and answers.late > answers.ended)
            or line.is_overloaded(now)
        )
        line.is_patient = growth.may_grow(now) and not is_harmed
        if line.count and line.is_patient:
            target = growth.target(self.limit, now, is_tried=answers.untried <= 0.0)
            if target > self.limit:
                self._set_limit(target)
                self._await_answers(now)

    def _await_answers(self, now: float) -> None:
        """Let the limit grow only once half of it, admitted from now on, was answered."""
        self._answers.await_answers(now, self.limit / 2.0)
        self._may_grow = False

    def _has_room(self, priority: int, client: Hashable) -> bool:
        beyond = 0 if client == self._line.crowd else self._beyond
        return self.in_flight < self._rooms[priority] + beyond

    def _hand_over(self, now: float) -> None:
        line = self._line
        while (wait := line.first(now)) is not None:
            if now >= wait.until:
                self._decide(wait, wait.shed, now)
            elif self._has_room(wait.priority, wait.client):
                self._decide(wait, ADMIT, now)
            else:
                return

    def _decide(self, wait: Wait, verdict: Admit | Shed, now: float) -> None:
        self._line.remove(wait)
        wait.verdict = verdict
        wait.decided = now
        admitted, refused = self._counts[wait.mode]
        if verdict is ADMIT:
            self.in_flight += 1
            admitted[wait.priority] += 1
            self._queue_seconds += now - wait.since
        else:
            refused[wait.priority] += 1
            self._line.refuse(now)
        wait.wake()

    def _open(self, now: float) -> None:
        self._opened = now
        self._closes = now + _SHORTEST
        self._answers.open()
        self._peak = self.in_flight
        self._was_short = self._line.count > 0
        self._may_grow = self._answers.untried <= 0.0

    def _close(self, now: float) -> None:
        answers = self._answers
        answers.fold()
        lasted = now - self._opened
        if answers.ended < _FEWEST and lasted < _LONGEST:
            return
        if not answers.ended or lasted > 4 * _LONGEST:  # it hung, or had next to nothing to do
            answers.is_calm = answers.is_calm and answers.ended > 0
            self._open(now)
            return
        short = self._was_short
        answered = answers.answered
        weight = min(1.0, 2 * lasted)  # An average over half a second.
        self._rate += ((answered + answers.untimed) / lasted - self._rate) * weight
        self._work += (answers.allowed / lasted - self._work) * weight
        # While no request was short of room, the spare capacity is unknown: assume what the limit
        # holds.
        possible = 0.0 if short else self.limit / max(answers.mean[0], _NONE)
        self._line.pace(self._rate, answers.lag, possible)
        # A service of few answers a second has room for two of them.
        answers.spare = max(self._config.spare, min(2.0 / max(self._rate, _NONE), 0.4))
        self._pressure = pressure = answers.late / max(answered, _NONE)
        stretch = answers.took / max(answers.usual, _NONE) if answered else answers.stretch
        answers.stretch = stretch
        lost = answers.ended - answered
        if self._growth is not None:
            pressure = self._weigh(self._growth, pressure, now=now, lasted=lasted)
        answers.is_calm = (
            pressure <= 1.0 and not short and not lost and self._peak < 0.5 * self.limit
        )
        trial = answers.trial
        if trial is not None and trial.is_test:
            self._judge(trial, now)
        elif pressure <= 1.0:
            answers.trial = None
            if short and not self._test(stretch, now):
                self._grow(pressure, now)
            if answers.is_calm:
                self._set_scale(max(1.0, min(self._scale, stretch)))
        elif short or (lost and self._peak >= 0.25 * self.limit):
            # If some were lost, the others stand for those that lived long enough.
            self._cut(stretch * answers.ended / answered if answered else math.inf, now)
        self._open(now)

    def _weigh(self, growth: Growth, pressure: float, *, now: float, lasted: float) -> float:
        """Return the pressure less what is chance or slow; note what a window showed."""
        answers = self._answers
        growth.note(answers.usual, answers.held, lasted)
        short = self._was_short
        floor = max(float(self._config.start), 3.0 * self._peak)
        if not short and answers.trial is None and self.limit > floor:
            self._set_limit(self.limit - (self.limit - floor) * min(1.0, lasted) / 2.0)
        answered = answers.answered
        if pressure <= 1.0 or not answered:
            return pressure
        if answered == answers.ended < _FEWEST and pressure < _CHANCE:
            return 1.0
        slow = growth.excuse(now) * answered / max(answers.usual, _NONE)
        # Known waits are a queue, however long it was silent before.
        if answers.stretch <= slow and answers.waited <= answers.ended * answers.spare:
            if answers.stretch > self._scale:
                self._find_slow(answers.stretch, now)
            return 1.0
        if short:
            growth.hold(now)
            self._line.is_patient = False
        return pressure

    def _grow(self, pressure: float, now: float) -> None:
        if self._may_grow:
            # The less late, the faster: to twice if the pressure is at most 0.75.
            target = max(self._work, self.limit * (1.0 + 4.0 * (1.0 - pressure)))
            self._set_limit(max(self.limit, min(2.0 * self.limit, target)))
            self._answers.await_answers(now, self.limit / 2.0)

    def _test(self, stretch: float, now: float) -> bool:
        """Return whether the verdict that the service is slow is tested from now on."""
        if self._scale <= 1.0 or now < self._test_at or not self._may_grow or int(self.limit) == 1:
            return False
        self._answers.trial = Trial(self.limit, stretch, now, is_test=True)
        self._set_limit(self.limit / 2)
        return True

    def _cut(self, stretch: float, now: float) -> None:
        trial = self._answers.trial
        if trial is None:
            trial = Trial(min(self.limit, float(max(self.in_flight, self._peak))), stretch, now)
        else:
            trial.stretch = max(trial.stretch, stretch)  # the old backlog still grows
            was_slow = self._judge(trial, now) if self.limit <= 0.5 * trial.origin else None
            if was_slow:
                return
            if was_slow is False:
                trial = Trial(self.limit, stretch, now)
        self._answers.trial = trial
        before = self.limit
        self._set_limit(max(1.0, trial.origin / 4, min(before, self._work)))
        # A fall by a fifth: the requests that count begin anew, since the others stood behind more.
        if self.limit < 0.8 * before:
            trial.since = now
            trial.ended = 0
            trial.took = 0.0
            trial.usual = 0.0

    def _judge(self, trial: Trial, now: float) -> bool | None:
        """Return whether requests after a cut took as long as before: then it was no queue."""
        # As many as were under way at once: the first to end are the short ones.
        if trial.ended < max(3, int(self.limit)):
            return None
        self._answers.trial = None
        stretch = trial.took / max(trial.usual, _NONE)
        left = (self.limit + trial.beyond) / trial.origin
        still = stretch / max(trial.stretch, _NONE)
        # A queue would leave `still` equal to `left`. 1.6 is the margin: times are spread.
        if still > 1.6 * left and stretch > (1.0 if trial.is_test else 1.2 * self._scale):
            # A queue gets shorter with the limit; this is where it ends.
            self._find_slow(stretch, now)
            self._set_limit(max(self.limit, trial.origin * min(1.0, still) * TOLERANCE))
            return True
        self._verdicts["queue"] += 1
        self._test_every = 1.0
        self._test_at = now + 1.0
        if trial.is_test:
            self._set_scale(max(1.0, min(self._scale, stretch)))
        return False

    def _find_slow(self, stretch: float, now: float) -> None:
        self._verdicts["slow"] += 1
        self._set_scale(stretch)
        self._test_every = min(2 * self._test_every, _PAUSE)
        self._test_at = now + self._test_every

    def _set_scale(self, scale: float) -> None:
        self._scale = scale
        self._answers.tolerance = scale * TOLERANCE

    def _set_limit(self, limit: float) -> None:
        self.limit = limit
        whole = int(limit)
        self._rooms = [max(1, int(limit * share)) for share in _SHARES]
        self._rooms[0] = whole + math.ceil(sqrt(limit))
