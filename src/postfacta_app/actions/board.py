"""Action items as the pages show them: age, due date and possible status changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from .model import Action, ActionStatus

__all__ = ["Line", "due_words", "line", "order"]

_MOVES: Final[Mapping[ActionStatus, Sequence[tuple[ActionStatus, str]]]] = {
    ActionStatus.OPEN: ((ActionStatus.IN_PROGRESS, "Start"), (ActionStatus.DONE, "Done")),
    ActionStatus.IN_PROGRESS: ((ActionStatus.DONE, "Done"), (ActionStatus.OPEN, "Move back to open")),
    ActionStatus.DONE: ((ActionStatus.OPEN, "Reopen"),),
    ActionStatus.WONT_DO: ((ActionStatus.OPEN, "Reopen"),),
}
_SOON: Final = 1


@dataclass(frozen=True, slots=True)
class Line:
    """An action item as it is shown.

    Attributes:
        age: Time since it was created; for a closed one, time until it was closed.
        due: The due date relative to today, in words; empty without one, or once it is closed.
        is_overdue: Whether it is open after its due date, in UTC.
        moves: The status that each button sets, with the button's text.
    """

    action: Action
    age: timedelta
    due: str
    is_overdue: bool
    moves: Sequence[tuple[ActionStatus, str]]


def line(action: Action, now: datetime) -> Line:
    """Return what is shown of an action item now."""
    days = None if action.due_on is None or not action.is_open else (action.due_on - now.date()).days
    return Line(
        action=action,
        age=(action.closed_at or now) - action.created_at,
        due="" if days is None else due_words(days),
        is_overdue=days is not None and days < 0,
        moves=_MOVES[action.status],
    )


def due_words(days: int) -> str:
    """Return a due date in words; `days` is negative when it is in the past."""
    if days < 0:
        return f"overdue by {-days} {'day' if days == -1 else 'days'}"
    if days <= _SOON:
        return "due tomorrow" if days else "due today"
    return f"due in {days} days"


def order(lines: Sequence[Line]) -> Sequence[Line]:
    """Sort open ones first, by due date (none last), then by age."""
    return sorted(
        lines,
        key=lambda it: (
            not it.action.is_open,
            it.action.due_on is None,
            it.action.due_on or it.action.created_at.date(),
            it.action.created_at,
            it.action.id,
        ),
    )
