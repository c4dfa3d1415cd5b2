"""Features are turned off by name, in seconds, and who asks for one learns when to come back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import asyncpg
import pytest
from openfeature import api
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider  # pyright: ignore[reportMissingTypeStubs] - it has types
from openfeature.provider.no_op_provider import NoOpProvider  # pyright: ignore[reportMissingTypeStubs] - it has types

from postfacta_app import flags
from postfacta_app.app import declared
from postfacta_app.flags import FLAGS, Flags
from postfacta_app.web.routes import RouteClass
from postfacta_postgres import Database
from tests.app.live import NEW, Service, in_process
from tests.kit.due import overdue
from tests.kit.every import every

NAMES = [flag.name for flag in FLAGS]
EXPORT = "/api/v1/incidents/INC-404/export"
INTERVAL = flags.INTERVAL
OFF = {"on": False, "reason": "INC-12"}


@pytest.fixture(autouse=True)
def _nobody_elses_provider(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Evaluate often, and leave no provider behind."""
    monkeypatch.setattr(flags, "INTERVAL", 0.05)
    yield
    api.set_provider_and_wait(NoOpProvider(), flags.DOMAIN)


def put(file: Path, **states: object) -> None:
    """Put another file in the place of one, as orchestrators do."""
    new = file.with_name("new")
    new.write_text(json.dumps({name.replace("_", "-"): state for name, state in states.items()}))
    new.replace(file)


# What is declared


def test_a_flag_is_overdue_from_the_day_after_its_last() -> None:
    first = min(flag.until for flag in FLAGS)
    due = {flag.name for flag in FLAGS if flag.until == first}
    assert not [line for line in overdue(first) if line.startswith("flag ")]
    lines = overdue(first + timedelta(days=1))
    assert {line.split()[1] for line in lines if line.startswith("flag ")} == due


def test_each_flag_has_an_owner_and_covers_routes() -> None:
    rules = declared()
    with every() as case:
        for flag in FLAGS:
            with case(flag.name):
                covered = [rule for rule in rules if flag.covers(rule)]
                assert flag.owner
                assert covered
                # Whoever turns it on again must be able to sign in, and probes must pass.
                assert not {rule.path for rule in covered} & {
                    "/signin",
                    "/login",
                    "/healthz",
                    "/problems/{slug}",
                }
                assert not any(rule.route_class is RouteClass.PROBE for rule in covered)


def test_every_flag_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/turn-features-off.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []


# What turns one off


def test_without_a_file_the_provider_of_the_domain_decides() -> None:
    switches = Flags(None)
    switches.reread()
    assert all(map(switches.is_on, NAMES))
    variants = {"on": True, "off": False}
    api.set_provider_and_wait(
        InMemoryProvider({"exports": InMemoryFlag("off", variants)}), flags.DOMAIN
    )
    switches.reread()
    assert [name for name in NAMES if not switches.is_on(name)] == ["exports"]
    # It no longer knows it: the last value holds.
    api.set_provider_and_wait(InMemoryProvider({}), flags.DOMAIN)
    switches.reread()
    assert not switches.is_on("exports")


# The service


@asynccontextmanager
async def serving(dsn: str, file: Path) -> AsyncGenerator[Service]:
    async with in_process(dsn, flags=file) as service:
        yield service


async def audited(
    database: Database | asyncpg.Connection[asyncpg.Record],
) -> list[tuple[str, str, object]]:
    rows = await database.fetch(
        "select actor, object, detail from audit_log where action = 'flag.change' order by seq"
    )
    return [(row["actor"], row["object"], json.loads(row["detail"])["on"]) for row in rows]


async def settle(service: Service, headers: dict[str, str], status: int) -> None:
    """Wait until exports are answered so."""
    with anyio.fail_after(30):
        while (await service.client.get(EXPORT, headers=headers)).status_code != status:
            await anyio.sleep(0.02)


async def test_a_feature_is_off_and_on_again_without_a_restart(
    app_database_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "flags"
    put(file)
    async with serving(app_database_dsn, file) as service:
        headers = await service.as_role("responder")
        await settle(service, headers, 404)
        put(file, exports=OFF)
        await settle(service, headers, 503)
        answer = await service.client.get(EXPORT, headers=headers)
        assert answer.headers["retry-after"] == "60"
        assert answer.json()["type"] == "/problems/feature-off"
        assert answer.json()["detail"] == "Exports: turned off by an operator for now"
        # Who may not use it learns nothing of it, and all else goes on.
        assert (await service.client.get(EXPORT)).status_code == 401
        assert (
            await service.client.post("/api/v1/incidents", json=NEW, headers=headers)
        ).status_code == 201
        metrics = (await service.client.get("/metrics")).text
        put(file)
        await settle(service, headers, 404)
    assert 'postfacta_feature_flag{flag="exports"} 0.0' in metrics
    assert 'postfacta_feature_flag{flag="writes"} 1.0' in metrics
    assert 'postfacta_feature_flag_refusals_total{flag="exports"}' in metrics
    assert "postfacta_feature_flags_valid 1.0" in metrics


async def test_a_change_is_audited_once_whatever_sees_it(
    app_database_dsn: str, tmp_path: Path
) -> None:
    file, wanted = tmp_path / "flags", list[tuple[str, str, object]]()
    put(file)
    async with serving(app_database_dsn, file) as service, serving(app_database_dsn, file) as other:
        headers = await service.as_role("responder")
        for on in (False, True):
            put(file, exports=OFF | {"on": on})
            wanted.append(("operator", "flag:exports", on))
            for one in (service, other):
                await settle(one, headers, 404 if on else 503)
            with anyio.fail_after(30):
                while len(await audited(service.database)) < len(wanted):
                    await anyio.sleep(0.02)
        await anyio.sleep(0.2)  # for the other instance
        assert await audited(service.database) == wanted


async def test_an_instance_that_is_late_records_no_older_state(
    app_database_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "flags"
    first, late = Flags(file), Flags(file)
    async with Database(app_database_dsn) as database:
        await database.wait_connected()
        for on, seen_by in ((False, (first, late)), (True, (first,))):
            put(file, exports=OFF | {"on": on})
            for one in seen_by:
                one.reread()
            await first.audit(database)
        await late.audit(database)
        assert [on for _, _, on in await audited(database)] == [False, True]


async def test_a_change_without_an_instance_is_audited_at_the_next_start(
    app_database_dsn: str, tmp_path: Path
) -> None:
    put(tmp_path / "flags")
    connection = await asyncpg.connect(app_database_dsn)
    await connection.execute(
        "insert into audit_log (actor, action, object, detail)"
        """ values ('operator', 'flag.change', 'flag:exports', '{"on": false}')"""
    )
    await connection.close()
    async with serving(app_database_dsn, tmp_path / "flags") as service:
        with anyio.fail_after(30):
            while len(await audited(service.database)) < 2:
                await anyio.sleep(0.02)
        assert (await audited(service.database))[-1] == ("operator", "flag:exports", True)


async def test_without_writes_all_can_be_read_and_people_sign_in(
    app_database_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "flags"
    put(file, writes=OFF, v0=OFF, postmortem_pages=OFF)
    async with serving(app_database_dsn, file) as service:
        headers = await service.as_role("responder")
        send = service.client.request
        assert (
            await send("POST", "/api/v1/incidents", json=NEW, headers=headers)
        ).status_code == 503
        assert (await send("GET", "/api/v1/incidents", headers=headers)).status_code == 200
        assert (
            await send("POST", "/login", json={"email": "a@example.org", "password": "x" * 12})
        ).status_code == 401
        v0 = await send("GET", "/api/v0/incidents", headers=headers)
        assert (v0.status_code, v0.json()["message"]) == (
            503,
            "Version 0 of the API: turned off by an operator for now",
        )
        page = await send(
            "GET", "/incidents/INC-1/postmortem", headers=headers | {"Accept": "text/html"}
        )
        assert (page.status_code, "Turned off for now" in page.text) == (503, True)


def test_the_flags_are_evaluated_at_least_every_five_seconds() -> None:
    assert INTERVAL <= 5
