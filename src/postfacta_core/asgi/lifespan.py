"""Open and close resources with the server's lifespan, even around applications that have none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from ..drain.lifecycle import Lifecycle
from ..drain.resources import Resource, hold
from ..events import Observer, ignore
from ._settings import check_options, one, or_none
from ._types import ASGIApp, Message, Receive, Scope, Send


class LifespanMiddleware:
    """Hold resources open from before the application's startup until after its shutdown.

    They are entered in order and left in reverse order, each in a task of its own, so a resource may own an anyio
    task group. With a lifecycle they close only after the last request has ended, each within its share of the
    drain's `close_timeout`; one that takes longer is cancelled. One that raises in the middle of its life begins a
    drain, since a server goes on without a lifespan; its error is raised at the end.

    Args:
        app: The application. If it has no lifespan, this stands in for it.
        resources: What to enter. One that raises stops the startup, and the server says why.
        lifecycle: Entered before all of them, and left after.
        observer: Receives each resource that did not close in time. It may raise.
    """

    def __init__(
        self,
        app: ASGIApp,
        resources: Sequence[Resource],
        *,
        lifecycle: Lifecycle | None = None,
        observer: Observer = ignore,
    ) -> None:
        check_options("LifespanMiddleware", app=app, resources=resources, observer=observer)
        or_none(one(Lifecycle, "None"))("LifespanMiddleware.lifecycle", lifecycle)
        self._app = app
        self._resources = tuple(resources)
        self._lifecycle = lifecycle
        self._observe = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        lifecycle = self._lifecycle
        conversation = _Conversation(receive, send, lifecycle)
        try:
            async with AsyncExitStack() as stack:
                held = partial(hold, self._resources, observer=self._observe)
                if lifecycle is not None:
                    await stack.enter_async_context(lifecycle)
                    lost = lifecycle.drain if lifecycle.can_stop_server else None
                    held = partial(held, share=lifecycle.share, lost=lost)
                await stack.enter_async_context(held())
                await conversation.hold(self._app, scope)
        except Exception as error:
            await conversation.fail(error)
            raise
        await conversation.end()


@dataclass(slots=True, eq=False)
class _Conversation:
    """The lifespan's messages between the server and the application, with our part in between."""

    _receive_message: Receive
    _send_message: Send
    _lifecycle: Lifecycle | None
    _asked: set[str] = field(default_factory=set[str])
    _told: set[str] = field(default_factory=set[str])
    _last: Message | None = None

    async def hold(self, app: ASGIApp, scope: Scope) -> None:
        """Run the application's lifespan; stand in for one that has none."""
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            # The protocol's way to say "no lifespan here" is to raise at once. Later it is a startup that failed.
            if self._told or self._asked:
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
        """Report a failed startup or shutdown to the server, unless that was sent."""
        phase = "shutdown" if "lifespan.startup.complete" in self._told else "startup"
        if f"lifespan.{phase}.failed" not in self._told:
            if phase == "startup" and "lifespan.startup" not in self._asked:
                await self._receive()
            await self._send_message({"type": f"lifespan.{phase}.failed", "message": repr(error)})

    async def end(self) -> None:
        """Report the end of the shutdown to the server, now that all resources are closed."""
        if self._last is not None:
            await self._send_message(self._last)
        elif "lifespan.startup.failed" not in self._told:
            await self._send_message({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        message = await self._receive_message()
        self._asked.add(message["type"])
        if message["type"] == "lifespan.shutdown" and self._lifecycle is not None:
            await self._lifecycle.finish_requests()
        return message

    async def _send(self, message: Message) -> None:
        self._told.add(message["type"])
        if message["type"].startswith("lifespan.shutdown."):
            # The server may exit as soon as it gets this: our resources close first.
            self._last = message
        else:
            await self._send_message(message)
            if message["type"] == "lifespan.startup.complete" and self._lifecycle is not None:
                self._lifecycle.started()
