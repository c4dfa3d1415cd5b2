"""Fill what the database derives from facts that are older than its triggers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["backfill"]

_NEXT: Final = """
select i.id::text from incidents i where not exists (select from incident_measures m where m.incident_id = i.id)
 order by i.id limit 500"""


async def backfill(connection: AsyncConnection, progress: Callable[[str], None]) -> None:
    """Keep the timeline of each incident that has none, each in its own transaction; resumes where it stopped.

    Only writers of that one incident wait. Until it is done, its timeline is built for each read.
    """
    done, run = 0, connection.exec_driver_sql
    await run("set statement_timeout = 0")
    while incidents := (await run(_NEXT)).scalars().all():
        await connection.commit()
        for incident in incidents:
            # A statement of its own: what the next one reads begins after the lock.
            await run("select from incidents where id = $1::text::uuid for no key update", (incident,))
            await run("select timeline_rebuild($1::text::uuid)", (incident,))
            await connection.commit()
        done += len(incidents)
    await connection.commit()
    if done:
        progress(f"kept the timelines of {done} incidents")
