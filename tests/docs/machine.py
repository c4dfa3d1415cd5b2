"""The machine that "Run it for real" speaks of.

Below one folder, on other ports, with a program in the place of systemd.
"""

from __future__ import annotations

import configparser
import re
import shlex
import signal
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from chaos.processes import Haproxy
from postfacta_embedded import EmbeddedPostgres

__all__ = ["PATIENCE", "Block", "Machine", "Units", "service_of", "systemctl_for"]

PATIENCE = 60.0
FOLDERS = re.compile(
    r"(?<![\w.])/(?=(?:etc/(?:postfacta|haproxy|systemd)|opt/postfacta|var/backups|usr/local/bin)\b)"
)
PORTS = re.compile(r"(?<=:)(?:80|443)\b|\b(?:5432|8081|8082)\b")
ADA = "ada@example.org"
# What stands for `systemctl`: it hands its words to the test, and prints what it is answered.
SYSTEMCTL = """\
#!{python} -S
import socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect({path!r})
    asked.sendall("\\0".join(sys.argv[1:]).encode())
    asked.shutdown(socket.SHUT_WR)
    answer = asked.makefile().read()
sys.exit(answer or 0)
"""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of the page."""

    heading: str
    kind: str
    text: str
    not_run: str


class Units:
    """What systemd would do with the unit file, as far as the page asks for it."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._root = root
        self._environment = environment

    def systemctl(self, verb: str, *names: str) -> str:
        """Carry out one command; return what is wrong, or nothing."""
        if verb == "daemon-reload":
            return ""
        if verb not in {"enable", "restart"} or (verb == "enable" and names[0] != "--now"):
            return f"no such command here: {verb}"
        for name in names:
            if name != "--now":
                self.stop(name)
                self.processes[name] = self._start(name)
        return ""

    def stop(self, name: str) -> None:
        """End a unit as systemd does: SIGTERM, and its own time to comply."""
        process = self.processes.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0 or name == "haproxy"

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        log = (self._root / f"{name}.log").open("ab")
        with closing(log):
            if name == "haproxy":
                config = self._root / "etc/haproxy/haproxy.cfg"
                command, environment = (
                    [Haproxy.program() or "haproxy", "-db", "-f", str(config)],
                    {},
                )
            else:
                unit, _, instance = name.partition("@")
                section = service_of(self._root / f"etc/systemd/system/{unit}@.service")
                settings = Path(section["EnvironmentFile"]).read_text().splitlines()
                environment = dict(line.split("=", 1) for line in settings)
                # Six restarts at the default of 5 s would take half a minute.
                environment["POSTFACTA_DRAIN_DELAY"] = "2"
                command = shlex.split(section["ExecStart"].replace("%i", instance))
            return subprocess.Popen(  # noqa: S603 - what the page says
                command, stdout=log, stderr=log, env=self._environment | environment
            )


def service_of(unit: Path) -> configparser.SectionProxy:
    """Read the section of a unit file that says what to run."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser["Service"]


@dataclass
class Machine:
    """The machine of the page: its files below one folder, its database, and what runs on it."""

    root: Path
    server: EmbeddedPostgres
    environment: dict[str, str]
    ports: dict[str, int]
    units: Units
    stack: ExitStack
    slow: list[float | str] = field(default_factory=list[float | str])

    def here(self, text: str) -> str:
        """Put this machine's folders and ports in the place of the page's."""
        text = FOLDERS.sub(f"{self.root}/", text)
        return PORTS.sub(lambda found: str(self.ports[found[0]]), text)

    def read(self, path: str) -> str:
        """Read a file that the page names."""
        return Path(self.here(path)).read_text().strip()

    def follow(self, steps: Sequence[Block]) -> None:
        """Carry out the blocks of a section."""
        printed = ""
        for step in steps:
            if step.kind == "text":
                assert steady(printed) == steady(self.here(step.text))
            else:
                printed = self.run(step.text)

    def run(self, script: str) -> str:
        """Run commands of the page; return what they print."""
        # As in one shell: what a block does to new files' rights holds for the next ones.
        kept = self.root / "umask"
        mask = kept.read_text() if kept.exists() else "022"
        done = subprocess.run(  # noqa: S603 - what the page says
            ["/bin/sh", "-eu", "-c", f"umask {mask}\n{self.here(script)}\numask > {kept}"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done
        return done.stdout

    def use(self, server: EmbeddedPostgres) -> None:
        """Let the administrator's variables name this server."""
        parts = urlsplit(server.dsn())
        names = {"PGHOST": parts.hostname, "PGUSER": parts.username, "PGPASSWORD": parts.password}
        self.environment |= {name: str(value) for name, value in names.items()} | {
            "PGPORT": str(parts.port)
        }
        self.server = server

    def admin_dsn(self) -> str:
        return self.server.dsn("postfacta")

    def dsn(self, role: str) -> str:
        """Return the address that the page wrote for a role."""
        owner, service = "/etc/postfacta/owner/dsn", "/etc/postfacta/secrets/postfacta_database_dsn"
        return self.read(owner if role == "owner" else service)

    def tls(self) -> ssl.SSLContext:
        """Trust the certificate that the page made."""
        context = ssl.create_default_context(cafile=self.here("/etc/haproxy/postfacta.crt"))
        context.check_hostname = False  # No name leads here.
        return context

    @contextmanager
    def client(self) -> Generator[httpx2.Client]:
        """Talk to the service through the proxy, as a browser of another place would."""
        url = f"https://127.0.0.1:{self.ports['443']}"
        with httpx2.Client(base_url=url, verify=self.tls(), timeout=PATIENCE) as client:
            yield client

    @contextmanager
    def ada(self) -> Generator[httpx2.Client]:
        """Sign in as the administrator that the page creates."""
        with self.client() as client:
            secret = {"email": ADA, "password": self.read("/etc/postfacta/owner/ada.password")}
            answer = client.post("/login", json=secret)
            assert answer.status_code == 200, answer.text
            client.headers["Authorization"] = f"Bearer {answer.json()['token']}"
            yield client

    def is_ready(self) -> bool:
        with self.client() as client:
            return client.get("/healthz/ready").status_code == 200


def steady(text: str) -> list[str]:
    """Leave out what differs from run to run, the difference between two clocks, and what the doctor says of this Python."""
    lines = [
        re.sub(r"\d\.\d s difference", "0.0 s difference", line).rstrip()
        for line in text.splitlines()
    ]
    return [line for line in lines if not re.match(r"\w+ +python |  +-> update Python$", line)]


@contextmanager
def systemctl_for(machine: Machine) -> Generator[None]:
    """Let the machine have a `systemctl`; end all units afterwards."""
    units = machine.units

    class Asked(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            words = self.rfile.read().decode().split("\0")
            self.wfile.write(units.systemctl(*words).encode())

    path = machine.root / "systemctl.sock"
    program = machine.root / "bin/systemctl"
    program.write_text(SYSTEMCTL.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)
    with socketserver.ThreadingUnixStreamServer(str(path), Asked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            for process in units.processes.values():
                process.send_signal(signal.SIGTERM)
            for process in units.processes.values():
                process.wait(PATIENCE)
