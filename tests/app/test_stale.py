"""What is cached for outages of the database: how much, for how long, for which caller."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from starlette.requests import Request
from starlette.responses import Response

from postfacta_app.errors import NotFoundError
from postfacta_app.principal import Principal, Role
from postfacta_app.web.render import MAX_STALE, stale_answers
from postfacta_core.errors import DatabaseUnavailableError
from postfacta_web.stale import allow_stale

ADA = Principal(actor="user:ada", name="Ada", role=Role.VIEWER)
AWAY = DatabaseUnavailableError("postgres", 1.0)
HTML = {"content-type": "text/html; charset=utf-8"}


@dataclass
class World:
    """A route whose handler a test sets, and the clocks."""

    now: float = 1000.0
    answer: Response | Exception = field(default_factory=lambda: Response("new"))

    def __post_init__(self) -> None:
        # 10:00:00 UTC, and the monotonic seconds on top.
        self.stale = stale_answers(
            "postgres", monotonic=lambda: self.now, wall=lambda: 1_772_359_200 + self.now
        )

    async def handle(self, request: Request) -> Response:
        if isinstance(self.answer, Exception):
            raise self.answer
        allow_stale(request)
        return self.answer

    async def get(self, *, query: str = "", who: Principal = ADA) -> Response:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/x",
            "query_string": query.encode(),
            "headers": list[tuple[bytes, bytes]](),
        }
        return await self.stale.answer(Request(scope), who, self.handle)

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


async def test_it_belongs_to_a_caller_with_role_and_session() -> None:
    world = World()
    await world.get()
    world.answer = AWAY
    others = [
        replace(ADA, actor="user:bob"),
        replace(ADA, role=Role.ADMIN),
        replace(ADA, session_csrf="f" * 64),
    ]
    for who in others:
        with pytest.raises(DatabaseUnavailableError):
            await world.get(who=who)
    assert (await world.get()).status_code == 200


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


async def test_a_refusal_of_the_app_in_between_ends_the_old_answer() -> None:
    world = World()
    await world.get()
    world.answer = NotFoundError("gone")
    with pytest.raises(NotFoundError):
        await world.get()
    await world.assert_nothing_is_kept()


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
