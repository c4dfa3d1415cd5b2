"""Load the names of a package when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy(
    package: str,
    names: Mapping[str, tuple[str, ...]],
    elsewhere: Mapping[str, str] | None = None,
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package that imports nothing by itself.

    `__all__` is computed.

    `names` is what each of its modules exports. Type checkers read the same from imports under
    `TYPE_CHECKING`. `elsewhere` is where names stand that are often looked for here.
    """
    homes: dict[str, str] = {}
    for module, exported in names.items():
        homes.update(dict.fromkeys(exported, module))

    def load(name: str) -> object:
        if name == "__all__":
            return sorted(public for public in homes if not public.startswith("_"))
        if name not in homes and elsewhere is not None and name in elsewhere:
            # Of this error an import statement shows the text; of an AttributeError it does not.
            raise ImportError(f"{package} has no {name}: from {elsewhere[name]} import {name}")
        if name not in homes:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules[package]
            )
        value: object = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def everything() -> list[str]:
        return [*{**vars(sys.modules[package]), **homes}]

    return load, everything
