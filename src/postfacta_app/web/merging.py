"""What a form changed, merged with what others changed since the form was made.

A form carries each field twice: as its user left it, and as it was shown, in `was-NAME`. Only what
its user changed is written. A field that others changed to another value is refused, with theirs;
the form that is shown again starts from it, so that it can be sent once more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, cast
from uuid import UUID

from ..db import Unit
from ..errors import FieldError, PreconditionFailedError

_WAS: Final = "was-"
_LETTERS: Final = 500  # Of another's value in a message.
_DETAIL: Final = (
    "Not saved: someone else changed the same in the meantime. Your input is still here; to"
    " replace theirs, save again."
)
# `$3` is a field that the row's detail has, or the annotation that it is about.
_CHANGED_BY: Final = """
select coalesce(
         (select u.display_name from users u where a.actor = 'user:' || u.id),
         (select t.name from tokens t where a.actor = 'token:' || t.id),
         a.actor) as name,
       a.at
  from audit_log a
 where (a.incident_id = $1 or $1::uuid is null and a.incident_id is null)
   and a.object = $2
   and (a.detail ? $3 or a.detail ->> 'annotation' = $3)
 order by a.seq desc
 limit 1"""

Texts = Mapping[str, str]


def any_version(_: str | None) -> None:
    """Accept a write whose form was merged with the current version."""


def as_text(value: object) -> str:
    """Return a stored value as its field shows it."""
    if isinstance(value, list):
        return ", ".join(map(str, cast("list[object]", value)))
    return "" if value is None else _plain(str(value))


def as_texts(stored: Mapping[str, object]) -> dict[str, str]:
    return {name: as_text(value) for name, value in stored.items()}


def merge(
    was: Texts, typed: Texts, now: Texts, *, whole: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Return the fields to write, and the names of those that others changed too.

    Fields that were not sent stay. If it is `whole`, all that others changed is refused.
    """
    sent: dict[str, str] = {}
    clashes: list[str] = []
    for name in now.keys() & typed.keys():
        before, mine, theirs = (_plain(texts.get(name, "")) for texts in (was, typed, now))
        is_written = mine not in {before, theirs}
        if (is_written or whole) and theirs != before:
            clashes.append(name)
        elif is_written:
            sent[name] = mine
    return sent, clashes


def _plain(text: str) -> str:
    # As browsers send it: some keep spaces around it, none a carriage return.
    return re.sub("\r\n?", "\n", text).strip()


def rebase(fields: dict[str, str], now: Texts) -> None:
    """Let a form start from the current values, where its user changed nothing."""
    for name in now.keys() & fields.keys():
        if _plain(fields[name]) == _plain(fields.get(_WAS + name, "")):
            fields[name] = now[name]
        fields[_WAS + name] = now[name]


async def merged(
    unit: Unit,
    fields: dict[str, str],
    stored: Mapping[str, object],
    *,
    incident_id: UUID | None,
    of: str,
    annotation: str = "",
    whole: bool = False,
) -> dict[str, str]:
    """Return the fields of a form to write; raise, with others' values, if they changed the same.

    The object `of` the audit log, or an `annotation` of an incident, is locked.
    """
    now = as_texts(stored)
    was = {name: fields.get(_WAS + name, "") for name in now}
    sent, clashes = merge(was, fields, now, whole=whole)
    if not clashes:
        return sent
    errors: list[FieldError] = []
    for name in sorted(clashes):
        args = (incident_id, of, annotation or name)
        by = await unit.fetch(_CHANGED_BY, *args, operation="changed_by")
        is_word = isinstance(stored[name], StrEnum)
        text = now[name].replace("_", " ").capitalize() if is_word else now[name]
        author = f"{by[0]['name']}, {by[0]['at']:%H:%M}" if by else ""
        errors.append(passed(name, text, author))
    rebase(fields, now)
    raise PreconditionFailedError(_DETAIL, errors=errors)


def passed(name: str, text: str, author: str) -> FieldError:
    """Return the error of a field that another changed, with the value that it has now."""
    shown = f"{text[:_LETTERS]} … (cut)" if len(text) > _LETTERS else text or "empty"
    ending = f" ({author})" if author else ""
    return FieldError(f"/{name}", "changed", f"now: {shown}{ending}")
