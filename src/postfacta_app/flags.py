"""Feature flags: what an operator may turn off by name, without a restart.

The file of the setting `flags`, or else OpenFeature's provider for the domain `postfacta`, is asked
at times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Final

import anyio.to_thread
from starlette.responses import Response

from postfacta_postgres import Connection, Database
from postfacta_web.switches import State, Switches

from .errors import FeatureOffError
from .web.routes import Call, RouteClass, Rule

DOMAIN: Final = "postfacta"  # of OpenFeature
INTERVAL: Final = 2.0  # seconds between evaluations


@dataclass(frozen=True, slots=True)
class Flag:
    """A feature that may be turned off."""

    name: str
    title: str  # as callers know it
    owner: str  # who decides whether it is still needed
    until: date  # when that is decided at the latest; after it, a report lists it
    covers: Callable[[Rule], bool]  # which routes are refused while it is off


_TEAM = "reliability-team"
_SPRING = date(2027, 5, 31)
_AUTUMN = date(2027, 11, 30)
_WRITES = {RouteClass.WRITE, RouteClass.INGEST}
_PAGES = "/incidents/{ref}/postmortem"
FLAGS: Final = (
    Flag(
        "writes", "Recording and changing", _TEAM, _AUTUMN, lambda rule: rule.route_class in _WRITES
    ),
    Flag("ingest", "Ingestion", _TEAM, _AUTUMN, lambda rule: rule.route_class is RouteClass.INGEST),
    Flag("exports", "Exports", _TEAM, _SPRING, lambda rule: rule.path.endswith("/export")),
    Flag("registration", "Registration", _TEAM, _SPRING, lambda rule: rule.path == "/register"),
    Flag(
        "postmortem-pages",
        "Post-mortems",
        _TEAM,
        _SPRING,
        lambda rule: rule.path.startswith(_PAGES),
    ),
    Flag(
        "v0", "Version 0 of the API", _TEAM, _SPRING, lambda rule: rule.path.startswith("/api/v0/")
    ),
)


class Flags(Switches):
    """What is on, which routes are refused by what is off, and an audit row for each change."""

    def __init__(
        self, file: Path | None, *, count: Callable[..., object] = lambda *_: None
    ) -> None:
        super().__init__([flag.name for flag in FLAGS], file=file, domain=DOMAIN, every=INTERVAL)
        self._count = count
        # With a file, one may have been changed while no instance was running.
        self._recorded: Mapping[str, State] = {} if file else self.states

    def guard(self, rule: Rule) -> Rule:
        """Return a rule that is refused while a flag that covers it is off."""
        covering = [flag for flag in FLAGS if flag.covers(rule)]
        if not covering:
            return rule

        async def handle(call: Call) -> Response:
            for flag in covering:
                if not self.is_on(flag.name):
                    self._count("postfacta_feature_flag_refusals_total", flag.name)
                    detail = f"{flag.title}: turned off by an operator for now"
                    raise FeatureOffError(detail, headers={"Retry-After": "60"})
            return await rule.handler(call)

        return replace(rule, handler=handle, problems=(*rule.problems, FeatureOffError.slug))

    async def audit(self, database: Database) -> None:
        if self.states != self._recorded:
            self._recorded = await database.run_transaction(self._record)

    async def _record(self, connection: Connection) -> Mapping[str, State]:
        await connection.execute(_LOCK, operation="flags")
        # Another instance may have recorded a later change by now.
        await anyio.to_thread.run_sync(self.reread)
        states = self.states
        details = json.dumps({f"flag:{name}": asdict(state) for name, state in states.items()})
        await connection.execute(_RECORD, details, operation="flags")
        return states


# Several instances see the same change: the first records it.
_LOCK: Final = "select pg_advisory_xact_lock(hashtext('postfacta.flags'))"
# A flag is compared with its last row. Only the last million rows of the log are searched.
_RECORD: Final = """
insert into audit_log (actor, action, object, detail)
select 'operator', 'flag.change', key, value
  from jsonb_each($1::jsonb)
 where value -> 'on' is distinct from coalesce((
  select detail -> 'on'
    from audit_log
   where seq > (select max(seq) from audit_log) - 1000000
     and action = 'flag.change'
     and object = key
   order by seq desc
   limit 1), 'true')"""
