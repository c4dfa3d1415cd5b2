"""Remove secrets from what is about to be recorded, errors included."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from traceback import TracebackException
from typing import Any, Final, cast

REDACTED: Final = "[redacted]"

# A key is secret if it is one of these words, or ends in one: `X-Api-Key`, `db_password`,
# `http.cookie`.
_SECRET_KEY: Final = re.compile(
    r"(?:^|[._])(?:authorization|cookie|set_cookie|password|passwd|passphrase|secret|token|csrf|dsn"
    r"|(?:api|access|private|secret|signing|traffic|priority)_key)$"
)
_BASE64: Final = "[A-Za-z0-9_-]"  # Of URLs, RFC 4648 section 5.
_SHAPES: Final = (
    (re.compile(r"\bpf_[A-Za-z0-9_-]{8,}"), REDACTED),
    # A JWT, also behind a hyphen. A run of its characters is looked at once, from where it begins,
    # and only if a dot follows: from each `-eyJ` in it, the cost would be quadratic.
    (
        re.compile(
            rf"(?<!{_BASE64})(?={_BASE64}++\.{_BASE64})((?:{_BASE64}*?-)??)eyJ{_BASE64}{{5,}}\.{_BASE64}+(?:\.{_BASE64}*)?"
        ),
        rf"\1{REDACTED}",
    ),
    # The password ends at the last @ before the path, since it may hold one itself.
    (re.compile(r"(://[^\s/:@]*:)[^\s/]+(?=@)"), rf"\1{REDACTED}"),
    (re.compile(r"\b((?:[Bb]earer|[Bb]asic)\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{REDACTED}"),
)
# A name and what it is set to, as it stands in a query, in a keyword DSN, in JSON, in the repr of a
# dict or of ASGI's headers, in a message of PostgreSQL. Each begins with a word, so that a long
# text costs one look at each character.
_QUOTED: Final = r"""\\?["']\s?[:=,]\s?b?\\?["']|[:=]\s?b?\\?["']"""
_NAMES: Final = (
    r"(?:password|passwd|passphrase|secret|token|csrf|dsn"
    r"|(?:api|access|private|signing|traffic|priority)[_-]?key)"
)
_PAIRS: Final = (
    # All of such a header is secret, blanks and semicolons too.
    re.compile(rf"""((?:authorization|cookie)(?:{_QUOTED}|[:=]\s?))[^"'\r\n]+""", re.IGNORECASE),
    re.compile(rf"""({_NAMES}(?:{_QUOTED}))[^"'\r\n\\]+""", re.IGNORECASE),
    re.compile(rf"""({_NAMES}(?:\)=\(|=|:\s?))[^\s"'&,;(){{}}\[\]\\]+""", re.IGNORECASE),
)
_MAX_DEPTH: Final = 6  # Of values in values: what lies deeper is not looked at, and redacted.
# Bytes of a stack trace: as JSON, a line is then still below what collectors take.
_MOST: Final = 16_384
_MOST_MESSAGE: Final = 2_048  # Characters.
_CUT: Final = "\n  ... left out here ...\n"
_LEFT_OUT: Final = "The outermost frames of each stack are left out.\n"
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_TEXTS: Final = frozenset({str})
# JSON has neither infinity nor NaN, and few readers have a larger number.
_LARGEST: Final = 10**308


def redact_text(text: str) -> str:
    """Replace tokens, JWTs, credentials, passwords in URLs, and what a secret's name is set to.

    Twice is as once.
    """
    # No shape is without one of these, and to look for them costs a tenth: every field of every
    # line is looked at.
    if "pf_" in text or "eyJ" in text or "://" in text or "earer" in text or "asic" in text:
        for shape, replacement in _SHAPES:
            text = shape.sub(replacement, text)
    # The same holds for pairs: each has what stands between a name and its value, and a part of a
    # secret's name.
    if ":" not in text and "=" not in text and "," not in text:
        return text
    lower = text.lower()
    if (
        "pass" in lower
        or "secret" in lower
        or "token" in lower
        or "csrf" in lower
        or "dsn" in lower
        or "key" in lower
        or "authorization" in lower
        or "cookie" in lower
    ):
        for pair in _PAIRS:
            text = pair.sub(rf"\1{REDACTED}", text)
    return text


def redact(fields: Mapping[str, object]) -> dict[str, object]:
    """Replace in a copy the values of secret keys, and secret shapes in others, however deep."""
    # Most lines have nothing to hide, and are looked at as one text: half of the cost.
    values = fields.values()
    is_plain = _PLAIN.issuperset(map(type, values)) and _TEXTS.issuperset(map(type, fields))
    if is_plain and not any(map(_is_secret, fields)):
        text = "\n".join([value for value in values if isinstance(value, str)])
        if redact_text(text) == text:
            return dict(fields)
    return redact_fields(fields)


def redact_fields(fields: Mapping[Any, object], depth: int = 0) -> dict[str, object]:
    """Do the same value by value.

    What is left is JSON, with texts as keys and for numbers that JSON does not have.
    """
    clean: dict[str, object] = {}
    for name, value in fields.items():
        key = name if isinstance(name, str) else text_of(name)
        clean[key] = (
            REDACTED if _is_secret(key) and _is_there(value) else _redact_value(value, depth)
        )
    return clean


# The same few names come with every line.
@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_KEY.search(name.lower().replace("-", "_")) is not None


def _is_there(value: object) -> bool:
    # The truth of a foreign object may raise.
    return type(value) not in _PLAIN or bool(value)


def _redact_value(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < _LARGEST else text_of(value)
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        # What is too deep to look at is not let through.
        return (
            REDACTED
            if depth >= _MAX_DEPTH
            else _redact_items(cast("Iterable[object]", value), depth + 1)
        )
    # A foreign object is rendered by its repr sooner or later: here, where it can be looked at.
    return redact_text(value if isinstance(value, str) else text_of(value))


def _redact_items(value: Iterable[object], depth: int) -> object:
    try:
        if isinstance(value, Mapping):
            return redact_fields(cast("Mapping[Any, object]", value), depth)
        return [_redact_value(item, depth) for item in value]
    except Exception:  # noqa: BLE001 - foreign code may raise anything
        name = type(cast("object", value)).__name__
        return f"<{name} that cannot be read>"


def text_of(value: object) -> str:
    """Return the text of bytes, or the `repr` of anything else; it never raises."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - as above
        return f"<{type(value).__name__} without a text>"


def failure_fields(error: BaseException) -> dict[str, str | float]:
    """Return `exception.type`, `.message`, `.stacktrace` with causes, and `retry_after`.

    A stack trace above 16 kB of UTF-8 loses the outermost frames of each stack first, so that every
    cause stays.
    """
    kind = type(error)
    fields: dict[str, str | float] = {
        "exception.type": f"{kind.__module__}.{kind.__qualname__}",
        "exception.message": redact_text(_message(error)),
        "exception.stacktrace": redact_text(_stack_trace(error)),
    }
    retry_after = getattr(error, "retry_after", None)
    if isinstance(retry_after, int | float):
        fields["retry_after"] = retry_after
    return fields


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - foreign code, and what it describes counts more
        return "<its text cannot be made>"
    return text if len(text) <= _MOST_MESSAGE else f"{text[:_MOST_MESSAGE]}..."


def _stack_trace(error: BaseException) -> str:
    data = b""
    for frames in (None, -32, -8, -2):
        text = "".join(TracebackException.from_exception(error, limit=frames).format())
        text = f"{_LEFT_OUT}{text}" if frames else text
        data = text.encode(errors="replace")
        if len(data) <= _MOST:
            return text
    # The beginning is the first cause, and the end the error itself.
    half = (_MOST - len(_CUT)) // 2
    return data[:half].decode(errors="ignore") + _CUT + data[-half:].decode(errors="ignore")
