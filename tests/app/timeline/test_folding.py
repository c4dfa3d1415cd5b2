"""Which facts share a line, and that a line never shows different facts as equal."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from postfacta_postgres import Database
from tests.app.live import Service
from tests.app.timeline.conftest import a_case
from tests.app.timeline.oracle import pattern
from tests.app.timeline.test_pages import Browser

ROOM = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PARTS = st.sampled_from(
    [
        " ", " ", "-", ":", "=", ">", "(", ")", ".", ",", "/", "_", "é", "µ", "\u00a0", "\n", "HTTP ", "latency", "Load",
        "status ", "is", "above", "s", "ms", "%", "min", "GiB", "x", "B/s", "5", "04", "500", "404", "1.5", "-3", "p95",
    ]
)  # fmt: skip
NUMBERS = st.integers(0, 99_999)
NAMES = (
    "svc{} is slow", "host db-{} down", "p{} is high", "HTTP {} on /pay", "Deploy {}", "shard {} lost", "v1.{} rolled out",
    "node {} is late", "web_{} busy", "10.0.0.{} is away", "port {} refused", "status={}", "code: {}", "#{} ms", "T-{} min",
)  # fmt: skip
MEASURES = (
    "Latency {} ms", "took {}ms", "Disk is {} % full", "Disk at {}%", "up for {} h 30m", "queue depth {}00000", "load: {}.5",
    "Lag is -{}.25, rising", "heap (9{} MiB)", "delay>{}s.", "Usage = {}.0", "age above {}.1",
)  # fmt: skip


async def patterns(database: Database, titles: Sequence[str]) -> list[str]:
    query = "select array_agg(timeline_pattern(t) order by n) from unnest($1::text[]) with ordinality u(t, n)"
    found: list[str] = await database.fetchval(query, titles, operation="test")
    return found


@ROOM
@given(titles=st.lists(st.lists(PARTS, max_size=9).map("".join), min_size=1, max_size=30))
async def test_a_pattern_in_sql_is_that_of_the_oracle(
    app_database: Database, titles: list[str]
) -> None:
    assert await patterns(app_database, titles) == [pattern(title) for title in titles]


@ROOM
@given(n=NUMBERS)
async def test_names_and_statuses_stay_in_a_pattern(app_database: Database, n: int) -> None:
    titles = [name.format(n) for name in NAMES]
    assert await patterns(app_database, titles) == titles


@ROOM
@given(
    statuses=st.lists(st.integers(100, 599), min_size=2, max_size=2, unique=True),
    noun=st.sampled_from(["rate", "count", "total"]),
)
async def test_a_status_is_no_measure_after_any_noun(
    app_database: Database, statuses: list[int], noun: str
) -> None:
    titles = [f"{noun} {status} on /pay" for status in statuses]
    assert await patterns(app_database, titles) == titles


@ROOM
@given(one=NUMBERS, other=NUMBERS)
async def test_measures_that_differ_share_a_pattern(
    app_database: Database, one: int, other: int
) -> None:
    found = [
        await patterns(app_database, [measure.format(n) for measure in MEASURES])
        for n in (one, other)
    ]
    assert found[0] == found[1]
    assert all("#" in title for title in found[0])


def lines(html: str) -> list[str]:
    return re.findall(r"<h4>([^<]+?)\s*</h4>", html)


async def test_different_facts_stand_on_lines_of_their_own(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_app.incident_page._PAGE", 10)
    case = await a_case(service)
    facts = [
        *(("HTTP 500 on /pay", ["pay"]), ("HTTP 404 on /pay", ["pay"])),
        *((f"host db-{n} down", ["db"]) for n in (1, 2)),
        *(("Queue is slow", [f"svc{n}"]) for n in range(3)),
        *((f"Wait of {n} ms", ["pay"]) for n in (812, 90, 812, 7)),
    ]
    await case.signals(
        *(
            {"id": f"f{n}", "kind": "alert_firing", "title": title, "services": services, "occurred_at": f"2026-02-07T10:00:{n:02}Z"}
            for n, (title, services) in enumerate(facts)
        )
    )  # fmt: skip
    page = (await case.send("GET", f"/incidents/INC-{case.number}?order=oldest")).text
    assert lines(page) == [
        *("HTTP 500 on /pay", "HTTP 404 on /pay", "host db-1 down", "host db-2 down"),
        *["Queue is slow"] * 3,
        "Wait of # ms",
        "Declared",
    ]
    assert "3 titles: Wait of 812 ms; Wait of 90 ms; Wait of 7 ms<" in page


async def test_a_late_note_moves_no_page_and_links_stay(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_app.incident_page._PAGE", 10)
    case = await a_case(service)
    await case.signals(
        *(
            {"id": f"f{n}", "kind": "log", "title": f"Wait of {n} ms", "occurred_at": f"2026-02-07T{10 + n // 30}:{2 * n % 60:02}:00Z"}
            for n in range(40)
        )
    )  # fmt: skip
    here = Browser(case, case.headers)
    before = await here.get()
    groups = re.findall(r"\?group=([^\"#]+)", before.html)
    assert 2 <= len(groups) <= 7
    for when in ("2025-01-01T00:00:00Z", "2026-06-01T00:00:00Z"):
        note = {"kind": "note", "body": "Far away", "occurred_at": when}
        await case.post("annotations", note)
        await case.signals(
            {
                "id": f"far-{when[:4]}-{when[5:7]}",
                "kind": "page",
                "title": "Other",
                "occurred_at": when,
            }
        )
    after = await here.get()
    assert re.findall(r"\?group=([^\"#]+)", after.html) == groups
    assert [line for line in lines(after.html) if line.startswith("Wait")] == [
        line for line in lines(before.html) if line.startswith("Wait")
    ]
