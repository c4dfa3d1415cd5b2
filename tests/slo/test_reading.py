"""What refers to nothing, and what nothing refers to, is found."""

from __future__ import annotations

from typing import Any

import pytest

from postfacta_slo.promise.reading import Entry, Faults, ObjectTable, StrictMapping, read_entry
from tests.kit.every import every

HEAD: dict[str, Any] = {
    "apiVersion": "openslo/v1",
    "kind": "Service",
    "metadata": {"name": "shop"},
    "spec": {"description": " Sells\n things. "},
}


def changed(**keys: object) -> dict[str, Any]:
    return HEAD | keys


def read(value: object, path: str = "document 1", kind: str = "") -> tuple[Entry, Faults]:
    faults: Faults = {}
    return read_entry(StrictMapping(value, path, faults), kind), faults


def told(faults: Faults) -> list[str]:
    return [f"{place}: {why}" for place, why in faults.items()]


def name_of(one: Entry) -> str | None:
    return one.build(str, object=one.name)


def test_the_head_of_an_object_is_read() -> None:
    meta = {
        "name": "shop",
        "displayName": "The shop",
        "labels": {"team": "a"},
        "annotations": {"prometheus/n": "7"},
    }
    one, faults = read(changed(metadata=meta))
    assert (one.kind, one.name, one.title) == ("Service", "shop", "The shop")
    assert one.description == "Sells things."
    assert one.labels == (("team", "a"),)
    assert one.count("n") == 7
    assert one.count("m") == 0
    assert read(HEAD)[0].title == "shop"
    assert faults == {}


def test_a_head_that_is_not_understood_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"apiVersion": "openslo/v1alpha"}, "document 1.apiVersion: must be openslo/v1"),
        ({"apiVersion": None}, "document 1.apiVersion: must be openslo/v1, and is missing"),
        ({"kind": "Slo"}, "document 1.kind: must be DataSource or Service or "),
        ({"more": 1}, "document 1.more: is not known"),
        ({"metadata": {}}, "document 1.metadata.name: must be a text, and is missing"),
        ({"metadata": {"name": "a", "more": 1}}, "document 1.metadata.more: is not known"),
        (
            {"metadata": {"name": "a", "labels": {"t": ["a"]}}},
            "document 1 (Service a): metadata.labels.t: must be a text",
        ),
        ({"spec": None}, "document 1 (Service shop): spec: must be a mapping"),
        (
            {"spec": {"description": "x" * 1051}},
            "document 1 (Service shop): spec.description: has 1051 characters",
        ),
        (
            {"kind": "SLI", "metadata": {"name": "a", "labels": {"t": "a"}}},
            "document 1 (SLI a): metadata.labels.t: would be ignored",
        ),
    ]
    with every() as case:
        for keys, why in cases:
            with case(keys, why):
                one, faults = read(changed(**keys))
                assert [text[: len(why)] for text in told(faults)] == [why]
                assert one.build(str) is None


@pytest.mark.parametrize("keys", [{"apiVersion": "v2"}, {"kind": "Slo"}, {"metadata": {}}])
def test_an_object_of_which_it_is_not_known_what_it_is_is_of_no_kind(keys: dict[str, Any]) -> None:
    assert read(changed(**keys))[0].kind == ""


def test_an_object_inside_another_need_not_say_what_it_is() -> None:
    inside = {"metadata": {"name": "a"}, "spec": {}}
    assert read(inside, "here", "SLI")[0].kind == "SLI"
    assert read(inside | {"kind": "Service"}, "here", "SLI")[1] == {
        "here.kind": "must be SLI, not 'Service'"
    }
    assert "missing" in read(inside | {"apiVersion": "openslo/v1"}, "here")[1]["here.kind"]


@pytest.mark.parametrize("value", ["-1", "1.5", "many", "٣", ""])
def test_a_count_is_a_whole_number(value: str) -> None:
    one, faults = read(changed(metadata={"name": "a", "annotations": {"prometheus/n": value}}))
    assert one.count("n") == 0
    ((place, why),) = faults.items()
    assert place.endswith("annotations.prometheus/n")
    assert why.startswith("must be a whole number")


def shelf(*names: str, faults: Faults | None = None) -> ObjectTable[str]:
    entries = [read(changed(metadata={"name": name}), f"document {name}")[0] for name in names]
    return ObjectTable(entries, "Service", name_of, faults={} if faults is None else faults)


def test_what_is_wrong_is_reported_once_and_not_by_those_who_refer_to_it() -> None:
    faults: Faults = {}
    found = ObjectTable([read(changed(spec={"more": 1}))[0]], "Service", name_of, faults=faults)
    before = list(faults)
    own: Faults = {}
    node = StrictMapping({"ref": "shop"}, "here", own)
    assert found.named(node, "ref") is None
    assert own == {"here.ref": ""}
    assert node.build(str) is None
    assert list(faults) == before == ["document 1 (Service shop): spec.more"]
    # It might have been the one that is looked for.
    assert found.find("another")


def test_what_is_not_there_cannot_be_referred_to() -> None:
    faults: Faults = {}
    node = StrictMapping({"good": "b", "bad": "c", "worse": "c"}, "here", faults)
    assert shelf("a", "b").named(node, "good") == "b"
    assert shelf("a", "b").named(node, "bad") is None
    assert shelf().named(node, "worse") is None
    assert told(faults) == [
        "here.bad: there is no Service 'c'; known are: a, b",
        "here.worse: there is no Service 'c'; known are: none",
    ]


def test_what_nothing_refers_to_is_refused() -> None:
    faults: Faults = {}
    found = shelf("a", "b", "c", faults=faults)
    assert found.referenced_or_inline(StrictMapping({"ref": "a"}, "here", faults), "ref") == "a"
    assert found.find("b")
    assert not found.find("d")
    found.end()
    assert told(faults) == [
        "document c (Service c): nothing refers to it, so that it would be ignored"
    ]


def test_an_item_is_a_reference_or_the_object_itself() -> None:
    faults: Faults = {}
    found = shelf("a", faults=faults)
    inside = {"metadata": {"name": "inside"}, "spec": {}}
    assert found.referenced_or_inline(StrictMapping(inside, "here", faults), "ref") == "inside"
    assert (
        found.referenced_or_inline(StrictMapping({"ref": "a", "more": 1}, "here", faults), "ref")
        == "a"
    )
    assert [text.partition(" known")[0] for text in told(faults)] == ["here.more: is not"]
