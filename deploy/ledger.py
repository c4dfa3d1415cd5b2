"""Keep a ledger of deployments, rollbacks and changed flags.

A line of JSON for each, which is added and never changed.

    python deploy/ledger.py record --file ledger.jsonl --what 1.4.0 --environment production --by ci
    -- COMMAND ... python deploy/ledger.py record --file ledger.jsonl --kind flag --what
    read_only=on --environment production --by ci python deploy/ledger.py previous --file
    ledger.jsonl --environment production python deploy/ledger.py report --file ledger.jsonl

`record` runs the command and returns its exit code, which is the outcome; without one, --outcome
and --seconds say them. With --url and --token-file it is sent to PostFacta as a signal too; that it
could not be sent is reported, and fails nothing. Each line names the hash of the one before, so
that a changed or removed line is noticed. Needs Python 3.11, and nothing else.

Exit codes: 0 done, 1 there is no such version or the ledger is damaged, 2 wrong usage; of `record`,
those of the command.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = [
    "LEAST",
    "Entry",
    "LedgerError",
    "Summary",
    "append",
    "main",
    "previous",
    "read",
    "send",
    "signal",
    "summary",
]

LEAST: Final = 20
"""Fewer deployments, or fewer rollbacks than a quarter of it, are not enough data."""

_KINDS: Final = {
    "deploy": "Deployed {}",
    "rollback": "Rolled back to {}",
    "flag": "Set the flag {}",
}
_OUTCOMES: Final = ("succeeded", "failed")
_MOST: Final = 300  # characters of a text
_PATIENCE: Final = 5.0  # seconds for PostFacta
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


class LedgerError(Exception):
    """The ledger, or what is to be added to it, is invalid; the text says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A deployment, a rollback or a changed flag.

    Attributes:
        at: When it began, in UTC.
        kind: `deploy`, `rollback` or `flag`.
        what: The version that was to run after it, or the flag and its value.
        environment: Where.
        by: Who did it: a role or a pipeline.
        outcome: `succeeded` or `failed`.
        seconds: How long it took; of a rollback, from what triggered it until the former version
            served alone.
        note: Why, for a rollback.
    """

    at: str
    kind: str
    what: str
    environment: str
    by: str
    outcome: str
    seconds: float
    note: str = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            is_right = (
                isinstance(value, float)
                if one.name == "seconds"
                else isinstance(value, str) and len(value) <= _MOST
            )
            if not is_right or (value == "" and one.name != "note"):
                raise LedgerError(
                    f"{one.name}: {value!r} is no {'number' if one.name == 'seconds' else 'text'}"
                )
        if self.kind not in _KINDS or self.outcome not in _OUTCOMES:
            raise LedgerError(
                f"{self.kind} {self.outcome}: use one of {', '.join((*_KINDS, *_OUTCOMES))}"
            )
        if not (math.isfinite(self.seconds) and self.seconds >= 0) or not _MOMENT.fullmatch(
            self.at
        ):
            raise LedgerError(
                f"{self.at} {self.seconds}: write 2026-02-07T10:04:00Z, and seconds from 0"
            )


def read(file: Path) -> list[Entry]:
    """Return what the ledger holds; nothing, if there is none yet.

    Raises:
        LedgerError: A line is no entry, or one before it was changed or removed.
    """
    return _parse(file.read_bytes()) if file.exists() else []


def _parse(content: bytes) -> list[Entry]:
    found = list[Entry]()
    before = ""
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            members: Any = json.loads(line)
            continues = line.endswith(b"\n") and members.pop("after") == before
            found.append(Entry(**members))
        except (LedgerError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise LedgerError(f"line {number}: {error}") from None
        if not continues:
            raise LedgerError(f"line {number}: it does not continue the line before")
        before = _hash(line)
    return found


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def append(file: Path, entry: Entry) -> None:
    """Add an entry, and return once it is on disk; two at once wait for each other.

    Raises:
        LedgerError: The ledger is damaged; nothing is added.
    """
    with file.open("a+b") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        ledger.seek(0)
        content = ledger.read()
        _parse(content)
        after = _hash(content.splitlines(keepends=True)[-1]) if content else ""
        ledger.write(json.dumps({**asdict(entry), "after": after}).encode() + b"\n")
        ledger.flush()
        os.fsync(ledger.fileno())


def previous(entries: Sequence[Entry], environment: str) -> str | None:
    """Return the version to go back to: the last good one that is not the present one."""
    good = _good(entries, environment)
    tried = [it.what for it in entries if it.environment == environment and it.kind != "flag"]
    return next((version for version in reversed(good) if version != tried[-1]), None)


def _good(entries: Sequence[Entry], environment: str) -> list[str]:
    """List the versions that succeeded and were not rolled back, oldest first."""
    good: list[str] = []
    for it in entries:
        if it.environment != environment or it.kind == "flag" or it.outcome == "failed":
            continue
        if it.kind == "rollback" and it.what in good:
            del good[good.index(it.what) + 1 :]
        elif it.kind == "deploy":
            good.append(it.what)
    return good


@dataclass(frozen=True, slots=True)
class Summary:
    """How deployments went; a figure is None if there is not enough data for it.

    Attributes:
        deploys: How many there were.
        success: The share that succeeded and was not undone.
        rollbacks: How many succeeded.
        median: The seconds that half of the rollbacks took at most.
        longest: The seconds that the longest took.
    """

    deploys: int
    success: float | None
    rollbacks: int
    median: float | None
    longest: float | None


def summary(entries: Sequence[Entry], least: int = LEAST) -> Summary:
    """Compute deploy success and the time to roll back.

    A rollback undoes the last deployment of its environment.
    """
    good: dict[int, bool] = {}
    last: dict[str, int] = {}
    for number, it in enumerate(entries):
        if it.kind == "deploy":
            good[number], last[it.environment] = it.outcome == "succeeded", number
        elif it.kind == "rollback" and it.environment in last:
            good[last[it.environment]] = False
    times = [it.seconds for it in entries if (it.kind, it.outcome) == ("rollback", "succeeded")]
    enough = len(times) >= max(1, least // 4)
    return Summary(
        deploys=len(good),
        success=sum(good.values()) / len(good) if good and len(good) >= least else None,
        rollbacks=len(times),
        median=statistics.median(times) if enough else None,
        longest=max(times) if enough else None,
    )


def signal(entry: Entry, service: str) -> dict[str, Any]:
    """Describe an entry as a signal of PostFacta; its id makes a repeat harmless."""
    # An `outcome` counts as a deployment in the metrics, which a flag is not.
    outcome = (
        "rolled_back" if (entry.kind, entry.outcome) == ("rollback", "succeeded") else entry.outcome
    )
    said = {"result": entry.outcome} if entry.kind == "flag" else {"outcome": outcome}
    title = _KINDS[entry.kind].format(entry.what)
    return {
        "id": f"{service}:{entry.environment}:{entry.kind}:{entry.at}",
        "kind": "change",
        "occurred_at": entry.at,
        "title": (
            title if entry.outcome == "succeeded" else f"Failed: {title[0].lower()}{title[1:]}"
        ),
        "services": [service],
        "environment": entry.environment,
        "payload": {**said, "by": entry.by, "seconds": entry.seconds, "note": entry.note},
    }


def send(url: str, token: Path, found: Mapping[str, Any]) -> str:
    """Send a signal to PostFacta; return what went wrong, without secrets, or nothing.

    It never raises.
    """
    try:
        if urlsplit(url).scheme not in {"http", "https"}:
            return "its address is neither http nor https"
        headers = {
            "Authorization": f"Bearer {token.read_text().strip()}",
            "Content-Type": "application/json",
        }
        data = json.dumps({"items": [found]}).encode()
        request = urllib.request.Request(f"{url.rstrip('/')}/api/v1/signals", data, headers)  # noqa: S310 - checked before
        # No proxy of the environment's.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=_PATIENCE
        ) as answer:
            counts = json.load(answer)["counts"]
            return "" if counts["created"] or counts["duplicate"] else f"it was refused: {counts}"
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answers {error.code}"
    except Exception as error:  # noqa: BLE001 - whatever it is, the deployment goes on
        return type(error).__name__


def main(words: Sequence[str]) -> int:
    """Run one command; return the exit code."""
    split = words.index("--") if "--" in words else len(words)
    given = _parser().parse_args(words[:split])
    try:
        return int(given.run(given, words[split + 1 :]))
    except LedgerError as error:
        sys.stderr.write(f"ledger: {given.file}: {error}\n")
        return 1


def _record(given: argparse.Namespace, command: Sequence[str]) -> int:
    read(given.file)  # A damaged one is found before anything is deployed.
    moment, began = (
        datetime.now(UTC),  # noqa: TID251 - a script of its own: it takes the machine's time
        time.monotonic(),
    )
    code = 0
    outcome = str(given.outcome)
    seconds = float(given.seconds)
    if command:
        code = subprocess.run(command, check=False).returncode  # noqa: S603 - what the operator asks for
        outcome = _OUTCOMES[bool(code)]
        seconds = round(time.monotonic() - began, 1)
    entry = Entry(
        at=f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z",
        kind=given.kind,
        what=given.what,
        environment=given.environment,
        by=given.by,
        outcome=outcome,
        seconds=seconds,
        note=given.note,
    )
    append(given.file, entry)
    if given.url and (trouble := send(given.url, given.token_file, signal(entry, given.service))):
        sys.stderr.write(f"ledger: recorded, but PostFacta did not get it: {trouble}\n")
    return code


def _previous(given: argparse.Namespace, _: Sequence[str]) -> int:
    found = previous(read(given.file), given.environment)
    if found is None:
        raise LedgerError(f"no version before the present one of {given.environment}")
    sys.stdout.write(f"{found}\n")
    return 0


def _report(given: argparse.Namespace, _: Sequence[str]) -> int:
    found = summary(read(given.file))
    none = "not enough data"
    times = (
        none
        if found.median is None
        else f"median {found.median:.0f} s, longest {found.longest:.0f} s"
    )
    share = none if found.success is None else f"{found.success:.1%}"
    sys.stdout.write(f"deploy success     {share} (n={found.deploys})\n")
    sys.stdout.write(f"time to roll back  {times} (n={found.rollbacks})\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "ledger.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    record, before, report = (
        commands.add_parser(name) for name in ("record", "previous", "report")
    )
    for one, run in ((record, _record), (before, _previous), (report, _report)):
        one.add_argument("--file", type=Path, required=True, help="the ledger")
        one.set_defaults(run=run)
    for one in (record, before):
        one.add_argument("--environment", required=True)
    record.add_argument("--kind", choices=_KINDS, default="deploy")
    record.add_argument("--what", required=True, help="the version, or the flag and its value")
    record.add_argument("--by", required=True, help="a role or a pipeline")
    record.add_argument(
        "--outcome", choices=_OUTCOMES, default="succeeded", help="without a command (%(default)s)"
    )
    record.add_argument("--seconds", type=float, default=0.0, help="without a command (0)")
    record.add_argument("--note", default="", help="why")
    record.add_argument("--url", help="of the PostFacta that gets a signal")
    record.add_argument(
        "--token-file", type=Path, help="holds a token with the scope signals:write"
    )
    record.add_argument("--service", default="postfacta", help="what was changed (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
