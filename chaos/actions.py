"""What Chaos Toolkit does to the service; each says in words what it did."""

from __future__ import annotations

import time

from chaos.failover import FailoverStack
from chaos.lab import Lab, current
from chaos.load import SLOW

__all__ = [
    "await_steady",
    "fail_over",
    "freeze",
    "kill",
    "observe",
    "restore",
    "roll",
    "start",
    "stop",
    "thaw",
]


def kill(part: str) -> str:
    """End a part at once (SIGKILL to all of its processes); `instances` means all of them."""
    lab = current()
    lab.mark(f"kill {part}")
    for name in _named(lab, part):
        lab.own_stack().parts[name].kill()
    return f"{part} killed"


def stop(part: str) -> str:
    """End a part in order."""
    lab = current()
    lab.mark(f"stop {part}")
    for name in _named(lab, part):
        lab.own_stack().parts[name].stop()
    return f"{part} stopped"


def start(part: str) -> str:
    """Start a part; an instance need not be ready yet."""
    lab = current()
    lab.mark(f"start {part}")
    for name in _named(lab, part):
        lab.own_stack().parts[name].start()
    return f"{part} started"


def freeze(part: str, seconds: float = 0.0) -> str:
    """Stop a part in its tracks (SIGSTOP to all of its processes); thaw it after some seconds, if any."""
    lab = current()
    lab.mark(f"freeze {part}")
    lab.own_stack().parts[part].freeze()
    if seconds:
        observe(seconds)
        return thaw(part)
    return f"{part} frozen"


def thaw(part: str) -> str:
    """Resume a part."""
    lab = current()
    lab.own_stack().parts[part].thaw()
    lab.mark(f"thaw {part}")
    return f"{part} goes on"


def roll(grace: float = 45.0) -> str:
    """Restart each instance in turn as a deployment does: SIGTERM, wait for the end, start, wait until ready."""
    lab = current()
    took: list[str] = []
    for instance in lab.own_stack().instances:
        lab.mark(f"SIGTERM {instance.name}")
        began = time.monotonic()
        lab.exit_codes.append(instance.terminate(grace))
        took.append(f"{instance.name} ended after {time.monotonic() - began:.1f} s")
        instance.start()
        instance.wait_ready()
    lab.mark("all restarted")
    return ", ".join(took)


def fail_over() -> str:
    """Kill the primary, and make the standby the primary; at once, as a cluster manager would."""
    lab = current()
    stack = lab.own_stack()
    if not isinstance(stack, FailoverStack):
        raise RuntimeError("there is no standby: set `standby: true` in the configuration")  # noqa: TRY004 - not a type's fault
    lab.mark("kill primary")
    stack.postgres.kill()
    stack.fail_over()
    lab.mark("standby promoted")
    return "the standby is the primary now"


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
    if lab.stack is not None:
        lab.stack.restore()
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


def _named(lab: Lab, part: str) -> list[str]:
    if part == "instances":
        return [instance.name for instance in lab.own_stack().instances]
    return [part]
