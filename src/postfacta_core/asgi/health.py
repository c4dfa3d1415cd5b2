"""Answer the probes of an orchestrator or load balancer from the registry's memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Final

from ..health._verdict import CheckReport, HealthReport
from ..health.registry import NO_LIFESPAN, HealthRegistry
from ..validation import validation
from ._kernel import Kernel
from ._problem import Problem, send_problem, send_whole
from ._settings import check_options
from ._types import ASGIApp, Scope, Send

_JSON: Final = b"application/json"
_PROBLEM_JSON: Final = b"application/problem+json"
_NOT_FOUND: Final = Problem(status=404, code="not-found", title="Not Found")
_WRONG_METHOD: Final = b'{"type":"about:blank","title":"Method Not Allowed","status":405}'
_PROBES: Final = ("live", "ready", "startup", "deps")


class HealthMiddleware(Kernel):
    """Serve `live`, `ready`, `startup`, and to permitted callers `deps`, below a prefix.

    No probe waits: each is answered from memory. `live` depends on nothing but the loop and is 200 while
    draining too; `ready` and `startup` are 200 or 503. All else goes on to the application, the bare prefix too.

    Args:
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
        check_options("HealthMiddleware", prefix=prefix, allow_detail=allow_detail)
        validation.instance("HealthMiddleware.registry", registry, HealthRegistry, example="HealthRegistry()")
        self._registry = registry
        self._allow_detail = allow_detail
        probes = _PROBES if allow_detail is not None else _PROBES[:-1]
        super().__init__(app, doors={f"{prefix}/{probe}": partial(self._answer, probe) for probe in probes})

    async def _answer(self, probe: str, scope: Scope, send: Send) -> None:
        if probe == "deps" and not self._may_see_detail(scope):
            await send_problem(scope, send, _NOT_FOUND)
        elif scope["method"] not in {"GET", "HEAD"}:
            await send_whole(scope, send, 405, _PROBLEM_JSON, _WRONG_METHOD, (b"allow", b"GET, HEAD"))
        else:
            status, members = self._said(probe, self._registry.snapshot())
            await send_whole(scope, send, status, _JSON, json.dumps(members, separators=(",", ":")).encode())

    def _may_see_detail(self, scope: Scope) -> bool:
        try:
            return self._allow_detail is not None and self._allow_detail(scope) is True
        except Exception:  # noqa: BLE001 - it is foreign code, and who cannot be judged is not let in
            return False

    def _said(self, probe: str, report: HealthReport) -> tuple[int, Mapping[str, object]]:
        state = "ready" if report.ready else "draining" if report.draining else "unready"
        match probe:
            case "live":
                is_well, state = report.live, "live" if report.live else "dead"
            case "startup":
                is_well, state = report.started, "started" if report.started else "starting"
            case "ready":
                is_well = report.ready
                if not (self._registry.is_entered or report.draining):
                    return 503, {"status": "unready", "detail": NO_LIFESPAN}
            case _:
                # Always 200: it answers a person's question, and no machine acts on it.
                members = {name: getattr(report, name) for name in ("live", "ready", "started", "draining")}
                return 200, {"status": state, **members, "checks": [_rounded(each) for each in report.checks]}
        return (200 if is_well else 503), {"status": state}


def _rounded(check: CheckReport) -> dict[str, object]:
    # To the microsecond: more digits are noise.
    return {
        key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(check).items()
    }
