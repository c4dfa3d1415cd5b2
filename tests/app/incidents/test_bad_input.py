"""Whatever is sent to an incident route, the answer is a refusal in words or a success, never a fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx2
from hypothesis import HealthCheck, example, given, settings, strategies as st

from postfacta_app.principal import Principal
from postfacta_postgres import Database

ClientFor = Callable[[Principal], httpx2.AsyncClient]
Body = dict[str, Any]

BASE = "/api/v1/incidents"
NEW: Body = {
    "title": "Checkout is down",
    "description": "Nobody can pay since noon.",
    "severity": "HIGH",
}
FIELDS = [
    *(
        *NEW,
        "kind",
        "reporter",
        "owner",
        "services",
        "teams",
        "visibility",
        "members",
        "declared_at",
    ),
    *("to", "occurred_at", "outcome", "reason", "status", "x"),
]
PARAMETERS = [
    *(
        "from",
        "to",
        "kind",
        "service",
        "team",
        "severity",
        "severity_gte",
        "status",
        "outcome",
        "x",
    ),
    *("owner", "has_postmortem", "updated_since", "q", "sort", "limit", "cursor"),
]
HEADERS = ["If-Match", "If-None-Match", "Idempotency-Key", "Content-Type"]

odd_text = st.text() | st.sampled_from(
    [
        *(
            "\0",
            "\ud800",
            "HIGH",
            "OPEN",
            "RESOLVED",
            "CLOSED",
            "private",
            "fixed",
            "drill",
            "INC-1",
            "INC-0",
        ),
        *(
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
            "9999-12-31T23:59:59-14:00",
            "1e400",
        ),
        *(
            "2026-01-01T00:00:00Z",
            "' or 1=1 --",
            "&|!:*()",
            "%",
            "00000000-0000-0000-0000-000000000000",
        ),
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_text, inner, max_size=4),
    max_leaves=8,
)
shaped = st.dictionaries(st.sampled_from(FIELDS), values, max_size=2).map(lambda odd: NEW | odd)
moves = st.fixed_dictionaries(
    {"to": st.sampled_from(["OPEN", "IN_PROGRESS", "RESOLVED", "CLOSED"]) | values},
    optional={"outcome": st.just("fixed") | values, "reason": values, "occurred_at": values},
)
documents = (shaped | moves | values).map(
    lambda value: json.dumps(value).encode("utf-8", "replace")
)
bodies = documents | documents | st.binary()
refs = st.just("INC-1") | st.just("INC-1") | odd_text
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255)) | st.sampled_from(
    ["*", '"inc-1"', "application/json", '"k"', "k"]
)
headers = st.just(dict[str, str]()) | st.dictionaries(
    st.sampled_from(HEADERS), header_values, max_size=3
)
queries = st.lists(st.tuples(st.sampled_from(PARAMETERS), odd_text), max_size=4)


targets = st.sampled_from(
    [("GET", ""), ("POST", ""), ("GET", "/{}"), ("PATCH", "/{}"), ("DELETE", "/{}")]
) | st.just(("POST", "/{}/transitions"))


@dataclass(frozen=True)
class Sent:
    """The parts of a request."""

    target: tuple[str, str] = ("POST", "")
    ref: str = "INC-1"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    query: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def url(self) -> str:
        path = self.target[1].format(escaped(self.ref))
        return f"{BASE}{path}?" + "&".join(f"{name}={escaped(text)}" for name, text in self.query)


def escaped(text: str) -> str:
    return quote(text, safe="", errors="replace")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sent=st.builds(Sent, target=targets, ref=refs, body=bodies, headers=headers, query=queries))
@example(sent=Sent(body=b"[" * 100_000))
@example(sent=Sent(body=b'{"title": ' + b"9" * 5000 + b"}"))
@example(sent=Sent(target=("GET", ""), query=[("q", "\ud800")]))
@example(
    sent=Sent(
        target=("GET", ""), query=[("from", "0001-01-01T00:00:00Z"), ("to", "9999-12-31T23:59:59Z")]
    )
)
async def test_nothing_that_is_sent_is_a_fault(
    client_for: ClientFor, responder: Principal, app_database: Database, *, sent: Sent
) -> None:
    client = client_for(responder)
    assert (await client.post(BASE, json=NEW)).status_code == 201  # so that INC-1 is there
    count = (
        "select from incidents union all select from status_changes union all select from audit_log"
    )
    before = len(await app_database.fetch(count, operation="test"))
    headers = {"Content-Type": "application/json", "If-Match": "*"} | sent.headers
    answer = await client.request(
        sent.target[0],
        sent.url,
        content=sent.body,
        headers={name.encode(): text.encode("latin-1") for name, text in headers.items()},
    )
    assert answer.status_code < 500
    if answer.status_code in {400, 422}:
        assert answer.json()["detail"]
    if answer.status_code >= 400:
        assert len(await app_database.fetch(count, operation="test")) == before
