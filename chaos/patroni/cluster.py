"""Starts a cluster: three etcd, three Patroni with a PostgreSQL each, and the HAProxy that leads to the one that takes writes.

All of `deploy/patroni` as it is shipped; only addresses, folders and secrets are this machine's.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from chaos.processes import Haproxy
from chaos.together import Together
from postfacta_embedded.account import Account, Means, choose_account
from postfacta_embedded.binaries import find_binaries
from postfacta_embedded.postmaster import read_pid_file, runs_postgres_on
from postfacta_lab.engine.processes import Child, free_port, kill, wait_until

__all__ = ["Cluster", "Etcd", "Node", "missing_programs"]

_SHIPPED = Path(__file__).parent.parent.parent / "deploy" / "patroni"
_NUMBERS = ("ONE", "TWO", "THREE")
_START = 120.0  # seconds; a first start takes ten on a quiet machine


def missing_programs() -> list[str]:
    """Return what this machine lacks."""
    found = {"etcd": _program("etcd"), "haproxy": Haproxy.program()}
    return [name for name, path in found.items() if path is None]


def _program(name: str) -> str | None:
    return shutil.which(
        name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
    )


class Etcd(Child):
    """One of the etcd that hold the leader's lease."""

    def __init__(self, name: str, folder: Path, client: int, peers: Mapping[str, int]) -> None:
        self.client = client
        urls = {peer: f"http://127.0.0.1:{port}" for peer, port in peers.items()}
        options = {
            "name": name,
            "data-dir": str(folder / name),
            "listen-client-urls": f"http://127.0.0.1:{client}",
            "advertise-client-urls": f"http://127.0.0.1:{client}",
            "listen-peer-urls": urls[name],
            "initial-advertise-peer-urls": urls[name],
            "initial-cluster": ",".join(f"{peer}={url}" for peer, url in urls.items()),
            # A busy machine is late; with the default of a second it would elect all the time.
            "heartbeat-interval": "300",
            "election-timeout": "3000",
            "log-level": "warn",
        }
        command = [
            _program("etcd") or "etcd",
            *(f"--{key}={value}" for key, value in options.items()),
        ]
        super().__init__(
            name, command, log=folder / f"{name}.log", environment={"PATH": os.defpath}
        )

    def is_healthy(self) -> bool:
        """Whether it is part of a quorum."""
        with suppress(httpx2.TransportError):
            answer = httpx2.get(f"http://127.0.0.1:{self.client}/health", timeout=2.0)
            return bool(answer.json()["health"] == "true")
        return False


class Node(Child):
    """One Patroni, and the PostgreSQL that it keeps.

    Args:
        name: Its name in the cluster.
        folder: Where its data and its log go.
        account: Who runs it: PostgreSQL refuses root.
        environment: The variables of `deploy/patroni/patroni.yaml`, but those of this node.
    """

    def __init__(
        self, name: str, folder: Path, account: Account, environment: Mapping[str, str]
    ) -> None:
        self.port = free_port()
        self.api = free_port()
        self.data = folder / name / "data"
        self.url = f"http://127.0.0.1:{self.api}"
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, account.uid, account.gid)
        own = {
            "PATRONI_NAME": name,
            "PATRONI_RESTAPI_LISTEN": f"127.0.0.1:{self.api}",
            "PATRONI_RESTAPI_CONNECT_ADDRESS": f"127.0.0.1:{self.api}",
            "PATRONI_POSTGRESQL_LISTEN": f"127.0.0.1:{self.port}",
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS": f"127.0.0.1:{self.port}",
            "PATRONI_POSTGRESQL_DATA_DIR": str(self.data),
            "PATRONI_POSTGRESQL_PGPASS": str(folder / name / "pgpass"),
        }
        super().__init__(
            name,
            [*_prefix(account), sys.executable, "-m", "patroni", str(folder / "patroni.yaml")],
            log=folder / f"{name}.log",
            environment={**environment, **own},
            folder=Path("/"),
        )

    @property
    def postmaster(self) -> int | None:
        """The process id of its PostgreSQL, which is no descendant of Patroni's.

        None if none runs.
        """
        file = read_pid_file(self.data)
        return file.pid if file is not None and runs_postgres_on(file.pid, self.data) else None

    def kill_postgres(self) -> None:
        """End the server and all its backends at once."""
        if (pid := self.postmaster) is not None:
            kill(pid)

    def kill(self) -> None:
        """End all of the node at once, as a power cut would."""
        super().kill()
        self.kill_postgres()

    def takes_writes(self) -> bool:
        """Whether Patroni says that it is the leader."""
        with suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/primary", timeout=2.0).status_code == 200
        return False


def _prefix(account: Account) -> Sequence[str]:
    if account.means is Means.SETUID:
        return (
            "setpriv",
            f"--reuid={account.uid}",
            f"--regid={account.gid}",
            "--clear-groups",
            "--",
        )
    return account.prefix


class Cluster(Together):
    """The whole of it; a context manager that ends all its processes.

    Args:
        folder: For data, logs and configuration; must be open to all users.
        synchronous: Whether a write is acknowledged once a second node has it, as it is shipped.
    """

    def __init__(self, folder: Path, *, synchronous: bool = True) -> None:
        self._folder = folder
        self.synchronous = synchronous
        super().__init__()
        self._password = secrets.token_hex(16)
        self.writes = free_port()
        self.reads = free_port()
        clients = [free_port() for _ in _NUMBERS]
        peers = [free_port() for _ in _NUMBERS]
        names = [f"etcd{number}" for number in range(1, 4)]
        self.etcds = [
            Etcd(name, folder, client, dict(zip(names, peers, strict=True)))
            for name, client in zip(names, clients, strict=True)
        ]
        account = choose_account()
        binaries = find_binaries()
        account.require_entry(binaries.folder)
        shared_settings = (_SHIPPED / "patroni.yaml").read_text()
        if not synchronous:
            shared_settings = shared_settings.replace(
                "synchronous_mode: true", "synchronous_mode: false"
            )
        (folder / "patroni.yaml").write_text(shared_settings)
        self._roles = ["leader", "replica", "sync_standby" if synchronous else "replica"]
        shared = {
            "PATH": os.defpath,
            "LC_ALL": "C",
            "TZ": "UTC",
            "PATRONI_ETCD3_HOSTS": ",".join(f"127.0.0.1:{client}" for client in clients),
            "PATRONI_POSTGRESQL_BIN_DIR": str(binaries.folder),
            "PATRONI_RESTAPI_USERNAME": "drill",
            "PATRONI_RESTAPI_PASSWORD": self._password,
            "PATRONI_LOG_LEVEL": "INFO",
        }
        for role, user in (
            ("SUPERUSER", "postgres"),
            ("REPLICATION", "replicator"),
            ("REWIND", "rewinder"),
        ):
            shared |= {f"PATRONI_{role}_USERNAME": user, f"PATRONI_{role}_PASSWORD": self._password}
        self.nodes = [Node(f"node{number}", folder, account, shared) for number in range(1, 4)]
        self._haproxy = Child(
            "haproxy",
            [Haproxy.program() or "haproxy", "-db", "-f", str(_SHIPPED / "haproxy.cfg")],
            log=folder / "haproxy.log",
            environment=self._addresses(),
        )

    def _addresses(self) -> dict[str, str]:
        addresses = {"WRITES": f"127.0.0.1:{self.writes}", "READS": f"127.0.0.1:{self.reads}"}
        for number, node in zip(_NUMBERS, self.nodes, strict=True):
            addresses |= {
                f"NODE_{number}": f"127.0.0.1:{node.port}",
                f"API_{number}": str(node.api),
            }
        return addresses

    def dsn(self, port: int | None = None) -> str:
        """Return the address of the one that takes writes, or of the node at a port."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{port or self.writes}/postgres"

    def _start(self) -> None:
        for child in (*self.etcds, *self.nodes, self._haproxy):
            self._closing.callback(child.kill)
            child.start()
        self.wait_healthy()

    def leader(self) -> Node | None:
        """Return the node that takes writes, as Patroni says; None while there is none."""
        return next((node for node in self.nodes if node.takes_writes()), None)

    def members(self) -> list[dict[str, Any]]:
        """Return what a node knows of all of them; nothing if none answers."""
        for node in self.nodes:
            with suppress(httpx2.TransportError, ValueError, KeyError):
                found: list[dict[str, Any]] = httpx2.get(f"{node.url}/cluster", timeout=2.0).json()[
                    "members"
                ]
                return found
        return []

    def is_healthy(self) -> bool:
        """Whether one leads, the others follow it, and one of those has all that was acknowledged."""
        members = self.members()
        roles = sorted(member["role"] for member in members)
        states = [member["state"] for member in members]
        lines = {member.get("timeline") for member in members}
        return (
            roles == self._roles
            and sorted(states) == ["running", "streaming", "streaming"]
            and len(lines) == 1
        )

    def wait_healthy(self, within: float = _START) -> None:
        """Wait until it is.

        Raises:
            TimeoutError: It did not get there; says what the members say.
        """
        try:
            wait_until(self.is_healthy, "the cluster is healthy", within=within, every=0.2)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {json.dumps(self.members())}") from None

    def switch_over(self, leader: Node) -> None:
        """Ask Patroni to make another the leader: the synchronous standby, if there is one.

        Raises:
            RuntimeError: Patroni refuses.
        """
        names = {member["role"]: member["name"] for member in self.members()}
        candidate = names.get("sync_standby") or names["replica"]
        answer = httpx2.post(
            f"{leader.url}/switchover",
            json={"leader": leader.name, "candidate": candidate},
            auth=("drill", self._password),
            timeout=60.0,
        )
        # 503: it still waits, as just after etcd's return; the request for it stands in etcd.
        if answer.status_code not in {200, 503}:
            raise RuntimeError(f"switchover: {answer.status_code} {answer.text}")
        wait_until(
            lambda: self.leader() not in {None, leader}, "another leads", within=_START, every=0.2
        )
