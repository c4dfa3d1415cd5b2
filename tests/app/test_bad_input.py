"""Whatever is wrong with a body, the answer names the field and the rule, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from itertools import product

import httpx2
import pytest

from tests.app.live import (
    JSON_ROUTES,
    ROUTES,
    START,
    V0,
    Body,
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


# What is no JSON, or none that can be stored, and a word of the sentence that says so.
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "EOF"),
    "blank": (b" \n\t", "EOF"),
    "open": (b'{"title": ', "line 1"),
    "trailing": (b'{"title": "x"} {}', "line 1"),
    "single quotes": (b"{'title': 'x'}", "line 1"),
    "NaN": (b'{"title": NaN}', "NaN"),
    "Infinity": (b'{"title": -Infinity}', "Infinity"),
    "large float": (b'{"title": 1e999}', "too large"),
    "large integer": (b'{"title": ' + b"9" * 5000 + b"}", "too large"),
    "deep array": (b"[" * 15_000, ""),
    "one level too deep": (b"[" * 101 + b"]" * 101, "too deeply"),
    "deep and closed": (b"[" * 7000 + b"]" * 7000, "too deeply"),
    "deep object": (b'{"a":' * 2500 + b"1" + b"}" * 2500, "too deeply"),
    "null byte": (b'{"title": "a\\u0000b"}', "U+0000"),
    "null byte in a key": (b'{"a\\u0000b": 1}', "U+0000"),
    "raw null byte": (b'{"title": "a\0b"}', "line 1"),
    "not UTF-8": (b'{"title": "\xff"}', "UTF-8"),
    "UTF-16": ('{"title": "x"}'.encode("utf-16"), "UTF-8"),
    "a byte order mark": (b'\xef\xbb\xbf{"title": "x"}', "line 1"),
    "a surrogate as UTF-8": (b'{"title": "\xed\xa0\x80"}', "UTF-8"),
}


def named(answer: httpx2.Response) -> list[str]:
    """Give the fields that either shape names, with their rules."""
    body = answer.json()
    if "errors" not in body:
        return [f"/{part}" for part in body["message"].split("; ")]
    return [f"{it['pointer']} {it['message']}" for it in body["errors"] if it["code"]]


@pytest.mark.parametrize(("method", "path"), [*ROUTES, V0])
async def test_what_is_no_json_is_400_and_says_where(world: World, method: str, path: str) -> None:
    with every() as case:
        for kind, (content, word) in BROKEN.items():
            if path in {"/login", "/register"} and kind.startswith("deep"):
                continue  # too long for them
            with case(kind):
                answer = await world.send(
                    method, path, content=content, headers=content_type(method)
                )
                assert answer.status_code == 400, answer.text
                assert word in said(answer)
                await world.assert_untouched()


NO_OBJECTS: list[object] = [None, True, 7, 1.5, "text", [], [{}]]


async def test_a_body_that_is_no_object_is_refused(world: World) -> None:
    with every() as case:
        for (method, path), value in product(ROUTES, NO_OBJECTS):
            content = json.dumps(value).encode()
            with case(method, path, value):
                answer = await world.send(
                    method, path, content=content, headers=content_type(method)
                )
                assert answer.status_code == 422
                assert len(named(answer)) == 1
                await world.assert_untouched()


# None of them is a value of any field.
WRONG: dict[str, object] = {
    "object": {},
    "surrogate key": {"\ud800": [None]},
    "list of objects": [{}],
    "nested lists": [[[]]],
    "large number": -(10**30),
    "long text": "\ud800" * 2500,
}


@pytest.mark.parametrize(
    ("method", "path", "body", "names"),
    JSON_ROUTES,
    ids=[f"{method}-{path}" for method, path in ROUTES],
)
async def test_a_field_of_the_wrong_type_or_length_is_named(
    world: World, method: str, path: str, body: Body, *, names: Sequence[str]
) -> None:
    with every() as case:
        for name, kind in product([*names, "unknown~/"], WRONG):
            if (name, kind) == ("body", "long text"):
                continue  # A remark may be as long.
            content = json.dumps(body | {name: WRONG[kind]}).encode()
            with case(name, kind):
                answer = await world.send(
                    method, path, content=content, headers=content_type(method)
                )
                assert answer.status_code == 422, answer.text
                pointer = "/" + name.replace("~", "~0").replace("/", "~1")
                fields = named(answer)
                assert fields
                assert all(it.startswith(pointer) for it in fields)
                assert all(len(it) > len(pointer) + 5 for it in fields)
                await world.assert_untouched()


async def test_v0_names_the_field_in_its_one_sentence(world: World) -> None:
    names = ["title", "description", "reporter", "severity", "owner", "notes"]
    with every() as case:
        for name, kind in product(names, WRONG):
            # An empty note is a note.
            value = [7] if (name, kind) == ("notes", "list of objects") else WRONG[kind]
            content = json.dumps(START | {name: value}).encode()
            with case(name, kind):
                answer = await world.send(*V0, content=content)
                assert answer.status_code == 400, answer.text
                assert answer.json().keys() == {"message", "requestId"}
                assert name.removesuffix("s") in said(answer)
                await world.assert_untouched()


async def test_a_lone_surrogate_becomes_one_replacement_character(world: World) -> None:
    body = b'{"title": "\\ud800\\ud800\\ud83d\\ude00", "description": "long enough", "severity": "LOW"}'
    answer = await world.send(
        "POST", "/api/v1/incidents", content=body, headers=content_type("POST")
    )
    assert answer.status_code == 201
    assert answer.json()["title"] == "\ufffd\ufffd\U0001f600"
    world.before = await world.service.rows()


NO_JSON: list[list[tuple[str, str | bytes]]] = [
    [],
    [("Content-Type", "")],
    [("Content-Type", "text/plain")],
    [("Content-Type", "application/x-www-form-urlencoded")],
    [("Content-Type", "application/jsonp")],
    [("Content-Type", "application/json"), ("Content-Type", "text/plain")],
    [("Content-Type", "application/json"), ("Content-Type", "application/json")],
    [("Content-Type", b"application/\xffjson")],
]


async def test_a_body_that_is_not_called_json_is_415(world: World) -> None:
    with every() as case:
        for (method, path, body, _), given in product(JSON_ROUTES, NO_JSON):
            headers = [*world.admin.items(), ("If-Match", "*"), *given]
            raw = [
                (name.encode(), value if isinstance(value, bytes) else value.encode())
                for name, value in headers
            ]
            url = path.replace("{user}", world.user_id)
            with case(method, path, given):
                answer = await world.service.client.request(
                    method, url, content=json.dumps(body), headers=raw
                )
                assert answer.status_code == 415, answer.text
                assert "Content-Type" in said(answer)
                await world.assert_untouched()
