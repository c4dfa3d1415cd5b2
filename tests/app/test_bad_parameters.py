"""Whatever is wrong with a parameter, a path or a header, the answer names it and the rule, and nothing is written."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from itertools import product
from typing import cast
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from tests.app.live import (
    JSON_ROUTES,
    NEW,
    ONE,
    PATCH_JSON,
    ROUTES,
    START,
    V0,
    World,
    content_type,
    in_process,
    said,
    world_of,
)
from tests.kit.every import every


@pytest.fixture(scope="module")
async def world(shared_app_dsn: str) -> AsyncGenerator[World]:
    async with in_process(shared_app_dsn, register_open=True) as service:
        yield await world_of(service)


# Parameters

LISTS = {
    "/api/v1/incidents": {
        "from": ["yesterday", "2026-01-01", "2026-01-01T00:00:00", "0001-01-01T00:00:00+01:00", "", "1"],
        "to": ["2026-02-30T00:00:00Z", "2026-01-01T00:00:60Z", "2026-01-01t00:00:00z"],
        "updated_since": ["9999-12-31T23:59:59-01:00"],
        "kind": ["Incident", "%00", ""],
        "severity": ["high"],
        "severity_gte": ["SOME"],
        "status": ["DONE"],
        "outcome": ["solved"],
        "service": ["Not a slug", "a" * 64, "%ED%A0%80"],
        "team": ["-x"],
        "owner": ["", "o" * 101, "a" + "&owner=a" * 20],
        "q": ["", "w" * 201, "a%00b"],
        "has_postmortem": ["maybe", ""],
        "sort": ["title", "declared_at,id"],
        "limit": ["0", "201", "-1", "1e3", "ten", "", "1.5", "9" * 400],
        "cursor": ["c" * 1001, "a%00b"],
        "unknown": ["1"],
        "%ED%A0%80": ["1"],
    },
    "/api/v1/signals": {
        "from": ["yesterday"], "to": [""], "kind": ["Change", ""], "service": ["-x"], "source": ["", "s" * 201, "%00"],
        "attached": ["maybe"], "limit": ["0", "201"], "cursor": ["c" * 1001], "sort": ["-occurred_at"],
    },
    "/api/v1/action-items": {
        "status": ["closed", ""], "owner": ["", "o" * 101], "overdue": ["maybe"], "limit": ["0", "201"],
        "cursor": ["c" * 1001], "sort": ["due_on"],
    },
    "/api/v1/incidents/INC-1/postmortem/revisions": {"limit": ["0"], "cursor": ["c" * 1001], "against": ["1"]},
    "/api/v1/incidents/INC-1/timeline": {
        "as_of": ["now", ""], "known_as_of": ["1"], "include_hidden": ["maybe"], "kind": ["Note", ""], "source": ["", "s" * 201],
        "text": ["w" * 201, "a%00b"], "pinned": ["maybe"], "digest": ["maybe"], "limit": ["0", "2001"], "cursor": ["c" * 4001, "a%00b"], "sort": ["t"],
    },
    "/api/v1/incidents/INC-1/edits": {"limit": ["0", "201"], "cursor": ["c" * 1001], "op": ["pin"]},
    "/api/v1/incidents/INC-1/annotations": {"limit": ["0", "201"], "cursor": ["c" * 1001], "kind": ["note"]},
    "/api/v1/users": {"limit": ["0", "x"], "offset": ["1"], "cursor": ["c" * 1001]},
    "/api/v1/tokens": {"limit": ["201"], "q": ["x"]},
    "/api/v1/audit": {
        "incident": ["INC-1", "1"], "actor": ["", "a" * 201, "%00"], "from": ["now"], "to": ["x"], "limit": ["0"],
    },
}  # fmt: skip


FILTERS = LISTS | {
    "/api/v1/durations": {"limit": ["5"], "cursor": ["x"], "sort": ["changed"], "kind": ["all"], "percentile": ["99"]},
}  # fmt: skip


@pytest.mark.parametrize("path", FILTERS)
async def test_a_bad_parameter_is_400_and_named(world: World, path: str) -> None:
    with every() as case:
        for name, texts in FILTERS[path].items():
            for text in texts:
                with case(name, repr(text)):
                    answer = await world.send("GET", f"{path}?{name}={text}")
                    assert answer.status_code == 400, answer.text
                    errors = answer.json()["errors"]
                    shown = "?\ufffd\ufffd\ufffd" if name.startswith("%") else f"?{name}"
                    assert {it["pointer"] for it in errors} == {shown}
                    assert all(it["code"] and it["message"] for it in errors)


async def test_a_parameter_that_stands_for_one_value_may_not_come_twice(world: World) -> None:
    with every() as case:
        for name in ("limit", "cursor", "sort", "from", "severity_gte", "has_postmortem"):
            with case(name):
                answer = await world.send("GET", f"/api/v1/incidents?{name}=1&{name}=1")
                assert answer.status_code == 400
                assert [it["pointer"] for it in answer.json()["errors"]] == [f"?{name}"]


def cursor(*members: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


AT, ID = "2026-01-01T00:00:00.000000Z", "00000000-0000-0000-0000-000000000000"
CURSORS = {
    "empty": "",
    "no base64": "!!!!",
    "odd length": "a",
    "no JSON": "AAAA",
    "null": base64.urlsafe_b64encode(b"null").decode(),
    "deep": base64.urlsafe_b64encode(b"[" * 700).decode(),
    "number": base64.urlsafe_b64encode(b"9" * 700).decode(),
    "few": cursor(1, "-declared_at"),
    "types": cursor(1, "-declared_at", 5, None, []),
    "version": cursor(2, "-declared_at", AT, ID, ""),
    "huge version": cursor(10**300, "-declared_at", AT, ID, ""),
    "no such time": cursor(1, "-declared_at", "2026-02-30T00:00:00Z", ID, ""),
    "no such id": cursor(1, "-declared_at", AT, "x", ""),
    "other filters": cursor(1, "-declared_at", AT, ID, "0" * 16),
    "null byte": cursor(1, "-declared_at", AT, ID, "\0"),
    "not ASCII": "%C3%A4",
    "surrogate": "%ED%A0%80",
}


@pytest.mark.parametrize("path", [*LISTS, "/api/v0/incidents", "/incidents"])
async def test_a_bad_cursor_is_400(world: World, path: str) -> None:
    with every() as case:
        for kind, sent in CURSORS.items():
            with case(kind):
                answer = await world.send("GET", f"{path}?cursor={sent}", headers={"Accept": "*/*"})
                if path == "/incidents":
                    # For people: an empty field of a form is left out, and a page says what is
                    # wrong.
                    assert answer.status_code == (200 if kind == "empty" else 400)
                    continue
                assert answer.status_code == 400
                assert "cursor" in said(answer)
                if "/v1/" in path:
                    assert answer.json()["type"] == "/problems/invalid-cursor"


async def test_a_cursor_of_another_list_is_400(world: World) -> None:
    of_another = {
        "/api/v1/incidents": "users",
        "/api/v1/users": "audit",
        "/api/v1/audit": "v0",
        "/api/v0/incidents": "tokens",
    }
    with every() as case:
        for path, foreign in of_another.items():
            with case(path):
                answer = await world.send("GET", f"{path}?cursor={cursor(1, foreign, AT, ID, '')}")
                assert answer.status_code == 400


REFS = [
    "INC-0", "INC-99", "INC-01", "INC-", "INC-1x", "inc-1", "INC-9223372036854775808", "INC-99999999999999999999", "1", ID[:-1],
    "%00", "INC-1%00", "%ED%A0%80", "INC-%D9%A1", "..%2F..%2Fetc%2Fpasswd", "x" * 3000, ID, "{ref}", "%0A",
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[(method, "/api/v1/incidents/{}") for method in ("GET", "PATCH", "DELETE")],
        ("POST", "/api/v1/incidents/{}/transitions"),
        ("GET", "/api/v0/incidents/{}"),
        ("GET", "/incidents/{}"),
        ("PATCH", "/api/v1/users/{}"),
        ("DELETE", "/api/v1/tokens/{}"),
        ("GET", "/api/v1/signals/{}"),
        ("DELETE", "/api/v1/incidents/INC-1/signals/{}"),
        ("GET", "/problems/{}"),
    ],
)
async def test_what_names_nothing_is_404(world: World, method: str, path: str) -> None:
    body = (
        b'{"to": "RESOLVED"}' if method == "POST" else b"" if method in {"GET", "DELETE"} else b"{}"
    )
    with every() as case:
        for ref in REFS:
            with case(ref[:60]):
                answer = await world.send(
                    method, path.format(ref), content=body, headers=content_type(method)
                )
                assert answer.status_code in ({404, 405} if "%2F" in ref else {404}), answer.text
                await world.assert_untouched()


# Headers


NO_TAGS: list[str | bytes] = [
    "",
    "inc-1",
    '"inc-1',
    '"a" "b"',
    "W/",
    '"a",,"b"',
    '"a\tb"',
    b'"\x00"',
    b"\xff",
    "*, *",
    "'x'",
]


@pytest.mark.parametrize("route", ["GET", "PATCH", "DELETE", "user"])
async def test_an_entity_tag_that_is_none_is_400_and_its_header_named(
    world: World, route: str
) -> None:
    method, path = ("PATCH", f"/api/v1/users/{world.user_id}") if route == "user" else (route, ONE)
    name = "If-None-Match" if method == "GET" else "If-Match"
    sent = [(key.encode(), text.encode()) for key, text in world.admin.items()]
    content = b""
    if method == "PATCH":
        content = b"{}"
        sent.append((b"Content-Type", b"application/json"))
    with every() as case:
        for value in NO_TAGS:
            raw = value if isinstance(value, bytes) else value.encode()
            with case(repr(value)):
                answer = await world.service.client.request(
                    method, path, content=content, headers=[*sent, (name.encode(), raw)]
                )
                assert answer.status_code == 400, answer.text
                assert said(answer).startswith(name)
                await world.assert_untouched()


async def test_another_version_is_412_with_the_present_one(world: World) -> None:
    sent = {key.encode(): text.encode() for key, text in world.admin.items()}
    sent[b"Content-Type"] = PATCH_JSON.encode()
    values = (b'"inc-0"', b'W/"inc-1"', b'"inc-1x"', b'"", "x"', b'"usr-1"', b'"\xff"')
    with every() as case:
        for method, value in product(("PATCH", "DELETE"), values):
            with case(method, value):
                answer = await world.service.client.request(
                    method,
                    ONE,
                    content=b'{"title": "Another"}',
                    headers=sent | {b"If-Match": value},
                )
                assert (answer.status_code, answer.headers["ETag"]) == (412, '"inc-1"')
                await world.assert_untouched()


async def test_without_a_version_it_is_428(world: World) -> None:
    routes = [("PATCH", ONE), ("DELETE", ONE), ("PATCH", f"/api/v1/users/{world.user_id}")]
    with every() as case:
        for method, path in routes:
            with case(method, path):
                headers = world.admin | content_type(method)
                answer = await world.service.client.request(
                    method, path, content=b"{}", headers=headers
                )
                assert answer.status_code == 428
                assert "If-Match" in said(answer)
                await world.assert_untouched()


NO_KEYS = [
    [b""], [b" "], [b'""'], [b'"'], [b'"a'], [b"a b"], [b"\xff"], [b"k" * 256], [b"a\x00"], [b"a", b"a"],
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/v1/incidents"), ("POST", f"{ONE}/transitions"), V0]
)
async def test_a_bad_idempotency_key_is_400(world: World, method: str, path: str) -> None:
    body = json.dumps(
        START if "v0" in path else {"to": "CLOSED", "outcome": "fixed"} if "trans" in path else NEW
    )
    sent = [
        (key.encode(), text.encode()) for key, text in (world.admin | content_type("POST")).items()
    ]
    with every() as case:
        for values in NO_KEYS:
            with case(repr(values)[:60]):
                headers = [*sent, *((b"Idempotency-Key", value) for value in values)]
                answer = await world.service.client.request(
                    method, path, content=body, headers=headers
                )
                assert answer.status_code == 400, answer.text
                assert "Idempotency-Key" in said(answer)
                await world.assert_untouched()


SENT_HEADERS = [
    "Accept", "Accept-Encoding", "Authorization", "Content-Length", "Content-Type", "Cookie", "Host", "Idempotency-Key", "If-Match",
    "If-None-Match", "Origin", "Sec-Fetch-Site", "X-Request-ID", "traceparent", "tracestate", "X-Traffic-Class", "Access-Control-Request-Method",
]  # fmt: skip
EVERY_ROUTE = [
    ("GET", "/"), ("GET", "/home"), ("GET", "/healthz"), ("GET", "/service-info"), ("GET", "/openapi.json"),
    ("POST", "/logout"), ("GET", "/api/v0/incidents"), ("GET", f"/api/v0/incidents/{ID}"), V0, *ROUTES,
    ("GET", "/api/v1/incidents"), ("GET", ONE), ("DELETE", ONE), ("GET", "/api/v1/me"), ("GET", "/api/v1/tokens"),
    ("DELETE", f"/api/v1/tokens/{ID}"), ("GET", "/api/v1/signals"), ("GET", f"/api/v1/signals/{ID}"),
    ("POST", "/api/v1/ingest/alertmanager"), ("POST", "/api/v1/ingest/mapped/x"), ("DELETE", f"{ONE}/signals/{ID}"), ("GET", "/api/v1/users"), ("GET", "/api/v1/audit"), ("GET", "/incidents"),
    ("GET", "/incidents/INC-1"), ("GET", "/signin"), ("POST", "/signin"), ("POST", "/signout"),
    ("GET", "/problems/conflict"), ("GET", "/static/postfacta.css"), ("OPTIONS", ONE), ("TRACE", "/home"), ("GET", "/x/"),
]  # fmt: skip


ODD_VALUES = [b"", b"\xff\xfe\x80", b"\x00", b"x" * 9000, b'"', b";=,", "\u0661".encode()]


@pytest.mark.parametrize("name", SENT_HEADERS)
async def test_no_header_makes_any_route_fail(world: World, name: str) -> None:
    headers = dict(world.admin) | {"If-Match": '"inc-0"', "X-Filler": "1"}
    headers.pop(name, None)
    sent = [(key.encode(), text.encode()) for key, text in headers.items()]
    with every() as case:
        for value, (method, path) in product(ODD_VALUES, EVERY_ROUTE):
            if path == "/logout":
                continue  # it may well end the session
            with case(repr(value)[:60], method, path):
                url = path.replace("{user}", world.user_id)
                raw = [*sent, (name.encode(), value)]
                answer = await world.service.client.request(method, url, headers=raw)
                assert answer.status_code < 500, answer.text
                assert answer.headers["X-Request-ID"]
        with case("nothing is written"):
            await world.assert_untouched()


ODD_TEXTS = [
    "\0", "\ud800", "INC-1", "%", "[" * 300, "9" * 5000, "NaN", "*", '"x"', "&|!:*()", "' or 1=1 --",
    "0001-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00",
    "HIGH", "IN_PROGRESS", "RESOLVED", "CLOSED", "fixed", "exercise", ID,
]  # fmt: skip
odd = st.text(max_size=30) | st.sampled_from(ODD_TEXTS)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd, inner, max_size=3),
    max_leaves=6,
)
known = st.sampled_from(
    sorted({name for *_, names in JSON_ROUTES for name in names} | {*START, "notes", "x"})
)
documents = st.dictionaries(known | odd, json_values, max_size=6) | json_values
parameters = st.sampled_from(
    sorted({name for names in LISTS.values() for name in names} | {"next"})
)
BODIES = {(method, path): body for method, path, body, _ in JSON_ROUTES} | {V0: START}
header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    route=st.sampled_from([route for route in EVERY_ROUTE if route[1] != "/logout"]),
    document=documents | st.binary(max_size=60),
    headers=st.dictionaries(
        st.sampled_from(SENT_HEADERS[5:]),
        header_text | st.sampled_from(["*", '"inc-1"', "application/json", '"k"']),
        max_size=3,
    ),
    query=st.lists(st.tuples(parameters | known | odd, odd), max_size=4),
)
@example(route=("POST", "/api/v1/incidents"), document=b"[" * 100_000, headers={}, query=[])
@example(
    route=("POST", "/api/v1/incidents"),
    document=b'{"title": ' + b"9" * 5000 + b"}",
    headers={},
    query=[],
)
@example(
    route=("GET", "/api/v1/incidents"),
    document=b"",
    headers={},
    query=[("from", "0001-01-01T00:00:00Z"), ("to", "9999-12-31T23:59:59Z")],
)
@example(
    route=("POST", "/signin"), document=b"email=%00&password=%ff&next=//evil", headers={}, query=[]
)
@example(route=("GET", "/signin"), document=b"", headers={}, query=[("next", "http://[")])
@example(
    route=("GET", "/incidents"),
    document=b"",
    headers={},
    query=[("q", "\ud800"), ("limit", "9" * 5000)],
)
async def test_nothing_that_is_sent_to_any_route_is_a_fault(
    world: World,
    *,
    route: tuple[str, str],
    document: object,
    headers: dict[str, str],
    query: list[tuple[str, str]],
) -> None:
    method, path = route
    content = document if isinstance(document, bytes) else _content(route, document)
    text = "&".join(f"{escaped(name)}={escaped(value)}" for name, value in query)
    before = await world.service.rows()
    sent = world.admin | content_type(method) | {"If-Match": "*"} | headers
    # Archived, the incident would refuse all that follows.
    sent |= {"If-Match": '"inc-0"'} if method == "DELETE" else {}
    raw = {name.encode(): value.encode("latin-1") for name, value in sent.items()}
    content = b"" if method == "GET" else content
    url = f"{path.replace('{user}', world.user_id)}?{text}"
    answer = await world.service.client.request(method, url, content=content, headers=raw)
    assert answer.status_code < 500, answer.text
    world.before = await world.service.rows()
    if answer.status_code >= 400:
        assert world.before == before


def _content(route: tuple[str, str], document: object) -> bytes:
    """Encode a JSON value; an object changes what its route would accept."""
    if isinstance(document, dict):
        document = BODIES.get(route, {}) | cast("dict[str, object]", document)
    return json.dumps(document).encode("utf-8", "replace")


def escaped(text: str) -> str:
    return quote(text, safe="", errors="replace")
