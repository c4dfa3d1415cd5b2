"""What can be done to one direction of a TCP connection, as Toxiproxy 2.12 names and means it.

Nothing here waits or holds bytes. From the first chunk of a direction, the toxics in force work out
one step: how many of its bytes go next, when, and what becomes of them. Who moves the bytes waits
for that, and asks anew if the toxics change meanwhile. That is how they come and go while
connections live, and nothing is lost or moved.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

STREAMS = ("upstream", "downstream")
BURST = 0.1  # seconds' worth of bytes that a bandwidth lets through at once, as in the original


class Chunk(NamedTuple):
    """Some bytes, or none for the end; when they came; and how chance treats them, from -1 to 1."""

    data: bytes
    came: float
    luck: float


@dataclass(frozen=True, eq=False)
class Toxic:
    """What a type does, with these attributes, to a stream.

    `upstream` (client to server) or `downstream`.
    """

    name: str
    type: str
    stream: str
    toxicity: float
    attributes: Mapping[str, int]


@dataclass(slots=True)
class Stage:
    """How far a toxic has come on one connection."""

    toxic: Toxic
    acts: bool  # or the dice said no
    free: float  # when it takes the next piece; at first, when it began
    sent: int = 0  # bytes, where they are counted

    @classmethod
    def of(cls, toxic: Toxic, now: float, before: Stage | None) -> Stage:
        """Throw the dice, unless this very toxic was there before.

        What was sent already still counts.
        """
        if before is not None and before.toxic is toxic:
            return before
        acts = random.random() < toxic.toxicity  # noqa: S311 - no secret
        return cls(toxic, acts, now, before.sent if before else 0)

    @property
    def swallows(self) -> bool:
        return self.acts and self.toxic.type == "timeout"


@dataclass(slots=True)
class Step:
    """What happens next, when, and to how many of the first bytes.

    Each toxic changes it in turn.
    """

    fate: Literal["wait", "pass", "swallow", "end", "reset"]
    due: float
    size: int
    luck: float


def next_step(
    chunk: Chunk | None, stages: Sequence[Stage], last: float
) -> tuple[Step, list[Stage]]:
    """Return what happens next, and how far the toxics will have come then.

    `last` is when bytes went before.
    """
    size = len(chunk.data) if chunk else 0
    while True:
        after = [replace(stage) for stage in stages]
        if chunk is None:
            step = Step("wait", math.inf, 0, 0.0)
        elif chunk.data:
            step = Step("pass", chunk.came, size, chunk.luck)
        else:
            step = Step("end", max(chunk.came, last), 0, 0.0)
        for stage in after:
            if stage.acts and step.fate not in {"swallow", "reset"}:
                act, _ = TYPES[stage.toxic.type]
                act(stage.toxic.attributes, stage, step)
        if step.size == size:
            return step, after
        size = step.size  # a smaller piece takes less time, in the toxics before too


def _latency(has: Mapping[str, int], stage: Stage, step: Step) -> None:
    if step.fate == "pass":
        step.due += max(0.0, has["latency"] + step.luck * has["jitter"]) / 1000


def _bandwidth(has: Mapping[str, int], stage: Stage, step: Step) -> None:
    """Let a piece go when its time on the wire is over, which begins after the one before."""
    rate = has["rate"] * 1000
    step.size = min(step.size, int(rate * BURST))
    step.due = stage.free = max(step.due, stage.free) + step.size / rate


def _slow_close(has: Mapping[str, int], stage: Stage, step: Step) -> None:
    if step.fate == "end":
        step.due += has["delay"] / 1000


def _timeout(has: Mapping[str, int], stage: Stage, step: Step) -> None:
    over = stage.free + has["timeout"] / 1000 if has["timeout"] else math.inf
    if step.fate == "pass" and step.due < over:
        step.fate = "swallow"
    else:
        step.fate = "end"
        step.due = min(step.due, over)


def _reset_peer(has: Mapping[str, int], stage: Stage, step: Step) -> None:
    if step.fate != "wait":
        step.fate = "reset"
        step.due = max(step.due, stage.free) + has["timeout"] / 1000


def _slicer(has: Mapping[str, int], stage: Stage, step: Step) -> None:
    step.size = min(step.size, has["average_size"] + round(step.luck * has["size_variation"]))
    step.due = max(step.due, stage.free)
    stage.free = step.due + has["delay"] / 1_000_000


def _limit_data(has: Mapping[str, int], stage: Stage, step: Step) -> None:
    if stage.sent >= has["bytes"] and (stage.sent or step.fate == "pass"):
        step.fate = "end"
        step.due = min(step.due, stage.free)
    elif step.fate == "pass":
        step.size = min(step.size, has["bytes"] - stage.sent)
        stage.sent += step.size
        stage.free = step.due


# What each type does, and its attributes.
TYPES: Mapping[str, tuple[Callable[[Mapping[str, int], Stage, Step], None], tuple[str, ...]]] = {
    "latency": (_latency, ("latency", "jitter")),
    "bandwidth": (_bandwidth, ("rate",)),
    "slow_close": (_slow_close, ("delay",)),
    "timeout": (_timeout, ("timeout",)),
    "reset_peer": (_reset_peer, ("timeout",)),
    "slicer": (_slicer, ("size_variation", "average_size", "delay")),
    "limit_data": (_limit_data, ("bytes",)),
}


def attributes_of(kind: str, fields: Mapping[str, object]) -> dict[str, int]:
    """Return what a type takes of what is given, and 0 for the rest.

    `ValueError` if one makes no sense.
    """
    attributes: dict[str, int] = {}
    for name in TYPES[kind][1]:
        least = {"rate": 1, "average_size": attributes.get("size_variation", 0) + 1}.get(name, 0)
        value = fields.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"attribute {name} must be an integer of {least} or more")
        attributes[name] = value
    return attributes
