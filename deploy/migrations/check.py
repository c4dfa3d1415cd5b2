"""Lint what each revision of the schema sends to PostgreSQL, with squawk.

A bad revision must be refused first.

    python deploy/migrations/check.py

The statements are those that a migration of an empty database executes, not what a source file
looks like. The first revision is left out: it finds no rows and no traffic. There is no way down to
test: a revision only adds, and the next one mends it. Exit codes: 0 all passed, 1 something failed,
77 something could not be looked at.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

# It is started by its path from anywhere, and its modules are no part of an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.migrations.kills import before_each
from deploy.outcome import Outcome
from postfacta_app.migrations import HEAD, upgrade
from postfacta_embedded import EmbeddedPostgres

__all__ = ["BAD", "faults", "main", "statements"]

_OLDEST: Final = "15"  # of PostgreSQL
_BASE: Final = "0001"
_MARK: Final = re.compile(r"insert into alembic_version values \('(\d{4})'")
# `postfacta migrate` sets both timeouts for its session. Counts and ranks are bounded by the rules,
# not by their type.
_EXCLUDED: Final = (
    "require-lock-timeout",
    "require-statement-timeout",
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
)

_TRANSACTION: Final = {"BEGIN;", "COMMIT;"}  # as asyncpg sends them
_TABLE: Final = re.compile(r"\s*create table (?:if not exists )?(\w+)", re.IGNORECASE)
_INDEX: Final = re.compile(
    r"\s*create\s+(?:unique\s+)?index\s+(?:if\s+not\s+exists\s+)?\w+\s+on\s+(\w+)", re.IGNORECASE
)

BAD: Final = {
    "require-concurrent-index-creation": "create index incidents_title on incidents (title)",
    "adding-required-field": "alter table incidents add column score bigint not null",
    "adding-not-nullable-field": "alter table incidents alter column title set not null",
    "changing-column-type": "alter table incidents alter column title type varchar(10)",
    "renaming-column": "alter table incidents rename column title to name",
    "renaming-table": "alter table incidents rename to cases",
    "ban-drop-column": "alter table incidents drop column title",
    "ban-drop-table": "drop table edits",
    "constraint-missing-not-valid": (
        "alter table incidents add constraint short check (char_length(title) < 10)"
    ),
    "adding-foreign-key-constraint": (
        "alter table edits add constraint of_it foreign key (incident_id) references incidents"
    ),
}
"""What breaks the version before, or waits for a whole table, by the rule that refuses it."""


def statements() -> dict[str, list[str]]:
    """Migrate an empty database, and return what each revision executed."""
    found: dict[str, list[str]] = {}
    current: list[str] = []

    def record(text: str) -> None:
        if mark := _MARK.match(text):
            found[mark[1]] = current.copy()
            current.clear()
        elif text not in _TRANSACTION:
            current.append(text)

    with _database() as dsn, before_each(record):
        upgrade(dsn, progress=lambda _: None)
    # Rights, of each migration. What a backfill says counts to the revision after it.
    found["after"] = current
    return found


@contextmanager
def _database() -> Generator[str]:
    with tempfile.TemporaryDirectory(prefix="postfacta-migrations-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may run as another user
        with EmbeddedPostgres(Path(folder) / "data", settings={"fsync": "off"}) as server:
            yield server.dsn()


def faults(sent: Sequence[str]) -> list[str]:
    """Return what squawk says of some statements.

    Raises:
        FileNotFoundError: It is not installed.
    """
    program = shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which(
        "squawk"
    )
    if program is None:
        raise FileNotFoundError("squawk is not installed (make check installs squawk-cli)")
    new = {made[1] for text in sent if (made := _TABLE.match(text))}
    # An index of a table that the same revision makes blocks no one; squawk does not see that of
    # `if not exists`.
    sent = [text for text in sent if not ((index := _INDEX.match(text)) and index[1] in new)]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        # On a line of its own: the last one may end with a comment.
        file.write("".join(f"{text.strip().rstrip(';')}\n;\n" for text in sent))
        file.flush()
        excluded = [f"--exclude={rule}" for rule in _EXCLUDED]
        done = subprocess.run(  # noqa: S603 - a tool of ours
            [program, "--reporter", "json", "--pg-version", _OLDEST, *excluded, file.name],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    said: list[Mapping[str, Any]] = json.loads(done.stdout or "[]")
    return [f"{one['rule_name']}: {one['message']} (line {one['line'] + 1})" for one in said]


def main() -> int:
    """Check all; return the exit code."""
    outcome = Outcome()
    try:
        missed = [
            rule
            for rule, text in BAD.items()
            if not any(it.startswith(rule) for it in faults([text]))
        ]
    except FileNotFoundError as error:
        outcome.not_run("migrations", str(error))
        return outcome.end()
    outcome.check(f"{len(BAD)} bad revisions are refused", missed)
    sent = statements()
    outcome.check("every revision was seen", [] if HEAD in sent else [f"{HEAD} was not applied"])
    for revision, texts in sent.items():
        if revision != _BASE:
            outcome.check(f"{revision}: {len(texts)} statements", faults(texts))
    return outcome.end()


if __name__ == "__main__":
    sys.exit(main())
