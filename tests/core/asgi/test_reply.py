"""Layers that share one `send` see and say what they would with one of their own."""

from __future__ import annotations

import pytest

from postfacta_core.asgi._reply import Headers, Reply, reply_of, set_header
from postfacta_core.asgi._types import ASGIApp, Message, Receive, Scope, Send
from postfacta_core.asgi.context import ContextMiddleware
from postfacta_core.asgi.errors import ErrorMiddleware
from postfacta_core.asgi.headers import ResponseHeadersMiddleware
from postfacta_core.testing import call_asgi
from tests.kit.garbage import garbage

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"X-One", b"app")]}


async def nobody(message: Message) -> None:
    """Read nothing."""


async def sent(reply: Reply, message: Message) -> Message:
    seen: list[Message] = []

    async def keep(message: Message) -> None:
        seen.append(message)

    reply.forward = keep
    await reply(message)
    return seen[0]


def add(headers: Headers, names: set[bytes], pair: tuple[bytes, bytes]) -> None:
    if pair[0] not in names:
        headers.append(pair)
        names.add(pair[0])


def test_neighbours_share_one_and_a_wrapper_separates_them() -> None:
    reply = reply_of(nobody)
    assert reply_of(reply) is reply

    async def wrapped(message: Message) -> None:
        await reply(message)

    assert reply_of(wrapped) is not reply


async def test_the_inner_layers_word_comes_before_the_outer_ones() -> None:
    reply = reply_of(nobody)
    reply.edit(add, (b"x-two", b"outer"))
    reply.edit(add, (b"x-two", b"inner"))
    reply.edit(add, (b"x-one", b"never"))
    assert (await sent(reply, START))["headers"] == [(b"X-One", b"app"), (b"x-two", b"inner")]
    assert START["headers"] == [(b"X-One", b"app")]


@pytest.mark.parametrize("name", [b"x-one", b"x-three"])
async def test_a_header_that_is_set_stands_once(name: bytes) -> None:
    reply = reply_of(nobody)
    reply.edit(add, (name, b"late"))
    reply.edit(set_header, (name, b"set"))
    headers = (await sent(reply, START))["headers"]
    assert [value for key, value in headers if key.lower() == name] == [b"set"]


async def test_only_the_start_begins_a_response_and_is_edited() -> None:
    reply = reply_of(nobody)
    reply.edit(add, (b"x-two", b"2"))
    hint: Message = {"type": "http.response.early_hint", "links": []}
    assert await sent(reply, hint) is hint
    assert not reply.has_begun
    assert (await sent(reply, {"type": "http.response.start", "status": 200}))["headers"] == [
        (b"x-two", b"2")
    ]
    assert reply.has_begun


class Holding:
    """Keeps the start back until there is a body, as compression does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)
            if message["type"] == "http.response.body":
                for each in held:
                    await send(each)

        await self.app(scope, receive, hold)


async def test_a_foreign_layer_in_between_changes_nothing() -> None:
    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        raise ValueError

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"1"})

    def stack(app: ASGIApp) -> ASGIApp:
        added = ResponseHeadersMiddleware(ErrorMiddleware(app), [("x-two", "2")])
        return ContextMiddleware(Holding(added))

    response = await call_asgi(stack(answer))
    assert response.header("x-two") == "2"
    assert response.header("x-request-id") is not None
    # The layer inside saw its response begin, and adds no second one.
    assert (await call_asgi(stack(crash), raise_errors=False)).messages == []


async def test_it_leaves_nothing_for_the_cyclic_collector() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"1"})

    app = ContextMiddleware(ResponseHeadersMiddleware(ErrorMiddleware(answer), [("x-two", "2")]))
    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}

    async def once() -> None:
        await app(dict(scope), None, nobody)  # type: ignore[arg-type] # it is not called

    assert await garbage(once) == 0
