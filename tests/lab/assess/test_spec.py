"""The service file: what is read, and each key wrong once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from postfacta_lab.assess.spec import LOOPBACK, Spec, SpecError

WHOLE: dict[str, Any] = {
    "service": {
        "start": ["serve", "{port}"],
        "name": "billing",
        "env": {"MODE": "testing-it"},
        "grace": 20,
        "project": ".",
    },
    "read": {"path": "/invoices/{id}"},
    "write": {"path": "/invoices", "json": {"customer": "{unique}"}, "id": "/id"},
    "stream": {"path": "/invoices/summary", "ends": "[DONE]"},
    "auth": {"header": "Authorization: Bearer ${TOKEN}"},
    "database": {
        "env": "DSN",
        "url": "postgresql://billing:swordfish@127.0.0.1/billing",
        "max_connections": 10,
    },
    "limits": {"off": {"RATE": ""}},
    "declare": [{"check": "SECU-2", "why": "behind a gateway"}],
}


def read(data: dict[str, Any]) -> Spec:
    return Spec.of(data, {"TOKEN": "canary-1 canary-2"}, Path("/somewhere"))


def test_a_file_is_read() -> None:
    spec = read(WHOLE)
    assert spec.write is not None
    assert spec.write.method == "POST"
    assert spec.auth == ("Authorization", "Bearer canary-1 canary-2")
    assert spec.declared == {"SECU-2": "behind a gateway"}
    assert spec.project == Path("/somewhere")
    assert spec.database is not None
    assert spec.database.address == ("127.0.0.1", 5432)
    assert spec.database.at(99) == "postgresql://billing:swordfish@127.0.0.1:99/billing"
    assert spec.database.address[0] in LOOPBACK


def test_secrets_are_known() -> None:
    assert set(read(WHOLE).secrets) == {"swordfish", "canary-1", "canary-2", "Bearer", "testing-it"}


def test_a_command_is_enough() -> None:
    spec = read({"service": {"start": ["serve"]}})
    assert (spec.read, spec.write, spec.database, spec.project) == (None, None, None, None)


def test_only_a_file_that_says_so_has_no_database() -> None:
    def without(**service: str) -> bool:
        return read({"service": {"start": ["serve"], **service}}).has_no_database

    assert without(keeps="nothing")
    assert without(keeps="files")
    assert not without(keeps="database")
    assert not without()


@pytest.mark.parametrize(
    ("table", "key", "value", "said"),
    [
        ("service", "start", [], "start is missing"),
        ("service", "start", "serve", "start must be a list of strings"),
        ("service", "start", [1], "start must be a list of strings"),
        ("service", "name", 1, "name must be a string"),
        ("service", "env", {"A": 1}, "env must be a table of strings"),
        ("service", "env", [], "env must be a table of strings"),
        ("service", "env", {"A": "${NONE}"}, "the environment has no NONE"),
        ("service", "grace", -1, "grace must be a number"),
        ("service", "grace", True, "grace must be a number"),
        ("service", "prestop", "2s", "prestop must be a number"),
        ("service", "prestop", 4000, "prestop must be a number"),
        ("service", "live", "healthz", "live must be a path"),
        ("service", "ready", "/a b", "ready must be a path"),
        ("service", "metrics", 1, "metrics must be a path"),
        ("service", "project", [], "project must be a string"),
        ("service", "public", "yes", "public must be true or false"),
        ("service", "keeps", "rows", 'keeps must be "nothing", "files" or "database"'),
        ("service", "keeps", "files", 'keeps is "files", but there is a [database]: write'),
        ("service", "colour", "red", "[service] colour is not known"),
        ("read", "path", "", "path is missing"),
        ("read", "path", "invoices", "path must be a path"),
        ("read", "method", "get", "method must be one"),
        ("write", "id", "id", "id must be a JSON pointer"),
        ("write", "headers", {"A": 1}, "headers must be a table of strings"),
        ("write", "verb", "POST", "[write] verb is not known"),
        ("stream", "path", "", "path is missing"),
        ("stream", "ends", 1, "ends must be a string"),
        ("auth", "header", "Bearer x", "header must be one"),
        ("auth", "header", "Authorization: ", "header must be one"),
        ("database", "env", "", "env is missing"),
        ("database", "url", 1, "url must be an address"),
        ("database", "url", "billing", "url must be an address"),
        ("database", "url", "x://host", "url must be an address"),
        ("database", "url", "x://host:port", "url must be an address"),
        ("database", "max_connections", "ten", "max_connections must be a number"),
        ("limits", "off", ["RATE"], "off must be a table of strings"),
    ],
)
def test_a_wrong_key_is_named(table: str, key: str, value: object, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read({**WHOLE, table: {**WHOLE[table], key: value}})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("service", "x", "[service] must be a table"),
        ("declare", {}, "declare must be an array"),
        ("declare", ["SECU-2"], "[declare] must be a table"),
        ("declare", [{"check": "SECU-2"}], "why is missing"),
        ("declare", [{"check": "SECU-2", "why": "x", "who": "y"}], "[declare] who is not known"),
        ("checks", "mine.py", "checks must be a list"),
        ("servce", {}, "servce is not known"),
    ],
)
def test_a_wrong_table_is_named(name: str, value: object, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read({**WHOLE, name: value})
    assert said in str(caught.value)
