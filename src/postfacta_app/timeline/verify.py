"""Verify the recorded timeline digest of each post-mortem revision."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from .model import Facts
from .rules import RULES, build


@dataclass(frozen=True, slots=True)
class Revision:
    """The timeline state recorded in a revision."""

    incident: str  # the incident's reference
    rev: int  # the number of the revision
    digest: str  # the digest of the timeline when the revision was written
    at: int  # the last instant of that timeline, in microseconds
    rules: int  # the version of the rules of the digest


Verified = Mapping[str, Sequence[Revision]]
"""The revisions by result: `equal`, `fault`, or `other_rules`, which were not compared."""


async def verify(revised: AsyncIterator[tuple[Facts, Sequence[Revision]]]) -> Verified:
    """Rebuild the timeline of each revision from the facts of its incident and compare the digests."""
    found: dict[str, list[Revision]] = {"equal": [], "fault": [], "other_rules": []}
    async for facts, revisions in revised:
        for it in revisions:
            is_comparable = it.rules == RULES
            is_equal = is_comparable and build(facts, as_of=it.at).digest == it.digest
            found["equal" if is_equal else "fault" if is_comparable else "other_rules"].append(it)
    return found


def write_metrics(result: Verified, file: Path, *, now: float) -> None:
    registry = CollectorRegistry()
    told = "Post-mortem revisions whose timeline was rebuilt, by result."
    revisions = Gauge("postfacta_timeline_revisions", told, ["result"], registry=registry)
    for name, found in result.items():
        revisions.labels(name).set(len(found))
    when = Gauge(
        "postfacta_timeline_verified_timestamp_seconds", "Time of the last verification.", registry=registry
    )
    when.set(now)
    write_to_textfile(str(file), registry)
