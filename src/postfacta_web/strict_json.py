"""Parse JSON from clients strictly, in bounded memory, into what can be stored and encoded again.

Python's own parser takes NaN, lone surrogates and any number of values: a megabyte of `{},` is 24
MB of objects. Bound the bytes before: `harden` has `TransferLimits.max_body_bytes`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, cast

from postfacta_core.validation import validation

__all__ = ["MalformedJsonError", "parse"]

# By default: the values of a document, and how deep they are nested.
_MOST_PARTS: Final = 100_000
_MOST_DEPTH: Final = 100
_DEEPEST: Final = 500  # half of Python's recursion limit
_CONTAINERS: Final = (dict, list)
# The backslashes before it are escaped themselves.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class MalformedJsonError(ValueError):
    """The text is not strict JSON, or has too many values.

    Its words are for the client, and repeat none of the text.
    """


def parse(body: bytes, *, most_parts: int = _MOST_PARTS, most_depth: int = _MOST_DEPTH) -> object:
    """Parse a JSON text: UTF-8 without a byte order mark, one value, finite numbers, no U+0000.

    Lone surrogates become U+FFFD, since they cannot be encoded. A repeated key counts where it is
    last. Integers have at most 4,300 digits, which is Python's limit.

    Args:
        body: The text.
        most_parts: Commas and opening brackets outside of texts: each is a value of about 100 bytes
            in memory. They are counted before a value is built.
        most_depth: Levels of arrays and objects, at most 500.

    Raises:
        MalformedJsonError: It is anything else; answer by 400, with the error's text.
    """
    if most_parts != _MOST_PARTS or most_depth != _MOST_DEPTH:
        validation.whole("parse.most_parts", most_parts, example="most_parts=100_000")
        validation.whole("parse.most_depth", most_depth, at_most=_DEEPEST, example="most_depth=100")
    if _commas(body) > most_parts and _commas(_outside(body, most_parts)) > most_parts:
        raise MalformedJsonError(f"more than {most_parts:,} commas and brackets")
    if b"\\u0000" in body and _NUL.search(body):
        raise MalformedJsonError("a text contains U+0000")
    value = _decode(body, most_depth)
    if _SURROGATE.search(body):  # By now the halves of a pair are one character.
        value = _DECODER.decode(
            _LONE_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False))
        )
    return value


def _decode(body: bytes, most_depth: int) -> object:
    try:
        value = _DECODER.decode(body.decode("utf-8"))
        # Not more brackets than levels are allowed cannot be nested too deeply.
        brackets = body.count(b"[") + body.count(b"{")
        if brackets > most_depth and type(value) in _CONTAINERS:
            _check_depth(value, most_depth)
    except UnicodeDecodeError:
        raise MalformedJsonError("the text is not UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"not JSON at line {error.lineno}, column {error.colno}"
        raise MalformedJsonError(place if error.doc.strip(" \t\r\n") else "EOF") from None
    except RecursionError:
        raise MalformedJsonError("nested too deeply") from None
    except MalformedJsonError:
        raise
    except ValueError:  # int() rejects numbers of thousands of digits
        raise MalformedJsonError("a number is too large") from None
    return value


def _commas(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _outside(body: bytes, most_parts: int) -> bytes:
    """Return what is outside of strings; if there are too many of them, all."""
    body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Each string follows a comma or bracket, or a key that does: so there are less than twice as
    # many.
    return body if body.count(b'"') > 5 * most_parts else b"".join(body.split(b'"')[::2])


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise MalformedJsonError(
            "a number is too large" if text[-1].isdigit() else f"{text} is not JSON"
        )
    return number


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        newest_first = dict.fromkeys(key for key, _ in reversed(pairs))
        members = {key: members[key] for key in reversed(newest_first)}
    return members


_DECODER: Final = json.JSONDecoder(
    parse_constant=_finite, parse_float=_finite, object_pairs_hook=_object
)


def _check_depth(container: Any, levels: int) -> None:
    if levels == 0:
        raise MalformedJsonError("nested too deeply")
    is_object = isinstance(container, dict)
    for item in cast("dict[str, object]", container).values() if is_object else container:
        if type(item) in _CONTAINERS:
            _check_depth(item, levels - 1)
