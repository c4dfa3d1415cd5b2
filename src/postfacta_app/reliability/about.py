"""The greeting, the original's health check, the origin of the code, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, JsonValue, RootModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from postfacta_core.clock import MONOTONIC, Clock

from ..principal import Access
from ..problems import encode
from ..settings import SettingsError
from ..web.routes import RouteClass
from ..web.slices import Routes, part

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
    """The part that these routes need; the uptime counts from its start, the document is set later."""

    codebase: Codebase
    environment: str
    clock: Clock = MONOTONIC
    document: Mapping[str, object] = field(default_factory=dict[str, object])
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()


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
    return _json({"message": "Welcome to the PostFacta API!"})


@routes.api("GET /healthz", OPEN, "Report that the process is running", kind=RouteClass.PROBE)
async def healthz() -> Annotated[Response, Healthy]:
    return _json({"status": "healthy"})  # It never queries the database.


@routes.api("GET /service-info", OPEN, "Describe this service")
async def service_info(here: Here) -> Annotated[Response, ServiceInfo]:
    return _json(
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


def _json(value: object) -> Response:
    return Response(encode(value), headers={"Content-Type": "application/json; charset=utf-8"})
