"""Forms of pages: read what a browser posts, check it, and say why it was not saved."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.asgi import problem_of
from postfacta_core.errors import (
    DeadlineExceededError,
    InvalidInputError,
    OutcomeUnknownError,
    ResilienceError,
    StoppedError,
)

from ..errors import (
    AppError,
    FieldError,
    ForbiddenError,
    IdempotencyMismatchError,
    InvalidFieldsError,
    MalformedError,
    NotFoundError,
)
from ..principal import Principal
from . import body

__all__ = [
    "TYPED",
    "Refusal",
    "attempt",
    "csrf_token",
    "is_csrf_token",
    "is_same_origin",
    "keep_typed",
    "new_key",
    "parse",
    "read_form",
    "read_typed_time",
]

M = TypeVar("M", bound=BaseModel)

TYPED: Final = "postfacta.typed"
"""Where the scope of a request says what its form held, if it was stopped before it was saved."""

_MOST_FIELDS: Final = 500
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


# Whose form it is


def csrf_token(secret: str) -> str:
    """Derive a form's token from the session's secret, which a page of another site never learns."""
    return hashlib.sha256(b"postfacta csrf\n" + secret.encode()).hexdigest()


def is_csrf_token(given: str, principal: Principal) -> bool:
    """Tell whether a form carries the token of the session that sends it."""
    expected = principal.session_csrf
    return expected is not None and hmac.compare_digest(given.encode(), expected.encode())


def is_same_origin(headers: Mapping[str, str], trusted: Sequence[str] = ()) -> bool:
    """Tell whether a browser sent this from a page of ours, or of a trusted origin.

    A page cannot forge `Sec-Fetch-Site`. Browsers leave it out on plain HTTP; then `Origin` must name our host.
    """
    origin = headers.get("origin", "")
    if origin and origin in trusted:
        return True
    if (site := headers.get("sec-fetch-site")) is not None:
        return site == "same-origin"
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(host) and host.lower() == headers.get("host", "").lower()


def new_key() -> str:
    """Make the idempotency key of a form that is shown: however often it is then sent, it works once."""
    return secrets.token_urlsafe(16)


# What was typed


async def read_form(request: Request, principal: Principal) -> dict[str, str]:
    """Read a form as it was sent, empty fields included, without its CSRF token; of a repeated name the last counts.

    A line ends with a line feed alone. A `key`, if there is one, is fit to be an idempotency key.

    Raises:
        ForbiddenError: If a browser's session sends it, and not from a form of that session.
        MalformedError: If it is no form, or a text in it contains U+0000.
    """
    fields = await _sent(request)
    given = fields.pop("csrf", "")
    # A token in the header is nothing that a browser sends by itself.
    if principal.session_csrf is not None and not (
        is_same_origin(request.headers) and is_csrf_token(given, principal)
    ):
        raise ForbiddenError("This form is out of date: open the page again and repeat it")
    if "\0" in "".join([*fields, *fields.values()]):
        raise MalformedError("A text contains U+0000")
    if "key" in fields and _KEY.fullmatch(fields["key"]) is None:
        raise MalformedError("The form's key is damaged: open the page again and repeat it")
    return fields


async def keep_typed(request: Request) -> None:
    """Put what a form says beside its request, for the page of the error that stopped it; a password never."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        fields = await _sent(request)
        request.scope[TYPED] = {name: text for name, text in fields.items() if "password" not in name}


async def _sent(request: Request) -> dict[str, str]:
    text = (await request.body()).decode("utf-8", "replace")
    try:
        sent = parse_qs(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise MalformedError("The form has too many fields") from None
    return {name: values[-1].replace("\r\n", "\n") for name, values in sent.items()}


def parse(model: type[M], fields: Mapping[str, object]) -> M | tuple[FieldError, ...]:
    """Check typed texts against a model; fields that are empty, or unknown to it, are left out.

    Where it wants an instant, a text may be what `read_typed_time` reads; where it wants a list, words stand apart by
    commas or spaces. A value that is no text goes in as it is.
    """
    typed: dict[str, object] = {}
    wrong: list[FieldError] = []
    for own, about in model.model_fields.items():
        name = about.alias or own
        value = fields.get(name, "")
        if not isinstance(value, str):
            typed[name] = value
        elif datetime in _kinds(about.annotation):
            try:
                typed |= {name: read_typed_time(value)} if value.strip() else {}
            except ValueError as error:
                wrong.append(FieldError(f"/{name}", "time", str(error)))
        elif value:
            typed[name] = re.findall(r"[^,\s]+", value) if list in _kinds(about.annotation) else value
    try:
        made = body.parse(model, typed)
    except InvalidFieldsError as refusal:
        named = {error.pointer for error in wrong}
        return (*wrong, *(error for error in refusal.errors if error.pointer not in named))
    return tuple(wrong) or made


def _kinds(annotation: object) -> Iterator[object]:
    """List the types that an annotation is made of."""
    yield annotation
    yield getattr(annotation, "__origin__", None)
    for part in get_args(annotation):
        yield from _kinds(part)


_TYPED_TIME: Final = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ]+(?P<minute>\d\d:\d\d)(?P<second>:\d\d(?:\.\d+)?)? *(?P<zone>UTC|Z|[+-]\d\d:\d\d)?",
    re.ASCII | re.IGNORECASE,
)


def read_typed_time(text: str) -> datetime:
    """Read a time as people type it: `2026-02-07 10:04`, with seconds or not, in UTC unless an offset follows.

    Raises:
        ValueError: If it is anything else, or no day that exists.
    """
    found = _TYPED_TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be a time in UTC, such as 2026-02-07 10:04")
    zone = (found["zone"] or "Z").upper().replace("UTC", "Z")
    try:
        return body.parse_time(f"{found['day']}T{found['minute']}{found['second'] or ':00'}{zone}")
    except ValueError:
        raise ValueError("must be a day and a time of day that exist") from None


# Why it comes back

_AWAY: Final = (
    "Not saved: the database cannot be reached now. What you typed is still here; send it again in a moment."
)
_UNKNOWN: Final = "It is not known whether this was saved. Send it again as it is: it is then saved once."
_SPENT: Final = (
    "This form was saved before, with other words. Look whether that is enough before you send it again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a form was not saved, for the page that shows it again.

    Attributes:
        message: What is wrong as a whole.
        errors: The fields that broke a rule.
        status: The status of that page.
        headers: Further headers of it.
        is_spent: Whether its key has been used, so that it needs a new one.
    """

    message: str = "Some fields need another look"
    errors: Sequence[FieldError] = ()
    status: int = InvalidFieldsError.status
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    is_spent: bool = False

    @property
    def by_field(self) -> dict[str, str]:
        """The first broken rule of each field; under an empty name what belongs to none."""
        words: dict[str, str] = {}
        for error in self.errors:
            words.setdefault(error.pointer.lstrip("/").partition("/")[0], error.message)
        return words


async def attempt(write: Awaitable[Response]) -> Response | Refusal:
    """Wait for a write; tell why it failed if whoever typed can do something about it, and raise what nobody can.

    Raises:
        NotFoundError: It is no longer there, or no longer to be seen.
        ForbiddenError: It is not allowed.
        InvalidInputError: A value is none that the database can store.
    """
    try:
        return await write
    except (NotFoundError, ForbiddenError, InvalidInputError):
        raise
    except IdempotencyMismatchError as refusal:
        return Refusal(message=_SPENT, status=refusal.status, is_spent=True)
    except AppError as refusal:
        return Refusal(
            message=refusal.detail, errors=refusal.errors, status=refusal.status, headers=refusal.headers
        )
    except ResilienceError as failure:
        unknown = isinstance(failure, OutcomeUnknownError | DeadlineExceededError | StoppedError)
        wait = str(max(1, math.ceil(failure.retry_after or 0)))
        return Refusal(
            message=_UNKNOWN if unknown else _AWAY,
            status=problem_of(failure).status,
            headers={"retry-after": wait},
        )
