"""All SQL of the actions slice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import partial
from uuid import UUID, uuid4

import asyncpg

from postfacta_postgres import Database

from ..db import VISIBLE, Fetch, Unit, sees
from ..principal import Principal
from .model import Action, ActionQuery, NewAction

__all__ = ["PostgresActions"]

_SELECT = f"""
select a.id, a.incident_id, 'INC-' || i.number as incident, a.type, a.title, a.factor, a.owner, a.priority, a.due_on,
  a.url, a.status, a.closed_at, a.closed_reason, a.version, a.created_by, a.created_at, a.updated_at
  from action_items a join incidents i on i.id = a.incident_id
 where {VISIBLE}"""  # noqa: S608 - only constants of this module and db.py
_FIND = f"{_SELECT} and a.id = $3"
_OF = f"{_SELECT} and a.incident_id = $3 order by a.created_at, a.id"
# The driver maps `date.max` to infinity, so it sorts with the items without a due date.
_PAGE = f"""{_SELECT} and i.archived_at is null
   and ($3::text[] = '{{}}' or a.status = any ($3)) and ($4::text[] = '{{}}' or a.owner = any ($4))
   and ($5::boolean is null or $5 = coalesce(a.closed_at is null and a.due_on < (now() at time zone 'UTC')::date, false))
   and ($6::date is null or (coalesce(a.due_on, 'infinity'), a.id) > ($6, $7::uuid))
 order by coalesce(a.due_on, 'infinity'), a.id limit $8"""
_INSERT = """
insert into action_items (id, incident_id, type, title, factor, owner, priority, due_on, url, created_by)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""
_UPDATE = """
update action_items set type = $2, title = $3, factor = $4, owner = $5, priority = $6, due_on = $7, url = $8,
  status = $9, closed_at = $10, closed_reason = $11, version = version + 1, updated_at = clock_timestamp()
 where id = $1"""


class PostgresActions:
    """Reads action items through the database or a unit's transaction; writes inside a unit."""

    def __init__(self, database: Database) -> None:
        self._fetch: Fetch = partial(database.fetch, repeatable=True)

    async def page(
        self, principal: Principal, query: ActionQuery, after: tuple[date, UUID] | None
    ) -> Sequence[Action]:
        """Read one more than a page holds, by due date."""
        filters = (query.status, query.owner, query.overdue, *(after or (None, None)), query.limit + 1)
        rows = await self._fetch(_PAGE, *sees(principal), *filters, operation="action_list")
        return [_action(row) for row in rows]

    async def find(
        self, principal: Principal, action_id: UUID, *, fetch: Fetch | None = None
    ) -> Action | None:
        """Read one, if the caller may see its incident."""
        rows = await (fetch or self._fetch)(_FIND, *sees(principal), action_id, operation="action_get")
        return _action(rows[0]) if rows else None

    async def of(
        self, principal: Principal, incident_id: UUID, *, fetch: Fetch | None = None
    ) -> Sequence[Action]:
        """Read all of an incident, oldest first, if the caller may see it."""
        rows = await (fetch or self._fetch)(_OF, *sees(principal), incident_id, operation="actions_of")
        return [_action(row) for row in rows]

    async def insert(self, unit: Unit, incident_id: UUID, new: NewAction) -> Action:
        """Write a new one."""
        action_id = uuid4()
        await unit.execute(
            _INSERT,
            *(action_id, incident_id, new.type, new.title, new.factor, new.owner, new.priority, new.due_on),
            *(new.url, unit.principal.actor),
            operation="action_insert",
        )
        return await self._written(unit, action_id)

    async def update(self, unit: Unit, new: Action) -> Action:
        """Write the changed fields as the next version."""
        await unit.execute(
            _UPDATE,
            *(new.id, new.type, new.title, new.factor, new.owner, new.priority, new.due_on, new.url),
            *(new.status, new.closed_at, new.closed_reason),
            operation="action_update",
        )
        return await self._written(unit, new.id)

    async def _written(self, unit: Unit, action_id: UUID) -> Action:
        action = await self.find(unit.principal, action_id, fetch=unit.fetch)
        assert action is not None  # noqa: S101 - the unit has just written it
        return action


def _action(row: asyncpg.Record) -> Action:
    return Action.model_validate(dict(row.items()))
