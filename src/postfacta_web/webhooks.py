"""Sign what is sent to a webhook, as Standard Webhooks has it.

Receivers verify it with a library of theirs: https://www.standardwebhooks.com lists them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from postfacta_core.validation import validation

_PREFIX: Final = "whsec_"
_EXAMPLE: Final = '"whsec_" and 24 to 64 random bytes in base64'
# Bytes of a secret, by the specification's section on signature schemes.
_SHORTEST: Final = 24
_LONGEST: Final = 64


def read_secret(text: str) -> bytes:
    """Return the key of a symmetric secret; `ValueError` says what is wrong, without the text."""
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(f"the secret of a webhook must be {_EXAMPLE}")
    return key


def sign(key: bytes, message_id: str, body: bytes, *, at: float) -> Mapping[str, str]:
    """Return the headers that go with a body.

    Args:
        key: What `read_secret` returned.
        message_id: The same for each attempt at the same message; without a full stop.
        body: The bytes that are sent, not one different.
        at: The time of the attempt, in seconds since 1970. Receivers refuse an old one, commonly
            after 5 minutes.
    """
    validation.text("sign.message_id", message_id, empty=False, example='"msg_7"')
    if "." in message_id:
        validation.refuse("sign.message_id", message_id, "without a full stop", example='"msg_7"')
    moment = str(int(at))
    signed = b".".join((message_id.encode(), moment.encode(), body))
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{signature}",
    }
