"""What middlewares and `HardenOptions` have in common is checked in one way.

`tests/attack/test_settings.py` has each field.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette

from postfacta_core.asgi import HardenOptions, RateLimit, _settings as settings, harden
from postfacta_core.asgi._types import ASGIApp, Receive, Scope, Send
from postfacta_core.asgi.stack import Hardened
from tests.kit.every import every


class Told:
    """Returns a value for a scope, as an object."""

    def __call__(self, scope: object) -> float:
        return 5.0


def told(scope: object) -> float:
    return 5.0


async def told_later(scope: object) -> float:
    return 5.0


@pytest.mark.parametrize("limit", [None, 5, 0.5])
def test_a_limit_is_seconds_or_none(limit: float | None) -> None:
    assert HardenOptions(request_timeout=limit).request_timeout is limit


@pytest.mark.parametrize("option", ["priority_of", "traffic_key"])
def test_a_function_that_would_not_be_awaited_is_refused(option: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"^HardenOptions\.{option} must be a plain function, since no request waits for it",
    ):
        HardenOptions(**{option: told_later})  # type: ignore[arg-type] # it is wrong


class Endpoint:
    """An application that is a class: a server makes one of it for each request, and awaits it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.send = send

    def __await__(self) -> Generator[None]:
        yield


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing."""


def test_an_application_takes_scope_receive_and_send() -> None:
    applications = (Starlette(), application, Endpoint, partial(application), hands_on)
    with every() as case:
        for app in applications:
            with case(app):
                settings.check_options("harden", app=app)


def hands_on(*connection: Any) -> Awaitable[None]:
    return application(*connection)


async def of_two_calls(scope: Scope) -> ASGIApp:
    return application


def of_wsgi(environ: object, start_response: object) -> list[bytes]:
    return []


class OfWsgi:
    """Is called as Flask and Django's `WSGIHandler` are."""

    def __call__(self, environ: object, start_response: object) -> list[bytes]:
        return []


OTHERS: Mapping[str, tuple[object, str]] = {
    "a name": ("main:app", r"the application itself.* not 'main:app'"),
    "a class": (Starlette, "the application itself.* neither its class"),
    "WSGI": (
        OfWsgi(),
        r"two, as those of WSGI do.* postfacta_adapters\.wsgi\.harden\(app\), or Django's get_asgi_",
    ),
    "a function of WSGI": (of_wsgi, "two, as those of WSGI do"),
    "ASGI 2": (of_two_calls, r"an ASGI application.* async def app\(scope, receive, send\)"),
}


def test_what_is_no_asgi_application_is_refused_with_what_to_do() -> None:
    with every() as case:
        for name, (app, rule) in OTHERS.items():
            with case(name), pytest.raises(ValueError, match=rf"^harden\.app must be .*{rule}"):
                harden(app, service="shop")  # type: ignore[arg-type] # it is wrong


async def test_an_application_that_is_hardened_is_refused() -> None:
    app = harden(Starlette(), service="billing")
    assert isinstance(app, Hardened)
    with pytest.raises(
        ValueError, match=r"harden\.app must be an application that is not hardened yet"
    ):
        harden(app, service="billing")


def test_paths_begin_with_a_slash_and_prefixes_end_with_none() -> None:
    settings.check_options("x", metrics_path="/metrics", health_prefix="")
    settings.check_options("x", health_prefix="/-")
    with pytest.raises(ValueError, match=r"x\.health_prefix must be .* without a slash at its end"):
        settings.check_options("x", health_prefix="/healthz/")


def test_resources_are_context_managers() -> None:
    settings.check_options("x", resources=(AsyncExitStack(),))
    with pytest.raises(
        ValueError, match=r"x\.resources must be a list of async context managers, not <class"
    ):
        settings.check_options("x", resources=[AsyncExitStack])


def test_headers_are_pairs() -> None:
    settings.check_options("x", response_headers=(("a", "b"),))
    with pytest.raises(
        ValueError,
        match=r"x\.response_headers must be a list of pairs of a name and a value, .*, not \{\}",
    ):
        settings.check_options("x", response_headers={})


def test_a_text_for_shedding_is_the_mode() -> None:
    assert repr(HardenOptions(shedding="shadow").shedding) == "<Mode.SHADOW: 'shadow'>"
    assert repr(RateLimit("1/second", mode="off").mode) == "<Mode.OFF: 'off'>"
