"""Alertmanager's notifications are stored once, and nothing it may retry is answered in a way that makes it give up."""

from __future__ import annotations

import json

import httpx2
import pytest

from postfacta_core.clock import MONOTONIC
from postfacta_core.limits._growth import Growth
from postfacta_core.limits._overload import Ending, OverloadLimiter
from postfacta_core.limits._waiting import Admit, Priority
from tests.app.live import Service, in_process
from tests.app.signals.conftest import ALERTMANAGER, SIGNALS, Body, Headers, get, recorded
from tests.app.signals.test_http import counted

EVERY = ["firing", "firing-other-replica", "changed-annotations", "truncated", "resolved"]


async def notify(service: Service, headers: Headers, body: object) -> httpx2.Response:
    return await service.client.post(ALERTMANAGER, json=body, headers=headers)


async def words(service: Service, headers: Headers, body: Body) -> list[str]:
    answer = await notify(service, headers, body)
    assert answer.status_code == 200, answer.text
    return [it["result"] for it in answer.json()["results"]]


async def test_what_a_pair_sends_again_and_again_is_stored_once(service: Service) -> None:
    headers = await service.machine("signals:write", source="alertmanager")
    first = [await words(service, headers, recorded(name)) for name in EVERY]
    assert first == [
        ["created"],
        ["duplicate"],
        ["duplicate"],
        ["created"] * 2,
        ["duplicate", "created"],
    ]
    before = await service.rows()
    for name in EVERY:
        assert set(await words(service, headers, recorded(name))) == {"duplicate"}
    assert await service.rows() == before
    reader = await service.as_role("viewer")
    page = (
        await get(service, f"{SIGNALS}?source=alertmanager&service=checkout-api", reader)
    ).json()
    assert [it["kind"] for it in page["items"]] == ["alert_resolved", "alert_firing"]
    read = (await get(service, f"{SIGNALS}/{page['items'][1]['id']}", reader)).json()
    # As it was first seen.
    assert (read["body"], read["conflicts"]) == ("The burn rate is 14.4.", [])


async def test_a_firing_that_comes_after_its_end_adds_nothing(service: Service) -> None:
    headers = await service.machine("signals:write", source="late")
    assert await words(service, headers, recorded("resolved")) == ["created", "created"]
    assert await words(service, headers, recorded("firing")) == ["duplicate"]


async def test_what_was_left_out_is_warned_of_and_counted(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn) as service:
        headers = await service.machine("signals:write")
        answers = [
            await notify(service, headers, recorded(name))
            for name in ("truncated", "firing", "truncated")
        ]
        assert [len(answer.json()["warnings"]) for answer in answers] == [1, 0, 1]
        assert "3 alerts" in answers[0].json()["warnings"][0]
        assert await counted(service, "postfacta_alertmanager_truncated_total") == {(): 2}


async def test_an_invalid_alert_is_rejected_and_the_others_are_stored(service: Service) -> None:
    headers = await service.machine("signals:write", source="mixed")
    body = recorded("truncated")
    body["alerts"].insert(1, {"status": "firing"})
    answer = (await notify(service, headers, body)).json()
    assert [it["result"] for it in answer["results"]] == ["created", "rejected", "created"]
    assert [it["index"] for it in answer["results"]] == [0, 1, 2]
    assert {error["pointer"] for error in answer["results"][1]["errors"]} == {
        "/labels",
        "/fingerprint",
        "/startsAt",
    }
    assert (await notify(service, headers, body | {"alerts": [None]})).status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"version": "3", "alerts": []}'])
async def test_a_body_that_is_no_notification_is_the_callers_fault(
    service: Service, content: bytes
) -> None:
    headers = await service.machine("signals:write", source="broken")
    answer = await service.client.post(ALERTMANAGER, content=content, headers=headers)
    assert answer.status_code in {400, 422}


async def test_no_content_type_is_asked_for(service: Service) -> None:
    headers = await service.machine("signals:write", source="untyped")
    answer = await service.client.post(
        ALERTMANAGER, content=json.dumps(recorded("firing")), headers=headers
    )
    assert answer.status_code == 200


async def test_a_token_over_its_rate_gets_503_with_retry_after(shared_app_dsn: str) -> None:
    async with in_process(shared_app_dsn, rate_ingest="2/hour") as service:
        headers = await service.machine("signals:write", source="eager")
        answers = [await notify(service, headers, recorded("firing")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 503]
        assert answers[-1].json()["type"] == "/problems/overloaded"
        assert 1000 <= int(answers[-1].headers["Retry-After"]) <= 2000


async def test_an_address_over_its_rate_gets_503_here_and_429_elsewhere(
    shared_app_dsn: str,
) -> None:
    async with in_process(shared_app_dsn, rate_address="100/hour") as service:
        headers = await service.machine("signals:write", source="loud")
        # Before anybody looks at the token, so that to guess one is limited too.
        wrong = {"Authorization": f"Bearer {'x' * 43}"}
        statuses = [(await notify(service, wrong, {})).status_code for _ in range(110)]
        assert set(statuses[:100]) == {401}
        refused = await notify(service, headers, recorded("firing"))
        assert (refused.status_code, statuses[-1]) == (503, 503)
        assert int(refused.headers["Retry-After"]) >= 1
        # What is asked for elsewhere is another budget.
        others = [
            (await service.client.get("/api/v1/me", headers=headers)).status_code
            for _ in range(110)
        ]
        assert (others[0], others[-1]) == (200, 429)


async def test_under_overload_it_gets_503_before_writes(
    shared_app_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harmed(*_: object) -> bool:
        return False

    monkeypatch.setattr(Growth, "may_grow", harmed)
    async with in_process(shared_app_dsn) as service:
        headers = await service.machine("signals:write", source="flood")
        limiter, held = service.app.shedding.limiter, list[float]()
        vars(OverloadLimiter)["_set_limit"](limiter, 16.0)
        try:
            while limiter.in_flight < 0.9 * limiter.limit:
                held.append(MONOTONIC())
                assert isinstance(limiter.arrive(Priority.CRITICAL, held[-1], luck=0.5), Admit)
            assert (await notify(service, headers, recorded("firing"))).status_code == 503
            await service.record(await service.as_role("responder"))
        finally:
            for admitted in held:
                limiter.finish(MONOTONIC(), admitted, Ending.UNKNOWN)


async def test_the_document_promises_no_429_there(service: Service) -> None:
    paths = (await service.client.get("/openapi.json")).json()["paths"]
    assert "429" not in paths[ALERTMANAGER]["post"]["responses"]
    assert "503" in paths[ALERTMANAGER]["post"]["responses"]
    assert "429" in paths[SIGNALS]["post"]["responses"]
