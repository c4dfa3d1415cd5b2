"""The Alembic environment: one transaction for each revision, on the given connection."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo

from postfacta_app.migrations import MigrationError


def _run() -> None:
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise MigrationError("use `postfacta migrate`: it sets timeouts and takes the lock")
    progress = context.config.attributes["progress"]

    def applied(  # noqa: PLR0917 - Alembic's own signature
        ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
    ) -> None:
        progress(f"applied revision {step.up_revision_id}")

    context.configure(connection=connection, transaction_per_migration=True, on_version_apply=applied)
    with context.begin_transaction():
        context.run_migrations()


_run()
