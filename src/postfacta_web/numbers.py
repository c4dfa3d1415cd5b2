"""Read the numbers of guards and routes again while a service runs, all of them or none.

From one TOML file, in intervals. They are checked as where they are made; a file with anything
wrong changes nothing, and is refused once with what is wrong, where, and what is right.
"""

from __future__ import annotations

import logging
import threading
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec, TypeVar, cast

from postfacta_core.asgi.stack import Hardened
from postfacta_core.events import PolicyCreated, Sample, process_observer
from postfacta_core.guards import registry
from postfacta_core.validation import validation

from ._rereading import reread_in_intervals

__all__ = ["Numbers"]

H = TypeVar("H", bound=Hardened)
K = TypeVar("K")
P = ParamSpec("P")
_Table = Mapping[str, object]

_LOG: Final = logging.getLogger("postfacta")
_EXAMPLE: Final = "[guards.retry.billing] and attempts = 2"
_MOST_BYTES: Final = 1_000_000  # Of the file: a larger one is another file.


class _Content(NamedTuple):
    """What a file says: the numbers of guards, by kind and name, and of routes."""

    guards: Mapping[tuple[str, str], _Table]
    routes: Mapping[str, _Table]


class Numbers:
    """The numbers of guards and routes, from a file that may change while the service runs.

        numbers = Numbers("/etc/billing/numbers.toml")
        app = harden(web, service="billing", resources=[numbers.running()])
        numbers.attach(app)

    The file is such as

        [guards.retry.billing]
        attempts = 2

        [routes."GET /export"]
        request_timeout = 120

    A guard is found by its kind and name, as the operator's endpoint lists it. What the file does
    not name is as the code has it, also after it was named. Write a new one beside it and move it
    into its place, so that no reading finds half of it. A file that is missing, larger than 1 MB,
    no TOML, or has anything unknown or wrong changes nothing.

    Each change is logged as `numbers.changed`, and a file that is refused once as
    `numbers.refused`, until it is another one; `postfacta_numbers_total` counts both.

    Args:
        file: Read in intervals. It need not exist yet.
        every: Seconds between two readings; also an attribute.

    Attributes:
        is_valid: Whether the last reading was used; True before the first.

    Raises:
        ValueError: If a setting is wrong.
    """

    def __init__(self, file: str | Path, *, every: float = 2.0) -> None:
        if not (isinstance(cast("object", file), str | Path) and str(file)):
            validation.refuse(
                "Numbers.file", file, "a path", example='Numbers("/etc/billing/numbers.toml")'
            )
        self.every: float = validation.seconds("Numbers.every", every, example="every=2.0")
        self.is_valid: bool = True
        self._file = Path(file)
        self._app: Hardened | None = None
        self._turn = threading.Lock()
        self._used = _Content({}, {})
        self._complaint = ""
        self._counts = {"changed": 0, "refused": 0}
        process_observer(PolicyCreated("numbers", self.collect))

    def attach(self, app: H) -> H:
        """Give it the service whose routes the file may name; return it."""
        self._app = validation.instance("Numbers.attach", app, Hardened, example="harden(...)")
        return app

    def collect(self) -> Iterable[Sample]:
        """Return its counts, for metrics."""
        return [
            Sample("postfacta_numbers_total", (outcome,), count)
            for outcome, count in self._counts.items()
        ]

    def reread(self) -> None:
        """Read now, and use what changed. Call it in a thread."""
        with self._turn:
            try:
                content = self._read()
                uses = self._checked(content)
            except ValueError as error:
                self.is_valid = False
                if self._complaint != str(error):
                    self._complaint = str(error)
                    self._counts["refused"] += 1
                    _LOG.error("numbers.refused", extra={"reason": self._complaint})
                return
            self.is_valid = True
            self._complaint = ""
            for use in uses:
                use()
            former = self._used
            self._used = content
            for (kind, name), numbers in _changes(former.guards, content.guards):
                self._note(f"{kind} {name}", numbers)
            for route, numbers in _changes(former.routes, content.routes):
                self._note(route, numbers)

    def _note(self, owner: str, numbers: _Table) -> None:
        self._counts["changed"] += 1
        text = ", ".join(f"{name}={number!r}" for name, number in numbers.items())
        change = f"{owner}: {text or 'as the code has it'}"
        _LOG.warning("numbers.changed", extra={"change": change})

    def running(self) -> AbstractAsyncContextManager[None]:
        """Read once, and then in intervals until the block ends.

        A resource for `harden(resources=[...])`.
        """
        return reread_in_intervals(self, name="numbers")

    def _read(self) -> _Content:
        try:
            with self._file.open("rb") as opened:
                content = opened.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ValueError(f"{self._file}: {error.strerror}") from None
        if len(content) > _MOST_BYTES:
            raise ValueError(f"{self._file}: more than {_MOST_BYTES:,} bytes")
        try:
            top = tomllib.loads(content.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self._file}: no TOML: {error}; for example {_EXAMPLE}") from None
        if unknown := ", ".join(sorted(top.keys() - {"guards", "routes"})):
            raise ValueError(f"{self._file}: {unknown[:200]}: unknown; known are guards, routes")
        guards: dict[tuple[str, str], _Table] = {}
        for kind, named in self._tables(top.get("guards", {}), "guards"):
            for name, numbers in self._tables(named, "guards", kind):
                guards[kind, name] = numbers
        return _Content(guards, dict(self._tables(top.get("routes", {}), "routes")))

    def _tables(self, value: object, *place: str) -> Iterable[tuple[str, _Table]]:
        where = f"{self._file}: {'.'.join(place)}"
        if not isinstance(value, dict):
            validation.refuse(where, value, "a table", example=_EXAMPLE)
        for name, inner in cast("_Table", value).items():
            if not isinstance(inner, dict):
                validation.refuse(f"{where}.{name}", inner, "a table", example=_EXAMPLE)
            yield name, cast("_Table", inner)

    def _checked(self, content: _Content) -> list[Callable[[], None]]:
        """Check all that is other than what is used; return what makes it used."""
        uses: list[Callable[[], None]] = []
        existing = {(guard.kind, guard.name): guard for guard in registry}
        for key, numbers in _changes(self._used.guards, content.guards):
            where = f"{self._file}: guards.{'.'.join(key)}"
            if key in existing:
                uses.append(_located(where, existing[key].tuned, **numbers))
            elif key in content.guards:
                names = ", ".join(" ".join(pair) for pair in existing)
                raise ValueError(f"{where}: there is no such guard; there are: {names or 'none'}")
        if content.routes != self._used.routes:
            where = f"{self._file}: routes"
            if self._app is None:
                raise ValueError(f"{where}: of no service: call attach with what harden returned")
            uses.append(_located(where, self._app.tuned, content.routes))
        return uses


def _changes(former: Mapping[K, _Table], now: Mapping[K, _Table]) -> Iterable[tuple[K, _Table]]:
    """Yield what is other than it was; what is named no more has no numbers."""
    for key in {**former, **now}:
        if now.get(key) != former.get(key):
            yield key, now.get(key, {})


def _located(
    where: str, check: Callable[P, Callable[[], None]], /, *args: P.args, **kwargs: P.kwargs
) -> Callable[[], None]:
    try:
        return check(*args, **kwargs)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
