"""Routes get other times and sizes in their places; the rest stays as the options have it."""

from __future__ import annotations

import pytest

from postfacta_core.asgi import HardenOptions, RouteOptions
from postfacta_core.asgi._numbers import renumbered
from postfacta_core.deadlines._limits import TransferLimits

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


def test_a_route_that_has_no_options_comes_first() -> None:
    new, *rest = renumbered(OPTIONS, {"GET /c": {"max_body_bytes": 3, "heartbeat": 9.0}}).routes
    assert (new.routes, new.heartbeat) == (["GET /c"], 9.0)
    assert new.limits == TransferLimits(max_body_bytes=3)
    assert rest == list(OPTIONS.routes)


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
