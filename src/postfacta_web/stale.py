"""Give a caller's own last answer again while a dependency is away, marked as stale.

It needs the extra `starlette`, which FastAPI brings too. It stands around handlers, not around the
application: there it sees their errors before any exception handler makes answers of them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from datetime import UTC, datetime
from functools import wraps
from itertools import chain
from typing import Any, Final, NamedTuple, cast

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.errors import (
    DeadlineExceededError,
    ReadOnlyDatabaseError,
    RejectedError,
    ResilienceError,
)
from postfacta_core.events import PolicyCreated, Sample, process_observer
from postfacta_core.functions import must_be_guardable
from postfacta_core.guards.fallback import LastValues
from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "starlette", _error) from _error

from .conditional import ConditionError, is_not_modified

__all__ = ["StaleAnswers", "allow_stale", "is_away"]

Handler = Callable[[Request], Awaitable[Response]]
_Headers = Iterable[tuple[bytes, bytes]]  # as ASGI has them: their names are lowered
_Key = tuple[Hashable, bytes, str, bytes]  # the caller, host, path and query

_ALLOWED: Final = "postfacta.stale"
_METRIC: Final = "postfacta_fallback_answers_total"
_SAFE: Final = {"GET", "HEAD"}
_OK = 200
_NOT_MODIFIED = 304
_TOKEN: Final = re.compile(r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]{0,63}")  # RFC 9651
# What a replayed answer says of itself, or must not repeat.
_OWN: Final = {b"age", b"cache-control", b"cache-status", b"content-length", b"set-cookie"}


class _Answer(NamedTuple):
    body: bytes
    headers: list[tuple[bytes, bytes]]
    etag: bytes | None
    is_html: bool
    varies: list[
        tuple[bytes, list[bytes]]
    ]  # the request headers that it depends on, and their values

    @classmethod
    def of(cls, request: Request, response: Response) -> _Answer | None:
        body: bytes | memoryview | None = getattr(response, "body", None)  # A stream has none.
        headers = [pair for pair in response.raw_headers if pair[0].lower() not in _OWN]
        fields = dict(headers)
        names = list[bytes]()
        if b"vary" in fields:
            names = [
                name.strip() for name in b",".join(_values(headers, b"vary")).lower().split(b",")
            ]
        if body is None or b"*" in names:
            return None
        varies = (
            [(name, _values(request.scope["headers"], name)) for name in names] if names else []
        )
        is_html = fields.get(b"content-type", b"").startswith(b"text/html")
        return cls(bytes(body), headers, fields.get(b"etag"), is_html, varies)


def is_away(error: ResilienceError, dependency: str) -> bool:
    """Return whether a guard or database of this name could not be asked.

    One that is only read-only can.
    """
    is_refused = (
        isinstance(error, RejectedError | DeadlineExceededError) and error.policy == dependency
    )
    return is_refused and not isinstance(error, ReadOnlyDatabaseError)


def allow_stale(request: Request) -> None:
    """Declare that the answer to this request may be kept.

    It holds nothing that its caller may soon not see.

    Call it in a handler once that is known, or make it a dependency of a FastAPI route:
    `Depends(allow_stale)`.
    """
    request.scope[_ALLOWED] = True


class StaleAnswers:
    """Keeps each caller's last answer to each URL, and gives it again while a dependency is away.

    Kept is a 200 to a GET whose handler called `allow_stale`; a 304 with its ETag renews it, any
    other answer drops it. Streams are not kept. A replay has `Age`, `Cache-Status` (RFC 9211) and
    `Cache-Control: no-store`, and no cookies. Each process has its own. Metrics count it like a
    `Fallback` with the dependency's name.

    Args:
        dependency: The guard or database whose absence counts: the `policy` of its errors, such as
            `Database.name`.
        cache: What `Cache-Status` calls this cache.
        detail: What `Cache-Status` gives as the reason.
        refusals: Types of errors that are answers, such as 404: what was kept is dropped, since it
            is gone or hidden. Other errors leave it.
        mark: Makes the body of an HTML page say how old it is, from the body and the time at which
            it was asked for.
        max_age: Seconds, counted from when its request began, from which an answer is not given any
            more.
        max_entries: The most answers kept; what was not used for longest goes first.
        max_bytes: The most bytes of them: of their bodies, headers and URLs.
        monotonic: Monotonic seconds.
        wall: Seconds since 1970, for `mark`.

    Raises:
        ValueError: If a setting is wrong.
    """

    def __init__(
        self,
        dependency: str,
        *,
        cache: str = "postfacta",
        detail: str = "dependency-unavailable",
        refusals: type[Exception] | tuple[type[Exception], ...] = HTTPException,
        mark: Callable[[bytes, datetime], bytes] | None = None,
        max_age: float = 900.0,
        max_entries: int = 1000,
        max_bytes: int = 33_554_432,
        monotonic: Clock = MONOTONIC,
        wall: Clock = WALL,
    ) -> None:
        self._dependency = validation.name(
            "StaleAnswers.dependency", dependency, example='"postgres"'
        )
        self._cache = _token("cache", cache)
        self._detail = _token("detail", detail)
        self._refusals = validation.error_types(
            "StaleAnswers.refusals", refusals, example="HTTPException"
        )
        validation.seconds("StaleAnswers.max_age", max_age, example="max_age=900.0")
        validation.whole("StaleAnswers.max_entries", max_entries, example="max_entries=1000")
        validation.whole("StaleAnswers.max_bytes", max_bytes, example="max_bytes=33_554_432")
        self._mark = _unmarked if mark is None else mark
        self._monotonic = monotonic
        self._wall = wall
        validation.functions("StaleAnswers", mark=self._mark, monotonic=monotonic, wall=wall)
        self._answers = LastValues[_Answer](max_age, max_entries, max_bytes)
        self._counts = dict.fromkeys(("fresh", "stale", "none"), 0)
        process_observer(PolicyCreated(dependency, self.collect))

    def collect(self) -> Iterable[Sample]:
        """Return its counts, for metrics. Any thread may ask."""
        return [
            Sample(_METRIC, (self._dependency, outcome), count)
            for outcome, count in self._counts.items()
        ]

    def forget(self) -> None:
        """Drop all answers, and keep none of the requests under way.

        For when a caller may have lost access.

        Call it on the event loop's thread. Other processes need a call of their own.
        """
        self._answers.clear()

    def around(
        self,
        handler: Callable[..., Awaitable[Response]],
        caller: Callable[[Request], Hashable | None],
    ) -> Callable[..., Coroutine[Any, Any, Response]]:
        """Return a handler that answers as `answer` does.

        A Starlette endpoint, or a route handler of FastAPI's.

        Args:
            handler: An async function with the request among its parameters, whatever its name.
            caller: Returns who sent a request, without the dependency; see `answer`.

        Raises:
            TypeError: If the handler is a plain function.
            ValueError: If the caller is no function.
        """
        must_be_guardable("StaleAnswers", handler, if_async=True)
        validation.function("StaleAnswers.caller", caller, example="lambda request: request.user")

        @wraps(handler)
        async def answered(*values: Any, **named: Any) -> Response:
            # FastAPI calls a handler by the names of its parameters, whichever these are.
            requests: list[Any] = [
                value for value in (*values, *named.values()) if isinstance(value, Request)
            ]
            if not requests:
                raise TypeError(
                    "StaleAnswers: the handler needs a parameter of type Request, and got none"
                )
            request: Request = requests[0]
            return await self.answer(request, caller(request), lambda _: handler(*values, **named))

        return answered

    async def answer(self, request: Request, caller: Hashable | None, handler: Handler) -> Response:
        """Call a handler; if the dependency is away, give the caller's last answer again.

        Args:
            request: Anything but a GET or HEAD goes straight to the handler.
            caller: Who sent it, with all on which rights depend, such as role and session; equal
                ones share answers. Derive it from a secret or from what was verified, never from
                what anyone may claim. None if that is not known: then nothing is kept or given
                again.
            handler: Returns the answer, or raises. What it raises is raised, unless there is an
                answer to give again.
        """
        scope = request.scope
        if caller is None or scope["method"] not in _SAFE:
            return await handler(request)
        host = dict(cast("_Headers", scope["headers"])).get(b"host", b"")
        key = caller, host, scope["path"], scope["query_string"]
        # An answer read before a revocation must not be kept after it.
        ticket = key, self._monotonic(), self._answers.generation
        try:
            response = await handler(request)
        except self._refusals:
            self._answers.drop(key)
            raise
        except ResilienceError as error:
            if not is_away(error, self._dependency):
                raise
            last = self._find(key, request, self._monotonic())
            self._counts["none" if last is None else "stale"] += 1
            if last is None:
                raise
            return self._again(request, *last)
        self._counts["fresh"] += 1
        self._keep(request, response, ticket)
        return response

    def _find(self, key: _Key, request: Request, now: float) -> tuple[_Answer, float] | None:
        entry = self._answers.find(key, now)
        headers = request.scope["headers"]
        is_same = entry and all(
            _values(headers, name) == values for name, values in entry[0].varies
        )
        return entry if is_same else None

    def _keep(self, request: Request, response: Response, ticket: tuple[_Key, float, int]) -> None:
        key, began, generation = ticket
        status = response.status_code
        is_allowed = _ALLOWED in request.scope
        if is_allowed and status == _OK and request.scope["method"] == "HEAD":
            return  # It has no body to keep, and says nothing against what is kept.
        new = _Answer.of(request, response) if is_allowed and status == _OK else None
        if is_allowed and status == _NOT_MODIFIED and (last := self._find(key, request, began)):
            new = last[0] if last[0].etag == dict(response.raw_headers).get(b"etag") else None
        if new is None:
            self._answers.drop(key)
        else:
            size = len(new.body) + sum(map(len, (*key[1:], *chain(*new.headers))))
            self._answers.keep(key, new, began, generation, size)

    def _again(self, request: Request, answer: _Answer, seconds: float) -> Response:
        age = int(seconds)
        body = answer.body
        if answer.etag is not None and _has(request, answer.etag.decode("latin-1")):
            response = Response(status_code=_NOT_MODIFIED)
        else:
            if answer.is_html:
                body = self._mark(body, datetime.fromtimestamp(self._wall() - age, UTC))
            response = Response(body)
        response.raw_headers[:0] = answer.headers
        # RFC 9211, 2.2: never fresh, so stale since it was stored.
        status = f"{self._cache}; hit; ttl={-age}; detail={self._detail}"
        response.headers.update(
            {"age": str(age), "cache-status": status, "cache-control": "no-store"}
        )
        return response


def _token(field: str, value: object) -> str:
    if isinstance(value, str) and _TOKEN.fullmatch(value):
        return value
    rule = "a token of 1 to 64 characters that begins with a letter"
    return validation.refuse(f"StaleAnswers.{field}", value, rule, example=f'{field}="billing"')


def _unmarked(page: bytes, _: datetime) -> bytes:
    return page


def _values(headers: _Headers, name: bytes) -> list[bytes]:
    return [value for field, value in headers if field == name]


def _has(request: Request, etag: str) -> bool:
    try:
        return is_not_modified(request, etag)
    except ConditionError:
        return (
            False  # A header that cannot be read must not cost the caller the only answer there is.
        )
