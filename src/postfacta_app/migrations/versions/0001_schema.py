"""The thirteen tables, their checks, and the two triggers that keep facts append-only, in the file of SQL beside this one.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from postfacta_app import migrations

revision = "0001"
down_revision: str | None = None
upgrade, downgrade = migrations.ways(__file__)
