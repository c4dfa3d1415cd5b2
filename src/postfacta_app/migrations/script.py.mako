"""${message}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from __future__ import annotations

from postfacta_app import migrations

revision = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
# Expand: only what the version before understands too. Contract when nothing uses the old schema.
upgrade, downgrade = migrations.ways(__file__)
