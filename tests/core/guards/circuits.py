"""What the tests of circuits share.

A small configuration, and a circuit that is played by steps.
"""

from __future__ import annotations

from typing import Final

from postfacta_core.events import CircuitChanged
from postfacta_core.guards._circuit import (
    REFUSED,
    Circuit,
    CircuitConfig,
    CircuitState,
    Classification,
)

__all__ = [
    "CLOSED",
    "CONFIG",
    "FAILURE",
    "FORCED_OPEN",
    "HALF_OPEN",
    "IGNORED",
    "OPEN",
    "SUCCESS",
    "VERDICTS",
    "Played",
]

CLOSED, OPEN, HALF_OPEN, FORCED_OPEN = CircuitState
VERDICTS: Final[tuple[Classification, ...]] = ("success", "failure", "ignored")
SUCCESS, FAILURE, IGNORED = VERDICTS
# Every number of the tests is a sum of few powers of two, so that the oracle may add them in
# another order.
CONFIG = CircuitConfig(
    failure_rate_threshold=0.5,
    slow_call_rate_threshold=0.5,
    slow_call_duration=2.0,
    sliding_window_size=4,
    minimum_number_of_calls=4,
    wait_duration_in_open_state=8.0,
    wait_jitter=0.25,
    max_wait_duration_in_open_state=32.0,
    permitted_number_of_calls_in_half_open_state=2,
    max_wait_duration_in_half_open_state=16.0,
)


class Played:
    """A circuit and a clock, played by hand."""

    def __init__(self, config: CircuitConfig = CONFIG) -> None:
        self.moves: list[CircuitChanged] = []
        self.now = 100.0
        self.circuit = Circuit("db", config, self.now, moved=self.moves.append)

    def enter(self) -> int:
        return self.circuit.pass_closed() or self.circuit.enter(self.now)

    def leave(
        self,
        permit: int,
        outcome: Classification,
        *,
        seconds: float = 0.0,
        luck: float = 0.0,
        asked: float = 0.0,
    ) -> str:
        started = self.now - seconds
        return self.circuit.leave(
            permit, outcome, started=started, now=self.now, luck=luck, retry_after=asked
        )

    def play(self, calls: str, *, luck: float = 0.0) -> Played:
        """Make calls: S succeeds, F fails, I is ignored, L succeeds late, X fails late, - is refused."""
        for letter in calls:
            permit = self.enter()
            assert (permit == REFUSED) is (letter == "-"), calls
            if letter != "-":
                outcome = SUCCESS if letter in "SL" else FAILURE if letter in "FX" else IGNORED
                self.leave(permit, outcome, seconds=2.0 if letter in "LX" else 0.0, luck=luck)
        return self

    def fail_late(self, era: int) -> Played:
        """Let a call fail late that passed in an era."""
        self.circuit.fail_late(era, now=self.now, luck=0.0)
        return self

    def wait(self, seconds: float) -> Played:
        self.now += seconds
        return self

    @property
    def state(self) -> CircuitState:
        return self.circuit.statistics(self.now).state

    @property
    def path(self) -> list[tuple[str, str, float, str]]:
        return [(move.old, move.new, move.at, move.reason) for move in self.moves]
