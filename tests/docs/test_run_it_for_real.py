"""The commands of "Run it for real" do on a fresh PostgreSQL, in their order, what the page says of them.

A program in the place of `systemctl` starts, restarts and stops what the unit file says. Folders and ports are others.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2
import pytest

from chaos.processes import Haproxy, free_port
from postfacta_app.cli import main
from postfacta_embedded import EmbeddedPostgres
from postfacta_embedded.binaries import find_binaries
from tests.pg import create_database, execute, fetch_value, open_folder

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/how-to/run-it-for-real.md").read_text()
PATIENCE = 60.0
FOLDERS = re.compile(
    r"(?<![\w.])/(?=(?:etc/(?:postfacta|haproxy|systemd)|opt/postfacta|var/backups|usr/local/bin)\b)"
)
PORTS = re.compile(r"(?<=:)(?:80|443)\b|\b(?:5432|8081|8082)\b")
NOT_RUN = {
    "Run it for real": "a picture",
    "Install": "it installs from a package index; tests/strangers installs the built package into an empty environment",
    "Write secrets and settings": "it adds a user to the machine, which the test must not",
    "Upgrade": "it installs from a package index; the test puts the same version there under another name",
}
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


def blocks() -> list[Block]:
    """Read the page."""
    found: list[Block] = []
    heading = ""
    for part in re.finditer(
        r"^#+ (?P<heading>[^\n]+)$|(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
        PAGE,
        re.MULTILINE | re.DOTALL,
    ):
        heading = part["heading"] or heading
        if part["kind"]:
            found.append(Block(heading, part["kind"], part["text"], part["why"] or ""))
    return found


BLOCKS = blocks()


def test_each_block_is_run_or_says_why_not() -> None:
    assert len(BLOCKS) == PAGE.count("\n```") / 2
    assert {block.heading: block.not_run for block in BLOCKS if block.not_run} == NOT_RUN
    run = [block for block in BLOCKS if not block.not_run]
    assert {block.kind for block in run} == {"sh", "text"}
    # A text is what the commands before it print.
    for before, block in pairwise(run):
        assert block.kind == "sh" or (before.kind, before.heading) == ("sh", block.heading)


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
                command, environment = [Haproxy.program() or "haproxy", "-db", "-f", str(config)], {}
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
        self.environment |= {name: str(value) for name, value in names.items()} | {"PGPORT": str(parts.port)}
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
    """Leave out what differs from run to run: the difference between two clocks."""
    return [re.sub(r"\d\.\d s difference", "0.0 s difference", line).rstrip() for line in text.splitlines()]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)  # noqa: TID251 - other processes, in a test


@pytest.fixture
def machine(programs: None) -> Generator[Machine]:
    """Make one with an empty PostgreSQL, and what the blocks that are not run would have installed."""
    with ExitStack() as stack:
        root = stack.enter_context(open_folder())
        server = stack.enter_context(EmbeddedPostgres(root / "data"))
        for folder in (
            "etc/haproxy",
            "etc/systemd/system",
            "opt/postfacta",
            "usr/local/bin",
            "var/backups",
            "bin",
        ):
            (root / folder).mkdir(parents=True)
        for version in ("0.1.0", "0.2.0"):
            (root / "opt/postfacta" / version).symlink_to(sys.prefix)
        path = f"{root}/bin:{root}/usr/local/bin:{find_binaries().folder}:{os.environ['PATH']}:/usr/sbin"
        ours = ("POSTFACTA_", "PG", "ENVIRONMENT", "LOG_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment["PATH"] = path
        ports = {name: free_port() for name in ("80", "443", "8081", "8082")} | {"5432": server.port}
        machine = Machine(root, server, environment, ports, Units(root, environment), stack)
        machine.use(server)
        stack.enter_context(systemctl_for(machine))
        yield machine


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


# What each section must have brought about. What stands before the `yield` happens before its commands.

Check = Callable[[Machine, pytest.MonkeyPatch, pytest.CaptureFixture[str]], Any]


@contextmanager
def roles(machine: Machine, *_: object) -> Generator[None]:
    yield
    rows = fetch_value(
        machine.admin_dsn(),
        "select array_agg(rolname::text order by rolname) from pg_roles where rolname like 'postfacta%' and not"
        " (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls)",
    )
    assert rows == ["postfacta", "postfacta_app", "postfacta_owner"]
    # Where the owner of the database is another, one grant is enough.
    elsewhere = create_database(machine.server, "elsewhere")
    execute(elsewhere, "grant create on schema public to postfacta_owner")


@contextmanager
def secrets(machine: Machine, *_: object) -> Generator[None]:
    yield
    etc = machine.root / "etc/postfacta"
    files = [file for file in etc.rglob("*") if file.is_file() and file.name != "environment"]
    assert len(files) == 6
    assert all(file.stat().st_mode & 0o077 == 0 for file in (*files, etc / "owner", etc / "secrets"))


@contextmanager
def tables(machine: Machine, *_: object) -> Generator[None]:
    yield
    for statement in (
        "update audit_log set actor = 'x'",
        "delete from signals",
        "create table public.mine ()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            execute(machine.dsn("service"), statement)
    owner = urlsplit(machine.dsn("owner"))._replace(path="/elsewhere")
    script = f"POSTFACTA_DATABASE_OWNER_DSN={urlunsplit(owner)} postfacta migrate"
    assert "at revision 0001" in machine.run(script)


@contextmanager
def doctor(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Generator[None]:
    yield
    rows = re.findall(r"^\| (.+) \| (\d) \| `(.+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(FAULTS)
    for (what, code, line), fault in zip(rows, FAULTS, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr("postfacta_app.reach._WAIT", 5.0 if fault is not away else 0.5)
            for one in machine.read("/etc/postfacta/environment").splitlines():
                patch.setenv(*one.split("=", 1))
            with fault(machine, patch):
                expected = re.escape(machine.here(line))
                capsys.readouterr()
                found = main(["doctor", "--port", str(machine.ports["8081"])])
            said = "".join(capsys.readouterr())
        assert found == int(code), (what, said)
        assert re.search(rf"^(postfacta: )?{expected}", said, re.MULTILINE), (what, said)
        if line.startswith("fail"):
            assert re.search(rf"{expected}.*\n {{17}} -> \S", said), (what, said)


@contextmanager
def away(machine: Machine, patch: pytest.MonkeyPatch) -> Generator[None]:
    nobody = free_port()
    with pytest.MonkeyPatch.context() as ports:
        ports.setitem(machine.ports, "5432", nobody)
        here, there = str(machine.server.port), str(nobody)
        patch.setenv("POSTFACTA_DATABASE_DSN", machine.dsn("service").replace(here, there))
        yield


@contextmanager
def wrong_password(machine: Machine, patch: pytest.MonkeyPatch) -> Generator[None]:
    patch.setenv("POSTFACTA_DATABASE_DSN", machine.dsn("service").replace("@", "x@"))
    yield


@contextmanager
def no_tables(machine: Machine, patch: pytest.MonkeyPatch) -> Generator[None]:
    create_database(machine.server, "empty")
    patch.setenv("POSTFACTA_DATABASE_DSN", machine.dsn("service").removesuffix("postfacta") + "empty")
    yield


@contextmanager
def no_member(machine: Machine, patch: pytest.MonkeyPatch) -> Generator[None]:
    execute(machine.admin_dsn(), "revoke postfacta_app from postfacta")
    yield
    execute(machine.admin_dsn(), "grant postfacta_app to postfacta")


@contextmanager
def no_role_at_first(machine: Machine, patch: pytest.MonkeyPatch) -> Generator[None]:
    # As it was after that; `migrate` mends it.
    execute(machine.dsn("owner"), "revoke all on all tables in schema public from postfacta_app")
    yield
    machine.run("POSTFACTA_DATABASE_OWNER_DSN_FILE=/etc/postfacta/owner/dsn postfacta migrate")


@contextmanager
def owner(machine: Machine, patch: pytest.MonkeyPatch) -> Generator[None]:
    patch.setenv("POSTFACTA_DATABASE_DSN", machine.dsn("owner"))
    yield


@contextmanager
def no_commit(machine: Machine, patch: pytest.MonkeyPatch) -> Generator[None]:
    execute(machine.admin_dsn(), "alter role postfacta set synchronous_commit = off")
    yield
    execute(machine.admin_dsn(), "alter role postfacta reset synchronous_commit")


@contextmanager
def taken_port(machine: Machine, patch: pytest.MonkeyPatch) -> Generator[None]:
    with socket.create_server(("127.0.0.1", machine.ports["8081"])):
        yield


@contextmanager
def wrong_name(machine: Machine, patch: pytest.MonkeyPatch) -> Generator[None]:
    patch.setenv("POSTFACTA_PROT", "1")
    yield


FAULTS = [
    away,
    wrong_password,
    no_tables,
    no_member,
    no_role_at_first,
    owner,
    no_commit,
    taken_port,
    wrong_name,
]


@contextmanager
def units(machine: Machine, *_: object) -> Generator[None]:
    yield
    file = machine.root / "etc/systemd/system/postfacta@.service"
    # The next version is installed in the same shell, and is for the service's user to read.
    assert file.stat().st_mode & 0o777 == 0o644
    section = service_of(file)
    assert float(section["TimeoutStopSec"]) > 35 + 5  # What the doctor says on the page, and some slack.
    assert section["ExecReload"] == "/bin/kill -HUP $MAINPID"
    if shutil.which("systemd-analyze"):
        one = file.with_name("postfacta@8081.service")
        one.write_text(file.read_text())
        done = subprocess.run(  # noqa: S603 - the file that the page wrote
            ["systemd-analyze", "verify", "--man=no", str(one)],  # noqa: S607 - wherever it is
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        # A directive that it does not know is a warning alone.
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@contextmanager
def proxy(machine: Machine, *_: object) -> Generator[None]:
    yield
    with machine.client() as client:
        assert client.get("/metrics").status_code == 403
    plain = httpx2.get(f"http://127.0.0.1:{machine.ports['80']}/login?a=1")
    assert plain.status_code == 308
    assert plain.headers["location"] == "https://127.0.0.1:{}/login?a=1".format(machine.ports["80"])
    with machine.ada() as ada:
        new = {"title": "Checkout is down", "description": "Nobody can pay since noon.", "severity": "HIGH"}
        made_up = {"X-Forwarded-For": "203.0.113.9"}
        assert ada.post("/api/v1/incidents", json=new, headers=made_up).status_code == 201
        first = {"content": {"summary": "The first."}}
        about = "/api/v1/incidents/INC-1/postmortem"
        answer = ada.put(about, json=first, headers={"If-None-Match": "*"})
        assert answer.status_code == 201, answer.text
        second = {"content": {"summary": "The second."}}
        answer = ada.put(about, json=second, headers={"If-Match": answer.headers["etag"]})
        assert answer.status_code == 200, answer.text
    clients = "select array_agg(distinct host(client)) from audit_log where actor like 'user:%'"
    assert fetch_value(machine.admin_dsn(), clients) == ["127.0.0.1"]
    # It lasts ten seconds: the next sections are done meanwhile.
    slow = threading.Thread(target=send_half_a_header, args=(machine,))
    slow.start()
    machine.stack.callback(slow.join)


def send_half_a_header(machine: Machine) -> None:
    began = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", machine.ports["443"]), timeout=PATIENCE) as plain,
        machine.tls().wrap_socket(plain) as wrapped,
    ):
        wrapped.sendall(b"GET / HTTP/1.1\r\nHost: postfacta.example.org\r\n")
        for _ in range(3):
            time.sleep(2)  # noqa: TID251 - a client that is slow, in a thread of its own
            wrapped.sendall(b"X-More: 1\r\n")
        machine.slow += [wrapped.recv(100).decode().partition("\r\n")[0], time.monotonic() - began]


@contextmanager
def backup(machine: Machine, *_: object) -> Generator[None]:
    yield
    (dump,) = (machine.root / "var/backups/postfacta").iterdir()
    assert (dump.suffix, dump.stat().st_mode & 0o077) == (".dump", 0)


@contextmanager
def restore(machine: Machine, *_: object) -> Generator[None]:
    before = contents(machine)
    assert before["postmortem_revisions"].startswith("2 ")
    # The machine of the database is lost, and another one has its address.
    machine.server.stop()
    new = EmbeddedPostgres(machine.root / "new", port=machine.server.port)
    machine.use(machine.stack.enter_context(new))
    assert machine.server.port == machine.ports["5432"]
    yield
    assert contents(machine) == before
    until(machine.is_ready)
    with machine.ada() as ada:
        (incident,) = ada.get("/api/v1/incidents").json()["items"]
        assert incident["title"] == "Checkout is down"


def contents(machine: Machine) -> dict[str, str]:
    """Return the number of rows of each table, and a digest of what they hold."""
    dsn = machine.admin_dsn()
    names = str(
        fetch_value(dsn, "select string_agg(tablename, ' ') from pg_tables where schemaname = 'public'")
    )
    assert len(names.split()) == 14
    return {
        name: str(
            fetch_value(dsn, f"select count(*) || ' ' || coalesce(md5(string_agg(t::text, '' order by t::text)), '') from {name} t")  # noqa: S608 - a name from the catalogue
        )
        for name in names.split()
    }  # fmt: skip


@contextmanager
def without_a_failure(machine: Machine, *_: object) -> Generator[None]:
    """Ask and record while the commands run; each process is another one afterwards, and nothing failed."""
    answers: list[int] = []
    stop = threading.Event()
    before = {name: process.pid for name, process in machine.units.processes.items()}

    def ask(client: httpx2.Client) -> None:
        new = {"title": "Under load", "description": "Recorded by a test", "severity": "LOW"}
        while not stop.wait(0.25):
            try:
                answers.append(client.get("/api/v1/incidents").status_code)
                answers.append(client.post("/api/v1/incidents", json=new).status_code)
            except httpx2.TransportError:
                answers.append(0)

    with machine.ada() as ada:
        asking = threading.Thread(target=ask, args=(ada,))
        asking.start()
        try:
            yield
        finally:
            stop.set()
            asking.join()
    after = {name: process.pid for name, process in machine.units.processes.items()}
    assert [name for name in after if after[name] == before[name]] == ["haproxy"]
    assert len(answers) > 20
    assert set(answers) == {200, 201}


@contextmanager
def upgrade(machine: Machine, *_: object) -> Generator[None]:
    with without_a_failure(machine):
        yield
    assert (machine.root / "opt/postfacta/current").readlink().name == "0.2.0"
    assert len(list((machine.root / "var/backups/postfacta").iterdir())) == 2
    (answer, seconds) = machine.slow
    assert answer == "HTTP/1.1 408 Request Time-out"
    assert 8 < float(seconds) < 30


@contextmanager
def go_back(machine: Machine, *_: object) -> Generator[None]:
    # What a later version's migration may do.
    execute(
        machine.dsn("owner"),
        "alter table incidents add column later text not null default ''",
        "create table later (id int)",
        "update alembic_version set version_num = '0002'",
    )
    with without_a_failure(machine):
        yield
    assert (machine.root / "opt/postfacta/current").readlink().name == "0.1.0"
    assert machine.is_ready()


AROUND: dict[str, Check] = {
    "Create roles and the database": roles,
    "Write secrets and settings": secrets,
    "Create the tables": tables,
    "Ask the doctor": doctor,
    "Start it under systemd": units,
    "Put HAProxy in front": proxy,
    "Back up": backup,
    "Restore": restore,
    "Upgrade": upgrade,
    "Go back": go_back,
}


@pytest.mark.skipif(
    Haproxy.program() is None and "TEST_REQUIRE_ALL" not in os.environ,
    reason="haproxy is not installed (Debian: apt-get install haproxy)",
)
def test_its_commands_do_what_the_page_says(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in os.environ:
        if name.startswith(("POSTFACTA_", "LOG_")) or name in {"ENVIRONMENT", "APP_VERSION"}:
            monkeypatch.delenv(name)
    headings = list(dict.fromkeys(block.heading for block in BLOCKS))
    assert set(AROUND) <= set(headings)
    for heading in headings:
        steps = [block for block in BLOCKS if block.heading == heading and not block.not_run]
        check = AROUND.get(heading)
        with check(machine, monkeypatch, capsys) if check else nullcontext():
            machine.follow(steps)
