"""Check that the timelines which the database keeps are those that the rules make of the facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

from pydantic import TypeAdapter

from postfacta_postgres import Database

from ..db import Query, Reader, Unit
from ..principal import ANONYMOUS
from .kept import digest_in
from .model import Facts
from .rules import RULES, build

_FACTS: Final = TypeAdapter(Facts)
_ALL_FACTS: Final = """
select json_build_object(
  'signals', (
    select coalesce(json_agg(f), '[]')
      from (
        select s.id as signal_id,
               s.source,
               s.external_id,
               s.kind,
               timeline_us(s.occurred_at) as occurred_at,
               s.precision,
               s.title,
               encode(s.content_sha256, 'hex') as content_sha256,
               s.sequence,
               timeline_us(s.known_at) as known_at,
               timeline_us(s.received_at) as received_at,
               s.time_basis,
               s.services,
               s.environment,
               s.links,
               (select count(*) from signal_conflicts c where c.signal_id = s.id) as conflicts
          from signals s
         where s.id in (
           select signal_id from edits where incident_id = $1 and op = 'attach')) f),
  'changes', (
    select coalesce(json_agg(f), '[]')
      from (
        select id,
               timeline_us(at) as at,
               from_status,
               to_status,
               outcome,
               reason,
               timeline_us(occurred_at) as occurred_at
          from status_changes
         where incident_id = $1) f),
  'annotations', (
    select coalesce(json_agg(f), '[]')
      from (
        select a.id,
               a.root,
               timeline_us(a.at) as at,
               a.kind,
               a.state,
               a.body,
               timeline_us(a.occurred_at) as occurred_at,
               a.retracted,
               coalesce(first.precision, 'exact') as precision
          from annotations a
          join annotations first on first.id = a.root
         where a.incident_id = $1
           and a.occurred_at is not null) f),
  'edits', (
    select coalesce(json_agg(f), '[]')
      from (
        select id,
               timeline_us(at) as at,
               op,
               signal_id,
               source,
               external_id,
               value
          from edits
         where incident_id = $1) f))::text"""


_REVISIONS: Final = """
select i.id,
       i.number,
       r.rev,
       r.timeline_digest as digest,
       timeline_us(r.timeline_at) as at,
       r.rules
  from incidents i
  left join postmortem_revisions r on r.incident_id = i.id
 order by i.id, r.rev"""
REPAIR: Final = (
    "select timeline_rebuild(id) from (select id from incidents where number = {} for no key"
    " update) i"
)
"""Writes the kept timeline of an incident again; for the role that owns the tables."""


async def facts_in(q: Query, incident_id: UUID) -> Facts:
    """Read the facts of an incident in one statement, so from one snapshot."""
    rows = await q.fetch(_ALL_FACTS, incident_id, operation="timeline_facts")
    return _FACTS.validate_json(rows[0][0])


async def verify(database: Database) -> Mapping[str, Sequence[Any]]:
    """Build the timeline of each incident from its facts, and compare its digests.

    The kept timeline must have the digest of the present, and each revision of a post-mortem that
    of its time.

    Return the rows of the revisions by result: `equal`, `fault`, or `other_rules`, which were not
    compared. The rows of `kept_fault` are the incidents whose kept timeline is not the one of their
    facts.
    """
    results: dict[str, list[Any]] = {"equal": [], "fault": [], "other_rules": [], "kept_fault": []}
    rows = await Reader(database, ANONYMOUS).fetch(_REVISIONS, operation="revisions")
    for incident_id, group in groupby(rows, itemgetter("id")):
        revisions = list(group)
        async with database.transaction(isolation="repeatable read") as connection:
            unit = Unit(connection, ANONYMOUS, None)
            facts = await facts_in(unit, incident_id)
            kept_digest = await digest_in(unit, incident_id)
        if build(facts).digest != kept_digest:
            results["kept_fault"].append(revisions[0])
        for revision in revisions:
            if revision["rev"] is not None:
                results[_result(facts, revision)].append(revision)
    return results


def _result(facts: Facts, revision: Any) -> str:
    if revision["rules"] != RULES:
        return "other_rules"
    is_equal = build(facts, as_of=revision["at"]).digest == revision["digest"]
    return "equal" if is_equal else "fault"
