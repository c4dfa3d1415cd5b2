"""${message}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from __future__ import annotations

from alembic import op

from postfacta_app.migrations import NoDowngradeError

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: str | None = ${repr(branch_labels)}
depends_on: str | None = ${repr(depends_on)}

# Only what the previous version of the code also understands: expand now, contract when nothing uses the old schema.
_STATEMENTS: tuple[str, ...] = ()


def upgrade() -> None:
    """Expand, in one transaction."""
    for statement in _STATEMENTS:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Refuse: the next revision mends this one."""
    raise NoDowngradeError(revision)
