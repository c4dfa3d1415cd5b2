"""Put `harden`, or a wrapper that does nothing, around each application that a test gives to Starlette's `TestClient`."""

from __future__ import annotations

import os
import weakref
from typing import Any

from starlette import testclient

from postfacta_core.asgi import harden

_module: Any = testclient


class Around:
    """An application around another one, whose attributes it has.

    Tests ask for `client.app.state`.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._outer = harden(app, service="peer") if os.environ["PEER_LANE"] == "ours" else app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._outer(scope, receive, send)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {"_app", "_outer"}:
            object.__setattr__(self, name, value)
        else:
            setattr(self._app, name, value)


# An application is hardened once, as its owner does, however often a test makes a client for it.
_made: weakref.WeakKeyDictionary[Any, Around] = weakref.WeakKeyDictionary()


def around(app: Any) -> Any:
    """Return the application as a client is to see it."""
    if os.environ["PEER_LANE"] == "plain" or not _module._is_asgi3(app):  # noqa: SLF001 - as the client asks
        return app
    try:
        if app not in _made:
            _made[app] = Around(app)
        return _made[app]
    except TypeError:  # It has no weak references.
        return Around(app)


_client: Any = testclient.TestClient
_original = _client.__init__


def _init(self: Any, app: Any, *args: Any, **options: Any) -> None:
    _original(self, around(app), *args, **options)


_client.__init__ = _init
