"""Run two threads that change places between any two lines of some modules, as the machine may do at the worst moment.

CPython changes threads so seldom that a race shows itself once in a million calls. Here a trace
function lets one thread run at a time, and a seed decides at each line which one goes on.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final

__all__ = ["interleaved"]

_PATIENCE: Final = 20.0
# A thread that waits for a lock which a stopped one holds is passed over after this time.
_STUCK: Final = 0.002


class _Turns:
    """Which of the threads may run: one at a time."""

    def __init__(self, number: int, seed: int) -> None:
        self._luck = random.Random(seed)  # noqa: S311 - a test repeats it
        self._changed = threading.Condition()
        self._alive = set(range(number))
        self._whose = 0

    def pass_on(self, mine: int) -> None:
        with self._changed:
            if self._luck.random() < 0.5:
                self._whose = self._luck.choice(sorted(self._alive))
                self._changed.notify_all()
            while self._whose != mine:
                if not self._changed.wait(_STUCK):
                    # Whoever's turn it is waits for a lock that another one holds.
                    self._whose = mine

    def end(self, mine: int) -> None:
        with self._changed:
            self._alive.discard(mine)
            if self._alive:
                self._whose = min(self._alive)
            self._changed.notify_all()


def interleaved(works: Sequence[Callable[[], object]], *, within: str, seed: int) -> None:
    """Run each in a thread of its own, and change threads between any lines of the files whose path has `within`.

    Raises:
        BaseException: What one of them raised.
    """
    turns = _Turns(len(works), seed)
    raised: list[BaseException] = []
    threads = [
        threading.Thread(target=_run, args=(work, number, turns, within, raised), daemon=True)
        for number, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE)
        assert not thread.is_alive(), "the threads wait for one another"
    if raised:
        raise raised[0]


def _run(
    work: Callable[[], object], mine: int, turns: _Turns, within: str, raised: list[BaseException]
) -> None:
    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        if within not in frame.f_code.co_filename:
            return None
        if event == "line":
            turns.pass_on(mine)
        return trace

    sys.settrace(trace)
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - it is raised in the test
        raised.append(error)
    finally:
        sys.settrace(None)
        turns.end(mine)
