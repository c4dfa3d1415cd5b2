"""All SQL of the export slice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from ..db import VISIBLE, Unit, sees
from ..incidents.model import Incident
from ..incidents.postgres import COLUMNS, incident_of, ref_of, where_of
from ..incidents.query import IncidentFilters, Key
from ..timeline.edits import EntryRef
from .model import Remark
from .service import Seen

__all__ = ["PostgresExport"]

_FIND = f"""
select {COLUMNS} from incidents i
 where {VISIBLE} and (i.id = $3::uuid or i.number = $4::bigint)"""  # noqa: S608 - only constants of our modules
_CHANGED = "greatest(i.updated_at, i.timeline_at)"
_PAGE = f"""
select {COLUMNS}, {_CHANGED} as changed from incidents i where {{where}} order by changed, i.id limit {{limit}}"""  # noqa: S608 - only constants of our modules
_AS_OF = "select now() - interval '15 seconds' as as_of"  # No write transaction lives longer.
_REMARKS = """
select a.root as id, a.kind, a.state, a.body, a.entry_source, a.entry_id, a.occurred_at, f.author, f.at
  from annotations a join annotations f on f.id = a.root
 where a.incident_id = $1 and not a.retracted and not exists (select from annotations l where l.supersedes = a.id)
 order by f.at, f.id"""


class PostgresExport:
    """Reads incidents and their annotations inside a unit with one snapshot."""

    async def find(self, unit: Unit, ref: UUID | int) -> Incident | None:
        """Read one, if the caller may see it."""
        row = await unit.fetchrow(_FIND, *sees(unit.principal), *ref_of(ref), operation="export_find")
        return None if row is None else incident_of(row)

    async def page(
        self, unit: Unit, filters: IncidentFilters, *, after: Key | None, limit: int
    ) -> Sequence[Seen]:
        """List those that the caller may see, least recently changed first."""
        where = where_of(unit.principal, filters)
        if after is not None:
            where.add(f"({_CHANGED}, i.id) > ({{}}::timestamptz, {{}}::uuid)", *after)
        sql = _PAGE.format(where=where, limit=where.bind(limit))
        rows = await unit.fetch(sql, *where.args, operation="export_page")
        return [Seen(incident_of(row), row["changed"]) for row in rows]

    async def as_of(self, unit: Unit) -> datetime:
        """Return the instant before which the unit misses no change."""
        rows = await unit.fetch(_AS_OF, operation="export_as_of")
        as_of: datetime = rows[0]["as_of"]
        return as_of

    async def remarks(self, unit: Unit, incident_id: UUID) -> Sequence[Remark]:
        """Read the annotations of an incident that the unit has read, oldest first."""
        rows = await unit.fetch(_REMARKS, incident_id, operation="export_remarks")
        return [
            Remark(
                entry=EntryRef(source=source, id=row["entry_id"])
                if (source := row["entry_source"])
                else None,
                **{name: row[name] for name in Remark.model_fields if name != "entry"},
            )
            for row in rows
        ]
