"""Read the statements of a revision from the file of SQL beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def statements(revision: str, words: Mapping[str, str] | None = None) -> list[str]:
    """Return the statements of a revision, given its Python file, one by one as asyncpg prepares them.

    Blank lines separate them in the file; `<name>` stands for one of the words, and comments before one are
    left out.
    """
    text = Path(revision).with_suffix(".sql").read_text(encoding="utf-8")
    for name, word in (words or {}).items():
        text = text.replace(f"<{name}>", word)
    return [re.sub(r"\A(--.*\n)+", "", statement) for statement in text.strip().split("\n\n")]
