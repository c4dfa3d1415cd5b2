"""Open and close resources with the server's lifespan, also around applications that have none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from ._types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LifespanMiddleware"]


class LifespanMiddleware:
    """Hold resources open from before the application's startup until after its shutdown.

    They are entered in order and left in reverse order, in the one task that the server runs the lifespan in,
    so a resource may own an anyio task group.

    Args:
        app: The application. If it knows no lifespan, its place is taken.
        resources: What to enter. One that raises stops the startup, and the server says why.
    """

    def __init__(self, app: ASGIApp, resources: Sequence[AbstractAsyncContextManager[object]]) -> None:
        self._app = app
        self._resources = tuple(resources)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        conversation = _Conversation(receive, send)
        try:
            async with AsyncExitStack() as stack:
                for resource in self._resources:
                    await stack.enter_async_context(resource)
                await conversation.hold(self._app, scope)
        except Exception as error:
            await conversation.fail(error)
            raise
        await conversation.end()


class _Conversation:
    """The lifespan's messages between the server and the application, with our part put in between."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive_message = receive
        self._send_message = send
        self._asked: set[str] = set()
        self._told: set[str] = set()
        self._last: Message | None = None

    async def hold(self, app: ASGIApp, scope: Scope) -> None:
        """Let the application have its lifespan; keep the place of one that has none."""
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            # The protocol's way to say "no lifespan here" is to raise before any answer.
            if self._told:
                raise
        if "lifespan.startup.failed" in self._told:
            return
        if "lifespan.startup" not in self._asked:
            await self._receive()
        if not self._told:
            await self._send({"type": "lifespan.startup.complete"})
        if "lifespan.shutdown" not in self._asked:
            await self._receive()

    async def fail(self, error: Exception) -> None:
        """Tell the server that the startup or the shutdown failed, unless it knows."""
        phase = "shutdown" if "lifespan.startup.complete" in self._told else "startup"
        if f"lifespan.{phase}.failed" not in self._told:
            if phase == "startup" and "lifespan.startup" not in self._asked:
                await self._receive()
            await self._send_message({"type": f"lifespan.{phase}.failed", "message": repr(error)})

    async def end(self) -> None:
        """Tell the server how the shutdown ended, now that all resources are closed."""
        if self._last is not None:
            await self._send_message(self._last)
        elif "lifespan.startup.failed" not in self._told:
            await self._send_message({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        message = await self._receive_message()
        self._asked.add(message["type"])
        return message

    async def _send(self, message: Message) -> None:
        self._told.add(message["type"])
        if message["type"].startswith("lifespan.shutdown."):
            # The server may exit as soon as it hears this: our resources come first.
            self._last = message
        else:
            await self._send_message(message)
