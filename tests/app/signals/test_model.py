"""Equal facts have equal hashes, others differ, and no sender writes under the source of another."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given, strategies as st
from pydantic import ValidationError

from postfacta_app.identity.model import NewToken
from postfacta_app.principal import ANONYMOUS, Principal, Role
from postfacta_app.signals.model import (
    Fact,
    NewSignal,
    Precision,
    SignalKind,
    is_suspect,
    source_of,
)

A_PERSON = Principal(actor="user:1", name="Ada", user_id=uuid4(), role=Role.RESPONDER)
RESERVED = {"postfacta", "human", "manual"}

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
times = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants them naive
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
signals = st.fixed_dictionaries(
    {"kind": st.sampled_from(SignalKind), "title": text.filter(bool)},
    optional={
        "occurred_at": times,
        "known_at": times,
        "precision": st.sampled_from(Precision),
        "body": text,
        "services": st.lists(st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True), max_size=3),
        "environment": text.filter(bool),
        "sequence": text,
        "links": st.lists(st.just({"url": "https://example.org/a", "title": "A"}), max_size=2),
        "payload": st.dictionaries(text, json_values, max_size=3),
    },
)


def fact(fields: dict[str, Any], principal: Principal = A_PERSON) -> Fact:
    return Fact.of(0, NewSignal.model_validate(fields), principal)


@given(signals, st.randoms(), zones)
def test_the_order_of_keys_and_the_offset_of_times_are_not_content(
    fields: dict[str, Any], random: Any, zone: timezone
) -> None:
    keys = list(fields)
    random.shuffle(keys)
    again = {key: fields[key] for key in keys}
    again |= {
        name: fields[name].astimezone(zone)
        for name in ("occurred_at", "known_at")
        if name in fields
    }
    if "payload" in fields:
        again["payload"] = dict(reversed(fields["payload"].items()))
    assert fact(again).sha256 == fact(fields).sha256


@given(signals, signals)
@example({"kind": "note", "title": "a"}, {"kind": "note", "title": "a", "body": ""})
@example(
    {"kind": "note", "title": "a", "payload": {"a": 1}},
    {"kind": "note", "title": "a", "payload": {"a": "1"}},
)
@example(
    {"kind": "note", "title": "a", "payload": {"a": {}}},
    {"kind": "note", "title": "a", "payload": {"a": []}},
)
def test_two_facts_have_one_hash_exactly_if_they_say_the_same(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    first, second = fact(one), fact(two)
    # Python holds 1, 1.0 and True for equal; their JSON is not.
    same = repr(first.new.model_dump()) == repr(second.new.model_dump()) or (
        sorted_json(first) == sorted_json(second)
    )
    assert (first.sha256 == second.sha256) is same


def sorted_json(of: Fact) -> str:
    return json.dumps(of.new.model_dump(mode="json"), sort_keys=True)


@given(signals, st.data())
def test_each_field_counts(fields: dict[str, Any], data: st.DataObject) -> None:
    full: dict[str, Any] = {
        "body": "b", "services": ["a"], "environment": "e", "sequence": "1", "payload": {"a": 1},
        "links": [{"url": "https://example.org/"}], "precision": "minute",
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC), "known_at": datetime(2026, 1, 2, tzinfo=UTC),
        **fields,
    }  # fmt: skip
    name = data.draw(st.sampled_from(sorted(full)))
    changed: dict[str, Any] = {
        "kind": next(kind for kind in SignalKind if kind != full["kind"]),
        "precision": next(precision for precision in Precision if precision != full["precision"]),
        "occurred_at": full["occurred_at"] + timedelta(microseconds=1),
        "known_at": full["known_at"] + timedelta(microseconds=1),
        "services": [*full["services"], "other"],
        "links": [*full["links"], {"url": "http://b"}],
        "payload": {**full["payload"], "a key that is not there yet, being long": 1},
    }
    other = full | {name: changed[name] if name in changed else full[name] + "x"}
    assert fact(other).sha256 != fact(full).sha256


def test_the_hash_is_that_of_canonical_json_as_the_design_has_it() -> None:
    fields = {
        "kind": "change",
        "occurred_at": "2026-02-07T11:00:00.000001+01:00",
        "title": "Zürich 3.2",
        "services": ["checkout"],
        "payload": {"b": [1, 2.5, None], "a": "ä"},
    }
    written = (
        '{"body":null,"environment":null,"kind":"change","known_at":null,"links":[],"occurred_at":1770458400000001,'
        '"payload":{"a":"ä","b":[1,2.5,null]},"precision":"exact","sequence":null,"services":["checkout"],'
        '"title":"Zürich 3.2"}'
    )
    assert fact(fields).sha256 == hashlib.sha256(written.encode()).digest()
    assert fact(fields).external_id == f"sha256:{hashlib.sha256(written.encode()).hexdigest()}"
    assert fact(fields | {"id": "mine"}).external_id == "mine"
    assert fact(fields | {"id": "mine"}).sha256 == fact(fields).sha256


token_sources = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(
    lambda it: it not in RESERVED
)
refinements = st.none() | st.from_regex(r"[a-z0-9][a-z0-9._/-]{0,126}", fullmatch=True)


def token(source: str) -> Principal:
    return Principal(actor="token:1", name="ci", scopes=frozenset({"signals:write"}), source=source)


@given(token_sources, token_sources, refinements, refinements)
@example("ci", "ci-2", "2/x", None)
@example("a", "b", "human", "postfacta")
def test_no_two_senders_share_a_key(
    one: str, two: str, first: str | None, second: str | None
) -> None:
    written = source_of(token(one), first)
    assert written.split("/")[0] == one
    assert len(written) <= 200
    assert written != source_of(A_PERSON, second)
    assert written.split("/")[0] not in RESERVED
    if one != two:
        assert written != source_of(token(two), second)


def test_people_write_under_manual() -> None:
    for principal in (A_PERSON, ANONYMOUS):
        assert source_of(principal, None) == "manual"
        assert source_of(principal, "ci") == "manual/ci"


@pytest.mark.parametrize("source", sorted(RESERVED | {"ci/prod", "CI", "", "-x"}))
def test_no_token_has_a_reserved_source_or_one_that_looks_like_a_refinement(source: str) -> None:
    with pytest.raises(ValidationError):
        NewToken.model_validate({"name": "ci", "scopes": ["signals:write"], "source": source})


@pytest.mark.parametrize("source", ["", "/x", "Ci", "a b", "ä", "x" * 128, ".."])
def test_a_refinement_is_a_path_of_small_letters(source: str) -> None:
    with pytest.raises(ValidationError):
        NewSignal.model_validate({"kind": "note", "title": "x", "source": source})


@pytest.mark.parametrize("seconds", [-1, 0, 120, 121])
def test_two_minutes_ahead_are_no_reason_to_doubt_a_clock(seconds: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert is_suspect(now + timedelta(seconds=seconds), now) is (seconds > 120)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "ftp://example.org/",
        "https://",
        "https://a b",
        "https://a\n",
        "//example.org",
        "https://ä",
    ],
)
def test_evidence_lies_in_the_web_and_nowhere_else(url: str) -> None:
    with pytest.raises(ValidationError):
        NewSignal.model_validate({"kind": "note", "title": "x", "links": [{"url": url}]})
