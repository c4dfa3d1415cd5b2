"""What the lab reads from the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

Environment = Mapping[str, str]
_LOCAL = {"127.0.0.1", "localhost", "::1"}


def credentials() -> dict[str, str]:
    """Return the headers that TOKEN and TRAFFIC_KEY stand for."""
    token = os.environ.get("TOKEN")
    key = os.environ.get("TRAFFIC_KEY")
    headers: dict[str, str] = {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if key:
        headers["X-Traffic-Key"] = key
    return headers


def for_a_service(port: int) -> dict[str, str]:
    """Return the environment of a service that is started here.

    Ours, with PORT, and with our own programs found.
    """
    ours = for_an_experiment({})
    own_programs = str(Path(sys.executable).parent)
    programs = os.pathsep.join([own_programs, ours.get("PATH", os.defpath)])
    return {**ours, "PATH": programs, "PORT": str(port)}


def for_an_experiment(settings: Environment) -> dict[str, str]:
    """Return the environment of Chaos Toolkit: ours, and settings of the experiment."""
    # What measures coverage handles SIGTERM too; the service's own handling is what is tried.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    return {**ours, **settings}


def of_an_experiment() -> dict[str, str]:
    """Return the settings of this process's experiment, by their names without ``CHAOS_``."""
    prefix = "CHAOS_"
    return {
        name.removeprefix(prefix): value
        for name, value in os.environ.items()
        if name.startswith(prefix)
    }


def refuse_strangers(url: str) -> None:
    """Load this machine alone, and hosts that LOAD_HOSTS lists; `ValueError` for any other."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"--url must begin with http:// or https://, not {url!r}")
    listed = os.environ.get("LOAD_HOSTS", "").split(",")
    if parts.hostname not in {*_LOCAL, *listed}:
        raise ValueError(
            f"{parts.hostname} is not this machine: list it in LOAD_HOSTS if it is yours"
        )
