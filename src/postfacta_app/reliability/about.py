"""What the service reports about itself.

Origin of the code, objectives, protection, and the metrics of its business.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel, JsonValue, RootModel, ValidationError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.events import Sample
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.catalogue import About as Metric
from postfacta_core.telemetry.families import Family
from postfacta_core.telemetry.metrics import Metrics
from postfacta_postgres import Database
from postfacta_slo.status.report import facts, percent, plot
from postfacta_slo.status.watch import Watch
from postfacta_web.conditional import is_not_modified

from ..aside import LARGE
from ..principal import Access
from ..settings import SettingsError
from ..web.render import encoded
from ..web.routes import RouteClass
from ..web.slices import Page, Routes, part

OPEN = Access.OPEN
routes: Final = Routes("page")

_LONGEST_NAME: Final = 64  # of a field that a sender made up
_PACKAGED = Path(__file__).with_name("codebase.json")


class Codebase(BaseModel, extra="forbid", frozen=True, strict=True):
    """The origin of the code."""

    author: str
    repository: str
    version: str
    contributors: list[str] | None = None
    license: str
    languages: list[str]
    active: bool


class Greeting(BaseModel):
    """A welcome."""

    message: str


class Healthy(BaseModel):
    """The process is running."""

    status: Literal["healthy"]


class ServiceInfo(BaseModel):
    """Name, version, environment and uptime in seconds."""

    name: str
    environment: str
    uptime: str
    codebase: Codebase


class OpenApiDocument(RootModel[dict[str, JsonValue]]):
    """An OpenAPI document."""


def load_codebase(path: Path = _PACKAGED) -> Codebase:
    try:
        return Codebase.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SettingsError(f"{path.name}: {error}; reinstall the package") from error


class Rejections:
    """The signals that this process rejected in the last hour: how many of each source and field.

    It keeps the latest 1,000.
    """

    def __init__(self, clock: Clock = MONOTONIC) -> None:
        self._clock = clock
        self._latest = deque[tuple[float, str, str]](maxlen=1000)

    def note(self, source: str, pointer: str) -> None:
        name = pointer.removeprefix("/").partition("/")[0]
        self._latest.append((self._clock(), source, name[:_LONGEST_NAME] or "item"))

    @property
    def is_cut(self) -> bool:
        """Whether there may have been more than it keeps."""
        return len(self._latest) == self._latest.maxlen

    def last_hour(self) -> Counter[tuple[str, str]]:
        start = self._clock() - 3600
        return Counter((source, name) for at, source, name in self._latest if at >= start)


@dataclass(slots=True)
class About:
    """The part that these routes need; it begins with the process, the document is set later.

    Its page needs neither the database nor the network. Without a Prometheus there is no `watch`.
    """

    codebase: Codebase
    environment: str
    health: HealthRegistry
    metrics: Metrics
    watch: Watch | None = None
    rejections: Rejections = field(default_factory=Rejections)
    document: bytes = b"{}"
    etag: str = ""
    clock: Clock = MONOTONIC
    started: float = field(default_factory=MONOTONIC)
    since: datetime = field(default_factory=lambda: datetime.fromtimestamp(WALL(), UTC))

    def describe(self, document: object) -> None:
        """Serialize the OpenAPI document, once for all requests."""
        self.document = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        self.etag = f'"{hashlib.sha256(self.document).hexdigest()[:32]}"'


ThisService = Annotated[About, part(About)]


@routes.api(
    "GET /",
    OPEN,
    "Greet API clients; redirect browsers to the incidents",
    status=(200, 303),
    operation="greet",
)
async def root(*, request: Request) -> Annotated[Response, Greeting]:
    if "text/html" in request.headers.get("accept", "").lower():
        return RedirectResponse("/incidents", 303, {"Vary": "Accept"})
    response = await home()
    response.headers["Vary"] = "Accept"
    return response


@routes.api("GET /home", OPEN, "Greet")
async def home() -> Annotated[Response, Greeting]:
    return encoded({"message": "Welcome to the PostFacta API!"})


@routes.api("GET /healthz", OPEN, "Report that the process is running", kind=RouteClass.PROBE)
async def healthz() -> Annotated[Response, Healthy]:
    return encoded({"status": "healthy"})  # It never queries the database.


@routes.api("GET /service-info", OPEN, "Describe this service")
async def service_info(service: ThisService) -> Annotated[Response, ServiceInfo]:
    return encoded(
        {
            "name": "PostFacta API",
            "environment": service.environment,
            "uptime": f"{int(service.clock() - service.started)}s",
            "codebase": service.codebase.model_dump(exclude_none=True),
        }
    )


@routes.api("GET /openapi.json", OPEN, "Read this OpenAPI document", conditional=True)
async def openapi(
    service: ThisService, *, request: Request
) -> Annotated[Response, OpenApiDocument]:
    headers = {"ETag": service.etag}
    if is_not_modified(request, service.etag):
        return Response(status_code=304, headers=headers)
    return Response(service.document, headers=headers, media_type="application/json")


# The page

# The page shows the metrics whose names begin with one of these.
_PROTECTION: Final = (
    "postfacta_breaker_",
    "db_client_connection_",
    "postfacta_ratelimit_",
    "postfacta_limiter_",
)


@routes.page("/reliability", Access.READ)
async def show(service: ThisService) -> Page:
    context: dict[str, object] = {
        "here": "reliability",
        "since": service.since,
        "watch": service.watch,
        "health": service.health.snapshot(),
        "rejected": service.rejections.last_hour(),
        "is_cut": service.rejections.is_cut,
        "percent": percent,
        "facts": facts,
        "plot": plot,
    }

    def samples() -> Mapping[str, object]:
        # In a thread, like a scrape: with many routes it takes long.
        families = service.metrics.collect()
        chosen = [family for family in families if family.name.startswith(_PROTECTION)]
        return {"samples": [sample for family in chosen for sample in family.samples]}

    return Page("reliability.html", context, size=LARGE, more=samples)


# Business metrics

METRICS: Final[Mapping[str, Metric]] = {
    "postfacta_incidents": Metric(
        "Incidents by current status, without private ones.", "severity status"
    ),
    "postfacta_incident_duration_seconds": Metric(
        "Quantiles of the incidents declared in the last 30 days, without private ones.",
        "phase stat",
    ),
    "postfacta_incident_duration_samples": Metric(
        "How many of these incidents have a known duration, or why not.", "phase status"
    ),
    "postfacta_secret_age_seconds": Metric(
        "Age of the oldest API token in use; of other secrets, since their file changed.", "secret"
    ),
    "postfacta_incidents_opened_total": Metric(
        "Incidents recorded here, without private ones.", "severity"
    ),
    "postfacta_incident_transitions_total": Metric(
        "Status transitions made by this process, without private incidents.",
        "from_status to_status severity",
    ),
    "postfacta_signals_ingested_total": Metric("Signals received by this process.", "kind result"),
    "postfacta_alertmanager_truncated_total": Metric(
        "Alertmanager notifications that were truncated."
    ),
    "postfacta_deployments_total": Metric(
        "Deployments reported to this process, once each.", "environment outcome"
    ),
    "postfacta_auth_attempts_total": Metric("Authentication attempts by outcome.", "mode outcome"),
    "postfacta_schema_revision_info": Metric(
        "1 for the current revision of the schema.", "expected actual"
    ),
    "postfacta_schema_revision_mismatch": Metric(
        "1 if the schema is not the one that this version expects."
    ),
    "postfacta_feature_flag": Metric(
        "1 for a feature that is on, 0 for one that is turned off.", "flag"
    ),
    "postfacta_feature_flag_refusals_total": Metric(
        "Requests refused since a feature is turned off.", "flag"
    ),
    "postfacta_feature_flags_valid": Metric(
        "0 if the file of flags cannot be used: the former flags hold."
    ),
    "postfacta_jwks_age_seconds": Metric("Age of the Supabase project's public keys."),
    "postfacta_business_metrics_age_seconds": Metric("Age of the values read from the database."),
}
"""All metrics with their texts and labels; names of counters end in `_total`."""


class BusinessMetrics(Collector):
    """Reads values in the background, counts events of this process, and exports both at a scrape.

    No scrape waits for the database. All instances read the same values, so use `max`; for own
    events, `sum`.
    """

    def __init__(self, *, expected: str, clock: Clock = MONOTONIC) -> None:
        self._expected = expected
        self._clock = clock
        self._samples: Sequence[Sample] = ()
        self._read_at = clock()
        self._counts = {
            name: Family(metric, 1000)
            for name, metric in METRICS.items()
            if name.endswith("_total")
        }
        self._gauges: dict[tuple[str, tuple[str, ...]], Callable[[], float | None]] = {}
        self._schema: Sequence[Sample] = ()

    def count(self, metric: str, *labels: str) -> None:
        self._counts[metric][labels].observe(1)

    def show(self, metric: str, read: Callable[[], float | None], *labels: str) -> None:
        """Export a value at each scrape, unless it is None."""
        self._gauges[metric, labels] = read

    async def look(
        self,
        revision: Callable[[], Awaitable[str | None]],
        read: Callable[[], Awaitable[Sequence[Sample]]],
    ) -> None:
        actual = await revision()
        self._schema = (
            Sample("postfacta_schema_revision_info", (self._expected, actual or "none"), 1),
            Sample("postfacta_schema_revision_mismatch", (), actual != self._expected),
        )
        if actual is not None:
            self._samples = await read()
            self._read_at = self._clock()

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, about in METRICS.items():
            kind = CounterMetricFamily if name in self._counts else GaugeMetricFamily
            families[name] = kind(name, about.text, labels=about.labels)
        for name, family in self._counts.items():
            for labels, series in tuple(family.items()):
                families[name].add_metric(labels, series.total)
        age = Sample("postfacta_business_metrics_age_seconds", (), self._clock() - self._read_at)
        samples = [*self._samples, *self._schema, age]
        for (metric, labels), read in self._gauges.items():
            value = read()
            if value is not None:
                samples.append(Sample(metric, labels, value))
        for sample in samples:
            families[sample.metric].add_metric(sample.labels, sample.value)
        yield from families.values()

    describe = collect  # Of what is described, the names alone count.


# Without exercises and private incidents. The durations are those of the API. Quantiles are by
# nearest rank; the median needs 5 values and the ninth decile 10.
_BUSINESS = """
with counted as (
  select id, kind, severity, status, declared_at
    from incidents
   where archived_at is null
     and kind <> 'exercise'
     and visibility = 'internal'
), durations as (
  select p.*
    from counted c
    left join incident_measures m
      on m.incident_id = c.id
   cross join lateral unnest(
           '{detect,acknowledge,mitigate,resolve,open}'::text[],
           coalesce(m.status, array_fill('missing'::text, array[5])),
           m.seconds) p(phase, status, seconds)
   where c.kind = 'incident'
     and c.declared_at > now() - interval '30 days'
)
select 'postfacta_incidents' as metric, array[severity, status] as labels,
       count(c.id)::float8 as value
  from unnest('{LOW,MEDIUM,HIGH,CRITICAL}'::text[]) severity
 cross join unnest('{OPEN,IN_PROGRESS,RESOLVED,CLOSED}'::text[]) status
  left join counted c using (severity, status)
 group by severity, status
union all
select 'postfacta_incident_duration_samples', array[phase, status], count(d.phase)
  from unnest('{detect,acknowledge,mitigate,resolve,open}'::text[]) phase
 cross join unnest('{ok,imprecise,missing,invalid_order,pending}'::text[]) status
  left join durations d using (phase, status)
 group by phase, status
union all
select 'postfacta_incident_duration_seconds', array[phase, stat],
       percentile_disc(part) within group (order by seconds)
  from durations
 cross join (values ('p50', 0.5::float8, 5), ('p90', 0.9, 10)) q(stat, part, least)
 where status = 'ok'
 group by phase, stat, part, least
having count(*) >= least
union all
select 'postfacta_secret_age_seconds', array['api_token'],
       extract(epoch from now() - min(created_at))
  from tokens
 where kind = 'api'
   and revoked_at is null
   and expires_at > now()
having count(*) > 0"""


async def read_business(database: Database) -> Sequence[Sample]:
    rows = await database.fetch(_BUSINESS, operation="business_metrics", repeatable=True)
    return [Sample(row["metric"], tuple(row["labels"]), row["value"]) for row in rows]
