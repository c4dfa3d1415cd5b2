"""Whose tokens of a Supabase project are taken, and whose are not."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock
from uuid import UUID

import jwt
import pytest
from hypothesis import given, strategies as st

from postfacta_app.identity.supabase import Client, SupabaseAccounts
from postfacta_app.principal import Role
from postfacta_app.settings import Rotation
from postfacta_core.guards.timeout import Timeout
from postfacta_web.jwks import Jwks
from tests.kit.keys import ec_key, rsa_key

from .project import SECRET, SUB, FakeProject

if TYPE_CHECKING:
    from .conftest import Realm, World

Json = dict[str, Any]


# Who gets in


@pytest.mark.parametrize("by", ["ES256", "RS256", "HS256"])
async def test_a_token_is_accepted_and_the_first_one_creates_a_viewer(
    realm: Realm, by: str
) -> None:
    realm.project.keys = [ec_key("ES256"), rsa_key("RS256")]
    key = {key.kid: key for key in realm.project.keys}.get(by, SECRET)
    # The project names its old secret too, since it has others.
    header = {"kid": "legacy"} if key is SECRET else None
    answers = [await realm.get(realm.token(by=key, header=header)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    me = answers[0].json()
    assert (me["name"], me["role"], me["scopes"]) == ("ada", "viewer", [])
    assert me == answers[1].json()
    assert await realm.people() == [
        {
            "external_sub": f"{realm.project.issuer} {SUB}",
            "email": "ada@example.org",
            "display_name": "ada",
            "role": "viewer",
            "password_hash": None,
        }
    ]
    audit = await realm.world.database.fetch(
        "select action, object from audit_log", operation="test"
    )
    assert [tuple(row) for row in audit] == [("user.create", me["actor"])]


SEEDS: list[tuple[Json, str]] = [
    ({"postfacta_role": "responder"}, "responder"),
    ({"postfacta_role": "admin"}, "responder"),
    ({"postfacta_role": "viewer"}, "viewer"),
    ({"postfacta_role": "Responder"}, "viewer"),
    ({"postfacta_role": ["responder"]}, "viewer"),
    ({"postfacta_role": {"admin": True}}, "viewer"),
    ({}, "viewer"),
]


async def test_the_projects_administrators_may_seed_a_role_and_never_ours(realm: Realm) -> None:
    # What everybody may write into his own account says admin, in every token of these tests.
    for number, (metadata, role) in enumerate(SEEDS):
        token = realm.token(app_metadata=metadata, sub=str(UUID(int=number)))
        assert (await realm.get(token)).json()["role"] == role, metadata


async def test_after_the_first_sign_in_only_our_role_counts(realm: Realm) -> None:
    first = await realm.get(realm.token())
    assert first.json()["role"] == "viewer"
    realm.world.pass_time(11)
    later = realm.token(app_metadata={"postfacta_role": "responder"})
    assert (await realm.get(later)).json()["role"] == "viewer"
    await realm.world.database.execute("update users set role = 'admin'", operation="test")
    realm.world.pass_time(11)
    assert (await realm.get(later, "/admin")).status_code == 200


async def test_an_e_mail_address_is_nobodys_identity(realm: Realm) -> None:
    local = await realm.world.person("ada@example.org", Role.ADMIN)
    me = (await realm.get(realm.token())).json()
    assert (me["role"], me["actor"] == f"user:{local.id}") == ("viewer", False)
    other = UUID(int=7)
    assert (await realm.get(realm.token(sub=str(other)))).json()["actor"] != me["actor"]
    moved = await realm.get(realm.token(email="new@example.org"))
    assert moved.json()["actor"] == me["actor"]
    assert len(await realm.people()) == 3


@pytest.mark.parametrize("email", [None, ""])
async def test_who_has_no_address_gets_in_too(realm: Realm, email: str | None) -> None:
    assert (await realm.get(realm.token(email=email, phone="4912345"))).json()["name"] == str(SUB)
    assert "4912345" not in str(await realm.people())


# Who does not


# The eight of the design, each signed as the project would, or as a forger could.
EIGHT: dict[str, Callable[[Realm], str]] = {
    "anon key": lambda it: jwt.encode(
        {
            "iss": "supabase",
            "ref": "abc",
            "role": "anon",
            "iat": it.world.wall,
            "exp": it.world.wall + 9e8,
        },
        SECRET,
    ),
    "service_role": lambda it: it.token(by=SECRET, role="service_role"),
    "anonymous": lambda it: it.token(is_anonymous=True, email=""),
    "other issuer": lambda it: it.token(iss="https://other.supabase.co/auth/v1"),
    "no exp": lambda it: it.token(exp=None),
    "expired": lambda it: it.token(iat=it.world.wall - 3700, exp=it.world.wall - 31),
    "confused algorithm": lambda it: _by_hand(it, it.project.keys[0].pem),
    "wrong aud": lambda it: it.token(aud="anon"),
}


def _by_hand(realm: Realm, secret: bytes | None = None, **header: object) -> str:
    """Sign what libraries refuse to: with a public key for a secret, or under a strange header."""
    algorithm, key = ("HS256", secret) if secret else ("ES256", realm.project.keys[0].private)
    said = {"typ": "JWT", "alg": algorithm, "kid": "first"} | header
    signed = f"{_text(said)}.{_text(realm.project.claims(realm.world.wall))}"
    signature = jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), key)
    return f"{signed}.{_base64(signature)}"


def _text(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unsigned(realm: Realm) -> str:
    said = {"typ": "JWT", "alg": "none", "kid": "first"}
    return f"{_text(said)}.{_text(realm.project.claims(realm.world.wall))}."


CLAIMS: dict[str, Callable[[Realm], str]] = {
    "service_role by its own claims": lambda it: jwt.encode(
        {
            "iss": "supabase",
            "ref": "abc",
            "role": "service_role",
            "iat": 1,
            "exp": it.world.wall + 9e8,
        },
        SECRET,
    ),
    "several audiences": lambda it: it.token(aud=["authenticated", "anon"]),
    "no aud": lambda it: it.token(aud=None),
    "no iss": lambda it: it.token(iss=None),
    "issuer with a slash": lambda it: it.token(iss=it.project.issuer + "/"),
    "no iat": lambda it: it.token(iat=None),
    "no sub": lambda it: it.token(sub=None),
    "no role": lambda it: it.token(role=None),
    "sub is no UUID": lambda it: it.token(sub="root"),
    "from the future": lambda it: it.token(iat=it.world.wall + 31),
    "not yet": lambda it: it.token(nbf=it.world.wall + 31),
    "exp is a text": lambda it: it.token(exp="2999999999"),
    "exp is true": lambda it: it.token(exp=True),
    "exp beyond all time": lambda it: it.token(exp=1e300),
    "e-mail is a list": lambda it: it.token(email=["ada@example.org"]),
    "too long": lambda it: it.token(user_metadata={"about": "x" * 8192}),
}
SIGNATURES: dict[str, Callable[[Realm], str]] = {
    "unsigned": _unsigned,
    "another's key of the same name": lambda it: it.token(by=ec_key("first")),
    "another's secret": lambda it: it.token(by=SECRET + "!"),
    "no key's name": lambda it: _by_hand(it, kid=None),
    "unknown key": lambda it: it.token(header={"kid": "none of theirs"}),
    "long key's name": lambda it: it.token(header={"kid": "k" * 200}),
    "a key's name of 7": lambda it: _by_hand(it, kid=7),
    "algorithms": lambda it: _by_hand(it, alg=["ES256", "HS256"]),
    "no algorithm": lambda it: _by_hand(it, alg=None),
    "ES256 said of the secret": lambda it: _by_hand(it, alg="HS256"),
    "unknown extension": lambda it: _by_hand(it, crit=["x"], x=1),
    "detached": lambda it: _by_hand(it, b64=False, crit=["b64"]),
    "deep": lambda it: f"{_base64(b'[' * 5000)}.e30.AA",
    "cut": lambda it: it.token()[:-8],
    "two parts": lambda it: it.token().rpartition(".")[0],
}


@pytest.mark.parametrize("by", [None, SECRET], ids=["ES256", "HS256"])
async def test_an_invalid_token_is_refused_and_creates_no_account(
    realm: Realm, by: str | None
) -> None:
    realm.project.signs_by = by
    for name, forge in (EIGHT | CLAIMS | ({} if by else SIGNATURES)).items():
        answer = await realm.get(forge(realm))
        assert answer.status_code == 401, name
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert await realm.people() == []
    assert (await realm.get(realm.token())).status_code == 200


async def test_without_a_secret_nothing_is_signed_by_one(
    world: World, project: FakeProject
) -> None:
    settings = project.settings(jwt_secret=None)
    asked = Client("gotrue", Rotation(settings), Timeout(20))
    accounts = SupabaseAccounts(
        Rotation(settings), asked, _no_keys(), world.transactions, clock=lambda: world.wall
    )
    client, _ = world.instance(settings, accounts)
    async with client:
        for secret in (SECRET, "None" * 8):
            token = project.token(world.wall, by=secret)
            answer = await client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 401


def _no_keys() -> Jwks:
    async def fetch() -> Any:
        raise AssertionError("a token by a secret needs no public key")

    return Jwks(fetch)


async def test_times_are_compared_with_half_a_minute_to_spare(realm: Realm) -> None:
    wall = realm.world.wall
    for token in (
        realm.token(exp=wall - 29),
        realm.token(iat=wall + 29),
        realm.token(nbf=wall + 29),
    ):
        assert (await realm.get(token)).status_code == 200


async def test_a_token_ends_with_its_time_also_when_it_was_trusted_before(realm: Realm) -> None:
    token = realm.token(exp=realm.world.wall + 5)
    assert (await realm.get(token)).status_code == 200
    realm.world.pass_time(34.9)
    assert (await realm.get(token)).status_code == 200
    realm.world.pass_time(0.1)
    assert (await realm.get(token)).status_code == 401


async def test_disabling_an_account_here_works_at_once_here_and_within_ten_seconds_elsewhere(
    realm: Realm,
) -> None:
    elsewhere, _ = realm.world.instance(realm.project.settings(), realm.accounts)
    token, root = realm.token(), realm.token(sub=str(UUID(int=1)), email="root@example.org")
    await realm.get(root)
    await realm.world.database.execute("update users set role = 'admin'", operation="test")
    realm.world.pass_time(11)
    header = {"Authorization": f"Bearer {token}"}
    user = (await realm.get(token)).json()["actor"].removeprefix("user:")
    async with elsewhere:
        assert (await elsewhere.get("/api/v1/me", headers=header)).status_code == 200
        answer = await realm.client.patch(
            f"/api/v1/users/{user}",
            json={"disabled": True},
            headers={"Authorization": f"Bearer {root}", "If-Match": "*"},
        )
        assert answer.status_code == 200, answer.text
        assert (await realm.get(token)).status_code == 401
        realm.world.pass_time(10)
        assert (await elsewhere.get("/api/v1/me", headers=header)).status_code == 401
    # Another token of the same person is no way back.
    assert (await realm.get(realm.token(session_id="another"))).status_code == 401


async def test_our_own_tokens_and_sessions_are_good_too_and_theirs_are_no_cookie(
    realm: Realm,
) -> None:
    ada = await realm.world.person("ada@example.org", Role.ADMIN)
    cookie, bearer = await realm.world.cookie(ada), await realm.world.login("ada@example.org")
    body = {"name": "ci", "scopes": ["incidents:read"]}
    made = await realm.client.post("/api/v1/tokens", headers=bearer, json=body)
    assert (await realm.get(made.json()["secret"])).json()["scopes"] == ["incidents:read"]
    assert (await realm.client.get("/api/v1/me", headers=cookie)).json()[
        "actor"
    ] == f"user:{ada.id}"
    answer = await realm.client.get("/who", headers={"Cookie": f"postfacta={realm.token()}"})
    assert answer.json()["actor"] == "nobody"
    assert [person["external_sub"] for person in await realm.people()] == [None]


async def test_in_local_mode_their_tokens_prove_nothing(world: World, project: FakeProject) -> None:
    header = {"Authorization": f"Bearer {project.token(world.wall, by=SECRET)}"}
    assert (await world.client.get("/api/v1/me", headers=header)).status_code == 401


# When the keys are away


@pytest.mark.parametrize("failure", ["down", '{"keys": []}', "", "oversized"], ids=ascii)
async def test_who_signed_in_goes_on_for_a_day_without_the_endpoint_of_the_keys(
    realm: Realm, failure: str
) -> None:
    assert (await realm.get(realm.token())).status_code == 200
    realm.project.published = failure
    for _ in range(3):
        realm.world.pass_time(8 * 3600 - 1)
        assert (await realm.get(realm.token())).status_code == 200


async def test_without_keys_for_a_day_it_is_our_fault_and_nobodys_who_asks(
    realm: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await realm.get(realm.token())).status_code == 200
    realm.project.published = "down"
    realm.world.pass_time(86_400)
    with pytest.raises(Exception, match="jwks"):
        await realm.get(realm.token())
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "jwks.failed"
    ]
    # Who signs by the secret needs none.
    assert (await realm.get(realm.token(by=SECRET))).status_code == 200


async def test_a_rotation_is_noticed_by_the_first_token_of_the_new_key(realm: Realm) -> None:
    old = realm.token()
    assert (await realm.get(old)).status_code == 200
    realm.project.keys = [ec_key("second")]
    realm.world.pass_time(30)
    assert (await realm.get(realm.token())).status_code == 200
    assert (await realm.get(old)).status_code == 401


# Anything else


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_for_a_token_are_more_than_refused(given_bytes: bytes) -> None:
    project = FakeProject(url="https://abc.supabase.co")
    accounts = SupabaseAccounts(Rotation(project.settings()), Mock(), _no_keys(), Mock())
    text = given_bytes.decode("latin-1")
    for token in (text, f"{text}.{text}.{text}", f"e30.{text}.", f"{_base64(given_bytes)}.e30.AA"):
        assert asyncio.run(accounts.credential(None, token)) is None  # type: ignore[arg-type]
