"""What Chaos Toolkit does to a service; each action says in words what it did."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..engine.processes import wait_until
from .control import SLOW, current

__all__ = ["await_steady", "freeze", "kill", "observe", "restore", "start", "stop", "thaw"]


def _action(name: str) -> Callable[[str], str]:
    def do(part: str) -> str:
        lab = current()
        parts = lab.named(part)
        lab.mark(f"{name} {part}")
        for target in parts:
            getattr(target, name)()
        return f"{name} {part}: done"

    return do


# To all processes of a part; `service` is what the command started. What was started need not be
# ready yet.
kill: Callable[[str], str] = _action("kill")
stop: Callable[[str], str] = _action("stop")
start: Callable[[str], str] = _action("start")
thaw: Callable[[str], str] = _action("thaw")
_freeze = _action("freeze")


def freeze(part: str, seconds: float = 0.0) -> str:
    """Stop a part in its tracks (SIGSTOP to all of its processes).

    Thaw it after some seconds, if any.
    """
    done = _freeze(part)
    if seconds:
        observe(seconds)
        return thaw(part)
    return done


def observe(seconds: float) -> str:
    """Do nothing, and let users do what they do."""
    time.sleep(seconds)  # noqa: TID251 - Chaos Toolkit has no loop
    return f"watched for {seconds:g} s"


def await_steady(within: float = 60.0) -> float:
    """Wait until users are well, or raise `TimeoutError`.

    Note how long that took, then wait for a whole window more.

    They are well from the beginning of the first second in which no user failed or waited long.
    """
    lab = current()
    recovery = _until_well(within, since=lab.load.now()) - SLOW - 1.0
    lab.recoveries.append(max(recovery, 0.0))
    observe(lab.window)
    return recovery


def restore(within: float = 60.0) -> str:
    """Thaw and start all that is ours, and wait until users are well, or raise `TimeoutError`.

    The standard rollback.
    """
    lab = current()
    lab.restore()
    # Where users have been well for long there is nothing to wait for.
    _until_well(within, since=lab.latest)
    if lab.recent().failed:
        observe(lab.window)
    return "all runs"


def _until_well(within: float, *, since: float) -> float:
    load = current().load
    return wait_until(
        lambda: load.is_well(since), "users are well again", within=within, every=0.05
    )
