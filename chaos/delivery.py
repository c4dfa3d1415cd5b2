"""Puts together what a deployment is rehearsed on.

Builds behind the HAProxy that is shipped, users, and a Prometheus.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from chaos.processes import Haproxy, Instance
from chaos.prometheus import Prometheus
from chaos.stack import Stack, prepare
from chaos.together import Together
from postfacta_lab.chaos.control import Users
from postfacta_lab.engine.page import machine
from postfacta_lab.engine.processes import Child, free_port, wait_until

__all__ = ["SLOTS", "Balancer", "Build", "Site", "measured_on", "missing_programs"]

SLOTS = ("one", "two")
"""The servers of the HAProxy that is shipped."""

_ROOT = Path(__file__).parent.parent
_CONFIG = _ROOT / "deploy/haproxy/haproxy.cfg"
_LABEL = "rollouts_pod_template_hash"
_START = 60.0
_READS = ("/api/v1/incidents?limit=20", "/api/v0/incidents", "/api/v1/me")
_SETTINGS = {
    "PYTHONPATH": str(_ROOT),
    # More than HAProxy needs to see an instance unready: `inter` times `fall`, 1 s.
    "POSTFACTA_DRAIN_DELAY": "2",
    **{f"POSTFACTA_RATE_{of}": "" for of in ("ADDRESS", "READ", "WRITE", "INGEST")},
}


def missing_programs() -> list[str]:
    """Name the programs that this system lacks."""
    found = {"haproxy": Haproxy.program(), "prometheus": Prometheus.program()}
    return [name for name, program in found.items() if program is None]


def measured_on() -> str:
    """Return the date, the machine and how busy it was, for a report."""
    facts = {
        **machine(),
        "load": f"{os.getloadavg()[2]:.0f} in the last quarter of an hour, the drill included",
    }
    said = ", ".join(f"{name} {text}" for name, text in facts.items())
    return f"Measured on {datetime.now(UTC):%Y-%m-%d}: {said}."  # noqa: TID251 - of a report


@dataclass(frozen=True, slots=True)
class Build:
    """A version of the service.

    Attributes:
        version: Its name.
        fault: Of `chaos.builds`; empty for none.
        environment: More of its settings.
    """

    version: str
    fault: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


class Balancer(Child):
    """The HAProxy that is shipped, with weights that count at any load.

    `leastconn` sends a light canary nothing.

    Args:
        folder: Where its configuration, socket and log are.
        ports: Where the instances of its slots listen.
    """

    def __init__(self, folder: Path, ports: Mapping[str, int]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._socket = folder / "admin.sock"
        config = folder / "haproxy.cfg"
        config.write_text(_CONFIG.read_text().replace("balance leastconn", "balance roundrobin"))
        where = {
            "LISTEN": f"127.0.0.1:{self.port}",
            "ADMIN_SOCKET": str(self._socket),
            "INSTANCE_ONE": f"127.0.0.1:{ports['one']}",
            "INSTANCE_TWO": f"127.0.0.1:{ports['two']}",
        }
        super().__init__(
            "haproxy",
            [Haproxy.program() or "haproxy", "-W", "-db", "-f", str(config)],
            log=folder / "haproxy.log",
            environment={**os.environ, **where},
        )

    def weigh(self, slot: str, weight: int) -> None:
        """Give a slot a share of the requests; with 0 it gets no new ones."""
        self._say(f"set weight instances/{slot} {weight}")

    def point(self, slot: str, port: int) -> None:
        """Let a slot lead to another instance; requests that are under way end where they are."""
        for server in (slot, f"{slot}-unready"):
            self._say(f"set server instances/{server} addr 127.0.0.1 port {port}")

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10.0)
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            answer = connection.makefile().read().strip()
        if answer and "changed" not in answer and "no need" not in answer:
            raise RuntimeError(f"haproxy: {command}: {answer}")
        return answer

    def is_ready(self) -> bool:
        """Whether requests get through."""
        try:
            return httpx2.get(f"{self.url}/healthz/ready", timeout=2.0).status_code == 200
        except httpx2.TransportError:
            return False


class _Scraper(Prometheus):
    """Prometheus with the label by which the pods of a version are known.

    Attributes:
        versions: By the address of each instance.
    """

    def __init__(self, folder: Path, *, by: float, rules: Sequence[Path]) -> None:
        self.versions: dict[str, str] = {}
        super().__init__(folder, {"postfacta": []}, by=by, rules=rules)

    def reconfigure(self) -> None:
        self.targets["postfacta"] = list(self.versions)
        super().reconfigure()
        config = json.loads(self.config.read_text())
        config["scrape_configs"][0]["static_configs"] = [
            {"targets": [where], "labels": {_LABEL: version}}
            for where, version in self.versions.items()
        ]
        self.config.write_text(json.dumps(config, indent=1))


class Site(Together):
    """A service of one or two instances in its slots, with users and a Prometheus.

    A context manager.

    Args:
        folder: Where everything is written; must be open to all users.
        build: The version that runs at first.
        both: Whether both slots have it; else the first alone gets requests.
        rate: Requests a second.
        by: How much shorter the waits of Prometheus are.
        rules: Files of rules, at that pace already.

    Attributes:
        running: The instance in each slot.
        started: Every instance that was started and has not been stopped.
    """

    def __init__(
        self,
        folder: Path,
        build: Build,
        *,
        both: bool,
        rate: float,
        by: float,
        rules: Sequence[Path] = (),
    ) -> None:
        self.folder = folder
        self._build = build
        self._both = both
        self._rate = rate
        self._by = by
        self._rules = rules
        super().__init__()
        self._count = 0
        self.running: dict[str, Instance] = {}
        self.started: list[Instance] = []

    def _start(self) -> None:
        template = prepare(self.folder / "template")
        environment = {**_SETTINGS, "APP_VERSION": self._build.version}
        stack = Stack(
            self.folder / "stack", template, instances=1 + self._both, environment=environment
        )
        self.stack = self._closing.enter_context(stack)
        self._closing.callback(self._stop_all)
        self.started += stack.instances
        self.running = dict(zip(SLOTS, stack.instances, strict=False))
        ports = {slot: self.running.get(slot, stack.instances[0]).port for slot in SLOTS}
        self.balancer = Balancer(self.folder, ports)
        self._closing.callback(self.balancer.stop)
        self.balancer.start()
        wait_until(
            self.balancer.is_ready, "haproxy lets requests through", within=_START, every=0.1
        )
        if not self._both:
            self.balancer.weigh("two", 0)
        self.prometheus = _Scraper(self.folder / "prometheus", by=self._by, rules=self._rules)
        self._closing.callback(self.prometheus.stop)
        self.prometheus.versions = {_address(one): self._build.version for one in stack.instances}
        self.prometheus.reconfigure()
        self.prometheus.start()
        self.prometheus.wait_ready()
        self.load = self._closing.enter_context(
            Users(self.balancer.url, stack.token, self._rate, reads=_READS)
        )

    def _stop_all(self) -> None:
        for one in self.started:
            one.kill()

    def start(self, build: Build) -> Instance:
        """Start an instance of a build that no slot leads to yet; Prometheus scrapes it at once."""
        self._count += 1
        one = Instance(
            f"{build.version}-{self._count}",
            self.stack.dsn(),
            log=self.folder / f"{build.version}-{self._count}.log",
            environment={**_SETTINGS, "APP_VERSION": build.version, **build.environment},
            program=("-m", "chaos.builds", build.fault) if build.fault else ("-m", "postfacta_app"),
        )
        self.started.append(one)
        one.start()
        self.prometheus.versions[_address(one)] = build.version
        self.prometheus.reload()
        return one

    def put(self, slot: str, one: Instance) -> None:
        """Let a slot lead to an instance."""
        self.balancer.point(slot, one.port)
        self.running[slot] = one

    def stop(self, one: Instance) -> None:
        """Stop an instance as a deployment does, and wait for its drain."""
        one.terminate()
        self.started.remove(one)
        self.prometheus.versions.pop(_address(one))
        self.prometheus.reload()

    def ask(self, query: str) -> list[float]:
        """Evaluate an expression now; return the values of its series."""
        return [float(values[-1][1]) for _, values in self.prometheus.query(query)]

    def answers(self, first: float, last: float) -> Counter[str]:
        """Count the requests that were meant to begin between two moments of the load, by their error; `` for none.

        Raises:
            RuntimeError: Fewer than nine tenths of them were sent in time: the machine is too busy
                to say anything.
        """
        ended = [it for it in tuple(self.load.meter.samples) if first <= it.intended < last]
        wanted = self._rate * (last - first)
        if sum(it.began - it.intended < 1.0 for it in ended) < 0.9 * wanted - self._rate:
            raise RuntimeError(
                f"of {wanted:.0f} requests {len(ended)} were sent in time: the machine is too busy"
            )
        return Counter(it.error for it in ended)


def _address(one: Instance) -> str:
    return urlsplit(one.url).netloc
