"""The page of an incident, as a browser gets it and sends its forms, on a real database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from urllib.parse import urlencode
from uuid import uuid4

import httpx2
import pytest

from postfacta_app.timeline.view import anchor
from tests.app.live import Service
from tests.app.screen import forms_in
from tests.app.timeline.conftest import Body, Case, a_case

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
FIRING: Body = {
    "id": "firing", "kind": "alert_firing", "occurred_at": "2026-02-07T10:04:12Z", "title": "Checkout fails",
    "payload": {"instance": "web-7"}, "links": [{"url": "https://grafana.example/d/7", "title": "The panel"}],
}  # fmt: skip
DEPLOY: Body = {
    "id": "deploy", "kind": "change", "occurred_at": "2026-02-07T09:30:00Z", "title": "Deploy 7",
    "known_at": "2026-02-07T10:40:00Z", "precision": "minute",
}  # fmt: skip


class Seen:
    """A page as a user sees it."""

    def __init__(self, html: str) -> None:
        self.html = html
        self.forms = [{"action": form.action, **form.fields} for form in forms_in(html)]
        self.text = " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())

    @property
    def story(self) -> str:
        """The text of the timeline, without the drawing above it."""
        return Seen(self.html.partition('<ol class="moments">')[2]).text

    def form(self, path: str, **fields: str) -> dict[str, str]:
        """Find the form that posts there and has these fields."""
        at = [it for it in self.forms if it["action"].partition("?")[0].endswith(path)]
        found = [it for it in at if fields.items() <= it.items()]
        assert len(found) == 1, (path, fields, at)
        return found[0]


@dataclass
class Browser:
    """A signed-in user who looks at one incident."""

    case: Case
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return f"/incidents/INC-{self.case.number}"

    async def get(self, query: str = "", *, expect: int = 200) -> Seen:
        answer = await self.case.service.client.get(self.path + query, headers=self.headers)
        assert answer.status_code == expect, answer.text
        return Seen(answer.text)

    async def post(
        self,
        form: Mapping[str, str],
        *,
        expect: int = 303,
        also: Mapping[str, str] | None = None,
        **typed: str,
    ) -> httpx2.Response:
        fields = {
            name: value
            for name, value in {**form, **typed, **(also or {})}.items()
            if name != "action"
        }
        headers = {**self.headers, **SAME_ORIGIN}
        answer = await self.case.service.client.post(
            form["action"], content=urlencode(fields), headers=headers
        )
        assert answer.status_code == expect, answer.text
        return answer


async def at_work(service: Service, role: str = "responder", **fields: object) -> Browser:
    """Record an incident with a deployment and an alert, and look at it in a browser."""
    case = await a_case(service, **fields)
    await case.signals(FIRING, DEPLOY)
    return Browser(case, await service.cookie(await service.person(role)))


async def test_the_page_tells_what_happened_in_order_with_durations_and_evidence(
    service: Service,
) -> None:
    here = await at_work(service)
    await here.case.edit(
        "milestone", value={"name": "impact_started", "at": "2026-02-07T10:00:00Z"}
    )
    seen = await here.get("?order=oldest")
    order = [
        "≈09:30", "◆ Change", "Deploy 7", "Known 10:40", "34 min", "10:00:00 Impact started", "10:04:12 Detected",
        "▲ Alert", "Checkout fails", "10:05:00", "▬ Status", "Declared",
    ]  # fmt: skip
    places = [seen.story.find(words) for words in order]
    assert -1 not in places
    assert places == sorted(places)
    assert "Detected, +4 min" in seen.text
    assert "To detect 4 min derived" in seen.text
    # While it is open, a length that is not known yet is no news.
    assert "To mitigate" not in seen.text
    assert 'href="https://grafana.example/d/7" rel="noopener nofollow">The panel' in seen.html
    assert '"instance": "web-7"' in seen.text
    assert seen.html.count("<article") == 3
    assert seen.html.count('class="mark ') == 3
    assert seen.html.count("<h1") == 1


async def test_what_was_known_then_leaves_out_the_rest_and_takes_no_corrections(
    service: Service,
) -> None:
    here = await at_work(service)
    await here.case.edit("milestone", value={"name": "mitigated", "at": "2026-02-07T10:31:00Z"})
    assert "Mitigated" in (await here.get()).story
    await here.case.post("annotations", {"kind": "note", "body": "In hindsight"})
    beneath = {
        "kind": "note",
        "body": "Also later",
        "entry": {"source": here.case.source, "id": "firing"},
    }
    await here.case.post("annotations", beneath)
    now = (await here.get()).text
    assert all(words in now for words in ("In hindsight", "Also later"))
    seen = await here.get("?known_as_of=2026-02-07T10:10:00Z")
    assert not any(words in seen.text for words in ("Mitigated,", "In hindsight", "Also later"))
    assert "Mitigated" not in seen.story
    assert "Showing only what was known at 2026-02-07 10:10:00 UTC" in seen.text
    assert "Checkout fails" in seen.text
    # Nor does the header say what became known later.
    header = seen.html.partition('<main id="main">')[2].partition('id="timeline"')[0]
    assert not any(words in header for words in ("severity-", "status-", "Owner", "To detect"))
    assert "Deploy 7" not in seen.text
    assert not [it for it in seen.forms if "INC-" in it["action"]]
    assert "Deploy 7" in (await here.get("?known_as_of=2026-02-07T10:40:00Z")).text


async def test_a_move_needs_what_it_needs_and_comes_back_with_what_was_typed(
    service: Service,
) -> None:
    here = await at_work(service)
    close = (await here.get()).form("/moves", to="CLOSED")
    refused = await here.post(close, expect=422, reason="It was <nothing>", occurred_at="soon")
    back = Seen(refused.text).form("/moves", to="CLOSED")
    assert back["occurred_at"] == "soon"
    assert back["key"] == close["key"]
    assert "It was &lt;nothing&gt;" in refused.text
    assert 'href="#move-CLOSED-occurred_at"' in refused.text
    assert 'id="move-CLOSED-occurred_at-wrong"' in refused.text
    await here.post(back, expect=422, reason="It was nothing", occurred_at="")
    done = await here.post(back, outcome="false_alarm", occurred_at="2026-02-07 11:00")
    assert done.headers["location"] == here.path
    seen = await here.get()
    assert "Closed after 55 min False alarm" in seen.text
    assert "after 55 min" in seen.text
    reopen = seen.form("/moves", to="IN_PROGRESS")
    await here.post(reopen, expect=422)
    await here.post(reopen, reason="It is back")
    assert "It is back" in (await here.get()).text


async def test_a_note_that_is_sent_twice_is_there_once(service: Service) -> None:
    here = await at_work(service)
    form = next(it for it in (await here.get()).forms if "occurred_at" in it and "body" in it)
    typed = {"kind": "hypothesis", "body": "The cache is cold", "occurred_at": "2026-02-07 10:06"}
    first = await here.post(form, also=typed)
    again = await here.post(form, also=typed)
    assert again.headers["location"] == first.headers["location"]
    seen = await here.get()
    assert seen.html.count("<h4>The cache is cold</h4>") == 1
    assert first.headers["location"].endswith("#capture-body")
    assert "● Hypothesis Open" in seen.story
    decided = {"kind": "decision", "body": "Roll back", "occurred_at": "2026-02-07T10:07:00Z"}
    await here.case.post("annotations", decided)
    seen = await here.get()
    assert "■ Decision" in seen.story
    assert 'class="mark sign-decision"' in seen.html


async def test_a_note_is_shown_as_exactly_as_its_time_was_typed(service: Service) -> None:
    here = await at_work(service)
    form = next(it for it in (await here.get()).forms if "occurred_at" in it and "body" in it)
    given = {
        "2026-02-07 10:06": "≈10:06",
        "2026-02-07 10:07:30": "10:07:30",
        "2026-02-07": "that day",
    }
    for typed in given:
        await here.post(
            form, kind="note", body=f"Typed {typed}.", occurred_at=typed, key=f"k{len(typed)}"
        )
    await here.post(form, kind="note", body="Just now", occurred_at="now", key="now")
    kept = await here.case.get("annotations")
    assert [it["precision"] for it in kept["items"]] == ["minute", "second", "day", "exact"]
    story = (await here.get()).story
    for typed, shown in given.items():
        assert re.search(
            rf"{shown} ● Note recorded .{{16}} (Pin : Typed {typed}\. )?Typed {typed}\.", story
        ), story
    refused = await here.post(
        form, expect=422, kind="note", body="x", occurred_at="2026-13-45", key="odd"
    )
    assert 'value="2026-13-45"' in refused.text


async def test_what_people_recorded_later_than_it_happened_says_so(service: Service) -> None:
    here = await at_work(service)
    form = next(it for it in (await here.get()).forms if "occurred_at" in it and "body" in it)
    before = (await here.get()).story.count(" recorded ")
    await here.post(form, kind="note", body="At once", occurred_at="-2m", key="soon")
    assert (await here.get()).story.count(" recorded ") == before
    await here.post(
        form, kind="note", body="From memory", occurred_at="2026-02-07 10:06", key="late"
    )
    today = f"{here.case.service.now:%Y-%m-%d}"
    assert re.search(
        rf"recorded {today} \d\d:\d\d (Pin : From memory )?From memory", (await here.get()).story
    )


async def test_remarks_stand_beneath_their_entry_or_under_the_timeline_with_a_name(
    service: Service,
) -> None:
    here = await at_work(service)
    seen = await here.get()
    beneath = next(it for it in seen.forms if it.get("id") == "firing" and "body" in it)
    await here.post(beneath, kind="question", body="Who was paged?")
    whole = next(it for it in seen.forms if "occurred_at" in it and "body" in it)
    await here.post(whole, kind="note", body="Nobody was <b>hurt</b>")
    seen = await here.get()
    assert "Question Open Responder, " in seen.text
    # The newest first, while it is open.
    places = [seen.story.find(words) for words in ("Declared", "Checkout fails", "Who was paged?")]
    assert places == sorted(places)
    assert "Nobody was &lt;b&gt;hurt&lt;/b&gt;" in seen.html
    assert seen.text.find("Notes on the incident as a whole") < seen.text.find("Nobody was")


async def test_a_remark_is_said_in_other_words_comes_to_something_and_is_taken_back(
    service: Service,
) -> None:
    here = await at_work(service)
    seen = await here.get()
    beneath = next(it for it in seen.forms if it.get("id") == "firing" and "body" in it)
    await here.post(beneath, kind="hypothesis", body="The cache is cold")
    root = (await here.case.get("annotations"))["items"][0]["id"]
    form = (await here.get()).form(f"/notes/{root}")
    assert (form["state"], form["was-state"]) == ("open", "open")
    done = await here.post(form, state="refuted", body="The cache was cold")
    assert done.headers["location"] == f"{here.path}#r-{root}"
    seen = await here.get()
    assert "Hypothesis Refuted" in seen.text
    assert "The cache was cold" in seen.story
    assert f'id="r-{root}"' in seen.html
    # Whoever saw the older version is told, and keeps what was typed.
    late = await here.post(
        {**form, "key": "another"}, expect=412, state="supported", body="It was my own idea"
    )
    assert "now: The cache was cold (" in late.text
    assert "It was my own idea" in late.text
    # A hypothesis is never answered.
    wrong = await here.post(seen.form(f"/notes/{root}"), expect=422, state="answered", body="It is")
    assert "of a hypothesis is one of: open, supported, refuted" in wrong.text
    retract = (await here.get()).form(f"/notes/{root}")
    refused = await here.post(retract, expect=422, op="retract", state="refuted")
    assert "is required to retract a note" in refused.text
    await here.post({**retract, "key": "once-more"}, op="retract", reason="It was warm")
    seen = await here.get()
    assert "The cache was cold" not in (await here.get()).story.partition("retracted note")[0]


async def test_a_retracted_note_says_why_and_comes_back(service: Service) -> None:
    here = await at_work(service)
    empty = next(it for it in (await here.get()).forms if "occurred_at" in it and "body" in it)
    await here.post(empty, kind="note", body="It was DNS", occurred_at="2026-02-07 10:05")
    root = (await here.case.get("annotations"))["items"][0]["id"]
    mine = (await here.get()).form(f"/notes/{root}")
    await here.post({**mine, "key": "a-change"}, body="It was the cache")
    seen = await here.get()
    assert re.search(r"edited 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", seen.text)
    assert ": It was DNS" in seen.text
    await here.post(seen.form(f"/notes/{root}"), op="retract", reason="Named a customer")
    reader = Browser(here.case, await service.cookie(await service.person("viewer")))
    seen = await reader.get()
    assert seen.text.count("It was the cache") == 1
    assert re.search(r"1 retracted note Note retracted by .*: Named a customer", seen.text)
    assert "Restore" not in seen.text
    # Only its author and administrators restore it, once.
    back = (await here.get()).form(f"/notes/{root}", op="restore")
    csrf = next(form["csrf"] for form in seen.forms if "csrf" in form)
    await reader.post({**back, "csrf": csrf, "key": "theirs"}, expect=403)
    await here.post(back)
    await here.post({**back, "key": "once-more"}, expect=404)
    seen = await reader.get()
    assert "retracted note" not in seen.text
    assert "It was the cache" in seen.story
    history = await service.client.get(f"{reader.path}/history", headers=reader.headers)
    words = Seen(history.text).text
    assert re.search(
        "Restored a note: “It was the cache” .*"
        "Retracted a note: “It was the cache” Named a customer .*"
        "Changed a note: “It was the cache”, before: “It was DNS” .*"
        "Added a note: “It was DNS” .*Declared",
        words,
    )
    admin = await service.cookie(await service.person("admin"))
    history = await service.client.get(f"{reader.path}/history", headers=admin)
    words = Seen(history.text).text
    assert "annotation." not in words
    assert words.count("Retracted a note") == 1
    assert (await here.get("?known_as_of=2026-02-07T10:10:00Z")).text.count("edited 20") == 0


async def test_an_annotation_is_changed_by_its_author_through_its_incident(
    service: Service,
) -> None:
    here, elsewhere = await at_work(service), await at_work(service)
    whole = next(it for it in (await here.get()).forms if "occurred_at" in it and "body" in it)
    await here.post(whole, kind="note", body="Said once")
    root = (await here.case.get("annotations"))["items"][0]["id"]
    mine = (await here.get()).form(f"/notes/{root}")
    moved = {**mine, "action": f"{elsewhere.path}/notes/{root}"}
    await here.post(moved, expect=404, body="Changed")
    await here.post({**mine, "action": f"{here.path}/notes/nothing"}, expect=404, body="Changed")
    other = Browser(here.case, await service.cookie(await service.person("responder")))
    seen = await other.get()
    assert "Said once" in seen.text
    assert not [it for it in seen.forms if root in it["action"]]
    csrf = next(it["csrf"] for it in seen.forms if "csrf" in it)
    await other.post({**mine, "csrf": csrf, "key": "theirs"}, expect=403, body="Changed")
    admin = Browser(here.case, await service.cookie(await service.person("admin")))
    await admin.post((await admin.get()).form(f"/notes/{root}"), body="Put right")
    assert "Put right" in (await here.get()).text


async def test_a_signal_is_detached_and_can_be_attached_again(service: Service) -> None:
    here = await at_work(service)
    firing = next(
        it["signal_id"] for it in (await here.case.get("timeline"))["items"] if it["id"] == "firing"
    )
    form = (await here.get()).form("/edits", op="detach", signal=firing)
    await here.post(form, expect=404, signal="nothing")
    await here.post(form)
    assert "Checkout fails" not in (await here.get()).text
    await here.post({**form, "key": "again"}, expect=404)
    found = await here.get(
        f"?{urlencode({'from': '2026-02-07 10:00', 'source': here.case.source})}"
    )
    await here.post(found.form("/edits", op="attach"), also={f"signal-{firing}": "on"})
    assert "Checkout fails" in (await here.get()).story


async def test_incidents_are_linked_from_either_end_and_parted(service: Service) -> None:
    here, there = await at_work(service), await at_work(service)
    form = (await here.get()).form("/links")
    refused = await here.post(
        form, expect=422, type="follows", to="the last one", note="Same <cause>"
    )
    assert 'href="#link-to"' in refused.text
    assert 'value="Same &lt;cause&gt;"' in refused.text
    await here.post(form, type="follows", to=f"inc-{there.case.number}", note="Same <cause>")
    await here.post({**form, "key": "another"}, type="related", to=f"INC-{there.case.number}")
    assert (
        f"Follows INC-{there.case.number} Checkout is down Open: Same <cause>"
        in (await here.get()).text
    )
    over_there = Browser(there.case, here.headers)
    seen = await over_there.get()
    assert f"Is followed by INC-{here.case.number}" in seen.text
    assert f"Related to INC-{here.case.number}" in seen.text
    await over_there.post(seen.form("/links", op="unlink", type="follows"))
    seen = await here.get()
    assert "Follows INC-" not in seen.text
    await here.post(seen.form("/links", op="unlink", type="related"))
    assert "Related to INC-" not in (await over_there.get()).text
    assert await here.case.get("links") == {"items": []}


async def test_what_was_typed_is_shown_to_who_is_signed_out_meanwhile(service: Service) -> None:
    here = await at_work(service)
    form = next(it for it in (await here.get()).forms if "occurred_at" in it and "body" in it)
    gone = {
        "Accept": "text/html",
        "Cookie": "postfacta=" + "x" * 43,
        "Referer": f"http://localhost{here.path}?view=all",
    }
    answer = await Browser(here.case, gone).post(form, expect=401, body="An hour of <i>writing</i>")
    assert "An hour of &lt;i&gt;writing&lt;/i&gt;" in answer.text
    assert f'href="/signin?next={here.path}"' in answer.text
    assert form["csrf"] not in answer.text
    # Not what a page of others sends, lest it look like ours.
    headers = {**gone, "Sec-Fetch-Site": "cross-site", "Content-Type": SAME_ORIGIN["Content-Type"]}
    led = await service.client.post(form["action"], content="body=Come+here", headers=headers)
    assert (led.status_code, led.headers["location"]) == (303, f"/signin?next={here.path}")
    # A page is found again as it was asked for.
    seen = await service.client.get("/incidents?status=OPEN", headers={"Accept": "text/html"})
    assert seen.headers["location"] == "/signin?next=/incidents%3Fstatus%3DOPEN"


async def test_a_corrected_time_shows_the_old_one_and_who_and_why(service: Service) -> None:
    here = await at_work(service)
    form = (await here.get()).form("/edits", op="set_time", id="firing")
    assert form["value"] == "2026-02-07 10:04:12.000000"
    await here.post(form, expect=422, value="about ten", reason="By the log")
    assert (
        "By the log"
        in (await here.post(form, expect=422, value="about ten", reason="By the log")).text
    )
    done = await here.post(form, value="2026-02-07 10:02", reason="By the log")
    assert done.headers["location"].startswith(f"{here.path}#e-")
    seen = await here.get()
    assert "≈10:02" in seen.text
    assert '<s><span class="unseen">Originally: </span>10:04:12</s>' in seen.html
    assert "Set time by Responder, " in seen.text
    assert ": By the log" in seen.text
    # A clock is of the day on which the entry is shown.
    clock = (await here.get()).form("/edits", op="set_time", id="firing")
    await here.post(clock, value="10.03", reason="By the other log")
    again = (await here.get()).form("/edits", op="set_time", id="firing")
    assert again["value"] == "2026-02-07 10:03"
    await here.post(again, value="-15m", reason="It came again")
    again = (await here.get()).form("/edits", op="set_time", id="firing")
    assert again["day"] > "2026-02-07"
    await here.post(again, value="", reason="It was right")
    assert "≈10:02" not in (await here.get()).text


async def test_what_is_hidden_is_shown_on_request_and_can_come_back(service: Service) -> None:
    here = await at_work(service)
    hide = (await here.get()).form("/edits", op="hide", id="firing")
    await here.post(hide, expect=422)
    await here.post(hide, reason="A test alert")
    seen = await here.get()
    assert "Checkout fails" not in seen.text
    assert "Show 1 hidden" in seen.text
    seen = await here.get("?hidden=true")
    assert ": A test alert" in seen.text
    back = seen.form("/edits", op="unhide", id="firing")
    done = await here.post(back)
    assert done.headers["location"].startswith(f"{here.path}?hidden=true#e-")
    assert "Checkout fails" in (await here.get()).text


async def test_the_narrative_holds_notes_and_actions_and_what_was_pinned(
    service: Service,
) -> None:
    here = await at_work(service)
    restarted = {**DEPLOY, "id": "restart", "kind": "action", "title": "Restarted the pods"}
    await here.case.signals(restarted)
    headers = await service.machine("signals:write", "incidents:write", source="robot")
    paged = {**FIRING, "id": "paged", "title": "Paging Ada"}
    await here.case.send(
        "POST", "/api/v1/signals", {"incident": here.case.id, "items": [paged]}, headers=headers
    )
    seen = await here.get("?view=narrative")
    assert "Restarted the pods" in seen.text
    assert "Declared" in seen.text
    # A person imported it, and it is a machine's fact all the same.
    assert "Deploy 7" not in seen.text
    assert "Paging Ada" not in seen.text
    await here.post((await here.get()).form("/edits", op="pin", id="paged"))
    seen = await here.get("?view=narrative")
    assert "Paging Ada" in seen.text
    await here.post(seen.form("/edits", op="unpin", id="paged"))
    assert "Paging Ada" not in (await here.get("?view=narrative")).text


async def test_titles_clocks_and_milestones_are_put_right(service: Service) -> None:
    here = await at_work(service)
    seen = await here.get()
    await here.post(seen.form("/edits", op="set_title", id="deploy"), value="Deploy 7 of checkout")
    clock = seen.form("/edits", op="clock_offset")
    await here.post(
        clock, expect=422, source=here.case.source, value="two minutes", reason="NTP was off"
    )
    await here.post(clock, source=here.case.source, value="120", reason="NTP was off")
    milestone = seen.form("/edits", op="milestone")
    await here.post(milestone, name="mitigated", value="2026-02-07 10:31")
    seen = await here.get()
    assert "Deploy 7 of checkout Originally: Deploy 7" in seen.text
    assert seen.text.count("+2 min clock") == 2
    assert "10:06:12" in seen.text
    assert "≈10:31 Mitigated" in seen.text
    assert "known_as_of=2026-02-07T10%3A31%3A00" in seen.html


async def test_unassigned_signals_are_found_and_attached(service: Service) -> None:
    here = await at_work(service)
    case = here.case
    loose = {
        "id": "late",
        "kind": "log",
        "occurred_at": "2026-02-07T10:20:00Z",
        "title": "Out of memory",
    }
    await case.post("/api/v1/signals", {"items": [{**loose, "source": f"ci-{case.number}"}]})
    assert "Out of memory" not in (await here.get()).text
    query = urlencode({"from": "2026-02-07 10:00", "to": "2026-02-07 11:00", "source": case.source})
    seen = await here.get(f"?{query}")
    assert "1 found" in seen.text
    assert "Out of memory" in seen.text
    attach = seen.form("/edits", op="attach")
    await here.post(attach, expect=422)
    named = seen.html.partition('name="signal-')[2].partition('"')[0]
    await here.post(attach, also={f"signal-{named}": "on"})
    seen = await here.get(f"?{query}")
    assert "No unassigned signal matches" in seen.text
    assert "Out of memory" in seen.text
    assert "must be a time in UTC" in (await here.get("?from=yesterday")).text


async def test_signals_of_its_services_are_attached_in_two_clicks(service: Service) -> None:
    name = f"svc-{uuid4().hex}"
    here = await at_work(service, services=[name, "search"])
    assert "Unassigned signals of" in (await here.get()).text
    loose = {"kind": "log", "occurred_at": "2026-02-07T10:20:00Z", "source": name}
    items = [
        {**loose, "id": "ours", "title": "Out of memory", "services": [name]},
        {**loose, "id": "theirs", "title": "Disk is slow", "services": [f"{name[:40]}-other"]},
    ]
    await here.case.post("/api/v1/signals", {"items": items})
    link = re.search(r'href="/incidents/INC-\d+([^"]*)#search"', (await here.get()).html)
    assert link
    found = await here.get(unescape(link[1]))
    attach = found.form("/edits", op="attach")
    assert len([field for field in attach if field.startswith("signal-")]) == 1
    await here.post(attach)
    story = (await here.get()).story
    assert "Out of memory" in story
    assert "Disk is slow" not in story


async def test_a_form_from_elsewhere_or_without_its_token_changes_nothing(service: Service) -> None:
    here = await at_work(service)
    pin = (await here.get()).form("/edits", op="pin", id="firing")
    await here.post(pin, expect=403, csrf="0" * 64)
    elsewhere = Browser(here.case, {**here.headers, "Origin": "https://elsewhere.example"})
    answer = await here.case.service.client.post(
        pin["action"],
        content=urlencode(pin),
        headers={**elsewhere.headers, "Sec-Fetch-Site": "cross-site"},
    )
    assert answer.status_code == 403
    assert (await here.case.get("edits"))["items"][2:] == []


async def test_a_viewer_annotates_and_corrects_nothing(service: Service) -> None:
    here = await at_work(service, "viewer")
    seen = await here.get()
    assert {it["action"].rpartition("/")[2] for it in seen.forms if "INC-" in it["action"]} == {
        "notes"
    }
    assert "Decision" not in seen.text
    edit = {
        "action": f"{here.path}/edits",
        "csrf": seen.forms[-1]["csrf"],
        "op": "pin",
        "source": "a",
        "id": "b",
    }
    await here.post(edit, expect=403)


async def test_an_archived_incident_has_no_forms_and_takes_none(service: Service) -> None:
    here = await at_work(service)
    pin = (await here.get()).form("/edits", op="pin", id="firing")
    admin = await service.as_role("admin")
    path = f"/api/v1/incidents/{here.case.id}"
    await service.client.delete(path, headers={**admin, "If-Match": '"inc-1"'})
    seen = await here.get()
    assert "Archived" in seen.text
    assert not [it for it in seen.forms if "INC-" in it["action"]]
    assert "is archived" in (await here.post(pin, expect=409)).text


async def test_an_odd_op_and_an_odd_view_are_refused(service: Service) -> None:
    here = await at_work(service)
    await here.get("?view=odd", expect=400)
    pin = (await here.get()).form("/edits", op="pin", id="firing")
    await here.post(pin, expect=422, op="destroy")


async def test_an_empty_timeline_says_so(service: Service) -> None:
    case = await a_case(service)
    here = Browser(case, await service.cookie(await service.person("viewer")))
    declared = (await case.get("timeline"))["items"][0]
    await case.edit("hide", (declared["source"], declared["id"]), reason="Only to see")
    seen = await here.get()
    assert (
        "Declared"
        not in seen.text.partition("Timeline Everything")[2].partition("Show 1 hidden")[0]
    )
    assert (await here.get("?view=narrative&known_as_of=1999-01-01T00:00:00Z")).html.count(
        "<article"
    ) == 0


async def test_a_long_timeline_is_turned_page_by_page(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_app.incident_page._PAGE", 3)
    case = await a_case(service)
    await case.signals(
        *(
            {
                **DEPLOY,
                "id": f"d{n}",
                "title": f"Deploy {n}",
                "occurred_at": f"2026-02-07T09:0{n}:00Z",
            }
            for n in range(7)
        )
    )
    page = f"/incidents/INC-{case.number}"
    pages = [
        (await case.send("GET", f"{page}?order=oldest&repeats=each&page={n}")).text
        for n in (1, 2, 3, 9)
    ]
    found = [re.findall(r"<h4>([^<]+)</h4>", it) for it in pages]
    assert found[:3] == [
        [f"Deploy {n}" for n in (0, 1, 2)],
        [f"Deploy {n}" for n in (3, 4, 5)],
        ["Deploy 6", "Declared"],
    ]
    assert found[3] == found[2]
    assert "Entries 4 to 6 of 8." in " ".join(pages[1].split())
    # A milestone stands on the page of its time alone.
    assert [it.count('id="m-detected"') for it in pages[:3]] == [0, 0, 1]
    newest = [(await case.send("GET", f"{page}?repeats=each&page={n}")).text for n in (1, 3)]
    assert [re.findall(r"<h4>([^<]+)</h4>", it) for it in newest] == [
        ["Declared", "Deploy 6", "Deploy 5"],
        ["Deploy 1", "Deploy 0"],
    ]
    assert "Entries 7 to 8 of 8, the newest first." in " ".join(newest[1].split())
    assert [it.count('id="m-detected"') for it in newest] == [1, 0]
    assert re.search(r'page=2[^"]*#timeline" rel="prev">Later', newest[1])
    place = anchor(case.source, "d4")
    turned = (await case.send("GET", f"{page}?entry={place}")).text
    assert f'id="{place}"' in turned
    edited = (await case.send("GET", f"{page}?edit={place}")).text
    assert "Correct the time" in edited
    assert f'id="{place}"' in edited
    unknown = (await case.send("GET", f"{page}?order=oldest&repeats=each&entry=e-nothing")).text
    assert re.findall(r"<h4>([^<]+)</h4>", unknown) == found[0]


async def repeating(service: Service) -> Browser:
    """Send the same nine times, of which one is pinned and one was written about."""
    here = await at_work(service)
    case, source = here.case, f"storm-{here.case.number}"
    noise = [
        {"kind": "log", "source": source, "id": f"n{n}", "title": f"Disk is 9{n} % full", "occurred_at": f"2026-02-07T10:00:0{n}Z"}
        for n in range(9)
    ]  # fmt: skip
    await case.signals(*noise)
    entry = {"source": f"manual/{source}", "id": "n5"}
    await case.edit("pin", (entry["source"], "n7"))
    await case.post("annotations", {"kind": "note", "body": "That one", "entry": entry})
    return here


def disks(seen: Seen) -> list[str]:
    """Return the digit of each title, `#` for a pattern."""
    return re.findall(r"<h4>Disk is 9?([\d#]) % full</h4>", seen.html)


async def test_repeats_of_a_long_timeline_share_a_line_that_opens(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await repeating(service)
    assert len(disks(await here.get("?"))) == 9
    monkeypatch.setattr("postfacta_app.incident_page._PAGE", 8)
    seen = await here.get("?")
    assert disks(seen) == ["7", "5", "#"]
    assert (
        "7 titles: Disk is 90 % full; Disk is 91 % full; Disk is 92 % full; Disk is 93 % full;"
        " Disk is 94 % full; …" in seen.text
    )
    assert "7, 10:00:00 to 10:00:08" in seen.text
    total = len((await here.case.get("timeline"))["items"])
    assert f"{total} entries in {total - 6} lines" in seen.text
    opened = re.search(r'href="/incidents/INC-\d+(\?group=[^"#]+)#timeline">\S 7,', seen.html)
    assert opened
    inner = await here.get(opened[1])
    assert disks(inner) == ["8", "6", "4", "3", "2", "1", "0"]
    assert "Showing 7 signals of one pattern." in inner.text
    assert "Fold repeated signals" in (await here.get("?repeats=each&page=2")).text
    assert "Showing 0 signals of one pattern." in (await here.get(f"?group={2**63}.0.1")).text
    for odd in ("group=1.2", "group=x", f"group={10**19}.0.1", f"group=0.{2**62}.{2**62}"):
        assert (
            await here.case.send("GET", f"/incidents/INC-{here.case.number}?{odd}")
        ).status_code == 400
    whole = await here.case.get("timeline")
    assert whole["items"] == (await here.case.get("export"))["timeline"]["entries"]
    place = anchor(f"manual/storm-{here.case.number}", "n8")
    assert f'id="{place}"' in (await here.get(f"?entry={place}")).html


async def test_a_form_on_a_later_page_leads_back_to_its_entry(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postfacta_app.incident_page._PAGE", 3)
    case = await a_case(service)
    await case.signals(
        *({**FIRING, "id": f"f{n}", "occurred_at": f"2026-02-07T10:0{n}:00Z"} for n in range(6))
    )
    page, place = f"/incidents/INC-{case.number}", anchor(case.source, "f5")
    fields = urlencode({"op": "pin", "source": case.source, "id": "f5", "key": "k" * 16})
    headers = {**case.headers, **SAME_ORIGIN}
    sent = f"{page}/edits?page=2&view=all"
    answer = await service.client.post(sent, content=fields, headers=headers)
    assert answer.headers["location"] == f"{page}?view=all&entry={place}#{place}"


async def test_who_and_why_is_shown_however_many_edits_came_before(service: Service) -> None:
    case = await a_case(service)
    await case.signals(FIRING)
    entry = (case.source, "firing")
    for n in range(3):
        await case.edit("set_title", entry, value={"title": f"Named {n}"}, reason=f"Because {n}")
    await case.edit("hide", entry, reason="Noise")
    await case.edit("unhide", entry)
    text = (await case.send("GET", f"/incidents/INC-{case.number}")).text
    assert "Because 2" in text
    assert not {"Because 0", "Because 1", "Noise"} & set(re.findall(r"Because \d|Noise", text))


async def test_a_timeline_is_filtered_by_the_text_of_titles(service: Service) -> None:
    here = await at_work(service)
    assert (await here.case.titles("?text=CHECKOUT")) == ["Checkout fails"]
    assert (await here.case.titles("?text=100%25")) == []
    seen = await here.get("?text=deploy+7&view=all")
    assert "Deploy 7" in seen.story
    assert "Checkout fails" not in seen.story
    assert 'value="deploy 7"' in seen.html
    assert "No entry matches." in (await here.get("?text=nowhere")).text
