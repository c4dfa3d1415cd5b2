"""Who gets in where: every route of the table with every kind of caller, and private incidents everywhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import uuid4

import pytest

from postfacta_app.app import declared
from postfacta_app.web.routes import Rule
from tests.app.live import Service, in_process
from tests.kit.every import every

Headers = dict[str, str]

# Who is who. Written out from the design (section 9.3), and nothing of it is taken from the code.
NOBODY = {"nobody", "expired session"}
BAD = {"disabled person's token", "revoked token", "expired token", "unknown token", "basic"}
VIEWERS = {"viewer", "viewer's session", "reading token", "writing token", "two-scope token"}
RESPONDERS = {"responder", "admin", "writing token"}
INGESTERS = {"responder", "admin", "ingest token", "two-scope token"}
ADMINS = {"admin"}
ANNOTATORS = {"viewer", "viewer's session", "responder", "admin", "writing token"}
PEOPLE = {"viewer", "viewer's session", "responder", "admin"}
SIGNED_IN = PEOPLE | {"reading token", "writing token", "ingest token", "two-scope token"}
EVERYBODY = SIGNED_IN | NOBODY | BAD

READ = VIEWERS | RESPONDERS
EXPECTED: dict[str, set[str]] = {
    # Programs that probe, and people who sign in, may hold an old token.
    "GET /": EVERYBODY,
    "GET /home": EVERYBODY,
    "GET /healthz": EVERYBODY,
    "GET /service-info": EVERYBODY,
    "POST /login": EVERYBODY,
    "GET /login": EVERYBODY,
    "POST /register": EVERYBODY,
    "GET /signin": EVERYBODY,
    "POST /signin": EVERYBODY,
    # Open too, but who shows a token shows a good one.
    "GET /openapi.json": EVERYBODY - BAD,
    "GET /problems/{slug}": EVERYBODY - BAD,
    "POST /logout": PEOPLE,  # only administrators end an API token
    "POST /signout": NOBODY,  # whoever is somebody sends the form's token too: tests/app/identity
    "GET /api/v1/me": SIGNED_IN,
    "PUT /api/v1/me/password": PEOPLE,
    "GET /api/v1/me/sessions": PEOPLE,
    "DELETE /api/v1/me/sessions": PEOPLE,
    "DELETE /api/v1/me/sessions/{session}": PEOPLE,
    "POST /api/v1/users/{id}/password": ADMINS,
    "GET /api/v1/users/{id}/sessions": ADMINS,
    "DELETE /api/v1/users/{id}/sessions": ADMINS,
    "DELETE /api/v1/users/{id}/sessions/{session}": ADMINS,
    "GET /account": PEOPLE,
    # A session sends the form's token too: tests/app/identity/test_sessions.py.
    "POST /account/password": PEOPLE - {"viewer's session"},
    "POST /account/sessions": PEOPLE - {"viewer's session"},
    "POST /account/sessions/{session}": PEOPLE - {"viewer's session"},
    "GET /people": ADMINS,
    "GET /people/{id}": ADMINS,
    "POST /people": ADMINS,
    "POST /people/{id}": ADMINS,
    "POST /people/{id}/password": ADMINS,
    "POST /people/{id}/sessions": ADMINS,
    "POST /people/{id}/sessions/{session}": ADMINS,
    "POST /people/tokens": ADMINS,
    "POST /people/tokens/{id}": ADMINS,
    "GET /api/v1/incidents/{ref}/timeline": READ,
    "GET /api/v1/incidents/{ref}/edits": READ,
    "POST /api/v1/incidents/{ref}/edits": RESPONDERS,
    "GET /api/v1/incidents/{ref}/annotations": READ,
    "POST /api/v1/incidents/{ref}/annotations": ANNOTATORS,
    "GET /api/v1/annotations/{root}": READ,
    "PUT /api/v1/annotations/{root}": ANNOTATORS,
    "DELETE /api/v1/annotations/{root}": ANNOTATORS,
    "GET /api/v1/incidents/{ref}/durations": READ,
    "GET /api/v1/durations": READ,
    "GET /api/v0/incidents": READ,
    "GET /api/v0/incidents/{id:uuid}": READ,
    "POST /api/v0/incidents/start": RESPONDERS,
    "GET /api/v1/incidents": READ,
    "POST /api/v1/incidents": RESPONDERS,
    "GET /api/v1/incidents/{ref}": READ,
    "PATCH /api/v1/incidents/{ref}": RESPONDERS,
    "DELETE /api/v1/incidents/{ref}": ADMINS,
    "POST /api/v1/incidents/{ref}/transitions": RESPONDERS,
    "GET /api/v1/signals": READ,
    "POST /api/v1/signals": INGESTERS,
    "GET /api/v1/signals/{id}": READ,
    "POST /api/v1/ingest/alertmanager": INGESTERS,
    "POST /api/v1/ingest/mapped/{mapping}": INGESTERS,
    "POST /api/v1/incidents/{ref}/signals": RESPONDERS,
    "DELETE /api/v1/incidents/{ref}/signals/{id}": RESPONDERS,
    "GET /api/v1/incidents/{ref}/postmortem": READ,
    "PUT /api/v1/incidents/{ref}/postmortem": RESPONDERS,
    "POST /api/v1/incidents/{ref}/postmortem/transitions": RESPONDERS,
    "POST /api/v1/incidents/{ref}/postmortem/restore": RESPONDERS,
    "GET /api/v1/incidents/{ref}/postmortem/revisions": READ,
    "GET /api/v1/incidents/{ref}/postmortem/revisions/{rev}": READ,
    "GET /api/v1/factors": READ,
    "GET /api/v1/incidents/{ref}/action-items": READ,
    "POST /api/v1/incidents/{ref}/action-items": RESPONDERS,
    "GET /api/v1/action-items": READ,
    "GET /api/v1/action-items/{id}": READ,
    "PATCH /api/v1/action-items/{id}": RESPONDERS,
    "GET /api/v1/incidents/{ref}/links": READ,
    "POST /api/v1/incidents/{ref}/links": RESPONDERS,
    "DELETE /api/v1/incidents/{ref}/links/{target}/{type}": RESPONDERS,
    "GET /api/v1/incidents/{ref}/labels": READ,
    "PUT /api/v1/incidents/{ref}/labels": RESPONDERS,
    "GET /api/v1/incidents/{ref}/export": READ,
    "GET /api/v1/tokens": ADMINS,
    "POST /api/v1/tokens": ADMINS,
    "DELETE /api/v1/tokens/{id}": ADMINS,
    "GET /api/v1/users": ADMINS,
    "POST /api/v1/users": ADMINS,
    "GET /api/v1/users/{id}": ADMINS,
    "PATCH /api/v1/users/{id}": ADMINS,
    "GET /api/v1/audit": ADMINS,
    "GET /incidents": READ,
    "GET /incidents/new": RESPONDERS,
    "POST /incidents/new": RESPONDERS,
    "GET /incidents/{ref}": READ,
    "POST /incidents/{ref}/moves": RESPONDERS,
    "POST /incidents/{ref}/edits": RESPONDERS,
    "GET /incidents/{ref}/edit": RESPONDERS,
    "POST /incidents/{ref}/edit": RESPONDERS,
    "POST /incidents/{ref}/links": RESPONDERS,
    "POST /incidents/{ref}/labels": RESPONDERS,
    # A session sends the form's token too: tests/app/timeline/test_pages.py.
    "POST /incidents/{ref}/notes": ANNOTATORS - {"viewer's session"},
    "POST /incidents/{ref}/notes/{root}": ANNOTATORS - {"viewer's session"},
    "GET /incidents/{ref}/postmortem": READ,
    "POST /incidents/{ref}/postmortem/moves": RESPONDERS,
    "POST /incidents/{ref}/postmortem/restore": RESPONDERS,
    "GET /incidents/{ref}/postmortem/edit/{section}": RESPONDERS,
    "POST /incidents/{ref}/postmortem/edit/{section}": RESPONDERS,
    "GET /incidents/{ref}/postmortem/revisions": READ,
    "GET /incidents/{ref}/postmortem/revisions/{rev}": READ,
    "GET /incidents/{ref}/actions": READ,
    "POST /incidents/{ref}/actions": RESPONDERS,
    "POST /incidents/{ref}/actions/{id}": RESPONDERS,
    "GET /incidents/{ref}/history": READ,
    "GET /incidents/{ref}/events": READ,
    "GET /actions": READ,
    "GET /insights": READ,
    "GET /reliability": READ,
}
# The rest is 403: they are somebody, but may not.
UNKNOWN_HERE = NOBODY | BAD


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn, register_open=True) as running:
        yield running


def table() -> list[Rule]:
    return declared()


async def callers(service: Service) -> dict[str, Headers]:
    viewer, secret = await service.person("viewer"), "x" * 43
    return {
        "nobody": {},
        "expired session": await service.cookie(viewer, expired=True),
        "disabled person's token": await service.bearer(
            await service.person("admin", disabled=True)
        ),
        "revoked token": await service.bearer(await service.person("admin"), revoked=True),
        "expired token": await service.bearer(await service.person("admin"), expired=True),
        "unknown token": {"Authorization": f"Bearer {secret}"},
        "basic": {"Authorization": "Basic YTpi"},
        "viewer": await service.bearer(viewer),
        # Somebody else's: to sign out everywhere ends all that one person has.
        "viewer's session": await service.cookie(await service.person("viewer")),
        "responder": await service.as_role("responder"),
        "admin": await service.as_role("admin"),
        "reading token": await service.machine("incidents:read"),
        "writing token": await service.machine("incidents:write"),
        "ingest token": await service.machine("signals:write"),
        "two-scope token": await service.machine("incidents:read", "signals:write"),
    }


GROUPS = ("reads of one", "reads of many", "writes", "pages of one", "pages of many", "forms")


def group_of(route: str) -> str:
    method, path = route.split()
    api = path.startswith("/api/")
    if method != "GET":
        return "writes" if api else "forms"
    return f"{'reads' if api else 'pages'} of {'one' if '{' in path else 'many'}"


def test_every_route_is_in_one_group() -> None:
    assert {group_of(route) for route in EXPECTED} == set(GROUPS)


def test_every_route_of_the_table_has_an_expectation() -> None:
    assert {f"{rule.method} {rule.path}" for rule in table()} == EXPECTED.keys()


@pytest.mark.parametrize("group", GROUPS)
async def test_each_route_admits_exactly_its_roles(service: Service, group: str) -> None:
    with every() as case:
        for route in EXPECTED:
            if group == group_of(route):
                with case(route):
                    await assert_lets_in(service, route)


async def assert_lets_in(service: Service, route: str) -> None:
    method, template = route.split()
    if template.endswith("/events"):
        method = "HEAD"  # The answer to a GET has no end.
    incident = await service.record(await service.as_role("responder"))
    ids = {
        "{ref}": incident["id"],
        "{id:uuid}": incident["id"],
        "{id}": str(uuid4()),
        "{root}": str(uuid4()),
        "{slug}": "conflict",
        "{session}": str(uuid4()),
    }
    path = template
    for name, value in ids.items():
        path = path.replace(name, value)
    # A version that never was: what is allowed is then refused for another reason, and changes
    # nothing.
    common = {"Sec-Fetch-Site": "same-origin", "If-Match": '"inc-999"'}
    who = await callers(service)
    assert who.keys() == EVERYBODY
    got: set[str] = set()
    for name, headers in who.items():
        content = f"email={'x' * 400}" if route == "POST /signin" else ""
        answer = await service.client.request(
            method, path, content=content, headers=common | headers
        )
        assert answer.status_code < 500, answer.text
        if answer.status_code == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer"), name
            assert name in UNKNOWN_HERE, name
        elif answer.status_code == 403:
            assert name not in (UNKNOWN_HERE if EXPECTED[route] & SIGNED_IN else BAD), name
        else:
            got.add(name)
    assert got == EXPECTED[route]


async def test_head_needs_what_get_needs(service: Service) -> None:
    for route in EXPECTED:
        if route.startswith("GET /api/"):
            path = route.split()[1].replace("{id:uuid}", str(uuid4())).replace("{ref}", "INC-1")
            answer = await service.client.head(path)
            assert (answer.status_code, answer.content) == (401, b"")
