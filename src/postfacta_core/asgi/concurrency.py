"""Serve as many requests at once as can be served in time, and refuse the others early."""

from __future__ import annotations

from collections.abc import Callable

from ..clock import LUCK, MONOTONIC, PROCESS, Clock, Luck
from ..events import Mode, Observer, PolicyCreated, ignore
from ..limits._calm import Calm
from ..limits._overload import OverloadLimiter
from ..validation import validation
from ._concurrency import PriorityOf, Shedding, aside
from ._kernel import Kernel
from ._problem import Render
from ._settings import settings
from ._types import ASGIApp, Scope

__all__ = ["LoadSheddingMiddleware", "PriorityOf", "aside"]


class LoadSheddingMiddleware(Shedding, Kernel):
    """Admit a request, queue it for a moment, or answer 503 with `Retry-After` before any other work is done for it.

    * After its admission a request yields to the event loop once. A handler that keeps the processor busy runs
      to its end in one step: without this, no limit would ever see more than one request at once. While `beat` shows
      that the loop is hardly ever late, there is no queue, and a request skips that yield.
    * A request gives its slot back with the first piece of its response, and counts as answered then: a stream may
      last for hours, and so may a client that does not read.
    * An answer from 500 up, an exception, a deadline and a cancellation count as lost at the age that the request had.
    * Time that a request waited, `RequestContext.waited`, counts as a queue and not as work.
    * Nor does a request hold a slot while it waits for its client's body: else a hundred slow clients would be all that
      is served. If that takes 20 ms or more, the request's duration does not count.
    * A request that came more than 20 ms ago is dropped before it begins if the server says that its client has left.
    * A handler that waits without working, such as a long poll, releases its slot by `aside`.
    * A WebSocket is admitted or refused (close code 1013) at its handshake, and gives its slot back once it is
      accepted. Its duration does not count.

    It belongs innermost, around the application: what it measures must be the application's work.

    Args:
        app: The application.
        limiter: By default one named `requests`. It belongs to one middleware alone.
        priority_of: Returns the priority for a scope, such as by path.
        priority_key: A caller that gives this secret in `X-Priority-Key` may say in `X-Priority` how much its
            request matters: `critical_plus`, `critical`, `sheddable_plus` or `sheddable`. That goes first. Empty
            trusts no caller.
        spares: Returns whether a request that would be shed is served all the same, by the latest moment at which it
            reached the process: one that was under way when a drain began has nowhere else to go.
        trusts: Returns for a scope whether its `X-Priority` counts, besides callers that know the key.
        mode: `shadow` counts requests that would be shed, and admits all immediately.
        render: Another shape of problem, for APIs that have one. Without it a refusal is cheaper.
        observer: Receives the limiter's announcement, and changes of the mode. It may raise.
        clock: Monotonic seconds; it must be the clock of the request contexts.
        processor: Seconds of processor time that the process used: less than a late loop took, if others had the rest.
        luck: Spreads `Retry-After`.

    Attributes:
        limiter: The one that decides.
        calm: Decides which requests skip the yield.
        clock: Monotonic seconds.
        mode: How the decisions are used. It may be set at any time; waiting requests are still decided.
        beat: To be called with how many seconds late the event loop is, as `RunningRequests.on_beat` does.
    """

    def __init__(
        self,
        app: ASGIApp,
        limiter: OverloadLimiter | None = None,
        *,
        priority_of: PriorityOf | None = None,
        priority_key: str = "",
        spares: Callable[[float], bool] | None = None,
        trusts: Callable[[Scope], bool] | None = None,
        mode: Mode | str = Mode.ENFORCE,
        render: Render | None = None,
        observer: Observer = ignore,
        clock: Clock = MONOTONIC,
        processor: Clock = PROCESS,
        luck: Luck = LUCK,
    ) -> None:
        settings.application("LoadSheddingMiddleware", app)
        if limiter is not None:
            validation.instance("LoadSheddingMiddleware.limiter", limiter, OverloadLimiter, example="None")
        asked = {"priority_of": priority_of, "spares": spares, "trusts": trusts, "render": render}
        for name, function in asked.items():
            settings.function_or_none(f"LoadSheddingMiddleware.{name}", function)
        validation.secret(
            "LoadSheddingMiddleware.priority_key", priority_key, example="a text, or leave it out"
        )
        validation.functions(
            "LoadSheddingMiddleware", observer=observer, clock=clock, processor=processor, luck=luck
        )
        Kernel.__init__(self, app, shedding=self, render=render, observer=observer, clock=clock)
        self.limiter: OverloadLimiter = limiter or OverloadLimiter("requests")
        self.limiter.mode = validation.choice("LoadSheddingMiddleware.mode", mode, Mode)
        self.is_off: bool = self.limiter.mode is Mode.OFF
        self.has_priorities: bool = bool(priority_of or priority_key or trusts)
        self.calm: Calm = Calm()
        self.luck: Luck = luck
        self._priority_of = priority_of
        self._key = priority_key.encode()
        self._spares = spares
        self._trusts = trusts
        self._late = 0.0
        self._refusals = {}
        self._processor = processor
        self._used = processor()
        self.observe(PolicyCreated(self.limiter.name, self.limiter.tally))
