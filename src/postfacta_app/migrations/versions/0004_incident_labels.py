"""Labels of incidents, in a table of their own, which the program before neither reads nor writes.

`grant` gives the service its rights.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from postfacta_app import migrations

revision = "0004"
down_revision: str | None = "0003"
upgrade, downgrade = migrations.ways(__file__)
