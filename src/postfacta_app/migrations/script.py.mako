"""${message}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from __future__ import annotations

from alembic import op

from postfacta_app.migrations import NoDowngradeError
from postfacta_app.migrations.sql import statements

revision = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}


def upgrade() -> None:
    """Expand: only what the version before understands too. Contract when nothing uses the old schema."""
    for statement in statements(__file__):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Refuse: the next revision mends this one."""
    raise NoDowngradeError(revision)
