"""Starts a real Alertmanager on the configuration that is deployed, with its addresses and its pace changed.

What is changed is where the secrets lie, and by how much all its waits are shortened; routes,
grouping and inhibition stay what they are in production.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, cast

import httpx2
import yaml

from chaos.durations import divide

# Each program here starts and ends in the same way.
from postfacta_lab.engine.processes import Child, free_port, wait_until

__all__ = ["CONFIG", "SECRETS", "Alertmanager", "compress", "told_too"]

CONFIG = Path(__file__).parent.parent / "deploy/alertmanager/alertmanager.yml"
"""What is deployed."""

SECRETS = "/etc/alertmanager/secrets"
"""Where that configuration looks for addresses and keys."""

_KEEPING = CONFIG.parent / "examples/postfacta.yml"
_START = 30.0
_WAITS = frozenset({"group_wait", "group_interval", "repeat_interval", "resolve_timeout"})


def told_too(url: str) -> dict[str, Any]:
    """Return the deployed configuration with a PostFacta that gets every alert before all others.

    It is put together as the example beside it says: its receiver added, its route before the
    others.

    Args:
        url: Where that PostFacta is; its token is the secret `postfacta_token`.
    """
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    example: dict[str, Any] = yaml.safe_load(
        _KEEPING.read_text().replace("https://postfacta.example.org", url)
    )
    config["receivers"] += [one for one in example["receivers"] if one["name"] == "postfacta"]
    config["route"]["routes"] = example["route"]["routes"] + config["route"]["routes"]
    return config


def compress(config: object, by: float) -> object:
    """Divide every wait of a configuration; the rest is as it was.

    Args:
        config: As ``yaml.safe_load`` gives it.
        by: The factor; with 10, ``5m`` becomes ``30000ms``.
    """
    if isinstance(config, list):
        return [compress(one, by) for one in cast("list[object]", config)]
    if not isinstance(config, dict):
        return config
    return {
        key: divide(str(value), by) if key in _WAITS else compress(value, by)
        for key, value in cast("dict[str, object]", config).items()
    }


class Alertmanager(Child):
    """One Alertmanager; a context manager, running inside the block.

    Args:
        folder: Where its configuration, data and log are written.
        urls: The addresses of receivers, by the name of the secret that holds each, such as
            ``pager_url``.
        by: How much shorter all waits are.
        config: What it is configured by.
    """

    def __init__(
        self, folder: Path, urls: Mapping[str, str], *, by: float = 1.0, config: Path = CONFIG
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "alertmanager.yml"
        self.config.write_text(_localized(config.read_text(), folder / "secrets", urls, by))
        super().__init__(
            "alertmanager",
            [
                self.program() or "alertmanager",
                f"--config.file={self.config}",
                f"--storage.path={folder / 'alertmanager-data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",  # It has no peers, and opens no second port.
                "--log.level=warn",
            ],
            log=folder / "alertmanager.log",
            environment=os.environ,
        )

    @staticmethod
    def program() -> str | None:
        """Find the program, by Debian's name or by its own; None if this system has none."""
        return shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")

    def is_ready(self) -> bool:
        """Whether it takes alerts."""
        try:
            return httpx2.get(f"{self.url}/-/ready", timeout=2.0).status_code == 200
        except httpx2.TransportError:
            return False

    def wait_ready(self, within: float = _START) -> float:
        """Wait until it takes alerts; return the seconds that took.

        Raises:
            TimeoutError: It did not get there; the end of its log is shown.
        """
        try:
            return wait_until(self.is_ready, "alertmanager is ready", within=within, every=0.05)
        except TimeoutError as error:
            last = self.log.read_text(errors="replace")[-1500:]
            raise TimeoutError(f"{error}; its last words:\n{last}") from None

    def send(
        self,
        *alerts: Mapping[str, str],
        annotations: Mapping[str, str] | None = None,
        lasting: float = 300.0,
    ) -> None:
        """Send alerts as Prometheus does.

        Args:
            alerts: The labels of each.
            annotations: Of all of them.
            lasting: Seconds until they count as resolved, unless they are sent again; 0 resolves
                them.
        """
        now = datetime.now(UTC)  # noqa: TID251 - Alertmanager compares it with its own
        body = [
            {
                "labels": dict(labels),
                "annotations": dict(annotations or {}),
                # Not earlier: a group whose wait is over already is sent at once, before anything
                # can silence it.
                "startsAt": now.isoformat(),
                "endsAt": (now + timedelta(seconds=lasting)).isoformat(),
            }
            for labels in alerts
        ]
        httpx2.post(f"{self.url}/api/v2/alerts", json=body, timeout=5.0).raise_for_status()

    def alerts(self) -> Sequence[Mapping[str, Any]]:
        """List the alerts it holds, with ``status.state`` and ``status.inhibitedBy`` of each."""
        answer = httpx2.get(f"{self.url}/api/v2/alerts", timeout=5.0).raise_for_status()
        return cast("list[dict[str, Any]]", answer.json())

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _localized(text: str, secrets: Path, urls: Mapping[str, str], by: float) -> str:
    secrets.mkdir(exist_ok=True)
    for name, url in urls.items():
        (secrets / name).write_text(url)
        (secrets / name).chmod(0o600)
    config = compress(yaml.safe_load(text), by)
    return json.dumps(config, indent=1).replace(SECRETS, str(secrets))  # JSON is YAML
