"""Which names of the code are pronouns: `one`, `it`, `known`, where the field has a noun."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Final

__all__ = ["MOST", "pronouns"]

_PRONOUNS: Final = frozenset(
    {
        *("it", "its", "one", "ones", "each", "other", "others", "they", "them", "these", "those"),
        *("who", "what", "whom", "thing", "things"),
        *("asked", "found", "given", "heard", "kept", "known", "said", "seen", "told", "wanted"),
    }
)

# Values of the field that are called so: a label, an event's kind, a mark's basis.
_VALUES: Final = frozenset({"GIVEN", "OTHER"})

# How many a package has. These may only become fewer.
MOST: Final[Mapping[str, int]] = {
    "postfacta_adapters": 0,
    "postfacta_app": 0,
    "postfacta_core": 0,
    "postfacta_embedded": 0,
    "postfacta_postgres": 0,
    "postfacta_web": 0,
}


def pronouns(text: str) -> list[tuple[int, str]]:
    """Return the lines of a module that give a name which is a pronoun, with the name."""
    return sorted(
        (line, name)
        for node in ast.walk(ast.parse(text))
        for line, name in _names(node)
        if name not in _VALUES and name.strip("_").lower() in _PRONOUNS
    )


def _names(node: ast.AST) -> Iterator[tuple[int, str]]:
    match node:
        case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield node.lineno, name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            yield node.lineno, name
        case _:
            return
