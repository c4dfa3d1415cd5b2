"""A stack whose database has a synchronous standby, to fail over to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlsplit

from chaos.processes import Postgres
from chaos.stack import Stack
from postfacta_embedded import EmbeddedPostgres, StandbyPostgres

__all__ = ["FailoverStack"]

_NAME = "standby"


class FailoverStack(Stack):
    """As ``Stack``, with a standby.

    The instances know both addresses and look for the one that takes writes.

    The standby is synchronous: what was acknowledged is on both. With an asynchronous one a
    failover loses the last moments, without any client knowing.
    """

    settings: ClassVar[Mapping[str, str]] = {"synchronous_standby_names": _NAME}

    def dsn(self) -> str:
        """Return both addresses, and what to look for."""
        primary, standby = (urlsplit(server.dsn()) for server in (self._first, self._standby))
        user, _, one = primary.netloc.rpartition("@")
        other = standby.netloc.rpartition("@")[2]
        return f"postgresql://{user}@{one},{other}{primary.path}?target_session_attrs=read-write"

    def fail_over(self) -> None:
        """Promote the standby.

        The old primary must be dead, and stays so: two of them would be one too many.
        """
        if self._first.poll() is None and self._first.pid is not None:
            raise RuntimeError("the old primary lives: end it first")
        self._standby.promote()
        self.postgres = Postgres(self._standby)

    def _start_around(self) -> None:
        self._first: EmbeddedPostgres = self.postgres.server
        self._standby = StandbyPostgres(self._first, self.folder / "standby", name=_NAME)
        self._closing.enter_context(self._standby)
