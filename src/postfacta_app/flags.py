"""Feature flags: what an operator may turn off by name, without a restart.

The file of the setting `flags`, or else OpenFeature's provider for the domain `postfacta`, is asked at times.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import anyio.to_thread
from openfeature import api
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError
from starlette.responses import Response

from postfacta_core.events import Observer
from postfacta_postgres import Connection, Database

from .db import repeating
from .errors import FeatureOffError
from .settings import SettingsError
from .web.slices import Call, RouteClass, Rule

DOMAIN: Final = "postfacta"  # of OpenFeature
INTERVAL: Final = 2.0  # seconds between evaluations
_LOGGER: Final = logging.getLogger("postfacta_app")


@dataclass(frozen=True, slots=True)
class Flag:
    """A feature that may be turned off."""

    name: str
    what: str  # as callers know it
    owner: str  # who decides whether it is still needed
    until: date  # when that is decided at the latest; after it, a test fails
    covers: Callable[[Rule], bool]  # which routes are refused while it is off


_TEAM, _SPRING, _AUTUMN = "reliability-team", date(2027, 5, 31), date(2027, 11, 30)
_WRITES, _PAGES = {RouteClass.WRITE, RouteClass.INGEST}, "/incidents/{ref}/postmortem"
FLAGS: Final = (
    Flag("writes", "Recording and changing", _TEAM, _AUTUMN, lambda rule: rule.route_class in _WRITES),
    Flag("ingest", "Ingestion", _TEAM, _AUTUMN, lambda rule: rule.route_class is RouteClass.INGEST),
    Flag("exports", "Exports", _TEAM, _SPRING, lambda rule: rule.path.endswith("/export")),
    Flag("registration", "Registration", _TEAM, _SPRING, lambda rule: rule.path == "/register"),
    Flag("postmortem-pages", "Post-mortems", _TEAM, _SPRING, lambda rule: rule.path.startswith(_PAGES)),
    Flag("v0", "Version 0 of the API", _TEAM, _SPRING, lambda rule: rule.path.startswith("/api/v0/")),
)


class State(BaseModel, extra="forbid", frozen=True, strict=True):
    """Whether a feature is on, and why not."""

    on: bool = True
    reason: Annotated[str, StringConstraints(max_length=200)] = ""


_FILE: Final = TypeAdapter(dict[str, State])


def read_flags(file: Path) -> dict[str, State]:
    """Read a file such as `{"exports": {"on": false, "reason": "INC-12"}}`; what it does not name is on."""
    try:
        named = _FILE.validate_json(file.read_bytes())
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise SettingsError(f"{file}: {where}: {first['msg']}") from None
    known = sorted(flag.name for flag in FLAGS)
    if unknown := sorted(named.keys() - known):
        raise SettingsError(f"{file}: {', '.join(unknown)}: unknown; known are {', '.join(known)}")
    return dict.fromkeys(known, State()) | named


class Switches:
    """What is on, as last evaluated; at first, all is. `is_valid` says whether the file could be read."""

    def __init__(self, file: Path | None, *, count: Callable[..., object] = lambda *_: None) -> None:
        self.is_valid: bool = True
        self._file = file
        self._count = count
        self._states = dict.fromkeys((flag.name for flag in FLAGS), State())
        # With a file, one may have been changed while no instance was running.
        self._recorded = {} if file else self._states
        self._client = api.get_client(DOMAIN)

    def is_on(self, name: str) -> bool:
        return self._states[name].on

    def guard(self, rule: Rule) -> Rule:
        """Return a rule that is refused while a flag that covers it is off."""
        covering = [flag for flag in FLAGS if flag.covers(rule)]
        if not covering:
            return rule

        async def handle(call: Call) -> Response:
            for flag in covering:
                if not self.is_on(flag.name):
                    self._count("postfacta_feature_flag_refusals_total", flag.name)
                    detail = f"{flag.what}: turned off by an operator for now"
                    raise FeatureOffError(detail, headers={"Retry-After": "60"})
            return await rule.handler(call)

        return replace(rule, handler=handle, problems=(*rule.problems, FeatureOffError.slug))

    def reread(self) -> None:
        """Read the file, or ask the provider; call it in a thread."""
        try:
            states = read_flags(self._file) if self._file else self._of_provider()
        except SettingsError as error:
            if self.is_valid:
                _LOGGER.error("flags.unreadable", extra={"reason": str(error)})  # noqa: TRY400 - an operator's mistake
            self.is_valid = False
            return
        self.is_valid = True
        for name, state in states.items():
            if state.on != self.is_on(name):
                self._states = {**self._states, name: state}
                _LOGGER.warning("flag.changed", extra={"flag": name, **state.model_dump()})

    def _of_provider(self) -> Mapping[str, State]:
        found = [self._client.get_boolean_details(flag.name, default_value=True) for flag in FLAGS]
        return {it.flag_key: State(on=it.value) for it in found if it.error_code is None}

    async def audit(self, database: Database) -> None:
        if self._states != self._recorded:
            self._recorded = await database.run_transaction(self._record)

    async def _record(self, connection: Connection) -> dict[str, State]:
        await connection.execute(_ONE_AT_A_TIME, operation="flags")
        # Another instance may have recorded a later change by now.
        await anyio.to_thread.run_sync(self.reread)
        states = self._states
        for name, state in states.items():
            detail = json.dumps(state.model_dump())
            await connection.execute(_RECORD, f"flag:{name}", detail, operation="flags")
        return states

    @asynccontextmanager
    async def running(self, database: Database, observer: Observer) -> AsyncGenerator[None]:
        """Evaluate until the block ends, and record each change in the audit log once."""
        await anyio.to_thread.run_sync(self.reread)
        every = partial(repeating, "flags", observer=observer, interval=INTERVAL)
        async with (
            every(partial(anyio.to_thread.run_sync, self.reread)),
            every(partial(self.audit, database), database.wait_connected),
        ):
            yield


# Several instances see the same change: the first records it. The last million rows are looked at.
_ONE_AT_A_TIME: Final = "select pg_advisory_xact_lock(hashtext('postfacta.flags'))"
_RECORD: Final = """
insert into audit_log (actor, action, object, detail) select 'operator', 'flag.change', $1, $2::jsonb
 where $2::jsonb -> 'on' is distinct from coalesce((
  select detail -> 'on' from audit_log where seq > (select max(seq) from audit_log) - 1000000
    and action = 'flag.change' and object = $1 order by seq desc limit 1), 'true')"""
