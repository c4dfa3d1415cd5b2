"""The commands of "Run it for real" do on a fresh PostgreSQL, in their order, what the page says of them.

A program in the place of `systemctl` starts, restarts and stops what the unit file says. Folders
and ports are others.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2
import pytest

from chaos.processes import Haproxy
from postfacta_app.cli import main
from postfacta_app.migrations import HEAD
from postfacta_embedded import EmbeddedPostgres
from postfacta_embedded.binaries import find_binaries
from postfacta_lab.engine.processes import free_port, wait_until
from tests.docs.machine import PATIENCE, Block, Machine, Units, service_of, systemctl_for
from tests.kit.pg import create_database, execute, fetch_value, open_folder

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/how-to/run-it-for-real.md").read_text()
NOT_RUN = {
    "Run it for real": "a picture",
    "Install": "its packages come from an index; tests/strangers installs the built wheel into an empty environment",
    "Write secrets and settings": "it adds a user to the machine, which the test must not",
    "Upgrade": "its packages come from an index; the test puts the same version there under another name",
}
PROGRAMS = {
    "curl": shutil.which("curl"),
    "haproxy": Haproxy.program(),
    "openssl": shutil.which("openssl"),
}
MISSING = [name for name, where in PROGRAMS.items() if where is None]


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
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(ours)
        }
        environment["PATH"] = path
        ports = {name: free_port() for name in ("80", "443", "8081", "8082")} | {
            "5432": server.port
        }
        machine = Machine(root, server, environment, ports, Units(root, environment), stack)
        machine.use(server)
        stack.enter_context(systemctl_for(machine))
        yield machine


# What each section must have brought about. What stands before the `yield` happens before its
# commands.

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
    assert all(
        file.stat().st_mode & 0o077 == 0 for file in (*files, etc / "owner", etc / "secrets")
    )


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
    assert f"at revision {HEAD}" in machine.run(script)


@contextmanager
def doctor(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Generator[None]:
    yield
    rows = re.findall(r"^\| (.+) \| (\d) \| `(.+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(FAULTS)
    for (what, code, line), fault in zip(rows, FAULTS, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr("postfacta_app.db._WAIT", 5.0 if fault is not away else 0.5)
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
    patch.setenv(
        "POSTFACTA_DATABASE_DSN", machine.dsn("service").removesuffix("postfacta") + "empty"
    )
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
    assert (
        float(section["TimeoutStopSec"]) > 35 + 5
    )  # What the doctor says on the page, and some slack.
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
        new = {
            "title": "Checkout is down",
            "description": "Nobody can pay since noon.",
            "severity": "HIGH",
        }
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
    wait_until(machine.is_ready, "it is not ready", within=PATIENCE)
    with machine.ada() as ada:
        (incident,) = ada.get("/api/v1/incidents").json()["items"]
        assert incident["title"] == "Checkout is down"


def contents(machine: Machine) -> dict[str, str]:
    """Return the number of rows of each table, and a digest of what they hold."""
    dsn = machine.admin_dsn()
    names = str(
        fetch_value(
            dsn, "select string_agg(tablename, ' ') from pg_tables where schemaname = 'public'"
        )
    )
    assert len(names.split()) == 17
    return {
        name: str(
            fetch_value(dsn, f"select count(*) || ' ' || coalesce(md5(string_agg(t::text, '' order by t::text)), '') from {name} t")  # noqa: S608 - a name from the catalogue
        )
        for name in names.split()
    }  # fmt: skip


@contextmanager
def without_a_failure(machine: Machine, *_: object) -> Generator[None]:
    """Ask and record while the commands run.

    Each process is another one afterwards, and nothing failed.
    """
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
        f"update alembic_version set version_num = '{HEAD}'",  # noqa: S608 - a revision
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
    bool(MISSING) and "TEST_REQUIRE_ALL" not in os.environ,
    reason=f"not installed (Debian: apt-get install {' '.join(MISSING)})",
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
