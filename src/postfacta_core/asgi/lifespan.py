"""Hold resources open around an application's lifespan, whether it has one or not.

An application says that it has no lifespan by what it does with a scope of that type: it raises
before it receives anything, returns, or sends a message of another protocol. A broken application
raises as early: Starlette, for example, when it puts its middleware together. So an error counts as
"no lifespan here" only if it did not come through a framework that has a lifespan, and is of a kind
that applications without one raise. Any other fails the start: else the service would be declared
ready and answer each request with a 500.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from traceback import walk_tb
from typing import Final

from ..drain.lifecycle import Lifecycle
from ..drain.resources import Resource, hold
from ..events import Observer, ignore
from ..telemetry.logs import LOGGER
from ._settings import check_options, instance_of, or_none
from ._types import ASGIApp, Message, Receive, Scope, Send

# The modules through which frameworks that answer every lifespan hand it on; FastAPI is a
# Starlette.
_WITH_LIFESPAN: Final = frozenset({"starlette.applications", "litestar.app", "quart.app"})
# What an application finds missing that takes a lifespan's scope for a request's.
_OF_REQUESTS: Final = frozenset(
    {
        "client",
        "headers",
        "http_version",
        "method",
        "path",
        "query_string",
        "raw_path",
        "root_path",
        "scheme",
    }
)
_BUGS: Final = (TypeError, NameError, AttributeError)
_ADVICE: Final = (
    "The application raised before its lifespan began, so the start has failed. If it has no"
    ' lifespan, it must return at once if scope["type"] is "lifespan", or raise NotImplementedError'
)


class LifespanMiddleware:
    """Hold resources open from before the application's startup until after its shutdown.

    They are entered in order and left in reverse order, each in a task of its own, so a resource
    may own an anyio task group. One that raises stops the startup, and the server says why; in the
    middle of its life it begins a drain, since a server goes on without a lifespan, and its error
    is raised at the end.

    Args:
        app: If it has no lifespan, this stands in for it.
        lifecycle: Entered before all of them, and left after. With it they close only after the
            last request has ended, each within its share of the drain's `close_timeout`; one that
            takes longer is cancelled.
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
        or_none(instance_of(Lifecycle, "None"))("LifespanMiddleware.lifecycle", lifecycle)
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
                open_resources = partial(hold, self._resources, observer=self._observe)
                if lifecycle is not None:
                    await stack.enter_async_context(lifecycle)
                    lost = None if lifecycle.mechanism == "none" else lifecycle.drain
                    open_resources = partial(open_resources, share=lifecycle.share, lost=lost)
                await stack.enter_async_context(open_resources())
                await conversation.hold(self._app, scope)
        except Exception as error:
            await conversation.fail(error)
            raise
        await conversation.end()


class _OtherProtocolError(RuntimeError):
    """Raised into an application that answers its lifespan as if it were a request."""


@dataclass(slots=True, eq=False)
class _Conversation:
    """The lifespan's messages between the server and the application, with our part in between."""

    _receive_message: Receive
    _send_message: Send
    _lifecycle: Lifecycle | None
    _received: set[str] = field(default_factory=set[str])
    _sent: set[str] = field(default_factory=set[str])
    _last: Message | None = None
    _speaks_other: bool = False

    async def hold(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:
            is_first = not (self._sent or self._received)
            if not (self._speaks_other or (is_first and _means_none(error))):
                raise
        if "lifespan.startup.failed" in self._sent:
            return
        if "lifespan.startup" not in self._received:
            await self._receive()
        if not self._sent:
            await self._send({"type": "lifespan.startup.complete"})
        if "lifespan.shutdown" not in self._received:
            await self._receive()

    async def fail(self, error: Exception) -> None:
        """Report a failed startup or shutdown to the server, unless that was sent."""
        phase = "shutdown" if "lifespan.startup.complete" in self._sent else "startup"
        failed = f"lifespan.{phase}.failed"
        if self._last is not None and self._last["type"] == failed:
            await self._send_message(self._last)
        elif failed not in self._sent:
            LOGGER.error("The application's %s failed", phase, exc_info=error)
            if phase == "startup" and "lifespan.startup" not in self._received:
                await self._receive()
            await self._send_message({"type": failed, "message": repr(error)})

    async def end(self) -> None:
        """Report the end of the shutdown to the server, now that all resources are closed."""
        if self._last is not None:
            await self._send_message(self._last)
        elif "lifespan.startup.failed" not in self._sent:
            await self._send_message({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        message = await self._receive_message()
        self._received.add(message["type"])
        if message["type"] == "lifespan.shutdown" and self._lifecycle is not None:
            await self._lifecycle.finish_requests()
        return message

    async def _send(self, message: Message) -> None:
        if not message["type"].startswith("lifespan."):
            self._speaks_other = True
            raise _OtherProtocolError(f"{message['type']} is no answer to a lifespan")
        self._sent.add(message["type"])
        if message["type"].startswith("lifespan.shutdown."):
            # The server may exit as soon as it gets this: our resources close first.
            self._last = message
        else:
            await self._send_message(message)
            if message["type"] == "lifespan.startup.complete" and self._lifecycle is not None:
                self._lifecycle.started()


def _means_none(error: Exception) -> bool:
    """Return whether an application says by this error, its first act, that it has no lifespan."""
    modules = {frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)}
    if modules & _WITH_LIFESPAN:
        return False
    if _is_refusal(error):
        LOGGER.info("The application has no lifespan: %r", error)
        return True
    error.add_note(_ADVICE)
    return False


def _is_refusal(error: Exception) -> bool:
    """Return whether applications without a lifespan raise such an error at its scope."""
    if isinstance(error, AssertionError | NotImplementedError):
        return True
    if isinstance(error, KeyError):
        return bool(error.args) and error.args[0] in _OF_REQUESTS
    text = str(error)
    return "lifespan" in text or ("scope" in text and not isinstance(error, _BUGS))
