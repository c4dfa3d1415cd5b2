"""Answer the probes of an orchestrator or load balancer from the registry's memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Final

from ..health._verdict import CheckReport, HealthReport
from ..health.registry import NO_LIFESPAN, HealthRegistry
from ..validation import validation
from ._kernel import Doors
from ._problem import Problem, send_problem, send_whole
from ._settings import settings
from ._types import ASGIApp, Scope, Send

_JSON: Final = b"application/json"
_PROBLEM_JSON: Final = b"application/problem+json"
_NOT_FOUND: Final = Problem(status=404, code="not-found", title="Not Found")
_WRONG_METHOD: Final = b'{"type":"about:blank","title":"Method Not Allowed","status":405}'
_Answer = tuple[int, bytes]
_MISSING: Final = (
    503,
    json.dumps({"status": "unready", "detail": NO_LIFESPAN}, separators=(",", ":")).encode(),
)


class HealthMiddleware(Doors):
    """Serve `live`, `ready`, `startup`, and to permitted callers `deps`, below a prefix.

    No probe waits: each is answered from memory. `live` depends on nothing but the loop and is 200 while
    draining too; `ready` and `startup` are 200 or 503. All else goes on to the application, the bare prefix too.

    Args:
        app: The application to wrap.
        registry: Holds the service's health. It must be entered by the code that made it.
        prefix: Where, below the server's `root_path`; such as `/healthz`, or empty.
        allow_detail: Returns whether a request may see the checks by name; all others get a 404, and so do all
            if it raises. None leaves that path to the application.
    """

    def __init__(
        self,
        app: ASGIApp,
        registry: HealthRegistry,
        *,
        prefix: str = "/healthz",
        allow_detail: Callable[[Scope], bool] | None = None,
    ) -> None:
        settings.application("HealthMiddleware", app, allow_detail=allow_detail)
        validation.instance("HealthMiddleware.registry", registry, HealthRegistry, example="HealthRegistry()")
        settings.prefix("HealthMiddleware.prefix", prefix)
        self._registry = registry
        self._allow_detail = allow_detail
        probes: dict[str, Callable[[HealthReport], _Answer]] = {
            f"{prefix}/live": _live,
            f"{prefix}/ready": _ready,
            f"{prefix}/startup": _startup,
        }
        if allow_detail is not None:
            probes[f"{prefix}/deps"] = _detail

        super().__init__(app, doors={path: partial(self._answer, probe) for path, probe in probes.items()})

    async def _answer(self, probe: Callable[[HealthReport], _Answer], scope: Scope, send: Send) -> None:
        if probe is _detail and not self._may_see_detail(scope):
            await send_problem(scope, send, _NOT_FOUND)
        elif scope["method"] not in {"GET", "HEAD"}:
            await send_whole(scope, send, 405, _PROBLEM_JSON, _WRONG_METHOD, (b"allow", b"GET, HEAD"))
        else:
            report = self._registry.snapshot()
            is_missing = probe is _ready and not (self._registry.is_entered or report.draining)
            status, body = _MISSING if is_missing else probe(report)
            await send_whole(scope, send, status, _JSON, body)

    def _may_see_detail(self, scope: Scope) -> bool:
        try:
            return self._allow_detail is not None and self._allow_detail(scope) is True
        except Exception:  # noqa: BLE001 - it is foreign code, and who cannot be judged is not let in
            return False


def _live(report: HealthReport) -> _Answer:
    return _said(report.live, "live", "dead")


def _ready(report: HealthReport) -> _Answer:
    return _said(report.ready, "ready", "draining" if report.draining else "unready")


def _startup(report: HealthReport) -> _Answer:
    return _said(report.started, "started", "starting")


def _said(is_well: bool, well: str, ill: str) -> _Answer:  # noqa: FBT001 - a verdict
    return (200 if is_well else 503), b'{"status":"%s"}' % (well if is_well else ill).encode()


def _detail(report: HealthReport) -> _Answer:
    # Always 200: it answers a person's question, and no machine acts on it.
    state = "ready" if report.ready else "draining" if report.draining else "unready"
    members = {
        "status": state,
        "live": report.live,
        "ready": report.ready,
        "started": report.started,
        "draining": report.draining,
        "checks": [_rounded(check) for check in report.checks],
    }
    return 200, json.dumps(members, separators=(",", ":")).encode()


def _rounded(check: CheckReport) -> dict[str, object]:
    # To the microsecond: more digits are noise.
    return {
        key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(check).items()
    }
