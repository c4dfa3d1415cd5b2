"""One incident in a storm.

A token that floods it, texts made to be slow, and those who read the largest pages.

Others must not feel it. What is measured is the processor's time of the loop's thread, what others
are answered, that a probe is answered while a large read is under way, and memory. The storm is
evidence, and long; a gust blows in CI.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import asyncpg
import httpx2
import pytest

from postfacta_app.signals.model import MOST_SIGNALS
from postfacta_embedded import EmbeddedPostgres
from tests.attack.beating import Beating, beating
from tests.attack.test_largest_input import LONGEST_TURN
from tests.attack.worlds import MARKS, Largest, fill, postmortem
from tests.kit.pg import fresh_database

GUST = 1_000
SENT = MOST_SIGNALS + 2_000
MOST_BYTES = 700 * 2**20
"""The process has some 180 MB at the start, and each of two threads builds what has some 100."""


@dataclass
class Storm:
    """A service, and who attacks it."""

    dsn: str
    beating: Beating
    world: Largest
    token: str
    over: threading.Event = field(default_factory=threading.Event)
    reads: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    probes: list[float] = field(default_factory=list[float])
    answers: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])

    def client(self, token: str = "") -> httpx2.Client:
        """Talk to it as the administrator, or by a token."""
        headers = {"Authorization": f"Bearer {token}"} if token else self.world.headers
        return httpx2.Client(base_url=self.beating.url, headers=headers, timeout=120)

    def flood(self, sent: int) -> Counter[tuple[str, str]]:
        """Send signals for one incident; count what became of them."""
        became: Counter[tuple[str, str]] = Counter()
        try:
            with self.client(self.token) as client:
                for batch in range(sent // 500):
                    items = [
                        {"id": f"{batch}-{n}", "kind": "alert_firing", "title": f"p95 above target {n}", "body": "b" * 200}
                        for n in range(500)
                    ]  # fmt: skip
                    body = {"incident": f"INC-{self.world.number}", "items": items}
                    answer = client.post("/api/v1/signals", json=body)
                    for _ in range(60):
                        if answer.status_code != 503:
                            break
                        # Somebody else writes to the incident: senders are told to come again.
                        assert answer.headers["retry-after"]
                        time.sleep(0.1)  # noqa: TID251 - there is no loop to block
                        answer = client.post("/api/v1/signals", json=body)
                    assert answer.status_code == 200, answer.text
                    became.update((it["result"], it["attached"]) for it in answer.json()["results"])
        finally:
            self.over.set()
        return became

    def write(self) -> None:
        """Write huge texts, again and again."""
        path = f"/api/v1/incidents/{self.world.incident}"
        with self.client() as client:
            while not self.over.is_set():
                etag = client.get(f"{path}/postmortem").headers["etag"]
                content = postmortem(f"{secrets.token_hex(4)} {MARKS}")
                answer = client.put(
                    f"{path}/postmortem", json={"content": content}, headers={"If-Match": etag}
                )
                self.answers["write", answer.status_code] += 1
                note = {"kind": "note", "body": "<b>*_[" * 1_600}
                self.answers[
                    "write", client.post(f"{path}/annotations", json=note).status_code
                ] += 1

    def read(self) -> None:
        """Read the largest pages, again and again."""
        one = f"INC-{self.world.number}"
        paths = [
            f"/incidents/{one}", f"/incidents/{one}/postmortem", f"/api/v1/incidents/{one}/timeline?limit=2000",
            f"/api/v1/incidents/{one}/export?format=md", "/insights", f"/incidents/{one}/history",
        ]  # fmt: skip
        with self.client() as client:
            while not self.over.is_set():
                for path in paths:
                    began = time.monotonic()
                    self.answers["read", client.get(path).status_code] += 1
                    self.reads.append((began, time.monotonic()))

    def probe(self) -> None:
        """Ask whether the service lives, as its supervisor does."""
        with self.client() as client:
            while not self.over.is_set():
                self.answers["probe", client.get("/healthz").status_code] += 1
                self.probes.append(time.monotonic())
                time.sleep(0.05)  # noqa: TID251 - there is no loop to block

    def live(self) -> None:
        """Do what others do meanwhile: record an incident, look at it."""
        with self.client() as client:
            while not self.over.is_set():
                new = {"title": "Another one", "description": "Of somebody else", "severity": "LOW"}
                made = client.post("/api/v1/incidents", json=new)
                self.answers["record", made.status_code] += 1
                self.answers[
                    "look", client.get(f"/incidents/INC-{made.json()['number']}").status_code
                ] += 1
                time.sleep(0.05)  # noqa: TID251 - there is no loop to block


_FLOODED = "select count(*) from signals where source = 'flood'"


async def _prepare(dsn: str) -> tuple[Largest, str]:
    database = await asyncpg.connect(dsn, timeout=10)
    try:
        world = await fill(database, storm=0, others=20)
        token = f"pf_12345678_{secrets.token_urlsafe(32)}"
        await database.execute(
            "insert into tokens (id, kind, secret_sha256, name, prefix, scopes, source, expires_at) values"
            " ($1, 'api', $2, 'flood', '12345678', '{signals:write,incidents:write}', 'flood', now() + interval '1 day')",
            *(uuid4(), hashlib.sha256(token.encode()).digest()),
        )
        return world, token
    finally:
        await database.close()


async def _count(dsn: str, sql: str) -> int:
    database = await asyncpg.connect(dsn, timeout=10)
    try:
        return int(await database.fetchval(sql))
    finally:
        await database.close()


@contextmanager
def calm(server: EmbeddedPostgres, template: str) -> Generator[Storm]:
    """Run a service that is about to be flooded."""
    with fresh_database(server, template) as dsn:
        world, token = asyncio.run(_prepare(dsn))
        with beating(dsn) as running:
            storm = Storm(dsn, running, world, token)
            with storm.client() as client:
                running.wait_ready(client)
            yield storm


@pytest.fixture(scope="module")
def storm(programs: None, postgres_server: EmbeddedPostgres, app_template: str) -> Generator[Storm]:
    """Let it blow once, for all that is asked of it afterwards."""
    with calm(postgres_server, app_template) as storm:
        yield storm


def blow(storm: Storm, sent: int) -> Counter[tuple[str, str]]:
    """Flood the service while others use it; they have their service meanwhile."""
    with ThreadPoolExecutor(8) as pool:
        others = [
            pool.submit(work)
            for work in (storm.write, storm.read, storm.read, storm.live, storm.probe)
        ]
        became = pool.submit(storm.flood, sent).result(timeout=500)
        for other in others:
            other.result(timeout=120)
    assert asyncio.run(_count(storm.dsn, _FLOODED)) == sent
    assert {status for (who, status) in storm.answers if who in {"probe", "look"}} == {200}
    assert {status for (who, status) in storm.answers if who == "record"} == {201}
    assert {status for (who, status) in storm.answers if who == "read"} == {200}
    return became


@pytest.mark.usefixtures("programs")
def test_a_gust_delays_no_one(postgres_server: EmbeddedPostgres, app_template: str) -> None:
    with calm(postgres_server, app_template) as storm:
        assert blow(storm, GUST) == {("created", "attached"): GUST}


@pytest.mark.long
def test_a_storm_delays_no_one(storm: Storm) -> None:
    storm.beating.beat()
    became = blow(storm, SENT)
    beat = storm.beating.beat()
    # What was acknowledged is there, and what the incident did not take says so.
    assert became == {
        ("created", "attached"): MOST_SIGNALS,
        ("created", "full"): SENT - MOST_SIGNALS,
    }
    assert beat.stall <= LONGEST_TURN
    assert beat.most_bytes <= MOST_BYTES
    # While long reads were under way, probes were answered: none would be, if a read held the loop.
    # How many it is depends on how much of the processor others leave, the caller of this test
    # among them.
    long = [(began, ended) for began, ended in storm.reads if ended - began > 1]
    seen = [sum(began < answered < ended for answered in storm.probes) for began, ended in long]
    assert sum(seen) >= len(long), seen


@pytest.mark.long
def test_what_is_full_stays_full_and_what_it_has_can_come_back(storm: Storm) -> None:
    path = f"/api/v1/incidents/{storm.world.incident}"
    with storm.client() as client:
        some = client.get(
            "/api/v1/signals", params={"source": "flood", "attached": "true", "limit": "1"}
        ).json()
        other = client.get(
            "/api/v1/signals", params={"source": "flood", "attached": "false", "limit": "1"}
        ).json()
        mine, new = some["items"][0]["id"], other["items"][0]["id"]
        attach = {"ids": [mine, new]}
        told = client.post(f"{path}/signals", json=attach).json()["results"]
        assert [it["result"] for it in told] == ["already", "full"]
        assert client.delete(f"{path}/signals/{mine}").status_code == 204
        told = client.post(f"{path}/signals", json=attach).json()["results"]
        assert [it["result"] for it in told] == ["attached", "full"]
        warned = client.post("/api/v1/signals", json={"incident": str(storm.world.incident), "items": [
            {"kind": "metric", "title": "One more", "id": "one-more"}]}).json()  # fmt: skip
        assert warned["results"][0]["result"] == "created"
        assert warned["results"][0]["attached"] == "full"
        assert "100,000" in warned["warnings"][0]
        form = {"op": "attach", f"signal-{new}": "on", "key": secrets.token_hex(16)}
        refused = client.post(f"/incidents/{storm.world.incident}/edits", data=form)
        assert refused.status_code == 409
        assert "is at the limit of signals per incident" in refused.text


@pytest.mark.long
def test_the_page_of_a_storm_is_cut_and_leads_to_the_rest(storm: Storm) -> None:
    one = f"/incidents/INC-{storm.world.number}"
    with storm.client() as client:
        folded = client.get(one).text
        assert 0 < folded.count("<article") <= 100
        assert "100,001 entries in " in folded  # its declaration too
        first = client.get(one, params={"repeats": "each"}).text
        assert first.count("<article") == 100
        assert first.count("<") < 8_000
        assert "of 100,001" in first
        last = client.get(one, params={"repeats": "each", "page": "10000"}).text
        assert 'rel="next"' in first
        assert 'rel="next"' not in last
        assert 0 < last.count("<article") <= 100
        items = client.get(f"/api/v1{one}/timeline", params={"limit": "2000"}).json()["items"]
        there = items[1_234]
        source, name = there["source"], there["id"]
        place = "e-" + hashlib.sha256(f"{len(source)} {source} {name}".encode()).hexdigest()[:12]
        turned = client.get(one, params={"entry": place}).text
        assert f'id="{place}"' in turned
        assert f'id="{place}"' not in first


@pytest.mark.long
def test_an_edit_on_a_later_page_leads_back_to_its_entry(storm: Storm) -> None:
    one = f"/incidents/INC-{storm.world.number}"
    with storm.client() as client:
        items = client.get(f"/api/v1{one}/timeline", params={"limit": "2000"}).json()["items"]
        there = next(it for it in items[1_500:] if it["signal_id"])
        form = {
            "op": "pin",
            "source": there["source"],
            "id": there["id"],
            "key": secrets.token_hex(16),
        }
        done = client.post(f"{one}/edits?page=16", data=form)
        assert done.status_code == 303, done.text[:300]
        page = client.get(done.headers["location"].partition("#")[0]).text
        assert f'id="{done.headers["location"].partition("#")[2]}"' in page
        assert json.dumps(there["title"])[1:-1] in page
