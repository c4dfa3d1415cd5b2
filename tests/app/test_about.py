"""What the service says about itself, to programs and to browsers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from postfacta_app.reliability.about import About, Codebase, load_codebase, root, service_info
from postfacta_app.settings import SettingsError
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.metrics import Metrics

CODEBASE = Codebase(
    author="somebody",
    repository="https://example.org/code",
    version="9.8.7",
    contributors=["one", "two"],
    license="BSD-3-Clause",
    languages=["Python"],
    active=True,
)


def an_about(codebase: Codebase, environment: str, **more: Any) -> About:
    return About(codebase, environment, HealthRegistry(), Metrics(with_process=False), **more)


def a_request(accept: str) -> Request:
    return Request(
        {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept", accept.encode())]}
    )


def told(response: Response) -> Mapping[str, object]:
    found: Mapping[str, object] = json.loads(bytes(response.body))
    return found


@pytest.mark.parametrize("accept", ["", "*/*", "application/json"])
async def test_a_program_is_greeted(accept: str) -> None:
    response = await root(request=a_request(accept))
    assert (response.status_code, response.headers["vary"]) == (200, "Accept")
    assert told(response) == {"message": "Welcome to the PostFacta API!"}


async def test_a_browser_is_led_to_the_incidents() -> None:
    response = await root(request=a_request("text/html,*/*;q=0.8"))
    assert (response.status_code, response.headers["location"]) == (303, "/incidents")
    assert response.headers["vary"] == "Accept"


async def test_the_uptime_counts_whole_seconds_from_the_start() -> None:
    about = an_about(CODEBASE, "prod", started=100.0, clock=lambda: 161.9)
    info = told(await service_info(about))
    assert info == {
        "name": "PostFacta API",
        "environment": "prod",
        "uptime": "61s",
        "codebase": CODEBASE.model_dump(),
    }


async def test_contributors_are_left_out_when_there_are_none() -> None:
    about = an_about(load_codebase(), "local")
    assert list(told(await service_info(about))) == [
        "name",
        "environment",
        "uptime",
        "codebase",
    ]
    codebase = told(await service_info(about))["codebase"]
    assert isinstance(codebase, dict)
    assert "contributors" not in codebase


def test_the_packaged_metadata_tells_the_version_of_the_package() -> None:
    assert load_codebase().version == version("postfacta")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "codebase.json"),
        ("{}", "author\n  Field required"),
        ('{"active": "yes"}', "codebase.json"),
        (CODEBASE.model_dump_json().replace("true", '"yes"'), "active"),
        (CODEBASE.model_dump_json().replace("author", "auhtor"), "author"),
    ],
)
def test_broken_metadata_stops_the_start_and_says_what_is_wrong(
    content: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "codebase.json"
    file.write_text(content)
    with pytest.raises(SettingsError, match="reinstall the package") as caught:
        load_codebase(file)
    assert words in str(caught.value)


def test_missing_metadata_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"codebase\.json: .*No such file"):
        load_codebase(tmp_path / "codebase.json")
