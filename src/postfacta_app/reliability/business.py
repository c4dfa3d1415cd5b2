"""Business metrics: incidents, durations, sign-ins, schema revision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from postfacta_core.clock import MONOTONIC, Clock
from postfacta_core.events import Sample
from postfacta_postgres import Database

METRICS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "postfacta_incidents": ("Incidents by current status, without private ones.", ("severity", "status")),
    "postfacta_incident_duration_seconds": (
        "Quantiles of the incidents declared in the last 30 days, without private ones.",
        ("phase", "stat"),
    ),
    "postfacta_incident_duration_samples": (
        "How many of these incidents have a known duration, or why not.",
        ("phase", "status"),
    ),
    "postfacta_secret_age_seconds": (
        "Age of the oldest API token in use; of other secrets, since their file changed.",
        ("secret",),
    ),
    "postfacta_incidents_opened_total": ("Incidents recorded here, without private ones.", ("severity",)),
    "postfacta_incident_transitions_total": (
        "Status transitions made by this process, without private incidents.",
        ("from_status", "to_status", "severity"),
    ),
    "postfacta_signals_ingested_total": ("Signals received by this process.", ("kind", "result")),
    "postfacta_alertmanager_truncated_total": ("Alertmanager notifications that were truncated.", ()),
    "postfacta_deployments_total": (
        "Deployments reported to this process, once each.",
        ("environment", "outcome"),
    ),
    "postfacta_auth_attempts_total": ("Authentication attempts by outcome.", ("mode", "outcome")),
    "postfacta_schema_revision_info": ("1 for the current revision of the schema.", ("expected", "actual")),
    "postfacta_schema_revision_mismatch": ("1 if the schema is not the one that this version expects.", ()),
    "postfacta_feature_flag": ("1 for a feature that is on, 0 for one that is turned off.", ("flag",)),
    "postfacta_feature_flag_refusals_total": ("Requests refused since a feature is turned off.", ("flag",)),
    "postfacta_feature_flags_valid": ("0 if the file of flags cannot be used: the former flags hold.", ()),
    "postfacta_jwks_age_seconds": ("Age of the Supabase project's public keys.", ()),
    "postfacta_business_metrics_age_seconds": ("Age of the values read from the database.", ()),
}
"""All metrics with their texts and labels; names of counters end in `_total`."""

_MOST_SERIES: Final = 1000


class BusinessMetrics(Collector):
    """Reads values in the background, counts events of this process, and exports both at a scrape.

    No scrape waits for the database. All instances read the same values, so use `max`; for own events, `sum`.
    """

    def __init__(self, *, expected: str, clock: Clock = MONOTONIC) -> None:
        self._expected = expected
        self._clock = clock
        self._told: Sequence[Sample] = ()
        self._told_at = clock()
        self._counts: defaultdict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
        self._shown: dict[tuple[str, tuple[str, ...]], Callable[[], float | None]] = {}
        self._schema: Sequence[Sample] = ()

    def count(self, metric: str, *labels: str) -> None:
        if (metric, labels) not in self._counts:
            known = sum(name == metric for name, _ in self._counts)
            labels = labels if known < _MOST_SERIES else ("_OTHER",) * len(labels)
        self._counts[metric, labels] += 1

    def show(self, metric: str, read: Callable[[], float | None], *labels: str) -> None:
        """Export a value at each scrape, unless it is None."""
        self._shown[metric, labels] = read

    async def look(
        self, revision: Callable[[], Awaitable[str | None]], read: Callable[[], Awaitable[Sequence[Sample]]]
    ) -> None:
        actual = await revision()
        self._schema = (
            Sample("postfacta_schema_revision_info", (self._expected, actual or "none"), 1),
            Sample("postfacta_schema_revision_mismatch", (), actual != self._expected),
        )
        if actual is not None:
            self._told = await read()
            self._told_at = self._clock()

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, (text, of) in METRICS.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            families[name] = kind(name, text, labels=of)
        counted = [Sample(metric, labels, value) for (metric, labels), value in tuple(self._counts.items())]
        age = Sample("postfacta_business_metrics_age_seconds", (), self._clock() - self._told_at)
        shown = [Sample(*it, value) for it, read in self._shown.items() if (value := read()) is not None]
        for sample in (*self._told, *counted, *shown, *self._schema, age):
            families[sample.metric].add_metric(sample.labels, sample.value)
        yield from families.values()

    describe = collect  # Of what is described, the names alone count.


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


async def read_business(database: Database) -> Sequence[Sample]:
    rows = await database.fetch(_BUSINESS, operation="business_metrics", repeatable=True)
    return [Sample(row["metric"], tuple(row["labels"]), row["value"]) for row in rows]
