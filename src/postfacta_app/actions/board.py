"""What an action shows to people: its age, how far its day is off, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from .model import Action, ActionStatus

__all__ = ["Line", "due_words", "line", "order"]

_MOVES: Final[Mapping[ActionStatus, Sequence[tuple[ActionStatus, str]]]] = {
    ActionStatus.OPEN: ((ActionStatus.IN_PROGRESS, "Start"), (ActionStatus.DONE, "Done")),
    ActionStatus.IN_PROGRESS: ((ActionStatus.DONE, "Done"), (ActionStatus.OPEN, "Put back")),
    ActionStatus.DONE: ((ActionStatus.OPEN, "Reopen"),),
    ActionStatus.WONT_DO: ((ActionStatus.OPEN, "Reopen"),),
}
_SOON: Final = 1


@dataclass(frozen=True, slots=True)
class Line:
    """An action as it is shown.

    Attributes:
        age: How long it has been there; of a closed one, how long it took.
        due: How far its day is off, in words; empty without one, or once it is closed.
        is_overdue: Whether it is open after its day, in UTC.
        moves: The states that one button leads to, with the button's word.
    """

    action: Action
    age: timedelta
    due: str
    is_overdue: bool
    moves: Sequence[tuple[ActionStatus, str]]


def line(action: Action, now: datetime) -> Line:
    """Tell what is shown of an action now."""
    days = None if action.due_on is None or not action.is_open else (action.due_on - now.date()).days
    return Line(
        action=action,
        age=(action.closed_at or now) - action.created_at,
        due="" if days is None else due_words(days),
        is_overdue=days is not None and days < 0,
        moves=_MOVES[action.status],
    )


def due_words(days: int) -> str:
    """Say how far a day is off; days before it are negative."""
    if days < 0:
        return f"overdue by {-days} {'day' if days == -1 else 'days'}"
    if days <= _SOON:
        return "due tomorrow" if days else "due today"
    return f"due in {days} days"


def order(lines: Sequence[Line]) -> Sequence[Line]:
    """Put open ones first: by their day, those without one last, and then by age."""
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
