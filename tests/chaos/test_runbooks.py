"""Runbooks are read as they are written, and their commands run as a person would run them."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from chaos.runbooks import Block, RunbookError, read, rehearsed, run

TEXT = """---
alert: Fire
owner: somebody
last_rehearsed: never
---

# Fire

## Meaning

It burns.

## Diagnosis

1. Where?

   ```sh diagnose
   echo "$WHERE"
   if true; then
       echo nested
   fi
   ```

## Mitigation

```sh manual
# Not run: it needs water.
pour
```

```
no command
```

## Verification

```sh verify
false
echo "not reached"
```
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a runbook."""
    path = tmp_path / "Fire.md"
    path.write_text(TEXT)
    return path


def test_blocks_are_listed_by_role_with_place_and_without_indent(file: Path) -> None:
    book = read(file)
    assert (book.name, book.front["alert"], list(book.sections)) == (
        "Fire",
        "Fire",
        ["Meaning", "Diagnosis", "Mitigation", "Verification"],
    )
    assert [(block.role, block.section) for block in book.blocks] == [
        ("diagnose", "Diagnosis"),
        ("manual", "Mitigation"),
        ("verify", "Verification"),
    ]
    (first,) = book.of("diagnose")
    assert first.script == 'echo "$WHERE"\nif true; then\n    echo nested\nfi\n'
    assert TEXT.splitlines()[first.line - 1].strip() == "```sh diagnose"


def test_a_block_gets_its_environment_and_stops_at_the_first_failure(file: Path) -> None:
    book = read(file)
    done = run(book.of("diagnose")[0], {"WHERE": "in the shed"})
    assert (done.code, done.output) == (0, "in the shed\nnested\n")
    failed = run(book.of("verify")[0], {})
    assert (failed.code, failed.output) == (1, "")


def test_a_variable_that_was_forgotten_is_an_error_and_not_an_empty_word(file: Path) -> None:
    done = run(read(file).of("diagnose")[0], {})
    assert done.code != 0
    assert "WHERE" in done.errors


def test_a_manual_block_is_never_run(file: Path) -> None:
    with pytest.raises(ValueError, match="it needs water"):
        run(read(file).of("manual")[0], {})


def test_a_block_that_hangs_is_ended() -> None:
    assert run(Block("Diagnosis", "diagnose", "sleep 60", 1), {}, timeout=0.3).code == 124


def test_an_unknown_role_is_refused_with_its_line(file: Path) -> None:
    file.write_text(TEXT.replace("sh diagnose", "sh destroy"))
    with pytest.raises(
        RunbookError, match=r"Fire.md:17: 'destroy' is no role: there are diagnose, mitigate"
    ):
        read(file)


def test_a_runbook_without_front_matter_is_refused(file: Path) -> None:
    file.write_text("# Fire\n")
    with pytest.raises(RunbookError, match="no front matter"):
        read(file)
    with pytest.raises(RunbookError, match="no last_rehearsed"):
        rehearsed(file, date(2026, 1, 2))


def test_a_rehearsal_is_written_down_and_nothing_else_changes(file: Path) -> None:
    rehearsed(file, date(2026, 1, 2))
    assert file.read_text() == TEXT.replace("last_rehearsed: never", "last_rehearsed: 2026-01-02")
