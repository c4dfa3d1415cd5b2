"""The thirteen tables, their checks, and the two triggers that keep facts append-only, in the file of SQL beside this one.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from postfacta_app.migrations import sql

revision = "0001"
down_revision: str | None = None
downgrade = sql.downgrade


def upgrade() -> None:
    """Create everything in one transaction."""
    sql.run(__file__)
