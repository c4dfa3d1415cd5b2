"""Budgets of code: the most tokens of a package, without comments, docstrings and empty lines.

A line can be packed and a comment left out to meet a budget of lines; tokens measure how much there
is to understand. `python -m tests.kit.budgets` prints the figures, and fails above a budget and its
slack. `make check` runs it.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SRC: Final = Path(__file__).parents[2] / "src"

# A capability that is added brings its tokens with it: docs/decisions/0022-budgets-of-tokens.md has
# what for.
BUDGETS: Final[Mapping[str, int]] = {
    "postfacta_core": 99_940,
    "postfacta_postgres": 11_220,
    "postfacta_web": 9_270,
    "postfacta_adapters": 22_514,
    "postfacta_slo": 33_306,
    "postfacta_lab": 60_800,
    "postfacta_app": 87_310,
}
SLACK: Final = 0.05

_LAYOUT: Final = frozenset(
    {
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
        *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
    }
)
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstring_lines(text: str) -> set[int]:
    """Return the numbers of the lines that a module's docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return lines


def code_tokens(text: str) -> int:
    """Count the tokens of a module that are code."""
    prose = docstring_lines(text)
    count = depth = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        # From Python 3.12 on the parts of an f-string are tokens of their own: it counts as one, as
        # before.
        depth -= kind == "FSTRING_END"
        count += (
            not depth
            and token.type not in _LAYOUT
            and token.start[0] not in prose
            and kind != "FSTRING_END"
        )
        depth += kind == "FSTRING_START"
    return count


def tokens_of(package: Path) -> int:
    """Count the code tokens of all modules of a package."""
    return sum(code_tokens(module.read_text(encoding="utf-8")) for module in package.rglob("*.py"))


def main() -> int:
    """Print what each package has and may have; return 1 if one has more."""
    is_over = False
    for name, budget in BUDGETS.items():
        count = tokens_of(SRC / name)
        most = int(budget * (1 + SLACK))
        is_over = is_over or count > most
        verdict = " TOO MANY" if count > most else ""
        sys.stdout.write(f"{name}: {count} code tokens, at most {most}{verdict}\n")
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
