"""How exactly the time of a note is known; the kept timelines follow it.

It stands at the first version of a note. The program before writes none, and its notes stay exact, whatever version of
theirs comes later.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from postfacta_app import migrations

revision = "0003"
down_revision: str | None = "0002"
upgrade, downgrade = migrations.ways(__file__)
