"""The pages of post-mortems.

Edited by section, moved, compared, restored, and marked when late facts arrive.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.desk import FULL, Desk
from tests.app.live import Service
from tests.app.screen import Screen, forms_of

ENTRY = {"source": "manual/ci", "id": "deploy 7"}
FACTOR: dict[str, Any] = {
    "slug": "no-canary",
    "category": "change",
    "statement": "All at *once*.",
    "safeguard": "Staging",
    "why_it_made_sense": None,
    "evidence": [ENTRY],
}
# Each section as it is typed, and what is then stored.
SECTIONS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "summary": ({"summary": "Down for\nan hour. "}, {"summary": "Down for\nan hour."}),
    "impact": (
        {
            "impact__description": "Nobody could pay.",
            "impact__users_affected": "4100",
            "impact__quantities__0__name": "orders lost",
            "impact__quantities__0__value": "310.5",
            "impact__quantities__0__unit": "EUR",
        },
        {
            "impact": {
                "description": "Nobody could pay.",
                "users_affected": 4100,
                "quantities": [{"name": "orders lost", "value": 310.5, "unit": "EUR"}],
            }
        },
    ),
    "detection": (
        {"detection__how": "A customer called.", "detection__could_be_sooner": "Yes."},
        {"detection": {"how": "A customer called.", "could_be_sooner": "Yes."}},
    ),
    "trigger": (
        {
            "trigger__kind": "config",
            "trigger__description": "0 ms",
            "trigger__entry": "manual/ci deploy 7",
        },
        {"trigger": {"kind": "config", "description": "0 ms", "entry": ENTRY}},
    ),
    "response": ({"response": "Rolled back."}, {"response": "Rolled back."}),
    "factors": (
        {
            "factors__0__slug": "no-canary",
            "factors__0__category": "change",
            "factors__0__statement": "All at *once*.",
            "factors__0__safeguard": "Staging",
            "factors__0__evidence": "manual/ci deploy 7",
        },
        {"factors": [FACTOR]},
    ),
    "went_well": ({"went_well": "One\nTwo\n three"}, {"went_well": ["One", "Two\nthree"]}),
    "open_questions": ({"open_questions": "Why?"}, {"open_questions": ["Why?"]}),
}


@pytest.fixture
async def screen(service: Service) -> Screen:
    return await Screen.of(service)


def path_of(desk: Desk, below: str = "") -> str:
    return f"/incidents/{desk.ref}/postmortem{below}"


async def write(screen: Screen, desk: Desk, section: str, fields: dict[str, str]) -> None:
    path = path_of(desk, f"/edit/{section}")
    answer = await screen.send(await screen.get(path), path, fields, having="rev")
    assert answer.headers["location"] == path_of(desk, f"#{section}")


async def deployed(desk: Desk) -> None:
    """Attach the entry that is evidence."""
    item = {"source": "ci", "id": "deploy 7", "kind": "change", "title": "Deploy 7", "occurred_at": "2026-02-07T10:00:00Z"}  # fmt: skip
    sent = {"incident": desk.incident["id"], "items": [item]}
    await desk.send("POST", "/api/v1/signals", expect=200, json=sent)


async def test_all_sections_are_written_one_at_a_time_and_read_back(
    desk: Desk, screen: Screen
) -> None:
    for section in ("trigger", "factors"):
        path = path_of(desk, f"/edit/{section}")
        fields, _ = SECTIONS[section]
        refused = await screen.send(await screen.get(path), path, fields, having="rev", expect=422)
        assert "anual/ci deploy 7 is not on the timeline" in refused.text
    await deployed(desk)
    expected: dict[str, Any] = {}
    for section, (fields, stored) in SECTIONS.items():
        await write(screen, desk, section, fields)
        expected |= stored
    revision = await desk.get("/postmortem")
    assert revision["rev"] == len(SECTIONS)
    assert {name: revision["content"][name] for name in expected} == expected
    for section, (fields, _) in SECTIONS.items():
        form = next(
            it
            for it in forms_of(await screen.get(path_of(desk, f"/edit/{section}")))
            if "rev" in it.fields
        )
        shown = {name.replace("-", "__"): text for name, text in form.fields.items()}
        assert {name: shown[name] for name in fields if name != "went_well"} == {
            name: text.strip() for name, text in fields.items() if name != "went_well"
        }
    page = (await screen.get(path_of(desk))).text
    for words in (
        "4,100",
        "310.5 EUR",
        "<em>once</em>",
        "Deploy 7</a>",
        "Safeguard that failed",
        "Rolled back.",
    ):
        assert words in page


async def test_the_header_shows_severity_span_and_people(desk: Desk, screen: Screen) -> None:
    await desk.send("POST", "/transitions", expect=201, json={"to": "RESOLVED"})
    header = (await screen.get(path_of(desk))).text.partition('<dl class="facts">')[2]
    header = header.partition("</dl>")[0]
    for words in (">High<", "<dt>From</dt>", ", after ", "no owner, reported by Responder"):
        assert words in header


async def test_a_second_click_writes_nothing_more(desk: Desk, screen: Screen) -> None:
    path = path_of(desk, "/edit/summary")
    page = await screen.get(path)
    for _ in range(2):
        await screen.send(page, path, having="rev", summary="Down.", message="First words")
    revisions = await desk.get("/postmortem/revisions")
    assert [(it["rev"], it["message"]) for it in revisions["items"]] == [(1, "First words")]


async def test_what_breaks_a_rule_comes_back_with_all_that_was_typed(
    desk: Desk, screen: Screen
) -> None:
    path = path_of(desk, "/edit/factors")
    answer = await screen.send(
        await screen.get(path), path, expect=422, having="rev",
        factors__0__slug="No Canary", factors__0__statement="Typed <b>carefully</b>",
    )  # fmt: skip
    assert "Typed &lt;b&gt;carefully&lt;/b&gt;" in answer.text
    assert 'href="#f-factors-0-slug">Short name (no. 1)' in answer.text
    assert (
        'id="f-factors-0-slug" name="factors-0-slug" maxlength="63" value="No Canary"'
        in answer.text
    )
    assert 'aria-describedby="e-factors-0-slug h-factors-0-slug" aria-invalid="true"' in answer.text
    # The same form, mended, is saved: its key has not been used.
    await screen.send(
        answer, path, having="rev", factors__0__slug="no-canary", factors__0__category="change"
    )
    assert (await desk.get("/postmortem"))["content"]["factors"][0][
        "statement"
    ] == "Typed <b>carefully</b>"


async def test_a_row_more_is_offered_after_saving(desk: Desk, screen: Screen) -> None:
    path = path_of(desk, "/edit/impact")
    answer = await screen.send(
        await screen.get(path), path, having="rev", more="yes", impact__quantities__0__name="a", impact__quantities__0__value="1",
    )  # fmt: skip
    assert answer.headers["location"] == path
    fields = next(it.fields for it in forms_of(await screen.get(path)) if "rev" in it.fields)
    assert fields["impact-quantities-0-value"] == "1"
    assert fields["impact-quantities-1-name"] == ""


async def test_a_concurrent_writer_keeps_the_input_and_sees_the_current_text(
    desk: Desk, screen: Screen
) -> None:
    path = path_of(desk, "/edit/summary")
    page = await screen.get(path)
    await desk.write(0, {"summary": "The words of *another*."}, expect=201)
    answer = await screen.send(page, path, expect=412, having="rev", summary="My words.")
    assert "someone else wrote a new revision in the meantime" in answer.text
    assert "The words of <em>another</em>." in answer.text
    assert (
        next(it for it in forms_of(answer) if "rev" in it.fields).fields["summary"] == "My words."
    )
    await screen.send(answer, path, having="rev")
    revision = await desk.get("/postmortem")
    assert (revision["rev"], revision["content"]["summary"]) == (2, "My words.")


async def test_two_who_edit_different_sections_keep_both(desk: Desk, screen: Screen) -> None:
    await desk.write(0, FULL, expect=201)
    path = path_of(desk, "/edit/response")
    page = await screen.get(path)
    await desk.write(1, {**FULL, "summary": "Other words."})
    await screen.send(page, path, having="rev", response="We rolled back.")
    content = (await desk.get("/postmortem"))["content"]
    assert (content["summary"], content["response"]) == ("Other words.", "We rolled back.")


async def test_a_form_that_went_out_before_with_other_words_is_not_taken_for_it(
    desk: Desk, screen: Screen
) -> None:
    path = path_of(desk, "/edit/summary")
    page = await screen.get(path)
    await screen.send(page, path, having="rev", summary="First.")
    answer = await screen.send(
        page, path, expect=422, having="rev", summary="Second."
    )  # the button "back"
    await screen.send(answer, path, having="rev")
    assert (await desk.get("/postmortem"))["content"]["summary"] == "Second."


async def test_publishing_is_refused_with_links_to_what_is_missing(
    desk: Desk, screen: Screen
) -> None:
    action = await desk.add_action()
    await desk.write(0, {"summary": "Down."}, expect=201)
    path, moves = path_of(desk), path_of(desk, "/moves")
    await screen.send(await screen.get(path), moves, having="to", to="in_review")
    answer = await screen.send(
        await screen.get(path), moves, expect=409, having="to", to="published"
    )
    assert "Before it can be published, add: impact, factors, owners" in answer.text
    assert [f'href="{path}/edit/{name}"' in answer.text.partition("can be published:")[2].partition("</ul>")[0] for name in ("summary", "impact", "factors")] == [False, True, True]  # fmt: skip
    assert f'href="/incidents/{desk.ref}/actions">an owner' in answer.text
    await desk.send(
        "PATCH", f"/api/v1/action-items/{action['id']}", expect=200, json={"owner": "Ada"},
        headers={"Content-Type": "application/merge-patch+json", "If-Match": '"act-1"'},
    )  # fmt: skip
    await desk.write(2, FULL)
    page = await screen.get(path)
    assert "can be published:" not in page.text
    await screen.send(page, moves, having="to", to="published")
    assert (await desk.get("/postmortem"))["status"] == "published"
    assert "Back to draft" in (await screen.get(path)).text


async def test_no_post_mortem_is_waived_without_a_word(desk: Desk, screen: Screen) -> None:
    path, moves = path_of(desk), path_of(desk, "/moves")
    answer = await screen.send(await screen.get(path), moves, expect=422, having="message")
    assert 'href="#f-message"' in answer.text
    await screen.send(answer, moves, having="message", message="A false alarm.")
    page = await screen.get(path)
    assert "A false alarm." in page.text
    await screen.send(page, moves, having="to", to="draft")
    assert (await desk.get("/postmortem"))["status"] == "draft"


async def test_a_viewer_reads_what_is_published_and_is_offered_no_form(
    desk: Desk, service: Service
) -> None:
    viewer = await Screen.of(service, "viewer")
    await desk.write(0, {"summary": "Half a thought"}, expect=201)
    page = await viewer.get(path_of(desk))
    assert "none that you may read" in page.text
    assert "Half a thought" not in page.text
    await desk.write(1, FULL)
    await desk.move(2, "in_review")
    page = await viewer.get(path_of(desk))
    assert "The checkout was down for an hour." in page.text
    assert [form.action for form in forms_of(page)] == ["/signout"]
    assert "/edit/" not in page.text
    await viewer.get(path_of(desk, "/edit/summary"), expect=403)


async def test_a_late_signal_shows_a_banner_that_names_it(desk: Desk, screen: Screen) -> None:
    await desk.write(0, FULL, expect=201)
    assert "since this version" not in (await screen.get(path_of(desk))).text
    item = {"source": "late", "id": desk.ref, "kind": "change", "title": "A late <i>deploy</i>", "occurred_at": "2026-02-07T10:00:00Z"}  # fmt: skip
    sent = {"incident": desk.incident["id"], "items": [item]}
    await desk.send("POST", "/api/v1/signals", expect=200, json=sent)
    page = (await screen.get(path_of(desk))).text
    assert "<summary>1 entry added since this version</summary>" in page
    assert (
        "A late &lt;i&gt;deploy&lt;/i&gt;"
        in page.partition("since this version")[2].partition("</details>")[0]
    )
    await write(screen, desk, "summary", {"summary": "Rewritten in the light of it."})
    assert "since this version" not in (await screen.get(path_of(desk))).text


async def test_revisions_are_listed_compared_and_restored(desk: Desk, screen: Screen) -> None:
    await desk.write(0, {"summary": "One\nTwo"}, expect=201, message="Begun")
    await desk.write(1, {"summary": "One\n2 <script>", "surprises": ["It was Sunday"]})
    page = (await screen.get(path_of(desk, "/revisions"))).text
    assert "Begun" in page
    assert "Responder" in page
    assert page.index("Revision 2") < page.index("Revision 1")
    page = (await screen.get(path_of(desk, "/revisions/2?against=1"))).text
    assert '<del><span class="unseen">Removed: </span>Two</del>' in page
    assert '<ins><span class="unseen">Added: </span>2 &lt;script&gt;</ins>' in page
    assert "<span>One</span>" in page
    assert page.count("<h3") == 2
    old = await screen.get(path_of(desk, "/revisions/1"))
    await screen.send(old, path_of(desk, "/restore"))
    revision = await desk.get("/postmortem")
    assert (revision["rev"], revision["restored_from"]) == (3, 1)
    assert revision["content"]["summary"] == "One\nTwo"
    # Somebody with the old page open cannot restore over what was written since.
    answer = await screen.send(old, path_of(desk, "/restore"), expect=412, key="another-key")
    assert "someone else wrote a new revision" in answer.text
    await screen.get(path_of(desk, "/revisions/9"), expect=404)
    await screen.get(path_of(desk, "/revisions/x"), expect=404)
    await screen.get(path_of(desk, "/edit/root_cause"), expect=404)


async def test_revisions_come_in_pages(desk: Desk, screen: Screen) -> None:
    for rev in range(3):
        await desk.write(rev, {"summary": str(rev)}, expect=200 if rev else 201)
    page = await screen.get(path_of(desk, "/revisions?limit=2"))
    assert ("Revision 3" in page.text, "Revision 1<" in page.text) == (True, False)
    older = (
        page.text.partition('class="pager"><a href="')[2].partition('"')[0].replace("&amp;", "&")
    )
    assert "Revision 1<" in (await screen.get(older)).text


async def test_what_is_typed_is_text_and_its_links_are_harmless(desk: Desk, screen: Screen) -> None:
    text = "# Big\n<script>alert(1)</script> [a](javascript:alert(1)) [b](https://example.org) ![i](https://example.org/i.png)"
    await desk.write(0, {"summary": text, "surprises": [text]}, expect=201)
    page = (await screen.get(path_of(desk))).text
    assert "<script" not in page
    assert "<img" not in page
    assert 'href="javascript' not in page
    assert page.count('<a href="https://example.org" rel="noopener nofollow">b</a>') == 2
    assert "<h3>Big</h3>" in page
    assert page.count("<h1") == 1


async def test_what_was_typed_survives_a_database_that_does_not_answer(
    desk: Desk, screen: Screen
) -> None:
    path, moves = path_of(desk, "/edit/summary"), path_of(desk, "/moves")
    page, read = await screen.get(path), await screen.get(path_of(desk))
    key = next(it for it in forms_of(page) if "rev" in it.fields).fields["key"]
    async with desk.service.database.transaction():
        await desk.service.database.execute(
            "select from incidents where id = $1 for update", desk.incident["id"]
        )
        answer = await screen.send(
            page, path, expect=503, having="rev", summary="Long thought about."
        )
        refused = await screen.send(
            read, moves, expect=503, having="message", message="Nothing to learn."
        )
    form = next(it for it in forms_of(answer) if "rev" in it.fields)
    assert (form.fields["summary"], form.fields["key"]) == ("Long thought about.", key)
    assert "Nothing to learn." in refused.text
    await screen.send(answer, path, having="rev")
    assert (await desk.get("/postmortem"))["content"]["summary"] == "Long thought about."


async def test_no_page_of_a_kept_timeline_reads_all_facts(
    desk: Desk, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = {"kind": "change", "source": "ci", "id": "deploy 7", "title": "Deploy 7"}
    await desk.send(
        "POST", "/api/v1/signals", expect=200, json={"incident": desk.ref, "items": [signal]}
    )
    entry = {"source": "manual/ci", "id": "deploy 7"}
    await desk.write(0, FULL | {"factors": [FACTOR | {"evidence": [entry]}]}, expect=201)
    await desk.send(
        "POST", "/edits", expect=201, json={"op": "hide", "entry": entry, "reason": "Noise"}
    )
    await desk.send("POST", "/edits", expect=201, json={"op": "unhide", "entry": entry})
    renamed = {"op": "set_title", "entry": entry, "value": {"title": "Deploy 8"}}
    await desk.send("POST", "/edits", expect=201, json=renamed)

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("postfacta_app.timeline.verify.facts_in", refuse)
    monkeypatch.setattr("postfacta_app.timeline.verify.build", refuse)
    path = f"/incidents/{desk.ref}"
    page = (await screen.get(f"{path}/postmortem")).text
    assert "1 entry renamed since this version" in page
    assert "Deploy 8" in page
    assert "Deploy 8" in (await screen.get(f"{path}/postmortem/revisions/1")).text
    assert "Deploy 8" in (await screen.get(f"{path}/postmortem/edit/factors")).text
    assert "Hid “Deploy 7”" in (await screen.get(f"{path}/history")).text
    changes = (await desk.get("/postmortem"))["timeline_changes"]
    assert [it["title"] for it in changes["retitled"]] == ["Deploy 8"]
