"""Parse edits from forms; the digits of a time give its precision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from pydantic import JsonValue

from ..errors import FieldError
from ..web.body import format_time
from ..web.forms import parse, read_typed_time
from .edits import MODELS, NewEdit
from .model import Op, Precision

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SECONDS: Final = re.compile(r"\d:\d\d:\d\d(\.)?|-\d+ ?s$", re.ASCII)
_OFFSET: Final = re.compile(r"[+-]?\d{1,6}(\.\d{1,3})?", re.ASCII)


def read_edit(fields: Mapping[str, str], now: datetime | None = None) -> NewEdit | tuple[FieldError, ...]:
    """Parse an edit from the fields of a form, or return the errors.

    `op` is the operation; `source` and `id` name the entry, `value` is the input. An empty time or title undoes the
    correction. Clock offsets are in seconds.
    """
    if (op := fields.get("op", "")) not in MODELS:
        return (FieldError("/op", "unknown", "is not an edit: reload the page and try again"),)
    try:
        value = _value(Op(op), fields, now)
    except ValueError as error:
        return (FieldError("/value", "value", str(error)),)
    entry = {"source": fields.get("source", ""), "id": fields.get("id", "")}
    return parse(MODELS[op], {**fields, "entry": entry, "value": value})


def read_instant(text: str, now: datetime | None = None) -> dict[str, JsonValue]:
    text, precision = text.strip(), precision_of(text)
    at = read_typed_time(f"{text} 00:00" if precision is Precision.DAY else text, now)
    return {"at": format_time(at), "precision": precision}


def precision_of(text: str) -> Precision:
    """Return how exactly a typed time is known: `now` is exact, `-30s` to the second, `-5m` and `10:04` to the minute."""
    text = text.strip().lower()
    if _DAY.fullmatch(text):
        return Precision.DAY
    if text == "now":
        return Precision.EXACT
    seconds = _SECONDS.search(text)
    return Precision.MINUTE if seconds is None else Precision.EXACT if seconds[1] else Precision.SECOND


def _value(op: Op, fields: Mapping[str, str], now: datetime | None) -> JsonValue:
    typed = fields.get("value", "")
    if op is Op.SET_TIME:
        # Without `now`: a bare `10:04` would move an entry of another day to today.
        return read_instant(typed) if typed.strip() else None
    if op is Op.SET_TITLE:
        return {"title": typed} if typed.strip() else None
    if op is Op.MILESTONE:
        at: dict[str, JsonValue] = read_instant(typed, now) if typed.strip() else {"at": None}
        return {"name": fields.get("name", ""), **at}
    if op is Op.CLOCK_OFFSET:
        if _OFFSET.fullmatch(typed.strip()) is None:
            raise ValueError("must be a number of seconds, such as 120 or -90.5")
        return {"ms": round(float(typed) * 1000)}
    return None
