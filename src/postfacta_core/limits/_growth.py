"""Decide how far a limit may grow beyond what is proved, while requests find no room.

Waiting is not work: a handler that waits for something outside costs nothing, and its length does
not tell it from one that stands in a queue. What tells them apart is whether some are answered. In
a queue some are answered all the time, ever later. Behind what is slow or new none is answered for
a while (silence), and then all are late alike.

1. It looks at each heartbeat, 20 times a second, and grows only while requests wait, the loop is on
   time, and no window of the last 5 s was late while one found no room.
2. The limit doubles once half of it, admitted since the last growth, was answered; or each 0.25 s
   if its slots are held by requests that usually take 0.8 s or more, whose answers come too late.
3. In silence it grows four-fold: none was answered for longer than the slowest kind usually takes.
4. Growth in silence is bounded by what was answered in as long a time before it, or a few.
5. Answers that are late after a silence, and not later than it was long, are slow and no queue:
   for as long as the silence lasted.

The figures of each rule are in docs/decisions/0033-waiting-is-not-work.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

# Seconds after a late window: by then the limit follows what is proved (rule 1).
_HOLDS: Final = 5.0
_BEAT: Final = 0.05  # As often as the event loop beats.
# A beat that is later than by two more is a queue for the processor (rule 1).
_LATE: Final = 0.1
# Seconds that slots are held, from which half of the answers would come after most callers' wait.
_LONG: Final = 0.8
# Of those, as often as a wait of 2 s allows seven growths.
_BLIND: Final = 0.25
# Silence lasts at least two beats; less than 0.3 s of it needs three times the mean (rule 3).
_SOONEST: Final = 0.1
_SILENCE: Final = 0.3
# The spread of times: half as much again.
_SPREAD: Final = 1.5
# The mean by the shortest, of which the silence tells: 1.5 found one slow service in two.
_EXCUSED: Final = 2.5
# The limit may be so much more in silence, whatever was answered before, and as much again each
# second: twice what it starts from. With 64 a semaphore that became ten times slower lost all.
_FREE: Final = 16.0
_RECENT: Final = 600.0  # Seconds after which a kind that was not answered counts no more.
_FORGETS: Final = 4.0  # Seconds after which a silence explains no lateness.
# Seconds for which it is known what holds the slots.
_REMEMBERS: Final = 60.0
_NONE: Final = 1e-9  # In place of 0 below a fraction.
_KEEPS: Final = 0.99  # Of the rate before, each beat: a half after 3.5 s.


class Growth:
    """What the heartbeats of one limiter showed. Moments are seconds of its clock."""

    def __init__(self) -> None:
        self._beat_at = -math.inf
        self._answered_at = -math.inf
        self._idle_at = -math.inf
        self._grew_at = -math.inf
        self._held_until = -math.inf
        self._slow_until = -math.inf
        self._silent_at = -math.inf
        self._silence = 0.0
        self._slots = self._held = 0.0
        self._late = 0.0
        self._rate = 0.0
        self._is_silent = self._was_short = self._has_answers = False

    def look(  # noqa: PLR0917 - all that a limiter knows at a heartbeat
        self,
        now: float,
        kinds: Iterable[Sequence[float]],
        mean: float,
        scale: float,
        rate: float,
    ) -> None:
        """Look at the answers at a heartbeat.

        `kinds` are the usual time and the last answer of each kind, `mean` is the usual time of
        all, `scale` is how much longer they take at present, and `rate` the answers a second.
        """
        recent = [kind for kind in kinds if kind[1] >= now - _RECENT]
        slowest = max((kind[0] for kind in recent), default=0.0)
        self._has_answers = bool(recent)
        self._answered_at = max((kind[1] for kind in recent), default=-math.inf)
        self._rate = max(rate, _KEEPS * self._rate)
        self._late = now - self._beat_at - _BEAT if self._beat_at > -math.inf else 0.0
        self._beat_at = now
        silence = self._silence_at(now)
        least = max(_SOONEST, _SPREAD * slowest * scale, min(3.0 * mean, _SILENCE))
        self._is_silent = min(silence, now - self._grew_at) >= least
        if self._is_silent and recent:
            before = self._silence if now <= self._silent_at + _FORGETS else 0.0
            self._silence = max(silence, before)
            self._silent_at = now

    def note(self, usual: float, held: float, lasted: float) -> None:
        """Note what the answers of a window usually take, in sum, and the sum of its squares."""
        keeps = math.exp(-lasted / _REMEMBERS)
        self._slots = self._slots * keeps + usual
        self._held = self._held * keeps + held

    def rest(self, now: float) -> None:
        """Record that no request is under way: that is no silence."""
        self._idle_at = now

    def begins_short(self, now: float, *, is_short: bool) -> bool:
        """Return whether requests find no room since this heartbeat: what counts begins then."""
        begins = is_short and not self._was_short
        self._was_short = is_short
        if begins:
            self._grew_at = now
        return begins

    def may_grow(self, now: float) -> bool:
        return now >= self._held_until and self._late < _LATE

    def target(self, limit: float, now: float, *, is_tried: bool) -> float:
        """Return the limit from now on.

        `is_tried` is whether half of the present one was answered since it grew.
        """
        target = limit
        held = self._held / max(self._slots, _NONE)  # The seconds for which a slot usually is.
        if self._is_silent:
            silence = self._silence_at(now)
            most = max(_FREE * (1.0 + silence), _SPREAD * self._rate * silence)
            target = min(4.0 * limit, most if self._has_answers else math.inf)
        elif is_tried or (held >= _LONG and now >= self._grew_at + _BLIND):
            target = 2.0 * limit
        if target <= limit:
            return limit
        self._grew_at = now
        return target

    def hold(self, now: float) -> None:
        """Grow no more for a while: there is evidence of harm."""
        self._held_until = now + _HOLDS

    def excuse(self, now: float) -> float:
        """Return how many seconds requests may take that are late after a silence; 0 if none."""
        if now <= self._silent_at + _FORGETS:
            self._slow_until = now + self._silence
            self._silent_at = -math.inf
        return _EXCUSED * self._silence if now < self._slow_until else 0.0

    def _silence_at(self, now: float) -> float:
        return now - max(self._answered_at, self._idle_at)
