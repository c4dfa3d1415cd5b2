"""Answer the probes of a process: is it alive, ready, started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Final

from ..health import holders
from ..health._verdict import HealthReport
from ..health.registry import NO_LIFESPAN, HealthRegistry
from ..validation import validation
from ._doors import Doors
from ._problem import Problem, send_problem, send_whole
from ._settings import instance_of
from ._types import ASGIApp, Scope, Send
from .options import HardenOptions

_JSON: Final = b"application/json"
_PROBLEM_JSON: Final = b"application/problem+json"
_NOT_FOUND: Final = Problem(status=404, code="not-found", title="Not Found")
_WRONG_METHOD: Final = b'{"type":"about:blank","title":"Method Not Allowed","status":405}'
_DEFAULTS: Final = HardenOptions()


class HealthEndpoint(Doors):
    """Serve `live`, `ready`, `startup`, and to permitted callers `deps`, below a prefix.

    `live` depends on nothing but the loop and is 200 while draining too; `ready` and `startup` are
    200 or
    503. All else goes on to the application, the bare prefix too.

    Args:
        registry: It must be entered by the code that made it.
        options: Their `health_prefix` and `allow_health_detail`.
    """

    def __init__(
        self, app: ASGIApp, registry: HealthRegistry, options: HardenOptions = _DEFAULTS
    ) -> None:
        instance_of(HardenOptions)("HealthEndpoint.options", options)
        validation.instance(
            "HealthEndpoint.registry", registry, HealthRegistry, example="HealthRegistry()"
        )
        self._registry = registry
        self._allow_detail = options.allow_health_detail
        probes = options.probes if self._allow_detail is not None else options.probes[:-1]
        super().__init__(
            app, {path: partial(self._answer, path.rpartition("/")[2]) for path in probes}
        )

    async def _answer(self, probe: str, scope: Scope, send: Send) -> None:
        if probe == "deps" and not self._may_see_detail(scope):
            await send_problem(scope, send, _NOT_FOUND)
        elif scope["method"] not in {"GET", "HEAD"}:
            await send_whole(
                scope, send, 405, _PROBLEM_JSON, _WRONG_METHOD, (b"allow", b"GET, HEAD")
            )
        else:
            status, members = self._verdict(probe, self._registry.snapshot())
            await send_whole(
                scope, send, status, _JSON, json.dumps(members, separators=(",", ":")).encode()
            )

    def _may_see_detail(self, scope: Scope) -> bool:
        try:
            return self._allow_detail is not None and self._allow_detail(scope) is True
        except Exception:  # noqa: BLE001 - it is foreign code, and who cannot be judged is not let in
            return False

    def _verdict(self, probe: str, report: HealthReport) -> tuple[int, Mapping[str, object]]:
        state = "ready" if report.ready else "draining" if report.draining else "unready"
        match probe:
            case "live":
                is_well = report.live
                state = "live" if report.live else "dead"
            case "startup":
                is_well = report.started
                state = "started" if report.started else "starting"
            case "ready":
                is_well = report.ready
                if not (self._registry.is_entered or report.draining):
                    return 503, {"status": "unready", "detail": NO_LIFESPAN}
            case _:
                # Always 200: it answers a person's question, and no machine acts on it.
                members = {
                    name: getattr(report, name) for name in ("live", "ready", "started", "draining")
                }
                return 200, {
                    "status": state,
                    **members,
                    "checks": [asdict(check) for check in report.checks],
                    "holders": holders.rows(),
                }
        return (200 if is_well else 503), {"status": state}
