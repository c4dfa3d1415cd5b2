"""The project's public keys over HTTP: whatever its endpoint answers, those that were good stay."""

from __future__ import annotations

import pytest

from postfacta_app.identity.supabase import Client
from postfacta_app.settings import Rotation
from postfacta_core.guards.timeout import Timeout

from .project import FakeProject

_PATIENCE = 20.0
FAILURES = ["down", "slow", "oversized", "moved", "inflated", "", "[" * 60_000]


async def keys_from(client: Client) -> object:
    # An error keeps the keys that there are, as a set without keys does: `Jwks`.
    try:
        return (await client.key_set()).get("keys")
    except Exception:  # noqa: BLE001 - of the network, of time, of the answer
        return None


@pytest.mark.parametrize("failure", FAILURES, ids=lambda text: ascii(text[:12]))
async def test_whatever_else_the_endpoint_answers_is_no_set_of_keys(
    project: FakeProject, failure: str
) -> None:
    # A busy machine may take long to answer at once.
    bound = Timeout(0.3 if failure == "slow" else _PATIENCE)
    async with Client("jwks", Rotation(project.settings()), bound) as client:
        assert failure == "slow" or await keys_from(client)
        project.published = failure
        assert await keys_from(client) is None
    assert project.fetches == (1 if failure == "slow" else 2)
