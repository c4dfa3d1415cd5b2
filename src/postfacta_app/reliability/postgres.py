"""All SQL of the business metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from postfacta_core.events import Sample
from postfacta_postgres import Database

__all__ = ["PostgresBusiness"]

# Without exercises and private incidents. The durations are those of the API. Quantiles are by nearest rank; the median
# needs 5 values and the ninth decile 10.
_BUSINESS = """
with kept as (
  select id, kind, severity, status, declared_at from incidents
   where archived_at is null and kind <> 'exercise' and visibility = 'internal'
), durations as (
  select p.* from kept k left join incident_measures m on m.incident_id = k.id
   cross join lateral unnest('{detect,acknowledge,mitigate,resolve,open}'::text[],
     coalesce(m.status, array_fill('missing'::text, array[5])), m.seconds) p(phase, status, seconds)
   where k.kind = 'incident' and k.declared_at > now() - interval '30 days'
)
select 'postfacta_incidents' as metric, array[severity, status] as labels, count(k.id)::float8 as value
  from unnest('{LOW,MEDIUM,HIGH,CRITICAL}'::text[]) severity
  cross join unnest('{OPEN,IN_PROGRESS,RESOLVED,CLOSED}'::text[]) status
  left join kept k using (severity, status) group by severity, status
union all
select 'postfacta_incident_duration_samples', array[phase, status], count(d.phase)
  from unnest('{detect,acknowledge,mitigate,resolve,open}'::text[]) phase
  cross join unnest('{ok,imprecise,missing,invalid_order,pending}'::text[]) status
  left join durations d using (phase, status) group by phase, status
union all
select 'postfacta_incident_duration_seconds', array[phase, 'p50'], percentile_disc(0.5) within group (order by seconds)
  from durations where status = 'ok' group by phase having count(*) >= 5
union all
select 'postfacta_incident_duration_seconds', array[phase, 'p90'], percentile_disc(0.9) within group (order by seconds)
  from durations where status = 'ok' group by phase having count(*) >= 10
union all
select 'postfacta_secret_age_seconds', array['api_token'], extract(epoch from now() - min(created_at))
  from tokens where kind = 'api' and revoked_at is null and expires_at > now() having count(*) > 0"""


class PostgresBusiness:
    """Reads the values of the business metrics.

    Args:
        database: The database.
        revision: Returns the revision of its schema; None if there is none.
    """

    def __init__(self, database: Database, revision: Callable[[], Awaitable[str | None]]) -> None:
        self._database = database
        self._revision = revision

    async def connected(self) -> None:
        await self._database.wait_connected()

    async def revision(self) -> str | None:
        return await self._revision()

    async def read(self) -> Sequence[Sample]:
        rows = await self._database.fetch(_BUSINESS, operation="business_metrics", repeatable=True)
        return [Sample(row["metric"], tuple(row["labels"]), row["value"]) for row in rows]
