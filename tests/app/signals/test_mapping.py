"""Any JSON becomes signals by a mapping: what three senders send by themselves, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from postfacta_app.errors import InvalidFieldsError, NotFoundError
from postfacta_app.principal import ANONYMOUS, Principal
from postfacta_app.settings import Settings, SettingsError
from postfacta_app.signals.intake import Intake
from postfacta_app.signals.mapping import Mapping, Mappings, read_mapped
from postfacta_app.signals.model import Fact, ItemResult, Link
from tests.app.live import in_process
from tests.app.signals.conftest import SIGNALS, Body, get, recorded

FILE = Path(__file__).parents[3] / "deploy/signals/mappings.toml"


def settings(**fields: object) -> Settings:
    return Settings.model_validate(fields)


EXAMPLES = Mappings(settings(signal_mappings=FILE))
TOKEN = Principal(actor="token:1", name="ci", scopes=frozenset({"signals:write"}), source="ci")
SMALL: Body = {"kind": "note", "title": "{a}"}


def read(mapping: Mapping | Body, body: Any, **more: Any) -> Sequence[Fact | ItemResult]:
    made = Mapping.model_validate(mapping)
    who = more.pop("principal", TOKEN)
    return read_mapped(made, body, principal=who, intake=Intake(settings(**more)), source="x")


def fact_of(mapping: Mapping | Body, body: Any, **more: Any) -> Fact:
    (item,) = read(mapping, body, **more)
    assert isinstance(item, Fact), item
    return item


def example(name: str, **changed: object) -> Fact:
    return fact_of(EXAMPLES.find(name), {**recorded(name), **changed})


def test_a_deployment_of_github_is_a_change_with_its_outcome() -> None:
    fact = example("github")
    new = fact.new
    assert (fact.source, fact.external_id) == ("ci", "4711:success")
    assert (new.kind, new.title) == ("change", "Deployment of checkout to production: success")
    assert (new.services, new.environment) == (["checkout"], "production")
    assert new.payload == {
        "outcome": "succeeded", "commit": "9f1c2ab0d5", "ref": "v3.2", "by": "octocat",
    }  # fmt: skip
    assert [link.title for link in new.links] == ["Log", "Commit"]
    assert new.links[1].url == "https://github.example.org/octo/checkout/commit/9f1c2ab0d5"


def test_an_event_of_pagerduty_is_a_page_an_end_or_an_action() -> None:
    fact = example("pagerduty")
    assert (fact.external_id, fact.new.kind) == ("01BWZX7Q3T", "page")
    assert fact.new.occurred_at == datetime(2026, 2, 7, 10, 8, 30, 512_000, tzinfo=UTC)
    assert (fact.new.title, fact.new.services) == ("Checkout is slow", ["checkout-api"])
    # What is null is left out.
    assert fact.new.payload == {"incident": "PT4KHLK", "urgency": "high"}
    event = recorded("pagerduty")["event"]
    for kind, expected in (("resolved", "alert_resolved"), ("acknowledged", "action")):
        changed = example("pagerduty", event=event | {"event_type": f"incident.{kind}"})
        assert changed.new.kind == expected


def test_an_alert_of_datadog_has_its_epoch_milliseconds_as_time() -> None:
    fact = example("datadog")
    assert fact.new.occurred_at == datetime(2026, 2, 7, 10, 4, 0, 123_000, tzinfo=UTC)
    assert (fact.new.kind, fact.external_id) == ("alert_firing", "8120037:Triggered:7411923")
    assert fact.new.links == [
        Link(title="Datadog", url="https://app.datadoghq.example.org/event/7411923")
    ]
    assert example("datadog", transition="Recovered").new.kind == "alert_resolved"
    assert example("datadog", transition="Warn").new.kind == "other"


@pytest.mark.parametrize(
    "time",
    [1770458640, "1770458640", 1770458640000, 1770458640.0, "2026-02-07T11:04:00+01:00"],
    ids=repr,
)
def test_seconds_milliseconds_and_rfc_3339_are_one_instant(time: object) -> None:
    mapping = SMALL | {"occurred_at": "{when}"}
    at = fact_of(mapping, {"a": "t", "when": time}).new.occurred_at
    assert at == datetime(2026, 2, 7, 10, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    "time", ["yesterday", 1e300, "nan", "9" * 300, True, [1], "-1e18"], ids=lambda it: repr(it)[:9]
)
def test_what_is_no_time_is_rejected_by_its_field(time: object) -> None:
    (item,) = read(SMALL | {"occurred_at": "{when}"}, {"a": "t", "when": time})
    assert isinstance(item, ItemResult)
    assert item.errors[0].pointer == "/occurred_at"


def test_a_list_is_an_item_each_and_one_bad_item_stops_no_other() -> None:
    mapping = SMALL | {"items": "deep.list", "id": "{n}"}
    items = [{"a": "one", "n": 1}, {}, 7, {"a": "x" * 600, "n": 2}]
    first, missing, number, long = read(mapping, {"deep": {"list": items}})
    assert isinstance(first, Fact)
    assert first.external_id == "1"
    for index, rejected in ((1, missing), (2, number)):
        assert isinstance(rejected, ItemResult)
        assert (rejected.index, rejected.errors[0].pointer) == (index, "/title")
    assert isinstance(long, Fact)
    assert long.new.title == "x" * 500


@pytest.mark.parametrize("body", [{}, {"deep": 1}, {"deep": {"list": {}}}, [], 1, None])
def test_a_body_without_the_list_is_refused(body: object) -> None:
    with pytest.raises(InvalidFieldsError) as refused:
        read(SMALL | {"items": "deep.list"}, body)
    assert refused.value.errors[0].pointer == "/deep/list"


def test_more_items_than_a_request_takes_are_refused() -> None:
    with pytest.raises(InvalidFieldsError):
        read(SMALL | {"items": ""}, [{"a": "t"}] * 1001)


def test_secrets_are_gone_and_a_person_writes_under_manual() -> None:
    mapping = SMALL | {"id": "{password}", "body": "{password}", "payload": {"all": "{}"}}
    body = {"a": "password=hunter2", "password": "hunter2", "list": [1]}
    fact = fact_of(mapping, body, principal=ANONYMOUS)
    assert fact.source == "manual/x"
    assert fact.external_id == "hunter2"
    assert "hunter2" not in repr(fact.new.model_copy(update={"id": None}))
    assert fact_of(SMALL | {"title": "{list.0}"}, body).new.title == "1"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)


@given(values, st.sampled_from(["{a}", "{a.b}", "{a.0}: {b}", "{}", "{{a}}", "x"]))
def test_any_json_is_a_signal_or_is_rejected(body: Any, template: str) -> None:
    fields = dict.fromkeys(("title", "id", "body", "environment", "occurred_at"), template)
    more = {"services": [template], "links": {"t": template}, "payload": {"p": template}}
    (item,) = read({"kind": "note", **fields, **more}, body)
    assert isinstance(item, Fact) or item.errors


WRONG = {
    "not toml": "[a",
    "titel": '[a]\nkind = "note"\ntitle = "t"\ntitel = "t"',
    "title": '[a]\nkind = "note"',
    "kind": '[a]\nkind = "{x!r}"\ntitle = "t"',
    "body": '[a]\nkind = "note"\ntitle = "t"\nbody = "{"',
    "A": '[A]\nkind = "note"\ntitle = "t"',
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_at_start_by_its_place(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mappings.toml"
    file.write_text(WRONG[name])
    with pytest.raises(SettingsError, match=r"POSTFACTA_SIGNAL_MAPPINGS: .*mappings\.toml") as no:
        Mappings(settings(signal_mappings=file))
    assert name in str(no.value) or name == "not toml"


def test_a_file_that_cannot_be_read_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"POSTFACTA_SIGNAL_MAPPINGS: .*absent"):
        Mappings(settings(signal_mappings=tmp_path / "absent"))
    with pytest.raises(NotFoundError):
        Mappings(settings()).find("github")


async def test_what_three_senders_send_is_stored_once(shared_app_dsn: str) -> None:
    async with in_process(shared_app_dsn, signal_mappings=FILE) as service:
        reader = await service.as_role("viewer")
        for name in ("github", "pagerduty", "datadog"):
            headers = await service.machine("signals:write", source=f"{name}-live")
            path = f"/api/v1/ingest/mapped/{name}"
            words: list[str] = []
            for _ in range(2):
                answer = await service.client.post(path, json=recorded(name), headers=headers)
                assert answer.status_code == 200, answer.text
                words += [it["result"] for it in answer.json()["results"]]
            assert words == ["created", "duplicate"]
            listed = await get(service, f"{SIGNALS}?source={name}-live", reader)
            assert len(listed.json()["items"]) == 1
        headers = await service.machine("signals:write")
        unknown = await service.client.post(
            "/api/v1/ingest/mapped/nothing", json={}, headers=headers
        )
        assert unknown.status_code == 404


async def test_the_page_of_operators_shows_what_was_rejected(shared_app_dsn: str) -> None:
    async with in_process(shared_app_dsn, signal_mappings=FILE) as service:
        reader = await service.as_role("viewer") | {"Accept": "text/html"}
        before = await service.client.get("/reliability", headers=reader)
        assert "Rejected in the last hour by this process: none." in before.text
        headers = await service.machine("signals:write", source="datadog")
        for _ in range(3):
            body = recorded("datadog") | {"date": "yesterday"}
            await service.client.post("/api/v1/ingest/mapped/datadog", json=body, headers=headers)
        wrong = {"kind": "note", "title": "t", "<b>": 1}
        await service.client.post(SIGNALS, json={"items": [wrong]}, headers=headers)
        after = (await service.client.get("/reliability", headers=reader)).text
    shown = after[after.index("Rejected in the last hour") :]
    assert '<strong class="bad">4</strong> (datadog: occurred_at' in shown
    assert "datadog: &lt;b&gt;)" in shown


def test_the_examples_are_those_of_the_page() -> None:
    page = (FILE.parents[2] / "docs/how-to/send-signals.md").read_text()
    text = FILE.read_text()
    assert text[text.index("[datadog]") :].strip() in page
