"""What can be done to one direction of a TCP connection, as Toxiproxy 2.12 names and means it.

Nothing here waits or holds bytes. From the first chunk of a direction, the toxics in force work out
one step: how many of its bytes go next, when, and what becomes of them. The mover of the bytes
waits until then, and computes the step again if the toxics change meanwhile. So toxics come and go
while connections live, and no byte is lost or reordered.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

# Of a toxic, all whole numbers; their units are those of the original.
Attributes = Mapping[str, int]
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
    attributes: Attributes


@dataclass(slots=True)
class Stage:
    """How far a toxic has come on one connection."""

    toxic: Toxic
    acts: bool  # decided by its toxicity, once for a connection
    free: float  # when it takes the next piece; at first, when it began
    sent: int = 0  # bytes, where they are counted

    @classmethod
    def of(cls, toxic: Toxic, now: float, before: Stage | None) -> Stage:
        """Decide by chance whether it acts, unless this very toxic was there before.

        What was sent already still counts.
        """
        if before is not None and before.toxic is toxic:
            return before
        acts = random.random() < toxic.toxicity  # noqa: S311 - no secret
        sent = before.sent if before else 0
        return cls(toxic, acts, now, sent)

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
    chunk: Chunk | None,
    stages: Sequence[Stage],
    last: float,
) -> tuple[Step, list[Stage]]:
    """Return what happens next, and how far the toxics will have come then.

    `last` is when bytes went before.
    """
    size = len(chunk.data) if chunk else 0
    while True:
        after = [replace(stage) for stage in stages]
        if chunk is None:
            step = Step("wait", due=math.inf, size=0, luck=0.0)
        elif chunk.data:
            step = Step("pass", due=chunk.came, size=size, luck=chunk.luck)
        else:
            step = Step("end", due=max(chunk.came, last), size=0, luck=0.0)
        for stage in after:
            if stage.acts and step.fate not in {"swallow", "reset"}:
                act, _ = TYPES[stage.toxic.type]
                act(stage.toxic.attributes, stage, step)
        if step.size == size:
            return step, after
        size = step.size  # a smaller piece takes less time, in the toxics before too


# Lengths of time are in milliseconds, those of the slicer in microseconds.
def _latency(attributes: Attributes, stage: Stage, step: Step) -> None:
    if step.fate == "pass":
        jitter = step.luck * attributes["jitter"]
        milliseconds = attributes["latency"] + jitter
        step.due += max(0.0, milliseconds) / 1000


def _bandwidth(attributes: Attributes, stage: Stage, step: Step) -> None:
    """Let a piece go when its time on the wire is over, which begins after the one before."""
    rate = attributes["rate"] * 1000  # bytes a second
    largest = int(rate * BURST)
    step.size = min(step.size, largest)
    step.due = max(step.due, stage.free)
    step.due += step.size / rate
    stage.free = step.due


def _slow_close(attributes: Attributes, stage: Stage, step: Step) -> None:
    if step.fate == "end":
        step.due += attributes["delay"] / 1000


def _timeout(attributes: Attributes, stage: Stage, step: Step) -> None:
    deadline = math.inf
    if attributes["timeout"]:
        deadline = stage.free + attributes["timeout"] / 1000
    if step.fate == "pass" and step.due < deadline:
        step.fate = "swallow"
    else:
        step.fate = "end"
        step.due = min(step.due, deadline)


def _reset_peer(attributes: Attributes, stage: Stage, step: Step) -> None:
    if step.fate != "wait":
        step.fate = "reset"
        step.due = max(step.due, stage.free)
        step.due += attributes["timeout"] / 1000


def _slicer(attributes: Attributes, stage: Stage, step: Step) -> None:
    variation = round(step.luck * attributes["size_variation"])
    size = attributes["average_size"] + variation
    step.size = min(step.size, size)
    step.due = max(step.due, stage.free)
    stage.free = step.due + attributes["delay"] / 1_000_000


def _limit_data(attributes: Attributes, stage: Stage, step: Step) -> None:
    remaining = attributes["bytes"] - stage.sent
    if remaining <= 0 and (stage.sent or step.fate == "pass"):
        step.fate = "end"
        step.due = min(step.due, stage.free)
    elif step.fate == "pass":
        step.size = min(step.size, remaining)
        stage.sent += step.size
        stage.free = step.due


_Effect = Callable[[Attributes, Stage, Step], None]  # changes the step and its own stage

# What each type does, and its attributes.
TYPES: Mapping[str, tuple[_Effect, tuple[str, ...]]] = {
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
    _, names = TYPES[kind]
    for name in names:
        least = 0
        if name == "rate":
            least = 1
        elif name == "average_size":
            least = attributes["size_variation"] + 1
        value = fields.get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"attribute {name} must be an integer of {least} or more")
        attributes[name] = value
    return attributes
