"""The test kit does what a server does, no more and no less.

Its time is virtual, and its faults are on purpose.
"""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from postfacta_core.asgi._types import Receive, Scope, Send
from postfacta_core.events import HealthChecked, ListenerFailed
from postfacta_core.testing import ManualClock, RecordingObserver, call_asgi
from postfacta_core.testing.asgi import AsgiResponse
from tests.kit.every import every


async def answer(send: Send, *chunks: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-kind", b"test")]})
    for number, chunk in enumerate(chunks, start=1):
        await send({"type": "http.response.body", "body": chunk, "more_body": number < len(chunks)})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with each chunk of the request, and with a bar after each."""
    chunks, more = [b""], True
    while more:
        message = await receive()
        chunks.append(message["body"] + b"|")
        more = message["more_body"]
    await answer(send, *chunks)


def test_a_manual_clock_stands_until_it_is_moved() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(0.5)
    assert clock() == 5.5


def test_a_recording_observer_keeps_all_in_order_and_picks_a_kind() -> None:
    seen = RecordingObserver()
    first, second = ListenerFailed("a", "A"), ListenerFailed("b", "B")
    check = HealthChecked(check="db", critical=True, passed=True, up=True, seconds=0.1)
    for event in (first, check, second):
        seen(event)
    assert seen.events == [first, check, second]
    assert seen.of(ListenerFailed) == [first, second]
    assert seen.of(HealthChecked) == [check]


async def test_an_answer_is_recorded_as_it_was_sent() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b'{"a":', b"1}", status=201)

    response = await call_asgi(app)
    assert (response.status, response.body, response.json()) == (201, b'{"a":1}', {"a": 1})
    assert response.headers == [(b"x-kind", b"test")]
    assert (response.header("X-Kind"), response.header("missing")) == ("test", None)
    assert [message["type"] for message in response.messages] == [
        "http.response.start",
        "http.response.body",
        "http.response.body",
    ]


async def test_the_scope_is_what_a_server_makes_of_the_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["left"] = True
        await answer(send, b"")

    response = await call_asgi(
        app,
        "PATCH",
        "/api/é",
        headers=[("X-One", "1"), ("x-one", "é")],
        query="a=b",
        root_path="/api",
        scope={"client": None, "more": 1},
    )
    scope = response.scope
    assert (scope["type"], scope["method"], scope["path"]) == ("http", "PATCH", "/api/é")
    assert (scope["raw_path"], scope["query_string"], scope["root_path"]) == (
        b"/api/\xc3\xa9",
        b"a=b",
        "/api",
    )
    assert scope["headers"] == [(b"x-one", b"1"), (b"x-one", b"\xe9")]
    assert (scope["client"], scope["more"], scope["left"]) == (None, 1, True)


async def test_a_body_comes_in_one_message_or_in_one_for_each_chunk() -> None:
    cases: list[tuple[bytes | list[bytes], bytes]] = [
        (b"", b"|"),
        (b"abc", b"abc|"),
        ([b"a", b"b"], b"a|b|"),
        ([b""], b"|"),
    ]
    with every() as case:
        for body, expected in cases:
            with case(body, expected):
                assert (await call_asgi(echo, "POST", body=body)).body == expected


async def test_the_client_stays_until_it_has_the_whole_answer() -> None:
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

        async def watch() -> None:
            order.append((await receive())["type"])

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            for _ in range(5):
                await checkpoint()
            order.append("answer")
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            for _ in range(5):
                await checkpoint()
            order.append("rest")
            await send({"type": "http.response.body", "body": b"b"})

    assert (await call_asgi(app)).body == b"ab"
    assert order == ["answer", "rest", "http.disconnect"]


async def test_a_client_that_leaves_is_noticed_by_both_ends() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await answer(send, b"first", b"second")

    response = await call_asgi(app, disconnect_after=2, raise_errors=False)
    assert isinstance(response.error, OSError)
    assert (response.status, response.body) == (200, b"first")


async def test_a_client_may_leave_once_its_body_is_read() -> None:
    types: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        types.extend([(await receive())["type"] for _ in range(3)])
        await answer(send, b"too late")

    with pytest.raises(OSError, match="the client is gone"):
        await call_asgi(app, "POST", body=[b"a", b"b"], disconnect_after=0)
    assert types == ["http.request", "http.request", "http.disconnect"]


async def crash(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError(scope["path"])


async def test_what_an_application_raises_is_raised_or_kept() -> None:
    with pytest.raises(LookupError):
        await call_asgi(crash)
    response = await call_asgi(crash, raise_errors=False)
    assert isinstance(response.error, LookupError)
    assert response.status == 0


async def test_a_cancelled_caller_is_cancelled_whatever_it_keeps() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    response: AsgiResponse | None = None
    with anyio.move_on_after(0) as scope:
        response = await call_asgi(app, raise_errors=False)
    assert scope.cancelled_caught
    assert response is None


ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "how-to" / "test-with-the-kit.md"


def examples(folder: Path) -> dict[str, Any]:
    """Run the blocks of the page, each in a file of its own and with what those before defined.

    Return it all.
    """
    known: dict[str, Any] = {}
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    ):
        file = folder / f"block_{number}.py"
        file.write_text(block)
        known |= runpy.run_path(str(file), init_globals=known)
    return known


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_each_test_on_the_page_passes(backend: str, tmp_path: Path) -> None:
    tests = {name: it for name, it in examples(tmp_path).items() if name.startswith("test_")}
    assert len(tests) == 8
    for test in tests.values():
        if inspect.iscoroutinefunction(test):
            anyio.run(test, backend=backend)
        else:
            test()
