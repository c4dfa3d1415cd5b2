"""Migrate under load: the version before and this one serve, the upgrade is killed and resumed, and a bad one is noticed.

    python deploy/migrations/drill.py [--markdown FILE]

The version before is the code of the last commit without the newest revision of the schema, from
git's history. Exit codes: 0 all held, 1 something did not, 77 the history does not reach back that
far.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import httpx2

# It is started by its path from anywhere, and its modules are no part of an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chaos.processes import Haproxy, Instance, command
from chaos.together import drill_folder, drill_parser, publish
from deploy.migrations.kills import Kills, fetch_value, kill_each, run
from deploy.outcome import NOT_RUN
from postfacta_app.migrations import HEAD
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.engine.page import machine
from postfacta_lab.engine.processes import wait_until

__all__ = ["BAD", "Callers", "bad_build", "former", "main", "refused", "serve_both"]

ROOT: Final = Path(__file__).resolve().parents[2]
_VERSIONS: Final = "postfacta_app/migrations/versions"
_PATIENCE: Final = 60.0
_ALONE, _TOGETHER = 2.0, 3.0  # seconds of load
_SERVE: Final = {
    "ENVIRONMENT": "local",
    "POSTFACTA_AUTH_MODE": "none",
    "POSTFACTA_DRAIN_DELAY": "1",
}
_REBUILT: Final = "select count(timeline_rebuild(id)) from incidents"
_KEPT: Final = """
select md5(string_agg(line, e'\\n' order by line)) from (
  select t::text as line from timeline_entries t union all select m::text from incident_measures m) found"""

BAD: Final = {
    "a column that must not be null, without a default": (
        "alter table incidents add column score bigint",
        "update incidents set score = 1",
        "alter table incidents alter column score set not null",
    ),
    "a column that is renamed": ("alter table incidents rename column title to name",),
    "a table that is locked for eight seconds": (
        "lock table incidents in access exclusive mode",
        "select pg_sleep(4)",
        "select pg_sleep(4)",
    ),
}
"""Revisions that the version before does not survive."""

# The versions


def former(folder: Path) -> Path | None:
    """Unpack the code before the newest revision; None if the history does not hold it."""
    newest = max((ROOT / "src" / _VERSIONS).glob("[0-9]*.sql")).relative_to(ROOT)
    added = _git("log", "--diff-filter=A", "--format=%H", "--", str(newest)).decode().split()
    packed = _git("archive", f"{added[-1]}^", "src") if added else b""
    if not packed:
        return None
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def _git(*words: str) -> bytes:
    return subprocess.run(  # noqa: S603 - of this checkout
        ["git", *words],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    ).stdout


def bad_build(folder: Path, statements: Sequence[str]) -> Path:
    """Copy this version and add a revision that executes the statements."""
    source = shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    number = f"{int(HEAD) + 1:04}"
    (source / _VERSIONS / f"{number}_bad.sql").write_text("\n\n".join(statements))
    return source


# The load


class Callers:
    """Record, amend and read incidents until the block ends.

    Attributes:
        phase: What is going on; set by the drill.
        answers: Counts the requests by phase and instance.
        failures: Each that was not answered by a success.
        recorded: How many incidents were acknowledged.
    """

    def __init__(self, url: str, number: int = 3) -> None:
        self.phase = ""
        self.answers: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self.recorded = 0
        self._url = url
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work) for _ in range(number)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def during(self, phase: str, seconds: float) -> None:
        """Let them work for a while."""
        self.phase = phase
        time.sleep(seconds)  # noqa: TID251 - their threads are at work

    def _work(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=_PATIENCE) as client:
            while not self._stop.is_set():
                self._one_incident(client)

    def _one_incident(self, client: httpx2.Client) -> None:
        new = {"title": "Under migration", "description": "Recorded by a drill", "severity": "LOW"}
        made = self._ask(client, "POST", "/api/v1/incidents", json=new)
        if made is None:
            return
        with self._lock:
            self.recorded += 1
        incident = made.json()
        path = f"/api/v1/incidents/{incident['id']}"
        etag = made.headers["ETag"]
        signals = [
            {"kind": "change", "title": f"Deploy {number}", "id": f"{incident['id']}/{number}"}
            for number in (1, 2)
        ]
        self._ask(
            client,
            "PATCH",
            path,
            json={"description": "Changed by a drill"},
            headers={"If-Match": etag},
        )
        self._ask(
            client, "POST", "/api/v1/signals", json={"incident": incident["id"], "items": signals}
        )
        self._ask(client, "POST", f"{path}/annotations", json={"kind": "note", "body": "Look here"})
        self._ask(client, "POST", f"{path}/transitions", json={"to": "IN_PROGRESS"})
        for read in (
            f"{path}/timeline",
            f"{path}/durations",
            "/api/v1/incidents",
            f"/incidents/{incident['id']}",
        ):
            self._ask(client, "GET", read)

    def _ask(
        self, client: httpx2.Client, method: str, path: str, **given: Any
    ) -> httpx2.Response | None:
        time.sleep(0.02)  # noqa: TID251 - a thread that leaves some of the machine to the others
        phase = self.phase
        try:
            answer = client.request(method, path, **given)
            by = answer.headers.get("X-Served-By", "")
            failure = "" if answer.is_success else f"{answer.status_code}: {answer.text[:200]}"
        except httpx2.TransportError as error:
            answer = None
            by = ""
            failure = type(error).__name__
        with self._lock:
            self.answers[phase, by] += 1
            if failure:
                self.failures.append(f"{phase}: {method} {path}: {failure}")
        return None if failure else answer


# The drill


@dataclass(slots=True)
class _Stage:
    """A database, and the versions that may serve it behind a proxy."""

    dsn: str
    folder: Path
    sources: Mapping[str, Path]
    instances: dict[str, Instance] = field(init=False)
    proxy: Haproxy = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.instances = {
            name: Instance(
                name, self.dsn, log=self.folder / f"{name}.log", environment=self.of(name)
            )
            for name in self.sources
        }
        self.proxy = Haproxy(
            self.folder, [it.port for it in self.instances.values()], names=list(self.instances)
        )

    def of(self, name: str) -> dict[str, str]:
        return {**_SERVE, "PYTHONPATH": str(self.sources[name])}

    def start(self, name: str) -> None:
        self.instances[name].start()
        self.instances[name].wait_ready()

    def open(self) -> None:
        self.proxy.start()
        self.proxy.wait_ready()

    def migrate(self, name: str) -> None:
        command("migrate", dsn=self.dsn, environment=self.of(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in (self.proxy, *self.instances.values()):
            child.stop()


def serve_both(dsn: str, old: Path, folder: Path) -> tuple[Callers, list[str]]:
    """Roll from the version before to this one, back, and forth again, under load.

    Return what went wrong.

    Args:
        dsn: A database at the revision of the version before.
        old: The code of that version.
        folder: For logs.
    """
    with _Stage(dsn, folder, {"before": old, "this": ROOT / "src"}) as stage:
        stage.start("before")
        stage.open()
        first = _recorded(dsn)
        with Callers(stage.proxy.url) as callers:
            faults = _roll(stage, callers)
    faults += callers.failures
    lost = callers.recorded - (_recorded(dsn) - first)
    faults += [f"{lost} recorded incidents are lost or doubled"] if lost else []
    kept = fetch_value(dsn, _KEPT)
    fetch_value(dsn, _REBUILT)
    return callers, faults + (
        []
        if fetch_value(dsn, _KEPT) == kept
        else ["the kept timelines are not those that the facts give"]
    )


def _roll(stage: _Stage, callers: Callers) -> list[str]:
    before = stage.instances["before"]
    this = stage.instances["this"]
    callers.during("before, schema before", _ALONE)
    this.start()
    wait_until(lambda: _is_alive(this.url), "this one lives", within=_PATIENCE)
    faults = ["this version is ready without its schema"] if this.is_ready() else []
    callers.phase = "before, while it migrates"
    stage.migrate("this")
    callers.phase = "both, schema of this one"
    this.wait_ready()
    callers.during("both, schema of this one", _TOGETHER)
    before.stop()
    callers.during("this", _ALONE)
    callers.phase = "both, schema of this one"
    stage.start("before")
    this.stop()
    callers.during("before again, rolled back", _TOGETHER)
    callers.phase = "before, while it migrates again"
    stage.migrate("this")
    callers.phase = "both, schema of this one"
    stage.start("this")
    before.stop()
    callers.during("this again", _ALONE)
    return faults


def _recorded(dsn: str) -> int:
    return int(str(fetch_value(dsn, "select count(*) from incidents")))


def refused(dsn: str, bad: Sequence[str], folder: Path) -> list[str]:
    """Migrate to a bad revision while this version serves; return what went wrong."""
    build = bad_build(folder / "src", bad)
    with _Stage(dsn, folder / "stage", {"before": ROOT / "src", "bad": build}) as stage:
        stage.start("before")
        stage.open()
        with Callers(stage.proxy.url) as callers:
            callers.during("before", 1.0)
            callers.phase = "while it migrates"
            try:
                stage.migrate("bad")
            except RuntimeError as error:
                callers.failures.append(str(error))
            callers.during("after", 1.0)
    return callers.failures


def _is_alive(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz/live", timeout=_PATIENCE).is_success
    except httpx2.TransportError:
        return False


def _killed(folder: Path, old: Path) -> list[Kills]:
    # No power fails here.
    with EmbeddedPostgres(folder / "killed", settings={"fsync": "off"}) as server:
        run(server.dsn(), "create database facts", "create database empty")
        dsn = server.dsn("facts")
        log = folder / "facts.log"
        environment = {**_SERVE, "PYTHONPATH": str(old), "POSTFACTA_READY_REQUIRES_DB": "false"}
        command("migrate", dsn=dsn, environment=environment)
        instance = Instance("before", dsn, log=log, environment=environment)
        instance.start()
        try:
            instance.wait_ready()
            with Callers(instance.url) as callers:
                callers.during("facts", _ALONE)
        finally:
            instance.stop()
        if callers.failures:
            raise RuntimeError(callers.failures[0])
        return [
            kill_each(server, start, how)
            for start, how in (("empty", "process"), ("facts", "process"), ("facts", "backend"))
        ]


def main(words: Sequence[str]) -> int:
    """Run the drill; return the exit code."""
    given = drill_parser(__doc__).parse_args(words)
    with drill_folder("migrations") as folder:
        old = former(folder / "former")
        if old is None:
            sys.stdout.write("not run: git's history does not reach the version before\n")
            return NOT_RUN
        report, held = _drill(folder, old)
    publish(report, given.markdown)
    return 0 if held else 1


def _drill(folder: Path, old: Path) -> tuple[str, bool]:
    kills = _killed(folder, old)
    with EmbeddedPostgres(folder / "data") as server:
        run(server.dsn(), "create database rolled")
        command("migrate", dsn=server.dsn("rolled"), environment={"PYTHONPATH": str(old)})
        callers, faults = serve_both(server.dsn("rolled"), old, folder / "rolled")
        bad: dict[str, list[str]] = {}
        for number, (what, statements) in enumerate(BAD.items()):
            run(server.dsn(), f'create database bad{number} template "rolled"')
            bad[what] = refused(server.dsn(f"bad{number}"), statements, folder / f"bad{number}")
    held = not faults and not any(it.faults for it in kills) and all(bad.values())
    return _report(kills, callers, faults, bad=bad), held


def _report(
    kills: Sequence[Kills],
    callers: Callers,
    faults: Sequence[str],
    *,
    bad: Mapping[str, Sequence[str]],
) -> str:
    phases = list(dict.fromkeys(phase for phase, _ in callers.answers))
    count = callers.answers
    starts = {"empty": "an empty one", "facts": "one with facts, of the version before"}
    return "\n".join(
        (
            "# Migrations under load",
            "",
            (
                "Written by `make drill ONLY=migration`, which takes the version before from git's"
                " history: the last commit without the newest"
            ),
            (
                f"revision of the schema ({HEAD}). The load records, amends and reads incidents"
                " through HAProxy."
            ),
            "",
            "## Two versions, one schema",
            "",
            (
                f"**{count.total()} requests, {len(callers.failures)} failed;** {callers.recorded}"
                " incidents recorded, none lost or doubled."
            ),
            "",
            "| what serves | answers of the version before | of this one |",
            "|---|---|---|",
            *(
                f"| {phase} | {count[phase, 'before']} | {count[phase, 'this']} |"
                for phase in phases
            ),
            "",
            (
                "This version is not ready, and gets no requests, until its schema is there. There"
                " are no downgrades: the way back is the"
            ),
            (
                "version before on the newer schema, and what it recorded there has the same"
                " timelines as if it were recorded by this one."
            ),
            "",
            *(f"* **{fault}**" for fault in faults[:20]),
            *([""] if faults else []),
            "## Killed and resumed",
            "",
            (
                "Before each statement of the upgrade, what works on it is killed; then it is run"
                " again. Schema, rights, facts and timelines"
            ),
            "must be those of an upgrade that was not killed.",
            "",
            "| killed | database | times | otherwise |",
            "|---|---|---|---|",
            *(
                f"| the {it.how} | {starts[it.start]} | {it.number} |"
                f" {'; '.join(it.faults) or 'none'} |"
                for it in kills
            ),
            "",
            "## Bad revisions are noticed",
            "",
            "| revision | failures seen | the first |",
            "|---|---|---|",
            *(f"| {what} | {len(seen)} | `{_short(seen)}` |" for what, seen in bad.items()),
            "",
            (
                f"Measured on {datetime.now(UTC):%Y-%m-%d}:"  # noqa: TID251 - of a report
                f" {', '.join(f'{name} {text}' for name, text in machine().items())}."
            ),
            "",
        )
    )


def _short(seen: Sequence[str]) -> str:
    first = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "…", seen[0]) if seen else "**none**"
    return re.sub(r"\{.*|[|`]", "", first).strip(" :")[:120]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
