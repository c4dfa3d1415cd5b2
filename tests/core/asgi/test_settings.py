"""What middlewares and `HardenOptions` have in common is checked in one way; `tests/attack/test_settings.py` has each field."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.applications import Starlette

from postfacta_core.asgi import Hardened, HardenOptions, RateLimit, harden
from postfacta_core.asgi._settings import settings
from postfacta_core.deadlines._transfer import TransferLimits


class Told:
    """Returns a value for a scope, as an object."""

    def __call__(self, scope: object) -> float:
        return 5.0


def told(scope: object) -> float:
    return 5.0


async def told_later(scope: object) -> float:
    return 5.0


@pytest.mark.parametrize("limit", [None, 5, 0.5, Told(), told])
def test_a_limit_is_seconds_none_or_a_function(limit: Any) -> None:
    assert HardenOptions(request_timeout=limit).request_timeout is limit


@pytest.mark.parametrize("check", [settings.limit, settings.switch, settings.function_or_none])
def test_a_function_that_would_not_be_awaited_is_refused(check: Callable[[str, object], None]) -> None:
    with pytest.raises(
        ValueError, match=r"^HardenOptions\.x must be a plain function, since no request waits for it"
    ):
        check("HardenOptions.x", told_later)


def test_limits_may_be_a_function_of_the_scope() -> None:
    assert callable(HardenOptions(limits=lambda scope: TransferLimits()).limits)


def test_an_application_is_an_object_or_a_function() -> None:
    settings.application("harden", Starlette())
    settings.application("harden", told_later)
    with pytest.raises(ValueError, match=r"harden\.app must be the application itself.* not 'main:app'"):
        settings.application("harden", "main:app")


async def test_an_application_that_is_hardened_is_refused() -> None:
    app = harden(Starlette(), service="billing")
    assert isinstance(app, Hardened)
    with pytest.raises(ValueError, match=r"harden\.app must be an application that is not hardened yet"):
        harden(app, service="billing")


def test_paths_begin_with_a_slash_and_prefixes_end_with_none() -> None:
    assert settings.path("x", "/metrics", example="") == "/metrics"
    assert settings.prefix("x", "") == ""
    assert settings.prefix("x", "/-") == "/-"
    with pytest.raises(ValueError, match="x must be without a slash at its end"):
        settings.prefix("x", "/healthz/")


def test_resources_are_context_managers() -> None:
    stack = AsyncExitStack()
    assert settings.resources("x", (stack,)) == [stack]
    with pytest.raises(ValueError, match="x must be a list of async context managers, not <class"):
        settings.resources("x", [AsyncExitStack])


def test_headers_are_pairs() -> None:
    assert settings.headers("x", iter([("a", "b")])) == [("a", "b")]
    with pytest.raises(ValueError, match=r"x must be a list of pairs of a name and a value, not \{\}"):
        settings.headers("x", {})


def test_a_text_for_shedding_is_the_mode() -> None:
    assert repr(HardenOptions(shedding="shadow").shedding) == "<Mode.SHADOW: 'shadow'>"
    assert repr(RateLimit("1/second", mode="off").mode) == "<Mode.OFF: 'off'>"
