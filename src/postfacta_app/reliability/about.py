"""What the service reports about itself: greeting, origin of the code, objectives, protection, its OpenAPI document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

from prometheus_client.samples import Sample
from pydantic import BaseModel, JsonValue, RootModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from postfacta_core.clock import MONOTONIC, WALL, Clock
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.metrics import Metrics
from postfacta_slo.status.report import facts, percent, plot
from postfacta_slo.status.watch import Watch

from ..aside import LARGE
from ..principal import Access
from ..settings import SettingsError
from ..web.render import encoded
from ..web.slices import Page, RouteClass, Routes, part

OPEN = Access.OPEN
routes: Final = Routes("page")

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


class Document(RootModel[dict[str, JsonValue]]):
    """An OpenAPI document."""


def load_codebase(path: Path = _PACKAGED) -> Codebase:
    try:
        return Codebase.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SettingsError(f"{path.name}: {error}; reinstall the package") from error


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
    document: Mapping[str, object] = field(default_factory=dict[str, object])
    clock: Clock = MONOTONIC
    started: float = field(default_factory=MONOTONIC)
    since: datetime = field(default_factory=lambda: datetime.fromtimestamp(WALL(), UTC))


Here = Annotated[About, part(About)]


@routes.api("GET /", OPEN, "Greet API clients; redirect browsers to the incidents", status=(200, 303))
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
async def service_info(here: Here) -> Annotated[Response, ServiceInfo]:
    return encoded(
        {
            "name": "PostFacta API",
            "environment": here.environment,
            "uptime": f"{int(here.clock() - here.started)}s",
            "codebase": here.codebase.model_dump(exclude_none=True),
        }
    )


@routes.api("GET /openapi.json", OPEN, "Read this OpenAPI document")
async def openapi(here: Here) -> Annotated[Response, Document]:
    return JSONResponse(here.document)


# The page

# Of the metrics, those that the page shows begin so.
_SHOWN: Final = ("postfacta_breaker_", "db_client_connection_", "postfacta_ratelimit_", "postfacta_limiter_")


@routes.page("/reliability", Access.READ)
async def show(here: Here) -> Page:
    context: dict[str, object] = {
        "here": "reliability",
        "since": here.since,
        "watch": here.watch,
        "health": here.health.snapshot(),
        "percent": percent,
        "facts": facts,
        "plot": plot,
        "seconds": partial(timedelta, 0),
    }
    # In a thread, like a scrape: with many routes it takes long.
    return Page("reliability.html", context, size=LARGE, more=lambda: {"series": _series(here.metrics)})


def _series(metrics: Metrics) -> Mapping[str, Sequence[Sample]]:
    series: defaultdict[str, list[Sample]] = defaultdict(list)
    for family in metrics.collect():
        if family.name.startswith(_SHOWN):
            for sample in family.samples:
                series[sample.name].append(sample)
    return series
