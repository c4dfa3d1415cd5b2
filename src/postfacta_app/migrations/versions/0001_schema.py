"""The thirteen tables, their checks, and the two triggers that keep facts append-only, in the file of SQL beside this one.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

from postfacta_app.migrations import NoDowngradeError
from postfacta_app.migrations.sql import statements

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Create everything in one transaction."""
    for statement in statements(__file__):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Always raise: facts would be lost."""
    raise NoDowngradeError(revision)
