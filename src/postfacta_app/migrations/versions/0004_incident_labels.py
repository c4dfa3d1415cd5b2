"""Labels of incidents, in a table of their own, which the program before neither reads nor writes.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

from postfacta_app.migrations import NoDowngradeError
from postfacta_app.migrations.sql import statements

revision = "0004"
down_revision: str | None = "0003"


def upgrade() -> None:
    """Create the table; the service gets its rights from `grant`."""
    for statement in statements(__file__):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Always raise: a revision is never taken back."""
    raise NoDowngradeError(revision)
