"""What a viewer, a responder and a token can do to each other's evidence, and learn of a private incident."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

import anyio
import httpx2
import pytest

from tests.app.live import NEW, PATCH_JSON, Service, in_process
from tests.kit.every import every

SIGNALS = "/api/v1/signals"
SECRET = "whisper-51c7"  # noqa: S105 - nothing but a word


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


async def ingest(
    service: Service, headers: dict[str, str], *items: dict[str, Any], **more: object
) -> Any:
    answer = await service.client.post(SIGNALS, json={"items": items, **more}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def signal(number: int, **fields: object) -> dict[str, Any]:
    return {"kind": "note", "title": "Evidence", "id": str(number), **fields}


# A responder who wants evidence to vanish


async def test_a_responder_hides_no_evidence(service: Service) -> None:
    machine = await service.machine("signals:write", source="alerts")
    victim, attacker = await service.as_role("responder"), await service.as_role("responder")
    told = await ingest(service, machine, *(signal(number) for number in range(20)))
    ids = [it["signal_id"] for it in told]
    outage = await service.record(victim, title="The outage")
    own = await service.record(attacker, title="A cover", visibility="private")
    path = "/api/v1/incidents/{}/signals"
    await service.client.post(path.format(outage["id"]), json={"ids": ids[:10]}, headers=victim)
    await service.client.post(path.format(own["id"]), json={"ids": ids}, headers=attacker)
    for one in ids[:5]:
        await service.client.delete(f"{path.format(outage['id'])}/{one}", headers=attacker)
    # Again as new evidence of the cover: by the attacker's key, and by none.
    await ingest(
        service,
        attacker,
        *(signal(number, source="alerts") for number in range(20)),
        incident=own["id"],
    )
    for reader in (
        victim,
        await service.as_role("viewer"),
        await service.machine("incidents:read"),
    ):
        listed = await service.client.get(f"{SIGNALS}?source=alerts&limit=200", headers=reader)
        assert {it["id"] for it in listed.json()["items"]} == set(ids)
        for one in ids:
            assert (await service.client.get(f"{SIGNALS}/{one}", headers=reader)).status_code == 200


# Whoever guesses keys, ids and contents


@pytest.mark.parametrize("who", ["responder", "writing token"])
async def test_guessing_finds_no_private_signal(service: Service, who: str) -> None:
    owner = await service.as_role("responder")
    private = await service.record(owner, title=f"Hush {SECRET}", visibility="private")
    hidden = [signal(number, title=SECRET, source=f"vault-{who[:4]}") for number in range(5)]
    known = {
        it["signal_id"] for it in await ingest(service, owner, *hidden, incident=private["id"])
    }
    attacker = (
        await service.as_role("responder")
        if who == "responder"
        else await service.machine(
            "incidents:read", "incidents:write", "signals:write", source=f"vault-{who[:4]}"
        )
    )
    by_content = [{name: text for name, text in one.items() if name != "id"} for one in hidden]
    paths = [f"INC-{private['number']}/vault", f"inc-{private['number']}/vault"]
    by_path = [one | {"source": path} for one in hidden for path in paths]
    for guesses in (hidden, by_content, by_path):
        for told in await ingest(service, attacker, *guesses):
            assert told["signal_id"] not in known
            assert (
                told["result"] in {"created", "rejected"} or told["index"] > 0
            )  # its own, sent twice
    attached = await service.client.post(
        f"/api/v1/incidents/{(await service.record(attacker))['id']}/signals",
        json={"ids": [*known, str(UUID(int=7))]},
        headers=attacker,
    )
    assert {it["result"] for it in attached.json()["results"]} == {"unknown"}
    listed = await service.client.get(f"{SIGNALS}?limit=200", headers=attacker)
    assert not {it["id"] for it in listed.json()["items"]} & known


# Whoever was a member once


async def member_who_left(service: Service) -> list[httpx2.Response]:
    """Write as a member with keys, lose the membership, and send the same again."""
    person = await service.person("responder")
    headers, admin = await service.bearer(person), await service.as_role("admin")
    secret = {**NEW, "title": SECRET, "visibility": "private"}

    async def send(path: str, body: dict[str, Any], key: str) -> httpx2.Response:
        return await service.client.post(
            path, json=body, headers=headers | {"Idempotency-Key": key}
        )

    made = (await send("/api/v1/incidents", secret, "make")).json()
    one = f"/api/v1/incidents/{made['id']}"
    other = await service.record(headers, title="Open to all")
    writes: list[tuple[str, dict[str, Any], str]] = [
        ("/api/v1/incidents", secret, "make"),
        (f"{one}/transitions", {"to": "IN_PROGRESS"}, "move"),
        (f"{one}/transitions", {"to": "IN_PROGRESS"}, "move-again"),
        (f"{one}/annotations", {"kind": "note", "body": SECRET}, "note"),
        (f"{one}/action-items", {"type": "learn", "title": SECRET}, "act"),
        (f"/api/v1/incidents/{other['id']}/links", {"to": made["id"], "type": "related"}, "link"),
        (
            f"{one}/edits",
            {"op": "milestone", "value": {"name": "detected", "at": None, "precision": "exact"}},
            "edit",
        ),
    ]
    for path, body, key in writes:
        answer = await send(path, body, key)
        assert answer.status_code in {200, 201}, answer.text
    read = await service.client.get(one, headers=admin)
    change = {"members": [str(await service.person("responder"))]}
    version = {"If-Match": read.headers["ETag"], "Content-Type": PATCH_JSON}
    assert (
        await service.client.patch(one, json=change, headers=admin | version)
    ).status_code == 200
    return [await send(path, body, key) for path, body, key in writes]


async def test_a_key_replays_nothing_after_membership_ended(service: Service) -> None:
    again = await member_who_left(service)
    for answer in again:
        assert answer.status_code == 404, answer.text
        assert SECRET not in answer.text + str(answer.headers)


# Nobody, and what is counted


def counts(text: str) -> list[str]:
    return re.findall(
        r"^postfacta_incidents?(?:_opened_total|_transitions_total)?\{.*$", text, re.MULTILINE
    )


async def test_no_metric_counts_what_happens_to_a_private_incident(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn) as service:
        owner = await service.as_role("responder")
        open_one = await service.record(owner)
        # They are read once a minute, for the first time soon after the start.
        with anyio.fail_after(30):
            while "postfacta_incidents{" not in (
                text := (await service.client.get("/metrics")).text
            ):
                await anyio.sleep(0.01)
        before = counts(text)
        private = await service.record(owner, visibility="private")
        await service.client.post(
            f"/api/v1/incidents/{private['id']}/transitions",
            json={"to": "IN_PROGRESS"},
            headers=owner,
        )
        assert counts((await service.client.get("/metrics")).text) == before
        await service.client.post(
            f"/api/v1/incidents/{open_one['id']}/transitions",
            json={"to": "IN_PROGRESS"},
            headers=owner,
        )
        assert counts((await service.client.get("/metrics")).text) != before


async def test_no_one_reads_metrics_without_a_token_outside_local(shared_app_dsn: str) -> None:
    cases: list[tuple[str, dict[str, str]]] = [
        ("127.0.0.1", {}),
        ("::1", {}),
        ("127.0.0.2", {}),
        ("192.0.2.7", {}),
        ("192.0.2.7", {"X-Forwarded-For": "127.0.0.1"}),
        ("127.0.0.1", {"Authorization": "Bearer "}),
    ]
    async with in_process(
        shared_app_dsn, environment="production", trusted_proxies="127.0.0.2"
    ) as service:
        with every() as case:
            for peer, headers in cases:
                with case(peer, headers):
                    transport = httpx2.ASGITransport(service.app, client=(peer, 4711))
                    async with httpx2.AsyncClient(
                        transport=transport, base_url="http://localhost"
                    ) as client:
                        answer = await client.get("/metrics", headers=headers)
                    assert answer.status_code == 401
                    assert b"postfacta_" not in answer.content
