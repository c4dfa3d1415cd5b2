"""The pages of actions: those of an incident, and those of all incidents by due date."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from html import unescape
from types import SimpleNamespace
from uuid import UUID

import httpx2
import pytest
from hypothesis import given, strategies as st

from postfacta_app.actions import Action, ActionStatus, ActionType, order
from postfacta_app.principal import NOBODY
from postfacta_app.web.forms import Typed
from postfacta_app.web.render import Pages
from tests.app.desk import Desk, desk_of
from tests.app.live import Service
from tests.app.screen import Screen, forms_of

NOW = datetime(2026, 2, 7, 12, tzinfo=UTC)


def action(**fields: object) -> Action:
    base = Action(
        id=UUID(int=1), incident_id=UUID(int=2), incident="INC-1", type=ActionType.PREVENT, title="Try one first",
        factor=None, owner=None, priority=None, due_on=None, url=None, status=ActionStatus.OPEN, closed_at=None,
        closed_reason=None, version=1, created_by="anonymous", created_at=NOW - timedelta(days=3), updated_at=NOW,
    )  # fmt: skip
    return base.model_copy(update=fields)


def shown(*those: Action) -> str:
    """Render the page of an incident with these action items, for a caller who may only read."""
    incident = SimpleNamespace(ref="INC-1", title="Checkout is down")
    context = {
        "typed": Typed(),
        "item": incident,
        "ref": incident.ref,
        "items": those,
        "now": NOW,
        "principal": NOBODY,
    }
    return bytes(Pages(version="").page("actions.html", context).body).decode()


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (-2, "Overdue by 2 days</strong>"),
        (-1, "Overdue by 1 day</strong>"),
        (0, ", due today</dd>"),
        (1, ", due tomorrow</dd>"),
        (2, ", due in 2 days</dd>"),
    ],
)
def test_how_far_a_day_is_off_is_said_in_words(days: int, words: str) -> None:
    late = action(due_on=NOW.date() + timedelta(days=days))
    page = shown(late)
    assert (late.days_left(NOW), words in page) == (days, True)
    assert ("1 overdue" in page) == ("verdue by" in page) == (days < 0)


def test_a_closed_action_is_never_late_and_its_age_has_stopped() -> None:
    done = action(
        due_on=date(2026, 1, 1), status=ActionStatus.DONE, closed_at=NOW - timedelta(days=1)
    )
    page = shown(done)
    assert (done.days_left(NOW), "0 overdue" in page, "verdue by" in page) == (None, True, False)
    assert '<dt>Due</dt><dd><time datetime="2026-01-01">2026-01-01</time></dd>' in page
    assert "<dt>Took</dt><dd>2 d 0 h</dd>" in page
    assert "<dt>Age</dt><dd>3 d 0 h</dd>" in shown(action())


@given(
    st.lists(
        st.tuples(st.none() | st.dates(date(2026, 1, 1), date(2026, 3, 1)), st.booleans()),
        max_size=8,
    )
)
def test_what_is_due_first_stands_first_and_what_is_closed_last(
    kinds: list[tuple[date | None, bool]],
) -> None:
    those = [
        action(
            due_on=due, status=ActionStatus.OPEN if is_open else ActionStatus.DONE, closed_at=NOW
        )
        for due, is_open in kinds
    ]
    ordered = order(those)
    assert sorted(map(id, ordered)) == sorted(map(id, those))
    places = [(not it.is_open, it.due_on or date.max) for it in ordered]
    assert places == sorted(places)


@pytest.fixture
async def screen(service: Service) -> Screen:
    return await Screen.of(service)


def path_of(desk: Desk) -> str:
    return f"/incidents/{desk.ref}/actions"


async def test_an_action_is_added_once_however_often_it_is_sent(desk: Desk, screen: Screen) -> None:
    path = path_of(desk)
    page = await screen.get(path)
    assert "No action items yet." in page.text
    for _ in range(2):
        await screen.send(
            page, path, title="Try one server first", type="prevent", owner="Ada", due_on="2020-01-02", priority="1",
            factor="no-canary", url="https://example.org/1",
        )  # fmt: skip
    (made,) = (await desk.get("/action-items"))["items"]
    assert (made["title"], made["owner"], made["due_on"], made["priority"]) == ("Try one server first", "Ada", "2020-01-02", 1)  # fmt: skip
    page = await screen.get(path)
    assert "1 open, 1 overdue, 1 in total" in page.text
    assert "Overdue by " in page.text
    assert 'href="https://example.org/1" rel="noopener nofollow"' in page.text


async def test_a_new_action_that_breaks_a_rule_comes_back_as_it_was_typed(
    desk: Desk, screen: Screen
) -> None:
    path = path_of(desk)
    answer = await screen.send(
        await screen.get(path),
        path,
        expect=422,
        title="No",
        due_on="tomorrow",
        url="javascript:alert(1)",
        owner="Ada",
    )
    fields = next(it for it in forms_of(answer) if it.action == path).fields
    assert (fields["title"], fields["due_on"], fields["owner"]) == ("No", "tomorrow", "Ada")
    for name, label in (("title", "Title"), ("type", "Type"), ("due_on", "Due date")):
        assert f'<a href="#f-{name}">{label}</a>' in answer.text
    assert (await desk.get("/action-items"))["items"] == []


async def test_buttons_move_an_action_and_nothing_is_given_up_without_a_reason(
    desk: Desk, screen: Screen
) -> None:
    made = await desk.add_action()
    path, one = path_of(desk), f"{path_of(desk)}/{made['id']}"
    for status in ("in_progress", "done", "open"):
        answer = await screen.send(await screen.get(path), one, having="status", status=status)
        assert answer.headers["location"] == f"{path}#a-{made['id']}"
        assert (await desk.get("/action-items"))["items"][0]["status"] == status
    answer = await screen.send(await screen.get(path), one, expect=422, having="closed_reason")
    assert f'<a href="#f-closed_reason-{made["id"]}">Reason</a>' in answer.text
    await screen.send(answer, one, having="closed_reason", closed_reason="The server is gone.")
    page = await screen.get(path)
    assert "Won&#39;t do" in page.text
    assert "The server is gone." in page.text


async def test_owner_and_day_are_changed_and_taken_away(desk: Desk, screen: Screen) -> None:
    made = await desk.add_action(owner="Ada", due_on="2026-03-01")
    path, one = path_of(desk), f"{path_of(desk)}/{made['id']}"
    await screen.send(await screen.get(path), one, having="due_on", owner="Grace", due_on="")
    (now,) = (await desk.get("/action-items"))["items"]
    assert (now["owner"], now["due_on"]) == ("Grace", None)
    answer = await screen.send(
        await screen.get(path), one, expect=422, having="due_on", due_on="soon"
    )
    assert f'id="e-due_on-{made["id"]}"' in answer.text
    fields = next(
        it for it in forms_of(answer) if "due_on" in it.fields and it.action == one
    ).fields
    assert (fields["owner"], fields["due_on"]) == ("Grace", "soon")


async def test_a_concurrent_change_gets_412_and_the_current_state(
    desk: Desk, screen: Screen
) -> None:
    made = await desk.add_action()
    path, one = path_of(desk), f"{path_of(desk)}/{made['id']}"
    page = await screen.get(path)
    await screen.send(page, one, having="status", status="in_progress")
    answer = await screen.send(page, one, expect=412, having="closed_reason", closed_reason="Late")
    assert "now: In progress (" in answer.text
    await screen.send(answer, one, having="closed_reason")
    (now,) = (await desk.get("/action-items"))["items"]
    assert (now["closed_reason"], now["status"], now["version"]) == ("Late", "wont_do", 3)


async def test_an_action_is_changed_through_its_own_incident_alone(
    desk: Desk, screen: Screen, service: Service
) -> None:
    made, other = await desk.add_action(), await desk_of(service)
    headers = screen.headers | {"Sec-Fetch-Site": "same-origin"}
    csrf = forms_of(await screen.get(path_of(desk)))[0].fields["csrf"]
    for path in (f"{path_of(other)}/{made['id']}", f"{path_of(desk)}/nonsense"):
        data = {"csrf": csrf, "was-status": "open", "status": "done"}
        answer = await service.client.post(path, data=data, headers=headers)
        assert answer.status_code == 404
    assert (await desk.get("/action-items"))["items"][0]["status"] == "open"


async def test_a_viewer_sees_actions_and_no_form(desk: Desk, service: Service) -> None:
    await desk.add_action()
    page = await (await Screen.of(service, "viewer")).get(path_of(desk))
    assert "Try one server first" in page.text
    assert [form.action for form in forms_of(page)] == ["/signout"]


async def test_what_was_typed_survives_a_database_that_does_not_answer(
    desk: Desk, screen: Screen
) -> None:
    made = await desk.add_action()
    path, one = path_of(desk), f"{path_of(desk)}/{made['id']}"
    page = await screen.get(path)
    async with desk.service.database.transaction():
        await desk.service.database.execute(
            "select from incidents where id = $1 for update", desk.incident["id"]
        )
        answer = await screen.send(
            page, path, expect=503, title="Try one server first", type="prevent", owner="Ada"
        )
        given_up = await screen.send(
            page, one, expect=503, having="closed_reason", closed_reason="Gone for good."
        )
    assert "Gone for good." in given_up.text
    await screen.send(answer, path)
    await screen.send(given_up, one)
    old, new = (await desk.get("/action-items"))["items"]
    assert (old["status"], new["title"], new["owner"]) == ("wont_do", "Try one server first", "Ada")


# All incidents


def listed(page: httpx2.Response) -> list[tuple[str, str]]:
    """Read where each row leads, and its title."""
    return re.findall(r'<th scope="row"><a href="([^"]+)">([^<]+)</a>', page.text)


async def test_actions_of_all_incidents_are_listed_by_due_date(
    service: Service, screen: Screen
) -> None:
    desk, other = await desk_of(service), await desk_of(service)
    who = str(desk.incident["id"])
    late = await other.add_action(title="Long ago", owner=who, due_on="2020-01-02")
    first = await desk.add_action(title="Longer ago", owner=who, due_on="2020-01-01")
    last = await desk.add_action(title="Some day", owner=who)
    page = await screen.get(f"/actions?owner={who}")
    assert listed(page) == [
        (f"/incidents/{it['incident']}/actions#a-{it['id']}", it["title"])
        for it in (first, late, last)
    ]
    assert page.text.count("overdue by") == 2
    overdue = await screen.get(f"/actions?owner={who}&overdue=true")
    assert [title for _, title in listed(overdue)] == ["Longer ago", "Long ago"]
    (form,) = [it for it in forms_of(overdue) if it.action == "/actions"]
    assert form.fields == {"owner": who, "status": "", "overdue": "true"}
    assert listed(await screen.get(f"/actions?owner={who}&status=done")) == []


async def test_the_next_page_of_actions_keeps_the_filters(service: Service, screen: Screen) -> None:
    desk = await desk_of(service)
    who = str(desk.incident["id"])
    made = [await desk.add_action(owner=who, due_on=f"2026-03-0{day}") for day in (1, 2, 3)]
    seen: list[str] = []
    path: str | None = f"/actions?owner={who}&limit=2"
    while path:
        page = await screen.get(path)
        seen += [place.partition("#a-")[2] for place, _ in listed(page)]
        following = re.search(r'<a href="([^"]+)" rel="next">', page.text)
        path = unescape(following[1]) if following else None
    assert seen == [it["id"] for it in made]


async def test_a_sent_filter_of_actions_is_understood(screen: Screen) -> None:
    await screen.get("/actions?service=a&service=b")
    page = await screen.get("/actions?owner=&status=open%2Cin_progress&overdue=")
    assert 'value="open,in_progress" selected' in page.text


@pytest.mark.parametrize("query", ["status=closed", "overdue=maybe", "cursor=x", "limit=0"])
async def test_an_invalid_filter_of_actions_is_reported(screen: Screen, query: str) -> None:
    assert "Invalid filter" in (await screen.get(f"/actions?{query}", expect=400)).text
