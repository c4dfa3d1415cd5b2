"""A suite begins with what a service can be asked for without harm."""

from __future__ import annotations

import ast
from typing import Any

import yaml

from postfacta_lab.init.command import Suite, candidates, files

DOCUMENT: dict[str, Any] = {
    "paths": {
        "/invoices": {
            "get": {"parameters": [{"name": "limit", "in": "query", "schema": {"default": 20}}]},
            "post": {},
        },
        "/invoices/{number}": {
            "get": {"parameters": [{"name": "number", "in": "path", "schema": {}}]}
        },
        "/customers/{name}": {
            "parameters": [
                {"name": "name", "in": "path", "schema": {"examples": ["ada lovelace"]}}
            ],
            "get": {
                "parameters": [
                    {"name": "on", "in": "query", "required": True, "example": "2026-11-27"}
                ]
            },
        },
        "/search": {"get": {"parameters": [{"name": "q", "in": "query", "required": True}]}},
        "/odd/{x}": {"get": {"parameters": "none"}, "x-note": 3},
    }
}


def test_paths_that_need_no_value_are_taken_and_the_rest_is_named() -> None:
    paths, others = candidates(DOCUMENT)
    assert paths == ["/invoices"]
    assert others == {
        "POST /invoices": "writes: add it with a body that may be written",
        "GET /invoices/{number}": "has a parameter: add it with a value",
        "GET /customers/{name}": "has a parameter: add it with a value",
        "GET /search": "has a parameter: add it with a value",
        "GET /odd/{x}": "has a parameter: add it with a value",
    }
    assert candidates({"paths": []}) == ([], {})


def test_the_files_can_be_read_whatever_the_command_is() -> None:
    made = files(
        Suite('sh -c "serve $PORT"  # {port}', ("/a?b='c'",), "", {"GET /x": "answered 404"})
    )
    ast.parse(made["reliability/test_reliability.py"])
    ast.parse(made["reliability/conftest.py"])
    assert yaml.safe_load(made["reliability/mix.yaml"]) == [{"path": "/a?b='c'"}]
    assert yaml.safe_load(made[".github/workflows/reliability.yml"])["jobs"]["reliability"]["steps"]
