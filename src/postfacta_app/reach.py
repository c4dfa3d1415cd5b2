"""Connect to the database for an interactive command."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr

from postfacta_core.events import ConnectionOpened, Event
from postfacta_postgres import Database, PoolOptions

from .db import SCHEMA_ERRORS
from .errors import CommandFailedError
from .settings import Settings

_WAIT = 5.0  # Seconds.
_OPTIONS = PoolOptions(max_size=2)


class NoDatabaseError(CommandFailedError):
    """The database is unreachable; the message says where, why, and what to check."""


@asynccontextmanager
async def reach(
    settings: Settings, *, dsn: SecretStr | None = None, options: PoolOptions = _OPTIONS
) -> AsyncGenerator[Database]:
    """Connect, and disconnect at the end of the block; `dsn` takes the place of the service's."""
    address = (dsn or settings.database_dsn).get_secret_value()
    reason = "no response"

    def listen(event: Event, /) -> None:
        nonlocal reason
        if isinstance(event, ConnectionOpened) and event.error_type:
            reason = event.error_type

    async with Database(address, options=options, observer=listen) as database:
        with anyio.move_on_after(_WAIT):
            await database.wait_connected()
        if not database.is_connected:
            where = urlsplit(address).netloc.rpartition("@")[2]
            raise NoDatabaseError(
                f"no database at {where} ({reason}); check that it is running, and POSTFACTA_DATABASE_DSN"
            )
        try:
            yield database
        except SCHEMA_ERRORS as error:
            raise NoDatabaseError(f"{error}: run `postfacta doctor` for advice") from error
