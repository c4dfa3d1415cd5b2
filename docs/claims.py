"""Read `claims.yaml`: what PostFacta claims, and what proves each claim."""

# ruff: noqa: INP001 - beside `generate.py`

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from os.path import normpath
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

__all__ = ["Claim", "as_table", "list_tests", "read_claims"]

_FILE: Final = Path(__file__).parent / "claims.yaml"
_HEADS: Final = {
    "specification": ("requirement", "where", "test"),
    "traceability": ("item", "built in", "proof"),
    "protection": ("against", "protection", "command", "takes", "needs"),
}


class Claim(BaseModel):
    """A row of a page. The head of `claims.yaml` says what each field is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claim: str
    where: str
    tests: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    command: str = ""
    takes: str = ""
    needs: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_one_kind_of_proof(self) -> Claim:
        if sum(map(bool, (self.tests, self.rows, self.command))) != 1:
            raise ValueError("a claim has tests, rows or a command")
        if self.faults and not self.rows:
            raise ValueError("faults stand beside rows")
        if bool(self.command) != bool(self.takes) or (self.needs and not self.command):
            raise ValueError("a command has what it takes, and nothing else has")
        return self

    @property
    def cells(self) -> Sequence[str]:
        """Return the cells of its row."""
        if self.command:
            needs = ", ".join(self.needs) or "nothing"
            return (self.claim, self.where, f"`{self.command}`", self.takes, needs)
        if self.tests:
            proof = ", ".join(f"`{test}`" for test in self.tests)
        else:
            review = f'`make prr ONLY="{" ".join(self.rows)}"`'
            proof = "; ".join([review, *filter(None, [", ".join(self.faults)])])
        return (self.claim, self.where, proof)


Claims = Mapping[str, Mapping[str, tuple[Claim, ...]]]


@cache
def read_claims() -> Claims:
    """Return the claims by page and section.

    Raises:
        pydantic.ValidationError: A claim lacks a part, or has one that there is not.
    """
    return TypeAdapter(Claims).validate_python(yaml.safe_load(_FILE.read_text()))


def list_tests() -> Sequence[str]:
    """Return the test functions that prove claims, by their path from the root."""
    names = {
        normpath(f"tests/app/{test}")
        for sections in read_claims().values()
        for claims in sections.values()
        for claim in claims
        for test in claim.tests
    }
    return sorted(names)


def as_table(page: str, section: str) -> str:
    """Return the table of a section of a page.

    Raises:
        KeyError: There is no such section.
    """
    heads = _HEADS[page]
    lines = [heads, ["---"] * len(heads), *(row.cells for row in read_claims()[page][section])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
