"""What is secret does not get through, at any depth, and what is not stays as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from postfacta_app.settings import Settings
from postfacta_app.signals.intake import Intake

SECRET = "s3cr3t-0f-a-test"  # noqa: S105 - of nobody
without_secrets = Intake(Settings.model_validate({"secret_keys": ("license-code",)})).clean
NAMES = [
    "password", "Password", "db_password", "dbPassword", "authorization", "Authorization", "token", "accessToken",
    "X-Auth-Token", "secret", "client-secret", "clientSecret", "api_key", "apiKey", "cookie",
    "license_code", "License-Code", "licenseCode",
]  # fmt: skip
HARMLESS = ["tokenizer", "title", "author", "secretary", "monkey", "keyboard", "passwordless", ""]

inside = st.recursive(
    st.just(SECRET) | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def wrapped(value: object, path: list[str | None]) -> Any:
    for step in path:
        value = [1, value] if step is None else {step: value, "other": 1}
    return value


@given(
    st.sampled_from(NAMES),
    inside,
    st.lists(st.none() | st.sampled_from(["a", "payload", "title"]), max_size=40),
)
def test_a_secret_key_hides_all_that_it_holds_however_deep_it_lies(
    name: str, value: Any, path: list[str | None]
) -> None:
    clean = without_secrets(wrapped({name: value, "kept": "here"}, path))
    written = json.dumps(clean)
    assert SECRET not in written
    assert written.count('"here"') == 1
    assert without_secrets(clean) == clean


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc xyz"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(HARMLESS), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(plain)
def test_what_is_not_secret_stays_as_it_is(value: Any) -> None:
    assert repr(without_secrets(value)) == repr(value)


@pytest.mark.parametrize(
    "text",
    [
        f"curl -H 'Authorization: Bearer {SECRET}'",
        f"https://user:{SECRET}@example.org/",
        f"password={SECRET}",
        f"pf_{SECRET}",
    ],
)
def test_a_secret_in_a_text_is_known_by_its_shape(text: str) -> None:
    assert SECRET not in json.dumps(without_secrets({"body": ["see", text]}))
