"""What a function of a route works with, and how its parameters are filled from a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from postfacta_core.clock import WALL, Clock

from ..db import Query, Reader, Transactions, Unit, Work
from ..errors import PreconditionFailedError
from ..principal import Principal
from .body import if_match
from .forms import Typed
from .render import Pages
from .stale import StaleAnswers

T = TypeVar("T")
NOTHING: Final = Typed()


@dataclass(frozen=True, slots=True)
class Tools:
    """What the routes of every slice work with; `parts` are what some need besides, by their type."""

    transactions: Transactions
    pages: Pages
    stale: StaleAnswers
    clock: Clock = WALL
    parts: Sequence[object] = ()

    def part(self, of: type[T]) -> T:
        return next(it for it in self.parts if isinstance(it, of))


@dataclass(slots=True)
class Call:
    """A request, from which the parameters of its function are filled."""

    request: Request
    principal: Principal
    tools: Tools
    noun: str  # what the routes of the slice are about
    fields: dict[str, str] = field(default_factory=dict[str, str])  # the input of a form
    typed: Typed = NOTHING  # the same, if it was not saved
    # Called once the request is over, saved or not.
    afterwards: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.tools.clock(), UTC)

    async def write(self, work: Work, key: str | None = None) -> Response:
        """Run a transaction of the caller, then what must happen once it is over."""
        try:
            return await self.tools.transactions.write(self.request, self.principal, work, key=key)
        finally:
            for act in self.afterwards:
                act()


@dataclass(frozen=True, slots=True)
class Fill:
    """Says how parameters of an annotated type are filled: from the call, and their name."""

    of: Callable[[Call, str], Any]


def part(of: type[T]) -> Fill:
    def found(call: Call, _: str) -> T:
        return call.tools.part(of)

    return Fill(found)


def _matches(call: Call, _: str) -> Callable[[str], None]:
    if "version" not in call.fields:
        return partial(if_match, call.request)

    def of_form(etag: str) -> None:
        if etag.rpartition("-")[2] != f'{call.fields["version"]}"':
            detail = f"This {call.noun} was changed by someone else in the meantime. Check its current state, then repeat your change."
            raise PreconditionFailedError(detail)

    return of_form


Afterwards = Annotated[Callable[[Callable[[], object]], None], Fill(lambda call, _: call.afterwards.append)]
"""Registers what must happen once the request is over, even if its outcome is unknown."""
Fields = Annotated[Mapping[str, str], Fill(lambda call, _: call.fields)]
"""The input of a form."""
Matches = Annotated[Callable[[str], None], Fill(_matches)]
"""Raises if the caller did not start from the version with this ETag."""
Now = Annotated[datetime, Fill(lambda call, _: call.now)]
"""The time of the request."""
Snapshot = Annotated[Unit, "snapshot"]
"""A transaction that only reads: all its queries see the same state."""
WORKS_IN: Final[Mapping[Any, Any]] = {Unit: Unit, Snapshot: Snapshot, Reader: Reader, Query: Reader}
