"""The greeting, the original's health check, and the origin of the code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from postfacta_core.clock import MONOTONIC, Clock

from ..principal import Principal
from ..problems import encode
from ..settings import SettingsError

__all__ = ["About", "Codebase", "Greeting", "Healthy", "ServiceInfo", "load_codebase"]

_PACKAGED = Path(__file__).with_name("codebase.json")


class Codebase(BaseModel):
    """The origin of the code."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

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


def load_codebase(path: Path = _PACKAGED) -> Codebase:
    """Read the packaged metadata.

    Raises:
        SettingsError: If the file is missing or invalid: then so is the package, which must not start.
    """
    try:
        return Codebase.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path.name}: cannot read it: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise SettingsError(f"{path.name}: {where}: {first['msg']}; reinstall the package") from error


class About:
    """The handlers of the system paths.

    Args:
        codebase: Where the code comes from.
        environment: The name that `/service-info` shows.
        clock: Monotonic seconds; the uptime counts from now on.
    """

    def __init__(self, codebase: Codebase, *, environment: str, clock: Clock = MONOTONIC) -> None:
        self._codebase = codebase.model_dump(exclude_none=True)
        self._environment = environment
        self._clock = clock
        self._started = clock()

    async def root(self, request: Request, principal: Principal) -> Response:
        """Greet API clients, and redirect browsers to the incidents."""
        if "text/html" in request.headers.get("accept", "").lower():
            return RedirectResponse("/incidents", 303, {"Vary": "Accept"})
        response = await self.home(request, principal)
        response.headers["Vary"] = "Accept"
        return response

    async def home(self, request: Request, principal: Principal) -> Response:
        """Greet."""
        return _json({"message": "Welcome to the PostFacta API!"})

    async def healthz(self, request: Request, principal: Principal) -> Response:
        """Report that the process is running. It never queries the database."""
        return _json({"status": "healthy"})

    async def service_info(self, request: Request, principal: Principal) -> Response:
        """Return name, version, environment and uptime."""
        return _json(
            {
                "name": "PostFacta API",
                "environment": self._environment,
                "uptime": f"{int(self._clock() - self._started)}s",
                "codebase": self._codebase,
            }
        )


def _json(value: object) -> Response:
    return Response(encode(value), headers={"Content-Type": "application/json; charset=utf-8"})
