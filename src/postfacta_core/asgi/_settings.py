"""Check the options that the middlewares and `HardenOptions` share, each under its owner's name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from inspect import isclass, iscoroutinefunction
from typing import cast

import postfacta_core.asgi._settings as settings  # noqa: PLW0406 - see `validation`

from ..validation import validation

__all__ = [
    "application", "function_or_none", "headers", "limit", "path", "prefix", "resources", "secret",
    "settings", "switch",
]  # fmt: skip


# RFC 9110, section 5: a name is a token, and a value holds no line end and no NUL.
_is_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_is_value = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch


def application(owner: str, value: object, **functions: object) -> None:
    """Check an ASGI application, an object that is called with scope, receive and send; and its owner's functions."""
    if isclass(value) or not callable(value):
        validation.refuse(
            f"{owner}.app",
            value,
            "the application itself: a function of scope, receive and send, or an object of that kind",
            example="app, and neither its class nor the text 'main:app'",
        )
    for name, given in functions.items():
        function_or_none(f"{owner}.{name}", given)


def limit(field: str, value: object) -> None:
    """Check seconds for a request, None for any number, or a function that returns them for a scope."""
    if value is None or (callable(value) and not isclass(value)):
        _refuse_async(field, value)
    else:
        validation.seconds(field, value, example="30.0, None, or a function of the scope")


def switch(field: str, value: object) -> None:
    """Check a bool, or a function that returns one for a scope."""
    if callable(value) and not isclass(value):
        _refuse_async(field, value)
    else:
        validation.flag(field, value, example="True, or a function of the scope")


def function_or_none(field: str, value: object) -> None:
    """Check a function that is called while a request waits, or None."""
    if value is not None:
        validation.function(field, value, example="a function, or None")
        _refuse_async(field, value)


def secret(field: str, value: object) -> None:
    """Check a secret, or a function that returns all that hold."""
    if callable(value) and not isclass(value):
        _refuse_async(field, value)
    else:
        validation.secret(field, value, example="a text, a function that returns several, or leave it out")


def path(field: str, value: object, *, example: str) -> str:
    """Check a path of this service's own, such as `/metrics`."""
    if not isinstance(value, str) or not value.startswith("/") or any(mark in value for mark in "?# \n"):
        validation.refuse(field, value, "a path that starts with a slash, without a query", example=example)
    return value


def prefix(field: str, value: object) -> str:
    """Check a path prefix: empty, or a path without a slash at its end."""
    if value == "":
        return ""
    value = path(field, value, example='"/healthz"')
    if value.endswith("/"):
        validation.refuse(field, value, "without a slash at its end", example='"/healthz"')
    return value


def headers(field: str, value: object) -> list[tuple[str, str]]:
    """Check a list of names and values that HTTP allows."""
    example, rule = '[("x-content-type-options", "nosniff")]', "a list of pairs of a name and a value"
    given = value
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | dict):
        validation.refuse(field, given, rule, example=example)
    pairs = list(cast("Iterable[object]", value))
    for pair in pairs:
        match pair:
            case (str(name), str(text)):
                if not (_is_name(name) and _is_value(text)):
                    validation.refuse(
                        field, pair, "a name and a value that HTTP allows", example=example[1:-1]
                    )
            case _:
                validation.refuse(field, pair, rule, example=example)
    return cast("list[tuple[str, str]]", pairs)


def resources(field: str, value: object) -> list[AbstractAsyncContextManager[object]]:
    """Check a list of async context managers."""
    example = "[database], each with __aenter__ and __aexit__"
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        validation.refuse(field, value, "a list of async context managers", example=example)
    found = list(cast("Iterable[object]", value))
    for each in found:
        if isclass(each) or not isinstance(each, AbstractAsyncContextManager):
            validation.refuse(field, each, "a list of async context managers", example=example)
    return cast("list[AbstractAsyncContextManager[object]]", found)


def _refuse_async(field: str, value: object) -> None:
    if iscoroutinefunction(value):
        validation.refuse(field, value, "a plain function, since no request waits for it", example="def")
