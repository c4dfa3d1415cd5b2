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


class Samples:
    """Records the samples in one transaction; they end `now`."""

    def __init__(self, connection: Connection, *, now: datetime) -> None:
        self._connection = connection
        self._now = now
        self._unit = Unit(connection, SEEDER, None)

    async def record(self) -> None:
        """Record each sample with everything below it; links only lead to earlier samples."""
        known: dict[str, UUID] = {}
        for written in json.loads(_FILE.read_text()):
            sample = self._read(written)
            incident = await self._incident(sample)
            await self._attach(incident, sample.get("signals", {}))
            await self._remarks(incident.id, sample)
            await self._aftermath(incident.id, sample)
            for link in sample.get("links", ()):
                new = parse(links.NewLink, {**link, "to": str(known[link["to"]])})
                await links.link(self._unit, incident.id, new)
            known[sample["key"]] = incident.id

    async def _incident(self, sample: Mapping[str, Any]) -> Incident:
        new = parse(NewIncident, sample["incident"])
        incident = (await incidents.create(self._unit, new, now=self._now)).value
        for move in sample["moves"]:
            wish = parse(Move, move)
            await incidents.transition(self._unit, incident.id, wish, now=self._now)
        return incident

    async def _attach(self, incident: Incident, told: Mapping[str, Sequence[object]]) -> None:
        for source, items in told.items():
            # Machine sources need a token; people do not.
            token = Principal(actor="demo", name=source, scopes=frozenset({"signals:write"}), source=source)
            who = SEEDER if source == _PEOPLE else token
            facts = [Fact.of(index, parse(NewSignal, item), who) for index, item in enumerate(items)]
            unit = Unit(self._connection, who, None)
            done = await signals.store(unit, facts, now=self._now)
            ids = [result.signal_id for result in done.results if result.signal_id]
            await signals.attach(self._unit, incident.id, Attachments(ids=ids))

    async def _remarks(self, incident: UUID, sample: Mapping[str, Any]) -> None:
        for edit in sample.get("edits", ()):
            await timeline.add_edit(self._unit, incident, parse(AnyEdit, edit).root, now=self._now)
        for remark in sample.get("annotations", ()):
            new = parse(NewAnnotation, remark)
            await timeline.add_annotation(self._unit, incident, new, now=self._now)

    async def _aftermath(self, incident: UUID, sample: Mapping[str, Any]) -> None:
        for action in sample.get("actions", ()):
            await actions.add(self._unit, incident, parse(actions.NewAction, action))
        if (told := sample.get("postmortem")) is not None:
            draft = parse(model.Draft, {"content": told["content"]})
            await postmortems.write(self._unit, incident, draft, follows=_whatever_there_is)
            for stage in told["to"]:
                wish = parse(model.Transition, {"to": stage})
                await postmortems.transition(self._unit, incident, wish, follows=_whatever_there_is)

    def _read(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """Replace relative times: `T-2.5` is two and a half minutes before the declaration."""
        began = self._now.replace(second=0, microsecond=0) - timedelta(hours=written["hours_ago"])

        def moment(found: re.Match[str]) -> str:
            return f'"{format_time(min(began + timedelta(minutes=float(found[1])), self._now))}"'

        def day(found: re.Match[str]) -> str:
            return f'"{self._now.date() + timedelta(days=int(found[1]))}"'

        sample: dict[str, Any] = json.loads(_DAY.sub(day, _MOMENT.sub(moment, json.dumps(written))))
        return sample


def _whatever_there_is(_etag: str | None) -> None:
    """Always pass: there are no concurrent writers."""
