"""What is cached for outages of the database: how much, for how long, for which caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from starlette.requests import Request
from starlette.responses import Response

from postfacta_app.errors import NotFoundError
from postfacta_app.principal import Principal, Role
from postfacta_app.web.render import MAX_STALE, stale_answers
from postfacta_core.errors import (
    DatabaseUnavailableError,
    DeadlineExceededError,
    OutcomeUnknownError,
    PoolTimeoutError,
    ReadOnlyDatabaseError,
    ResilienceError,
)
from postfacta_web.stale import allow_stale, is_away

ADA = Principal(actor="user:ada", name="Ada", role=Role.VIEWER)
AWAY = DatabaseUnavailableError("postgres", 1.0)
HTML = {"content-type": "text/html; charset=utf-8"}


# Answering


@dataclass
class World:
    """A route whose handler a test sets, and the clocks."""

    now: float = 1000.0
    answer: Response | Exception = field(default_factory=lambda: Response("new"))
    allows: bool = True

    def __post_init__(self) -> None:
        # 10:00:00 UTC, and the monotonic seconds on top.
        self.stale = stale_answers(
            "postgres", monotonic=lambda: self.now, wall=lambda: 1_772_359_200 + self.now
        )

    async def handle(self, request: Request, principal: Principal) -> Response:
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.allows:
            allow_stale(request)
        return self.answer

    async def get(
        self,
        path: str = "/x",
        *,
        query: str = "",
        who: Principal = ADA,
        handler: Callable[[Request, Principal], Awaitable[Response]] | None = None,
        if_none_match: str = "",
    ) -> Response:
        raw = [(b"if-none-match", if_none_match.encode())] if if_none_match else []
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query.encode(),
            "headers": raw,
        }

        def handled(request: Request) -> Awaitable[Response]:
            return (handler or self.handle)(request, who)

        return await self.stale.answer(Request(scope), who, handled)

    async def has_kept(self, query: str) -> bool:
        try:
            await self.get(query=query)
        except DatabaseUnavailableError:
            return False
        return True

    async def assert_nothing_is_kept(self) -> None:
        self.answer = AWAY
        with pytest.raises(DatabaseUnavailableError):
            await self.get()


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (DatabaseUnavailableError("postgres"), True),
        (PoolTimeoutError("postgres"), True),
        (DeadlineExceededError("postgres"), True),
        (DeadlineExceededError("request"), False),
        (DatabaseUnavailableError("another"), False),
        (ReadOnlyDatabaseError("postgres"), False),
        (OutcomeUnknownError("postgres"), False),
    ],
    ids=repr,
)
async def test_only_a_database_that_cannot_be_read_is_away(
    error: ResilienceError, *, away: bool
) -> None:
    assert is_away(error, "postgres") is away
    world = World()
    await world.get()
    world.answer = error
    if away:
        assert (await world.get()).body == b"new"
    else:
        with pytest.raises(type(error)):
            await world.get()


async def test_a_stale_response_has_its_age_and_no_store() -> None:
    world = World(
        answer=Response(
            "new", headers={"etag": '"1"', "cache-control": "max-age=60", "link": "<y>"}
        )
    )
    await world.get()
    world.answer, world.now = AWAY, world.now + 61.9
    old = await world.get()
    assert (old.status_code, old.body) == (200, b"new")
    assert dict(old.headers) == {
        "etag": '"1"',
        "link": "<y>",
        "age": "61",
        "cache-status": "postfacta; hit; ttl=-61; detail=database-unavailable",
        "cache-control": "no-store",
        "content-length": "3",
    }


async def test_after_a_quarter_of_an_hour_it_is_no_answer_any_more_and_use_does_not_renew_it() -> (
    None
):
    world = World()
    await world.get()
    world.answer, world.now = AWAY, world.now + MAX_STALE - 0.1
    assert (await world.get()).headers["age"] == "899"
    world.now += 0.1
    await world.assert_nothing_is_kept()


async def test_it_belongs_to_one_caller_and_one_address() -> None:
    world = World()
    await world.get(query="a=1")
    world.answer = AWAY
    assert (await world.get(query="a=1")).status_code == 200
    others = [
        replace(ADA, actor="user:bob"),
        replace(ADA, role=Role.ADMIN),
        replace(ADA, session_csrf="f" * 64),
    ]
    for who in others:
        with pytest.raises(DatabaseUnavailableError):
            await world.get(query="a=1", who=who)
    for path, query in (("/x", ""), ("/x", "a=2"), ("/y", "a=1")):
        with pytest.raises(DatabaseUnavailableError):
            await world.get(path, query=query)


async def test_the_bounds_are_those_of_the_design() -> None:
    world = World(answer=Response("."))
    for number in range(1001):
        await world.get(query=str(number))
    world.answer = AWAY
    assert [await world.has_kept(str(number)) for number in (0, 1, 1000)] == [False, True, True]
    for name in ("a", "b", "c"):
        world.answer = Response(b"." * (11 * 1024 * 1024))
        await world.get(query=name)
    world.answer = AWAY
    assert [await world.has_kept(name) for name in ("a", "b", "c")] == [False, True, True]


async def test_what_its_handler_did_not_allow_is_not_kept_and_drops_what_was_kept_before() -> None:
    world = World()
    await world.get()
    world.allows = False
    await world.get()
    await world.assert_nothing_is_kept()


@pytest.mark.parametrize(
    "later", [NotFoundError("gone"), Response(status_code=303)], ids=["404", "303"]
)
async def test_any_other_answer_in_between_ends_the_old_one(later: Response | Exception) -> None:
    world = World()
    await world.get()
    world.answer = later
    if isinstance(later, Exception):
        with pytest.raises(NotFoundError):
            await world.get()
    else:
        await world.get()
    await world.assert_nothing_is_kept()


async def test_a_crash_in_between_does_not_end_it() -> None:
    world = World()
    await world.get()
    world.answer = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await world.get()
    world.answer = AWAY
    assert (await world.get()).body == b"new"


async def test_the_last_answer_counts() -> None:
    world = World()
    await world.get()
    world.answer, world.now = Response("newer"), world.now + 10
    await world.get()
    world.answer, world.now = AWAY, world.now + 5
    old = await world.get()
    assert (old.body, old.headers["age"]) == (b"newer", "5")


async def test_what_is_forgotten_is_gone_also_if_it_was_being_read() -> None:
    world = World()
    await world.get()
    world.stale.forget()
    await world.assert_nothing_is_kept()

    async def hidden_meanwhile(request: Request, principal: Principal) -> Response:
        allow_stale(request)
        world.stale.forget()
        return Response("read before")

    await world.get(handler=hidden_meanwhile)
    await world.assert_nothing_is_kept()


# Conditional requests


def tagged(etag: str = '"1"') -> Response:
    return Response("new", headers={"etag": etag})


@pytest.mark.parametrize(
    ("asked", "status"),
    [('"1"', 304), ('W/"1"', 304), ('"0", "1"', 304), ("*", 304), ('"2"', 200), ("", 200)],
)
async def test_only_the_cached_version_gets_304(asked: str, status: int) -> None:
    world = World(answer=tagged())
    await world.get()
    world.answer, world.now = AWAY, world.now + 7
    old = await world.get(if_none_match=asked)
    assert (old.status_code, old.body) == (status, b"new" if status == 200 else b"")
    assert (old.headers["etag"], old.headers["age"]) == ('"1"', "7")
    assert "ttl=-7" in old.headers["cache-status"]


async def test_a_condition_that_cannot_be_read_leaves_the_kept_answer() -> None:
    world = World(answer=tagged())
    await world.get()
    world.answer = AWAY
    old = await world.get(if_none_match="x")
    assert (old.status_code, old.body) == (200, b"new")


async def test_a_304_renews_the_cached_response() -> None:
    world = World(answer=tagged())
    await world.get()
    world.answer, world.now = Response(status_code=304, headers={"etag": '"1"'}), world.now + 600
    await world.get(if_none_match='"1"')
    world.answer, world.now = AWAY, world.now + 600
    old = await world.get()
    assert (old.status_code, old.body, old.headers["age"]) == (200, b"new", "600")


@pytest.mark.parametrize("allows", [True, False])
async def test_a_304_of_another_or_private_version_drops_the_cached_one(*, allows: bool) -> None:
    world = World(answer=tagged())
    await world.get()
    etag = '"2"' if allows else '"1"'
    world.answer, world.allows = Response(status_code=304, headers={"etag": etag}), allows
    await world.get(if_none_match=etag)
    await world.assert_nothing_is_kept()


# Pages


async def test_a_page_says_when_it_was_true_once_and_no_json_does() -> None:
    main = '<main id="main"><div class="wrap">'
    page = f"<body>{main}<p>typed: &lt;main id=&#34;main&#34;&gt;</p></div></main>"
    world = World(answer=Response(page, headers=HTML))
    await world.get()
    world.answer, world.now = AWAY, world.now + 61
    old = await world.get()
    line = (
        '<p class="stale" role="status">As of <time datetime="2026-03-01T10:16Z">10:16 UTC</time>.'
        " The database is unavailable; nothing can be saved.</p>"
    )
    assert bytes(old.body).decode() == page.replace(main, main + line)
    assert old.headers["content-length"] == str(len(old.body))
    json = World(answer=Response(page, headers={"content-type": "application/json"}))
    await json.get()
    json.answer = AWAY
    assert (await json.get()).body == page.encode()
