"""The business's numbers are those of the database, are never read in a scrape, and say how old they are."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import anyio
import anyio.to_thread
import asyncpg
import httpx2
import pytest
from anyio.lowlevel import checkpoint
from asyncpg import InsufficientPrivilegeError
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from postfacta_app.db import Reader, repeating
from postfacta_app.durations import aggregate
from postfacta_app.incidents.model import IncidentFilters
from postfacta_app.migrations import HEAD, migrate
from postfacta_app.principal import ANONYMOUS
from postfacta_app.reliability.about import METRICS, BusinessMetrics, read_business
from postfacta_core.clock import WALL
from postfacta_core.errors import DatabaseUnavailableError
from postfacta_core.events import Event, Observer, Sample, TaskCrashed
from postfacta_core.testing import ManualClock, RecordingObserver
from postfacta_postgres import Database, PoolOptions
from tests.app.live import in_process
from tests.kit.pg import create_database, prepared_server
from tests.kit.waiting import until

_INSERT = """
insert into incidents (id, title, description, kind, severity, status, outcome, reporter, declared_at, ended_at,
  archived_at, visibility, created_by, timeline_at)
values ($1, 'An incident', 'Of a test, and nothing more', $2, $3, $4, $5, 'me', $6, $7, $8, $9, 'test', now())"""
_MOVE = """
insert into status_changes (id, incident_id, from_status, to_status, outcome, occurred_at, at, actor)
values ($1, $2, $3, $4, $5, $6, clock_timestamp(), 'test')"""
_MILESTONE = """
insert into edits (id, incident_id, at, op, value, actor) values ($1, $2, clock_timestamp(), 'milestone', $3::text::jsonb, 'test')"""


@dataclass
class Recorder:
    """Writes incidents as they would stand after their life."""

    connection: asyncpg.Connection[asyncpg.Record]
    now: datetime = field(default_factory=lambda: datetime.fromtimestamp(WALL(), UTC))

    async def incident(
        self,
        severity: str = "HIGH",
        status: str = "OPEN",
        *,
        age: float = 3600.0,
        begun: Sequence[float] = (),
        ended: float | None = None,
        kind: str = "incident",
        archived: bool = False,
        private: bool = False,
    ) -> UUID:
        """Record one; `age`, and the seconds after which work began and it ended."""
        incident, declared = uuid4(), self.now - timedelta(seconds=age)
        await self.connection.execute(
            _INSERT,
            *(incident, kind, severity, status, "fixed" if status == "CLOSED" else None, declared),
            *(
                None if ended is None else declared + timedelta(seconds=ended),
                self.now if archived else None,
            ),
            "private" if private else "internal",
        )
        moves = [(None, "OPEN", 0.0), *(("OPEN", "IN_PROGRESS", seconds) for seconds in begun)]
        if ended is not None:
            moves.append(("IN_PROGRESS", status, ended))
        for before, after, seconds in moves:
            outcome = "fixed" if after == "CLOSED" else None
            at = declared + timedelta(seconds=seconds)
            await self.connection.execute(_MOVE, uuid4(), incident, before, after, outcome, at)
        return incident


@pytest.fixture
async def recorder(app_database_dsn: str) -> AsyncGenerator[Recorder]:
    connection = await asyncpg.connect(app_database_dsn, timeout=10)
    try:
        yield Recorder(connection)
    finally:
        await connection.close()


async def revision() -> str | None:
    return HEAD


async def read(database: Database) -> dict[tuple[str, ...], float]:
    """Read the numbers, by metric and labels."""
    samples = await read_business(database)
    assert {sample.metric for sample in samples} <= set(METRICS)
    assert all(len(sample.labels) == len(METRICS[sample.metric].labels) for sample in samples)
    return {(sample.metric, *sample.labels): sample.value for sample in samples}


async def test_incidents_are_counted_by_severity_and_status_and_none_is_a_zero(
    recorder: Recorder, app_database: Database
) -> None:
    for severity, status, ended in (
        ("HIGH", "OPEN", None),
        ("HIGH", "OPEN", None),
        ("LOW", "RESOLVED", 60.0),
        ("CRITICAL", "CLOSED", 60.0),
    ):
        await recorder.incident(severity, status, ended=ended)
    await recorder.incident("HIGH", private=True)  # Not all who read the numbers are members.
    await recorder.incident("HIGH", kind="near_miss")
    await recorder.incident("HIGH", kind="exercise")
    await recorder.incident("HIGH", archived=True)
    counted = {
        key[1:]: value
        for key, value in (await read(app_database)).items()
        if key[0] == "postfacta_incidents"
    }
    assert len(counted) == 16
    assert {key: value for key, value in counted.items() if value} == {
        ("HIGH", "OPEN"): 3,
        ("LOW", "RESOLVED"): 1,
        ("CRITICAL", "CLOSED"): 1,
    }


async def test_quantiles_are_by_nearest_rank_and_need_enough_values(
    recorder: Recorder, app_database: Database
) -> None:
    for minutes in range(1, 10):
        await recorder.incident("LOW", "RESOLVED", begun=[60.0 * minutes], ended=3_000.0)
    numbers = await read(app_database)
    assert numbers["postfacta_incident_duration_seconds", "acknowledge", "p50"] == 300
    assert ("postfacta_incident_duration_seconds", "acknowledge", "p90") not in numbers
    await recorder.incident("LOW", "RESOLVED", begun=[5.0, 600.0, 700.0], ended=3_000.0)
    numbers = await read(app_database)
    # The first that was recorded counts: 5, 60, 120, ... 540.
    assert numbers["postfacta_incident_duration_seconds", "acknowledge", "p50"] == 240
    assert numbers["postfacta_incident_duration_seconds", "acknowledge", "p90"] == 480
    assert numbers["postfacta_incident_duration_seconds", "open", "p50"] == 3_000
    assert numbers["postfacta_incident_duration_samples", "open", "ok"] == 10


async def test_the_lengths_are_those_of_the_api(recorder: Recorder, app_database: Database) -> None:
    for _ in range(5):
        incident = await recorder.incident("LOW", "RESOLVED", begun=[600.0], ended=3_000.0)
        for name, seconds in (("impact_started", -120), ("mitigated", 1_200)):
            at = (recorder.now + timedelta(seconds=seconds - 3_600)).isoformat()
            value = json.dumps({"name": name, "at": at, "precision": "exact"})
            await recorder.connection.execute(_MILESTONE, uuid4(), incident, value)
    numbers = await read(app_database)
    told, _ = await aggregate(Reader(app_database, ANONYMOUS), IncidentFilters.model_validate({}))
    api = {phase: it["p50"] for phase, it in json.loads(told)["durations"].items()}
    assert api == {
        "detect": 120,
        "acknowledge": 600,
        "mitigate": 1_320,
        "resolve": 3_120,
        "open": 3_000,
    }
    for phase, seconds in api.items():
        assert numbers["postfacta_incident_duration_seconds", phase, "p50"] == seconds


async def test_four_are_too_few_for_a_median(recorder: Recorder, app_database: Database) -> None:
    for _ in range(4):
        await recorder.incident("LOW", "RESOLVED", begun=[60.0], ended=3_000.0)
    numbers = await read(app_database)
    assert not [key for key in numbers if key[0] == "postfacta_incident_duration_seconds"]
    assert numbers["postfacta_incident_duration_samples", "acknowledge", "ok"] == 4


async def test_what_is_unknown_is_said_to_be_so_and_is_never_a_zero(
    recorder: Recorder, app_database: Database
) -> None:
    await recorder.incident(status="OPEN")
    await recorder.incident(status="IN_PROGRESS", begun=[30.0])
    await recorder.incident(status="RESOLVED", ended=60.0)
    await recorder.incident(status="IN_PROGRESS", begun=[-30.0])
    await recorder.incident(status="RESOLVED", ended=60.0, age=31 * 86_400)
    await recorder.incident(status="RESOLVED", ended=60.0, kind="near_miss")
    numbers = await read(app_database)
    counted = {
        key[1:]: value
        for key, value in numbers.items()
        if key[0] == "postfacta_incident_duration_samples"
    }
    assert len(counted) == 25
    assert {key: value for key, value in counted.items() if value} == {
        ("acknowledge", "ok"): 1,
        ("acknowledge", "pending"): 1,
        ("acknowledge", "missing"): 1,
        ("acknowledge", "invalid_order"): 1,
        ("open", "ok"): 1,
        ("open", "pending"): 3,
        ("mitigate", "pending"): 3,
        ("mitigate", "missing"): 1,
        ("resolve", "pending"): 3,
        ("resolve", "missing"): 1,
        ("detect", "missing"): 4,
    }


async def test_the_oldest_token_that_still_works_tells_the_age_of_secrets(
    app_database_dsn: str, app_database: Database
) -> None:
    assert not [key for key in await read(app_database) if "secret" in key[0]]
    async with in_process(app_database_dsn) as service:
        await service.machine("incidents:read")
        await service.machine("incidents:read", expired=True)
        await service.machine("incidents:read", revoked=True)
    age = (await read(app_database))["postfacta_secret_age_seconds", "api_token"]
    assert 7_200 <= age < 7_300  # They are made two hours old.


class Numbers:
    """A source with preset values, or that fails."""

    def __init__(self) -> None:
        self.reads = 0
        self.schema: str | None = HEAD
        self.error: Exception | None = None

    async def connected(self) -> None:
        """Be there at once."""
        await checkpoint()

    async def revision(self) -> str | None:
        return self.schema

    async def read(self) -> Sequence[Sample]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return [Sample("postfacta_incidents", ("HIGH", "OPEN"), self.reads)]

    def read_by(
        self, business: BusinessMetrics, observer: Observer, *, interval: float = 60.0
    ) -> AbstractAsyncContextManager[None]:
        work = partial(business.look, self.revision, self.read)
        return repeating(
            "business_metrics", work, self.connected, observer=observer, interval=interval
        )


def shown(business: BusinessMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in business.collect()
        for sample in family.samples
    }


AGE = ("postfacta_business_metrics_age_seconds",)


async def test_a_scrape_shows_what_was_read_last_and_reads_nothing() -> None:
    clock, numbers = ManualClock(), Numbers()
    business = BusinessMetrics(expected=HEAD, clock=clock)
    async with numbers.read_by(business, RecordingObserver(), interval=3600):
        await until(lambda: numbers.reads == 1)
        clock.advance(42)
        for _ in range(5):
            assert shown(business)["postfacta_incidents", "HIGH", "OPEN"] == 1
    assert numbers.reads == 1
    assert shown(business)[AGE] == 42


async def test_numbers_that_never_came_are_as_old_as_the_process() -> None:
    clock = ManualClock()
    business = BusinessMetrics(expected=HEAD, clock=clock)
    clock.advance(700)
    assert shown(business) == {AGE: 700}


@pytest.mark.parametrize(
    "error",
    [
        DatabaseUnavailableError("main", 1.0),
        InsufficientPrivilegeError("no grant"),
        LookupError("a mistake"),
    ],
)
async def test_while_reads_fail_values_age_and_only_mistakes_are_reported(
    error: Exception,
) -> None:
    clock, numbers, observer = ManualClock(), Numbers(), RecordingObserver()
    business = BusinessMetrics(expected=HEAD, clock=clock)
    async with numbers.read_by(business, observer, interval=0.001):
        await until(lambda: numbers.reads >= 1)
        numbers.error = error
        at_least = numbers.reads + 3
        await until(lambda: numbers.reads >= at_least)
        kept = shown(business)["postfacta_incidents", "HIGH", "OPEN"]
        clock.advance(1000)
        assert shown(business)[AGE] >= 1000
        assert shown(business)["postfacta_incidents", "HIGH", "OPEN"] == kept
        numbers.error = None
        await until(lambda: shown(business)[AGE] == 0)
    is_mistake = isinstance(error, LookupError)
    expected: list[Event] = [TaskCrashed("business_metrics", error)] if is_mistake else []
    assert observer.events[:1] == expected


@pytest.mark.parametrize(
    ("actual", "name", "mismatch"), [(HEAD, HEAD, 0), ("0000", "0000", 1), (None, "none", 1)]
)
async def test_an_unexpected_schema_is_reported(
    actual: str | None, name: str, mismatch: int
) -> None:
    numbers, business = Numbers(), BusinessMetrics(expected=HEAD)
    numbers.schema = actual
    async with numbers.read_by(business, RecordingObserver()):
        await until(lambda: ("postfacta_schema_revision_mismatch",) in shown(business))
    told = shown(business)
    assert told["postfacta_schema_revision_info", HEAD, name] == 1
    assert told["postfacta_schema_revision_mismatch",] == mismatch
    # Without any schema there is nothing to ask.
    assert numbers.reads == (actual is not None)


def test_what_happens_here_is_counted() -> None:
    business = BusinessMetrics(expected=HEAD)
    business.count("postfacta_incidents_opened_total", "HIGH")
    business.count("postfacta_incidents_opened_total", "HIGH")
    business.count("postfacta_auth_attempts_total", "password", "bad_credentials")
    told = shown(business)
    assert told["postfacta_incidents_opened_total", "HIGH"] == 2
    assert told["postfacta_auth_attempts_total", "password", "bad_credentials"] == 1


def test_a_value_that_is_known_is_shown_with_its_labels() -> None:
    ages = {"jwt_secret": 5.0, "metrics_token": None}
    business = BusinessMetrics(expected=HEAD, clock=ManualClock())
    for name in ages:
        business.show("postfacta_secret_age_seconds", partial(ages.get, name), name)
    assert shown(business) == {AGE: 0, ("postfacta_secret_age_seconds", "jwt_secret"): 5.0}


def test_what_callers_name_makes_a_thousand_series_and_one_for_all_others() -> None:
    business = BusinessMetrics(expected=HEAD)
    for number in range(1500):
        business.count("postfacta_deployments_total", f"env-{number}", "failed")
        business.count("postfacta_deployments_total", "env-0", "failed")
    told = {
        labels: value for labels, value in shown(business).items() if "deployments" in labels[0]
    }
    assert len(told) == 1001
    assert told["postfacta_deployments_total", "_OTHER", "failed"] == 500
    assert told["postfacta_deployments_total", "env-0", "failed"] == 1501
    business.count("postfacta_incidents_opened_total", "HIGH")
    assert shown(business)["postfacta_incidents_opened_total", "HIGH"] == 1


def test_no_other_collector_can_take_one_of_the_names() -> None:
    registry = CollectorRegistry()
    registry.register(BusinessMetrics(expected=HEAD))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(BusinessMetrics(expected=HEAD))


@pytest.mark.usefixtures("programs")
async def test_the_age_grows_while_the_database_is_dead_and_ends_when_it_is_back() -> None:
    settings = {"fsync": "off", "full_page_writes": "off"}
    with prepared_server(settings) as server:
        dsn = await anyio.to_thread.run_sync(create_database, server, "mortal")
        await migrate(dsn, progress=lambda _: None)
        business, observer = BusinessMetrics(expected=HEAD), RecordingObserver()
        async with Database(dsn, options=PoolOptions(acquire_timeout=0.2)) as database:
            work = partial(business.look, revision, partial(read_business, database))
            connected = database.wait_connected
            async with repeating(
                "business_metrics", work, connected, observer=observer, interval=0.05
            ):
                await until(lambda: ("postfacta_incidents", "HIGH", "OPEN") in shown(business))
                server.stop()
                await until(lambda: shown(business)[AGE] > 1.5)
                assert shown(business)["postfacta_incidents", "HIGH", "OPEN"] == 0
                server.start()
                await until(lambda: shown(business)[AGE] < 0.5)
    assert not observer.of(TaskCrashed)


async def test_the_running_service_shows_its_business_with_its_metrics(
    recorder: Recorder, app_database_dsn: str
) -> None:
    await recorder.incident("CRITICAL")
    async with in_process(app_database_dsn) as service:
        with anyio.fail_after(20):
            while (told := await scraped(service.client)).get(
                ("postfacta_incidents", "CRITICAL", "OPEN")
            ) != 1:
                await anyio.sleep(0.01)
        assert told["postfacta_schema_revision_info", HEAD, HEAD] == 1
        assert told["postfacta_schema_revision_mismatch",] == 0
        assert told[AGE] < 20


async def scraped(client: httpx2.AsyncClient) -> dict[tuple[str, ...], float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name in METRICS
    }
