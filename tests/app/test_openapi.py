"""The OpenAPI document: valid, complete, and true in what can be checked without a request."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, cast

import pytest
from pydantic import BaseModel

from postfacta_app.app import declared
from postfacta_app.errors import AppError
from postfacta_app.openapi import openapi_document
from postfacta_app.principal import Access
from postfacta_app.web.routes import Rule
from postfacta_core.asgi._problem import PROBLEMS
from tests.app.live import Service, in_process

# Exactly these answer in HTML, and people find them without a document.
PAGES = {
    "GET /reliability", "GET /insights", "GET /actions",
    "GET /incidents", "GET /incidents/{ref}", "GET /login", "GET /signin", "POST /signin", "POST /signout", "GET /problems/{slug}",
    "GET /incidents/new", "POST /incidents/new",
    "POST /incidents/{ref}/moves", "POST /incidents/{ref}/edits", "POST /incidents/{ref}/notes", "POST /incidents/{ref}/notes/{root}",
    "POST /incidents/{ref}/links", "POST /incidents/{ref}/labels", "GET /incidents/{ref}/edit", "POST /incidents/{ref}/edit",
    "GET /incidents/{ref}/postmortem", "POST /incidents/{ref}/postmortem/moves", "POST /incidents/{ref}/postmortem/restore",
    "GET /incidents/{ref}/postmortem/edit/{section}", "POST /incidents/{ref}/postmortem/edit/{section}",
    "GET /incidents/{ref}/postmortem/revisions", "GET /incidents/{ref}/postmortem/revisions/{rev}",
    "GET /incidents/{ref}/actions", "POST /incidents/{ref}/actions", "POST /incidents/{ref}/actions/{id}",
    "GET /incidents/{ref}/history", "GET /incidents/{ref}/events",
    "GET /account", "POST /account/password", "POST /account/sessions", "POST /account/sessions/{session}",
    "GET /people", "GET /people/{id}", "POST /people", "POST /people/{id}", "POST /people/{id}/password", "POST /people/tokens",
    "POST /people/tokens/{id}",
    "POST /people/{id}/sessions", "POST /people/{id}/sessions/{session}",
}  # fmt: skip


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


@pytest.fixture(scope="module")
def rules() -> list[Rule]:
    return declared()


@pytest.fixture(scope="module")
def document(rules: list[Rule]) -> dict[str, Any]:
    return openapi_document(rules, version="1.2.3")


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def plain(rule: Rule) -> str:
    return re.sub(r":\w+", "", f"{rule.method} {rule.path}")


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    # The meta-schema comes with schemathesis, which checks with it whatever it is given.
    validator = import_module("schemathesis.specs.openapi.definitions").OPENAPI_31_VALIDATOR
    assert [error.message for error in validator.iter_errors(document)] == []
    assert not validator.is_valid(document | {"paths": {"/": {"get": {"responses": []}}}})


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    references = set(find(document, "$ref"))
    assert references
    assert references <= known


def find(value: object, key: str) -> Iterator[Any]:
    if isinstance(value, list):
        for part in cast("list[object]", value):
            yield from find(part, key)
    elif isinstance(value, dict):
        for name, part in cast("dict[str, object]", value).items():
            if name == key:
                yield part
            yield from find(part, key)


def test_every_route_is_in_it_but_the_pages(rules: list[Rule], document: dict[str, Any]) -> None:
    told = {name for name, _ in operations(document)}
    assert told == {plain(rule) for rule in rules} - PAGES
    assert {plain(rule) for rule in rules if not rule.summary} == PAGES


def test_operation_ids_are_unique_and_begin_with_a_verb(document: dict[str, Any]) -> None:
    ids = {operation["operationId"]: name for name, operation in operations(document)}
    assert len(ids) == len(list(operations(document)))
    assert all(operation["summary"] for _, operation in operations(document))
    assert {name.split("_")[0] for name in ids} == {
        *("get", "list", "create", "replace", "update", "delete"),
        *("move", "send", "attach", "detach", "restore", "start", "change", "reset"),
        *("sign", "register", "greet"),
    }
    assert ids["list_signals"] == "GET /api/v1/signals"
    assert ids["send_signals"] == "POST /api/v1/signals"
    assert ids["get_incident_postmortem_revision"].endswith("/revisions/{rev}")
    assert ids["create_incident_action_item"] == "POST /api/v1/incidents/{ref}/action-items"


def test_each_operation_has_one_tag_which_is_declared(document: dict[str, Any]) -> None:
    tags = [operation["tags"] for _, operation in operations(document)]
    assert {len(names) for names in tags} == {1}
    assert {name for (name,) in tags} == {tag["name"] for tag in document["tags"]}


def test_names_of_schemas_are_public_and_no_title_stands_beside_them(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    assert [name for name in schemas if not name.isalnum()] == []
    assert {"SignalKind", "IncidentKind", "IncidentExport"} <= schemas.keys()
    assert [title for title in find(schemas, "title") if isinstance(title, str)] == []


def test_two_models_with_one_name_are_refused_by_name(rules: list[Rule]) -> None:
    class Signal(BaseModel):
        id: int

    (rule,) = (rule for rule in rules if rule.path == "/api/v1/me" and rule.summary)
    clash = replace(rule, path="/api/v1/clash", answers={200: Signal})
    with pytest.raises(ValueError, match=r"share a name.*Signal"):
        openapi_document([*rules, clash], version="")


def test_what_needs_a_caller_says_so(rules: list[Rule], document: dict[str, Any]) -> None:
    told = dict(operations(document))
    for rule in rules:
        if rule.summary:
            operation = told[plain(rule)]
            assert ("security" in operation) == (rule.access is not Access.OPEN)
            assert ("401" in operation["responses"]) or "security" not in operation


def test_each_status_of_a_named_problem_is_documented_in_the_shape_of_its_path(
    rules: list[Rule], document: dict[str, Any]
) -> None:
    statuses = {cls.slug: cls.status for cls in AppError.__subclasses__()}
    told = dict(operations(document))
    for rule in filter(lambda rule: rule.summary, rules):
        responses = told[plain(rule)]["responses"]
        v1 = rule.path.startswith("/api/v1/")
        shape = "application/problem+json" if v1 else "application/json"
        for slug in rule.problems:
            assert slug in statuses, f"{plain(rule)} documents {slug}, which no error has"
            assert str(statuses[slug]) in responses
        for status in (405, 413, 414, 431, 500, 503, 504):
            assert shape in responses[str(status)]["content"], (plain(rule), status)
        for status, answer in responses.items():
            if int(status) >= 400:
                assert list(answer["content"]) == [shape], (plain(rule), status)


# A probe is never limited, and Alertmanager would give up after it.
NEVER_429 = {"GET /healthz", "POST /api/v1/ingest/alertmanager"}


def test_all_but_these_may_be_answered_by_429_with_how_long_to_wait(
    document: dict[str, Any],
) -> None:
    assert {name for name, _ in operations(document)} >= NEVER_429
    for name, operation in operations(document):
        limited = operation["responses"].get("429")
        assert (limited is None) == (name in NEVER_429), name
        assert limited is None or limited["headers"]["Retry-After"]["required"] is True


async def test_every_problem_has_a_page_that_explains_it(service: Service) -> None:
    slugs = {cls.slug for cls in AppError.__subclasses__()}
    slugs |= {problem.code for problem in PROBLEMS.values()} | {"internal"}
    assert len(slugs) >= 20
    for slug in slugs:
        answer = await service.client.get(f"/problems/{slug}")
        assert answer.status_code == 200, slug
        assert answer.headers["content-type"].startswith("text/html")
    assert (await service.client.get("/problems/no-such-thing")).status_code == 404


async def test_it_is_served_as_it_is_made(service: Service, document: dict[str, Any]) -> None:
    answer = await service.client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() | {"info": document["info"]} == document


async def test_it_is_serialised_once_and_not_sent_to_those_that_have_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, dumps = list[int](), json.dumps

    def counting(*args: Any, **options: Any) -> str:
        text = dumps(*args, **options)
        sizes.append(len(text))
        return text

    monkeypatch.setattr(json, "dumps", counting)
    first = await service.client.get("/openapi.json")
    etag = first.headers["etag"]
    again = await service.client.get("/openapi.json", headers={"If-None-Match": etag})
    assert (first.status_code, again.status_code) == (200, 304)
    assert (again.headers["etag"], again.content) == (etag, b"")
    assert max(sizes, default=0) < len(first.content) / 10
