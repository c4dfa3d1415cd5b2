"""A browser without a screen.

It keeps a session, reads forms as they are shown, and sends them as they are filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx2

from tests.app.live import Service

__all__ = ["Form", "Screen", "forms_in", "forms_of"]


@dataclass
class Form:
    """A form of a page: where it goes, and what it would send."""

    action: str
    fields: dict[str, str] = field(default_factory=dict[str, str])
    buttons: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    repeated: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._open = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action", "")))
        elif not self.forms or (name := given.get("name", "")) == "":
            self._open = self._open if tag == "option" else ""
            if tag == "option" and "selected" in given:
                self.forms[-1].fields[self._open] = given["value"]
        elif tag == "button":
            self.forms[-1].buttons.append((name, given.get("value", "")))
        elif tag == "input" and name in self.forms[-1].fields:
            self.forms[-1].repeated.append((name, given.get("value", "")))
        elif tag == "input" and (given.get("type") != "checkbox" or "checked" in given):
            self.forms[-1].fields[name] = given.get("value", "")
        elif tag in {"textarea", "select"}:
            self._open = name
            self.forms[-1].fields[name] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in {"textarea", "select"}:
            if tag == "textarea" and self._open:
                # A browser drops the line break that follows the tag.
                self.forms[-1].fields[self._open] = (
                    self.forms[-1].fields[self._open].removeprefix("\n")
                )
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open and self.lasttag == "textarea":
            self.forms[-1].fields[self._open] += data


def forms_of(page: httpx2.Response) -> list[Form]:
    """Read all forms of a page."""
    return forms_in(page.text)


def forms_in(html: str) -> list[Form]:
    """Read all forms of the text of a page."""
    reader = _Reader()
    reader.feed(html)
    return reader.forms


@dataclass
class Screen:
    """A user's browser."""

    service: Service
    headers: dict[str, str]

    @classmethod
    async def of(cls, service: Service, role: str = "responder") -> Screen:
        """Sign in as a new user."""
        return cls(service, await service.cookie(await service.person(role)))

    async def get(self, path: str, *, expect: int = 200) -> httpx2.Response:
        """Open a page."""
        page = await self.service.client.get(path, headers={**self.headers, "Accept": "text/html"})
        assert page.status_code == expect, page.text
        return page

    async def shown_once(self, sent: httpx2.Response) -> httpx2.Response:
        """Follow a form to the page that shows a secret, with the cookie that carries it."""
        assert sent.headers["cache-control"] == "no-store"
        secret = sent.headers["set-cookie"].partition(";")[0]
        cookies = f"{self.headers['Cookie']}; {secret}"
        return await Screen(self.service, {"Cookie": cookies}).get(sent.headers["location"])

    async def send(
        self,
        page: httpx2.Response,
        action: str,
        fields: Mapping[str, str] | None = None,
        *,
        expect: int = 303,
        having: str = "",
        **filled: str,
    ) -> httpx2.Response:
        """Fill the first form of a page that goes there (and has such a field, or a value of it), and send it.

        In the names of fields, `__` stands for a hyphen.
        """
        form = next(
            it
            for it in forms_of(page)
            if it.action == action
            and (not having or having in it.fields or having in dict(it.buttons))
        )
        typed = {
            name.replace("__", "-"): text for name, text in {**(fields or {}), **filled}.items()
        }
        headers = {**self.headers, "Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
        answer = await self.service.client.post(
            action, data={**form.fields, **typed}, headers=headers
        )
        assert answer.status_code == expect, answer.text
        return answer
