"""Facts as rows: how tests write them to a database as they are."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from uuid import UUID

from postfacta_app.migrations import revision
from postfacta_app.timeline.model import Facts, moment
from postfacta_postgres import Database
from tests.app.timeline.worlds import NOON

__all__ = ["Row", "incident_of", "keep", "revision_of", "rows"]

_INCIDENT = """
insert into incidents (id, title, description, severity, reporter, declared_at, created_by, timeline_at)
values ($1, 'An incident', 'Made by a test', 'LOW', 'test', now(), 'test', $2)"""
_SIGNAL = """
insert into signals (id, source, external_id, kind, occurred_at, known_at, sequence, precision, time_basis, title,
  content_sha256, received_at, services, links, received_by)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, decode($11, 'hex'), $12, $13, $14::text::jsonb, 'test')"""
_CONFLICT = """
insert into signal_conflicts (signal_id, content_sha256, content, received_by)
values ($1, sha256($2::text::bytea), '{}', 'test')"""
_CHANGE = """
insert into status_changes (id, incident_id, from_status, to_status, outcome, reason, occurred_at, at, actor)
values ($1, $2, $3, $4, $5, $6, $7, $8, 'test')"""
_NOTE = """
insert into annotations (id, root, supersedes, incident_id, kind, body, occurred_at, retracted, author, at, precision)
values ($1, $2, $3, $4, 'note', $5, $6, $7, 'test', $8, $9)"""
_EDIT = """
insert into edits (id, incident_id, at, op, signal_id, source, external_id, value, reason, actor)
values ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, 'because', 'test')"""

Row = tuple[str, *tuple[object, ...]]


async def revision_of(dsn: str) -> str | None:
    """Read the revision of a database."""
    async with Database(dsn) as database:
        await database.wait_connected()
        return await revision(database)


async def keep(write: Callable[..., Awaitable[object]], facts: Facts, incident: UUID) -> None:
    """Write an incident and its facts."""
    for sql, *values in (*incident_of(facts, incident), *rows(facts, incident)):
        await write(sql, *values)


def incident_of(facts: Facts, incident: UUID) -> Iterator[Row]:
    """Return the rows that must come first.

    The incident, and the signals with other contents of theirs.
    """
    yield _INCIDENT, incident, moment(NOON)
    for it in facts.signals:
        yield (
            _SIGNAL, it.signal_id, it.source, it.external_id, it.kind, _at(it.occurred_at), _at(it.known_at), it.sequence,
            it.precision, it.time_basis, it.title, it.content_sha256, _at(it.received_at), list(it.services),
            json.dumps(it.links),
        )  # fmt: skip
        for n in range(it.conflicts):
            yield _CONFLICT, it.signal_id, str(n)


def rows(facts: Facts, incident: UUID) -> Iterator[Row]:
    """Return the rows of the timeline; in any order but that of an annotation's versions."""
    for it in facts.changes:
        words = (it.from_status, it.to_status, it.outcome, it.reason)
        yield _CHANGE, it.id, incident, *words, _at(it.occurred_at), _at(it.at)
    last: dict[UUID, UUID] = {}
    for note in facts.annotations:
        before, last[note.root] = last.get(note.root), note.id
        yield (
            _NOTE, note.id, note.root, before, incident, note.body, _at(note.occurred_at), note.retracted, _at(note.at),
            note.precision if before is None else None,
        )  # fmt: skip
    for edit in facts.edits:
        value = None if edit.value is None else json.dumps(edit.value)
        target = (edit.signal_id, edit.source, edit.external_id)
        yield _EDIT, edit.id, incident, _at(edit.at), edit.op, *target, value


def _at(us: int | None) -> datetime | None:
    return None if us is None else moment(us)
