"""The schema comes from zero through the migrations, refuses bad rows, and never lets a fact change."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import product, starmap
from pathlib import Path

import anyio
import asyncpg
import pytest
from asyncpg.transaction import Transaction

from postfacta_app.errors import CommandFailedError
from postfacta_app.migrations import HEAD, migrate, statements
from tests.app.timeline.stored import revision_of
from tests.kit.every import every

FACTS = (
    "status_changes",
    "signals",
    "signal_conflicts",
    "edits",
    "annotations",
    "postmortem_revisions",
    "audit_log",
)

# One good row for each table, in an order that the references allow. The values are SQL.
ONE, TWO = (
    "'00000000-0000-4000-8000-000000000001'::uuid",
    "'00000000-0000-4000-8000-000000000002'::uuid",
)
NEW = "gen_random_uuid()"
HASH = "sha256('')"
Row = dict[str, str]
GOOD: dict[str, Row] = {
    "users": {"id": ONE, "email": "'ada@example.org'", "display_name": "'Ada'", "role": "'admin'"},
    "tokens": {
        "id": ONE,
        "kind": "'api'",
        "secret_sha256": HASH,
        "name": "'ci'",
        "prefix": "'12345678'",
        "scopes": "array['signals:write']",
        "source": "'ci'",
        "expires_at": "now()",
    },
    "incidents": {
        "id": ONE,
        "title": "'Down'",
        "description": "'All is down.'",
        "severity": "'HIGH'",
        "reporter": "'Ada'",
        "declared_at": "now()",
        "timeline_at": "now()",
        "created_by": "'user:1'",
    },
    "status_changes": {
        "id": ONE,
        "incident_id": ONE,
        "to_status": "'OPEN'",
        "occurred_at": "now()",
        "at": "now()",
        "actor": "'user:1'",
    },
    "signals": {
        "id": ONE,
        "source": "'ci'",
        "external_id": "'1'",
        "kind": "'change'",
        "occurred_at": "now()",
        "time_basis": "'event'",
        "title": "'Deploy'",
        "content_sha256": HASH,
        "received_by": "'token:1'",
    },
    "signal_conflicts": {
        "signal_id": ONE,
        "content_sha256": HASH,
        "content": "'{}'",
        "received_by": "'token:1'",
    },
    "edits": {
        "id": ONE,
        "incident_id": ONE,
        "at": "now()",
        "op": "'attach'",
        "signal_id": ONE,
        "actor": "'user:1'",
    },
    "annotations": {
        "id": ONE,
        "root": ONE,
        "incident_id": ONE,
        "kind": "'note'",
        "body": "'Look'",
        "author": "'user:1'",
        "at": "now()",
    },
    "postmortem_revisions": {
        "incident_id": ONE,
        "rev": "1",
        "status": "'draft'",
        "schema_version": "1",
        "content": "'{}'",
        "timeline_digest": "''",
        "timeline_at": "now()",
        "rules": "1",
        "author": "'user:1'",
    },
    "action_items": {
        "id": ONE,
        "incident_id": ONE,
        "type": "'prevent'",
        "title": "'Alert on it'",
        "created_by": "'user:1'",
    },
    "incident_links": {"a": ONE, "b": TWO, "type": "'related'", "created_by": "'user:1'"},
    "incident_labels": {"incident_id": ONE, "label": "'dns'", "created_by": "'user:1'"},
    "idempotency_keys": {"principal": "'user:1'", "key": "'k'", "request_sha256": HASH},
    "audit_log": {"actor": "'user:1'", "action": "'incident.create'", "object": "'INC-1'"},
}
AGAIN: dict[str, Row] = {  # what must differ in a second good row
    "users": {"id": NEW, "email": "'bob@example.org'"},
    "tokens": {"id": NEW, "secret_sha256": "sha256('2')", "prefix": "'2'"},
    "signals": {"id": NEW, "external_id": "'2'"},
    "signal_conflicts": {"content_sha256": "sha256('2')"},
    "annotations": {"id": TWO, "root": TWO},
    "postmortem_revisions": {"rev": "2"},
    "incident_links": {"type": "'follows'"},
    "incident_labels": {"label": "'late'"},
    "idempotency_keys": {"key": "'k2'"},
    "audit_log": {},
}


def text(length: int) -> str:
    return f"repeat('x', {length})"


SLUGS = ("array['Upper']", "array['-a']", f"array[{text(64)}]", "array['ok', null]", "array['']")
MANY = "array(select 's' || n from generate_series(1, 51) n)"
# table, constraint, the columns that break it
BAD: list[tuple[str, str, Row]] = [
    ("users", "users_check", {"external_sub": "'iss sub'", "password_hash": "'x'"}),
    *[("users", "users_display_name_check", {"display_name": it}) for it in ("''", text(101))],
    *[
        ("users", "users_email_check", {"email": it})
        for it in ("'Ada@example.org'", "'a@'", text(321))
    ],
    ("users", "users_role_check", {"role": "'root'"}),
    ("tokens", "tokens_check", {"prefix": "null"}),
    ("tokens", "tokens_check1", {"user_id": ONE}),
    ("tokens", "tokens_check2", {"name": "null"}),
    ("tokens", "tokens_check3", {"scopes": "'{}'", "source": "null"}),
    ("tokens", "tokens_check4", {"source": "null"}),
    ("tokens", "tokens_check4", {"scopes": "array['incidents:read']"}),
    (
        "tokens",
        "tokens_kind_check",
        {
            "kind": "'x'",
            "prefix": "null",
            "user_id": ONE,
            "name": "null",
            "scopes": "'{}'",
            "source": "null",
        },
    ),
    ("tokens", "tokens_scopes_check", {"scopes": "array['signals:write', 'admin']"}),
    ("tokens", "tokens_secret_sha256_check", {"secret_sha256": "'\\x00'"}),
    *[
        ("tokens", "tokens_source_check", {"source": f"'{it}'"})
        for it in ("postfacta", "human", "manual", "A b")
    ],
    ("incidents", "incidents_check", {"status": "'RESOLVED'"}),
    ("incidents", "incidents_check", {"ended_at": "now()"}),
    ("incidents", "incidents_check1", {"status": "'CLOSED'", "ended_at": "now()"}),
    ("incidents", "incidents_check1", {"outcome": "'fixed'"}),
    *[("incidents", "incidents_description_check", {"description": text(it)}) for it in (9, 2001)],
    ("incidents", "incidents_kind_check", {"kind": "'drill'"}),
    ("incidents", "incidents_members_check", {"members": f"array_fill({ONE}, array[101])"}),
    (
        "incidents",
        "incidents_outcome_check",
        {"status": "'CLOSED'", "ended_at": "now()", "outcome": "'other'"},
    ),
    *[("incidents", "incidents_owner_check", {"owner": text(it)}) for it in (0, 101)],
    *[("incidents", "incidents_reporter_check", {"reporter": text(it)}) for it in (1, 101)],
    *[("incidents", "incidents_services_check", {"services": it}) for it in (*SLUGS, MANY)],
    ("incidents", "incidents_severity_check", {"severity": "'high'"}),
    ("incidents", "incidents_status_check", {"status": "'open'"}),
    *[("incidents", "incidents_teams_check", {"teams": it}) for it in (*SLUGS, MANY)],
    *[("incidents", "incidents_title_check", {"title": text(it)}) for it in (2, 201)],
    ("incidents", "incidents_visibility_check", {"visibility": "'secret'"}),
    ("status_changes", "status_changes_check", {"from_status": "'OPEN'"}),
    ("status_changes", "status_changes_check1", {"to_status": "'CLOSED'"}),
    ("status_changes", "status_changes_check1", {"outcome": "'fixed'"}),
    ("status_changes", "status_changes_from_status_check", {"from_status": "'x'"}),
    ("status_changes", "status_changes_reason_check", {"reason": text(2001)}),
    ("status_changes", "status_changes_to_status_check", {"to_status": "'x'"}),
    ("signals", "signals_body_check", {"body": text(20001)}),
    ("signals", "signals_content_sha256_check", {"content_sha256": "'\\x00'"}),
    ("signals", "signals_environment_check", {"environment": text(101)}),
    *[("signals", "signals_external_id_check", {"external_id": text(it)}) for it in (0, 301)],
    ("signals", "signals_kind_check", {"kind": "'x'"}),
    *[
        ("signals", "signals_links_check", {"links": it})
        for it in ("'{}'", f"jsonb_build_array({text(8200)})")
    ],
    ("signals", "signals_payload_check", {"payload": f"jsonb_build_array({text(65536)})"}),
    ("signals", "signals_precision_check", {"precision": "'week'"}),
    ("signals", "signals_sequence_check", {"sequence": text(101)}),
    *[("signals", "signals_services_check", {"services": it}) for it in (*SLUGS, MANY)],
    *[("signals", "signals_source_check", {"source": text(it)}) for it in (0, 201)],
    ("signals", "signals_time_basis_check", {"time_basis": "'guess'"}),
    *[("signals", "signals_title_check", {"title": text(it)}) for it in (0, 501)],
    ("signal_conflicts", "signal_conflicts_content_sha256_check", {"content_sha256": "'\\x00'"}),
    ("edits", "edits_check", {"signal_id": "null"}),
    ("edits", "edits_check1", {"external_id": "'1'"}),
    ("edits", "edits_check2", {"source": "'ci'"}),
    *[
        (
            "edits",
            "edits_check3",
            {"op": f"'{op}'", "signal_id": "null", "source": "'ci'", "external_id": entry},
        )
        for op, entry in (("set_time", "'1'"), ("hide", "'1'"), ("clock_offset", "null"))
    ],
    *[
        ("edits", "edits_check4", {"op": "'milestone'", "signal_id": "null", "value": it})
        for it in ("null", "'{}'", """'{"name":"x"}'""")
    ],
    ("edits", "edits_op_check", {"op": "'x'", "signal_id": "null"}),
    *[("edits", "edits_reason_check", {"reason": text(it)}) for it in (0, 2001)],
    ("annotations", "annotations_body_check", {"body": text(1_048_577)}),
    ("annotations", "annotations_check", {"root": ONE}),
    ("annotations", "annotations_check", {"supersedes": ONE}),
    ("annotations", "annotations_check1", {"kind": "'question'"}),
    ("annotations", "annotations_check1", {"state": "'open'"}),
    ("annotations", "annotations_check2", {"entry_id": "'1'"}),
    (
        "annotations",
        "annotations_check3",
        {"entry_source": "'ci'", "entry_id": "'1'", "occurred_at": "now()"},
    ),
    ("annotations", "annotations_check4", {"v0_position": "0"}),
    ("annotations", "annotations_kind_check", {"kind": "'x'"}),
    ("annotations", "annotations_precision_check", {"precision": "'about'"}),
    ("annotations", "annotations_state_check", {"kind": "'question'", "state": "'x'"}),
    ("postmortem_revisions", "postmortem_revisions_check", {"status": "'waived'"}),
    ("postmortem_revisions", "postmortem_revisions_check", {"status": "'waived'", "message": "''"}),
    ("postmortem_revisions", "postmortem_revisions_content_check", {"content": "'[]'"}),
    (
        "postmortem_revisions",
        "postmortem_revisions_content_check",
        {"content": f"jsonb_build_object('a', {text(524_288)})"},
    ),
    ("postmortem_revisions", "postmortem_revisions_message_check", {"message": text(501)}),
    ("postmortem_revisions", "postmortem_revisions_rev_check", {"rev": "0"}),
    ("postmortem_revisions", "postmortem_revisions_status_check", {"status": "'x'"}),
    ("action_items", "action_items_check", {"status": "'done'"}),
    ("action_items", "action_items_check", {"closed_at": "now()"}),
    ("action_items", "action_items_check1", {"status": "'wont_do'", "closed_at": "now()"}),
    *[
        ("action_items", "action_items_closed_reason_check", {"closed_reason": text(it)})
        for it in (0, 2001)
    ],
    ("action_items", "action_items_factor_check", {"factor": text(64)}),
    *[("action_items", "action_items_owner_check", {"owner": text(it)}) for it in (0, 101)],
    *[("action_items", "action_items_priority_check", {"priority": it}) for it in ("0", "5")],
    ("action_items", "action_items_status_check", {"status": "'x'"}),
    *[("action_items", "action_items_title_check", {"title": text(it)}) for it in (2, 201)],
    ("action_items", "action_items_type_check", {"type": "'x'"}),
    ("action_items", "action_items_url_check", {"url": text(2001)}),
    ("incident_links", "incident_links_check", {"b": ONE}),
    ("incident_links", "incident_links_check1", {"type": "'related'", "a": TWO, "b": ONE}),
    ("incident_links", "incident_links_note_check", {"note": text(501)}),
    ("incident_links", "incident_links_type_check", {"type": "'x'"}),
    *[
        ("incident_labels", "incident_labels_label_check", {"label": it})
        for it in ("''", "'Upper'", "'-a'", "E'a\\n'", text(40))
    ],
    *[("idempotency_keys", "idempotency_keys_key_check", {"key": text(it)}) for it in (0, 256)],
    # Not only checks: these keep chains and keys whole.
    ("users", "users_local_email", {"email": "'ada@example.org'"}),
    ("signals", "signals_source_external_id_key", {"external_id": "'1'"}),
    (
        "annotations",
        "annotations_supersedes_fkey",
        {"root": ONE, "supersedes": "'00000000-0000-4000-8000-000000000009'"},
    ),
    ("postmortem_revisions", "postmortem_revisions_incident_id_previous_fkey", {"rev": "3"}),
    ("idempotency_keys", "idempotency_keys_pkey", {"key": "'k'"}),
]


def insert(table: str, row: Row) -> str:
    return f"insert into {table} ({', '.join(row)}) values ({', '.join(row.values())})"  # noqa: S608 - test rows


GOOD_ROWS = list(starmap(insert, GOOD.items()))
# The links need a second incident before them.
GOOD_ROWS.insert(3, insert("incidents", GOOD["incidents"] | {"id": TWO}))


@asynccontextmanager
async def filled(dsn: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    transaction: Transaction = connection.transaction()
    await transaction.start()
    try:
        for statement in GOOD_ROWS:
            await connection.execute(statement)
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


async def query(dsn: str, sql: str) -> list[object]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row[0] for row in await connection.fetch(sql)]
    finally:
        await connection.close()


RULES_APPLIED = "applied the rules of timelines"


def quiet(message: str) -> None:
    """Ignore the call."""


@asynccontextmanager
async def undone(connection: asyncpg.Connection) -> AsyncGenerator[None]:
    """Undo what the block does, whether it fails or not."""
    savepoint: Transaction = connection.transaction()
    await savepoint.start()
    try:
        yield
    finally:
        await savepoint.rollback()


async def test_a_second_good_row_is_taken(shared_app_dsn: str) -> None:
    async with filled(shared_app_dsn) as connection:
        with every() as case:
            for table, row in GOOD.items():
                with case(table):
                    async with undone(connection):
                        await connection.execute(insert(table, row | AGAIN.get(table, {"id": NEW})))


async def test_each_check_refuses_its_bad_row(shared_app_dsn: str) -> None:
    async with filled(shared_app_dsn) as connection:
        with every() as case:
            for table, constraint, bad in BAD:
                row = GOOD[table] | AGAIN.get(table, {"id": NEW}) | bad
                with case(constraint, bad):
                    async with undone(connection):
                        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
                            await connection.execute(insert(table, row))
                    assert refused.value.constraint_name == constraint


async def test_no_check_is_without_its_bad_row(shared_app_dsn: str) -> None:
    checks = await query(
        shared_app_dsn, "select conname from pg_constraint where contype = 'c' and conrelid <> 0"
    )
    ours = {name for name in checks if not str(name).startswith(("pg_", "cardinal_", "yes_or_no"))}
    assert ours == {constraint for _, constraint, _ in BAD if "_check" in constraint}


CHANGES = ("update {} set {} = {}", "delete from {}", "truncate {} cascade")


async def test_a_fact_cannot_be_changed(shared_app_dsn: str) -> None:
    roles = (("owner", "23001"), ("postfacta_app", "42501"))
    async with filled(shared_app_dsn) as connection:
        with every() as case:
            for table, change, (role, state) in product(FACTS, CHANGES, roles):
                column = next(iter(GOOD[table]))
                statement = change.format(table, column, column)
                with case(role, statement):
                    async with undone(connection):
                        if role != "owner":
                            await connection.execute(f"set local role {role}")
                        with pytest.raises(asyncpg.PostgresError) as refused:
                            await connection.execute(statement)
                    assert refused.value.sqlstate == state


async def test_the_service_can_write_what_it_must_and_make_no_table(shared_app_dsn: str) -> None:
    async with filled(shared_app_dsn) as connection:
        await connection.execute("create role app_login nosuperuser login in role postfacta_app")
        await connection.execute("set local role app_login")
        for table, row in GOOD.items():
            await connection.execute(insert(table, row | AGAIN.get(table, {"id": NEW})))
        await connection.execute("update incidents set owner = 'Ada'")
        await connection.execute("delete from idempotency_keys")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with connection.transaction():
                await connection.execute("create table public.mine ()")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("insert into alembic_version values ('9999')")


async def test_an_empty_database_comes_to_the_newest_revision_and_says_so(
    database_dsn: str,
) -> None:
    said: list[str] = []
    assert await revision_of(database_dsn) is None
    await migrate(database_dsn, progress=said.append)
    revisions = [f"applied revision {number:04}" for number in range(1, int(HEAD) + 1)]
    assert said == [*revisions, RULES_APPLIED]
    assert await revision_of(database_dsn) == HEAD
    await migrate(database_dsn, progress=said.append)
    assert said == [*revisions, RULES_APPLIED]


async def test_other_rules_of_timelines_are_replaced(app_database_dsn: str) -> None:
    # As a program with other rules leaves it.
    await query(
        app_database_dsn,
        "create or replace function timeline_us(at timestamptz) returns bigint language sql return 7",
    )
    await query(app_database_dsn, "drop trigger timeline on annotations")
    await query(app_database_dsn, "comment on table timeline_entries is 'of other rules'")
    assert await revision_of(app_database_dsn) == HEAD  # It serves on.
    said: list[str] = []
    await migrate(app_database_dsn, progress=said.append)
    await migrate(app_database_dsn, progress=said.append)
    assert said == [RULES_APPLIED]
    assert await query(app_database_dsn, "select timeline_us('epoch')") == [0]
    triggers = "select count(*) from pg_trigger where tgname = 'timeline'"
    assert await query(app_database_dsn, triggers) == [3]


async def test_what_other_rules_folded_is_folded_by_these(app_database_dsn: str) -> None:
    for sql in (
        """
        insert into incidents (
          id, title, description, severity, reporter, declared_at, created_by, timeline_at)
        values (
          gen_random_uuid(), 'An incident', 'Made by a test', 'LOW', 'test', now(), 'test', now())""",
        "insert into incident_measures (incident_id, rules) select id, 2 from incidents",
        """
        insert into signals (
          id, source, external_id, kind, occurred_at, precision, time_basis, title,
          content_sha256, received_by)
        select gen_random_uuid(), 'ci', n, 'log', now(), 'exact', 'event', 'HTTP ' || n,
               sha256('x'), 'test'
          from unnest(array['404', '500']) n""",
        """
        insert into edits (id, incident_id, at, op, signal_id, actor)
        select gen_random_uuid(), i.id, now(), 'attach', s.id, 'test' from incidents i, signals s""",
        "update timeline_entries set alike = 7",
        "comment on table timeline_entries is 'of other rules'",
    ):
        await query(app_database_dsn, sql)
    alike = "select count(distinct alike) from timeline_entries"
    assert await query(app_database_dsn, alike) == [1]
    await migrate(app_database_dsn, progress=quiet)
    assert await query(app_database_dsn, alike) == [2]


async def test_tables_without_their_rules_are_no_schema(app_database_dsn: str) -> None:
    await query(app_database_dsn, "comment on table timeline_entries is null")
    assert await revision_of(app_database_dsn) is None


async def test_rules_that_wait_for_a_writer_are_tried_again(app_database_dsn: str) -> None:
    await query(app_database_dsn, "comment on table timeline_entries is null")
    writer = await asyncpg.connect(app_database_dsn)
    await writer.execute("begin; lock table status_changes in row exclusive mode")
    said: list[str] = []

    def progress(message: str) -> None:
        said.append(message)
        if len(said) == 1:
            writer.terminate()

    await migrate(app_database_dsn, progress=progress, luck=lambda: -0.99)
    assert said[0].startswith("a lock is not free")
    assert said[-1] == RULES_APPLIED


async def test_an_upgrade_gives_back_what_the_service_lost(app_database_dsn: str) -> None:
    granted = (
        "select array_agg(table_name || privilege_type order by table_name || privilege_type) from information_schema.role_table_grants"
        " where grantee = 'postfacta_app'"
    )
    before = await query(app_database_dsn, granted)
    for lost in ("all on all tables in schema public", "usage on schema public"):
        await query(app_database_dsn, f"revoke {lost} from postfacta_app, public")
    assert await query(app_database_dsn, granted) == [None]
    await migrate(app_database_dsn, progress=quiet)
    assert await query(app_database_dsn, granted) == before != [None]
    usage = "select has_schema_privilege('postfacta_app', 'public', 'usage')"
    assert await query(app_database_dsn, usage) == [True]


def test_a_file_of_sql_is_read_statement_by_statement(tmp_path: Path) -> None:
    file = tmp_path / "0009_notes.sql"
    file.write_text(
        "-- Of what it is.\n\n-- Why it is there.\n-- And more.\ncreate table notes (\n  id int,  -- <types>\n  body text)\n\ndrop table notes\n"
    )
    assert statements(file) == [
        "create table notes (\n  id int,  -- <types>\n  body text)",
        "drop table notes",
    ]


async def test_two_upgrades_at_once_apply_each_revision_once(database_dsn: str) -> None:
    said: list[str] = []
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(lambda: migrate(database_dsn, progress=said.append, luck=lambda: -0.9))
    assert said.count(f"applied revision {HEAD}") == 1


async def test_an_upgrade_waits_its_turn_and_says_so(database_dsn: str) -> None:
    said: list[str] = []
    spoke = anyio.Event()

    def progress(message: str) -> None:
        said.append(message)
        spoke.set()

    holder = await asyncpg.connect(database_dsn)
    await holder.execute("select pg_advisory_lock(x'706F737466616374'::bigint)")
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: migrate(database_dsn, progress=progress, luck=lambda: -0.99))
        await spoke.wait()
        await holder.close()
    assert said[0].startswith("a lock is not free, or another upgrade is running: try 2 of 12")
    assert said[-2:] == [f"applied revision {HEAD}", RULES_APPLIED]


async def test_an_upgrade_gives_up_in_the_end(database_dsn: str) -> None:
    holder = await asyncpg.connect(database_dsn)
    try:
        await holder.execute("select pg_advisory_lock(x'706F737466616374'::bigint)")
        with pytest.raises(CommandFailedError, match="lock timeout"):
            await migrate(database_dsn, progress=quiet, tries=2, luck=lambda: -1)
    finally:
        await holder.close()
    assert await revision_of(database_dsn) is None


async def test_a_database_of_a_newer_program_is_left_alone(database_dsn: str) -> None:
    await migrate(database_dsn, progress=quiet)
    await query(database_dsn, "update alembic_version set version_num = '9999' returning 1")
    with pytest.raises(CommandFailedError, match="newer version"):
        await migrate(database_dsn, progress=quiet)


BROKEN = {
    "postgresql://ada:hush@127.0.0.1:1/x": "the database is unreachable",
    "postgresql://ada:hu#sh@127.0.0.1:5432/x": "invalid database DSN",
    "postgresql://ada:hush@127.0.0.1:port/x": "invalid database DSN",
    "mysql://ada:hush@127.0.0.1/x": "scheme is expected",
    "postgresql://ada:hush@127.0.0.1/x?sslmode=hush2": "sslmode",
}


async def test_a_failure_says_why_and_not_the_password() -> None:
    with every() as case:
        for dsn, why in BROKEN.items():
            with case(dsn):
                with pytest.raises(CommandFailedError, match=why) as failed:
                    await migrate(dsn, progress=quiet)
                assert "hush@" not in str(failed.value)
                assert failed.value.__cause__ is None
                assert failed.value.__suppress_context__
