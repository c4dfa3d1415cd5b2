"""The list, the form that records, and the insights, on the whole application."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import urlencode
from uuid import uuid4

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from postfacta_app.durations import DurationStatus
from tests.app.live import NEW as TYPED, Service, in_process
from tests.app.screen import Screen, forms_of

Headers = dict[str, str]
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
PAGE = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
async def service(shared_app_dsn: str) -> AsyncGenerator[Service]:
    async with in_process(shared_app_dsn) as running:
        yield running


async def browser(service: Service, role: str) -> Headers:
    """Begin a session, as a browser has it."""
    return PAGE | await service.cookie(await service.person(role))


async def hidden(service: Service, who: Headers) -> dict[str, str]:
    """Open the form, and read what it carries unseen."""
    page = (await service.client.get("/incidents/new", headers=who)).text
    return dict(re.findall(r'type="hidden" name="(csrf|key)" value="([^"]+)"', page))


async def send(service: Service, who: Headers, **fields: str) -> httpx2.Response:
    return await service.client.post("/incidents/new", content=urlencode(fields), headers=who)


async def incidents(service: Service) -> int:
    count: int = await service.database.fetchval("select count(*) from incidents")
    return count


def text_of(answer: httpx2.Response) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


# Recording


async def test_a_time_in_words_is_that_time(service: Service) -> None:
    who = await browser(service, "responder")
    made = await send(service, who, **TYPED, **await hidden(service, who), declared_at="-5m")
    number = int(made.headers["location"].rpartition("-")[2])
    age = "select extract(epoch from now() - declared_at) from incidents where number = $1"
    assert 300 <= await service.database.fetchval(age, number) < 400


async def test_a_title_and_a_severity_declare_an_incident(service: Service) -> None:
    screen = await Screen.of(service)
    blank = await screen.get("/incidents/new")
    assert "Most users cannot do what they came for" in blank.text
    made = await screen.send(blank, "/incidents/new", title="DNS", severity="HIGH")
    path = made.headers["location"]
    item = (await service.client.get(f"/api/v1{path}", headers=screen.headers)).json()
    assert (item["severity"], item["description"]) == ("HIGH", "Not described yet.")
    assert item["reporter"] == "Responder"
    # Nothing is chosen for a user: neither does the page, nor a page that is shown again.
    wrong = await screen.send(blank, "/incidents/new", title="DNS", severity="", expect=422)
    assert " checked" not in blank.text + wrong.text
    assert 'href="#f-severity"' in wrong.text
    again = await screen.send(
        blank, "/incidents/new", title="", severity="LOW", key="another-form", expect=422
    )
    assert 'value="LOW" required checked' in again.text


async def test_a_sent_form_makes_one_incident_and_leads_to_it(service: Service) -> None:
    who = await browser(service, "responder")
    form = {
        **TYPED,
        **await hidden(service, who),
        "declared_at": "2026-02-07 10:04",
        "services": "pay, search",
    }
    before = await incidents(service)
    answers = [await send(service, who, **form) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    assert await incidents(service) == before + 1
    page = await service.client.get(answers[0].headers["location"], headers=who)
    assert page.status_code == 200
    assert "2026-02-07T10:04:00+00:00" in page.text
    assert "pay, search" in page.text
    audit = await service.database.fetchval(
        "select action from audit_log where object = $1",
        answers[0].headers["location"].rpartition("/")[2],
    )
    assert audit == "incident.create"


async def test_a_form_that_was_saved_with_other_words_is_not_saved_again(service: Service) -> None:
    who = await browser(service, "responder")
    form = TYPED | await hidden(service, who)
    assert (await send(service, who, **form)).status_code == 303
    before = await incidents(service)
    answer = await send(service, who, **form | {"title": "Checkout is slow"})
    assert answer.status_code == 422
    assert "already submitted with different content" in answer.text
    assert 'value="Checkout is slow"' in answer.text
    assert form["key"] not in answer.text
    assert await incidents(service) == before


async def test_a_form_with_mistakes_comes_back_with_all_that_was_typed(service: Service) -> None:
    who = await browser(service, "responder")
    form = {
        "title": '"><b>',
        "description": "</textarea>",
        "declared_at": "at noon",
        "services": "pay Search",
    }
    carried = await hidden(service, who)
    before = await incidents(service)
    answer = await send(service, who, **form, **carried)
    assert answer.status_code == 422
    assert await incidents(service) == before
    page = answer.text
    assert 'value="&#34;&gt;&lt;b&gt;"' in page
    assert "&lt;/textarea&gt;</textarea>" in page
    assert f'value="{carried["key"]}"' in page
    for name in ("declared_at", "severity", "services"):
        assert f'<a href="#f-{name}">' in page
        described = re.search(
            f'id="f-{name}"[^>]* aria-describedby="e-{name}[^"]*" aria-invalid="true"', page
        )
        assert described, name
        assert f'id="e-{name}"' in page
    assert 'href="#f-title"' not in page


async def test_another_sessions_form_records_nothing(service: Service) -> None:
    who, other = await browser(service, "responder"), await browser(service, "responder")
    before = await incidents(service)
    answer = await send(service, who, **TYPED, **await hidden(service, other))
    assert answer.status_code == 403
    assert "reload the page" in answer.text
    assert await incidents(service) == before


async def test_a_forbidden_write_is_explained_on_a_signed_in_page(service: Service) -> None:
    viewer = await browser(service, "viewer")
    assert "/incidents/new" not in (await service.client.get("/incidents", headers=viewer)).text
    answer = await service.client.get("/incidents/new", headers=viewer)
    assert answer.status_code == 403
    assert "Viewer, viewer" in answer.text
    responder = await browser(service, "responder")
    assert (
        'href="/incidents/new"' in (await service.client.get("/incidents", headers=responder)).text
    )


# The list


async def test_the_list_tells_what_came_of_an_incident_and_drafts_to_writers_alone(
    service: Service,
) -> None:
    who = await browser(service, "responder")
    api = await service.as_role("responder")
    incident = await service.record(api, services=["followed"])
    one = f"/api/v1/incidents/{incident['id']}"
    for title in ("First", "Second"):
        sent = {"type": "prevent", "title": title}
        assert (
            await service.client.post(f"{one}/action-items", json=sent, headers=api)
        ).status_code == 201
    action = (await service.client.get(f"{one}/action-items", headers=api)).json()["items"][0]
    done = await service.client.patch(
        f"/api/v1/action-items/{action['id']}",
        json={"status": "done"},
        headers=api | {"If-Match": '"act-1"', "Content-Type": "application/merge-patch+json"},
    )
    assert done.status_code == 200, done.text
    draft = {"content": {"summary": "It broke"}}
    written = await service.client.put(
        f"{one}/postmortem", json=draft, headers=api | {"If-None-Match": "*"}
    )
    assert written.status_code == 201, written.text

    async def row(asker: Headers) -> list[str]:
        page = (await service.client.get("/incidents?service=followed", headers=asker)).text
        return re.findall(r'data-label="(?:Post-mortem|Open actions)">([^<]*)<', page)

    assert await row(who) == ["Draft", "1"]
    assert await row(await browser(service, "viewer")) == ["\u2013", "1"]


@pytest.mark.parametrize("path", ["/incidents", "/insights"])
async def test_a_filter_that_is_sent_again_keeps_each_of_its_values(
    service: Service, path: str
) -> None:
    screen = await Screen.of(service, "viewer")
    asked = [
        *(("q", "pay"), ("q", "search, slow"), ("status", "OPEN"), ("status", "IN_PROGRESS")),
        *(
            ("service", "a"),
            ("service", "b"),
            ("kind", "incident"),
            ("kind", "near_miss"),
            ("team", "core"),
        ),
        *(("severity", "LOW"), ("owner", "Ada"), ("owner", "Bob")),
    ]
    page = await screen.get(f"{path}?{urlencode(asked)}")
    (form,) = [it for it in forms_of(page) if it.action == path]
    again = await screen.get(f"{path}?{urlencode([*form.fields.items(), *form.repeated])}")
    (kept,) = [it for it in forms_of(again) if it.action == path]
    sent, found = ([*it.fields.items(), *it.repeated] for it in (form, kept))
    assert sorted(found) == sorted(sent)
    assert "Open, In progress" in page.text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("q=&service=pay", "?service=pay"),
        ("from=2026-02-07", "?from=2026-02-07T00%3A00%3A00Z"),
        ("to=2026-02-07 10:04&q=", "?to=2026-02-07T10%3A04%3A00Z"),
        ("q=", ""),
    ],
)
@pytest.mark.parametrize("path", ["/incidents", "/insights"])
async def test_a_sent_filter_shows_what_its_shortest_address_shows(
    service: Service, path: str, typed: str, meant: str
) -> None:
    who = await browser(service, "viewer")
    sent, short = [
        await service.client.get(f"{path}{it}", headers=who) for it in (f"?{typed}", meant)
    ]
    assert (sent.status_code, short.status_code) == (200, 200)
    # Each page masks the token anew.
    shown = [re.sub(r'name="csrf" value="[^"]+"', "", page.text) for page in (sent, short)]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("query", ["from=noon", "severity=WORSE", "status=a&status=b"])
@pytest.mark.parametrize("path", ["/incidents", "/insights"])
async def test_an_invalid_filter_is_reported_and_not_ignored(
    service: Service, path: str, query: str
) -> None:
    answer = await service.client.get(f"{path}?{query}", headers=await browser(service, "viewer"))
    assert answer.status_code == 400
    assert "Invalid filter" in answer.text


# Editing


async def test_an_incident_is_edited_by_its_form_and_a_change_meanwhile_is_not_lost(
    service: Service,
) -> None:
    screen = await Screen.of(service)
    made = await screen.send(
        await screen.get("/incidents/new"), "/incidents/new", TYPED, owner="Ada"
    )
    path = made.headers["location"]
    first, second = [await screen.get(f"{path}/edit") for _ in range(2)]
    done = await screen.send(
        first,
        f"{path}/edit",
        title="Checkout fails",
        severity="LOW",
        owner="",
        services="pay, search",
    )
    assert done.headers["location"] == path
    item = (await service.client.get(f"/api/v1{path}", headers=screen.headers)).json()
    assert (item["title"], item["severity"], item["owner"]) == ("Checkout fails", "LOW", None)
    assert (item["description"], item["services"]) == (TYPED["description"], ["pay", "search"])
    again = await screen.send(second, f"{path}/edit", title="What I typed", services="", expect=412)
    assert "What I typed" in again.text
    wrong = await screen.send(
        await screen.get(f"{path}/edit"), f"{path}/edit", title="", expect=422
    )
    assert 'href="#f-title"' in wrong.text
    await screen.send(await screen.get(f"{path}/edit"), f"{path}/edit", services="")
    item = (await service.client.get(f"/api/v1{path}", headers=screen.headers)).json()
    assert (item["title"], item["services"]) == ("Checkout fails", [])
    assert f'href="{path}/edit"' in (await screen.get(path)).text


async def test_what_happens_now_is_added_to_the_timeline_in_one_line(service: Service) -> None:
    screen = await Screen.of(service)
    made = await screen.send(await screen.get("/incidents/new"), "/incidents/new", TYPED)
    path = made.headers["location"]
    wrong = await screen.send(
        await screen.get(path), f"{path}/notes", body="Bank called", occurred_at="soon", expect=422
    )
    assert 'value="Bank called"' in wrong.text
    assert "10:04, -5m or now" in wrong.text
    done = await screen.send(await screen.get(path), f"{path}/notes", body="Restarted the gateway")
    where = done.headers["location"]
    assert where.endswith("#capture-body")
    page = await screen.get(where)
    assert re.search(r"<h4>Restarted the gateway</h4>", page.text)
    # What was recorded is at hand: to correct it, or to take it back.
    assert re.search(r"\d\d:\d\d:\d\d recorded", page.text)
    note = where.partition("added=")[2].partition("#")[0]
    assert f"edit=renote-{note}" in page.text
    await screen.send(page, f"{path}/notes/{note}", having="op")
    gone = await screen.get(where)
    assert "recorded</span>" not in gone.text
    assert "<h4>Restarted the gateway</h4>" not in gone.text
    ours = screen.headers | {"Sec-Fetch-Site": "same-origin"}
    moved = await service.client.post(
        f"/api/v1{path}/transitions", json={"to": "RESOLVED"}, headers=ours
    )
    assert moved.status_code == 201, moved.text
    # What comes to light later is written in the same line.
    later = await screen.send(await screen.get(path), f"{path}/notes", body="It was the pool")
    assert (
        "Recorded on the incident as a whole" in (await screen.get(later.headers["location"])).text
    )


async def test_the_lead_and_the_severity_are_taken_at_a_click(service: Service) -> None:
    screen = await Screen.of(service)
    made = await screen.send(await screen.get("/incidents/new"), "/incidents/new", TYPED)
    path = made.headers["location"]
    page = await screen.get(path)
    await screen.send(page, f"{path}/edit", having="owner")
    await screen.send(page, f"{path}/edit", having="severity", severity="LOW")
    item = (await service.client.get(f"/api/v1{path}", headers=screen.headers)).json()
    assert (item["owner"], item["severity"]) == ("Responder", "LOW")
    seen = await screen.get(path)
    assert "Assign to me" not in seen.text
    assert '<span class="owner">Responder</span>' in seen.text
    # Who is late sees who leads, on a form that has all fields.
    other = await Screen.of(service)
    late = await other.send(
        page,
        f"{path}/edit",
        {"csrf": forms_of(await other.get(path))[0].fields["csrf"]},
        having="owner",
        owner="Grace",
        expect=412,
    )
    assert "now: Responder" in late.text
    assert f'value="{TYPED["title"]}"' in late.text


@pytest.mark.parametrize("words", ["INC-8", " inc-8 "])
async def test_a_search_for_a_number_leads_to_its_incident(service: Service, words: str) -> None:
    who = await browser(service, "viewer")
    found = await service.client.get("/incidents", params={"q": words}, headers=who)
    assert (found.status_code, found.headers["location"]) == (303, "/incidents/INC-8")
    for other in ("INC-0", "INC-8 and more", f"INC-{'9' * 19}", "INC-\N{ARABIC-INDIC DIGIT ONE}"):
        listed = await service.client.get("/incidents", params={"q": other}, headers=who)
        assert listed.status_code == 200


# The insights


async def test_the_insights_count_what_the_asker_may_see(service: Service) -> None:
    api = await service.as_role("responder")
    name = f"s{uuid4().hex}"
    for minute in range(5):
        made = await service.record(api, services=[name], declared_at="2026-03-02T10:00:00Z")
        moved = {"to": "RESOLVED", "occurred_at": f"2026-03-02T10:{minute + 1:02}:00Z"}
        path = f"/api/v1/incidents/{made['id']}/transitions"
        assert (await service.client.post(path, json=moved, headers=api)).status_code == 201
    await service.record(api, services=[name], declared_at="2026-03-10T10:00:00Z", severity="LOW")
    await service.record(api, services=[name], title="Hidden", visibility="private")
    page = await service.client.get(
        f"/insights?service={name}", headers=await browser(service, "viewer")
    )
    assert page.status_code == 200
    told = text_of(page)
    assert "n = 5, 1 unknown, 0 contradictory" in told
    assert "The short line is the median, 3 min" in told
    assert "Not plotted: 1 still open." in told
    assert "2026-03-02 0 5 0 0" in told
    assert "2026-03-09 0 0 0 1" in told
    assert page.text.count('<circle class="mark"') == 5
    owner = await service.client.get(f"/insights?service={name}", headers=PAGE | api)
    assert "n = 5, 2 unknown, 0 contradictory" in text_of(owner)


async def test_insights_without_lengths_or_without_incidents_say_so(service: Service) -> None:
    who = await browser(service, "viewer")
    name = f"s{uuid4().hex}"
    empty = await service.client.get(f"/insights?service={name}", headers=who)
    assert "No incidents match this filter" in empty.text
    await service.record(await service.as_role("responder"), services=[name])
    page = text_of(
        await service.client.get(f"/insights?service={name}&phase=mitigate", headers=who)
    )
    assert "No matching incident has a known duration for this phase." in page
    assert "n = 0, 1 unknown, 0 contradictory" in page


_INCIDENTS = """
with made as (
  insert into incidents (id, title, description, severity, reporter, services, declared_at, created_by, timeline_at)
  select gen_random_uuid(), 'One of many', 'Made by a test', severity, 'test', array[$1], declared_at, 'test', now()
    from unnest($2::timestamptz[], $3::text[]) m(declared_at, severity) returning id, declared_at)
insert into incident_measures (incident_id, rules, status, seconds)
select m.id, 2, array_fill(p.status, array[5]), array_fill(p.seconds, array[5])
  from (select id, row_number() over (order by declared_at) as nth from made) m
  join unnest($4::text[], $5::float8[]) with ordinality p(status, seconds, nth) using (nth)"""


Told = tuple[datetime, str, DurationStatus, float | None]
"""When an incident was declared, its severity, and the duration of its phases."""


def pending(weeks_ago: int, severity: str = "LOW") -> Told:
    return MONDAY - timedelta(weeks=weeks_ago), severity, DurationStatus.PENDING, None


async def insights(service: Service, *told: Told) -> httpx2.Response:
    name, who = f"s{uuid4().hex}", await browser(service, "viewer")
    columns = [list(column) for column in zip(*told, strict=True)]
    await service.database.execute(_INCIDENTS, name, *columns)
    return await service.client.get(f"/insights?service={name}", headers=who)


def weeks(shown: httpx2.Response) -> dict[str, list[int]]:
    """Read the weeks of the table, which have incidents, and their counts from the highest severity."""
    found = re.findall(
        r'<th scope="row"><time datetime="([\d-]{10})">.*?</time></th>(.*?)</tr>', shown.text
    )
    return {monday: [int(n) for n in re.findall(r">(\d+)</td>", cells)] for monday, cells in found}


async def test_a_caption_counts_each_incident_once(service: Service) -> None:
    counts = {"ok": 23, "imprecise": 1, "invalid_order": 1, "pending": 2, "missing": 1}
    told = [
        (MONDAY, "LOW", DurationStatus(it), 2.0 if it == "ok" else None)
        for it in counts
        for _ in range(counts[it])
    ]
    assert text_of(await insights(service, *told)).count("n = 23, 4 unknown, 1 contradictory") == 2


async def test_a_duration_in_words_is_never_empty(service: Service) -> None:
    told = [(MONDAY, "LOW", DurationStatus.OK, seconds) for seconds in (0.0, 0.9, 1.0, 90.0)]
    shown = re.findall('class="took">([^<]*)', (await insights(service, *told)).text)
    assert sorted(shown) == ["1 min", "1 s", "under 1 s", "under 1 s"]


async def test_a_week_without_incidents_has_its_place(service: Service) -> None:
    shown = await insights(service, pending(5), pending(5), pending(0, "HIGH"), pending(0, "HIGH"))
    assert weeks(shown) == {"2026-01-26": [0, 0, 0, 2], "2026-03-02": [0, 2, 0, 0]}
    assert "High: 2 in 6 weeks. Medium: 0 in 6 weeks. Low: 2 in 6 weeks. At most 2" in text_of(
        shown
    )
    first, last = (
        float(x) for x in re.findall(r'class="mark severity-\w+" x="([^"]*)"', shown.text)[::-1]
    )
    assert last - first == pytest.approx(5 * 394 / 6, abs=0.2)


async def test_of_many_years_the_last_53_weeks_are_shown_and_the_rest_is_counted(
    service: Service,
) -> None:
    shown = await insights(
        service, pending(0), pending(52, "HIGH"), *[pending(53)] * 7, pending(700)
    )
    assert weeks(shown) == {"2025-03-03": [0, 1, 0, 0], "2026-03-02": [0, 0, 0, 1]}
    assert "the tallest bar is 1. 8 more happened before these 53 weeks." in text_of(shown)


@settings(
    max_examples=10,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.builds(
            pending, st.integers(0, 900) | st.integers(0, 60), st.sampled_from(["HIGH", "LOW"])
        ),
        min_size=1,
    )
)
async def test_each_incident_is_counted_once(service: Service, told: list[Told]) -> None:
    shown = await insights(service, *told)
    text, found = text_of(shown), weeks(shown)
    earlier = re.search(r"(\d+) more happened", text)
    assert sum(map(sum, found.values())) + (int(earlier[1]) if earlier else 0) == len(told)
    assert 4 <= int(re.findall(r"in (\d+) weeks", text)[0]) <= 53
    assert [*found] == sorted(found)
