"""What refers to nothing, and what nothing refers to, is found."""

from __future__ import annotations

from typing import Any

import pytest

from postfacta_slo.promise.promql import SloError
from postfacta_slo.promise.reading import (
    Entry,
    Faults,
    Registry,
    Reported,
    StrictMapping,
    WhollyRead,
    entry,
    every,
)
from tests.kit.every import every as every_case

HEAD: dict[str, Any] = {
    "apiVersion": "openslo/v1",
    "kind": "Service",
    "metadata": {"name": "shop"},
    "spec": {"description": " Sells\n things. "},
}


def changed(**keys: object) -> dict[str, Any]:
    return HEAD | keys


def name_of(one: Entry) -> str:
    return one.name


def test_the_head_of_an_object_is_read() -> None:
    meta = {
        "name": "shop",
        "displayName": "The shop",
        "labels": {"team": "a"},
        "annotations": {"prometheus/n": "7"},
    }
    one = entry(changed(metadata=meta), "document 1")
    assert (one.kind, one.name, one.title) == ("Service", "shop", "The shop")
    assert one.description == "Sells things."
    assert one.labels == (("team", "a"),)
    assert one.count("n") == 7
    assert one.count("m") == 0
    assert entry(HEAD, "document 1").title == "shop"


def test_a_head_that_is_not_understood_is_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"apiVersion": "openslo/v1alpha"}, r"document 1\.apiVersion: must be openslo/v1"),
        ({"apiVersion": None}, r"document 1\.apiVersion: must be a text and is missing"),
        ({"kind": "Slo"}, r"document 1\.kind: must be one of DataSource, .*, not 'Slo'"),
        ({"more": 1}, r"document 1\.more: is not known"),
        ({"metadata": {}}, r"document 1\.metadata\.name: must be a text and is missing"),
        ({"metadata": {"name": "a", "more": 1}}, r"document 1\.metadata\.more: is not known"),
        (
            {"metadata": {"name": "a", "labels": {"t": ["a"]}}},
            r"\(Service a\): metadata\.labels\.t: must be a text",
        ),
        ({"spec": None}, r"document 1\.?.*spec: must be a mapping"),
        ({"spec": {"description": "x" * 1051}}, "description: has 1051 characters"),
        ({"kind": "SLI", "metadata": {"name": "a", "labels": {"t": "a"}}}, r"labels\.t: would be ignored"),
    ]
    with every_case() as case:
        for keys, why in cases:
            with case(keys, why), pytest.raises(SloError, match=why):
                entry(changed(**keys), "document 1")


def test_an_object_inside_another_need_not_say_what_it_is() -> None:
    inside = {"metadata": {"name": "a"}, "spec": {}}
    assert entry(inside, "here", "SLI").kind == "SLI"
    with pytest.raises(SloError, match=r"here\.kind: must be SLI, not 'Service'"):
        entry(inside | {"kind": "Service"}, "here", "SLI")
    with pytest.raises(SloError, match="kind: must be a text and is missing"):
        entry(inside | {"apiVersion": "openslo/v1"}, "here")


@pytest.mark.parametrize("value", ["-1", "1.5", "many", "٣", ""])
def test_a_count_is_a_whole_number(value: str) -> None:
    one = entry(changed(metadata={"name": "a", "annotations": {"prometheus/n": value}}), "document 1")
    with pytest.raises(SloError, match=r"annotations\.prometheus/n: must be a whole number"):
        one.count("n")


def test_what_a_record_left_over_is_refused() -> None:
    annotated = {"name": "a", "annotations": {"prometheus/x": "1"}}
    with pytest.raises(SloError, match=r"annotations\.prometheus/x: is not known"):
        entry(changed(metadata=annotated), "document 1").into(name_of)
    with pytest.raises(SloError, match=r"spec\.more: is not known"):
        entry(changed(spec={"more": 1}), "document 1").into(name_of)


def test_a_refusal_says_once_where_the_object_stands() -> None:
    def refuse(one: Entry) -> None:
        raise SloError("is wrong")

    def refuse_with_path(one: Entry) -> None:
        raise one.spec.refuse("key", "is wrong")

    with pytest.raises(SloError, match=r"^document 1 \(Service shop\): is wrong$"):
        entry(HEAD, "document 1").into(refuse)
    with pytest.raises(SloError, match=r"^document 1 \(Service shop\): spec\.key: is wrong$"):
        entry(HEAD, "document 1").into(refuse_with_path)


def shelf(*names: str, faults: Faults | None = None) -> Registry[str]:
    entries = [entry(changed(metadata={"name": name}), f"document {name}") for name in names]
    return Registry(entries, "Service", name_of, faults=Faults() if faults is None else faults)


def test_a_name_is_given_once_for_each_kind() -> None:
    faults = Faults()
    shelf("a", "a", faults=faults)
    assert faults.texts == ["document a (Service a): there is another Service of this name"]
    assert Registry([entry(HEAD, "document 1")], "SLO", name_of, faults=faults).all() == ()


def test_what_is_broken_is_reported_once_and_not_by_those_who_refer_to_it() -> None:
    def refuse(one: Entry) -> str:
        raise SloError("is wrong")

    faults = Faults()
    found = Registry([entry(HEAD, "document 1")], "Service", refuse, faults=faults)
    with pytest.raises(Reported):
        found.get("shop", "here")
    assert faults.texts == ["document 1 (Service shop): is wrong"]


def test_what_is_not_there_cannot_be_referred_to() -> None:
    assert shelf("a", "b").get("b", "here") == "b"
    with pytest.raises(SloError, match="here: there is no Service 'c'; known are: a, b"):
        shelf("a", "b").get("c", "here")
    with pytest.raises(SloError, match="known are: none"):
        shelf().get("c", "here")


def test_what_nothing_refers_to_is_refused() -> None:
    faults = Faults()
    found = shelf("a", "b", "c", faults=faults)
    found.get("a", "here")
    assert found.find("b")
    assert not found.find("d")
    found.end()
    assert faults.texts == ["document c (Service c): nothing refers to it, so that it would be ignored"]
    assert found.refer({"ref": "c"}, "here", "ref") == "c"
    found.end()
    assert len(faults) == 1


def test_an_item_is_a_reference_or_the_object_itself() -> None:
    faults = Faults()
    found = shelf("a", faults=faults)
    assert found.refer({"metadata": {"name": "inside"}, "spec": {}}, "here", "ref") == "inside"
    found.refer({"ref": "a", "more": 1}, "here", "ref")
    assert [text.partition(" known")[0] for text in faults.texts] == ["here.more: is not"]
    with pytest.raises(SloError, match=r"here\.ref: there is no Service 'z'"):
        found.refer({"ref": "z"}, "here", "ref")


def test_every_part_is_made_although_one_before_it_is_wrong() -> None:
    def wrong() -> str:
        raise SloError("here: is wrong")

    faults = Faults()
    with pytest.raises(WhollyRead):
        every(faults, wrong, lambda: "made", wrong)
    assert faults.texts == ["here: is wrong"]
    none = StrictMapping({}, "here").faults
    assert every(none, lambda: 1, lambda: 2) == [1, 2]
    with pytest.raises(SloError, match="here: is wrong"):
        every(none, wrong)
