"""HTML forms: parse input, validate it, and report why it was not saved."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.asgi import problem_of
from postfacta_core.errors import InvalidInputError, RejectedError, ResilienceError

from .. import errors
from ..principal import Principal
from . import body

M = TypeVar("M", bound=BaseModel)

# The scope key of a form's input, for the error page if it was not saved.
TYPED: Final = "postfacta.typed"

_MOST_FIELDS: Final = 500  # the largest form, of factors, has 50 rows of 6 fields
_LONGEST_NUMBER: Final = 18  # Digits, far above every bound.
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def csrf_token(secret: str) -> str:
    return hashlib.sha256(b"postfacta csrf\n" + secret.encode()).hexdigest()


def is_same_origin(headers: Mapping[str, str], trusted: Sequence[str] = ()) -> bool:
    """Return whether a request comes from our own pages or a trusted origin.

    Pages cannot forge `Sec-Fetch-Site`. Browsers omit it on plain HTTP; then `Origin` must match
    our host.
    """
    origin = headers.get("origin", "")
    if origin and origin in trusted:
        return True
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    host = origin.partition("://")[2].lower()
    return bool(host) and host == headers.get("host", "").lower()


async def read_form(request: Request, principal: Principal) -> dict[str, str]:
    """Parse a form with empty fields but without its CSRF token; the last of repeated fields wins.

    Line endings become line feeds. A `key`, if present, is a valid idempotency key; no text
    contains U+0000.
    """
    fields = await sent_fields(request)
    expected = principal.session_csrf
    token = fields.pop("csrf", "").encode()
    # Browsers do not send an Authorization header by themselves: without a session, all is ours.
    is_ours = expected is None or (
        is_same_origin(request.headers) and hmac.compare_digest(token, expected.encode())
    )
    if not is_ours:
        raise errors.ForbiddenError("This form is out of date: reload the page and try again")
    if "\0" in "".join([*fields, *fields.values()]):
        raise errors.MalformedError("A text contains U+0000")
    if "key" in fields and _KEY.fullmatch(fields["key"]) is None:
        raise errors.MalformedError("The form's key is damaged: reload the page and try again")
    return fields


async def keep_typed(request: Request) -> None:
    """Store a form's input, without passwords, in the scope, for an error page."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        fields = await sent_fields(request)
        request.scope[TYPED] = {
            name: text for name, text in fields.items() if "password" not in name
        }


async def sent_fields(request: Request) -> dict[str, str]:
    """Parse a form with empty fields; the last of repeated ones wins."""
    text = (await request.body()).decode("utf-8", "replace")
    try:
        values = parse_qs(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise errors.MalformedError("The form has too many fields") from None
    return {name: texts[-1].replace("\r\n", "\n") for name, texts in values.items()}


def formed(model: type[M], fields: Mapping[str, object], now: datetime | None = None) -> M:
    """Validate form input against a model; empty and unknown fields are ignored.

    Raise if some are invalid.

    Instants are `read_typed_time`, lists are split at commas and spaces, numbers decimal; only
    texts are read.
    """
    typed: dict[str, object] = {}
    for own_name, model_field in model.model_fields.items():
        name = model_field.alias or own_name
        kinds = [*body.kinds(model_field.annotation)]
        value = fields.get(name, "")
        if isinstance(value, str):
            if datetime in kinds:
                value = value.strip()
            elif list in kinds and value:
                value = re.findall(r"[^,\s]+", value)
            elif (
                int in kinds
                and value.isascii()
                and value.isdecimal()
                and len(value) < _LONGEST_NUMBER
            ):
                value = int(value)
        if value != "":
            typed[name] = value
    try:
        return body.parse(model, typed, partial(read_typed_time, now=now))
    except errors.InvalidFieldsError as refusal:
        refusal.detail = "Some fields are invalid"
        raise


_TYPED_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ]+(\d\d:\d\d)(:\d\d(?:\.\d+)?)? *(UTC|Z|[+-]\d\d:\d\d)?",
    re.ASCII | re.IGNORECASE,
)
_AGO: Final = re.compile(r"-(\d{1,4}) ?([smhd])", re.ASCII)
_CLOCK: Final = re.compile(
    r"(?:(today|yesterday) +)?((?:[01]?\d|2[0-3]):[0-5]\d)(:[0-5]\d(?:\.\d+)?)?", re.ASCII
)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AHEAD: Final = timedelta(minutes=5)  # A user's clock may be ahead of ours.


def read_typed_time(text: str, now: datetime | None = None) -> datetime:
    """Parse a typed time, `2026-02-07 10:04`, with optional seconds and offset (UTC without one).

    With `now`, also `now`, `-5m` (or s, h, d), `10:04` (the last one), `today 10:04` and `yesterday
    22:10`.
    """
    text = text.strip().lower()
    more_forms = ""
    latest = datetime.max.replace(tzinfo=UTC)
    if now is not None:
        more_forms = ", 10:04, -5m or now"
        if text == "now":
            return now
        if ago := _AGO.fullmatch(text):
            return now - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        if clock := _CLOCK.fullmatch(text):
            day = now - timedelta(days=clock[1] == "yesterday")
            text = f"{day:%Y-%m-%d} {clock[2]:0>5}{clock[3] or ''}"
            latest = latest if clock[1] else now + _AHEAD
    match = _TYPED_TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"must be a time in UTC, such as 2026-02-07 10:04{more_forms}")
    date, minute, second, zone = match.groups()
    zone = (zone or "Z").upper().replace("UTC", "Z")
    try:
        at = body.parse_time(f"{date}T{minute}{second or ':00'}{zone}")
    except ValueError:
        raise ValueError("must be an existing date and time") from None
    return at - timedelta(days=1) if at > latest else at


_AWAY: Final = (
    "Not saved: the database is unavailable. Your input is still here; send it again in a moment."
)
_UNKNOWN: Final = (
    "We could not confirm this was saved. Sending it again is safe: it will be saved once."
)
_SPENT: Final = "This form was already submitted with different content. Check the result first."


@dataclass(frozen=True, slots=True)
class Typed:
    """The input of a form that was not saved; without a refusal there is none."""

    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    refusal: errors.AppError | None = None

    @property
    def form(self) -> str:
        return self.fields.get("form", "")

    @property
    def is_away(self) -> bool:
        """Whether the database failed, so that nothing can be read either."""
        return self.refusal is not None and self.refusal.status >= 500  # noqa: PLR2004

    def has(self, form: str) -> bool:
        return self.refusal is not None and form == self.form

    def value(self, form: str, name: str, default: object = "") -> str:
        return self.fields.get(name, "") if self.has(form) else str(default)

    def wrong(self, form: str, name: str) -> str:
        if self.refusal is None or form != self.form:
            return ""
        return self.refusal.by_field.get(name, "")

    def key(self, form: str) -> str:
        is_same = form == self.form and self.refusal is not None and not self.refusal.is_spent
        key = self.fields.get("key") if is_same else None
        return key or secrets.token_urlsafe(16)


async def attempt(write: Awaitable[Response]) -> Response | errors.AppError:
    """Await a write; return a refusal for errors that the user can fix, and raise others."""
    try:
        return await write
    except (errors.NotFoundError, errors.ForbiddenError, InvalidInputError):
        raise
    except errors.IdempotencyMismatchError:
        return errors.IdempotencyMismatchError(_SPENT)
    except errors.AppError as refusal:
        return refusal
    except ResilienceError as failure:
        wait = str(max(1, math.ceil(failure.retry_after or 0)))
        text = _AWAY if isinstance(failure, RejectedError) else _UNKNOWN
        return errors.AppError.of(problem_of(failure), text, headers={"retry-after": wait})


JSON = Mapping[str, Any]


@cache
def fields_of(model: type[BaseModel]) -> Mapping[str, JSON]:
    """Return the JSON schema of each field, from which `field` of form.html draws an input.

    `is_required` is added.
    """
    schema = model.model_json_schema()
    required = schema.get("required", ())
    kinds = schema.get("$defs", {})
    return {
        name: {**_plain(property_schema, kinds), "is_required": name in required}
        for name, property_schema in schema["properties"].items()
    }


def _plain(schema: JSON, kinds: JSON) -> JSON:
    """Return a schema without null and without references."""
    alternatives = schema.get("anyOf", ())
    plain: JSON = next((kind for kind in alternatives if kind != {"type": "null"}), schema)
    if "$ref" in plain:
        plain = kinds[plain["$ref"].rpartition("/")[2]]
    if "items" in plain:
        return {**plain, "items": _plain(plain["items"], kinds)}
    return plain
