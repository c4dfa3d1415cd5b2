"""What is stored gives the digest of the pure rules, also in another database, and `verify` notices what is lost."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings

from postfacta_app.cli import main
from postfacta_app.db import Unit
from postfacta_app.principal import ANONYMOUS
from postfacta_app.signals.model import Precision
from postfacta_app.timeline.model import Annotation, Facts, Op, Signal, StatusChange, moment
from postfacta_app.timeline.rules import RULES, build
from postfacta_app.timeline.verify import facts_in
from postfacta_embedded import EmbeddedPostgres
from postfacta_embedded.binaries import find_binaries
from postfacta_postgres import Database
from tests.app.timeline.stored import keep
from tests.app.timeline.worlds import NOON, attach, edit, worlds
from tests.kit.pg import execute, fresh_database

_REVISION = """
insert into postmortem_revisions (incident_id, rev, status, schema_version, content, timeline_digest, timeline_at,
  rules, author) values ($1, $2, 'draft', 1, '{}', $3, $4, $5, 'test')"""


class _RollBackError(Exception):
    """Ends a transaction without a trace."""


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(facts=worlds())
async def test_what_is_read_back_gives_the_timeline_of_the_pure_rules(
    app_database: Database, facts: Facts
) -> None:
    incident = uuid4()
    with suppress(_RollBackError):
        async with app_database.transaction() as connection:
            await keep(connection.execute, facts, incident)
            stored = await facts_in(Unit(connection, ANONYMOUS, None), incident)
            for seen_at in (None, 3, 7):
                for hidden in (False, True):
                    pure = build(facts, as_of=seen_at, include_hidden=hidden)
                    assert build(stored, as_of=seen_at, include_hidden=hidden) == pure
            raise _RollBackError


def a_world() -> Facts:
    """Make facts of each kind, with a correction of each kind."""
    deploy, firing = (
        Signal(
            signal_id=uuid4(), source="ci", external_id=name, kind=kind, occurred_at=at, precision=Precision.MINUTE,
            title=name, content_sha256="ab" * 32, received_at=at, time_basis="event", conflicts=conflicts,
        )
        for name, kind, at, conflicts in (("deploy", "change", NOON, 0), ("Überlast", "alert_firing", NOON + 1, 2))
    )  # fmt: skip
    note = uuid4()
    said = Annotation(id=note, root=note, at=5, kind="note", body="Paged", occurred_at=NOON + 2)
    return Facts(
        [deploy, firing],
        [StatusChange(id=uuid4(), at=1, from_status=None, to_status="OPEN", occurred_at=NOON)],
        [said, replace(said, id=uuid4(), at=9, body="Paged twice")],
        [
            attach(deploy, 2, uuid4()),
            attach(firing, 3, uuid4()),
            edit(Op.CLOCK_OFFSET, 4, uuid4(), source="ci", value={"ms": 1500}),
            edit(
                Op.SET_TITLE,
                6,
                uuid4(),
                source="ci",
                external_id="deploy",
                value={"title": "Deploy 7"},
            ),
            edit(Op.HIDE, 8, uuid4(), source="ci", external_id="Überlast"),
        ],
    )


@pytest.mark.usefixtures("programs")
def test_verify_is_clean_before_and_after_a_restore_and_notices_a_lost_fact(
    postgres_server: EmbeddedPostgres,
    app_template: str,
    *,
    clean_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts, incident = a_world(), uuid4()
    rows = [(rev, build(facts, as_of=at).digest, at, RULES) for rev, at in enumerate((3, 7, 20), 1)]
    rows.append((4, "another", 20, RULES + 1))

    def verify() -> tuple[int, str]:
        code = main(["verify"])
        told = capsys.readouterr()
        return code, told.out + told.err

    with (
        fresh_database(postgres_server, app_template) as dsn,
        fresh_database(postgres_server) as restored,
    ):
        monkeypatch.setenv("POSTFACTA_DATABASE_DSN", dsn)
        asyncio.run(fill(dsn, facts, incident, rows))
        code, text = verify()
        assert (
            code,
            "3 revisions are equal, 0 differ" in text,
            f"rules {RULES + 1}, not compared" in text,
        ) == (
            0,
            True,
            True,
        )
        dump = run("pg_dump", "--dbname", dsn)
        run("psql", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", restored, given=dump)
        monkeypatch.setenv("POSTFACTA_DATABASE_DSN", restored)
        assert verify()[0] == 0
        execute(
            restored,
            "set session_replication_role = replica; delete from edits where op = 'set_title'",
        )
        code, text = verify()
        assert (code, "1 revisions are equal, 2 differ" in text) == (1, True)
        assert [
            f"INC-1, revision {rev}: the timeline has changed" in text for rev in (1, 2, 3)
        ] == [
            False,
            True,
            True,
        ]


async def fill(
    dsn: str, facts: Facts, incident: UUID, revisions: Sequence[tuple[int, str, int, int]]
) -> None:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await keep(connection.execute, facts, incident)
        for rev, digest, at, rules in revisions:
            await connection.execute(_REVISION, incident, rev, digest, moment(at), rules)
    finally:
        await connection.close()


def run(program: str, *arguments: str, given: str = "") -> str:
    """Run a program of PostgreSQL's."""
    done = subprocess.run(  # noqa: S603 - found beside the server
        [find_binaries().folder / program, *arguments],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
