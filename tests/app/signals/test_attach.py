"""Signals are attached to incidents and taken off again by edits, and are as private as the incidents that have them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID, uuid4

import anyio
import pytest

from tests.app.live import Service
from tests.app.signals.conftest import SIGNALS, Body, Headers, get, item, send, sent

NOWHERE = "00000000-0000-4000-8000-000000000000"


async def fresh(service: Service, source: str, *items: Body, count: int = 1) -> list[str]:
    headers = await service.machine("signals:write", source=source)
    answer = await send(service, headers, *(items or [item(id=f"{n}") for n in range(count)]))
    return [it["signal_id"] for it in answer["results"]]


async def attach(service: Service, headers: Headers, ref: str, *ids: str) -> list[str]:
    path = f"/api/v1/incidents/{ref}/signals"
    answer = await service.client.post(path, json={"ids": ids}, headers=headers)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [it["id"] for it in results] == list(ids)
    return [it["result"] for it in results]


async def edits(service: Service, incident: str) -> list[tuple[str, str]]:
    rows = await service.database.fetch(
        "select op, signal_id::text from edits where incident_id = $1 order by at, op", incident
    )
    return [tuple(row) for row in rows]


async def incidents_of(service: Service, headers: Headers, signal: str) -> list[str] | None:
    answer = await get(service, f"{SIGNALS}/{signal}", headers)
    return [it["title"] for it in answer.json()["incidents"]] if answer.status_code == 200 else None


async def test_attaching_and_detaching_are_edits_and_what_is_so_already_writes_nothing(
    service: Service,
) -> None:
    responder = await service.as_role("responder")
    incident = await service.record(responder, title="The edited one")
    one, two = await fresh(service, "edited", count=2)
    ref = f"INC-{incident['number']}"
    got = await attach(service, responder, ref, one, NOWHERE, one, two)
    assert got == ["attached", "unknown", "already", "attached"]
    before = await service.rows()
    assert await attach(service, responder, incident["id"], two, one) == ["already", "already"]
    assert await service.rows() == before
    assert await incidents_of(service, responder, one) == ["The edited one"]
    path = f"/api/v1/incidents/{ref}/signals/{one}"
    statuses = [
        (await service.client.delete(path, headers=responder)).status_code for _ in range(2)
    ]
    assert statuses == [204, 404]
    assert await incidents_of(service, responder, one) == []
    assert await attach(service, responder, ref, one) == ["attached"]
    told = await edits(service, incident["id"])
    assert sorted(told[:2]) == sorted([("attach", one), ("attach", two)])
    assert told[2:] == [("detach", one), ("attach", one)]
    row = await service.database.fetchrow(
        "select version, timeline_at = (select max(at) from edits where incident_id = i.id) as is_stamped"
        " from incidents i where id = $1",
        incident["id"],
    )
    assert row is not None
    assert tuple(row) == (1, True)
    audit = await service.database.fetch(
        "select action, object, detail from audit_log where incident_id = $1 order by seq",
        incident["id"],
    )
    assert [it["action"] for it in audit][1:] == ["signal.attach", "signal.detach", "signal.attach"]
    assert json.loads(audit[1]["detail"]) == {"signals": [one, two]}


async def test_two_who_attach_at_once_write_one_edit(service: Service) -> None:
    responder = await service.as_role("responder")
    incident = await service.record(responder)
    ids = await fresh(service, "at-once", count=20)
    words: list[str] = []

    async def one(order: list[str]) -> None:
        words.extend(await attach(service, responder, incident["id"], *order))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(one, ids if number % 2 else ids[::-1])
    assert words.count("attached") == 20
    assert len(await edits(service, incident["id"])) == 20


async def test_an_idempotency_key_gives_the_first_answer_again(service: Service) -> None:
    responder = await service.as_role("responder") | {"Idempotency-Key": "once-for-signals"}
    incident = await service.record(await service.as_role("responder"))
    (signal,) = await fresh(service, "key")
    got = [await attach(service, responder, incident["id"], signal) for _ in range(2)]
    assert got == [["attached"]] * 2


async def test_ingest_can_attach_what_it_stores_and_what_it_has_already(service: Service) -> None:
    responder = await service.as_role("responder")
    incident = await service.record(responder)
    old, bad = item(source="both", id="old"), item(kind="odd")
    await send(service, responder, old)
    words = await sent(
        service,
        responder,
        old,
        bad,
        item(source="both", id="new"),
        old | {"title": "?"},
        incident=incident["id"],
    )
    assert words == ["duplicate", "rejected", "created", "conflict"]
    assert len(await edits(service, incident["id"])) == 2
    page = await get(service, f"{SIGNALS}?source=manual/both&attached=true", responder)
    assert {it["external_id"] for it in page.json()["items"]} == {"old", "new"}


async def test_nothing_is_attached_before_the_timeline_is_kept(service: Service) -> None:
    responder = await service.as_role("responder")
    incident = await service.record(responder)
    (signal,) = await fresh(service, "unkept")
    await service.database.execute(
        "delete from incident_measures where incident_id = $1", incident["id"]
    )
    path, before = f"/api/v1/incidents/{incident['id']}/signals", await service.rows()
    body = {"items": [item(source="unkept", id="with-it")], "incident": incident["id"]}
    for url, sent_body in ((path, {"ids": [signal]}), (SIGNALS, body)):
        refused = await service.client.post(url, json=sent_body, headers=responder)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10"), refused.text
        assert refused.json()["type"] == "/problems/schema-missing"
        assert await service.rows() == before
    assert (
        await get(service, f"/api/v1/incidents/{incident['id']}/timeline", responder)
    ).status_code == 503
    await service.database.execute("select timeline_rebuild($1)", incident["id"])
    assert await attach(service, responder, incident["id"], signal) == ["attached"]
    assert await sent(service, responder, *body["items"], incident=incident["id"]) == ["created"]
    assert len(await edits(service, incident["id"])) == 2


async def test_who_only_ingests_attaches_nothing_and_nothing_is_stored_then(
    service: Service,
) -> None:
    incident = await service.record(await service.as_role("responder"))
    body = {"items": [item(id="mine")], "incident": f"INC-{incident['number']}"}
    before = None
    for scopes in (("signals:write",), ("signals:write", "incidents:read")):
        headers = await service.machine(*scopes, source="no-hands")
        before = await service.rows()
        refused = await service.client.post(SIGNALS, json=body, headers=headers)
        assert refused.status_code == 403
        assert await service.rows() == before
    both = await service.machine("signals:write", "incidents:write", source="hands")
    assert (await service.client.post(SIGNALS, json=body, headers=both)).status_code == 200


async def test_an_incident_that_is_not_there_or_is_archived_takes_no_signals(
    service: Service,
) -> None:
    responder = await service.as_role("responder")
    (signal,) = await fresh(service, "archive")
    drill = await service.record(responder, kind="exercise")
    assert await attach(service, responder, drill["id"], signal) == ["attached"]
    path = f"/api/v1/incidents/{drill['id']}"
    await service.client.delete(path, headers=responder | {"If-Match": "*"})
    before = await service.rows()
    for ref, status in ((drill["id"], 409), (str(uuid4()), 404), ("INC-999999", 404)):
        one, all_of = (
            f"/api/v1/incidents/{ref}/signals/{signal}",
            f"/api/v1/incidents/{ref}/signals",
        )
        answers = [
            await service.client.post(all_of, json={"ids": [signal]}, headers=responder),
            await service.client.delete(one, headers=responder),
            await service.client.post(
                SIGNALS, json={"items": [item()], "incident": ref}, headers=responder
            ),
        ]
        assert [answer.status_code for answer in answers] == [status] * 3
    assert await service.rows() == before


@dataclass
class Whisper:
    """A signal that came with a private incident, and a public incident that may have it too."""

    service: Service
    source: str
    owner: Headers
    private: Body
    public: str
    signal: str

    async def is_seen(self, headers: Headers) -> bool:
        """Look for it wherever a signal can be met."""
        path = f"{SIGNALS}?source={self.source}"
        listed = (await get(self.service, path, headers)).text
        filtered = [
            (await get(self.service, f"{path}&attached={so}", headers)).text
            for so in ("true", "false")
        ]
        one = await get(self.service, f"{SIGNALS}/{self.signal}", headers)
        assert one.status_code == (200 if "Whisper" in listed else 404)
        assert sum("Whisper" in text for text in filtered) == ("Whisper" in listed)
        return "Whisper" in listed

    async def detach(self, incident: str, headers: Headers) -> int:
        path = f"/api/v1/incidents/{incident}/signals/{self.signal}"
        return (await self.service.client.delete(path, headers=headers)).status_code


async def whisper(service: Service, source: str) -> Whisper:
    owner = await service.as_role("responder")
    private = await service.record(owner, title="Hush", visibility="private")
    public = await service.record(owner, title="Known to all")
    new = item(id="1", title="Whisper", source=source)
    (told,) = (await send(service, owner, new, incident=private["id"]))["results"]
    assert told["result"] == "created"
    stored = f"manual/INC-{private['number']}/{source}"
    return Whisper(service, stored, owner, private, public["id"], told["signal_id"])


async def test_a_private_signal_that_is_detached_stays_private(service: Service) -> None:
    hidden, stranger = await whisper(service, "hidden"), await service.as_role("responder")
    assert await hidden.detach(hidden.private["id"], stranger) == 404
    assert await hidden.detach(hidden.private["id"], hidden.owner) == 204
    assert await hidden.is_seen(hidden.owner)
    assert not await hidden.is_seen(stranger)


async def test_the_key_of_a_private_signal_is_no_oracle(service: Service) -> None:
    hidden = await whisper(service, "oracle")
    stranger = await service.as_role("responder")
    same = item(id="1", title="Whisper", source="oracle")
    (told,) = (await send(service, stranger, same))["results"]
    assert told["result"] == "created"
    assert told["signal_id"] != hidden.signal
    number = hidden.private["number"]
    for source in (f"inc-{number}/oracle", f"INC-{number}/oracle"):
        (told,) = (await send(service, stranger, same | {"source": source}))["results"]
        assert told["result"] in {"created", "rejected"}
    # Whoever brought it may repeat it: then it is a duplicate, as ever.
    (again,) = (await send(service, hidden.owner, same, incident=hidden.private["id"]))["results"]
    assert (again["result"], again["signal_id"]) == ("duplicate", hidden.signal)


async def test_the_key_of_what_was_hidden_by_an_older_version_tells_no_id(service: Service) -> None:
    owner, stranger = await service.as_role("responder"), await service.as_role("responder")
    private = await service.record(owner, visibility="private")
    new = item(id="1", title="Whisper", source="older")
    (told,) = (await send(service, owner, new))["results"]
    # As it was written before: without the note that the signal lay open.
    await service.database.execute(
        "insert into edits (id, incident_id, at, op, signal_id, actor)"
        " values (gen_random_uuid(), $1, now(), 'attach', $2, 'user:1')",
        private["id"],
        told["signal_id"],
    )
    (again,) = (await send(service, owner, new))["results"]
    assert again["signal_id"] == told["signal_id"]
    for sent_again in (new, new | {"title": "Another"}):
        (guessed,) = (await send(service, stranger, sent_again))["results"]
        assert guessed["signal_id"] is None
        assert (await get(service, f"{SIGNALS}/{told['signal_id']}", stranger)).status_code == 404


async def test_attaching_to_a_private_incident_hides_nothing(service: Service) -> None:
    attacker, viewer = await service.as_role("responder"), await service.as_role("viewer")
    mine = await service.record(attacker, visibility="private")
    victim = await service.record(await service.as_role("responder"), title="The outage")
    (loose,) = await fresh(service, "evidence", item(id="1", title="Evidence"))
    (used,) = (
        await send(service, attacker, item(id="2", title="Evidence"), incident=victim["id"])
    )["results"]
    for signal in (loose, used["signal_id"]):
        assert await attach(service, attacker, mine["id"], signal) == ["attached"]
    path = f"/api/v1/incidents/{victim['id']}/signals/{used['signal_id']}"
    assert (await service.client.delete(path, headers=attacker)).status_code == 204
    for signal in (loose, used["signal_id"]):
        # Nothing tells a viewer that a private incident has it.
        assert await incidents_of(service, viewer, signal) == []
    unassigned = (await get(service, f"{SIGNALS}?source=evidence&attached=false", viewer)).json()[
        "items"
    ]
    assert [it["id"] for it in unassigned] == [loose]
    # To send it again with a private incident makes it no more private.
    again = item(id="1", title="Evidence")
    headers = await service.machine("signals:write", source="evidence")
    await send(service, headers, again)
    assert await incidents_of(service, viewer, loose) == []


async def test_one_public_incident_is_enough_to_see_a_signal_and_not_to_learn_of_the_private_one(
    service: Service,
) -> None:
    hidden = await whisper(service, "shown")
    viewer, owner = await service.as_role("viewer"), hidden.owner
    assert await attach(service, owner, hidden.public, hidden.signal) == ["attached"]
    assert await hidden.is_seen(viewer)
    assert await incidents_of(service, viewer, hidden.signal) == ["Known to all"]
    assert await incidents_of(service, owner, hidden.signal) == ["Hush", "Known to all"]


@pytest.mark.parametrize(
    "body", [{}, {"ids": []}, {"ids": ["x"]}, {"ids": [NOWHERE] * 501}, {"ids": [NOWHERE], "x": 1}]
)
async def test_a_wish_of_another_shape_is_refused(service: Service, body: Body) -> None:
    responder = await service.as_role("responder")
    incident = await service.record(responder)
    path = f"/api/v1/incidents/{incident['id']}/signals"
    assert (await service.client.post(path, json=body, headers=responder)).status_code == 422


async def test_signals_beyond_the_limit_are_reported_as_full(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_app.signals.model.MOST_SIGNALS", 3)
    responder = await service.as_role("responder")
    incident = await service.record(responder, title="The full one")
    one, two, three, four, five = await fresh(service, "full", count=5)
    assert await attach(service, responder, incident["id"], one, two) == ["attached", "attached"]
    got = await attach(service, responder, incident["id"], one, three, four, three, NOWHERE)
    assert got == ["already", "attached", "full", "already", "unknown"]
    # What was taken off counts, and can come back.
    path = f"/api/v1/incidents/{incident['id']}/signals/{one}"
    assert (await service.client.delete(path, headers=responder)).status_code == 204
    assert await attach(service, responder, incident["id"], five, one) == ["full", "attached"]


async def test_the_bytes_of_an_incidents_signals_are_limited(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    responder = await service.as_role("responder")
    incident = await service.record(responder, title="The heavy one")
    ids = await fresh(service, "heavy", *(item(id=f"{n}", title="\u20ac" * 100) for n in range(4)))
    monkeypatch.setattr("postfacta_app.signals.model.MOST_BYTES", 1_000)  # Each has some 300.
    assert await attach(service, responder, incident["id"], *ids) == ["attached"] * 3 + ["full"]


async def test_what_a_full_incident_does_not_take_is_stored_and_said(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_app.signals.model.MOST_SIGNALS", 2)
    responder = await service.as_role("responder")
    incident = await service.record(responder, title="The stormy one")
    items = [item(source="storm", id=f"{n}") for n in (0, 1, 1, 2)] + [{"kind": "nothing"}]
    told = await send(service, responder, *items, incident=incident["id"])
    became = [(it["result"], it["attached"]) for it in told["results"]]
    assert became == [
        ("created", "attached"),
        ("created", "attached"),
        ("duplicate", "attached"),
        ("created", "full"),
        ("rejected", None),
    ]
    assert "can be attached to another incident" in told["warnings"][0]
    assert (
        await get(service, f"{SIGNALS}/{told['results'][3]['signal_id']}", responder)
    ).status_code == 200
    again = await send(service, responder, items[0], incident=incident["id"])
    assert (again["results"][0]["attached"], again["warnings"]) == ("already", [])


async def test_an_incident_takes_a_hundred_thousand_signals(service: Service) -> None:
    responder = await service.as_role("responder")
    incident = await service.record(responder, title="The great storm")
    # As if the others were there.
    await service.database.execute(
        "update incident_measures set signals = 99999 where incident_id = $1", UUID(incident["id"])
    )
    told = await send(
        service, responder, *(item(id=f"last {n}") for n in range(3)), incident=incident["id"]
    )
    assert [it["attached"] for it in told["results"]] == ["attached", "full", "full"]
    assert told["counts"]["created"] == 3
