"""Routes get other times and sizes in their places; the rest stays as the options have it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from postfacta_core.asgi import HardenOptions, RouteOptions
from postfacta_core.asgi._numbers import renumbered
from postfacta_core.deadlines._limits import TransferLimits
from tests.kit.every import every

OPTIONS = HardenOptions(
    request_timeout=20.0,
    routes=[
        RouteOptions(routes=["/a", "/b"], request_timeout=5.0, cancel_on_disconnect=True),
        RouteOptions(routes=["/{rest:path}"], limits=TransferLimits(max_body_bytes=7)),
    ],
)


def test_without_numbers_the_options_stay() -> None:
    assert renumbered(OPTIONS, {}) == OPTIONS


def test_a_route_keeps_its_place_and_its_other_options() -> None:
    first, second, third = renumbered(OPTIONS, {"/b": {"request_timeout": 9.0}}).routes
    assert (first.routes, first.request_timeout) == (["/b"], 9.0)
    assert (second.routes, second.request_timeout) == (["/a"], 5.0)
    assert first.cancel_on_disconnect is second.cancel_on_disconnect is True
    assert third == OPTIONS.routes[1]


def test_a_route_within_another_keeps_what_that_is_given() -> None:
    cases = {
        "another spelling of its parameter": ("GET /items/{id:int}", "GET /items/{id}"),
        "all methods": ("/items/{id}", "GET /items/{id}"),
        "a wider path": ("/{rest:path}", "/items/{id}"),
        "a slash at the end": ("GET /items/", "GET /items"),
    }
    with every() as case:
        for name, (wide, narrow) in cases.items():
            with case(name):
                given = RouteOptions(
                    routes=[wide], rate_limits=["9/minute per client"], drain="cut"
                )
                others = [RouteOptions(routes=["/other"]), given]
                options = HardenOptions(routes=others)
                first, new, last = renumbered(options, {narrow: {"request_timeout": 9.0}}).routes
                assert new == replace(given, routes=[narrow], request_timeout=9.0)
                assert (first, last) == (others[0], given)


def test_a_route_within_no_other_comes_last_and_takes_nothing() -> None:
    cases = {
        "another method": ("POST /items/{id}", "GET /items/{id}"),
        "a narrower path": ("/items/7", "/items/{id}"),
        "fewer parts": ("/items/{id}", "/items/{rest:path}"),
    }
    with every() as case:
        for name, (own, other) in cases.items():
            with case(name):
                given = RouteOptions(routes=[own], drain="cut")
                options = HardenOptions(routes=[given])
                first, new = renumbered(options, {other: {"heartbeat": 9.0}}).routes
                assert first == given
                assert new == RouteOptions(routes=[other], heartbeat=9.0)


def test_sizes_of_a_route_are_those_it_had() -> None:
    *_, last = renumbered(OPTIONS, {"/{rest:path}": {"max_header_bytes": 900}}).routes
    assert last.limits == TransferLimits(max_body_bytes=7, max_header_bytes=900)


def test_numbers_of_all_routes_leave_those_that_have_their_own() -> None:
    options = renumbered(OPTIONS, {"*": {"request_timeout": 1.0, "max_body_bytes": 2}})
    assert (options.request_timeout, options.limits.max_body_bytes) == (1.0, 2)
    assert options.routes[0].request_timeout == 5.0


def test_a_wrong_number_is_refused_with_its_route() -> None:
    with pytest.raises(ValueError, match=r"^/b: RouteOptions.request_timeout must be .*, not 0;"):
        renumbered(OPTIONS, {"/b": {"request_timeout": 0}})
    with pytest.raises(
        ValueError, match=r"a number must be one of request_timeout, stream_timeout"
    ):
        renumbered(OPTIONS, {"*": {"heartbeat": 5}})
