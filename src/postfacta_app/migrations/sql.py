"""What revisions are made of: the statements in the file of SQL beside each, and no way down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from alembic import op

from . import MigrationError


def statements(revision: str, words: Mapping[str, str] | None = None) -> list[str]:
    """Return the statements of a revision, given its Python file, one by one as asyncpg prepares them.

    Blank lines separate them in the file; `<name>` stands for one of the words, and comments before one are
    left out.
    """
    text = Path(revision).with_suffix(".sql").read_text(encoding="utf-8")
    for name, word in (words or {}).items():
        text = text.replace(f"<{name}>", word)
    return [re.sub(r"\A(--.*\n)+", "", statement) for statement in text.strip().split("\n\n")]


def run(revision: str, words: Mapping[str, str] | None = None) -> None:
    for statement in statements(revision, words):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Always raise: facts would be lost."""
    raise MigrationError("there is no downgrade: write a new revision that fixes it")
