"""The command line: its help, its refusals, and what its commands do to a real database."""

from __future__ import annotations

import hashlib
import io
import re
import signal
import socket
import subprocess
import sys
from uuid import UUID

import httpx2
import pytest
from argon2 import PasswordHasher

from postfacta_app.__main__ import main
from postfacta_app.migrations import HEAD
from postfacta_core.installation import install_command
from tests.kit.pg import fetch_value
from tests.kit.ports import free_port

pytestmark = pytest.mark.usefixtures("clean_environment")

PASSWORD = "correct horse battery"  # noqa: S105 - of nobody
ADA = ("--email", "Ada@example.org", "--name", "Ada", "--role", "admin")


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


# Help


def test_the_help_lists_each_command_with_what_it_needs_and_begins_with_the_demo(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = re.sub(r"\s+", " ", help_of(capsys))
    for line in (
        "serve run the service (needs a migrated database) [app]",
        "migrate create or upgrade the tables (needs the owner role) [app]",
        "demo run everything on this machine, database included [app]",
        "user add and list people, reset passwords, end sessions (needs a migrated database) [app]",
        "token create, list and revoke API tokens (needs a migrated database) [app]",
        "verify rebuild all timelines and compare their digests [app]",
        "doctor check the installation and suggest fixes [app]",
        "slo objectives as code: generate, check, report, budget [slo]",
        f"needs: {install_command('app')}",
        "Exit codes: 0 success, 1 failure, 2 invalid usage or settings;",
    ):
        assert line in text
    assert text.index("postfacta demo") < text.index("postfacta migrate")


@pytest.mark.parametrize(
    "argv", [[], ["dance"], ["user"], ["token", "create", "--scope", "x"], ["serve", "--port", "x"]]
)
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "usage: postfacta" in capsys.readouterr().err.lower()


def test_a_password_is_never_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["user", "add", *ADA, "--password", PASSWORD])
    assert "No such option" in capsys.readouterr().err


# Refusals


@pytest.mark.parametrize(
    "argv", [["serve"], ["migrate"], ["doctor"], ["demo"], ["user", "add", *ADA]], ids=str
)
def test_settings_that_cannot_be_used_end_with_2_and_their_names(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTFACTA_DATABSE_DSN", f"postgresql://app:{PASSWORD}@x/y")
    assert main(argv) == 2
    text = capsys.readouterr().err
    assert "did you mean POSTFACTA_DATABASE_DSN?" in text
    assert PASSWORD not in text
    assert "Traceback" not in text


def test_a_published_secret_for_tokens_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(
        "POSTFACTA_JWT_SECRET", "super-secret-jwt-token-with-at-least-32-characters-long"
    )
    assert main(["serve", "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert "POSTFACTA_JWT_SECRET: is a published example" in said
    assert "super-secret" not in said


def test_a_public_address_without_sign_in_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTFACTA_AUTH_MODE", "none")
    assert main(["serve", "--host", "0.0.0.0"]) == 2  # noqa: S104 - it is refused
    assert "POSTFACTA_AUTH_MODE" in capsys.readouterr().err


def test_a_port_in_use_is_named_with_a_way_out(
    taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", str(taken_port)]) == 1
    text = capsys.readouterr().err
    assert f"port {taken_port} of 127.0.0.1 is in use" in text
    assert "--port" in text


def test_an_address_of_another_machine_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "192.0.2.1", "--port", "0"]) == 1
    assert "cannot listen on 192.0.2.1" in capsys.readouterr().err


def test_without_a_database_a_command_says_where_it_looked_and_not_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setattr("postfacta_app.db._WAIT", 0.3)
    monkeypatch.setenv(
        "POSTFACTA_DATABASE_DSN", f"postgresql://app:{PASSWORD.replace(' ', '')}@127.0.0.1:{port}/x"
    )
    type_in(monkeypatch, f"{PASSWORD}\n")
    assert main(["user", "add", *ADA, "--password-stdin"]) == 1
    text = capsys.readouterr().err
    assert f"no database at 127.0.0.1:{port}" in text
    assert PASSWORD.replace(" ", "") not in text


# Commands


def test_migrate_makes_the_tables_and_may_run_again(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", "postgresql://127.0.0.1:1/nowhere")
    monkeypatch.setenv("POSTFACTA_DATABASE_OWNER_DSN", database_dsn)
    for _ in range(2):
        assert main(["migrate"]) == 0
        assert f"the database is at revision {HEAD}" in capsys.readouterr().out
    assert fetch_value(database_dsn, "select count(*) from users") == 0


def test_user_add_makes_an_administrator_and_leaves_an_audit_row(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, f"{PASSWORD}\n")
    assert main(["user", "add", *ADA, "--password-stdin"]) == 0
    assert "ada@example.org can sign in at /signin, as admin" in capsys.readouterr().err
    assert (
        fetch_value(migrated, "select role || ' ' || email || ' ' || display_name from users")
        == "admin ada@example.org Ada"
    )
    assert str(fetch_value(migrated, "select password_hash from users")).startswith("$argon2id$")
    assert (
        fetch_value(migrated, "select actor || ' ' || action from audit_log")
        == "operator user.create"
    )

    type_in(monkeypatch, f"{PASSWORD}\n")
    assert main(["user", "add", *ADA, "--password-stdin"]) == 1
    assert "account with this e-mail address already" in capsys.readouterr().err


def test_user_add_adopts_an_account_of_the_project_whether_it_is_known_yet_or_not(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTFACTA_AUTH_MODE", "supabase")
    monkeypatch.setenv("POSTFACTA_DB_URL", "https://abc.supabase.co")
    monkeypatch.setenv("POSTFACTA_DB_KEY", "sb_publishable_abc")
    known, sub = UUID(int=1), UUID(int=2)
    name = f"https://abc.supabase.co/auth/v1 {known}"
    insert = f"insert into users (id, external_sub, email, display_name, role) values ('{known}', '{name}', 'a@b', 'A', 'viewer') returning 1"  # fmt: skip  # noqa: S608 - of the test
    assert fetch_value(migrated, insert) == 1
    for whom in (known, sub):
        assert main(["user", "add", *ADA, "--sub", str(whom)]) == 0
        assert "ada@example.org can sign in at /signin, as admin" in capsys.readouterr().err
    admins = (
        "select string_agg(external_sub, '|' order by external_sub) from users where role = 'admin'"
    )
    assert fetch_value(migrated, admins) == f"{name}|https://abc.supabase.co/auth/v1 {sub}"
    assert fetch_value(migrated, "select count(password_hash) from users") == 0
    actions = "select string_agg(actor || ' ' || action, '|' order by seq) from audit_log"
    assert fetch_value(migrated, actions) == "operator user.change|operator user.create"

    assert main(["user", "add", *ADA]) == 1
    assert "--sub" in capsys.readouterr().err
    monkeypatch.setenv("POSTFACTA_AUTH_MODE", "local")
    assert main(["user", "add", *ADA, "--sub", str(sub)]) == 1
    assert "POSTFACTA_AUTH_MODE=supabase" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["short\n", "\n", "ada@example.org\n", ""])
def test_user_add_refuses_a_poor_password_and_changes_nothing(
    typed: str,
    migrated: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    capsys: pytest.CaptureFixture[str],
) -> None:
    type_in(monkeypatch, typed)
    assert main(["user", "add", *ADA, "--password-stdin"]) == 2
    assert "password" in capsys.readouterr().err
    assert fetch_value(migrated, "select count(*) from users") == 0


def test_before_migrate_there_is_nothing_to_write_to(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTFACTA_DATABASE_DSN", database_dsn)
    type_in(monkeypatch, f"{PASSWORD}\n")
    assert main(["user", "add", *ADA, "--password-stdin"]) == 1
    assert "postfacta migrate" in capsys.readouterr().err


def test_token_create_prints_the_secret_and_nothing_else_and_stores_its_hash(
    migrated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scopes = ["--scope", "signals:write", "--scope", "incidents:read"]
    assert (
        main(["token", "create", "--name", "ci", *scopes, "--source", "github", "--days", "30"])
        == 0
    )
    shown = capsys.readouterr()
    secret = shown.out.strip()
    assert re.fullmatch(r"pf_[\w-]{8}_[\w-]{43}", secret)
    assert "30 days" in shown.err
    stored = "select name || ' ' || source || ' ' || scopes::text || ' ' || (expires_at - created_at)::text from tokens"
    assert fetch_value(migrated, stored) == "ci github {incidents:read,signals:write} 30 days"
    assert secret not in str(fetch_value(migrated, "select tokens::text from tokens"))
    kept = fetch_value(migrated, "select secret_sha256 from tokens")
    assert kept == hashlib.sha256(secret.encode()).digest()


def run(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert main(list(argv)) == code
    told = capsys.readouterr()
    return told.err if code else told.out


def test_a_password_is_reset_and_printed_once(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, f"{PASSWORD}\n")
    run(capsys, "user", "add", *ADA, "--password-stdin")
    begun = "insert into tokens (id, kind, secret_sha256, user_id, expires_at) select gen_random_uuid(), 'session',"
    begun += " sha256(n::text::bytea), id, now() + interval '1 day' from users, generate_series(1, 2) n returning id"
    fetch_value(migrated, begun)
    listed = run(capsys, "user", "sessions", "Ada@example.org").splitlines()
    assert [line.split("\t")[1] for line in listed] == ["session"] * 2
    one = listed[0].split("\t")[0]
    assert "sessions ended: 1" in run(
        capsys, "user", "sign-out", "ada@example.org", "--session", one
    )
    before = fetch_value(migrated, "select password_hash from users")
    printed = run(capsys, "user", "reset-password", "ada@example.org").strip()
    after = str(fetch_value(migrated, "select password_hash from users"))
    assert before != after
    assert PasswordHasher().verify(after, printed)
    assert run(capsys, "user", "sessions", "ada@example.org") == ""
    type_in(monkeypatch, "another horse battery\n")
    assert run(capsys, "user", "reset-password", "ada@example.org", "--password-stdin") == ""
    assert PasswordHasher().verify(
        str(fetch_value(migrated, "select password_hash from users")), "another horse battery"
    )
    type_in(monkeypatch, "short\n")
    assert "password" in run(
        capsys, "user", "reset-password", "ada@example.org", "--password-stdin", code=2
    )
    audited = "select string_agg(action, ' ' order by seq) from audit_log where actor = 'operator'"
    told = "user.create session.revoke password.reset password.reset"
    assert fetch_value(migrated, audited) == told


def test_people_are_listed_disabled_and_enabled(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, f"{PASSWORD}\n")
    run(capsys, "user", "add", *ADA, "--password-stdin")
    (line,) = run(capsys, "user", "list").splitlines()
    user_id, email, role, state = line.split("\t")
    assert (email, role, state) == ("ada@example.org", "admin", "active")
    assert "last enabled administrator" in run(capsys, "user", "disable", user_id, code=1)
    type_in(monkeypatch, f"{PASSWORD}\n")
    run(capsys, "user", "add", "--email", "bob@example.org", "--role", "admin", "--password-stdin")
    assert "ada@example.org is disabled" in run(capsys, "user", "disable", user_id)
    assert "disabled" in run(capsys, "user", "list")
    assert "ada@example.org is enabled" in run(capsys, "user", "enable", "ada@example.org")
    assert "no account eve@example.org" in run(
        capsys, "user", "sign-out", "eve@example.org", code=1
    )


def test_people_are_added_and_get_another_role(
    migrated: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bob = ("--email", "Bob@example.org", "--role", "responder")
    password = run(capsys, "user", "add", *bob).strip()
    hashed = str(fetch_value(migrated, "select password_hash from users"))
    assert PasswordHasher().verify(hashed, password)
    assert fetch_value(migrated, "select display_name || ' ' || role from users") == "bob responder"
    assert "already exists" in run(capsys, "user", "add", *bob, code=1)
    type_in(monkeypatch, "short\n")
    assert "password" in run(
        capsys, "user", "add", "--email", "eve@example.org", "--password-stdin", code=2
    )
    assert "as admin" in run(capsys, "user", "role", "bob@example.org", "admin")
    assert "last enabled administrator" in run(
        capsys, "user", "role", "bob@example.org", "viewer", code=1
    )
    audited = (
        "select string_agg(action || ' ' || (detail ->> 'role'), ' ' order by seq) from audit_log"
    )
    assert fetch_value(migrated, audited) == "user.create responder user.change admin"


def test_tokens_are_listed_and_revoked(migrated: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "token", "create", "--name", "dashboard", "--scope", "incidents:read")
    (line,) = run(capsys, "token", "list").splitlines()
    token, name, scopes, used, _ = line.split("\t")
    assert (name, scopes, used) == ("dashboard", "incidents:read", "never")
    assert "is revoked" in run(capsys, "token", "revoke", token)
    assert run(capsys, "token", "list") == ""
    assert "no such token" in run(capsys, "token", "revoke", token, code=1)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--scope", "signals:write"], "source"),
        (["--scope", "incidents:read", "--source", "ci"], "source"),
        (["--scope", "signals:write", "--source", "human"], "reserved"),
    ],
    ids=str,
)
def test_token_create_names_the_argument_that_is_wrong(
    argv: list[str], told: str, migrated: str, *, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["token", "create", "--name", "ci", *argv]) == 2
    assert told in capsys.readouterr().err
    assert fetch_value(migrated, "select count(*) from tokens") == 0


@pytest.mark.parametrize("days", ["0", "3651", "999999999"])
def test_a_token_lives_for_ten_years_at_most(days: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["token", "create", "--name", "ci", "--scope", "incidents:read", "--days", days])
    assert ended.value.code == 2
    assert "--days" in capsys.readouterr().err


# Serve


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_runs_until_a_signal_and_exits_with_0(stop: signal.Signals, migrated: str) -> None:
    command = [sys.executable, "-m", "postfacta_app", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - our own
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)", server.stdout.readline())
            assert found is not None
            answer = httpx2.get(f"http://127.0.0.1:{found[1]}/healthz", timeout=20)
            assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})
            assert "server" not in answer.headers
            server.send_signal(stop)
            assert server.wait(20) == 0
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("environment", "token", "is_warned"),
    [("production", "", True), ("production", "x" * 32, False), ("local", "", False)],
)
def test_serve_warns_of_metrics_that_no_one_can_read(
    environment: str,
    token: str,
    *,
    is_warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ENVIRONMENT", environment)
    if token:
        monkeypatch.setenv("POSTFACTA_METRICS_TOKEN", token)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 1
    warning = "postfacta: warning: no one can read /metrics; set POSTFACTA_METRICS_TOKEN\n"
    assert (warning in capsys.readouterr().err) == is_warned


def test_routes_lists_each_route_with_its_access(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routes"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [
        "POST",
        "/api/v1/incidents/{ref}/action-items",
        "write",
        "write",
        "Create",
        "an",
        "action",
        "item",
    ] in lines
    assert ["GET", "/people", "admin", "search"] in lines
