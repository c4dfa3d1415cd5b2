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
from urllib.parse import parse_qs, urlencode

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
# The hidden field that says when a form was first received, as `now` and `-5m` count from then.
RECEIVED: Final = "received"
_KEEPS: Final = timedelta(hours=24)  # As long as the idempotency keys of forms are.


def csrf_token(secret: str) -> str:
    return hashlib.sha256(b"postfacta csrf\n" + secret.encode()).hexdigest()


def masked(token: str) -> str:
    """Return a CSRF token as one page shows it.

    It differs each time: else the sizes of compressed pages would give the token away (BREACH).
    """
    pad = secrets.token_bytes(len(token) // 2)
    return pad.hex() + _xor(pad, bytes.fromhex(token)).hex()


def _unmasked(text: str) -> str:
    try:
        pad, covered = bytes.fromhex(text[: len(text) // 2]), bytes.fromhex(text[len(text) // 2 :])
        return _xor(pad, covered).hex()
    except ValueError:
        return ""


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


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
    token = fields.pop("csrf", "")
    tokens = (_unmasked(token), token)  # A page of the version before has it unmasked.
    # Browsers do not send an Authorization header by themselves: without a session, all is ours.
    is_ours = expected is None or (
        is_same_origin(request.headers)
        and any(hmac.compare_digest(text.encode(), expected.encode()) for text in tokens)
    )
    if not is_ours:
        raise errors.ForbiddenError("This form is out of date: reload the page and try again")
    if "\0" in "".join([*fields, *fields.values()]):
        raise errors.MalformedError("A text contains U+0000")
    if "key" in fields and _KEY.fullmatch(fields["key"]) is None:
        raise errors.MalformedError("The form's key is damaged: reload the page and try again")
    return fields


async def keep_typed(request: Request, now: datetime) -> None:
    """Store a form's input, without passwords, in the scope, for an error page."""
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        fields = await sent_fields(request)
        request.scope[TYPED] = {
            RECEIVED: body.format_time(now),
            **{name: text for name, text in fields.items() if "password" not in name},
        }


def received(fields: dict[str, str], now: datetime) -> datetime:
    """Return when a form was first received, or now without a form.

    Raise once it is a day ago: its times may be meant otherwise. It counts from now on, then.
    """
    try:
        at = body.parse_time(fields.get(RECEIVED, body.format_time(now)))
        if -_AHEAD <= now - at <= _KEEPS:
            return at
    except ValueError:
        pass
    fields[RECEIVED] = body.format_time(now)
    raise errors.MalformedError(
        "Not saved: this form was first sent more than a day ago. Check its times, then send it"
        " again."
    )


def same_input(fields: Mapping[str, str]) -> bytes:
    """Return what of a form decides whether it is sent again, or another one with its key."""
    return urlencode({name: text for name, text in fields.items() if name != RECEIVED}).encode()


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
_LENGTH: Final = r"(\d{1,4}) ?(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?) ?"
_LENGTHS: Final = re.compile(_LENGTH, re.ASCII)
_AGO: Final = re.compile(rf"-(?:{_LENGTH}){{1,4}}|(?:{_LENGTH}){{1,4}}ago", re.ASCII)
# `10.04`, but no part of a date or of a fraction.
_DOTS: Final = re.compile(r"(?<![\d.:])(\d{1,2})\.(\d\d)(?:\.(\d\d))?(?![\d.:])", re.ASCII)
_CLOCK: Final = re.compile(
    r"(?:(today|yesterday) +)?((?:[01]?\d|2[0-3]):[0-5]\d)(:[0-5]\d(?:\.\d+)?)?", re.ASCII
)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AHEAD: Final = timedelta(minutes=5)  # A user's clock may be ahead of ours.


def tidy_time(text: str) -> str:
    """Return a typed time with colons, in lower case."""
    return _DOTS.sub(lambda clock: ":".join(filter(None, clock.groups())), text.strip().lower())


def read_typed_time(text: str, now: datetime | None = None, *, day: str = "") -> datetime:
    """Parse a typed time, `2026-02-07 10:04`, with optional seconds and offset (UTC without one).

    With `now`, also `now`, `-5m` or `1h 30m ago` (or s, d), `10:04` (of this day, else the last
    one), `today 10:04` and `yesterday 22:10`. A clock may have points for colons.
    """
    text = tidy_time(text)
    more_forms = ""
    latest = datetime.max.replace(tzinfo=UTC)
    if now is not None:
        more_forms = ", 10:04, -5m or now"
        if text == "now":
            return now
        if _AGO.fullmatch(text):
            lengths = [int(n) * _UNITS[unit[0]] for n, unit in _LENGTHS.findall(text)]
            return now - timedelta(seconds=sum(lengths))
        if clock := _CLOCK.fullmatch(text):
            today = now - timedelta(days=clock[1] == "yesterday")
            is_last = not (clock[1] or day)
            latest = now + _AHEAD if is_last else latest
            date = f"{today:%Y-%m-%d}" if clock[1] or not day else day
            text = f"{date} {clock[2]:0>5}{clock[3] or ''}"
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

    @property
    def received(self) -> str:
        """When the form was first received, as it is shown: the time of the day in UTC."""
        return self.fields.get(RECEIVED, "")[11:19]

    def has(self, form: str) -> bool:
        return self.refusal is not None and form == self.form

    def value(self, form: str, name: str, default: object = "") -> str:
        return self.fields.get(name, str(default)) if self.has(form) else str(default)

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
