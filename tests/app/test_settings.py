"""Where settings come from, what is refused, and that no secret is ever shown."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Final

import pytest

from postfacta_app.settings import AuthMode, SettingsError, exposed_secrets, load_settings
from postfacta_core.events import Mode
from tests.kit.every import every

SECRET = "hunter2-hunter2"  # noqa: S105 - of nobody
DSN = f"postgresql://app:{SECRET}@db.example/postfacta"


def refusal(environ: dict[str, str], **overrides: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, **overrides)
    return str(caught.value)


# Sources


def test_without_any_setting_it_listens_on_loopback_and_asks_for_a_sign_in() -> None:
    settings = load_settings({})
    assert (settings.host, settings.port, settings.auth_mode) == ("127.0.0.1", 8080, AuthMode.LOCAL)
    assert not settings.register_open
    assert settings.cors_origins == ()


def test_the_environment_of_the_process_is_the_default_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POSTFACTA_PORT", "9000")
    assert load_settings().port == 9000
    assert load_settings({}).port == 8080


def test_the_originals_names_have_no_prefix_and_all_others_have_it() -> None:
    settings = load_settings(
        {
            "ENVIRONMENT": "prod",
            "APP_VERSION": "1.2",
            "LOG_LEVEL": "debug",
            "LOG_FORMAT": "JSON",
            "POSTFACTA_HOST": "::1",
            "HOST": "ignored",
            "PORT": "1",
        }
    )
    shown = (settings.environment, settings.app_version, settings.log_level, settings.log_format)
    assert shown == ("prod", "1.2", "DEBUG", "JSON")
    assert (settings.host, settings.port) == ("::1", 8080)
    assert load_settings({"LOG_LEVEL": "loud"}).log_level == "INFO"


def test_the_command_line_wins_and_what_it_leaves_out_does_not() -> None:
    environ = {"POSTFACTA_PORT": "9000"}
    assert load_settings(environ, port=9001, host=None).port == 9001
    assert load_settings(environ, port=None).port == 9000


def test_a_value_may_stand_in_a_file_or_in_the_secrets_folder(tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text(f"{DSN}\n")
    (tmp_path / "postfacta_metrics_token").write_text(f"{SECRET}\r\n")
    (tmp_path / "app_version").write_text("1.2")
    environ = {
        "POSTFACTA_DATABASE_DSN_FILE": str(tmp_path / "dsn"),
        "POSTFACTA_SECRETS_DIR": str(tmp_path),
    }
    settings = load_settings(environ)
    assert settings.database_dsn.get_secret_value() == DSN
    assert settings.metrics_token is not None
    assert settings.metrics_token.get_secret_value() == SECRET
    assert settings.app_version == "1.2"


def test_the_environment_goes_before_a_file_and_a_file_before_the_folder(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("from a file")
    (tmp_path / "app_version").write_text("from the folder")
    environ = {"POSTFACTA_SECRETS_DIR": str(tmp_path)}
    assert load_settings(environ).app_version == "from the folder"
    environ["APP_VERSION_FILE"] = str(tmp_path / "one")
    assert load_settings(environ).app_version == "from a file"
    environ["APP_VERSION"] = "from the environment"
    assert load_settings(environ).app_version == "from the environment"


# Refusals


def test_an_unknown_name_is_refused_with_the_one_that_was_meant() -> None:
    text = refusal({"POSTFACTA_DATABSE_DSN": DSN, "POSTFACTA_ZZZZZZ_9": "1"})
    assert "POSTFACTA_DATABSE_DSN: unknown setting; did you mean POSTFACTA_DATABASE_DSN?" in text
    assert "POSTFACTA_ZZZZZZ_9: unknown setting" in text
    assert SECRET not in text


def test_the_names_of_others_are_none_of_its_business() -> None:
    assert load_settings({"PATH": "/bin", "DATABASE_DSN": "x", "postfacta_port": "1"}).port == 8080


def test_every_invalid_value_is_named_by_its_variable() -> None:
    text = refusal(
        {"POSTFACTA_PORT": "eighty", "POSTFACTA_POOL_MAX_SIZE": "1", "POSTFACTA_AUTH_MODE": "ldap"}
    )
    assert {line.partition(":")[0] for line in text.splitlines()} == {
        "POSTFACTA_PORT",
        "POSTFACTA_POOL_MAX_SIZE",
        "POSTFACTA_AUTH_MODE",
    }


def test_a_wrong_flag_is_named_too() -> None:
    assert refusal({}, port=70_000).startswith("POSTFACTA_PORT:")


NO_SIGN_IN: list[dict[str, str]] = [
    {"POSTFACTA_AUTH_MODE": "none", "POSTFACTA_HOST": "0.0.0.0"},  # noqa: S104 - it is refused
    {"POSTFACTA_AUTH_MODE": "none", "POSTFACTA_HOST": "::"},
    {"POSTFACTA_AUTH_MODE": "none", "POSTFACTA_HOST": "app.example"},
    {"POSTFACTA_AUTH_MODE": "none", "POSTFACTA_HOST": ""},
    {"POSTFACTA_AUTH_MODE": "none", "ENVIRONMENT": "production"},
]


def test_no_sign_in_needs_a_developers_machine_and_a_loopback_address() -> None:
    with every() as case:
        for environ in NO_SIGN_IN:
            with case(environ):
                text = refusal(environ)
                assert text.startswith(("POSTFACTA_AUTH_MODE: ", "POSTFACTA_HOST: "))


def test_no_sign_in_is_allowed_on_a_loopback_address() -> None:
    with every() as case:
        for host in ["127.0.0.1", "127.8.8.8", "::1", "localhost"]:
            with case(host):
                assert load_settings(
                    {"POSTFACTA_AUTH_MODE": "none", "POSTFACTA_HOST": host}
                ).is_loopback


def test_a_flag_cannot_open_what_the_environment_keeps_closed() -> None:
    with pytest.raises(SettingsError):
        load_settings({"POSTFACTA_AUTH_MODE": "none"}, host="0.0.0.0")  # noqa: S104 - it is refused


def test_all_origins_cannot_go_with_cookies() -> None:
    for anyone in ("*", "null"):
        given = {
            "POSTFACTA_CORS_ORIGINS": f"https://a.example, {anyone}",
            "POSTFACTA_CORS_CREDENTIALS": "true",
        }
        assert "POSTFACTA_CORS_ORIGINS: neither" in refusal(given)
    assert load_settings({"POSTFACTA_CORS_ORIGINS": "*"}).cors_origins == ("*",)
    listed = load_settings({"POSTFACTA_CORS_ORIGINS": " https://a.example ,,https://b.example"})
    assert listed.cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    "content", [None, b"\xff\xfe", "folder"], ids=["missing", "not UTF-8", "a folder"]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | str | None) -> None:
    file = tmp_path / "dsn"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        file.mkdir()
    text = refusal({"POSTFACTA_DATABASE_DSN_FILE": str(file)})
    assert text.startswith("POSTFACTA_DATABASE_DSN_FILE: cannot read")


def test_a_secrets_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refusal({"POSTFACTA_SECRETS_DIR": str(tmp_path / "gone")}).startswith(
        "POSTFACTA_SECRETS_DIR:"
    )


MAY_NOT_BE_EMPTY = [
    "POSTFACTA_METRICS_TOKEN",
    "POSTFACTA_TRAFFIC_KEY",
    "POSTFACTA_DATABASE_DSN",
    "POSTFACTA_RATE_STORE",
    "POSTFACTA_DB_KEY",
    "POSTFACTA_JWT_SECRET",
]


def test_an_empty_secret_is_refused() -> None:
    with every() as case:
        for name in MAY_NOT_BE_EMPTY:
            with case(name):
                assert refusal({name: ""}).startswith(f"{name}:")


# Supabase

PROJECT: Final = {
    "POSTFACTA_AUTH_MODE": "supabase",
    "POSTFACTA_DB_URL": "https://abc.supabase.co/",
    "POSTFACTA_DB_KEY": "sb_publishable_abc",
}


def test_a_project_is_an_address_and_a_key_and_issues_tokens_in_its_own_name() -> None:
    settings = load_settings(PROJECT)
    assert (settings.auth_mode, settings.db_url) == (AuthMode.SUPABASE, "https://abc.supabase.co")
    assert settings.issuer == "https://abc.supabase.co/auth/v1"
    other = load_settings(PROJECT | {"POSTFACTA_JWT_ISSUER": "https://id.example"})
    assert other.issuer == "https://id.example"


def test_auth_mode_supabase_needs_a_project() -> None:
    with every() as case:
        for missing in ["POSTFACTA_DB_URL", "POSTFACTA_DB_KEY"]:
            with case(missing):
                text = refusal({name: value for name, value in PROJECT.items() if name != missing})
                assert text.startswith(
                    "POSTFACTA_AUTH_MODE: `supabase` requires POSTFACTA_DB_URL and POSTFACTA_DB_KEY"
                )


NO_PROJECTS = [
    "http://abc.supabase.co",
    "http://127.0.0.1.example",
    "abc.supabase.co",
    "ftp://127.0.0.1",
    "https://",
    "https://user:secret@abc.supabase.co",
    "https://abc.supabase.co/?a=b",
    "https://abc.supabase.co#a",
    "https://abc.supabase.co:port",
    "https://abc supabase.co",
    "https://abc.supabase.co\t/a",
    "https://[",
]


def test_passwords_go_to_nothing_but_a_project_by_tls() -> None:
    with every() as case:
        for url in NO_PROJECTS:
            with case(url):
                text = refusal(PROJECT | {"POSTFACTA_DB_URL": url})
                assert text.startswith(
                    "POSTFACTA_DB_URL: is not a project URL: use https://<ref>.supabase.co"
                )
                assert "secret" not in text


def test_a_project_on_this_machine_needs_no_tls() -> None:
    with every() as case:
        for url in ["http://127.0.0.1:54321", "http://localhost:54321", "http://[::1]:1"]:
            with case(url):
                assert load_settings(PROJECT | {"POSTFACTA_DB_URL": url}).db_url == url


WEAK_SECRETS = [
    ("x", "is shorter than 32 bytes"),
    ("ä" * 15 + "x", "is shorter than 32 bytes"),
    ("super-secret-jwt-token-with-at-least-32-characters-long", "is a published example"),
    (" Super-Secret-JWT-token-with-at-least-32-characters-long", "is a published example"),
    ("your-super-secret-jwt-token-with-at-least-32-characters-long", "is a published example"),
    ("reallyreallyreallyreallyverysafe", "is a published example"),
    ("a-string-secret-at-least-256-bits-long", "is a published example"),
]


def test_a_weak_secret_for_tokens_stops_the_start_and_says_why() -> None:
    with every() as case:
        for secret, why in WEAK_SECRETS:
            with case(secret, why):
                text = refusal(PROJECT | {"POSTFACTA_JWT_SECRET": secret})
                assert text.startswith(f"POSTFACTA_JWT_SECRET: {why}")
                assert secret.strip() not in text or len(secret) == 1
                assert (
                    load_settings(PROJECT | {"POSTFACTA_JWT_SECRET": "ä" * 16}).jwt_secret
                    is not None
                )


# Rates, proxies, shedding

KINDS: Final = ("address", "read", "write")


def test_rates_are_limited_unless_this_is_a_developers_machine_and_each_may_be_set() -> None:
    production = {"ENVIRONMENT": "production"}
    assert [load_settings({}).rate(kind) for kind in KINDS] == ["", "", ""]
    assert [load_settings(production).rate(kind) for kind in KINDS] == [
        "1200/minute",
        "600/minute",
        "120/minute",
    ]
    given = {"POSTFACTA_RATE_ADDRESS": "", "POSTFACTA_RATE_READ": " 5/second;100/hour "}
    for environ in (given, given | production):
        assert [load_settings(environ).rate(kind) for kind in KINDS[:2]] == [
            "",
            "5/second;100/hour",
        ]


NO_RATES = ["600", "often", "0/minute", "-1/minute", ";", "5/minute per client", SECRET]


def test_what_is_no_rate_is_refused_with_what_to_write() -> None:
    with every() as case:
        for field, value in product(KINDS, NO_RATES):
            with case(field, value):
                name = f"POSTFACTA_RATE_{field.upper()}"
                text = refusal({name: value})
                assert text.startswith(f"{name}: is not a valid rate: use 600/minute")
                assert value not in text.replace("600/minute, or 10/second;1000/hour;", "")


def test_a_rate_that_no_clock_can_count_with_is_refused() -> None:
    assert refusal({"POSTFACTA_RATE_READ": f"{'9' * 400}/minute"}).startswith(
        "POSTFACTA_RATE_READ: "
    )
    load_settings({"POSTFACTA_RATE_READ": f"{'9' * 15}/minute"})


def test_trusted_proxies_are_networks_addresses_or_a_socket() -> None:
    assert load_settings({}).trusted_proxies == ()
    listed = load_settings({"POSTFACTA_TRUSTED_PROXIES": "10.0.0.0/8, ::1,,unix "})
    assert listed.trusted_proxies == ("10.0.0.0/8", "::1", "unix")


NO_NETWORKS = ["proxy.example", "10.0.0.300", "10.0.0.1/8", "0.0.0.0/0", "::/0", "*", SECRET]


def test_what_is_no_network_to_trust_is_named_by_its_place() -> None:
    with every() as case:
        for value in NO_NETWORKS:
            with case(value):
                text = refusal({"POSTFACTA_TRUSTED_PROXIES": f"10.0.0.0/8, {value}"})
                assert text.startswith(
                    "POSTFACTA_TRUSTED_PROXIES: entry 2 is not a valid network: use 10.0.0.0/8"
                )
                assert value not in text


def test_each_entry_that_is_no_network_is_named() -> None:
    text = refusal({"POSTFACTA_TRUSTED_PROXIES": "*, 10.0.0.0/8, proxy.example"})
    assert [line.partition(" is not")[0] for line in text.splitlines()] == [
        "POSTFACTA_TRUSTED_PROXIES: entry 1",
        "POSTFACTA_TRUSTED_PROXIES: entry 3",
    ]


NO_STORES = [
    f"valkey://:{SECRET}@127.0.0.1",
    f"async+valkey://:{SECRET}@h:port",
    f"async+valkey://:{SECRET}@[",
    f"async+memory://{SECRET}",
    SECRET,
]


def test_what_is_no_store_is_refused_and_never_shown() -> None:
    with every() as case:
        for value in NO_STORES:
            with case(value):
                with pytest.raises(SettingsError) as caught:
                    load_settings({"POSTFACTA_RATE_STORE": value})
                assert str(caught.value).startswith(
                    "POSTFACTA_RATE_STORE: is not a valid store: use async+valkey://host:6379"
                )
                assert SECRET not in repr(caught.value)
                assert caught.value.__suppress_context__


def test_shedding_is_on_and_may_only_look_on() -> None:
    assert load_settings({}).shedding is Mode.ENFORCE
    assert load_settings({"POSTFACTA_SHEDDING": "shadow"}).shedding is Mode.SHADOW
    assert refusal({"POSTFACTA_SHEDDING": "sometimes"}).startswith("POSTFACTA_SHEDDING:")


# Secrets


def test_no_secret_is_in_the_settings_as_text() -> None:
    settings = load_settings(
        {
            "POSTFACTA_DATABASE_DSN": DSN,
            "POSTFACTA_DATABASE_OWNER_DSN": DSN,
            "POSTFACTA_METRICS_TOKEN": SECRET,
            "POSTFACTA_TRAFFIC_KEY": SECRET,
            "POSTFACTA_DB_KEY": SECRET,
            "POSTFACTA_JWT_SECRET": f"{SECRET}-{SECRET}-{SECRET}",
            "POSTFACTA_RATE_STORE": f"async+valkey://:{SECRET}@127.0.0.1:6379",
        }
    )
    for text in (
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        repr(settings.model_dump()),
    ):
        assert SECRET not in text


def test_no_value_is_in_an_error_not_even_of_another_setting() -> None:
    environ = {
        "POSTFACTA_DATABASE_DSN": DSN,
        "POSTFACTA_PORT": SECRET,
        "POSTFACTA_AUTH_MODE": SECRET,
    }
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_secret_that_every_user_may_read_is_named(
    tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    files = {
        "dsn": 0o644,
        "token": 0o600,
        "secrets/postfacta_traffic_key": 0o644,
        "secrets/postfacta_jwt_secret": 0o640,
    }
    for name, mode in (*files.items(), ("secrets/log_level", 0o644)):
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(mode)
    environ = {
        "POSTFACTA_DATABASE_DSN_FILE": str(tmp_path / "dsn"),
        "POSTFACTA_METRICS_TOKEN_FILE": str(tmp_path / "token"),
        "POSTFACTA_DB_KEY_FILE": str(tmp_path / "gone"),
        "POSTFACTA_SECRETS_DIR": str(folder),
    }
    assert exposed_secrets() == []
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert exposed_secrets() == [tmp_path / "dsn", folder / "postfacta_traffic_key"]


def test_several_secrets_hold_at_once_one_a_line() -> None:
    settings = load_settings(
        {"POSTFACTA_METRICS_TOKEN": "one\ntwo\n\n", "POSTFACTA_TRAFFIC_KEY": "only"}
    )
    assert (
        settings.valid("metrics_token"),
        settings.valid("traffic_key"),
        settings.valid("jwt_secret"),
    ) == (
        ("one", "two"),
        ("only",),
        (),
    )


def test_each_of_several_jwt_secrets_is_long_enough() -> None:
    assert load_settings({"POSTFACTA_JWT_SECRET": "a" * 32 + "\n" + "b" * 32}).valid(
        "jwt_secret"
    ) == (
        "a" * 32,
        "b" * 32,
    )
    assert "shorter than 32 bytes" in refusal({"POSTFACTA_JWT_SECRET": "a" * 32 + "\nshort"})
