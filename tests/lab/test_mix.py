"""A load test asks for what its owner names, and refuses what it does not understand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from postfacta_lab.load.mix import Ask, read_mix
from tests.kit.every import every


def test_the_mix_of_postfacta_is_one() -> None:
    found = read_mix([], Path("loadtests/postfacta.yaml"))
    assert [(ask.method, ask.share, ask.expected) for ask in found] == [
        ("GET", 6, 200),
        ("GET", 2, 200),
        ("POST", 2, 201),
    ]


def test_each_path_is_asked_for_alike() -> None:
    found = read_mix(["/invoices/7", "/invoices?limit=20"], None)
    assert found == (
        Ask("GET /invoices/7", 1, "/invoices/7"),
        Ask("GET /invoices", 1, "/invoices?limit=20"),
    )


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_file_names_methods_shares_bodies_and_statuses(ending: str, tmp_path: Path) -> None:
    asks = [
        {"path": "/invoices/7", "share": 3, "route": "GET /invoices/{id}"},
        {"path": "/invoices", "method": "post", "body": {"sum": 3}, "expected": 202},
    ]
    file = tmp_path / f"mix.{ending}"
    file.write_text(json.dumps(asks) if ending == "json" else str(asks))
    assert read_mix([], file) == (
        Ask("GET /invoices/{id}", 3, "/invoices/7"),
        Ask("POST /invoices", 1, "/invoices", "POST", {"sum": 3}, 202),
    )


def test_any_success_is_good_unless_a_status_is_named() -> None:
    anything, created = Ask("GET /", 1, "/"), Ask("POST /", 1, "/", "POST", None, 201)
    assert [anything.is_good(status) for status in (200, 204, 301, 404, 500, 0)] == [True, True] + [
        False
    ] * 4
    assert [created.is_good(status) for status in (200, 201)] == [False, True]


WRONG = [
    ("", "list of requests"),
    ("path: /a", "list of requests"),
    ("[", "mix.yaml"),
    ("[a]", "request 1: path must begin with /"),
    ("[{path: /a}, {paths: /b}]", "request 2: 'paths' is no field; there are path, method"),
    ("[{}]", "path must begin with /"),
    ("[{path: a}]", "path must begin with /"),
    ("[{path: 7}]", "path must begin with /"),
    ("[{path: '/a b'}]", "path must begin with /"),
    ("[{path: /a, route: ''}]", "route must be a text"),
    ("[{path: /a, share: 0}]", "share must be a whole number, at least 1, not 0"),
    ("[{path: /a, share: true}]", "share must be a whole number, at least 1, not True"),
    ("[{path: /a, share: '3'}]", "share must be a whole number, at least 1, not '3'"),
    ("[{path: /a, method: FETCH}]", "method must be one of GET"),
    ("[{path: /a, expected: 99}]", "expected must be a status"),
    ("[{path: /a, body: text}]", "body must have fields, or be a list, not 'text'"),
]


def test_a_wrong_file_is_refused_with_the_place_and_the_reason(tmp_path: Path) -> None:
    with every() as case:
        for text, complaint in WRONG:
            with case(text, complaint):
                file = tmp_path / "mix.yaml"
                file.write_text(text)
                with pytest.raises(ValueError, match="mix") as caught:
                    read_mix([], file)
                assert complaint in str(caught.value)


def test_a_missing_file_a_wrong_path_and_both_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        read_mix([], tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--path: path must begin with /"):
        read_mix(["invoices"], None)
    for paths, file in ((["/a"], tmp_path), ([], None)):
        with pytest.raises(ValueError, match="not both"):
            read_mix(paths, file)


@pytest.mark.parametrize("deep", ["[" * 20_000, "- " * 20_000 + "x"])
def test_a_file_nested_without_end_is_refused_at_once(deep: str, tmp_path: Path) -> None:
    file = tmp_path / "mix.yaml"
    file.write_text(deep)
    with pytest.raises(ValueError, match=r"mix\.yaml: [\s\S]*nest(ed|ing)"):
        read_mix([], file)
