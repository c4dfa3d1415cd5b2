"""List the guards of the process for its operator, and change what may be changed while it runs."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final

from ..guards._guard import Guard, registry
from ..health import holders
from ..validation import validation
from ._problem import send_whole
from ._settings import Secret, check_options, has_bearer_token
from ._types import Receive, Scope, Send

_LOG: Final = logging.getLogger("postfacta")
_LONGEST: Final = 4096  # Bytes of a change, which has three short texts.
_JSON: Final = b"application/json"
# What may be done to a guard, besides setting its mode: names of its methods.
_ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "breaker": ("open", "force_open", "reset"),
    "fallback": ("clear",),
}
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# A proxy on this machine has an address of it, and its clients may be anyone.
_FORWARDED: Final = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-real-ip"})
_is_own_name = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d*)?", re.IGNORECASE).fullmatch
_Answer = tuple[int, object]
# RFC 9110, sections 11.6.1 and 15.5.6.
_MORE: Final = {401: [(b"www-authenticate", b"Bearer")], 405: [(b"allow", b"GET, HEAD, POST")]}


class OperatorEndpoint:
    """An ASGI application for the operator, to be mounted where only they can reach it.

    `GET` answers with all guards, their settings, modes and status, and with the requests that hold
    a connection while their responses stream. `POST` changes a guard, by a JSON object:

        {"kind": "breaker", "name": "billing", "action": "force_open"}
        {"kind": "retry", "name": "billing", "mode": "shadow"}
        {"logger": "postfacta", "level": "DEBUG"}

    A circuit can be opened (`open`, `force_open`) and `reset`; a fallback `clear`ed. Each change is
    a line in the log, `operator.changed`, with the address it came from.

    Args:
        token: The bearer token that each request must bring, or a function that returns all that
            hold now.
        local: Serve a client on this machine without a token. Behind a proxy on it that adds no
            header of its own, as HAProxy and nginx do by default, everyone is such a client.

    Raises:
        ValueError: If a setting is wrong, or there is neither a token nor `local`.
    """

    def __init__(self, *, token: Secret = "", local: bool = False) -> None:
        check_options("OperatorEndpoint", token=token)
        validation.flag("OperatorEndpoint.local", local)
        if not (token or local):
            rule = "set; or local=True, if no proxy on this machine hands requests on"
            validation.refuse(
                "OperatorEndpoint.token", "", rule, example='token="a long random text"'
            )
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; raise `TypeError` if it is none of HTTP."""
        if scope["type"] != "http":
            raise TypeError(
                f"OperatorEndpoint serves HTTP, not {scope['type']}: mount it as a route"
            )
        headers = dict(scope["headers"])
        token = self._token
        method: str = scope["method"]
        if not (has_bearer_token(headers, token) if token else _is_local(scope, headers)):
            answer: _Answer = (
                401,
                "a bearer token is needed, or without one a client on this machine",
            )
        elif method in {"GET", "HEAD"}:
            guards = [_shown(guard) for guard in registry]
            answer = 200, {"guards": guards, "holders": holders.rows()}
        elif method != "POST":
            answer = 405, "only GET, HEAD and POST"
        elif not (
            token or headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == _JSON
        ):
            # A page of another site cannot send this type, or a token, without asking first.
            answer = 415, "the body must be application/json"
        else:
            answer = self._change(await _body(receive), scope)
        status, content = answer
        page = json.dumps({"detail": content} if isinstance(content, str) else content).encode()
        await send_whole(scope, send, status, _JSON, page, *_MORE.get(status, ()))

    def _change(self, body: bytes, scope: Scope) -> _Answer:
        try:
            change: Any = json.loads(body)
            answer = self._apply(change)
        except KeyError as error:
            return 404, error.args[0]
        except (ValueError, RecursionError) as error:
            return 422, str(error)
        client = scope.get("client") or ("unknown", 0)
        _LOG.warning(
            "operator.changed", extra={"client_address": client[0], "change": json.dumps(change)}
        )
        return 200, answer

    def _apply(self, change: Any) -> object:
        match change:
            case {"logger": str(logger), "level": str(level), **more} if not more:
                validation.one_of("level", level, _LEVELS)
                logging.getLogger(logger).setLevel(level)
                return {"logger": logger, "level": level}
            case {"kind": str(kind), "name": str(name), "mode": str(mode), **more} if not more:
                guard = registry.find(kind, name)
                guard.mode = mode
                return _shown(guard)
            case {"kind": str(kind), "name": str(name), "action": str(action), **more} if not more:
                guard = registry.find(kind, name)
                actions = _ACTIONS.get(kind, ())
                if action not in actions:
                    raise ValueError(
                        f"of a {kind}, an action is one of {list(actions)}: {action!r}"
                    )
                getattr(guard, action)()
                return _shown(guard)
            case _:
                forms = "kind, name and mode; kind, name and action; or logger and level"
                raise ValueError(f"give {forms}: all texts")


def _shown(guard: Guard) -> Mapping[str, object]:
    settings = _plain(guard.settings())
    status = _plain(guard.status())
    return {"kind": guard.kind, "name": guard.name, "settings": settings, "status": status}


def _plain(facts: Mapping[str, object]) -> Mapping[str, object]:
    """Write as texts what JSON has no number for."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in facts.items()
    }


def _is_local(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    client: Any = scope.get("client")
    try:
        is_own = client is not None and ip_address(client[0]).is_loopback
    except ValueError:
        return False
    return (
        is_own and bool(_is_own_name(headers.get(b"host", b""))) and not _FORWARDED & headers.keys()
    )


async def _body(receive: Receive) -> bytes:
    body = b""
    more = True
    while more and len(body) <= _LONGEST:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body[:_LONGEST]
