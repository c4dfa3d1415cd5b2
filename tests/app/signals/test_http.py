"""Signals are stored once, however often they are sent, and each item has a result."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from typing import Any

import anyio
from prometheus_client.parser import text_string_to_metric_families

from tests.app.live import Service, in_process
from tests.app.signals.conftest import SIGNALS, Body, get, item, send, sent


async def counted(service: Service, metric: str) -> dict[tuple[str, ...], float]:
    text = (await service.client.get("/metrics")).text
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == metric
    }


async def test_each_item_has_its_word_in_the_order_of_the_request(service: Service) -> None:
    headers = await service.machine("signals:write", source="words")
    assert await sent(service, headers, item(id="b", title="B")) == ["created"]
    items = [
        item(id="c", title="C"), item(kind="rumour"), item(id="b", title="B"), item(id="b", title="Another B"), 7,
        item(id="a", title="A"), item(id="a", title="A"), item(id="a", title="Another A"), item(title="A"),
    ]  # fmt: skip
    answer = await send(service, headers, *items)
    words = [(it["index"], it["result"]) for it in answer["results"]]
    assert words == list(
        enumerate(
            [
                "created",
                "rejected",
                "duplicate",
                "conflict",
                "rejected",
                "created",
                "duplicate",
                "conflict",
                "created",
            ]
        )
    )
    assert answer["counts"] == {"created": 3, "duplicate": 2, "conflict": 2, "rejected": 2}
    ids = [it["signal_id"] for it in answer["results"]]
    assert ids[5] == ids[6] == ids[7]
    assert ids[1] is ids[4] is None
    assert len({it for it in ids if it}) == 4
    assert answer["results"][1]["errors"][0] | {"message": ""} == {
        "pointer": "/kind",
        "code": "enum",
        "message": "",
    }


async def test_what_was_sent_can_be_read(service: Service) -> None:
    headers = await service.machine("signals:write", source="reader")
    fields: Body = {
        "kind": "change", "title": "Deployed 3.2", "body": "by ci", "services": ["checkout"], "environment": "prod",
        "precision": "minute", "sequence": "7", "links": [{"url": "https://ci.example.org/7", "title": "Run"}],
        "payload": {"outcome": "failed", "numbers": [1, 1.5, 1e2, 10**20], "text": 'ä😀\\u0000 \\ "'},
    }  # fmt: skip
    times = {
        "occurred_at": "2026-02-07T11:00:00.123456789+01:00",
        "known_at": "2026-02-07T10:40:00Z",
    }
    answer = await send(service, headers, item(source="deploys/eu", id="7", **times, **fields))
    reader = await service.as_role("viewer")
    path = f"{SIGNALS}/{answer['results'][0]['signal_id']}"
    read = (await get(service, path, reader)).json()
    assert {name: read[name] for name in fields} == fields
    assert (read["source"], read["external_id"], read["time_basis"]) == (
        "reader/deploys/eu",
        "7",
        "event",
    )
    assert read["occurred_at"] == "2026-02-07T10:00:00.123456Z"
    assert read["known_at"] == "2026-02-07T10:40:00.000000Z"
    assert (read["conflicts"], read["incidents"], read["clock_suspect"]) == ([], [], False)
    assert read["received_by"].startswith("token:")
    (listed,) = (await get(service, f"{SIGNALS}?source=reader/deploys/eu", reader)).json()["items"]
    assert listed == {name: read[name] for name in listed}
    assert "payload" not in listed
    for nothing in (f"{SIGNALS}/00000000-0000-4000-8000-000000000000", f"{SIGNALS}/7"):
        assert (await get(service, nothing, reader)).status_code == 404


async def test_without_a_time_it_is_that_of_receipt_and_a_blind_resend_is_a_duplicate(
    service: Service,
) -> None:
    headers = await service.machine("signals:write", source="blind")
    (first,) = (await send(service, headers, item(payload={"a": 1, "b": 2})))["results"]
    (again,) = (await send(service, headers, item(payload={"b": 2, "a": 1})))["results"]
    assert (first["result"], again["result"]) == ("created", "duplicate")
    read = (
        await get(service, f"{SIGNALS}/{first['signal_id']}", await service.as_role("viewer"))
    ).json()
    assert read["time_basis"] == "received"
    assert read["occurred_at"] == read["received_at"]
    assert read["external_id"] == f"sha256:{read['content_sha256']}"


async def test_a_time_more_than_two_minutes_ahead_is_taken_and_marked(service: Service) -> None:
    headers = await service.machine("signals:write", source="clock")
    ahead = [service.now + timedelta(seconds=seconds) for seconds in (60, 3600)]
    answer = await send(service, headers, *(item(occurred_at=at.isoformat()) for at in ahead))
    assert [it["clock_suspect"] for it in answer["results"]] == [False, True]
    page = await get(service, f"{SIGNALS}?source=clock", await service.as_role("viewer"))
    assert [it["clock_suspect"] for it in page.json()["items"]] == [True, False]


async def test_a_conflict_keeps_both_contents_and_at_most_twenty_others(service: Service) -> None:
    headers = await service.machine("signals:write", source="quarrel")
    (first,) = (await send(service, headers, item(id="x", title="The first")))["results"]
    path, reader = f"{SIGNALS}/{first['signal_id']}", await service.as_role("viewer")
    other = item(id="x", title="Another", payload={"a": [1]})
    for _ in range(2):
        assert await sent(service, headers, other, other) == ["conflict"] * 2
    read = (await get(service, path, reader)).json()
    assert read["title"] == "The first"
    (conflict,) = read["conflicts"]
    assert conflict["content"]["title"] == "Another"
    assert conflict["content"]["payload"] == {"a": [1]}
    assert conflict["content_sha256"] != read["content_sha256"]

    async def quarrel(number: int) -> None:
        items = [item(id="x", title=f"Version {number}-{part}") for part in range(6)]
        assert await sent(service, headers, *items) == ["conflict"] * 6

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(quarrel, number)
    kept = (await get(service, path, reader)).json()["conflicts"]
    assert len(kept) == 20
    assert kept[0] == conflict


async def test_the_same_items_from_eight_tasks_in_any_order_are_stored_once(
    app_database_dsn: str,
) -> None:
    async with in_process(app_database_dsn, statement_timeout=30) as service:
        headers = await service.machine("signals:write")
        items = [
            item(id=f"id-{number}", title=f"Number {number}", payload={"n": number})
            for number in range(500)
        ]
        words: list[str] = []

        async def sender(seed: int) -> None:
            mixed = random.Random(seed).sample(items, 500)  # noqa: S311 - an order, no secret
            for batch in (mixed[:250], mixed[250:]):
                words.extend(await sent(service, headers, *batch))

        async with anyio.create_task_group() as tasks:
            for seed in range(8):
                tasks.start_soon(sender, seed)
        assert len(words) == 8 * 500
        assert words.count("created") == 500
        assert words.count("duplicate") == len(words) - 500
        rows = await service.rows()
        assert (rows["signals"], rows["signal_conflicts"]) == (500, 0)
        deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
        assert await service.database.fetchval(deadlocks) == 0


async def test_a_source_is_that_of_the_token_and_of_people_manual(service: Service) -> None:
    one = await service.machine("signals:write", source="mine")
    two = await service.machine("signals:write", source="theirs")
    ada, bob = await service.as_role("responder"), await service.as_role("admin")
    same = item(id="1", source="mine")
    answers = [await send(service, who, same) for who in (one, two, ada)]
    assert [it["results"][0]["result"] for it in answers] == ["created"] * 3
    assert await sent(service, bob, same) == ["duplicate"]
    assert await sent(service, ada, item(id="1")) == ["created"]
    reader = await service.as_role("viewer")
    sources: list[str] = []
    for answer in answers:
        read = await get(service, f"{SIGNALS}/{answer['results'][0]['signal_id']}", reader)
        sources.append(read.json()["source"])
    assert sources == ["mine/mine", "theirs/mine", "manual/mine"]
    for forged in ("../theirs", "/theirs", "theirs ", ""):
        assert await sent(service, one, item(id="2", source=forged)) == ["rejected"]


async def test_a_batch_has_one_to_five_hundred_items_and_a_bad_frame_stores_nothing(
    service: Service,
) -> None:
    headers = await service.machine("signals:write", source="frames")
    frames: list[Body] = [
        {"items": []}, {"items": [item()] * 501}, {"items": {}}, {"items": [item()], "x": 1}, {},
    ]  # fmt: skip
    for body in frames:
        answer = await service.client.post(SIGNALS, json=body, headers=headers)
        assert answer.status_code == 422, body
    unwanted = await service.client.post(
        SIGNALS, content=json.dumps({"items": [item()]}), headers=headers
    )
    assert unwanted.status_code == 415
    page = await get(service, f"{SIGNALS}?source=frames", await service.as_role("viewer"))
    assert page.json() == {"items": [], "next_cursor": None}


REJECTED: list[tuple[Body, str]] = [
    ({"title": ""}, "/title"),
    ({"title": "x" * 501}, "/title"),
    ({"body": "x" * 20_001}, "/body"),
    ({"services": ["Upper"]}, "/services/0"),
    ({"services": [f"s{n}" for n in range(51)]}, "/services"),
    ({"occurred_at": "2026-01-01T00:00:00"}, "/occurred_at"),
    ({"precision": "week"}, "/precision"),
    ({"id": ""}, "/id"),
    ({"id": "x" * 301}, "/id"),
    ({"links": [{"url": "javascript:alert(1)"}]}, "/links/0/url"),
    ({"links": [{"url": f"https://example.org/{'x' * 3800}"}] * 3}, "/links"),
    ({"payload": []}, "/payload"),
    ({"payload": {"a": "x" * 65_530}}, "/payload"),
    ({"payload": {"a": [1e300] * 250}}, "/payload"),
    ({"unknown": 1}, "/unknown"),
]


async def test_each_broken_rule_is_named_and_the_good_ones_are_stored(service: Service) -> None:
    headers = await service.machine("signals:write", source="rules")
    items = [item(**{"id": f"bad-{at}", **fields}) for at, (fields, _) in enumerate(REJECTED)]
    answer = await send(service, headers, *items, item(id="good"))
    assert [it["result"] for it in answer["results"]] == ["rejected"] * len(REJECTED) + ["created"]
    pointers = [[error["pointer"] for error in it["errors"]] for it in answer["results"][:-1]]
    assert pointers == [[pointer] for _, pointer in REJECTED]


async def test_the_longest_of_everything_is_stored(service: Service) -> None:
    headers = await service.machine("signals:write", source="longest")
    longest = item(
        id="😀" * 300, source="x" * 127, title="😀" * 500, body="ä" * 20_000, sequence="9" * 100, environment="e" * 100,
        services=[f"{n:x<63}" for n in range(50)], payload={"a": "x" * 64_800, "b": [1e300, 5e-324]},
        links=[{"url": "https://example.org/" + "x" * 3880, "title": "t" * 100}] * 2,
        occurred_at="9999-12-31T23:59:59.999999Z", known_at="0001-01-01T00:00:00Z",
    )  # fmt: skip
    assert await sent(service, headers, longest, longest) == ["created", "duplicate"]


async def test_each_request_that_stores_something_leaves_one_audit_row(service: Service) -> None:
    headers = await service.machine("signals:write", source="rows")
    one, two, three, other = item(id="1"), item(id="2"), item(id="3"), item(id="1", title="Other")
    requests: list[tuple[list[Body], tuple[int, int] | None]] = [
        ([one], (1, 0)),
        ([one], None),
        ([two, three], (2, 0)),
        ([item(id="4"), item(id="4")], (1, 0)),
        ([one, item(id="5")], (1, 0)),
        ([other], (0, 1)),
        ([item(id="6"), item(id="")], (1, 0)),
        ([item(id="")], None),
    ]
    count = "select count(*) from audit_log where object = 'source:rows'"
    for items, expected in requests:
        before = await service.database.fetchval(count)
        await send(service, headers, *items)
        written = await service.database.fetchval(count) - before
        assert written == (expected is not None), items
        if expected is not None:
            last = await service.database.fetchval(
                "select detail from audit_log where object = 'source:rows' order by seq desc limit 1"
            )
            assert json.loads(last) == dict(
                zip(("created", "conflicts_kept"), expected, strict=True)
            )


async def test_a_repeat_writes_nothing_at_all_and_a_first_leaves_its_trace(
    service: Service,
) -> None:
    headers = await service.machine("signals:write", source="trace")
    batch = [item(id="1"), item(id="1", title="Other"), item(id=""), item(id="2")]
    await send(service, headers, *batch)
    before = await service.rows()
    audit = await service.database.fetchrow("select * from audit_log order by seq desc limit 1")
    assert audit is not None
    assert (audit["action"], audit["object"]) == ("signal.ingest", "source:trace")
    assert json.loads(audit["detail"]) == {"created": 2, "conflicts_kept": 1}
    assert await sent(service, headers, *batch) == [
        "duplicate",
        "conflict",
        "rejected",
        "duplicate",
    ]
    assert await service.rows() == before


SECRET_KEYS = [
    "password",
    "Authorization",
    "accessToken",
    "client-secret",
    "License-Code",
    "cookie",
]


async def test_no_secret_is_anywhere_in_the_database(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn, secret_keys="license_code, pin") as service:  # noqa: S106 - names
        headers = await service.machine("signals:write")
        secret = "hunter2-of-nobody"  # noqa: S105 - of nobody

        def of(number: int) -> list[Body]:
            deep: Any = {"pin": f"{secret}{number}"}
            for _ in range(45):
                deep = {"inner": [deep]}
            said = f"curl -H 'Authorization: Bearer {secret}{number}' https://me:{secret}{number}@example.org"
            return [
                *(
                    item(id=key, payload={"headers": [{key: f"{secret}{number}"}]})
                    for key in SECRET_KEYS
                ),
                item(
                    id="deep",
                    payload={"deep": deep, key: [secret]} if (key := "tokens_secret") else {},
                ),
                item(id="text", title=said, body=said, payload={"said": said}, links=[]),
                item(id="bad", password=secret),
            ]

        created = await sent(service, headers, *of(1))
        assert created == ["created"] * 8 + ["rejected"]
        # Of two contents that differ in their secrets alone, nobody can tell any more that there
        # were two.
        assert await sent(service, headers, *of(2)) == ["duplicate"] * 8 + ["rejected"]
        others = [it | {"title": f"Other {it['id']}"} for it in of(3)[:7]]
        assert await sent(service, headers, *others) == ["conflict"] * 7
        for table in await service.rows():
            text = await service.database.fetchval(
                f"select string_agg(t::text, ' ') from {table} t"  # noqa: S608
            )
            assert secret not in (text or ""), table
        kept = await service.database.fetchval("select string_agg(payload::text, ' ') from signals")
        assert kept.count("[redacted]") >= 9


async def test_signals_and_deployments_are_counted_once_committed(app_database_dsn: str) -> None:
    async with in_process(app_database_dsn) as service:
        headers = await service.machine("signals:write")
        deploys = [
            item(kind="change", id=f"{n}", environment="prod", payload={"outcome": outcome})
            for n, outcome in enumerate(
                ["succeeded", "succeeded", "failed", "rolled_back", "odd", ["failed"]]
            )
        ]
        no_change = item(kind="log", id="log", payload={"outcome": "failed"})
        nowhere = item(kind="change", id="nowhere", payload={"outcome": "succeeded"})
        for _ in range(2):
            await send(service, headers, *deploys, no_change, nowhere, item(kind="odd"))
        assert await counted(service, "postfacta_signals_ingested_total") == {
            ("change", "created"): 7, ("change", "duplicate"): 7, ("log", "created"): 1, ("log", "duplicate"): 1,
            ("unknown", "rejected"): 2,
        }  # fmt: skip
        assert await counted(service, "postfacta_deployments_total") == {
            ("prod", "succeeded"): 2, ("prod", "failed"): 1, ("prod", "rolled_back"): 1, ("unknown", "succeeded"): 1,
        }  # fmt: skip


async def test_a_list_can_be_filtered_and_each_signal_is_on_one_page(service: Service) -> None:
    headers = await service.machine("signals:write", source="lists")
    base = datetime.fromisoformat("2026-03-01T10:00:00+00:00")
    kinds = ["change", "log", "metric"]
    items = [
        item(id=f"{n}", kind=kinds[n % 3], services=[f"svc-{n % 2}"], occurred_at=(base + timedelta(minutes=n // 3)).isoformat())
        for n in range(12)
    ]  # fmt: skip
    await send(service, headers, *items)
    reader = await service.as_role("viewer")

    async def listed(query: str) -> list[str]:
        found: list[str] = []
        path: str | None = f"{SIGNALS}?source=lists&{query}"
        while path:
            page = (await get(service, path, reader)).json()
            found += [it["external_id"] for it in page["items"]]
            cursor = page["next_cursor"]
            path = f"{SIGNALS}?source=lists&{query}&cursor={cursor}" if cursor else None
        return found

    everything = await listed("limit=5")
    assert sorted(everything, key=int) == [str(n) for n in range(12)]
    assert [int(it) // 3 for it in everything] == sorted(
        (int(it) // 3 for it in everything), reverse=True
    )
    assert set(await listed("kind=log&kind=metric&limit=3")) == {str(n) for n in range(12) if n % 3}
    assert set(await listed("service=svc-1")) == {str(n) for n in range(12) if n % 2}
    assert set(await listed("from=2026-03-01T10:01:00Z&to=2026-03-01T10:02:00Z")) == {"3", "4", "5"}
    assert await listed("attached=true") == []
    assert len(await listed("attached=false")) == 12
    assert await listed("source=nobody&kind=page") == []
    other = (await get(service, f"{SIGNALS}?limit=1&source=lists", reader)).json()["next_cursor"]
    refused = await get(service, f"{SIGNALS}?limit=1&source=words&cursor={other}", reader)
    assert (refused.status_code, refused.json()["type"]) == (400, "/problems/invalid-cursor")


async def test_four_mebibytes_are_read_and_one_byte_more_is_not(service: Service) -> None:
    headers = await service.machine("signals:write", source="large") | {
        "Content-Type": "application/json"
    }
    body = json.dumps({"items": [item()]}).encode()
    taken = await service.client.post(SIGNALS, content=body.ljust(4 * 1024 * 1024), headers=headers)
    assert taken.status_code == 200
    refused = await service.client.post(
        SIGNALS, content=body.ljust(4 * 1024 * 1024 + 1), headers=headers
    )
    assert refused.status_code == 413


async def test_a_sender_over_its_rate_gets_429(shared_app_dsn: str) -> None:
    async with in_process(shared_app_dsn, rate_ingest="2/hour") as service:
        headers = await service.machine("signals:write", source="busy")
        answers = [
            await service.client.post(SIGNALS, json={"items": [item()]}, headers=headers)
            for _ in range(3)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "q=2;w=3600" in answers[-1].headers["RateLimit-Policy"]
