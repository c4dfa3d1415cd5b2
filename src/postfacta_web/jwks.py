"""Verify tokens with the public keys of their issuer, which are fetched in the background.

It needs the extra `jwt`, which brings PyJWT. Requests read a cache, so that an issuer may be away:
for a day, by default.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import copy_context
from inspect import isroutine
from typing import Any, Final, cast

import anyio

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.errors import RejectedError
from postfacta_core.functions import is_async
from postfacta_core.installation import missing_extra
from postfacta_core.validation import validation

try:
    # PyJWT has no public keys without it.
    import cryptography  # noqa: F401 # pyright: ignore[reportUnusedImport]
    from jwt import PyJWK, PyJWKSet, PyJWS, get_unverified_header
    from jwt.exceptions import PyJWTError
except ModuleNotFoundError as _error:
    raise missing_extra(__name__, "jwt", _error) from _error

__all__ = ["Jwks"]

_LONGEST_TOKEN: Final = 8_192  # Characters; most issuers' have about 1,000.
# Anyone may send a token with any key id: these bound what is kept of them.
_LONGEST_KID: Final = 128
_MOST_UNKNOWN: Final = 128
# By key type. Others could let the token choose its verification: `oct` is not a public key.
_ALGORITHMS: Final = {"EC": "ES256", "RSA": "RS256"}
_SIGNED: Final = PyJWS(options={"enforce_minimum_key_length": True})


class _UnusableError(ValueError):
    """What was fetched is no key set that can be used."""


class Jwks:
    """The public keys of one issuer of tokens, such as Keycloak or Auth0, and what they verify.

        async def fetch():
            response = await client.get("https://login.example.org/.well-known/jwks.json")
            return response.raise_for_status().json()

        keys = Jwks(fetch)
        app = harden(api, service="billing", resources=[keys.running()])
        claims = await keys.verify(token, issuer="https://login.example.org/", audience="billing")

    The keys are fetched at the start, in the background once they are no longer fresh, and when a
    token names an unknown key. When that fails, or brings no usable key, those that are known stay.
    Usable are keys that verify ES256 or RS256 and have a `kid`; all others are left out. An empty
    set is taken if no key is known, and removes none.

    Args:
        fetch: An async function that returns the key set as parsed from JSON, `{"keys": [...]}`, or
            raises. It runs in a task of its own, without the request's deadline.
        name: The issuer, the `policy` of errors and of the log event `jwks.failed`.
        fresh: Seconds after which known keys are fetched again.
        valid: Seconds for which they are used without a fetch that succeeds.
        pause: Seconds between the beginnings of two fetches, whatever comes of them.
        timeout: Seconds for one fetch, at most the pause. A token with an unknown key waits for it.
        most_keys: A set of more keys is refused as a whole.
        clock: Monotonic seconds.
        wall: Seconds since 1970, for the times in a token.

    Raises:
        ValueError: If a setting is wrong.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[object]],
        *,
        name: str = "jwks",
        fresh: float = 600.0,
        valid: float = 86_400.0,
        pause: float = 30.0,
        timeout: float = 5.0,
        most_keys: int = 16,
        clock: Clock = MONOTONIC,
        wall: Clock = WALL,
    ) -> None:
        validation.function("Jwks.fetch", fetch, example="async def fetch(): ...")
        if (
            not is_async(fetch)
            and isroutine(fetch)
            and getattr(fetch, "__name__", "") != "<lambda>"
        ):
            rule = "an async function: a plain one would block the event loop"
            validation.refuse("Jwks.fetch", fetch, rule, example="async def fetch(): ...")
        self.name: str = validation.name("Jwks.name", name, example='"login"')
        validation.seconds("Jwks.fresh", fresh, example="fresh=600.0")
        validation.seconds("Jwks.valid", valid, at_least=fresh, example="valid=86_400.0")
        validation.seconds("Jwks.pause", pause, example="pause=30.0")
        validation.seconds("Jwks.timeout", timeout, at_most=pause, example="timeout=5.0")
        validation.whole("Jwks.most_keys", most_keys, example="most_keys=16")
        validation.functions("Jwks", clock=clock, wall=wall)
        self._fetch = fetch
        self._timeout = timeout
        self._most_keys = most_keys
        self._fresh = fresh
        self._valid = valid
        self._pause = pause
        self._clock = clock
        self._wall = wall
        self._keys: Mapping[str, PyJWK] = {}
        self._read_at = -math.inf
        self._not_before = 0.0
        # Requested names that the last fetched keys lacked.
        self._unknown: deque[str] = deque(maxlen=_MOST_UNKNOWN)
        self._fetched = anyio.Event()
        self._begin: Callable[[float], object] | None = None

    @property
    def is_fetching(self) -> bool:
        """Whether a fetch is under way, or the first has not begun."""
        return not self._fetched.is_set()

    def age(self) -> float:
        """Return the seconds since the fetch that brought the present keys.

        Infinite before the first. For a metric.
        """
        return self._clock() - self._read_at

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Fetch at once, and then as needed until the block ends.

        A resource for `harden(resources=[...])`.
        """
        async with anyio.create_task_group() as tasks:
            # Outside of the request that wants it, whose deadline is not the fetch's.
            outside = copy_context()
            self._begin = lambda now: outside.run(tasks.start_soon, self._read, now)
            self._not_before = self._clock()
            self._want(self._not_before)
            try:
                yield
            finally:
                self._begin = None
            tasks.cancel_scope.cancel()

    async def key(self, kid: str) -> PyJWK | None:
        """Return the key of a name; None if the issuer has none of it.

        Raises:
            RejectedError: If none could be fetched for as long as keys are valid, with the seconds
                until the next try.
            RuntimeError: If a fetch is needed outside of `running`.
        """
        if len(kid) > _LONGEST_KID:
            return None
        now = self._clock()
        if self._is_good(now) and (kid in self._keys or kid in self._unknown):
            if now >= self._read_at + self._fresh:
                self._want(now)
            return self._keys.get(kid)
        self._want(now)
        await self._fetched.wait()
        if not self._is_good(self._clock()):
            raise RejectedError(self.name, max(1.0, self._not_before - self._clock()))
        if kid not in self._keys and self._read_at >= now:
            self._unknown.append(kid)
        return self._keys.get(kid)

    async def signed(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a token that the issuer signed, for whatever service and time.

        Else None; see `key`.

        The key's own algorithm verifies the signature, never the token's choice. Who calls this
        checks the claims, as where an issuer has an `iss` for each tenant; otherwise use `verify`.
        """
        if len(token) > _LONGEST_TOKEN:
            return None
        try:
            header = get_unverified_header(token)
            kid = header.get("kid")
            if header.get("alg") not in _ALGORITHMS.values() or not isinstance(kid, str):
                return None
            key = await self.key(kid)
            if key is None:
                return None
            claims: object = json.loads(_SIGNED.decode(token, key, algorithms=[key.algorithm_name]))
        except (PyJWTError, ValueError, RecursionError):
            return None
        return cast("dict[str, Any]", claims) if isinstance(claims, dict) else None

    async def verify(
        self, token: str, *, issuer: str, audience: str, leeway: float = 30.0
    ) -> dict[str, Any] | None:
        """Return the claims of a token that is valid for this service now, else None.

        It is signed as `signed` says; `iss` is exactly the issuer, `aud` is the audience or a list
        with it; `exp` is there and not over, `nbf` and `iat` are not in the future. All else, such
        as roles, is the caller's to check.

        Args:
            token: As it came, without `Bearer`.
            issuer: As in the tokens; a slash at the end matters.
            audience: This service, as the issuer knows it.
            leeway: Seconds by which its clock and ours may differ.

        Raises:
            RejectedError: If no key could be fetched for as long as keys are valid; see `key`.
            ValueError: If a setting is wrong.
        """
        validation.text(
            "Jwks.verify.issuer", issuer, empty=False, example='"https://login.example.org/"'
        )
        validation.text("Jwks.verify.audience", audience, empty=False, example='"billing"')
        validation.number("Jwks.verify.leeway", leeway, at_least=0.0, example="leeway=30.0")
        claims = await self.signed(token)
        if claims is None or claims.get("iss") != issuer:
            return None
        claimed: object = claims.get("aud")
        audiences = cast("list[object]", claimed) if isinstance(claimed, list) else [claimed]
        return (
            claims if audience in audiences and _is_current(claims, self._wall(), leeway) else None
        )

    def _is_good(self, now: float) -> bool:
        return now < self._read_at + self._valid

    def _want(self, now: float) -> None:
        if self._begin is None:
            raise RuntimeError(
                "Jwks fetches keys within its running(): harden(app, resources=[keys.running()])"
            )
        if now >= self._not_before:
            self._not_before = now + self._pause
            self._fetched = anyio.Event()
            self._begin(now)

    async def _read(self, began: float) -> None:
        try:
            with anyio.fail_after(self._timeout):
                keys = self._usable(await self._fetch())
            # An empty set means that the issuer signs by a secret; it does not revoke known keys.
            if keys or not self._keys or not self._is_good(began):
                self._keys = keys
                self._read_at = began
        except Exception as error:  # noqa: BLE001 - on any failure the known keys stay valid
            # The text of others may hold the address with its credentials.
            reason = str(error) if isinstance(error, _UnusableError) else ""
            fields = {"policy": self.name, "error": type(error).__name__, "reason": reason}
            logging.getLogger(__name__).warning("jwks.failed", extra=fields)
        finally:
            self._fetched.set()

    def _usable(self, document: object) -> Mapping[str, PyJWK]:
        entries: object = (
            cast("Mapping[str, object]", document).get("keys")
            if isinstance(document, Mapping)
            else None
        )
        if not isinstance(entries, list) or len(cast("list[object]", entries)) > self._most_keys:
            raise _UnusableError(f"not a set of at most {self._most_keys} keys")
        keys = {
            key.key_id: key
            for key in (PyJWKSet(cast("list[dict[str, Any]]", entries)).keys if entries else ())
            if isinstance(key.key_id, str)
            and key.public_key_use in (None, "sig")  # not a set: the value may be unhashable
            and key.algorithm_name == _ALGORITHMS.get(str(key.key_type))
        }
        if entries and not keys:
            raise _UnusableError("none of the keys is usable")
        return keys


def _is_current(claims: Mapping[str, Any], now: float, leeway: float) -> bool:
    """Return whether the times of a token are numbers, of any size, and now is between them."""
    times = claims.get("exp"), claims.get("nbf", 0), claims.get("iat", 0)
    if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times):
        return False
    end, *begins = cast("tuple[float, ...]", times)
    return end > now - leeway and all(begin <= now + leeway for begin in begins)
