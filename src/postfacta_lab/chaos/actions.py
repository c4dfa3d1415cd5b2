"""What Chaos Toolkit does to a service; each action says in words what it did."""

from __future__ import annotations

import time

from .control import Lab, current
from .users import SLOW

__all__ = ["await_steady", "freeze", "kill", "observe", "restore", "start", "stop", "thaw"]


def kill(part: str) -> str:
    """End a part at once (SIGKILL to all of its processes); `service` is what the command started."""
    lab = current()
    lab.mark(f"kill {part}")
    for one in lab.named(part):
        one.kill()
    return f"{part} killed"


def stop(part: str) -> str:
    lab = current()
    lab.mark(f"stop {part}")
    for one in lab.named(part):
        one.stop()
    return f"{part} stopped"


def start(part: str) -> str:
    """Start a part; it need not be ready yet."""
    lab = current()
    lab.mark(f"start {part}")
    for one in lab.named(part):
        one.start()
    return f"{part} started"


def freeze(part: str, seconds: float = 0.0) -> str:
    """Stop a part in its tracks (SIGSTOP to all of its processes); thaw it after some seconds, if any."""
    lab = current()
    lab.mark(f"freeze {part}")
    for one in lab.named(part):
        one.freeze()
    if seconds:
        observe(seconds)
        return thaw(part)
    return f"{part} frozen"


def thaw(part: str) -> str:
    lab = current()
    for one in lab.named(part):
        one.thaw()
    lab.mark(f"thaw {part}")
    return f"{part} goes on"


def observe(seconds: float) -> str:
    """Do nothing, and let users do what they do."""
    time.sleep(seconds)  # noqa: TID251 - Chaos Toolkit has no loop
    return f"watched for {seconds:g} s"


def await_steady(within: float = 60.0) -> float:
    """Wait until users are well, note how long that took, then for a whole window more.

    They are well from the beginning of the first second in which no user failed or waited long.

    Raises:
        TimeoutError: They are not, in time.
    """
    lab = current()
    recovery = _until_well(lab, within, since=lab.load.now()) - SLOW - 1.0
    lab.recoveries.append(max(recovery, 0.0))
    observe(lab.window)
    return recovery


def restore(within: float = 60.0) -> str:
    """Thaw and start all that is ours, and wait until users are well: the standard rollback.

    Raises:
        TimeoutError: They are not, in time.
    """
    lab = current()
    lab.restore()
    # Where users have been well for long there is nothing to wait for.
    _until_well(lab, within, since=lab.marks[-1].at if lab.marks else 0.0)
    if lab.load.since(lab.load.now() - lab.window).failed:
        observe(lab.window)
    return "all runs"


def _until_well(lab: Lab, within: float, *, since: float) -> float:
    began = lab.load.now()
    while not lab.load.is_well(since):
        if lab.load.now() - began > within:
            raise TimeoutError(f"users were not well again within {within:g} s")
        time.sleep(0.05)  # noqa: TID251 - Chaos Toolkit has no loop
    return lab.load.now() - began
