"""The Python in the documentation runs as it stands there, and does what is said of it."""

from __future__ import annotations

import json
import logging
import re
import runpy
from collections.abc import AsyncGenerator, Generator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from postfacta_core.asgi.stack import Hardened
from postfacta_core.errors import DatabaseUnavailableError
from postfacta_core.testing import call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from postfacta_postgres import Database
from tests.kit.lifespan import running
from tests.kit.pg import execute

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    "README.md",
    "docs/how-to/a-live-page.md",
    "docs/how-to/add-a-part.md",
    "docs/how-to/adopt-the-core.md",
    "docs/how-to/answer-while-the-database-is-away.md",
    "docs/how-to/call-a-model.md",
    "docs/how-to/call-other-services.md",
    "docs/how-to/change-numbers.md",
    "docs/how-to/choose-a-server.md",
    "docs/how-to/circuit-breaker.md",
    "docs/how-to/deadlines.md",
    "docs/how-to/graceful-shutdown.md",
    "docs/how-to/hedging-and-fallback.md",
    "docs/how-to/limit-sign-in.md",
    "docs/how-to/load-shedding.md",
    "docs/how-to/logs.md",
    "docs/how-to/migrate.md",
    "docs/how-to/pipeline.md",
    "docs/how-to/psycopg.md",
    "docs/how-to/rate-limits.md",
    "docs/how-to/retries.md",
    "docs/how-to/rotate-secrets.md",
    "docs/how-to/serve-a-model.md",
    "docs/how-to/sqlalchemy.md",
    "docs/how-to/turn-features-off.md",
    "docs/how-to/work-beside-requests.md",
]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# asyncpg, which the examples use, knows no other.
pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
def dsn(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the database that the examples speak of."""
    execute(
        database_dsn,
        "create table invoices (id int primary key, total int not null)",
        "insert into invoices values (7, 120)",
    )
    monkeypatch.setenv("DATABASE_DSN", database_dsn)
    return database_dsn


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files that the examples read secrets from."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name in ("mail_password", "traffic_key"):
        (folder / name).write_text(f"the-{name}\n")
    monkeypatch.setenv("SECRETS_DIR", str(folder))


@pytest.fixture
def switches_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the file that the examples read switches from; it does not exist."""
    file = tmp_path / "switches.json"
    monkeypatch.setenv("SWITCHES_FILE", str(file))
    return file


@pytest.fixture
def root_logger() -> Generator[None]:
    """Put the root logger back: an example configures it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def numbers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the file that the examples read numbers from; it does not exist."""
    file = tmp_path / "numbers.toml"
    monkeypatch.setenv("NUMBERS_FILE", str(file))
    return file


@pytest.mark.usefixtures("root_logger", "dsn", "secrets", "switches_file", "numbers_file")
@pytest.mark.parametrize("page", PAGES)
async def test_each_example_runs_and_answers(page: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert len(blocks) >= 2
    known: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        # A file of its own, so that a stack trace shows the line. What a block defines, the next
        # ones may use.
        file = tmp_path / f"block_{number}.py"
        file.write_text(block)
        before = known.get("app")
        known |= runpy.run_path(str(file), init_globals=known)
        if known.get("app") is not before:
            await _answers(known["app"])


def _run_all(page: str, folder: Path) -> dict[str, Any]:
    """Run the blocks of a page one after the other; return what they define."""
    known: dict[str, Any] = {}
    for number, block in enumerate(BLOCK.findall((ROOT / page).read_text())):
        file = folder / f"block_{number}.py"
        file.write_text(block)
        known |= runpy.run_path(str(file), init_globals=known)
    return known


async def _answers(app: Any) -> None:
    async with running(app):
        if isinstance(app, Hardened):
            with anyio.fail_after(10):
                while (await call_asgi(app, "GET", "/healthz/ready")).status != 200:
                    await anyio.sleep(0.02)
        response = await call_asgi(app, "GET", "/invoices/7")
        assert response.status == 200
        assert int(response.json()["id"]) == 7
        assert response.json().get("total", 120) == 120
        assert response.header("x-request-id")
        if isinstance(app, Hardened):
            scrape = (await call_asgi(app, "GET", "/metrics")).body.decode()
            assert re.search(r'http_route="/invoices/\{id(:int)?\}"', scrape)


async def test_a_model_fails_over_and_its_tokens_are_given_back(tmp_path: Path) -> None:
    known = _run_all("docs/how-to/call-a-model.md", tmp_path)
    # Each spends 600 of 1,000 tokens, and takes 3.
    for _ in range(100):
        assert (await known["affordable"]("Count."))["text"] == "1 2 3"
    assert known["budget"].hit_now("main", 690).allowed
    with pytest.raises(known["RateLimitExceededError"]):
        await known["affordable"]("Count.")


async def test_a_served_model_refuses_the_third_answer_of_a_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = _run_all("docs/how-to/serve-a-model.md", tmp_path)
    begun: list[str] = []
    may_go_on = anyio.Event()
    answers: list[AsgiResponse] = []

    async def held(prompt: str) -> AsyncGenerator[str]:
        yield prompt
        begun.append(prompt)
        await may_go_on.wait()
        yield "end"

    async def ask() -> None:
        answers.append(
            await call_asgi(known["model"], "POST", "/v1/answers", body=b'{"prompt": "one"}')
        )

    monkeypatch.setitem(known["answer"].__globals__, "tokens", held)
    async with running(known["model"]), anyio.create_task_group() as tasks:
        with anyio.fail_after(20):
            for number in (1, 2):
                tasks.start_soon(ask)
                while len(begun) < number:
                    await anyio.sleep(0.01)
            await ask()
        may_go_on.set()
    refused, *whole = answers
    assert (refused.status, refused.header("retry-after")) == (429, None)
    assert [answer.status for answer in whole] == [200, 200]
    for answer in whole:
        assert b'{"token": "one"}' in answer.body
        assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_a_live_page_resumes_with_what_it_missed(dsn: str, tmp_path: Path) -> None:
    known = _run_all("docs/how-to/a-live-page.md", tmp_path)
    app, bill = known["app"], known["bill"]
    async with running(app):
        stream = known["feed"].stream(None)
        place = await anext(stream)
        await bill(8, 20)
        with anyio.fail_after(20):
            assert b'"id": 8' in await anext(stream)
        await bill(9, 30)
        # The id that the first piece gave is that of the newest event at that time.
        last_id = place.decode().removeprefix("id: ").split("\n")[0]
        again = known["feed"].stream(last_id)
        with anyio.fail_after(20):
            pieces = [await anext(again), await anext(again)]
    assert [json.loads(piece.split(b"data: ")[1])["id"] for piece in pieces] == [8, 9]


async def test_the_file_of_the_page_of_numbers_is_used(numbers_file: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/change-numbers.md").read_text()
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    await anyio.Path(numbers_file).write_text(text)
    known = _run_all("docs/how-to/change-numbers.md", tmp_path)
    numbers = known["numbers"]
    await anyio.to_thread.run_sync(numbers.reread)
    assert numbers.is_valid
    assert known["billing"].settings()["attempts"] == 2
    assert known["reports"].settings()["slots"] == 4
    rules = known["app"].find("GET", "/invoices/7")
    assert (rules.timeout, rules.limits.max_body_bytes) == (10, 1000)


class _Stock:
    """Fail once with a lost connection; then have the item."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def get(self, path: str) -> _Stock:
        self.paths.append(path)
        if len(self.paths) == 1:
            raise ConnectionError
        return self

    def raise_for_status(self) -> None:
        """Have no error."""

    def json(self) -> dict[str, int]:
        return {"id": 7}


async def test_blocks_of_the_page_of_retries_are_tried_again(tmp_path: Path) -> None:
    known = _run_all("docs/how-to/retries.md", tmp_path)
    stock = _Stock()
    assert await known["reserve"](stock, 7) == {"id": 7}
    assert stock.paths == ["/items/7"] * 2
    with pytest.raises(RuntimeError, match="event loop"):
        known["text_of"](tmp_path / "block_0.py")
    assert "billing" not in await anyio.to_thread.run_sync(
        known["text_of"], tmp_path / "block_0.py"
    )


@pytest.mark.usefixtures("root_logger", "dsn")
async def test_what_the_page_says_of_strict_json_is_so(tmp_path: Path) -> None:
    known = _run_all("docs/how-to/adopt-the-core.md", tmp_path)

    async def put(body: bytes) -> AsgiResponse:
        return await call_asgi(known["strict_app"], "PUT", "/invoices/7", body=body)

    async with running(known["strict_app"]):
        assert (await put(b'{"total":120}')).json() == {"id": 7, "sent": {"total": 120}}
        for body, words in (
            (b"[" + b"0," * 10_000 + b"0]", "more than 10,000 commas and brackets"),
            (b"[NaN]", "NaN is not JSON"),
        ):
            refused = await put(body)
            assert (refused.status, refused.json()["detail"]) == (400, f"The body: {words}")


@pytest.mark.usefixtures("root_logger", "dsn")
async def test_what_the_page_says_of_versions_and_keys_is_so(tmp_path: Path) -> None:
    known = _run_all("docs/how-to/adopt-the-core.md", tmp_path)
    app: Hardened = known["versions_app"]

    async def put(*headers: tuple[str, str]) -> AsgiResponse:
        return await call_asgi(app, "PUT", "/invoices/7/total/99", headers=headers)

    async with running(app):
        read = await call_asgi(app, "GET", "/invoices/7")
        etag = read.header("etag") or ""
        assert (read.json(), etag) == ({"id": 7, "total": 120}, '"7-120"')
        same = await call_asgi(app, "GET", "/invoices/7", headers=[("if-none-match", etag)])
        assert (same.status, same.header("etag"), same.body) == (304, etag, b"")
        assert [(await put()).status, (await put(("if-match", "7"))).status] == [428, 400]
        assert (await put(("if-match", etag), ("idempotency-key", ""))).status == 400
        changed = await put(("if-match", etag), ("idempotency-key", '"k"'))
        assert changed.json() == {"id": 7, "total": 99, "key": "k"}
        late = await put(("if-match", etag))
        assert (late.status, late.header("etag")) == (412, '"7-99"')


@pytest.mark.usefixtures("root_logger")
async def test_what_the_page_says_of_switches_is_so(switches_file: Path, tmp_path: Path) -> None:
    by_file, by_provider = BLOCK.findall((ROOT / "docs/how-to/turn-features-off.md").read_text())
    file, off = tmp_path / "block.py", '{"exports": {"on": false, "reason": "INC-12"}}'
    file.write_text(by_file)
    await anyio.Path(switches_file).write_text(off)
    known = runpy.run_path(str(file))
    async with running(known["app"]):
        refused = await call_asgi(known["app"], "GET", "/invoices.csv")
        assert (refused.status, refused.header("retry-after")) == (503, "60")
        assert (await call_asgi(known["app"], "GET", "/invoices/7")).status == 200
    file.write_text(by_provider)
    known |= runpy.run_path(str(file), init_globals=known)
    async with running(known["app"]):
        assert [known["switches"].is_on(name) for name in ("exports", "mail")] == [True, False]


async def test_what_the_page_says_of_parts_is_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/how-to/add-a-part.md").read_text()
    known = _run_all("docs/how-to/add-a-part.md", tmp_path)
    assert capsys.readouterr().out in page
    app: Hardened = known["app"]
    assert "sizes > Maintenance > tenants > deadlines" in repr(app)
    known["maintenance"].closed.add("/reports")

    async def read(path: str, tenant: str = "acme") -> AsgiResponse:
        return await call_asgi(app, "GET", path, headers=[("x-tenant", tenant)])

    async with running(app):
        closed = await read("/reports/7")
        assert (closed.status, closed.header("retry-after")) == (503, "60")
        assert closed.json()["code"] == "maintenance"
        refused = await read("/invoices/7", "initech")
        assert (refused.status, refused.header("x-tenant")) == (401, "initech")
        served = await read("/invoices/7", "globex")
        assert (served.status, served.header("x-tenant")) == (200, "globex")
        scrape = (await call_asgi(app, "GET", "/metrics")).body.decode()
    assert known["counted"].served == {b"globex": 1}
    assert 'error_type="maintenance"' in scrape


async def test_what_the_page_says_of_guesses_and_known_devices_is_so(tmp_path: Path) -> None:
    known = _run_all("docs/how-to/limit-sign-in.md", tmp_path)
    app: Hardened = known["app"]

    async def sign_in(
        password: str, email: str = "ann@example.org", cookie: str = ""
    ) -> AsgiResponse:
        body = json.dumps({"email": email, "password": password}).encode()
        return await call_asgi(app, "POST", "/sign-in", headers=[("cookie", cookie)], body=body)

    async with running(app):
        answer = await sign_in("correct horse")
        device = (answer.header("set-cookie") or "").partition(";")[0]
        assert (answer.status, device[:7]) == (200, "device=")
        guesses = [await sign_in("wrong") for _ in range(6)]
        assert [guess.status for guess in guesses] == [401] * 5 + [429]
        assert 0 < int(guesses[-1].header("retry-after") or 0) <= 12
        assert (await sign_in("wrong", email="nobody@example.org")).body == guesses[0].body
        assert (await sign_in("correct horse")).status == 429
        assert (await sign_in("correct horse", cookie=device)).status == 200
        assert (await sign_in("correct horse", cookie=device[:-1] + "x")).status == 429


@pytest.mark.usefixtures("dsn")
async def test_routes_answer_again_while_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise DatabaseUnavailableError("postgres", 1.0)

    known: dict[str, Any] = {}
    page = (ROOT / "docs/how-to/answer-while-the-database-is-away.md").read_text()
    ada, bob = [[("authorization", f"Bearer {name}")] for name in ("ada", "bob")]
    for number, block in enumerate(BLOCK.findall(page)[:2]):
        file = tmp_path / f"stale_{number}.py"
        file.write_text(block)
        known |= runpy.run_path(str(file), init_globals=known)
        known["stale"].forget()
        async with running(known["app"]):
            ask = partial(call_asgi, known["app"], "GET", "/invoices/7")
            with anyio.fail_after(10):
                while (await ask(headers=ada)).status != 200:
                    await anyio.sleep(0.02)
            with monkeypatch.context() as away:
                away.setattr(Database, "fetchval", refuse)
                old = await ask(headers=ada)
                assert (old.status, old.json()) == (200, {"id": 7, "total": 120})
                marks = old.header("cache-status") or "", old.header("cache-control")
                assert re.fullmatch(
                    r"billing; hit; ttl=-?\d+; detail=dependency-unavailable", marks[0]
                )
                assert marks[1] == "no-store"
                for who in (bob, []):
                    refusal = await ask(headers=who)
                    assert (refusal.status, refusal.header("age")) == (503, None)


@pytest.mark.usefixtures("dsn")
async def test_what_the_page_says_of_a_database_that_is_away_is_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Nobody listens there: the port is reserved for nothing.
    monkeypatch.setenv("DATABASE_DSN", "postgresql://billing@127.0.0.1:1/billing")
    page = (ROOT / "docs/how-to/adopt-the-core.md").read_text()
    for number, block in enumerate(BLOCK.findall(page)[:2]):
        file = tmp_path / f"away_{number}.py"
        file.write_text(block)
        app: Hardened = runpy.run_path(str(file))["app"]
        async with running(app):
            assert (await call_asgi(app, "GET", "/healthz/live")).status == 200
            assert (await call_asgi(app, "GET", "/healthz/ready")).status == 503
            refusal = await call_asgi(app, "GET", "/invoices/7")
            assert (refusal.status, refusal.header("content-type")) == (
                503,
                "application/problem+json",
            )
            assert refusal.header("retry-after")
