"""Let uvicorn serve each ASGI application of its tests hardened, or within a wrapper that does nothing."""

from __future__ import annotations

import inspect
import os
from typing import Any

from uvicorn import config

from postfacta_core.asgi import harden


class Around:
    """An application around another one."""

    def __init__(self, app: Any) -> None:
        self._outer = harden(app, service="peer") if os.environ["PEER_LANE"] == "ours" else app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._outer(scope, receive, send)


def _is_application(app: Any) -> bool:
    called = app if inspect.isfunction(app) else getattr(app, "__call__", None)  # noqa: B004 - as uvicorn asks
    return not inspect.isclass(app) and inspect.iscoroutinefunction(called)


_config: Any = config.Config
_original = _config.load_app


def _load_app(self: Any) -> Any:
    app = _original(self)
    return Around(app) if os.environ["PEER_LANE"] != "plain" and _is_application(app) else app


_config.load_app = _load_app
