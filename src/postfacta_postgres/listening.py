"""Receive PostgreSQL's notifications on a connection of their own, for as long as that can be had.

1. A notification is a hint that something may be new, never its content: one may be lost with its
   connection, and many may be one.
2. So what was missed meanwhile is looked for as soon as a connection listens again.
3. A connection that is silent is asked now and then: a link that broke without a word is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import anyio

from postfacta_core.validation import validation

from .connecting import Connector, RawConnection, Setup

_ASKED_EACH: Final = 15.0  # Seconds between two signs of life.
# Bytes of a name in PostgreSQL: NAMEDATALEN - 1. A longer one is cut, and would match others.
_LONGEST_NAME: Final = 63


class Listener:
    """Listens on one channel, for `Feed.follow`.

    Args:
        setup: That of the database.
        connector: Opens its connection.
        channel: The name that `pg_notify` is given.

    Attributes:
        is_listening: Whether a connection listens now.
    """

    def __init__(self, setup: Setup, connector: Connector, channel: str) -> None:
        example = 'database.listen("orders")'
        validation.text("Database.listen.channel", channel, empty=False, example=example)
        if len(channel.encode()) > _LONGEST_NAME or "\0" in channel:
            rule = f"a name of at most {_LONGEST_NAME} bytes without NUL"
            validation.refuse("Database.listen.channel", channel, rule, example=example)
        if setup.options.transaction_pooling:
            rule = "False where something listens: a pooler would give the session to others"
            validation.refuse(
                "PoolOptions.transaction_pooling", value=True, rule=rule, example=example
            )
        self.is_listening: bool = False
        self._setup = setup
        self._connector = connector
        self._channel = channel

    async def __call__(self, look: Callable[[], object]) -> NoReturn:
        """Call a function whenever something may be new, until cancelled.

        That is after each notification, and each time that listening began.
        """
        failures = 0
        while True:
            try:
                connection = await self._connector.open(self._setup.options.connect_timeout)
            except Exception:  # noqa: BLE001 - an event reported it, and it is tried again
                failures += 1
            else:
                failures = 1 if await self._listen(connection, look) else failures + 1
            delay = self._setup.options.reconnect.delay(failures, self._setup.luck())
            await anyio.sleep(delay)

    async def _listen(self, connection: RawConnection, look: Callable[[], object]) -> bool:
        """Listen while the connection lasts; return whether it did at all."""
        ended = anyio.Event()
        has_listened = False
        connection.add_termination_listener(lambda _: ended.set())

        def notice(*_: object) -> None:
            look()

        try:
            with anyio.fail_after(self._connector.patience):
                await connection.add_listener(self._channel, notice)
            self.is_listening = has_listened = True
            look()
            while not ended.is_set():
                with anyio.move_on_after(_ASKED_EACH):
                    await ended.wait()
                    break
                with anyio.fail_after(self._connector.patience):
                    await connection.fetchval("select 1")
        except Exception:  # noqa: BLE001 - it broke in whatever way: another one is opened
            return has_listened
        finally:
            self.is_listening = False
            connection.terminate()
        return has_listened
