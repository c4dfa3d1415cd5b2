"""The sample incidents of the demo, recorded through the use cases of the API."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from postfacta_postgres import Connection

from . import actions, links
from .db import Unit
from .incidents import api as incidents
from .incidents.model import Incident, Move, NewIncident
from .postmortems import api as postmortems, model
from .principal import Principal, Role
from .signals import api as signals
from .signals.model import Attachments, Fact, NewSignal
from .timeline import api as timeline
from .timeline.annotations import NewAnnotation
from .timeline.edits import AnyEdit
from .web.body import format_time, parse

SEEDER: Final = Principal(actor="demo", name="demo", role=Role.ADMIN)
"""The actor that records them."""

_FILE: Final = Path(__file__).with_name("samples.json")
# An instant in minutes from the declaration, or a date in days from today.
_MOMENT: Final = re.compile(r'"T([+-]\d+(?:\.\d+)?)"')
_DAY: Final = re.compile(r'"D([+-]\d+)"')
_PEOPLE: Final = "manual"


async def record(connection: Connection, *, now: datetime) -> None:
    """Record each sample with everything below it, in one transaction; links only lead to earlier samples."""
    unit = Unit(connection, SEEDER, None)
    known: dict[str, UUID] = {}
    for written in json.loads(_FILE.read_text()):
        sample = _read(written, now)
        incident = await _incident(unit, sample, now)
        await _attach(unit, incident, sample.get("signals", {}), now=now)
        await _remarks(unit, incident.id, sample, now=now)
        await _aftermath(unit, incident.id, sample)
        for link in sample.get("links", ()):
            new = parse(links.NewLink, {**link, "to": str(known[link["to"]])})
            await links.link(unit, incident.id, new)
        known[sample["key"]] = incident.id


async def _incident(unit: Unit, sample: Mapping[str, Any], now: datetime) -> Incident:
    new = parse(NewIncident, sample["incident"])
    incident = (await incidents.create(unit, new, now=now)).value
    for move in sample["moves"]:
        await incidents.transition(unit, incident.id, parse(Move, move), now=now)
    return incident


async def _attach(
    unit: Unit, incident: Incident, told: Mapping[str, Sequence[object]], *, now: datetime
) -> None:
    for source, items in told.items():
        # Machine sources need a token; people do not.
        token = Principal(actor="demo", name=source, scopes=frozenset({"signals:write"}), source=source)
        who = SEEDER if source == _PEOPLE else token
        facts = [Fact.of(index, parse(NewSignal, item), who) for index, item in enumerate(items)]
        done = await signals.store(Unit(unit.connection, who, None), facts, now=now)
        ids = [result.signal_id for result in done.results if result.signal_id]
        await signals.attach(unit, incident.id, Attachments(ids=ids))


async def _remarks(unit: Unit, incident: UUID, sample: Mapping[str, Any], *, now: datetime) -> None:
    for edit in sample.get("edits", ()):
        await timeline.add_edit(unit, incident, parse(AnyEdit, edit).root, now=now)
    for remark in sample.get("annotations", ()):
        await timeline.add_annotation(unit, incident, parse(NewAnnotation, remark), now=now)


async def _aftermath(unit: Unit, incident: UUID, sample: Mapping[str, Any]) -> None:
    def free(_etag: str | None) -> None:
        """Always pass: there are no concurrent writers."""

    for action in sample.get("actions", ()):
        await actions.add(unit, incident, parse(actions.NewAction, action))
    if (told := sample.get("postmortem")) is not None:
        draft = parse(model.Draft, {"content": told["content"]})
        await postmortems.write(unit, incident, draft, follows=free)
        for stage in told["to"]:
            wish = parse(model.Transition, {"to": stage})
            await postmortems.transition(unit, incident, wish, follows=free)


def _read(written: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Replace relative times: `T-2.5` is two and a half minutes before the declaration."""
    began = now.replace(second=0, microsecond=0) - timedelta(hours=written["hours_ago"])

    def moment(found: re.Match[str]) -> str:
        return f'"{format_time(min(began + timedelta(minutes=float(found[1])), now))}"'

    def day(found: re.Match[str]) -> str:
        return f'"{now.date() + timedelta(days=int(found[1]))}"'

    sample: dict[str, Any] = json.loads(_DAY.sub(day, _MOMENT.sub(moment, json.dumps(written))))
    return sample
