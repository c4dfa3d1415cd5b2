"""All guards of the process, by kind and name."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import ClassVar, Final
from weakref import WeakValueDictionary

from ..validation import validation

_HERE: Final = __name__.rpartition(".")[0]


class Listed:
    """What the registry lists.

    Attributes:
        name: Its name, unique for its kind.
        made_at: The file and line that made it.
    """

    kind: ClassVar[str] = "guard"
    """What it is called in the list."""
    example: ClassVar[str] = '"billing"'
    """How one is made, for refusals."""

    def __init__(self, name: str) -> None:
        self.name: str = validation.name(f"{type(self).__name__}.name", name, example=self.example)
        self.made_at: str = _caller()

    def __repr__(self) -> str:
        texts = (
            f", {key}={f'{value:g}' if isinstance(value, float) else repr(value)}"
            for key, value in self.settings().items()
        )
        return f"{type(self).__name__}({self.name!r}{''.join(texts)})"

    def settings(self) -> Mapping[str, object]:
        """Return how it is set up, for lists."""
        return {}

    def status(self) -> Mapping[str, object]:
        """Return its present state, for lists. Any thread may ask."""
        return {}


class Registry:
    """The guards that are alive; it keeps none alive.

    A name is unique for its kind. Made again by the same line of code, as by an application factory in a test, it
    passes on to the new guard, and both are counted together. Made by another line it is refused.
    """

    def __init__(self) -> None:
        # Reentrant: the collector may run a guard's end at any allocation.
        self._lock = threading.RLock()
        self._guards: WeakValueDictionary[tuple[str, str], Listed] = WeakValueDictionary()

    def add(self, guard: Listed) -> None:
        """List a guard.

        Raises:
            ValueError: If another one of its kind has its name, made by another line.
        """
        with self._lock:
            key = guard.kind, guard.name
            other = self._guards.get(key)
            if other is not None and other.made_at != guard.made_at:
                # One that is part of a circle, and used by none, may still be there.
                del other
                gc.collect()
                other = self._guards.get(key)
            if other is not None and other.made_at != guard.made_at:
                raise ValueError(
                    f"{type(guard).__name__}.name must be a name of its own: {guard.name!r} at {guard.made_at} was "
                    f"given at {other.made_at} already. Share that one, or choose another name"
                )
            self._guards[key] = guard

    def __iter__(self) -> Iterator[Listed]:
        with self._lock:
            guards = list(self._guards.values())
        return iter(sorted(guards, key=lambda guard: (guard.kind, guard.name)))

    def find(self, kind: str, name: str) -> Listed:
        """Return a guard, such as `find("breaker", "billing")`.

        Raises:
            KeyError: If there is none; it lists those there are.
        """
        found = self._guards.get((kind, name))
        if found is None:
            raise KeyError(f"no {kind} {name!r}; there are {[f'{each.kind} {each.name}' for each in self]}")
        return found

    def clear(self) -> None:
        """Forget all guards: for use between tests."""
        with self._lock:
            self._guards.clear()


registry: Final = Registry()
"""The guards of this process."""


def _caller() -> str:
    """Return the file and line outside of this package that is being run."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - inspect.stack() reads files
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_HERE):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
