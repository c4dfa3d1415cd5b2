"""Prose keeps to plain technical English: the words listed here have a better one.

Checked are docstrings, comments and sentences in string literals of the code, names and docstrings
of tests, Markdown (of its examples the comments), templates and configuration. Text in backticks
and names of parameters are code.
"""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent

# A word, as a regular expression in small letters, and what to write instead.
WORDS = {
    r"told": "informed, given, sent, notified, reported, known",
    r"hear(s|d|ing)?": "receive, notice; a signal is caught or handled",
    r"whoever|whosoever|whom(ever)?": "the caller, a client, anyone who, which, for which",
    r"so many": "at most N, the number of",
    r"he|him|his|himself|she|her|hers|herself": "it and its for machinery; they, them, their for people",
    r"(no|some|any|every)body('s)?": "no one, none; a caller, a client, a user; everyone, all; anyone",
    r"may (it|he|she|one)": "Whether it may",
    r"tell(s|ing)? of": "report, describe, list",
    r"befall(s|en|ing)?|befell": "happen to",
    r"bears?|bearing|bore|borne": "carry, have; tolerate, withstand",
    r"haste": "hurry, override",
    r"luck": "randomness, jitter, chance",
    r"lest": "so that not",
}
OPENINGS = {
    r"tell": "Return, Report",
    r"say": "Return, Raise, Describe",
    r"know": "Track, Return",
    r"mind": "Watch, Respect",
}
# Lines on which such a word is right: a part of the line, and why.
EXCEPTIONS = {
    "deploy/alertmanager/alertmanager.yml": {
        "receiver: nobody": "the name of a receiver",
        "name: nobody": "the name of a receiver",
    },
    "docs/reference/services.md": {
        "docs/generate.py:": "names of the code",
    },
    "src/postfacta_embedded/account.py": {"no user called nobody": "the name of an account"},
}

ANYWHERE = re.compile("|".join(rf"\b(?P<w{n}>{word})\b" for n, word in enumerate(WORDS)))
OPENING = re.compile("|".join(rf'^r?"""(?P<w{n}>{word})\b' for n, word in enumerate(OPENINGS)))
OPENED = re.compile(rf'"""({"|".join(OPENINGS)})\b')
BETTER = tuple(WORDS.values())
BETTER_OPENING = tuple(OPENINGS.values())
CODE = re.compile(
    r"``[^`]+``|`[^`]*`|\{[^{}]*\}|^\s*\w+:(?= )|^#+ [\w.]+$|<!--.*?-->|https?://\S+|\]\([^)]*\)"
)
FILES = subprocess.run(
    ["git", "ls-files", "-z"],  # noqa: S607 - git is what made this checkout
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
).stdout.split("\0")[:-1]
OWN = ("tests/test_words.py",)


def _python(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of comments, and of strings that hold a sentence."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in {tokenize.COMMENT, tokenize.STRING} and " " in token.string:
            yield from enumerate(token.string.splitlines(), token.start[0])


def _tests(text: str) -> Iterator[tuple[int, str]]:
    """Yield the names of tests, and the lines of docstrings."""
    for found in re.finditer(
        r'^ *(?:async def|def|class) (test_\w+|Test\w+)|"""(?:.|\n)*?"""', text, re.MULTILINE
    ):
        before = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
        if found[1] or not before.strip():
            lines = found[1].replace("_", " ") if found[1] else found[0]
            yield from enumerate(lines.splitlines(), text.count("\n", 0, found.start()) + 1)


def _markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines, and of an example its comments."""
    example = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            example = not example
        elif not example:
            yield number, line
        elif "# " in line:
            yield number, line.partition("# ")[2]


def _plain(text: str) -> Iterator[tuple[int, str]]:
    yield from enumerate(text.splitlines(), 1)


def _prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    if name.endswith(".py"):
        return _tests(text) if name.startswith("tests/") else _python(text)
    if name.endswith(".md"):
        return _markdown(text)
    if name.endswith((".html", ".yml", ".yaml", ".mako", ".conf", ".toml", ".sh")):
        return _plain(text)
    return iter(())


def offenders(name: str, text: str) -> Iterator[str]:
    """Yield each word of the lists in the prose of a file, with its line and what to write instead."""
    raw = text.lower().replace("_", " ")
    if not (ANYWHERE.search(raw) or OPENED.search(raw)):
        return
    for number, line in _prose(name, text):
        if any(part in line for part in EXCEPTIONS.get(name, {})):
            continue
        plain = CODE.sub("`", line.lower())
        for pattern, better in ((ANYWHERE, BETTER), (OPENING, BETTER_OPENING)):
            for found in pattern.finditer(plain.strip()):
                word = found[found.lastgroup or 0]
                yield f"{name}:{number}: {word!r}: write {better[int((found.lastgroup or 'w0')[1:])]}"


def _place(name: str) -> str:
    folders = name.split("/")[:-1]
    deep = {"docs": 2, "src": 3, "tests": 2}.get(name.split("/", maxsplit=1)[0], 1)
    return "/".join(folders[:deep]) or "."


PLACES = sorted({_place(name) for name in FILES})


@pytest.mark.parametrize("place", PLACES)
def test_prose_is_plain_english(place: str) -> None:
    names = [name for name in FILES if _place(name) == place and name not in OWN]
    found = [
        line
        for name in names
        for line in offenders(name, (ROOT / name).read_text(errors="replace"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/a.py", '"""Tell whether it is open."""'),
        ("src/a.py", "def f(): ...  # the observer is told"),
        ("src/a.py", 'raise ValueError("takes so many requests")'),
        ("tests/a.py", "    def test_nobody_waits(self) -> None: ..."),
        ("tests/a.py", 'def f() -> None:\n    """One\n\n    Whoever waits.\n    """'),
        ("docs/a.md", "He waits."),
        ("docs/a.md", "```python\nx = 1  # somebody waits\n```"),
        ("deploy/a.yml", "description: Whom it concerns"),
    ],
)
def test_a_word_of_the_lists_is_found(name: str, text: str) -> None:
    assert len(list(offenders(name, text))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/a.py", 'def f(luck, told="told"): return f"a {told} b"'),
        (
            "tests/a.py",
            'CODE = """\nx\n"""\n\n\ndef answer() -> str:\n    return "so many"\n\n\nOTHER = """y"""',
        ),
        ("src/a.py", '"""Draw.\n\n    luck: From 0 to 1; see `luck`.\n"""'),
        ("tests/a.py", "def test_it_waits() -> None: ...  # nobody"),
        ("docs/a.md", "```python\nluck = 1\n```"),
    ],
)
def test_code_is_no_prose(name: str, text: str) -> None:
    assert not list(offenders(name, text))


def test_each_exception_is_used() -> None:
    for name, parts in EXCEPTIONS.items():
        lines = (ROOT / name).read_text().splitlines()
        for part in parts:
            assert [line for line in lines if part in line and ANYWHERE.search(line.lower())], (
                name,
                part,
            )
