"""`postfacta doctor` finds what is wrong with a set-up, and says what to do."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import anyio
import pytest

from postfacta_app.cli import main
from postfacta_core.asgi._cookies import IS_SLOW
from postfacta_embedded import EmbeddedPostgres
from tests.kit.fair import FairLoop
from tests.kit.pg import create_database, execute, fetch_value, prepared_server

pytestmark = pytest.mark.usefixtures("clean_environment")

PASSWORD = "correct-horse"  # noqa: S105 - of nobody
CHECKS = [
    "settings",
    "python",
    "port",
    "files",
    "headers",
    "stop",
    "database",
    "schema",
    "rights",
    "durability",
    "connections",
    "clock",
]
ROLE = f"doctor_{os.getpid()}"  # Roles are the whole server's, which other tests use too.


def as_role(dsn: str, role: str = ROLE) -> str:
    """Give the address of the same database for another role."""
    parts = urlsplit(dsn)
    where = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{PASSWORD}@{where}"))


@pytest.fixture
def role(migrated: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make a role without any rights, and set it as the one to use; give the owner's address."""
    execute(migrated, f"create role {ROLE} login password '{PASSWORD}'")
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", as_role(migrated))
    yield migrated
    for name in (f"{ROLE}_owner", ROLE):
        if fetch_value(migrated, f"select to_regrole('{name}')"):
            execute(
                migrated,
                f"reassign owned by {name} to postgres",
                f"drop owned by {name}",
                f"drop role {name}",
            )


def verdicts(text: str) -> dict[str, str]:
    lines = [line.split() for line in text.splitlines() if not line.startswith(" ")]
    return {about: verdict for verdict, about, *_ in lines}


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str], str]:
    """Run it on a free port, if none is given; return its exit code, verdicts and text.

    In fair time: a standstill of this process is no database that is away.
    """
    run = partial(anyio.run, backend_options={"loop_factory": FairLoop})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "run", run)
        code = main(["doctor", *(words if "--port" in words else (*words, "--port", "0"))])
    text = capsys.readouterr().out
    return code, verdicts(text), text


@pytest.fixture(scope="module")
def durable_server(programs: None) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL whose durability is what it is by itself, and that has no role but its superuser."""
    with prepared_server() as server:
        yield server


def test_an_owner_who_may_not_create_the_role_learns_what_to_do(
    durable_server: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    admin = create_database(durable_server, "owned")
    # In whatever order these tests run.
    execute(
        admin, "drop database if exists sound with (force)", "drop role if exists postfacta_app"
    )
    execute(
        admin,
        f"create role {ROLE} login password '{PASSWORD}'",
        f"alter database owned owner to {ROLE}",
    )
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", as_role(admin))
    assert main(["migrate"]) == 0
    assert "run `create role postfacta_app nologin` as a superuser" in capsys.readouterr().out
    execute(admin, "create role postfacta_app nologin")
    assert main(["migrate"]) == 0
    assert "create role" not in capsys.readouterr().out
    execute(admin, f"reassign owned by {ROLE} to postgres", f"grant postfacta_app to {ROLE}")
    assert doctor(capsys)[1]["rights"] == "ok"


def test_on_a_sound_set_up_nothing_is_left_to_do(
    durable_server: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    owner = create_database(durable_server, "sound")
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", owner)
    assert main(["migrate"]) == 0
    execute(owner, f"create role {ROLE}_sound login password '{PASSWORD}' in role postfacta_app")
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", as_role(owner, f"{ROLE}_sound"))
    capsys.readouterr()
    code, shown, text = doctor(capsys)
    assert list(shown) == CHECKS
    # How many files may be open, and how old its Python is, is this machine's affair.
    assert {about for about, verdict in shown.items() if verdict != "ok"} <= {"files", "python"}
    assert (shown["python"] == "warn") == IS_SLOW
    assert "`postfacta serve` waits 10 s" in text
    assert code == 0


def test_each_fault_is_named_with_what_to_do(
    database_dsn: str,
    taken_port: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", database_dsn)
    monkeypatch.setattr("postfacta_app.doctor.WALL", lambda: 0.0)
    code, shown, text = doctor(capsys, "--port", str(taken_port))
    assert code == 1
    assert shown["port"] == "warn"
    assert [about for about, verdict in shown.items() if verdict == "fail"] == [
        "schema",
        "durability",
        "clock",
    ]
    assert "-> run `postfacta migrate`" in text
    assert "fsync = off" in text
    assert "-> synchronize both machines with NTP" in text


@pytest.mark.parametrize(("environment", "verdict"), [("production", "fail"), ("local", "warn")])
def test_a_role_that_could_change_facts_is_found(
    migrated: str,
    environment: str,
    verdict: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ENVIRONMENT", environment)
    _, shown, text = doctor(capsys)
    assert shown["rights"] == verdict
    assert "role postgres can change or delete recorded facts" in text
    assert "-> use a role in POSTFACTA_DATABASE_DSN that is only a member of postfacta_app" in text


@pytest.mark.parametrize(
    "given",
    [
        "grant delete on audit_log to {0}",
        "grant truncate on edits to {0}",
        "alter table signals owner to {0}",
        "create role {0}_owner role {0}; alter table signals owner to {0}_owner",
    ],
)
def test_each_way_to_change_facts_is_found(
    role: str, given: str, monkeypatch: pytest.MonkeyPatch, *, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    execute(role, f"grant postfacta_app to {ROLE}")
    assert doctor(capsys)[1]["rights"] == "ok"
    execute(role, given.format(ROLE))
    code, shown, _ = doctor(capsys)
    assert (code, shown["rights"]) == (1, "fail")


def test_a_role_without_any_right_is_found(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, text = doctor(capsys)
    assert (code, shown["rights"]) == (1, "fail")
    assert "schema" not in shown
    assert (
        f"role {ROLE} lacks insert on action_items, select on action_items, update on action_items and "
        in text
    )
    assert (
        f"-> as the tables' owner: `postfacta migrate`, then `grant postfacta_app to {ROLE}`"
        in text
    )


@pytest.mark.parametrize(
    "words", [("user", "list"), ("verify",), ("user", "disable", "ada@example.org")]
)
def test_a_command_without_rights_ends_with_a_sentence(
    role: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    assert capsys.readouterr().err == (
        "postfacta: permission denied for table alembic_version: run `postfacta doctor` for advice\n"
    )


@pytest.mark.parametrize("statement", ["drop table alembic_version", "select 1"])
def test_migrate_without_rights_names_the_setting_it_needs(
    role: str, statement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(role, statement)
    assert main(["migrate"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("postfacta: permission denied for ")
    assert "set POSTFACTA_DATABASE_OWNER_DSN, to the role that owns the tables" in said


def test_each_single_right_that_is_missing_is_named(
    role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(role, f"grant postfacta_app to {ROLE}")
    granted = (
        str(
            fetch_value(
                role,
                "select string_agg(privilege_type || ' on ' || table_name, ',') from information_schema.role_table_grants"
                " where grantee = 'postfacta_app'",
            )
        )
        .lower()
        .split(",")
    )
    assert len(granted) >= 40
    for right in granted:
        execute(role, f"revoke {right} from postfacta_app")
        code, shown, text = doctor(capsys)
        assert (code, shown["rights"]) == (1, "fail")
        assert f"role {ROLE} lacks {right}\n" in text
        execute(role, f"grant {right} to postfacta_app")
    assert doctor(capsys)[1]["rights"] == "ok"


def test_a_public_address_that_is_called_local_is_warned_of(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, shown, _ = doctor(capsys, "--host", "0.0.0.0")  # noqa: S104 - nothing answers there
    assert (shown["cookies"], shown["metrics"]) == ("warn", "warn")
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("POSTFACTA_METRICS_TOKEN", "x")
    _, shown, _ = doctor(capsys, "--host", "0.0.0.0")  # noqa: S104 - nothing answers there
    assert shown.keys().isdisjoint({"cookies", "metrics"})


def test_a_secret_that_every_user_can_read_is_warned_of(
    migrated: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    monkeypatch.setenv("POSTFACTA_METRICS_TOKEN_FILE", str(file))
    file.chmod(0o640)
    assert "secrets" not in doctor(capsys)[1]
    for mode in (0o644, 0o602):
        file.chmod(mode)
        _, shown, text = doctor(capsys)
        assert shown["secrets"] == "warn"
        assert f"chmod 600 {file}" in text


def test_features_that_are_off_and_bad_flags_are_shown(
    migrated: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "flags.json"
    monkeypatch.setenv("POSTFACTA_FLAGS", str(file))
    for content, verdict, said in (
        ("{}", "ok", "all on"),
        ('{"exports": {"on": false, "reason": "INC-12"}}', "warn", "exports (INC-12)"),
        ('{"export": {"on": false}}', "fail", "export: unknown"),
    ):
        file.write_text(content)
        _, shown, text = doctor(capsys)
        assert shown["flags"] == verdict
        assert said in text


def test_metrics_without_a_token_are_warned_of_outside_local(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "metrics" not in doctor(capsys)[1]
    monkeypatch.setenv("ENVIRONMENT", "production")
    assert doctor(capsys)[1]["metrics"] == "warn"


def test_a_proxy_that_would_be_one_caller_for_all_is_warned_of(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    _, shown, text = doctor(capsys)
    assert shown["rates"] == "warn"
    assert (
        "-> behind a proxy all clients share one limit: list the proxy in POSTFACTA_TRUSTED_PROXIES"
        in text
    )
    assert doctor(capsys, "--host", "0.0.0.0")[1]["rates"] == "ok"  # noqa: S104 - nothing answers there
    monkeypatch.setenv("POSTFACTA_TRUSTED_PROXIES", "127.0.0.1")
    assert "rates" not in doctor(capsys)[1]
    monkeypatch.setenv("POSTFACTA_TRUSTED_PROXIES", "")
    monkeypatch.setenv("POSTFACTA_RATE_ADDRESS", "")
    assert "rates" not in doctor(capsys)[1]


def test_auth_mode_none_is_a_warning(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTFACTA_AUTH_MODE", "none")
    assert doctor(capsys)[1]["sign-in"] == "warn"


def test_a_database_that_is_not_there_fails_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setattr("postfacta_app.db._WAIT", 0.3)
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", f"postgresql://app:{PASSWORD}@127.0.0.1:{port}/x")
    code, shown, text = doctor(capsys)
    assert code == 1
    assert shown["database"] == "fail"
    assert f"127.0.0.1:{port}" in text
    assert PASSWORD not in text


@pytest.mark.parametrize(
    ("pool", "verdict"), [(10, "ok"), (47, "ok"), (48, "warn"), (96, "warn"), (97, "fail")]
)
def test_a_pool_that_postgresql_has_no_connections_for_is_found(
    pool: int,
    verdict: str,
    *,
    migrated: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("POSTFACTA_POOL_MAX_SIZE", str(pool))
    _, shown, text = doctor(capsys)
    assert shown["connections"] == verdict
    assert (
        f"up to {pool + 1} per process; PostgreSQL allows 97" in text
    )  # max_connections is 100, of which 3 are reserved; one more than the pool's listens.
    assert ("lower POSTFACTA_POOL_MAX_SIZE" in text) == (verdict != "ok")


@pytest.mark.parametrize(
    ("allowed", "verdict"), [(2047, "warn"), (2157, "warn"), (2158, "ok"), (-1, "ok")]
)
@pytest.mark.usefixtures("migrated")
def test_too_few_open_files_for_the_backlog_are_found(
    allowed: int,
    verdict: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # `serve` raises its own limit up to the hard one.
    def getrlimit(_: int) -> tuple[int, int]:
        return 1024, allowed

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    _, shown, text = doctor(capsys)
    assert shown["files"] == verdict
    assert ("ulimit -n" in text) == (verdict == "warn")


@pytest.mark.usefixtures("migrated")
def test_the_time_that_a_stop_takes_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTFACTA_DRAIN_DELAY", "7")
    monkeypatch.setenv("POSTFACTA_DRAIN_TIMEOUT", "13")
    _, shown, text = doctor(capsys)
    assert (shown["headers"], shown["stop"]) == ("ok", "ok")
    assert "within 30 s of SIGTERM" in text
    assert "-> set a longer stop timeout in systemd" in text
