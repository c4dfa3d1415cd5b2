"""The words that all floors share keep their promises."""

from __future__ import annotations

import copy
import math
import pickle
import re

import httpx2

from postfacta_adapters.pybreaker import BreakerOpenError
from postfacta_core import errors
from postfacta_core.clock import LUCK, MONOTONIC, WALL, random_id
from postfacta_core.context import (
    RequestContext,
    add_wait,
    bind_request,
    current_request,
    release_request,
)
from postfacta_core.errors import FailedResponseError, ResilienceError
from postfacta_core.events import CircuitChanged, Event, ListenerFailed, fan_out, ignore
from postfacta_postgres.idempotency import KeyInUseError, KeyReusedError
from tests.kit.every import every

ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ResilienceError)
]
CHANGE = CircuitChanged("db", "up", "down", 1.0, "failures")


def test_an_error_survives_pickle_and_copy_with_its_data() -> None:
    with every() as case:
        for kind in ERRORS:
            with case(kind):
                error = kind("db", 2.5)
                for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
                    assert type(twin) is kind
                    assert (twin.policy, twin.retry_after) == ("db", 2.5)


def test_the_text_of_each_error_is_a_sentence() -> None:
    with every() as case:
        for kind in (*ERRORS, KeyInUseError, KeyReusedError, BreakerOpenError):
            with case(kind.__name__):
                text = str(kind("billing"))
                assert re.fullmatch("billing: [a-z][^.]+[a-z]", text)
                assert str(kind("billing", 4.0512)) == f"{text}; try again in 4.051 s"
    assert len({str(kind("billing")) for kind in ERRORS}) == len(ERRORS)


def test_an_error_without_a_finite_wait_names_none() -> None:
    texts = {str(ResilienceError("billing", wait)) for wait in (None, math.inf, 0.0, -1.0)}
    assert texts == {"billing: the call was refused or ended"}
    assert str(ResilienceError("billing", 3600)).endswith("; try again in 3600 s")


def test_a_failed_response_names_its_status() -> None:
    error = FailedResponseError("billing", 2.0, response=httpx2.Response(503))
    assert (
        str(error)
        == "billing: the dependency answered that it failed, with status 503; try again in 2 s"
    )
    assert str(copy.copy(error)) == str(error)


def test_every_class_of_errors_is_in_one_tree() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert kinds == ERRORS


def test_an_observer_that_raises_does_not_affect_the_others() -> None:
    heard: list[Event] = []

    def broken(event: Event, /) -> None:
        raise RuntimeError("broken")

    fan_out([broken, heard.append])(CHANGE)
    assert heard == [ListenerFailed(broken.__qualname__, "RuntimeError('broken')"), CHANGE]


def test_a_listener_may_be_left_out() -> None:
    ignore(CHANGE)
    fan_out([])(CHANGE)


def test_a_bound_request_is_gone_after_its_release() -> None:
    outer, inner = RequestContext("outer-request", 1.0), RequestContext("inner-request", 2.0)
    assert current_request() is None
    first = bind_request(outer)
    second = bind_request(inner)
    assert current_request() is inner
    release_request(second)
    assert current_request() is outer
    release_request(first)
    assert current_request() is None


def test_ids_are_distinct_and_fit_the_rule_for_request_ids() -> None:
    ids = {random_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{8,64}", one) for one in ids)


def test_clocks_and_random_numbers_are_what_they_say() -> None:
    assert MONOTONIC() <= MONOTONIC()
    assert WALL() > 1_700_000_000
    assert all(0 <= LUCK() < 1 for _ in range(100))


def test_a_wait_outside_of_a_request_is_nobodys() -> None:
    add_wait(1.0)
    assert current_request() is None
