"""Whatever people type, in the Markdown export it does nothing, and it ends where it must."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hypothesis import example, given, strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from postfacta_app.export import IncidentExport, entry_lines, frame, item, plain, quote

PIECES = [
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<javascript:alert(1)>", "<a href='x'>"),
    *("[a](javascript:alert(1))", "![a](https://a/b.png)", "[a](data:text/html,x)", "[a]: javascript:x", "[a]"),
    *("[a](https://a.example)", "[a](mailto:a@b.c)", "](", "](vbscript:x)", "[a](<javascript:x>)", "[a](\tfile:x)"),
    *("<!--", "-->", "<![CDATA[", "<?php", "<", ">", "[", "]", "(", ")", ":", "!", "\\", "\\\\", "\\<b>", "\\]", "`"),
    *("``", "```", "~~~", "&", "&lt;", "&#106;", "&colon;", "# ", "## Timeline", "---", "===", "- ", "> ", "1. "),
    *("    ", "\t", "\n", "\n\n", "\r", "\r\n", "|", "*", "_", "a", "javascript:x", "https://a", "\u2028", "$$", "{{ x }}"),
]  # fmt: skip
typed = st.lists(
    st.sampled_from(PIECES)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3),
    max_size=12,
).map("".join)


class Reader(MarkdownIt):
    """Reads Markdown as the most careless do: HTML is HTML, and any link is a link."""

    def validateLink(self, url: str) -> bool:  # noqa: N802 - the library's name
        return True


def dangers(markdown: str) -> list[str]:
    """Name what would be markup of the reader's page, an image, or a link that is no plain one."""
    reader = Reader("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return [danger for token in walk(reader.parse(markdown)) for danger in danger_of(token)]


def walk(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from walk(token.children or [])


def danger_of(token: Token) -> Iterator[str]:
    if token.type in {"html_block", "html_inline", "image"}:
        yield token.content
    if token.type == "link_open" and not re.match("https?://|mailto:", str(token.attrs["href"])):
        yield str(token.attrs["href"])


def test_the_reader_of_these_tests_knows_dangers_when_it_sees_them() -> None:
    for text in (
        "<b>",
        "<script>",
        "![a](x)",
        "[a](javascript:x)",
        "[a]\n\n[a]: data:x",
        "<vbscript:x>",
    ):
        assert dangers(text)


@example("[a]\n\n[a]: javascript:x")
@example("[`\\](javascript:x)`")
@example("\\\\<script>")
@example("[a\\](javascript:x)")
@example("`<b>` | `\n--|--\n` | <i> | `")
@given(typed)
def test_nothing_that_is_typed_is_live(text: str) -> None:
    for markdown in (quote(text), item(text), plain(text), f"{item(text)}\n{item(text)}"):
        assert dangers(markdown) == []


@given(typed)
def test_a_plain_text_is_one_line_and_reads_as_it_was_typed(text: str) -> None:
    markdown = plain(text)
    assert len(markdown.splitlines()) <= 1
    tokens = MarkdownIt("commonmark").parse(f"x {markdown} x")
    assert [it.type for it in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    read = "".join(it.content for it in tokens[1].children or [])
    assert read.split() == f"x {text} x".split()


@given(typed.filter(str.strip), typed)
def test_a_quote_or_an_item_ends_with_its_last_line(text: str, after: str) -> None:
    for markdown in (quote(text), item(text)):
        tokens = MarkdownIt("commonmark").parse(
            f"{markdown}\n\n## Here it goes on\n\n{quote(after)}"
        )
        opened = [it for it in tokens if it.type == "heading_open" and it.level == 0]
        assert [it.tag for it in opened] == ["h2"]


def test_markdown_that_does_no_harm_keeps_its_form() -> None:
    text = "# Title\n\n* **bold** and [a link](https://a.example/x?y=(z))\n\n1 < 2 & a[0] > b"
    shown = quote(text)
    assert shown == "> " + text.replace("<", "&lt;").replace("\n", "\n> ")
    assert item("one\ntwo") == "- one\n  two"
    assert quote(" \n") == "Nothing recorded."


AT = "2026-01-05T10:00:00Z"


def written(document: IncidentExport) -> str:
    before, after = frame(document)
    return (before + entry_lines(document.timeline.entries) + after).decode()


def document_of(text: str) -> IncidentExport:
    """Fill every text of a document."""
    entry = {"source": text, "id": text}
    shown = {
        **entry, "kind": "metric", "t": 0, "p": "exact", "title": text, "sha": "", "pinned": False, "hidden": False,
        "occurred_at": 0, "original_precision": "exact", "original_title": text, "environment": text,
    }  # fmt: skip
    change = {**entry, "kind": "metric", "t": 0, "p": "exact", "title": text}
    factor = {
        "slug": "a",
        "category": "design",
        "statement": text,
        "safeguard": text,
        "why_it_made_sense": text,
    }
    lists = ("went_well", "went_poorly", "got_lucky", "surprises", "open_questions")
    content: dict[str, Any] = {
        "summary": text, "response": text, "detection": {"how": text, "could_be_sooner": text},
        "impact": {"description": text, "quantities": [{"name": text, "value": 1, "unit": text[:50]}]},
        "trigger": {"description": text, "entry": entry},
        "factors": [factor | {"evidence": [entry]}], **{name: [text, text] for name in lists},
    }  # fmt: skip
    nobody = "00000000-0000-4000-8000-000000000000"
    incident = {
        "id": nobody, "number": 1, "title": text, "description": text, "kind": "incident", "severity": "HIGH",
        "status": "CLOSED", "outcome": "fixed", "reporter": text, "owner": text, "services": ["a"], "teams": ["b"],
        "visibility": "internal", "members": [], "declared_at": AT, "ended_at": AT, "archived_at": None,
        "version": 1, "created_by": text, "created_at": AT, "updated_at": AT,
    }  # fmt: skip
    revision = {
        "rev": 1, "status": "published", "message": text, "restored_from": None, "author": text, "at": AT,
        "incident_id": nobody, "schema_version": 1, "content": content, "timeline_digest": "d", "timeline_at": AT,
        "rules": 1, "timeline_changed": True,
        "timeline_changes": {how: [change] for how in ("added", "removed", "moved", "retitled")},
    }  # fmt: skip
    action = {
        "id": nobody, "incident_id": nobody, "incident": "INC-1", "type": "learn", "title": text, "factor": text,
        "owner": text, "priority": 1, "due_on": "2026-01-05", "url": "https://a.example/(x)", "status": "wont_do",
        "closed_at": AT, "closed_reason": text, "version": 1, "created_by": text, "created_at": AT, "updated_at": AT,
    }  # fmt: skip
    far = {
        "id": nobody,
        "number": 2,
        "title": text,
        "severity": "LOW",
        "status": "OPEN",
        "visibility": "internal",
    }
    link = {
        "type": "follows",
        "direction": "in",
        "incident": far,
        "note": text,
        "created_by": text,
        "created_at": AT,
    }
    remark = {
        "id": nobody, "kind": "question", "state": "open", "body": text, "entry": entry, "occurred_at": None,
        "author": text, "at": AT,
    }  # fmt: skip
    turns = {"detected": {"t": 0, "p": "minute"}}
    return IncidentExport.model_validate(
        {
            "incident": incident,
            "labels": ["dns", "late"],
            "timeline": {"digest": "d", "rules": 1, "milestones": turns, "entries": [shown]},
            "annotations": [remark],
            "postmortem": revision,
            "actions": [action],
            "links": [link],
        }
    )


HEADINGS = [
    "Post-mortem", "Summary", "Impact", "Detection", "Trigger", "Response", "Factors", "a (design)", "Went well",
    "Went poorly", "Got lucky", "Surprises", "Open questions", "Actions", "Links", "Timeline", "Annotations",
]  # fmt: skip


@example("\n\n<b>")  # an item that begins with two blank lines ends there
@given(typed.filter(str.strip))
def test_a_whole_document_is_inert_and_keeps_its_outline(text: str) -> None:
    markdown = written(document_of(text[:200]))
    assert dangers(markdown) == []
    tokens = MarkdownIt("commonmark").parse(markdown)
    outline = [
        tokens[at + 1].content
        for at, it in enumerate(tokens)
        if it.type == "heading_open" and it.level == 0 and it.tag != "h1"
    ]
    assert outline == HEADINGS


def test_every_text_of_a_document_is_in_it() -> None:
    markdown = written(document_of("Marker"))
    assert markdown.count("Marker") >= 45
    assert "<https://a.example/(x)>" in markdown
    assert "- Labels: dns, late\n" in markdown
    assert "{{" not in markdown
    assert not re.search(r"\n\n\n\n", markdown)
