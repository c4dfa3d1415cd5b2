"""The set model finds one write of 2,000 that a store loses, doubles, invents or changes, whatever a write is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from postfacta_lab.durability import Fact, Outcome, Stored, Write, judge

Store = list[Stored]


def fact(number: int) -> Fact:
    return Fact("create", f"invoice {number}")


WRITES = [
    Write(subject=str(number), fact=fact(number), outcome=Outcome.OK, version=1)
    for number in range(2_000)
]


def faultless() -> Store:
    return [
        Stored(subject=str(number), version=1, facts=(fact(number),)) for number in range(2_000)
    ]


def lose(store: Store) -> None:
    del store[711]


def double(store: Store) -> None:
    store[711] = replace(store[711], version=2, facts=(fact(711), fact(711)))


def repeat(store: Store) -> None:
    store.append(store[711])


def invent(store: Store) -> None:
    store.append(Stored(subject="of no one", version=1, facts=(fact(0),)))


def change(store: Store) -> None:
    store[711] = replace(store[711], facts=(Fact("create", "another"),))


def miscount(store: Store) -> None:
    store[711] = replace(store[711], version=2)


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        (lose, {"lost"}),
        (double, {"doubled"}),
        (repeat, {"doubled"}),
        (invent, {"phantom"}),
        (change, {"mismatched"}),
        (miscount, {"torn"}),
    ],
)
def test_one_fault_in_2_000_writes_is_found(
    fault: Callable[[Store], None], kinds: set[str]
) -> None:
    store = faultless()
    fault(store)
    findings = judge(WRITES, store, minimum=100)
    assert findings.verdict == "fail"
    assert {kind for kind, found in findings.wrong.items() if found} == kinds


def test_a_faultless_store_passes() -> None:
    findings = judge(WRITES, faultless(), minimum=2_000)
    assert (findings.verdict, findings.acknowledged) == ("pass", 2_000)
    assert findings.as_json()["lost"] == []


def test_too_few_acknowledgements_are_no_verdict() -> None:
    assert judge(WRITES[:9], faultless()[:9], minimum=10).verdict == "unknown"


@pytest.mark.parametrize("done", [True, False])
def test_what_a_client_does_not_know_may_be_there_or_not(done: bool) -> None:  # noqa: FBT001
    unknown = replace(
        WRITES[0], outcome=Outcome.INFO, version=0, unknown=("ReadTimeout",), fault="power cut"
    )
    findings = judge([unknown, *WRITES[1:]], faultless()[0 if done else 1 :], minimum=1)
    assert (findings.verdict, findings.unknown, findings.unknown_done) == ("pass", 1, int(done))
    assert findings.explained == {"power cut: ReadTimeout": 1}


def test_what_was_refused_must_not_be_there() -> None:
    refused = replace(WRITES[0], outcome=Outcome.FAIL, version=0)
    findings = judge([refused, *WRITES[1:]], faultless(), minimum=1)
    assert findings.wrong["phantom"] == ["0: create 'invoice 0' at version 1"]


def test_rules_of_the_service_count_too() -> None:
    assert judge(WRITES, faultless(), minimum=1, torn=["7: moved while closed"]).verdict == "fail"


def test_a_version_that_was_never_reached_is_a_loss() -> None:
    beyond = replace(WRITES[0], version=2)
    assert judge([beyond, *WRITES[1:10]], faultless()[:10], minimum=1).wrong["lost"] == [
        str(beyond)
    ]
