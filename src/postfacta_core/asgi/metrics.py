"""Serve the metrics of one worker, or of all, without blocking the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import anyio
import anyio.to_thread

from ..events import Observer, ignore
from ..health.siblings import Siblings
from ..telemetry.catalogue import RUNTIME_METRICS
from ..telemetry.metrics import Exposition, Metrics
from ..validation import validation
from ._doors import Doors
from ._problem import send_whole
from ._settings import check_options, has_bearer_token as has_bearer_token, instance_of
from ._types import ASGIApp, Scope, Send
from .options import HardenOptions

_TEXT: Final = b"text/plain; charset=utf-8"
_WORKERS: Final = "postfacta_metrics_workers"
_END: Final = b"# EOF"
_DEFAULTS: Final = HardenOptions()


class MetricsEndpoint(Doors):
    """Answer GET and HEAD on one path with the metrics; all else goes on to the application.

    They are rendered in a worker thread, one scrape at a time: 11,000 series take 80 ms.

    Args:
        metrics: What to render.
        options: Their `metrics_path`, `metrics_token`, `allow_metrics` and `metrics_workers`.

    Attributes:
        siblings: To be entered in the service's lifespan; None without `metrics_workers`.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        options: HardenOptions = _DEFAULTS,
        *,
        observer: Observer = ignore,
    ) -> None:
        check_options("MetricsEndpoint", observer=observer)
        instance_of(HardenOptions)("MetricsEndpoint.options", options)
        validation.instance("MetricsEndpoint.metrics", metrics, Metrics, example="Metrics()")
        self._metrics = metrics
        self._token = options.metrics_token
        self._allow = options.allow_metrics
        # A limiter of its own: a scrape takes no thread from the application's handlers.
        self._limiter = anyio.CapacityLimiter(1)
        self.siblings: Siblings | None = None
        if options.metrics_workers:
            self.siblings = Siblings(
                options.metrics_workers, self._answer_sibling, observer=observer
            )
        super().__init__(app, {options.metrics_path: self._scrape})

    async def _scrape(self, scope: Scope, send: Send) -> None:
        headers = dict(scope["headers"])
        if scope["method"] not in {"GET", "HEAD"}:
            await send_whole(
                scope, send, 405, _TEXT, b"Only GET and HEAD\n", (b"allow", b"GET, HEAD")
            )
        elif (self._token and not has_bearer_token(headers, self._token)) or not (
            self._allow is None or self._allow(scope)
        ):
            header = (b"www-authenticate", b"Bearer")
            await send_whole(scope, send, 401, _TEXT, b"A bearer token is needed\n", header)
        else:
            accept = headers.get(b"accept", b"")
            page, kind = await self._render(accept)
            if self.siblings is not None:
                pages, silent = await self.siblings.ask(accept)
                join = partial(merge, [page, *pages], silent=silent)
                page = await anyio.to_thread.run_sync(join, limiter=self._limiter)
            await send_whole(scope, send, 200, kind.encode("ascii"), page, (b"vary", b"accept"))

    async def _render(self, accept: bytes) -> Exposition:
        labels = {} if self.siblings is None else {"worker": str(self.siblings.number)}
        render = partial(self._metrics.render, accept.decode("latin-1"), labels=labels)
        return await anyio.to_thread.run_sync(render, limiter=self._limiter)

    async def _answer_sibling(self, question: bytes) -> bytes:
        return (await self._render(question)).body


def merge(pages: Sequence[bytes], *, silent: int = 0) -> bytes:
    """Join the pages of the workers that answered; `silent` others did not.

    All have the same format, and each has a label of its own on its series: nothing is added up,
    none occurs twice. What Prometheus asks for is that all series of a metric stand together, below
    one heading.
    """
    about = (
        f"# HELP {_WORKERS} {RUNTIME_METRICS[_WORKERS].text}\n# TYPE {_WORKERS} gauge\n"
        f'{_WORKERS}{{state="answered"}} {float(len(pages))}\n{_WORKERS}{{state="silent"}}'
        f" {float(silent)}\n"
    )
    sections: dict[bytes, list[bytes]] = {}
    for page in (*pages, about.encode()):
        section = list[bytes]()
        is_first = False
        # Not by `splitlines`: a carriage return may stand in a label.
        for line in page.rstrip(b"\n").split(b"\n"):
            if line.startswith(b"# HELP "):
                name = line.split(b" ", 3)[2]
                is_first = name not in sections
                section = sections.setdefault(name, [])
            # Of two versions of the service, the first one's heading stays.
            if line != _END and (is_first or not line.startswith(b"# ")):
                section.append(line)
    lines = [line for section in sections.values() for line in section]
    if any(page.rstrip().endswith(_END) for page in pages):
        lines.append(_END)
    return b"".join(line + b"\n" for line in lines)
