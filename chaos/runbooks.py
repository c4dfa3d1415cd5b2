"""Reads the runbooks, and runs their commands as a person on call would.

A fenced block that begins with ``sh`` and a role is a command: ``diagnose`` looks, ``mitigate``
changes something, ``verify`` ends with 0 once all is well again, and ``manual`` is never run by a
program: its first line says why. What differs between two places stands in environment variables,
which the runbooks' README lists.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast

import yaml

__all__ = [
    "FOLDER",
    "ROLES",
    "SECTIONS",
    "Block",
    "Done",
    "Runbook",
    "RunbookError",
    "read",
    "rehearsed",
    "run",
]

FOLDER = Path(__file__).parent.parent / "docs/runbooks"
"""Where they are; each but the README is a runbook."""

SECTIONS = (
    "Meaning",
    "Impact",
    "Diagnosis",
    "Mitigation",
    "Verification",
    "Escalation",
    "Afterwards",
)
"""What each has, in this order, but those about a process."""

ROLES = ("diagnose", "mitigate", "verify", "manual")

_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
# In a list, a block is indented by as much as its item.
_BLOCK = re.compile(r"^( *)```sh (\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_REHEARSED = re.compile(r"^last_rehearsed: .*$", re.MULTILINE)


class RunbookError(ValueError):
    """A runbook that cannot be read; the text says which one, and what is wrong."""


@dataclass(frozen=True, slots=True)
class Block:
    """Commands of one runbook.

    Attributes:
        section: The heading that it stands under.
        role: One of ``ROLES``.
        script: For ``sh``.
        line: Where its fence stands in the file, from 1.
    """

    section: str
    role: str
    script: str
    line: int


@dataclass(frozen=True, slots=True)
class Runbook:
    """One file.

    Attributes:
        path: Where it is.
        front: What stands above the text: ``alert``, ``scenario`` or ``process``, ``owner``,
            ``last_rehearsed``.
        sections: The headings of the second level, in order.
        text: All below the front matter.
        blocks: Its commands, in order.
    """

    path: Path
    front: Mapping[str, Any]
    sections: Sequence[str]
    text: str
    blocks: Sequence[Block]

    @property
    def name(self) -> str:
        """The name of the alert, the scenario or the process."""
        return self.path.stem

    def of(self, role: str) -> list[Block]:
        """List the blocks of a role."""
        return [block for block in self.blocks if block.role == role]


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a block.

    Attributes:
        code: The exit code of ``sh``; 124 if it took too long.
        output: What it printed.
        errors: What it complained about.
    """

    code: int
    output: str
    errors: str


def read(path: Path) -> Runbook:
    """Read one.

    Raises:
        RunbookError: It has no front matter, or a block has no role that is known.
    """
    whole = path.read_text(encoding="utf-8")
    found = _FRONT.match(whole)
    front = yaml.safe_load(found[1]) if found else None
    if not found or not isinstance(front, dict):
        raise RunbookError(f"{path.name}: begins with no front matter between two lines of ---")
    blocks: list[Block] = []
    for block in _BLOCK.finditer(whole):
        line = whole.count("\n", 0, block.start()) + 1
        if block[2] not in ROLES:
            raise RunbookError(
                f"{path.name}:{line}: '{block[2]}' is no role: there are {', '.join(ROLES)}"
            )
        headings = _HEADING.findall(whole, 0, block.start())
        script = "".join(text.removeprefix(block[1]) for text in block[3].splitlines(keepends=True))
        blocks.append(Block(headings[-1] if headings else "", block[2], script, line))
    text = whole[found.end() :]
    return Runbook(path, cast("dict[str, Any]", front), _HEADING.findall(text), text, blocks)


def run(block: Block, environment: Mapping[str, str], *, timeout: float = 60.0) -> Done:
    """Run a block by ``sh -eu``, in the folder of this checkout.

    Args:
        block: It must not be ``manual``.
        environment: What is set besides the environment of this process.
        timeout: Seconds, then it is ended.

    Raises:
        ValueError: It is for people.
    """
    if block.role == "manual":
        raise ValueError("a manual block is for people: " + block.script.partition("\n")[0])
    with subprocess.Popen(  # noqa: S603 - what the runbooks of this checkout say
        ["sh", "-eu", "-c", block.script],  # noqa: S607 - a shell is on every path
        cwd=FOLDER.parent.parent,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # so that what the shell started ends with it
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Done(124, "", f"not done within {timeout:g} s")
    return Done(process.returncode, output, errors)


def rehearsed(path: Path, day: date) -> None:
    """Record that all of a runbook's commands did what they should.

    Raises:
        RunbookError: It has no place for that in its front matter.
    """
    whole = path.read_text(encoding="utf-8")
    found = _FRONT.match(whole)
    if not found or not _REHEARSED.search(found[0]):
        raise RunbookError(f"{path.name}: its front matter has no last_rehearsed")
    front = _REHEARSED.sub(f"last_rehearsed: {day.isoformat()}", found[0])
    path.write_text(front + whole[found.end() :], encoding="utf-8")
