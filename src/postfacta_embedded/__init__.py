"""A real PostgreSQL as a child process, for the demo, the tests and the chaos suite.

* ``errors``     -- the one error: what failed, why, what to do
* ``diagnosis``  -- what a failed program's words mean
* ``lock``       -- one owner for one data folder
* ``account``    -- how to run PostgreSQL without being root
* ``binaries``   -- where PostgreSQL is found, in a stated order
* ``postmaster`` -- what postmaster.pid says, and how to end an orphan
* ``cluster``    -- the files: create them once, or say why they cannot be used
* ``server``     -- ``EmbeddedPostgres``: start, watch, stop
* ``standby``    -- ``StandbyPostgres``: one that follows another, until it is promoted

A file imports only those above it. The package needs nothing but the standard library, and it reads
no environment variable: the caller passes everything in.
"""

from __future__ import annotations

from .errors import EmbeddedPostgresError
from .server import EmbeddedPostgres
from .standby import StandbyPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "StandbyPostgres"]
