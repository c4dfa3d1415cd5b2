"""What is generated into the documentation is what the code says today."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from docs.generate import PAGES, exported, fill, page_text, parse, render

from postfacta_core.asgi import HardenOptions, harden
from postfacta_core.deadlines._limits import TransferLimits
from postfacta_core.drain._course import DrainLimits
from postfacta_core.guards import Guard
from postfacta_core.health.registry import HealthRegistry
from postfacta_core.telemetry.catalogue import POLICY_METRICS
from postfacta_lab.assess.model import rubric
from postfacta_postgres import Database, PoolOptions
from tests.kit.every import every

ROOT = Path(__file__).parent.parent.parent
POLICIES = page_text("docs/reference/policies.md")
MARKS = re.findall(
    r"^<!-- made by docs/generate\.py: classes ([\w.]+) (.+) -->$", POLICIES, re.MULTILINE
)
CLASSES = {
    name: getattr(
        import_module(module if module.startswith("postfacta_") else f"postfacta_core.{module}"),
        name,
    )
    for module, names in MARKS
    for name in names.split()
}
OURS = [
    "docs/explanation/resilience.md",
    "docs/how-to/migrate.md",
    "docs/reference/api.md",
    "docs/reference/harden.md",
    "docs/reference/metrics.md",
    "docs/reference/policies.md",
    "docs/tutorial/first-post-mortem.md",
]


def test_the_tree_of_errors_has_each() -> None:
    tree = POLICIES.partition("generate.py: errors -->")[2].partition("<!-- end -->")[0]
    assert sorted(re.findall(r"^ *[*+-] (\w+) +-- \w", tree, re.MULTILINE)) == exported(
        "postfacta_core.errors"
    )


@pytest.mark.parametrize("page", PAGES)
def test_what_is_generated_is_on_the_site_and_not_committed(page: str) -> None:
    text = (ROOT / page).read_text()
    marks = re.findall(
        r"^<!-- made by docs/generate\.py: .+ -->\n<!-- end -->$", text, re.MULTILINE
    )
    assert len(marks) == text.count("<!-- end -->") > 0, "leave nothing between the marks"
    assert len(page_text(page)) > len(text) + 200 * len(marks)


def test_the_remedies_of_an_assessment_name_options_that_there_are() -> None:
    known = {
        kind.__name__: kind
        for kind in (Database, DrainLimits, HardenOptions, PoolOptions, TransferLimits)
    }
    named = [
        (name, option)
        for entry in rubric().entries.values()
        for name, options in re.findall(r"(\w+)\(([^()]*)", entry.harden)
        for option in re.findall(r"(\w+)=", options)
        if name in known
    ]
    assert len(named) >= 8
    with every() as case:
        for name, option in named:
            with case(f"{name}({option}=)"):
                assert option in inspect.signature(known[name]).parameters


NAMES = re.findall(
    r"\w+",
    """
    Answer Backoff Bulkhead CircuitBreaker CircuitConfig Ending Fallback Hedge Mode Outgoing
    OverloadConfig OverloadLimiter Pipeline Priority RateLimit RateCounter RateLimiter
    ResilienceError Retry RetryBudget SharedStore Timeout TrustedProxies
    """,
)


def test_every_policy_has_its_place() -> None:
    assert [name for name in NAMES if f"\n### {name}\n" not in POLICIES] == []


def test_no_argument_is_without_a_word() -> None:
    with every() as case:
        for name, kind in CLASSES.items():
            with case(name):
                section = re.split(
                    r"^#+ ", POLICIES.split(f"\n### {name}\n")[1], flags=re.MULTILINE
                )[0]
                if "```text\nfrom" in section and f"{name}(" in section:
                    arguments = inspect.signature(kind).parameters
                    missing = [
                        argument
                        for argument in arguments
                        if f"\n| `{argument}` |" not in section
                        and not _is_said_once(kind, argument)
                    ]
                    assert missing in ([], PROSE.get(name))


def _is_said_once(kind: Any, argument: str) -> bool:
    """Return whether an argument is that of each guard."""
    return (
        kind is not Guard
        and issubclass(kind, Guard)
        and argument in inspect.signature(Guard).parameters
    )


def test_every_setting_of_the_stack_has_its_row() -> None:
    page = page_text("docs/reference/harden.md")
    sections = re.split(r"^### ", page, flags=re.MULTILINE)
    given: list[Callable[..., object]] = [
        harden,
        HardenOptions,
        HealthRegistry.add,
        TransferLimits,
        DrainLimits,
    ]
    with every() as case:
        for settings in given:
            with case(settings.__qualname__):
                (own,) = (one for one in sections if one.startswith(f"{settings.__qualname__}\n"))
                names = [name for name in inspect.signature(settings).parameters if name != "self"]
                assert [name for name in names if f"\n| `{name}` |" not in own] == []


# These are told of in sentences.
PROSE = {
    "BreakerOpenError": ["policy", "retry_after"],
    "Outcome": ["result", "error"],
    "CircuitStatistics": list(inspect.signature(CLASSES["CircuitStatistics"]).parameters),
}


def test_every_metric_of_a_policy_is_described() -> None:
    rows = page_text("docs/reference/metrics.md").splitlines()
    with every() as case:
        for name, metric in POLICY_METRICS.items():
            with case(name):
                (row,) = (line for line in rows if line.startswith(f"| `{name}` |"))
                assert metric.text in row
                assert all(f"`{label}`" in row for label in metric.labels)


def test_every_link_leads_somewhere() -> None:
    with every() as case:
        for page in OURS:
            text = re.sub(r"```.*?```", "", page_text(page), flags=re.DOTALL)
            links = re.findall(r"\]\(([^)\s]*)\)", text)
            with case(page):
                assert links
            for link in links:
                path, _, anchor = link.partition("#")
                target = ((ROOT / page).parent / path if path else ROOT / page).resolve()
                with case(page, link):
                    assert target.is_file()
                    name = target.relative_to(ROOT).as_posix()
                    assert not anchor or anchor in _anchors(page_text(name))


def _anchors(text: str) -> set[str]:
    # As GitHub makes them.
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_docstring_is_taken_apart() -> None:
    doc = parse(
        """Do something,
        in two lines.

        More of it.

        Args:
            first: What it is,
                and more: of it.
            **rest: Handed on.

        Raises:
            ValueError: If not.
        """
    )
    assert doc.summary == "Do something, in two lines."
    assert doc.prose == "Do something,\nin two lines.\n\nMore of it."
    assert doc.sections == {
        "Args": {"first": "What it is, and more: of it.", "**rest": "Handed on."},
        "Raises": {"ValueError": "If not."},
    }


def test_a_docstring_that_cannot_be_read_is_no_page() -> None:
    with every() as case:
        for docstring in (
            None,
            "",
            "One.\n\nArgs:\n    no entry\n",
            "One.\n\nArgs:\n        too deep\n",
        ):
            with case(repr(docstring)), pytest.raises(ValueError, match=r"docstring|no entry"):
                parse(docstring)


class Colour(StrEnum):
    """What it looks like."""

    RED = "red"


DEFAULT = [1]


class Thing:
    """Is a thing.

    Args:
        name: Or `a | b`.
        parts: Any number.

    Attributes:
        size: How large.

    Raises:
        ValueError: If it is none.
    """

    def __init__(
        self,
        name: str | None,
        *parts: int,
        much: int = 10_000,
        hue: Colour = Colour.RED,
        at: object = DEFAULT,
    ) -> None:
        self.size = 1

    @property
    def mode(self) -> str:
        """How it works."""
        return ""

    @mode.setter
    def mode(self, mode: str) -> None: ...

    def _hidden(self) -> None:
        """Do not tell."""

    async def call(self, function: object, *, times: int = 1) -> None:
        """Call it.

        Raises:
            OSError: If it is away.
        """


def test_a_class_is_shown_with_its_signature_and_its_members() -> None:
    assert render(Thing) == "\n".join(
        [
            "### Thing",
            "",
            "```text",
            f"from {__name__} import Thing",
            "",
            "Thing(",
            "    name: str | None,",
            "    *parts: int,",
            "    much: int = 10_000,",
            "    hue: Colour = Colour.RED,",
            "    at: object = DEFAULT,",
            ")",
            "```",
            "",
            "Is a thing.",
            "",
            "| argument | what it is |",
            "|---|---|",
            "| `name` | Or `a \\| b`. |",
            "| `parts` | Any number. |",
            "",
            "| attribute | what it is |",
            "|---|---|",
            "| `size` | How large. |",
            "",
            "| call, or read | what it does |",
            "|---|---|",
            "| `mode`, may be set | How it works. |",
            "| `await call(function, *, times=1)` | Call it. Raises `OSError`: If it is away. |",
            "",
            "| it raises | when |",
            "|---|---|",
            "| `ValueError` | If it is none. |",
        ]
    )


def test_members_of_an_enumeration_are_shown_with_their_values() -> None:
    assert render(Colour).endswith(
        "What it looks like.\n\n| member | value |\n|---|---|\n| `RED` | `red` |"
    )


@dataclass(frozen=True, kw_only=True)
class Record:
    """Is a record.

    Attributes:
        rate: A fraction.
    """

    rate: float = 0.5


def test_what_a_record_is_made_from_is_its_arguments() -> None:
    assert "Record(*, rate: float = 0.5)" in render(Record)
    assert "| argument | what it is |\n|---|---|\n| `rate` | A fraction. |" in render(Record)


def test_names_are_linked_once_and_not_in_code() -> None:
    page = "### Retry\n\n`Retry`, `Mode`, `Mode`, [`Mode`](#mode), `Other`\n\n    `Mode`\n\n### Mode\n\n`Retry`\n"
    assert fill(page) == page.replace("`Mode`", "[`Mode`](#mode)", 1).replace(
        "### Mode\n\n`Retry`", "### Mode\n\n[`Retry`](#retry)"
    )


def test_an_unknown_mark_is_an_error() -> None:
    with pytest.raises(KeyError):
        fill("<!-- made by docs/generate.py: poems -->\n<!-- end -->\n")
