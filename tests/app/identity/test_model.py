"""The rules of accounts and tokens, without a database."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from postfacta_app.errors import InvalidFieldsError
from postfacta_app.identity.model import (
    Credential,
    Credentials,
    Kind,
    NewToken,
    NewUser,
    Registration,
    UserChange,
)
from postfacta_app.principal import Principal, Role
from postfacta_app.web.body import parse
from tests.kit.every import every

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HASH = bytes(32)


def credential(kind: Kind = Kind.BEARER, *, age: timedelta = timedelta(hours=1)) -> Credential:
    return Credential(
        id=uuid4(),
        kind=kind,
        secret_sha256=HASH,
        principal=Principal(actor="user:1", name="Ada", role=Role.VIEWER),
        created_at=NOW - age,
        last_used_at=None,
        expires_at=NOW - age + timedelta(days=7),
    )


def test_a_good_token_proves_something_only_with_its_own_secret() -> None:
    assert credential().outcome(HASH, NOW) == "ok"
    assert credential().outcome(b"\1" * 32, NOW) != "ok"


def test_a_revoked_token_or_a_disabled_owner_proves_nothing() -> None:
    assert replace(credential(), revoked_at=NOW).outcome(HASH, NOW) != "ok"
    assert replace(credential(), disabled_at=NOW).outcome(HASH, NOW) != "ok"


def test_a_token_ends_at_its_expiry_and_not_before() -> None:
    token = credential()
    assert token.outcome(HASH, token.expires_at - timedelta(microseconds=1)) == "ok"
    assert token.outcome(HASH, token.expires_at) != "ok"


def test_a_session_ends_after_twelve_idle_hours_and_a_bearer_token_does_not() -> None:
    twelve = timedelta(hours=12)
    assert credential(Kind.SESSION, age=twelve - timedelta(seconds=1)).outcome(HASH, NOW) == "ok"
    assert credential(Kind.SESSION, age=twelve).outcome(HASH, NOW) != "ok"
    assert credential(Kind.BEARER, age=twelve).outcome(HASH, NOW) == "ok"
    assert (
        replace(credential(Kind.SESSION, age=twelve), last_used_at=NOW).outcome(HASH, NOW) == "ok"
    )


POOR = [
    ("ada@example.org", "x" * 11),
    ("ada@example.org", "x" * 129),
    ("ada@example.org", "Ada@Example.org"),
    ("ada", "x" * 12),
    ("ada@", "x" * 12),
    ("a da@example.org", "x" * 12),
    ("ada@example.org\n", "ada@example.org"),
    ("a@b@c", "x" * 12),
    ("a" * 310 + "@example.org", "x" * 12),
]


def test_a_poor_password_or_what_is_no_address_is_refused() -> None:
    with every() as case:
        for email, password in POOR:
            with case(email, password), pytest.raises(InvalidFieldsError):
                parse(Registration, {"email": email, "password": password})


def test_an_address_is_one_however_it_is_written_and_names_its_owner() -> None:
    new = parse(NewUser, {"email": " Ada@Example.ORG ", "password": "correct horse battery"})
    assert (new.email, new.name, new.role) == ("ada@example.org", "ada", "viewer")
    sent = parse(Credentials, {"email": "ADA@example.org", "password": ""})
    assert sent.email == "ada@example.org"


def test_what_the_database_cannot_hold_is_no_address_to_sign_in_with() -> None:
    with pytest.raises(InvalidFieldsError):
        parse(Credentials, {"email": "ada\0@example.org", "password": "x"})


def test_an_address_has_no_control_character_as_its_pattern_says_to_clients() -> None:
    # In the patterns of JSON Schema, U+0085 is no white space; in Python's it is.
    pattern = Registration.model_json_schema()["properties"]["email"]["pattern"]
    assert re.search(pattern.replace(r"\s", " "), "a\x85b@example.org") is None
    with pytest.raises(InvalidFieldsError):
        parse(Registration, {"email": "a\x85b@example.org", "password": "correct horse battery"})


# As sent each matches the pattern: its normal form has white space, two `@`, or 18 times the letters.
NOT_NORMAL = ["a\xa8b@example.org", "a\uff20b@example.org", "\ufdfa" * 20 + "@example.org"]


def test_an_address_whose_normal_form_is_none_is_refused_with_the_reason() -> None:
    with every() as case:
        for email in NOT_NORMAL:
            with case(email), pytest.raises(InvalidFieldsError) as refused:
                parse(Registration, {"email": email, "password": "x" * 12})
            (error,) = refused.value.errors
            assert (error.code, error.message) == (
                "value_error",
                "must be an address in its normal form (NFKC), too",
            )


def test_a_password_needs_length_and_no_other_rule() -> None:
    assert parse(Registration, {"email": "a@b", "password": "            "}).password == " " * 12
    assert parse(Registration, {"email": "a@b", "password": "é" * 128}).password == "é" * 128


WRONG_SOURCES: list[tuple[list[str], str | None]] = [
    ([], None),
    (["signals:write"], None),
    (["incidents:read"], "ci"),
    (["signals:write"], "human"),
    (["signals:write"], "CI"),
    (["users:write"], None),
    (["incidents:read", "signals:write"], None),
]


def test_a_token_writes_signals_of_exactly_one_source() -> None:
    with every() as case:
        for scopes, source in WRONG_SOURCES:
            with case(scopes, source), pytest.raises(InvalidFieldsError):
                parse(NewToken, {"name": "ci", "scopes": scopes, "source": source})


def test_a_token_may_have_several_scopes() -> None:
    new = parse(
        NewToken, {"name": "ci", "scopes": ["signals:write", "incidents:read"], "source": "ci"}
    )
    assert sorted(new.scopes) == ["incidents:read", "signals:write"]


def test_null_is_no_role() -> None:
    with pytest.raises(InvalidFieldsError):
        parse(UserChange, {"role": None})


def test_look_alikes_of_an_address_are_refused() -> None:
    cases = {
        "cyrillic o": "ro\u043et@example.org",
        "greek o in the host": "root@ex\u03b1mple.org",
        "zero width space": "ro\u200bot@example.org",
        "zero width joiner": "root\u200d@example.org",
        "soft hyphen": "ro\u00adot@example.org",
        "right to left": "root\u202e@example.org",
        "unassigned": "root\u0378@example.org",
        "private use": "root\ue000@example.org",
    }
    with every() as case:
        for name, email in cases.items():
            with case(name), pytest.raises(InvalidFieldsError):
                parse(NewUser, {"email": email, "password": "correct horse battery"})


def test_an_address_has_one_form_when_stored_and_when_sought() -> None:
    cases = {
        "\uff32oot@example.org": "root@example.org",  # full width
        "\ufb01n@example.org": "fin@example.org",  # a ligature
        "e\u0301ve@example.org": "\u00e9ve@example.org",
        "\u0130nci@example.org": "i\u0307nci@example.org",
        "\u0399\u03a9@example.org": "\u03b9\u03c9@example.org",
        "\u6c34\u307f\u30ba@example.org": "\u6c34\u307f\u30ba@example.org",  # the scripts of Japanese
        "ada.\u0438\u0432\u0430\u043d@example.org": "ada.\u0438\u0432\u0430\u043d@example.org",
    }
    with every() as case:
        for given, email in cases.items():
            with case(given):
                stored = parse(NewUser, {"email": given, "password": "correct horse battery"})
                sought = parse(Credentials, {"email": given, "password": "x"})
                assert stored.email == sought.email == email
