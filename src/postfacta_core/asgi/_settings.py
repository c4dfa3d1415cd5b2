"""Check the options of the endpoints and `HardenOptions`, each by the rule of its name.

Compare secrets.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from inspect import isclass, iscoroutinefunction, signature
from os import PathLike
from typing import Final, cast

from ..deadlines._limits import TransferLimits
from ..validation import validation

Check = Callable[[str, object], object]
Secret = str | Callable[[], Collection[str]]
"""A secret, empty for none.

Or a function that returns all that hold now, so that a rotation needs no restart.
"""

# RFC 9110, section 5: a name is a token, and a value holds no line end and no NUL.
is_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_is_value = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch


def knows(secret: Secret, token: bytes) -> bool:
    """Return whether one of the secrets was given; each is compared in constant time."""
    secrets = secret() if callable(secret) else (secret,)
    return any(
        bool(candidate) and hmac.compare_digest(token, candidate.encode()) for candidate in secrets
    )


def has_bearer_token(headers: Mapping[bytes, bytes], secret: Secret) -> bool:
    """Return whether a request brings one of the secrets as its bearer token."""
    # The scheme's name is case-insensitive (RFC 9110, section 11.1).
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and knows(secret, token.strip())


def check_options(owner: str, **options: object) -> None:
    for name, value in options.items():
        RULES[name](f"{owner}.{name}", value)


def instance_of(kind: type[object], example: str = "") -> Check:
    return partial(validation.instance, kind=kind, example=example or f"{kind.__name__}()")


def or_none(rule: Check) -> Check:
    def either(field: str, value: object) -> None:
        if value is not None:
            rule(field, value)

    return either


def _or_function(rule: Check) -> Check:
    """Return the rule for an option that may be a function, called while a request waits."""

    def either(field: str, value: object) -> None:
        if not callable(value) or isclass(value):
            rule(field, value)
        elif iscoroutinefunction(value):
            validation.refuse(
                field, value, "a plain function, since no request waits for it", example="def"
            )

    return either


def _checked_by(
    is_right: Callable[[object], bool], rule: str, example: str, *, of_each: bool = False
) -> Check:
    """Return the rule for an option of which this holds, or of a list, for each of its items."""

    def check(field: str, value: object) -> None:
        original: object = value
        if of_each and (not isinstance(value, Collection) or isinstance(value, str | bytes | dict)):
            validation.refuse(field, original, rule, example=example)
        for element in cast("Collection[object]", value) if of_each else (original,):
            if not is_right(element):
                validation.refuse(field, element, rule, example=example)

    return check


def _check_application(field: str, value: object) -> None:
    """Refuse what no server of ASGI could call, and say how other kinds become one."""
    is_class = isclass(value) and not hasattr(value, "__await__")
    if not callable(value) or is_class:
        rule = (
            "the application itself: a function of scope, receive and send, or an object of that"
            " kind"
        )
        example = "app, and neither its class nor the text 'main:app'"
        validation.refuse(field, value, rule, example=example)
    if _takes(value, 3):
        return
    if _takes(value, 2):
        rule = (
            "an ASGI application, which takes scope, receive and send; this takes two, as those of"
            " WSGI do"
        )
        example = "postfacta_adapters.wsgi.harden(app), or Django's get_asgi_application()"
        validation.refuse(field, value, rule, example=example)
    rule = "an ASGI application, which takes scope, receive and send"
    validation.refuse(field, value, rule, example="async def app(scope, receive, send)")


def _takes(function: Callable[..., object], arguments: int) -> bool:
    """Return whether a function takes this number of arguments, as far as that is known."""
    try:
        parameters = signature(function)
    except (TypeError, ValueError):
        return True
    try:
        parameters.bind(*range(arguments))
    except TypeError:
        return False
    return True


def _is_path(value: object) -> bool:
    return (
        isinstance(value, str)
        and value.startswith("/")
        and not any(mark in value for mark in "?# \n")
    )


def _is_prefix(value: object) -> bool:
    return value == "" or (_is_path(value) and not str(value).endswith("/"))


def _is_header(value: object) -> bool:
    match value:
        case (str(name), str(text)):
            return bool(is_name(name) and _is_value(text))
        case _:
            return False


_FUNCTION: Final = or_none(
    _or_function(partial(validation.function, example="a function, or None"))
)
_REPLACED: Final = partial(validation.function, example="a function, or leave it out")
_SECRET: Final = partial(validation.secret, example="a text, or leave it out")
_LIMIT: Final = or_none(partial(validation.seconds, example="30.0, or None"))
_PATH: Final = "a path that starts with a slash, without a query"
_PREFIX: Final = f"{_PATH}, and without a slash at its end; or empty"
_HEADERS: Final = "a list of pairs of a name and a value, as HTTP allows them"
_CALLED: Final = (
    "allow_health_detail",
    "allow_metrics",
    "applies_to",
    "cost",
    "per",
    "priority_of",
    "render",
    "route_of",
    "spares",
)
RULES: Final[Mapping[str, Check]] = {
    **dict.fromkeys(_CALLED, _FUNCTION),
    **dict.fromkeys(("clock", "luck", "observer", "processor"), _REPLACED),
    **dict.fromkeys(("metrics_token", "token", "traffic_key"), _or_function(_SECRET)),
    **dict.fromkeys(("request_timeout", "stream_timeout"), _LIMIT),
    "metrics_path": _checked_by(_is_path, _PATH, '"/metrics"'),
    "health_prefix": _checked_by(_is_prefix, _PREFIX, '"/healthz"'),
    "metrics_workers": _checked_by(
        lambda value: isinstance(value, str | PathLike), "a folder", '"/run/billing"'
    ),
    "response_headers": _checked_by(
        _is_header, _HEADERS, '[("x-frame-options", "DENY")]', of_each=True
    ),
    "app": _check_application,
    **dict.fromkeys(("cancel_on_disconnect", "request_id_header"), validation.flag),
    "limits": instance_of(TransferLimits, "TransferLimits(max_body_bytes=1_048_576)"),
    "priority_key": _SECRET,
    "quiet": _checked_by(_is_path, f"a list, each {_PATH}", '["/ping"]', of_each=True),
    "resources": _checked_by(
        lambda value: isinstance(value, AbstractAsyncContextManager),
        "a list of async context managers",
        "[database], each with __aenter__ and __aexit__",
        of_each=True,
    ),
}
"""The rule of each option of more than one class, or that is checked in more than one place."""
