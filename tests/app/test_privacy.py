"""A private incident is nowhere.

Each route of the table, asked by each stranger, before and after there is one.

What a stranger is answered must not depend on it. So every answer is compared with the one from
before it was there; and where a request can name what belongs to it, with the answer to names that
do not exist.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from pydantic import BaseModel, JsonValue

from postfacta_app.actions import ActionChange, ActionQuery, NewAction
from postfacta_app.durations import InsightQuery
from postfacta_app.identity.model import (
    Credentials,
    NewToken,
    NewUser,
    PasswordChange,
    Registration,
    UserChange,
)
from postfacta_app.incidents.model import Change, IncidentQuery, Move, NewIncident
from postfacta_app.incidents.v0 import Start
from postfacta_app.labels import Labels
from postfacta_app.links import NewLink
from postfacta_app.postmortems.model import Draft, Restore, Transition
from postfacta_app.signals.intake import Webhook
from postfacta_app.signals.model import AnyJson, Attachments, Batch
from postfacta_app.timeline.model import AnnotationChange, AnyEdit, NewAnnotation
from postfacta_app.web.routes import Rule
from tests.app.live import NEW, START, Body, Service, in_process
from tests.app.test_access import table

Headers = dict[str, str]
Heard = dict[str, tuple[bool, object]]
"""By request: whether the secret was in the response, and what else the response contained."""

# It is in every text of the private incident, and nobody but its members may ever read it.
SECRET = "whisper-7d1f"  # noqa: S105 - nothing but a word
# It is there beside it, for strangers to look for.
WORD = "gossip"
TEXT = f"{WORD} {SECRET}"
STRANGERS = (
    "nobody", "viewer", "responder", "reading token", "writing token", "ingest token", "two-scope token",
)  # fmt: skip
CURIOUS = ("viewer", "writing token")  # They try each filter too.


@dataclass(frozen=True)
class Named:
    """What a request can name: all that belongs to one incident, or names that do not exist."""

    ref: str = field(default_factory=lambda: str(uuid4()))
    number: str = "INC-99999999"
    signal: str = field(default_factory=lambda: str(uuid4()))
    annotation: str = field(default_factory=lambda: str(uuid4()))
    action: str = field(default_factory=lambda: str(uuid4()))
    entry: str = "no such entry"

    def hide(self, text: str) -> str:
        """Replace the names, so that answers can be compared."""
        for name, value in vars(self).items():
            text = text.replace(value, f"<{'ref' if name == 'number' else name}>")
        return text


# How a request is made. A new kind of place, body or filter must be added here, or the tests fail.

PLACES: dict[str, Callable[[Named], str]] = {
    "incidents/{ref}": lambda it: it.ref,
    "incidents/{id:uuid}": lambda it: it.ref,
    "signals/{id}": lambda it: it.signal,
    "annotations/{root}": lambda it: it.annotation,
    "mapped/{mapping}": lambda it: "github",
    "notes/{root}": lambda it: it.annotation,
    "action-items/{id}": lambda it: it.action,
    "links/{target}": lambda it: it.ref,
    "{target}/{type}": lambda it: "related",
    "revisions/{rev}": lambda it: "1",
    "edit/{section}": lambda it: "summary",
    "actions/{id}": lambda it: it.action,
    "tokens/{id}": lambda it: "00000000-0000-4000-8000-000000000000",
    "users/{id}": lambda it: "00000000-0000-4000-8000-000000000000",
    "problems/{slug}": lambda it: "conflict",
    "people/{id}": lambda it: "00000000-0000-4000-8000-000000000000",
    "sessions/{session}": lambda it: "00000000-0000-4000-8000-000000000000",
}
LOGIN: Body = {"email": "nobody@example.org", "password": "wrong"}
ENTRY = {"source": "manual/gossip"}
BODIES: dict[type[BaseModel], Callable[[Named], Body]] = {
    NewIncident: lambda it: {**NEW, "title": "A stranger's own"},
    Change: lambda it: {"title": "A stranger's own"},
    Move: lambda it: {"to": "RESOLVED"},
    Start: lambda it: START,
    Batch: lambda it: {
        "incident": it.ref,
        "items": [{"kind": "other", "title": "A stranger's own"}],
    },
    Attachments: lambda it: {"ids": [it.signal]},
    AnyJson: lambda it: {"title": "A stranger's own"},
    Webhook: lambda it: {"version": "4", "alerts": []},
    AnyEdit: lambda it: {"op": "pin", "entry": {**ENTRY, "id": it.entry}},
    NewAnnotation: lambda it: {"kind": "note", "body": "?", "entry": {**ENTRY, "id": it.entry}},
    AnnotationChange: lambda it: {"body": "A stranger's own"},
    Draft: lambda it: {"content": {"summary": "A stranger's own"}},
    Transition: lambda it: {"to": "in_review"},
    Restore: lambda it: {"rev": 1},
    NewAction: lambda it: {"type": "learn", "title": "A stranger's own"},
    ActionChange: lambda it: {"title": "A stranger's own"},
    NewLink: lambda it: {"to": it.ref, "type": "follows"},
    Labels: lambda it: {"labels": ["a-strangers-own"]},
    Credentials: lambda it: LOGIN,
    Registration: lambda it: LOGIN,
    NewUser: lambda it: LOGIN,
    UserChange: lambda it: {"disabled": True},
    PasswordChange: lambda it: {"current_password": "wrong", "password": "correct horse battery"},
    NewToken: lambda it: {"name": "x", "scopes": ["incidents:read"]},
}
LATER = "2099-01-01T00:00:00Z"
FILTERS: dict[str, list[str]] = {
    "q": [WORD],
    "text": [WORD],
    "service": [WORD],
    "team": [WORD],
    "label": [WORD],
    "owner": [WORD],
    "source": ["manual/gossip"],
    "kind": ["incident", "change"],
    "severity": ["CRITICAL"],
    "severity_gte": ["LOW"],
    "status": ["CLOSED"],
    "outcome": ["fixed"],
    "has_postmortem": ["true"],
    "attached": ["true", "false"],
    "overdue": ["true"],
    "digest": ["true"],
    "include_hidden": ["true"],
    "pinned": ["true"],
    "as_of": [LATER],
    "known_as_of": [LATER],
    "from": ["2001-01-01T00:00:00Z"],
    "to": [LATER],
    "updated_since": ["2001-01-01T00:00:00Z"],
    "sort": ["changed"],
    "limit": ["1"],
    "cursor": [],  # Only a list gives one.
    "format": ["md"],
    "rev": ["1"],
    "against": ["1"],
    "actor": [WORD],
    "incident": [],
    "phase": ["resolve"],
    "group": ["1.0.604800000000"],
    "repeats": ["each"],
}
# The pages take the filters of the list, which their rules do not say.
QUERIES: dict[str, type[BaseModel]] = {
    "/incidents": IncidentQuery,
    "/insights": InsightQuery,
    "/actions": ActionQuery,
}
# What shows nothing of an incident to anybody, or nothing of a private one; all others must show it
# to its members.
SILENT = {
    "/incidents/{ref}/events",
    "/", "/home", "/healthz", "/service-info", "/openapi.json", "/login", "/signin", "/problems/{slug}", "/reliability",
    "/api/v1/me", "/api/v1/tokens", "/api/v1/users",
    "/api/v1/me/sessions", "/api/v1/users/{id}", "/api/v1/users/{id}/sessions", "/account", "/people", "/people/{id}",
    "/api/v0/incidents", "/api/v0/incidents/{id:uuid}",
    "/api/v1/durations", "/api/v1/incidents/{ref}/durations",  # Numbers alone: they are compared.
    "/incidents/new", "/insights",  # A form for something new, and numbers alone.
}  # fmt: skip
AUDIT = "/api/v1/audit"  # For administrators: it repeats what was replaced, such as labels, and no fact.
LIVELY = {"/reliability"}  # It shows the process, which changes with each request.

_OWN = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{64}\b|\d{4}-\d\d-\d\dT[0-9:.]+Z"
)

# Each form that is shown has a key of its own, and what is open grows older.
_OF_NOW = re.compile(r'name="key" value="[^"]*"|<dt>Age</dt><dd>[^<]*</dd>')

RULES = table()
SAFE = [rule for rule in RULES if rule.method == "GET"]


def path_of(rule: Rule, named: Named) -> str:
    parts = rule.path.split("/")
    return "/".join(
        PLACES[f"{before}/{part}"](named) if part.startswith("{") else part
        for before, part in zip(["", *parts], parts, strict=False)
    )


def body_of(rule: Rule, named: Named) -> Body | None:
    return None if rule.body is None else BODIES[rule.body](named)


def filters_of(rule: Rule) -> Iterator[dict[str, str]]:
    model = rule.query or QUERIES.get(rule.path)
    for name, known in (model.model_fields if model else {}).items():
        yield from ({known.alias or name: value} for value in FILTERS[known.alias or name])


def told(answer: httpx2.Response, named: Named) -> object:
    """Keep of an answer what a stranger can learn from it."""
    text = answer.text.replace(answer.headers.get("X-Request-ID", "-"), "<request>")
    text = _OF_NOW.sub("<now>", text)
    heads = {
        name: answer.headers.get(name) for name in ("content-type", "etag", "link", "location")
    }
    body: object = named.hide(text)
    if "json" in (heads["content-type"] or "") and answer.content:
        body = without_time(json.loads(named.hide(text)))
    return (
        answer.status_code,
        {name: named.hide(value or "") for name, value in heads.items()},
        body,
    )


def alike(answer: httpx2.Response, named: Named) -> str:
    """Keep of two answers what may not differ, although each is about something of its own."""
    return _OWN.sub("<own>", str(told(answer, named)))


def without_time(value: JsonValue) -> JsonValue:
    """Leave out what tells when the answer was made."""
    if isinstance(value, dict):
        return {
            name: without_time(it) for name, it in value.items() if name not in {"as_of", "uptime"}
        }
    return [without_time(it) for it in value] if isinstance(value, list) else value


@dataclass
class Scene:
    """A service with one incident for all and one for few, and what strangers read before that one existed."""

    service: Service
    strangers: dict[str, Headers]
    member: Headers
    admin: Headers
    shown: Named = field(default_factory=Named)
    hidden: Named = field(default_factory=Named)
    before: dict[str, Heard] = field(default_factory=dict[str, Heard])
    after: dict[str, Heard] = field(default_factory=dict[str, Heard])

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Body | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        # Whatever version it is; post-mortems must be named.
        version = (
            {}
            if "If-None-Match" in headers
            else {"If-Match": '"pm-3"' if "/postmortem" in path else "*"}
        )
        given = {"Sec-Fetch-Site": "same-origin", **version, **headers}
        if path.endswith("/events"):
            method = "HEAD"  # The answer to a GET has no end.
        answer = await self.service.client.request(
            method, path, json=body, params=query, headers=given
        )
        assert answer.status_code < 500, (method, path, answer.text)
        return answer

    async def make(self, path: str, body: Body, *, method: str = "POST", **headers: str) -> Any:
        """Write as the member."""
        answer = await self.send(method, path, {**self.member, **headers}, body)
        assert answer.status_code in {200, 201}, (path, answer.text)
        return answer.json()

    async def incident(self, text: str, word: str, **fields: object) -> Named:
        """Record an incident with all that can belong to one, each with the text in it."""
        slugs = [word, text.rpartition(" ")[2]]
        lists = {"services": slugs, "teams": slugs}
        texts = {"title": text, "description": f"All about {text}", "owner": word, "reporter": text}
        made = await self.service.record(
            self.member, severity="CRITICAL", **lists, **texts, **fields
        )
        path = f"/api/v1/incidents/{made['id']}"
        signal = {
            "kind": "change",
            "title": text,
            "body": text,
            "source": word,
            "id": f"{word}-entry",
            "services": slugs,
        }
        sent = await self.make("/api/v1/signals", {"incident": made["id"], "items": [signal]})
        within = f"INC-{made['number']}/" if made["visibility"] == "private" else ""
        entry = {"source": f"manual/{within}{word}", "id": f"{word}-entry"}
        await self.make(
            f"{path}/edits",
            {"op": "set_title", "entry": entry, "value": {"title": text}, "reason": text},
        )
        note = await self.make(
            f"{path}/annotations", {"kind": "note", "body": text, "entry": entry}
        )
        action = await self.make(
            f"{path}/action-items", {"type": "learn", "title": text, "owner": word}
        )
        await self.make(f"{path}/labels", {"labels": slugs}, method="PUT")
        factor = {"slug": slugs[1], "category": "change", "statement": text}
        content = {"summary": text, "impact": {"description": text}, "factors": [factor]}
        await self.make(
            f"{path}/postmortem",
            {"content": content, "message": text},
            method="PUT",
            **{"If-None-Match": "*"},
        )
        for rev, stage in ((1, "in_review"), (2, "published")):
            etag = {"If-Match": f'"pm-{rev}"'}
            await self.make(f"{path}/postmortem/transitions", {"to": stage}, **etag)
        await self.make(f"{path}/transitions", {"to": "CLOSED", "outcome": "fixed", "reason": text})
        return Named(
            ref=made["id"],
            number=f"INC-{made['number']}",
            signal=sent["results"][0]["signal_id"],
            annotation=note["id"],
            action=action["id"],
            entry=entry["id"],
        )

    async def ask(self, stranger: str) -> Heard:
        """Ask all that changes nothing, and names nothing but what is there for all."""
        answers: Heard = {}
        for rule in SAFE:
            path = path_of(rule, self.shown)
            queries = [{}, *filters_of(rule)] if stranger in CURIOUS else [dict[str, str]()]
            for query in queries:
                answer = await self.send("GET", path, self.strangers[stranger], query=query)
                leaks = SECRET in answer.text + str(answer.headers)
                heard = None if rule.path in LIVELY else told(answer, self.shown)
                answers[f"{rule.path} {query}"] = (leaks, heard)
        return answers


@pytest.fixture(scope="module")
async def scene(shared_app_dsn: str) -> AsyncGenerator[Scene]:
    async with in_process(shared_app_dsn) as service:
        strangers = {
            "nobody": {},
            "viewer": await service.as_role("viewer"),
            "responder": await service.as_role("responder"),
            "reading token": await service.machine("incidents:read"),
            "writing token": await service.machine("incidents:write"),
            "ingest token": await service.machine("signals:write"),
            "two-scope token": await service.machine("incidents:read", "signals:write"),
        }
        made = Scene(
            service, strangers, await service.as_role("responder"), await service.as_role("admin")
        )
        made.shown = await made.incident("for all to see", "open")
        made.before = {stranger: await made.ask(stranger) for stranger in STRANGERS}
        made.hidden = await made.incident(TEXT, WORD, visibility="private")
        link = {"to": made.shown.ref, "type": "related", "note": TEXT}
        await made.make(f"/api/v1/incidents/{made.hidden.ref}/links", link)
        shared = {"ids": [made.shown.signal]}
        await made.make(f"/api/v1/incidents/{made.hidden.ref}/signals", shared)
        made.after = {stranger: await made.ask(stranger) for stranger in STRANGERS}
        yield made


def test_every_route_of_the_table_can_be_asked() -> None:
    for rule in RULES:
        assert "{" not in path_of(rule, Named()), rule.path
        body_of(rule, Named())
        list(filters_of(rule))


@pytest.mark.parametrize("who", ["member", "admin"])
async def test_each_route_shows_it_to_callers_who_may_see_it(scene: Scene, who: str) -> None:
    silent: set[str] = set()
    for rule in SAFE:
        answer = await scene.send("GET", path_of(rule, scene.hidden), getattr(scene, who))
        if SECRET not in answer.text:
            silent.add(rule.path)
    assert silent == SILENT | ({AUDIT} if who == "member" else set())


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_a_stranger_reads_is_what_it_was_before_it_was_there(
    scene: Scene, stranger: str
) -> None:
    before, after = scene.before[stranger], scene.after[stranger]
    assert after.keys() == before.keys()
    assert [name for name, (leaks, _) in after.items() if leaks] == []
    assert {
        name: (before[name], after[name]) for name in after if after[name] != before[name]
    } == {}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_its_parts_do_not_exist_for_a_stranger(scene: Scene, stranger: str) -> None:
    headers, ghost, stored = scene.strangers[stranger], Named(), await _stored(scene)
    by_number = replace(scene.hidden, ref=scene.hidden.number), replace(ghost, ref=ghost.number)
    for rule in RULES:
        for hidden, none in ((scene.hidden, ghost), by_number):
            for first, second in _pairs(rule, hidden, none, shown=scene.shown):
                answers = [
                    await scene.send(rule.method, path, headers, body)
                    for path, body in (first, second)
                ]
                about = (rule.method, rule.path, [answer.text for answer in answers])
                assert not any(SECRET in answer.text + str(answer.headers) for answer in answers), (
                    about
                )
                assert alike(answers[0], hidden) == alike(answers[1], none), about
    assert await _stored(scene) == stored


Sent = tuple[str, Body | None]


def _pairs(rule: Rule, hidden: Named, none: Named, *, shown: Named) -> Iterator[tuple[Sent, Sent]]:
    """Make requests that name what is hidden, each beside one that names nothing.

    Alone, and from what is shown.
    """
    for refs in ((hidden.ref, none.ref), (shown.ref, shown.ref)):
        # A body, or a second place in the path, names something of its own.
        made = [
            (
                path_of(rule, it).replace(f"incidents/{it.ref}", f"incidents/{ref}"),
                body_of(rule, it),
            )
            for it, ref in zip((hidden, none), refs, strict=True)
        ]
        if made[0] != made[1]:
            yield made[0], made[1]


async def _stored(scene: Scene) -> dict[str, str]:
    """Write down every row about it, of every table there is."""
    tables = await scene.service.database.fetch(
        "select table_name from information_schema.columns where table_schema = 'public' and column_name = 'incident_id'"
    )
    where = {row[0]: "incident_id" for row in tables} | {"incidents": "id"}
    assert len(where) >= 7
    return {
        name: await scene.service.database.fetchval(
            f"select string_agg(it::text, '|' order by it::text) from {name} it where {column} = $1::text::uuid",  # noqa: S608 - out of the catalogue
            scene.hidden.ref,
        )
        for name, column in where.items()
    }


async def test_no_log_line_and_no_metric_holds_a_word_of_it(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for headers in (scene.member, scene.strangers["responder"]):
        for rule in RULES:
            if rule.path not in {"/logout", "/signout"} and rule.method != "DELETE":
                await scene.send(
                    rule.method, path_of(rule, scene.hidden), headers, body_of(rule, scene.hidden)
                )
    assert caplog.records
    assert [record for record in caplog.records if SECRET in str(vars(record))] == []
    metrics = await scene.service.client.get("/metrics")
    assert metrics.status_code == 200
    assert SECRET not in metrics.text
