"""Markdown that people write: whatever it is, only text and harmless links come out."""

from __future__ import annotations

import math
from html.parser import HTMLParser

import pytest
from hypothesis import given, strategies as st
from markupsafe import Markup

from postfacta_app.web import render as markdown
from postfacta_app.web.render import Markdown
from postfacta_core.guards._last_values import LastValues

HARMLESS = {
    "a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "strong", "table",
    "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
PIECES = (
    "[", "]", "(", ")", "<", ">", "!", "*", "`", "|", "\n", " ", "# ", "- ", "&#106;", "javascript:alert(1)", "\n|-|\n",
    "data:text/html,x", "https://example.org", "<script>", "<img src=x onerror=y>", '"', "'", "onclick=x", "\\", "a",
)  # fmt: skip


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def seen(text: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = _Seen()
    reader.feed(str(Markdown()(text)))
    return reader.tags


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join))
def test_nothing_but_harmless_tags_comes_out_of_anything(text: str) -> None:
    for tag, attributes in seen(text):
        assert tag in HARMLESS
        assert attributes.keys() <= {"href", "rel", "title", "start", "class"}
        if tag == "a":
            assert (attributes["href"] or "").lower().startswith(("http://", "https://", "mailto:"))
            assert attributes["rel"] == "noopener nofollow"


@pytest.mark.parametrize(
    "text",
    [
        "[a](javascript:alert(1))",
        "[a](JaVaScRiPt:alert(1))",
        "[a](&#106;avascript:alert(1))",
        "[a](data:text/html,x)",
        "[a](//evil.example)",
        "[a](/signout)",
        "<javascript:alert(1)>",
        "[a]\n\n[a]: javascript:alert(1)",
    ],
)
def test_other_links_stay_text(text: str) -> None:
    assert "a" not in [tag for tag, _ in seen(text)]


def test_no_image_is_fetched_from_anywhere() -> None:
    assert [tag for tag, _ in seen("![a](https://example.org/i.png)")] == ["p", "a"]


def test_what_people_use_is_rendered() -> None:
    text = "# Cause\n\n**Down**, `0 ms`\n\n- one\n\n|a|b|\n|:-|-:|\n|1|2|\n\n<ops@example.org>"
    tags = [tag for tag, _ in seen(text)]
    assert tags[:5] == ["h3", "p", "strong", "code", "ul"]
    assert tags.count("td") == 2
    assert 'href="mailto:ops@example.org"' in Markdown()(text)
    assert "style" not in Markdown()(text)


def test_a_text_made_to_take_long_is_shown_as_it_is() -> None:
    text = "[" * 20_000 + "<b>"
    assert Markdown()(text).startswith(f'<p class="prose">{"[" * 20_000}&lt;b&gt;</p>')
    assert "Shown as plain text" in Markdown()(text)


def test_a_text_of_too_many_lines_is_shown_as_it_is() -> None:
    assert "<li>" in Markdown()("- a\n" * 1_000)
    assert "<li>" not in Markdown()("- a\n" * 2_001)


def test_the_marks_of_a_page_are_bounded_however_many_texts_it_has() -> None:
    page, text = Markdown(), "**a** " * 400
    rendered = ["<strong>" in page(f"{n} {text}") for n in range(250)]
    assert rendered == [True] * 3 + [False] * 247
    assert "<em>" in page("What is *short* is still rendered.")
    assert "<strong>" in Markdown()(text)


class _Writer:
    """Renders texts as they are, and notes which."""

    def __init__(self, rendered: list[str]) -> None:
        self._rendered = rendered

    def render(self, text: str) -> str:
        self._rendered.append(text)
        return text


def test_what_was_rendered_is_not_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = list[str]()
    monkeypatch.setattr(markdown, "_RENDERED", LastValues[Markup](math.inf, 100))
    monkeypatch.setattr(markdown, "_WRITER", _Writer(rendered))
    for text in ("a", "b", "a", "b"):
        assert Markdown()(text) == text
    assert rendered == ["a", "b"]


def test_of_what_was_rendered_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = list[str]()
    monkeypatch.setattr(markdown, "_RENDERED", LastValues[Markup](math.inf, 100, 10))
    monkeypatch.setattr(markdown, "_WRITER", _Writer(rendered))
    for text in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb"):
        Markdown()(text)
    assert rendered == ["aaaa", "bbbb", "cccc", "bbbb"]
