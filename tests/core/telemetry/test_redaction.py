"""No secret that has a name or a shape gets into a record."""

from __future__ import annotations

from hypothesis import given, strategies as st

from postfacta_core.telemetry.redaction import REDACTED, redact, redact_text
from tests.kit.every import every

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJlLWhlcmU"  # gitleaks:allow - made for this test


def test_a_secrets_shape_is_known_anywhere() -> None:
    cases: list[tuple[str, str]] = [
        ("the token pf_ab12cd34_Zx9Yw8Vu7Ts6Rq5Po4Nm3Lk2Ji1Hg0 was used", "Zx9Yw8"),
        (f"jwt={JWT};", "c2lnbmF0dXJl"),
        (f"jwt={JWT};", "eyJzdWIi"),
        (f"session-{JWT}", "eyJzdWIi"),
        (f"-eyJ-{JWT}", "eyJzdWIi"),
        ("postgresql://app:hunter2@db:5432/x", "hunter2"),
        ("postgresql://app:p@ss:w0rd@db/x", "w0rd"),
        ("redis://:hunter2@cache", "hunter2"),
        ("Authorization: Bearer abcdefgh12345678", "abcdefgh"),
        ("Basic YWRtaW46aHVudGVyMg==", "YWRtaW46"),
        ("host=db user=app password=canary dbname=x", "canary"),
        ("password:canary", "canary"),
        ("sent token:canary, and failed", "canary"),
        ("GET /callback?code=1&access_token=canary&x=1", "canary"),
        ('{"email": "a@b", "password": "two canary words"}', "canary"),
        ('{"password":"canary"}', "canary"),
        (r"{\"client_secret\": \"canary\"}", "canary"),
        ("{'api_key': 'canary'}", "canary"),
        ("[(b'authorization', b'Custom canary'), (b'cookie', b'a=1; b=canary')]", "canary"),
        ("Cookie: theme=dark; postfacta=canary\nHost: x", "canary"),
        ("X-Api-Key: canary", "canary"),
        ("X-Traffic-Key: canary", "canary"),
        ("Key (token)=(canary) already exists.", "canary"),
    ]
    with every() as case:
        for text, canary in cases:
            with case(text, canary):
                for rendered in (
                    redact_text(text),
                    str(redact({"event": text, "deep": [{"er": (text, text.encode())}]})),
                ):
                    assert canary not in rendered
                    assert REDACTED in rendered


def test_a_secrets_name_is_enough() -> None:
    cases: list[str] = [
        *(
            "authorization",
            "Cookie",
            "set-cookie",
            "Set-Cookie",
            "password",
            "db_password",
            "client_secret",
        ),
        *(
            "token",
            "access_token",
            "http.request.header.authorization",
            "X-Api-Key",
            "api_key",
            "DSN",
        ),
        *("X-Traffic-Key", "private_key", "session_csrf", "passphrase"),
    ]
    with every() as case:
        for key in cases:
            with case(key):
                assert redact({"deep": {key: "canary"}, key: ["canary"]}) == {
                    "deep": {key: REDACTED},
                    key: REDACTED,
                }


def test_what_is_no_secret_stays_as_it_is() -> None:
    fields = {
        "event": "http.request",
        "status": 200,
        "duration_ms": 1.5,
        "ok": True,
        "token_count": 3,
        "url": "https://example.org/a:b@c?x=1",
        "nothing": None,
        "password": "",
        "list": ["a", {"b": "c"}],
    }
    assert redact(fields) == fields


def test_a_foreign_object_and_a_bottomless_one_hide_nothing() -> None:
    class Sly:
        def __repr__(self) -> str:
            return "<pool postgresql://app:hunter2@db/x>"

    deep: dict[str, object] = {}
    deep["deeper"] = deep
    rendered = str(redact({"pool": Sly(), "deep": deep}))
    assert "hunter2" not in rendered
    assert REDACTED in rendered


def test_a_line_of_plain_values_is_looked_through_as_a_whole_and_hides_what_one_of_them_tells() -> (
    None
):
    line = {
        "event": "http.request",
        "status": 200,
        "detail": "Bearer abcdefgh12345678",
        "note": None,
    }
    assert redact(line) == {**line, "detail": f"Bearer {REDACTED}"}
    assert redact({"event": "signed in", "password": "hunter2"})["password"] == REDACTED


def test_a_line_without_secrets_is_a_copy_of_what_was_given() -> None:
    line = {"event": "http.request", "status": 200, "sampled": True, "seconds": 0.1, "note": None}
    clean = redact(line)
    assert clean == line
    assert clean is not line


def test_to_speak_of_secrets_is_no_secret() -> None:
    cases = [
        "max_tokens=3, token_count=4",
        "    token = await self._look_up(request, secret, kinds)",
        "Authorization must be a single Bearer token",
        "Wrong e-mail or password",
        "https://example.org/tokens?sort=newest",
        'route="/api/v1/tokens/{id}"',
    ]
    with every() as case:
        for text in cases:
            with case(text):
                assert redact_text(text) == text


@given(
    st.text(),
    st.sampled_from(["password=", '"token": "', "cookie: ", "Bearer ", "pf_", "https://u:"]),
)
def test_to_redact_twice_changes_nothing_more(text: str, hint: str) -> None:
    once = redact_text(f"{text}{hint}{text}")
    assert redact_text(once) == once
