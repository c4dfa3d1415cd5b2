"""What Chaos Toolkit does to PostFacta alone; each says in words what it did."""

from __future__ import annotations

import time

from chaos.failover import FailoverStack
from chaos.lab import ours

__all__ = ["fail_over", "roll"]


def roll(grace: float = 45.0) -> str:
    """Restart each instance in turn as a deployment does.

    SIGTERM, wait for the end, start, wait until ready.
    """
    lab = ours()
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
    lab = ours()
    stack = lab.own_stack()
    if not isinstance(stack, FailoverStack):
        raise RuntimeError("there is no standby: set `standby: true` in the configuration")  # noqa: TRY004 - not a type's fault
    lab.mark("kill primary")
    stack.postgres.kill()
    stack.fail_over()
    lab.mark("standby promoted")
    return "the standby is the primary now"
