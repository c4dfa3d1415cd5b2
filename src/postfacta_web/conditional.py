"""Read the headers that say whether a request may take effect.

Preconditions (RFC 9110, 13.1) and `Idempotency-Key`.

It needs the extra `starlette`, which FastAPI brings too. Its time is linear in the length of the
headers, which `harden` bounds by `TransferLimits.max_header_bytes`.
"""

from __future__ import annotations

import re
from typing import Final

from postfacta_core.installation import missing_extra

try:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "starlette", _error) from _error

__all__ = ["ConditionError", "check_if_match", "idempotency_key", "is_not_modified"]

_TAG: Final = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_are_tags = re.compile(rf"\s*(?:\*|{_TAG}(?:\s*,\s*{_TAG})*(?:\s*,)?)\s*").fullmatch
_ETAGS: Final = re.compile(rf"\*|{_TAG}")
_BARE_KEY: Final = re.compile(r"[\x21\x23-\x7e][\x21-\x7e]*")
_QUOTED_KEY: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_LONGEST_KEY: Final = 255


class ConditionError(HTTPException):
    """A header of the request is malformed (400), names another version (412), or is missing (428).

    Starlette and FastAPI answer it as each `HTTPException`. Its `detail` is for the client, and
    repeats none of the header; `headers` of a 412 hold the current `ETag`.
    """


def check_if_match(request: Request, etag: str) -> None:
    """Raise unless `If-Match` names the stored version, or is `*`.

    For a change, which must not undo another's.

    Call it in the transaction of the change, with the row locked, or write only where the version
    is still the same.

    Args:
        request: The request; a repeated header is one list.
        etag: The stored version's strong ETag, with its quotes, such as `"3"`; a weak one never
            matches.

    Raises:
        ConditionError: 428 if there is no `If-Match`, 412 if it names other versions, 400 if it
            cannot be read.
    """
    named = _named(request, "If-Match")
    if not named:
        raise ConditionError(428, "Send If-Match with the ETag of the version you change")
    if "*" not in named and (etag not in named or etag.startswith("W/")):
        raise ConditionError(412, "It has changed: read it again, then retry", {"ETag": etag})


def is_not_modified(request: Request, etag: str) -> bool:
    """Return whether `If-None-Match` names this version, or is `*`.

    Answer a GET or HEAD by 304 with the `ETag` then.

    Args:
        request: The request; a repeated header is one list.
        etag: The version's ETag, with its quotes. Weak and strong ones match.

    Raises:
        ConditionError: 400 if the header cannot be read.
    """
    if "if-none-match" not in request.headers:
        return False
    tags = {tag.removeprefix("W/") for tag in _named(request, "If-None-Match")}
    return "*" in tags or etag.removeprefix("W/") in tags


def _named(request: Request, header: str) -> list[str]:
    values = request.headers.getlist(header)
    text = ", ".join(values)
    if values and _are_tags(text) is None:
        raise ConditionError(
            400, f'{header}: an entity tag must be in double quotes, as in "inc-3"'
        )
    return _ETAGS.findall(text)


def idempotency_key(request: Request) -> str | None:
    """Return the `Idempotency-Key`, or None if there is none.

    1 to 255 ASCII characters, such as `write_once` takes.

    It may be a quoted string, as draft-ietf-httpapi-idempotency-key-header has it, or bare, as most
    clients send it. It may be a dependency of a FastAPI route: `Depends(idempotency_key)`.

    Raises:
        ConditionError: 400 if it has other characters or another length, or is repeated.
    """
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    text = values[0].strip()
    quoted = _QUOTED_KEY.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if (
        len(values) > 1
        or not 1 <= len(key) <= _LONGEST_KEY
        or not (quoted or _BARE_KEY.fullmatch(text))
    ):
        raise ConditionError(
            400, "Idempotency-Key must be 1 to 255 visible ASCII characters, given once"
        )
    return key
