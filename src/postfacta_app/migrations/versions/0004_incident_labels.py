"""Labels of incidents, in a table of their own, which the program before neither reads nor writes.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from postfacta_app.migrations import sql

revision = "0004"
down_revision: str | None = "0003"
downgrade = sql.downgrade


def upgrade() -> None:
    """Create the table; the service gets its rights from `grant`."""
    sql.run(__file__)
