"""A signature is the one that libraries of Standard Webhooks make and verify."""

from __future__ import annotations

import base64

import pytest

from postfacta_web.webhooks import read_secret, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - a published example
# Signed by standardwebhooks 1.3.0.
SENT = "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_a_signature_is_that_of_the_reference_library() -> None:
    headers = sign(read_secret(SECRET), SENT, b'{"test": 2432232314}', at=1614265330.9)
    assert headers == {
        "webhook-id": SENT,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_part_is_signed() -> None:
    key = read_secret(SECRET)
    signatures = {
        sign(key, "a", b"x", at=1)["webhook-signature"],
        sign(key, "b", b"x", at=1)["webhook-signature"],
        sign(key, "a", b"y", at=1)["webhook-signature"],
        sign(key, "a", b"x", at=2)["webhook-signature"],
        sign(key[::-1], "a", b"x", at=1)["webhook-signature"],
    }
    assert len(signatures) == 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        SECRET.removeprefix("whsec_"),
        "whsec_",
        "whsec_!" + "A" * 43,
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
    ],
)
def test_another_secret_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match='must be "whsec_" and 24 to 64 random bytes') as refused:
        read_secret(text)
    assert "hunter2" not in str(refused.value)


def test_an_id_with_a_full_stop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sign\.message_id"):
        sign(b"x" * 24, "a.b", b"", at=1)
