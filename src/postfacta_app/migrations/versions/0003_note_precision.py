"""How exactly the time of a note is known; the kept timelines follow it.

It stands at the first version of a note. The program before writes none, and its notes stay exact, whatever version of
theirs comes later.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

from postfacta_app.migrations import NoDowngradeError
from postfacta_app.migrations.sql import statements

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    """Add the column, and have the rules read it."""
    for statement in statements(__file__):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Always raise: a revision is never taken back."""
    raise NoDowngradeError(revision)
