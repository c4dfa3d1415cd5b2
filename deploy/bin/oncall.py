"""Print who is on call at a time, from `deploy/oncall.yaml`, and find its gaps and overlaps.

    python deploy/bin/oncall.py who
    python deploy/bin/oncall.py who --at 2026-12-24T18:00 --rotation primary
    python deploy/bin/oncall.py check --days 90

A time without an offset is in the file's own time zone. Exit codes: 0 done, 1 `check` found
something or no one is on call, 2 wrong usage or a file that cannot be read. Needs PyYAML alone, so
that it works at night on any machine.
"""

# ruff: noqa: INP001 - a command, and no package

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

__all__ = ["OnCall", "OnCallError", "load", "main"]

FILE: Final = Path(__file__).parent.parent / "oncall.yaml"
_WEEK: Final = timedelta(days=7)
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NEVER: Final = datetime(9999, 1, 1)  # noqa: DTZ001 - shifts are in local time, without a zone


class OnCallError(Exception):
    """The file cannot be used; the text says which file, where and why."""


@dataclass(frozen=True, slots=True)
class _Span:
    """From a moment up to another, in local time without a zone."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class _Shifts(_Span):
    """Seats that take turns, a week each, from one handover to another."""

    seats: tuple[str, ...]

    def seat(self, at: datetime) -> str:
        return self.seats[(at - self.start) // _WEEK % len(self.seats)]


@dataclass(frozen=True, slots=True)
class _Override(_Span):
    seat: str


@dataclass(frozen=True, slots=True)
class _Rotation:
    shifts: tuple[_Shifts, ...]
    overrides: tuple[_Override, ...]

    def seats(self, at: datetime) -> list[str]:
        """List who holds it: one, if all is well."""
        taken = [one.seat for one in self.overrides if one.start <= at < one.end]
        return taken or [one.seat(at) for one in self.shifts if one.start <= at < one.end]

    def changes(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Yield each moment at which the holder may change."""
        spans: tuple[_Span, ...] = (*self.shifts, *self.overrides)
        for span in spans:
            yield from (moment for moment in (span.start, span.end) if start < moment < end)
        for one in self.shifts:
            moment = one.start + max(0, (start - one.start) // _WEEK) * _WEEK
            while moment < min(end, one.end):
                if moment > start:
                    yield moment
                moment += _WEEK


class OnCall:
    """The file, read.

    Args:
        content: As the schema has it.

    Raises:
        OnCallError: What the schema cannot say does not hold; the text says where.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.zone: tzinfo = _zone(content["timezone"])
        self.content: Mapping[str, Any] = content
        handover = content["handover"]
        self._weekday = _DAYS.index(handover["weekday"])
        self._handover = time.fromisoformat(handover["time"])
        self._rotations = {one["name"]: self._rotation(one) for one in content["rotations"]}

    @property
    def rotations(self) -> Sequence[str]:
        """The names of all rotations."""
        return list(self._rotations)

    def who(self, rotation: str, at: datetime) -> str:
        """Return the seat that holds a rotation.

        Raises:
            OnCallError: None does, or two do, or there is no such rotation.
        """
        if rotation not in self._rotations:
            raise OnCallError(
                f"there is no rotation '{rotation}': there are {', '.join(self._rotations)}"
            )
        seats = self._rotations[rotation].seats(self.local(at))
        if len(seats) != 1:
            raise OnCallError(f"{rotation}: {' and '.join(seats) or 'nobody'} at {at.isoformat()}")
        return seats[0]

    def local(self, at: datetime) -> datetime:
        """Turn a moment into a local time without a zone."""
        return at.astimezone(self.zone).replace(tzinfo=None)

    def problems(self, start: datetime, days: int) -> list[str]:
        """List each stretch in which a rotation has no holder or two, or primary and deputy are the same person."""
        begin = self.local(start)
        end = begin + timedelta(days=days)
        moments = sorted(
            {begin, *(at for one in self._rotations.values() for at in one.changes(begin, end))}
        )
        found: list[str] = []
        for at, until in zip(moments, [*moments[1:], end], strict=True):
            found += [
                f"{at:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}: {what}" for what in self._wrong(at)
            ]
        return [*found, *self._dead_ends()]

    def _wrong(self, at: datetime) -> Iterator[str]:
        holders: dict[str, str] = {}
        for name, rotation in self._rotations.items():
            seats = rotation.seats(at)
            if not seats:
                yield f"{name} has no one"
            elif len(seats) > 1:
                yield f"{name} has {' and '.join(seats)}"
            elif (other := holders.setdefault(seats[0], name)) != name:
                yield f"{seats[0]} is {other} and {name} at once"

    def _dead_ends(self) -> Iterator[str]:
        content = self.content
        known = {*self._rotations, "escalation"}
        for name, receiver in content["receivers"].items():
            if receiver["reaches"] not in known:
                yield f"receivers.{name} reaches '{receiver['reaches']}', which is no rotation"
        for service in content["services"]:
            for name in service["receivers"]:
                if name not in content["receivers"]:
                    yield (
                        f"services.{service['name']} names the receiver '{name}', which is not"
                        " there"
                    )
        yield from self._wrong_escalation()

    def _wrong_escalation(self) -> Iterator[str]:
        steps: list[dict[str, Any]] = self.content["escalation"]
        for number, step in enumerate(steps, 1):
            if "rotation" in step and step["rotation"] not in self._rotations:
                yield f"escalation step {number} names '{step['rotation']}', which is no rotation"
            if "role" in step and step["role"] not in self.content["roles"]:
                yield f"escalation step {number} names '{step['role']}', which is no role"
        minutes = [step["after_minutes"] for step in steps]
        if minutes[0] != 0 or minutes != sorted(set(minutes)):
            yield "escalation must begin at 0 minutes, and each step later than the one before"
        if "role" not in steps[-1]:
            yield "escalation ends with a rotation: its last step must be one person's role"

    def _rotation(self, given: Mapping[str, Any]) -> _Rotation:
        name = given["name"]
        shifts = tuple(
            _Shifts(
                self._moment(one["from"], f"rotations.{name}"),
                self._moment(one["until"], f"rotations.{name}") if "until" in one else _NEVER,
                tuple(one["seats"]),
            )
            for one in given["shifts"]
        )
        overrides = tuple(
            _Override(
                datetime.fromisoformat(one["from"]),
                datetime.fromisoformat(one["until"]),
                one["seat"],
            )
            for one in self.content["overrides"]
            if one["rotation"] == name
        )
        spans: tuple[_Span, ...] = (*shifts, *overrides)
        for span in spans:
            if span.end <= span.start:
                raise OnCallError(f"{name}: what begins {span.start:%Y-%m-%d %H:%M} must end later")
        return _Rotation(shifts, overrides)

    def _moment(self, text: str, where: str) -> datetime:
        day = date.fromisoformat(text)
        if day.weekday() != self._weekday:
            raise OnCallError(
                f"{where}: {text} is a {_DAYS[day.weekday()]}, no {_DAYS[self._weekday]}"
            )
        return datetime.combine(day, self._handover)


def _zone(name: str) -> tzinfo:
    if name == "UTC":  # It is known even where no time zone data is installed.
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise OnCallError(
            f"timezone: '{name}' is not known here; is it spelt right, and tzdata installed?"
        ) from None


class _Loader(yaml.SafeLoader):
    """Leaves dates as they are written; the schema says how they look."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class has it as a plain dictionary
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load(file: Path) -> OnCall:
    """Read the file.

    Raises:
        OnCallError: It cannot be read, or does not say what it must.
    """
    try:
        return OnCall(yaml.load(file.read_text(encoding="utf-8"), _Loader))  # noqa: S506 - a SafeLoader
    except OnCallError as error:
        raise OnCallError(f"{file}: {error}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OnCallError(f"{file} cannot be read: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OnCallError(f"{file} does not fit oncall.schema.json: {error!r}") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    args = _parser().parse_args(argv)
    try:
        oncall = load(args.file)
        at = _time(args.at, oncall.zone)
    except OnCallError as error:
        sys.stderr.write(f"oncall: {error}\n")
        return 2
    return (
        _who(oncall, at, args.rotation) if args.command == "who" else _check(oncall, at, args.days)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("oncall", description="Say who is on call.")
    parser.add_argument("--file", type=Path, default=FILE, help="the file to read (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="who|check")
    who = commands.add_parser("who", help="tell the seat of each rotation, and the escalation")
    who.add_argument("--rotation", help="of this one alone; prints the seat and nothing else")
    check = commands.add_parser("check", help="find gaps and doubles; exit code 1 if there are any")
    check.add_argument("--days", type=int, default=90, help="how far to look ahead (%(default)s)")
    for command in (who, check):
        command.add_argument(
            "--at", default="", help="a time such as 2026-12-24T18:00; now without it"
        )
    return parser


def _time(text: str, zone: tzinfo) -> datetime:
    if not text:
        return datetime.now(UTC)  # noqa: TID251 - a person asks who is on call now
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise OnCallError(
            f"--at {text}: no time; write 2026-12-24T18:00, or with an offset +01:00"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=zone)


def _who(oncall: OnCall, at: datetime, rotation: str | None) -> int:
    try:
        if rotation:
            sys.stdout.write(f"{oncall.who(rotation, at)}\n")
            return 0
        seats = {name: oncall.who(name, at) for name in oncall.rotations}
    except OnCallError as error:
        sys.stderr.write(f"oncall: {error}\n")
        return 1
    lines = [f"{name:<12} {seat}" for name, seat in seats.items()]
    for step in oncall.content["escalation"]:
        name = step.get("rotation") or step["role"]
        lines.append(f"after {step['after_minutes']:>2} min  {seats.get(name, name)}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _check(oncall: OnCall, at: datetime, days: int) -> int:
    problems = oncall.problems(at, days)
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    if not problems:
        sys.stdout.write(f"no gap and no double from {oncall.local(at):%Y-%m-%d} for {days} days\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
