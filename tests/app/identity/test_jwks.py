"""The project's public keys over HTTP: whatever its endpoint answers, those that were good stay."""

from __future__ import annotations

import anyio
import pytest

from postfacta_app.identity.supabase import Client
from postfacta_app.settings import Rotation
from postfacta_core.errors import RejectedError
from postfacta_core.guards.timeout import Timeout
from postfacta_core.testing import ManualClock
from postfacta_web.jwks import Jwks

from .project import FakeProject

DAY = 86_400
_PATIENCE = 20.0
FAILURES = [
    "down",
    "slow",
    "oversized",
    "moved",
    "inflated",
    "",
    "[]",
    "{}",
    '{"keys": 1}',
    "[" * 60_000,
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda text: ascii(text[:12]))
async def test_whatever_the_endpoint_does_the_last_good_keys_hold_for_a_day(
    project: FakeProject, failure: str
) -> None:
    settings, clock = project.settings(), ManualClock()
    # A busy machine may take long to answer at once.
    bound = Timeout(0.3 if failure == "slow" else _PATIENCE)
    async with (
        Client("patient", Rotation(settings), Timeout(_PATIENCE)) as patient,
        Client("jwks", Rotation(settings), bound) as client,
    ):

        async def fetch() -> object:
            return await (patient if project.published is None else client).key_set()

        jwks = Jwks(fetch, timeout=_PATIENCE, clock=clock)

        async def fetched(times: int) -> None:
            with anyio.fail_after(_PATIENCE):
                while project.fetches < times or jwks.is_fetching:
                    await anyio.sleep(0.002)
            assert project.fetches == times

        async with jwks.running():
            await fetched(1)
            project.published = failure
            for times, past in ((2, 600), (3, DAY - 601)):
                clock.advance(past)
                assert await jwks.key("first") is not None
                await fetched(times)
            clock.advance(1)
            with pytest.raises(RejectedError) as caught:
                await jwks.key("first")
            assert caught.value.retry_after is not None
            project.published = None
            clock.advance(30)
            assert await jwks.key("first") is not None
