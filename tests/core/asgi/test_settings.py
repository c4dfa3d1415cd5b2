"""What the middlewares and their settings have in common is checked under the name of its owner."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from postfacta_core.asgi import _settings as settings


class App:
    """An application as a class, which is not yet one."""


async def app(scope: object, receive: object, send: object) -> None:
    """Serve nothing."""


async def soon(scope: object) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("check", "value", "why"),
    [
        (lambda it: settings.application("harden", it), None, r"^harden\.app must be the application itself"),
        (lambda it: settings.application("harden", it), App, r"^harden\.app must be"),
        (lambda it: settings.application("harden", it), "main:app", "not 'main:app'"),
        (lambda it: settings.limit("Policy.request_timeout", it), -1, "above 0, not -1"),
        (lambda it: settings.limit("Policy.request_timeout", it), soon, "a plain function"),
        (lambda it: settings.switch("Policy.cancel", it), "yes", "Policy.cancel must be"),
        (lambda it: settings.function_or_none("Policy.priority_of", it), 1, "must be a function"),
        (lambda it: settings.function_or_none("Policy.priority_of", it), soon, "a plain function"),
        (lambda it: settings.path("Policy.metrics_path", it, example='"/metrics"'), "metrics", "a slash"),
        (
            lambda it: settings.path("Policy.metrics_path", it, example='"/metrics"'),
            "/m?x",
            "without a query",
        ),
        (lambda it: settings.prefix("Policy.health_prefix", it), "/healthz/", "without a slash at its end"),
        (lambda it: settings.headers("Policy.response_headers", it), {"a": "b"}, "a list of pairs"),
        (lambda it: settings.headers("Policy.response_headers", it), [("a", 1)], r"not \('a', 1\)"),
        (lambda it: settings.resources("harden.resources", it), [object()], "async context managers"),
        (lambda it: settings.resources("harden.resources", it), "db", "async context managers"),
        (lambda it: settings.secret("Policy.metrics_token", it), 7, "Policy.metrics_token must be"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_under_its_name(
    check: Callable[[object], object], value: object, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        check(value)


def test_right_values_pass() -> None:
    settings.application("harden", app)
    for limit in (None, 1.5, lambda scope: 1.0):
        settings.limit("Policy.request_timeout", limit)
    settings.switch("Policy.cancel", True)  # noqa: FBT003 - the value is what is tested
    settings.switch("Policy.cancel", lambda scope: True)
    settings.function_or_none("Policy.priority_of", None)
    settings.secret("Policy.metrics_token", "a secret")
    assert settings.path("Policy.metrics_path", "/metrics", example="") == "/metrics"
    assert settings.prefix("Policy.health_prefix", "") == ""
    assert settings.headers("Policy.response_headers", (("a", "b"),)) == [("a", "b")]
    assert len(settings.resources("harden.resources", [AsyncExitStack()])) == 1
