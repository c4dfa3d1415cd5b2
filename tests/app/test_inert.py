"""Whatever people and machines write is shown as they wrote it, and nothing of it comes to life.

On every page.
"""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page, StorageState

from tests.app.browsing import NEEDS_CHROMIUM
from tests.app.running import LiveService

pytestmark = NEEDS_CHROMIUM

AT = "2026-02-07T10:04:12Z"
# What would be there if a text had become part of the page.
ALIVE = """() => [...document.querySelectorAll(
    "x-owned, main script, main img, main iframe, main style, [onerror], [onclick], a[href^='javascript:' i], a[href^='data:' i]")]
  .map(it => it.outerHTML.slice(0, 200))"""
# Texts as a reader sees them, and what fields hold.
SAID = """() => document.documentElement.textContent
  + [...document.querySelectorAll("input, textarea")].map(it => it.value).join("\\n") + document.title"""


def hostile(name: str) -> str:
    """Write a text that tries all ways into a page, and has a name to find it by."""
    return (
        f"{name} <x-owned>{name}</x-owned><img src=x onerror=alert(1)>\"'></textarea></title>"
        f"<a href='javascript:alert(1)'>a</a> [{name}](javascript:alert(1)) ![i](data:text/html,x) <script>alert(1)</script>"
    )


class Writer:
    """Writes hostile texts wherever a text is taken, and remembers them.

    Attributes:
        names: Of all texts.
    """

    def __init__(self, live: LiveService) -> None:
        self._live = live
        self.names: list[str] = []

    def __call__(self, name: str, most: int = 10_000) -> str:
        self.names.append(name)
        return hostile(name)[:most]

    def send(self, method: str, path: str, body: object, **headers: str) -> Any:
        answer = self._live.client.request(method, path, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None


def write_everything(write: Writer) -> int:
    """Make two incidents with all that they can hold; return the number of the first."""
    fields = {
        "description": write("description"),
        "reporter": write("reporter", 100),
        "owner": write("owner", 100),
    }
    one, other = (
        write.send(
            "POST",
            "/api/v1/incidents",
            {"title": title, "severity": "LOW", "declared_at": AT, **fields},
        )
        for title in (write("title", 200), write("other title", 200))
    )
    path = f"/api/v1/incidents/{one['id']}"
    signals = [
        {
            "source": f"{n}", "id": write("signal id", 300) if n else "1", "kind": "change", "occurred_at": AT,
            "title": write(f"signal title {n}", 500), "body": write(f"signal body {n}"), "payload": {"said": write(f"payload {n}")},
            "links": [{"url": "https://example.com/", "title": write(f"evidence {n}", 200)}],
        }
        for n in range(2)
    ]  # fmt: skip
    write.send("POST", "/api/v1/signals", {"incident": one["id"], "items": signals})
    entry = {"source": "manual/0", "id": "1"}
    for edit in (
        {"op": "set_title", "entry": entry, "value": {"title": write("new title", 500)}, "reason": write("title reason", 2000)},
        {"op": "set_time", "entry": entry, "value": {"at": AT, "precision": "day"}, "reason": write("time reason", 2000)},
        {"op": "hide", "entry": {"source": "manual/1", "id": signals[1]["id"]}, "reason": write("hide reason", 2000)},
        {"op": "pin", "entry": entry},
    ):  # fmt: skip
        write.send("POST", f"{path}/edits", edit)
    for about in ({"occurred_at": AT}, {"entry": entry}, {}):
        remark = {"kind": "hypothesis", "body": write(f"remark {sorted(about)}"), **about}
        write.send("POST", f"{path}/annotations", remark)
    link = {"to": f"INC-{other['number']}", "type": "follows", "note": write("link note", 500)}
    write.send("POST", f"{path}/links", link)
    move = {"to": "RESOLVED", "reason": write("move reason", 2000)}
    write.send("POST", f"{path}/transitions", move)
    _after(write, path)
    return int(one["number"])


def _after(write: Writer, path: str) -> None:
    lists = ("went_well", "went_poorly", "got_lucky", "surprises", "open_questions")
    factor = {
        "slug": "no-canary", "category": "change", "statement": write("statement"), "safeguard": write("safeguard"),
        "why_it_made_sense": write("why it made sense"),
    }  # fmt: skip
    content = {
        "summary": write("summary"), "response": write("response"),
        "impact": {
            "description": write("impact"),
            "quantities": [{"name": write("quantity", 200), "value": 1, "unit": write("unit", 50)}],
        },
        "detection": {"how": write("detected how"), "could_be_sooner": write("sooner")},
        "trigger": {"kind": "change", "description": write("trigger")}, "factors": [factor],
        **{name: [write(name)] for name in lists},
    }  # fmt: skip
    none: dict[str, str] = {"If-None-Match": "*"}
    write.send(
        "PUT", f"{path}/postmortem", {"content": content, "message": write("message", 500)}, **none
    )
    changed = {**content, "summary": write("second summary")}
    first: dict[str, str] = {"If-Match": '"pm-1"'}
    write.send("PUT", f"{path}/postmortem", {"content": changed}, **first)
    action = {
        "type": "learn",
        "title": write("action", 200),
        "owner": write("action owner", 100),
        "due_on": "2026-03-01",
    }
    write.send("POST", f"{path}/action-items", action)
    given_up = write.send(
        "POST", f"{path}/action-items", {**action, "title": write("given up", 200)}
    )
    patch: dict[str, str] = {"If-Match": '"act-1"', "Content-Type": "application/merge-patch+json"}
    wont = {"status": "wont_do", "closed_reason": write("closed reason", 2000)}
    write.send("PATCH", f"/api/v1/action-items/{given_up['id']}", wont, **patch)


def _pages(number: int) -> list[str]:
    one = f"/incidents/INC-{number}"
    edited = (
        "summary",
        "impact",
        "detection",
        "trigger",
        "response",
        "factors",
        "went_well",
        "surprises",
    )
    return [
        *(
            "/incidents",
            "/incidents?q=title",
            "/insights",
            "/actions",
            one,
            f"{one}?hidden=true",
            f"{one}?view=narrative",
        ),
        *(f"{one}/{tab}" for tab in ("postmortem", "actions", "history", "postmortem/revisions")),
        f"{one}/postmortem/revisions/2?against=1",
        *(f"{one}/postmortem/edit/{section}" for section in edited),
    ]


def test_no_text_comes_to_life_and_each_is_read_as_it_was_written(
    browser: Browser, live: LiveService, session: StorageState
) -> None:
    write = Writer(live)
    number = write_everything(write)
    # With scripts on, and as an administrator, who sees most.
    context = browser.new_context(base_url=live.url, storage_state=session)
    page, said, alarms = context.new_page(), "", list[str]()
    page.on("dialog", lambda dialog: alarms.append(dialog.message))
    # Nor do the pages themselves use what their policy forbids.
    page.on(
        "console",
        lambda said: alarms.append(said.text) if "Content Security" in said.text else None,
    )
    for path in _pages(number):
        said += _look(page, path)
    context.close()
    assert alarms == []
    assert [name for name in write.names if hostile(name)[:40] not in said] == []


def _look(page: Page, path: str) -> str:
    answer = page.goto(path)
    assert answer is not None
    assert answer.status == 200, path
    assert page.evaluate(ALIVE) == [], path
    return str(page.evaluate(SAID))
