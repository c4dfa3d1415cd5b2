"""Cause each outage of the database under load, and measure what its users and its operators see.

    make faults        (python -m chaos.database_faults [NAME...] [--seconds 20] [--json FILE]
    [--markdown FILE])

Real processes: the service, PostgreSQL, a fault proxy between the two, a streaming standby. Users
read and write all the while. What must hold, for each outage:

* no answer comes later than its route's deadline and 0.1 s, and none has another status than the
  outage allows;
* the first write that succeeds comes within one reconnect interval after the database is back,
  without a restart;
* the liveness probe answers 200 at all times; readiness falls if the outage lasts for three checks,
  and comes back;
* on the server there are then no more connections than the pool holds, and none that hangs in a
  statement;
* `postfacta verify` still builds the timeline that a post-mortem saw before the outage from the
  facts that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx2

from chaos.outages import OUTAGES, Outage, Site, opened
from chaos.processes import command
from chaos.stack import prepare, write_post_mortem
from postfacta_lab.engine.processes import wait_until

__all__ = ["Record", "Result", "Sample", "judge", "main", "run"]

DEADLINES = {"write": 5.0, "read": 2.0, "list": 5.0}
GRACE = 0.1
RECONNECT = 2.0
"""The longest wait between two attempts to connect: `PoolOptions.reconnect`."""
POOL = 10 + 1
_OK = 200
_CREATED = 201
_THREE_CHECKS = 18.0
_PACE = 0.05
_USERS = ("write", "write", "read", "read", "list", "list")
_CONNECTIONS = (
    "select count(*) from pg_stat_activity"
    " where application_name like 'postfacta%' and backend_type = 'client backend'"
)
_HANGING = f"{_CONNECTIONS} and state <> 'idle' and state_change < now() - interval '1 s'"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it began, how long it took, and what came of it; status 0 is no answer."""

    kind: str
    began: float
    seconds: float
    status: int
    is_stale: bool = False

    @property
    def ended(self) -> float:
        """When it was answered."""
        return self.began + self.seconds


@dataclass(slots=True)
class Result:
    """What an outage did.

    Moments are counted from the repair; a readiness that did not fall has none.
    """

    outage: str
    what: str
    lasted: float
    requests: int = 0
    statuses: dict[str, int] = field(default_factory=dict[str, int])
    stale_reads: int = 0
    latest: float = 0.0
    first_write_after: float = -1.0
    unready_after: float | None = None
    ready_again_after: float | None = None
    connections: int = 0
    failures: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class Record:
    """What was seen of an outage: the requests, and each probe as (when, liveness, readiness)."""

    caused: float = 0.0
    mended: float = 0.0
    samples: list[Sample] = field(default_factory=list[Sample])
    probes: list[tuple[float, int, int]] = field(default_factory=list[tuple[float, int, int]])


class _Users:
    """Six users who ask and write at a steady pace, each in a thread, and a prober."""

    def __init__(self, url: str, token: str, incident: str) -> None:
        self.record = Record()
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._incident = incident
        self._stop = threading.Event()
        self._threads = [
            *(threading.Thread(target=self._use, args=(kind,), daemon=True) for kind in _USERS),
            threading.Thread(target=self._probe, daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30.0)

    def _use(self, kind: str) -> None:
        with httpx2.Client(base_url=self._url, headers=self._headers, timeout=30.0) as client:
            while not self._stop.wait(_PACE):
                began = time.monotonic()
                status, is_stale = self._send(client, kind)
                self.record.samples.append(
                    Sample(kind, began, time.monotonic() - began, status, is_stale)
                )

    def _send(self, client: httpx2.Client, kind: str) -> tuple[int, bool]:
        try:
            if kind == "write":
                key = str(uuid4())
                body = {
                    "title": f"Fault {key}",
                    "description": "Written while the database has a fault",
                    "severity": "LOW",
                    "kind": "exercise",
                }
                answer = client.post(
                    "/api/v1/incidents", json=body, headers={"Idempotency-Key": f'"{key}"'}
                )
            else:
                where = self._incident if kind == "read" else "/api/v1/incidents?limit=5"
                answer = client.get(where)
        except httpx2.TransportError:
            return 0, False
        return answer.status_code, "Cache-Status" in answer.headers

    def _probe(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=5.0) as client:
            while not self._stop.wait(_PACE):
                began = time.monotonic()
                try:
                    live = client.get("/healthz/live").status_code
                    ready = client.get("/healthz/ready").status_code
                except httpx2.TransportError:
                    live = ready = 0
                self.record.probes.append((began, live, ready))


def run(outage: Outage, folder: Path, template: Path, *, seconds: float) -> Result:
    """Cause one outage for this many seconds under load, repair it, and judge."""
    with opened(outage, folder, template) as site:
        incident = write_post_mortem(site.stack.url, site.stack.token)
        if outage.at_boot:
            site.stack.instances[0].kill()
            outage.cause(site)
            site.stack.instances[0].start()
            wait_until(lambda: _is_live(site), "the service is live", within=60.0)
        users = _Users(site.stack.url, site.stack.token, incident)
        users.start()
        try:
            time.sleep(2.0)  # noqa: TID251 - a thread of its own: users have been served for a while
            caused = users.record.caused = time.monotonic()
            if not outage.at_boot:
                outage.cause(site)
            time.sleep(max(0.0, caused + seconds - time.monotonic()))  # noqa: TID251 - it lasts
            outage.mend(site)
            users.record.mended = time.monotonic()
            _wait_for_recovery(users.record)
        finally:
            users.stop()
        result = judge(outage, users.record)
        _count_connections(result, site)
        _verify(result, site)
        return result


def _is_live(site: Site) -> bool:
    try:
        return httpx2.get(f"{site.stack.url}/healthz/live", timeout=2.0).status_code == 200
    except httpx2.TransportError:
        return False


def _wait_for_recovery(record: Record) -> None:
    """Wait until a write succeeded and readiness is back.

    What does not come is found by the judgement.
    """

    def recovered() -> bool:
        samples = tuple(record.samples)
        wrote = any(
            s.kind == "write" and s.status == _CREATED and s.began > record.mended for s in samples
        )
        return wrote and bool(record.probes) and record.probes[-1][2] == _OK

    try:
        wait_until(recovered, "the service has recovered", within=60.0)
        time.sleep(2.0)  # noqa: TID251 - what comes late comes now
    except TimeoutError:
        return


def judge(outage: Outage, record: Record) -> Result:
    """Compare what users and the prober saw with what must hold."""
    caused = record.caused
    mended = record.mended
    after = [sample for sample in record.samples if sample.ended >= caused]
    counted = Counter((sample.kind, sample.status) for sample in after)
    result = Result(
        outage.name,
        outage.what,
        lasted=round(mended - caused, 1),
        requests=len(after),
        statuses={f"{kind} {status}": count for (kind, status), count in sorted(counted.items())},
        stale_reads=sum(sample.is_stale for sample in after),
        latest=round(max((s.seconds - DEADLINES[s.kind] for s in after), default=0.0), 3),
    )
    for kind, status in counted:
        if status not in (outage.writes if kind == "write" else outage.reads):
            result.failures.append(f"a {kind} got {status}")
    if result.latest > GRACE:
        result.failures.append(f"an answer came {result.latest} s after its deadline")
    written = [
        s.ended - mended
        for s in after
        if s.kind == "write" and s.status == _CREATED and s.ended > mended
    ]
    result.first_write_after = round(min(written, default=-1.0), 3)
    if not 0 <= result.first_write_after <= RECONNECT:
        result.failures.append(
            f"the first write succeeded {result.first_write_after} s after the repair"
        )
    _judge_probes(result, outage, record)
    return result


def _judge_probes(result: Result, outage: Outage, record: Record) -> None:
    caused = record.caused
    mended = record.mended
    if not all(live == _OK for _, live, _ in record.probes):
        result.failures.append("the liveness probe was not always 200")
    unready = [at for at, _, ready in record.probes if ready != _OK and at >= caused]
    if unready:
        result.unready_after = round(unready[0] - caused, 2)
        result.ready_again_after = round(max(0.0, unready[-1] - mended), 2)
    elif outage.falls and mended - caused > _THREE_CHECKS:
        result.failures.append("readiness did not fall")
    if not record.probes or record.probes[-1][2] != _OK:
        result.failures.append("readiness did not come back")


def _count_connections(result: Result, site: Site) -> None:
    # A statement of the last request may be on its way out.
    wait_until(lambda: not site.ask(_HANGING), "no statement of ours hangs", within=10.0)
    result.connections = site.ask(_CONNECTIONS)
    if result.connections > POOL:
        result.failures.append(
            f"{result.connections} connections, {result.connections - POOL} more than the pool"
        )


def _verify(result: Result, site: Site) -> None:
    try:
        said = command("verify", dsn=site.stack.dsn())
    except RuntimeError as failure:
        said = str(failure)
    if "1 revisions are equal, 0 differ" not in said:
        result.failures.append(said.strip())


def _row(result: Result) -> str:
    served = ", ".join(f"{what}: {count}" for what, count in result.statuses.items())
    fell = "-" if result.unready_after is None else f"{result.unready_after:.1f} s"
    back = "-" if result.ready_again_after is None else f"{result.ready_again_after:.1f} s"
    verdict = (
        "yes" if not result.failures else "**no**: " + "; ".join(dict.fromkeys(result.failures[:3]))
    )
    return (
        f"| {result.what} | {result.lasted:.0f} s | {result.first_write_after:.2f} s |"
        f" {result.latest:+.2f} s | {fell} | {back} | {result.connections} | {result.stale_reads} |"
        f" {served} | {verdict} |"
    )


_HEAD = (
    "| outage | lasted | first write after | latest answer against its deadline | unready after |"
    " ready again after | connections | stale reads | answers | met"
    " |\n|---|---:|---:|---:|---:|---:|---:|---:|---|---|"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all outages, or those named; print a table; return 1 if one did what it must not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(o.name for o in OUTAGES))
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each lasts")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--markdown", type=Path, help="replace the table between the markers of this file"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.names) - {outage.name for outage in OUTAGES}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="postfacta-faults-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        template = prepare(folder / "template")
        for outage in OUTAGES:
            if options.names and outage.name not in options.names:
                continue
            try:
                result = run(outage, folder / outage.name, template, seconds=options.seconds)
            except PermissionError as error:
                sys.stderr.write(f"{outage.name}: not run: {error}\n")
                continue
            sys.stderr.write(_row(result) + "\n")
            results.append(result)
    table = "\n".join([_HEAD, *map(_row, results)])
    print(table)  # noqa: T201 - its job
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    if options.markdown:
        _replace(options.markdown, table)
    return int(any(result.failures for result in results))


def _replace(file: Path, table: str) -> None:
    text = file.read_text(encoding="utf-8")
    start = "<!-- table -->\n"
    end = "\n<!-- end of table -->"
    before, _, rest = text.partition(start)
    file.write_text(before + start + table + end + rest.partition(end)[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
