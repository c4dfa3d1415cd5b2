"""Fill the marks of the pages of `docs` with what follows from the code, as the site is built.

Signatures, docstrings, routes, metrics, measured costs. Nothing of it is committed.

    python -m docs.generate docs/reference/harden.md    # prints a page as the site has it

`tests/docs/test_reference.py` fails if a mark cannot be filled, and `test_site.py` if an exported
name has no entry. Docstrings have sections of Google style: one entry a line, indented by four, and
its continuation by more.
"""

# ruff: noqa: INP001 - a tool, and no package: `docs` has pages

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from types import ModuleType, WrapperDescriptorType
from typing import Any, Final, Protocol, TypeVar

from deploy.prr.report import as_table
from deploy.prr.table import read_rows
from docs import claims
from postfacta_adapters.workers import JobOutcome
from postfacta_app.app import declared
from postfacta_app.openapi import openapi_document
from postfacta_app.principal import Access
from postfacta_app.reliability.about import METRICS
from postfacta_app.web.routes import Rule
from postfacta_core import CircuitBreaker, Fallback, Hedge, Retry, errors
from postfacta_core.asgi import Cors, _state
from postfacta_core.asgi._cors import CorsRules
from postfacta_core.asgi._kernel import Kernel
from postfacta_core.asgi._ratelimit import RatePlan
from postfacta_core.asgi._rules import Rules
from postfacta_core.asgi.parts import Part
from postfacta_core.clock import LUCK
from postfacta_core.deadlines import TransferLimits
from postfacta_core.deadlines.requests import RunningRequests
from postfacta_core.events import Event, Mode, PolicyCreated, Sample
from postfacta_core.guards import BlockGuard
from postfacta_core.limits.address import NO_PROXIES
from postfacta_core.limits.overload import OverloadLimiter
from postfacta_core.limits.rate import DECISIONS
from postfacta_core.telemetry.catalogue import INSTRUMENTS, POLICY_METRICS, RUNTIME_METRICS, About
from postfacta_lab.assess.model import rubric

__all__ = [
    "FACES",
    "PAGES",
    "Doc",
    "documented",
    "exported",
    "fill",
    "list_entries",
    "page_text",
    "parse",
    "render",
]

ROOT: Final = Path(__file__).parent.parent
_RESULTS: Final = "benchmarks/results/policies.json"
_WIDTH: Final = 100

PAGES: Final = (
    "docs/reference/policies.md",
    "docs/reference/harden.md",
    "docs/reference/services.md",
    "docs/reference/parts.md",
    "docs/reference/errors.md",
    "docs/reference/events.md",
    "docs/reference/testing.md",
    "docs/reference/embedded.md",
    "docs/reference/metrics.md",
    "docs/reference/api.md",
    "docs/reference/assessment-checks.md",
    "docs/reference/protection.md",
    "docs/reference/readiness.md",
    "docs/reference/specification.md",
    "docs/reference/traceability.md",
    "docs/explanation/resilience.md",
    "docs/explanation/exchange.md",
    # After the others, since it links to their entries.
    "docs/reference/core.md",
)
"""The pages that have marks: what is between two of them is made here, and all else by hand."""

FACES: Final = (
    *(
        "postfacta_core",
        "postfacta_core.deadlines",
        "postfacta_core.drain",
        "postfacta_core.feed",
        "postfacta_core.guards",
        "postfacta_core.health",
        "postfacta_core.limits",
        "postfacta_core.asgi",
        "postfacta_core.testing",
        "postfacta_core.errors",
    ),
    *(
        "postfacta_core.events",
        "postfacta_core.context",
        "postfacta_core.clock",
        "postfacta_core.logs",
    ),
    *("postfacta_postgres", "postfacta_embedded"),
    *(
        "postfacta_adapters.httpx",
        "postfacta_adapters.limits",
        "postfacta_adapters.otlp",
        "postfacta_adapters.psycopg",
        "postfacta_adapters.sqlalchemy",
        "postfacta_adapters.uvicorn",
        "postfacta_adapters.workers",
        "postfacta_adapters.wsgi",
        "postfacta_web.conditional",
        "postfacta_web.jwks",
        "postfacta_web.secrets",
        "postfacta_web.sign_in",
        "postfacta_web.stale",
        "postfacta_web.strict_json",
        "postfacta_web.numbers",
        "postfacta_web.switches",
    ),
)
"""The modules to import from: each name that they export has an entry in the reference."""
_MARKED: Final = re.compile(
    r"^(<!-- made by docs/generate\.py: (\w+)([^\n]*) -->\n).*?^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
_HEADING: Final = re.compile(r"^### (\w+)$", re.MULTILINE)
# Code and links are passed over.
_NAME: Final = re.compile(r"```.*?```|^    .*?$|\[`\w+`\]|`(\w+)`", re.MULTILINE | re.DOTALL)
_SECTIONS: Final = re.compile(r"^(#+) (.+)\n((?:(?!#).*\n)*)", re.MULTILINE)
_LINK: Final = re.compile(r"\[(`\w+`)\]\(#\w+\)")
# It is a header field too, and mostly so where it is spoken of.
_AMBIGUOUS: Final = {"RateLimit"}
# Called by other parts of the library, and not by those who use it.
_INNER: Final = {
    *("announce", "heed", "tally", "collect", "probes", "is_due"),
    "next_chunk_due",
}

_SECTION: Final = re.compile(r"(Args|Attributes|Returns|Raises):")
# It has a text and no entries.
_RETURNS: Final = re.compile(r"^Returns:\n((?: {4}.+\n?)+)", re.MULTILINE)
_FACTORY: Final = re.compile(r"field\(default_factory=(?:lambda: (.+)|(\w+))\)")
_ENTRY: Final = re.compile(r"    (\*{0,2}[\w.]+): (.+)")
_MORE: Final = " " * 8
_Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Doc:
    """A docstring: its prose, and by the names of its sections their entries."""

    prose: str
    sections: Mapping[str, Mapping[str, str]]

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.prose.split("\n\n", 1)[0].split())


def parse(docstring: str | None) -> Doc:
    """Read a docstring of Google style.

    Raises:
        ValueError: If there is none, or a section has a line that belongs to no entry.
    """
    prose: list[str] = []
    sections: dict[str, dict[str, str]] = {}
    last = ""
    text = _RETURNS.sub(
        lambda it: f"Returns:\n    it: {' '.join(it[1].split())}\n",
        inspect.cleandoc(docstring or ""),
    )
    for line in text.splitlines():
        entries = next(reversed(sections.values()), None)
        if found := _SECTION.fullmatch(line):
            sections[found[1]] = {}
        elif entries is None:
            prose.append(line)
        elif found := _ENTRY.fullmatch(line):
            last = found[1]
            entries[last] = found[2]
        elif line.startswith(_MORE) and entries:
            entries[last] += f" {line.strip()}"
        elif line:
            msg = f"belongs to no entry of its section: {line!r}"
            raise ValueError(msg)
    if not prose:
        raise ValueError("what is on the page has a docstring")
    return Doc("\n".join(prose).strip(), sections)


def render(kind: type[object]) -> str:
    """Write all that a class's docstring and signature say."""
    doc = parse(kind.__doc__)
    parts = [f"### {kind.__name__}", _import(kind), doc.prose]
    if issubclass(kind, Enum):
        parts.append(
            _table("member", "value", [(f"`{one.name}`", f"`{one.value}`") for one in kind])
        )
    else:
        parts += _sections(kind, doc)
    return "\n\n".join(part for part in parts if part)


def _sections(kind: type[object], doc: Doc) -> Iterator[str]:
    arguments, attributes = (
        dict(doc.sections.get(section, {})) for section in ("Args", "Attributes")
    )
    if not arguments:
        # Of a record, what it is made from and what it has are the same.
        known = inspect.signature(kind).parameters if attributes else ()
        arguments = {name: attributes.pop(name) for name in list(attributes) if name in known}
    yield _table("argument", "what it is", _rows(arguments))
    yield _table("attribute", "what it is", _rows(attributes))
    yield _table("call, or read", "what it does", list(_members(kind)))
    yield _table("it raises", "when", _rows(doc.sections.get("Raises", {})))


def _rows(entries: Mapping[str, str]) -> _Rows:
    return [(f"`{name}`", text) for name, text in entries.items()]


def _table(first: str, second: str, rows: _Rows) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return (
        "\n".join([f"| {first} | {second} |", "|---|---|", *(f"| {a} | {b} |" for a, b in cells)])
        if rows
        else ""
    )


def _import(kind: type[object]) -> str:
    """Write where it comes from, and the signature if it can be made."""
    # An error that is only raised has no signature of its own.
    is_raised = issubclass(kind, Exception) and isinstance(kind.__init__, WrapperDescriptorType)
    is_made = not issubclass(kind, Enum) and Protocol not in kind.__bases__ and not is_raised
    signature = f"\n\n{_signature(kind, kind.__name__)}" if is_made else ""
    return f"```text\n{_from(kind.__name__, kind, kind.__module__)}{signature}\n```"


def _from(name: str, value: object, module: str) -> str:
    """Write how a name is imported.

    From the first face that exports it, or else from its module; of a module with an underscore,
    from the one beside it that passes the name on.
    """
    modules = [import_module(face) for face in FACES]
    # A face refuses a name that stands elsewhere with an ImportError.
    own = [module for module in modules if name in dir(module)]
    faces = [module.__name__ for module in own if getattr(module, name) is value]
    home = next((face for face in faces if name in exported(face)), "")
    if not home and "._" in module:
        beside = (ROOT / "src" / module.replace(".", "/")).parent.glob("[a-z]*.py")
        passing = [path.stem for path in sorted(beside) if f" {name} as {name}" in path.read_text()]
        home = ".".join([module.rpartition(".")[0], *passing])
    return f"from {home or module} import {name}"


def _signature(kind: Callable[..., object], called: str) -> str:
    texts = _default_texts(kind)
    parts: list[str] = []
    for name, parameter in inspect.signature(kind).parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not any(
            part.startswith("*") for part in parts
        ):
            parts.append("*")
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        value = parameter.default
        given = "" if value is parameter.empty else f" = {_default(value, texts[name])}"
        annotation: object = parameter.annotation
        text = (
            annotation
            if isinstance(annotation, str)
            else str(getattr(annotation, "__forward_arg__", ""))
        )
        parts.append(f"{star}{name}: {text}{given}".replace("'", '"'))
    short = f"{called}({', '.join(parts)})"
    return (
        short
        if len(short) <= _WIDTH
        else f"{called}(\n" + "".join(f"    {one},\n" for one in parts) + ")"
    )


def _default(value: object, text: str) -> str:
    if made := _FACTORY.fullmatch(text):
        return made[1] or f"{made[2]}()"
    if isinstance(value, Enum) or not isinstance(value, bool | int | float | str | None):
        return text
    return f"{value:_}" if type(value) is int else repr(value)


def _default_texts(kind: Callable[..., object]) -> Mapping[str, str]:
    """Read the defaults as they are written: `MONOTONIC` says more than the function that it is."""
    texts: dict[str, str] = {}
    # A class may have the `__init__` of its base.
    bases = [
        each for each in getattr(kind, "__mro__", [kind]) if each.__module__ == kind.__module__
    ]
    nodes = (
        node
        for each in reversed(bases)
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(each))))
    )
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name in {"__init__", kind.__name__}:
            pairs = [*zip(reversed(node.args.args), reversed(node.args.defaults), strict=False)]
            pairs += [
                (arg, one)
                for arg, one in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                if one
            ]
            texts |= {arg.arg: ast.unparse(one) for arg, one in pairs}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            texts.setdefault(node.target.id, ast.unparse(node.value))
    # One that is inherited, as an error's, is plain.
    return {name: texts.get(name, "") for name in inspect.signature(kind).parameters}


def _members(kind: type[object]) -> Iterator[tuple[str, str]]:
    """Describe each public method: its signature and its effect.

    Those of a base class are described there.
    """
    for name, member in vars(kind).items():
        if name in _INNER or any(hasattr(base, name) for base in kind.__mro__[1:-1]):
            continue
        if name == "__call__" and "function" in inspect.signature(member).parameters:
            yield "as a decorator", _says(member)
        elif name.startswith("_"):
            continue
        elif isinstance(member, property):
            yield f"`{name}`{', may be set' if member.fset else ''}", _says(member)
        elif inspect.isfunction(member):
            yield f"`{_invocation(name, member)}`", _says(member)


def _says(member: object) -> str:
    doc = parse(member.__doc__)
    raises = "; ".join(
        f"`{error}`: {text}" for error, text in doc.sections.get("Raises", {}).items()
    )
    return f"{doc.summary} Raises {raises}" if raises else doc.summary


def _invocation(name: str, function: Callable[..., object]) -> str:
    signature = inspect.signature(function)
    bare = [one.replace(annotation=one.empty) for one in list(signature.parameters.values())[1:]]
    awaits = inspect.iscoroutinefunction(function) or str(signature.return_annotation).startswith(
        "Coroutine"
    )
    return f"{'await ' * awaits}{name}{inspect.Signature(bare)}".replace("/, *args", "*args")


def _derived(module: ModuleType) -> list[str]:
    """Name the classes of a module below another one of it."""
    kinds = {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    }
    return sorted(name for name, kind in kinds.items() if kind.__base__ in kinds.values())


def _each(write: Callable[[ModuleType, str], str]) -> Callable[[str], str]:
    """Return a maker of entries.

    A mark has a module, of the core unless it says which package, and the names; or `*`, for all
    classes of the module that another one of it is the base of.
    """

    def make(asked: str) -> str:
        home, *names = asked.split()
        module = import_module(home if home.startswith("postfacta_") else f"postfacta_core.{home}")
        if names == ["*"]:
            names = _derived(module)
        return "\n\n".join(write(module, name) for name in names)

    return make


def _function(name: str, function: Callable[..., object]) -> str:
    doc = parse(function.__doc__)
    arguments, errors_ = (_rows(doc.sections.get(section, {})) for section in ("Args", "Raises"))
    imported = "" if "." in name else f"{_from(name, function, function.__module__)}\n\n"
    returned = doc.sections.get("Returns", {}).get("it", "")
    parts = (
        f"### {name}\n\n```text\n{imported}{_signature(function, name)}\n```",
        doc.prose,
        _table("argument", "what it is", arguments),
        f"Returns: {returned}" if returned else "",
        _table("it raises", "when", errors_),
    )
    return "\n\n".join(part for part in parts if part)


def _errors(_asked: str) -> str:
    """Draw the tree of errors.

    Each below the first that it is a kind of, with the first sentence about it.
    """

    def draw(kind: type[Exception], depth: int) -> Iterator[str]:
        says = parse(kind.__doc__).summary.removesuffix(".").split(". ")[0]
        name = f"{'  ' * depth}{'*+-'[depth]} {kind.__name__}"
        yield f"{name:<32} -- {says}"
        for known in vars(errors).values():
            if isinstance(known, type) and known.__base__ is kind:
                yield from draw(known, depth + 1)

    tree = "\n".join(draw(errors.ResilienceError, 0))
    return f"```text\n{tree}\n```"


def _value(module: ModuleType, name: str) -> str:
    """Write the entry of an alias or a constant."""
    source, means = _assigned(module, name)
    imported = _from(name, getattr(module, name), module.__name__)
    return f"### {name}\n\n```text\n{imported}\n\n{name} = {source}\n```\n\n{means.prose}"


def _assigned(module: ModuleType, name: str) -> tuple[str, Doc]:
    """Read what a module assigns to a name, and the docstring below."""
    body = ast.parse(inspect.getsource(module)).body
    for node in body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
            return _assigned(
                import_module(f"{'.' * node.level}{node.module}", module.__package__), name
            )
    for node, below in pairwise(body):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(below, ast.Expr):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if ast.unparse(target) == name and node.value is not None:
            source = " ".join(ast.unparse(node.value).split()).replace("'", '"')
            return source, parse(ast.literal_eval(below.value))
    msg = f"{module.__name__}.{name} has no docstring below it"
    raise ValueError(msg)


def exported(face: str) -> Sequence[str]:
    """List what a module exports.

    Its `__all__`, or else each name without an underscore that it defines.
    """
    module = import_module(face)
    listed: Sequence[str] | None = getattr(module, "__all__", None)
    if listed is not None:
        return listed
    defined: set[str] = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined.update(target.id for target in targets if isinstance(target, ast.Name))
    return sorted(
        name
        for name in defined
        if not name.startswith("_") and not isinstance(getattr(module, name), TypeVar)
    )


def list_entries() -> Mapping[str, tuple[str, str]]:
    """List the entries of the reference by name.

    The page with the anchor, and the first paragraph.
    """
    found: dict[str, tuple[str, str]] = {}
    for page in PAGES[:-1]:
        seen: dict[str, int] = {}
        for level, title, text in _SECTIONS.findall(page_text(page)):
            slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            number = seen[slug] = seen.get(slug, -1) + 1
            prose = _LINK.sub(r"\1", text.partition("\n```\n\n")[2].partition("\n\n")[0])
            link = f"{Path(page).name}#{slug}{f'-{number}' * (number > 0)}"
            if level == "###":
                found.setdefault(title, (link, prose.partition("\n<!--")[0].replace("\n", " ")))
    return found


def _names(asked: str) -> str:
    """Write the table of all that a face exports, each name with a link to its entry."""
    known = list_entries()
    rows = [(f"[`{name}`]({known[name][0]})", known[name][1]) for name in exported(asked.strip())]
    return _table("name", "what it is", rows)


def _label_values() -> Mapping[tuple[str, str], Sequence[str]]:
    """Ask one policy of each kind for the values of its labels."""
    tallies: list[Callable[[], Iterable[Sample]]] = [OverloadLimiter("x").tally]

    def hear(event: Event) -> None:
        if isinstance(event, PolicyCreated):
            tallies.append(event.tally)

    CircuitBreaker("x", observer=hear)
    Retry("x", observer=hear)
    Fallback("x", otherwise=None, observer=hear)
    Hedge("x", delay=1, observer=hear)
    values: dict[tuple[str, str], list[str]] = {
        **{
            (kind.metric, POLICY_METRICS[kind.metric].labels[1]): list(kind.kinds)
            for kind in BlockGuard.__subclasses__()
            if kind.metric in POLICY_METRICS
        },
        ("postfacta_ratelimit_decisions_total", "decision"): list(DECISIONS),
        ("postfacta_jobs_total", "outcome"): [*JobOutcome],
        ("postfacta_numbers_total", "outcome"): ["changed", "refused"],
        ("db_client_connection_count", "db_client_connection_state"): ["idle", "used"],
    }
    for sample in (sample for tally in tallies for sample in tally()):
        for label, value in zip(POLICY_METRICS[sample.metric].labels, sample.labels, strict=True):
            known = values.setdefault((sample.metric, label), [])
            if label != "mode" and value not in {"x", *known}:
                known.append(str(value))
    return values


_HEAD: Final = ("| Metric | Type | Labels | What it shows |", "|---|---|---|---|")


def _row(name: str, kind: str, labels: str, *, text: str) -> str:
    return f"| `{name}` | {kind} | {labels} | {text} |"


def _labels(names: Sequence[str], values: Mapping[str, Sequence[str]]) -> str:
    known = [", ".join(f"`{value}`" for value in values.get(name, ())) for name in names]
    return ", ".join(f"`{a}` ({b})" if b else f"`{a}`" for a, b in zip(names, known, strict=True))


def _instruments(_asked: str) -> str:
    """Write the table of all that is made with the registry."""
    rows = [
        _row(name, _kind(name, one), _labels(one.labels, one.values), text=one.text)
        for name, one in INSTRUMENTS.items()
    ]
    return "\n".join([*_HEAD, *rows])


def _kind(name: str, instrument: About) -> str:
    return "histogram" if instrument.buckets else _policy_kind(name)


def _buckets(_asked: str) -> str:
    """Write which histogram has which bounds."""
    names: dict[tuple[float, ...], list[str]] = {}
    for name, instrument in INSTRUMENTS.items():
        if instrument.buckets:
            names.setdefault(instrument.buckets, []).append(f"`{name}`")
    rows = [
        f"| {', '.join(f'{b:g}' if b < 1 else f'{b:,}' for b in bounds)} | {', '.join(those)} |"
        for bounds, those in names.items()
    ]
    return "\n".join(["| Bounds | Histograms |", "|---|---|", *rows])


# The sources of these metrics are in no table that could be read.
_TOLD: Final[Mapping[str, Mapping[str, Sequence[str]]]] = {
    "postfacta_telemetry_spans_dropped_total": {
        "reason": ("queue_full", "export_failed", "shutdown")
    },
    "postfacta_metrics_workers": {"state": ("answered", "silent")},
}


def _runtime(_asked: str) -> str:
    rows = [
        _row(name, _policy_kind(name), _labels(one.labels, _TOLD.get(name, {})), text=one.text)
        for name, one in RUNTIME_METRICS.items()
    ]
    return "\n".join([*_HEAD, *rows])


def _business(_asked: str) -> str:
    rows = [
        _row(name, _policy_kind(name), _labels(one.labels, {}), text=one.text)
        for name, one in METRICS.items()
    ]
    return "\n".join([*_HEAD, *rows])


def _policy_kind(name: str) -> str:
    return "counter" if name.endswith("_total") else "gauge"


def _metrics(_asked: str) -> str:
    values = _label_values()
    rows = [
        _row(
            name,
            _policy_kind(name),
            _labels(
                metric.labels, {label: values.get((name, label), ()) for label in metric.labels}
            ),
            text=metric.text,
        )
        for name, metric in POLICY_METRICS.items()
    ]
    modes = ", ".join(f"`{mode.value}`" for mode in Mode)
    return "\n".join(
        [*_HEAD, *rows, "", f"`mode` is what the policy was set to at that moment: {modes}."]
    )


# As `benchmarks.policy_peers` has them, which would import all the peers.
_OURS: Final = "postfacta"
_TURN: Final = " + a turn of the loop"
_SITUATIONS: Final = {
    "breaker, success": "a circuit that is closed",
    "retry, success at once": "a `Retry` whose first try succeeds",
    "bulkhead, a slot is free": "a `Bulkhead` with a free slot",
    "timeout, in time": "a `Timeout` of a call that is in time",
    "pipeline of timeout, retry, breaker, bulkhead": "these four in one `Pipeline`",
    "fallback, not needed": "a `Fallback` that is not needed",
    "hedge, not needed": "a `Hedge` that is not needed",
    "rate limit, 1 key": "a `RateCounter`, one caller",
    "rate limit, 100,000 keys": "a `RateCounter`, 100,000 callers",
}
"""What is measured, and how a page calls it."""


def _costs(_asked: str) -> str:
    results = json.loads((ROOT / _RESULTS).read_text())["asyncio"]
    rows = ["| what succeeds at once, µs | here | elsewhere |", "|---|---:|---|"]
    for situation, words in _SITUATIONS.items():
        costs = {
            name.removesuffix(_TURN): float(way["added_ns"]) / 1000
            for name, way in results[situation].items()
        }
        theirs = sorted((cost, name) for name, cost in costs.items() if not name.startswith(_OURS))
        rows.append(
            f"| {words} | {costs[_OURS]:.1f} |"
            f" {'; '.join(f'{name} {cost:,.1f}' for cost, name in theirs)} |"
        )
    return "\n".join(rows)


_MAY: Final = {
    Access.OPEN: "anyone",
    Access.SIGNED_IN: "any signed-in person",
    Access.READ: "viewer, `incidents:read`",
    Access.ANNOTATE: "viewer, `incidents:write`",
    Access.WRITE: "responder, `incidents:write`",
    Access.INGEST: "responder, `signals:write`",
    Access.ADMIN: "admin",
}


@cache
def documented() -> Sequence[Rule]:
    """List the routes that the OpenAPI document has; none of them is ever called."""
    return [rule for rule in declared() if rule.summary]


@cache
def _paths() -> Mapping[str, Any]:
    paths: Mapping[str, Any] = openapi_document(documented(), version="")["paths"]
    return paths


def _api(asked: str) -> str:
    """Return the table of one group of routes, from the OpenAPI document."""
    rules = documented()
    paths = _paths()
    rows = [
        "| method | path | access | summary | success | further problems |",
        "|---|---|---|---|---|---|",
    ]
    for rule in rules:
        path = re.sub(r":\w+", "", rule.path)
        operation = paths[path][rule.method.lower()]
        if operation["tags"] == [asked.strip()]:
            answers = " ".join(status for status in operation["responses"] if status < "400")
            own = ", ".join(f"`{slug}`" for slug in dict.fromkeys(rule.problems))
            rows.append(
                f"| {rule.method} | `{path}` | {_MAY[rule.access]} | {operation['summary']} |"
                f" {answers} | {own} |"
            )
    return "\n".join(rows)


def _checks(_: str) -> str:
    """Return a table for each category of checks of an assessment."""
    entries = rubric().entries.values()
    lines: list[str] = []
    for category in dict.fromkeys(entry.category for entry in entries):
        lines += [
            f"## {category}",
            "",
            "| check | what is done | item | weight | remedy |",
            "|---|---|---|---|---|",
        ]
        for entry in entries:
            if entry.category == category:
                gate = f"; gate of P{entry.gate}" if entry.gate is not None else ""
                lines.append(
                    f"| **{entry.id}** {entry.title} | {entry.does} | {entry.item} |"
                    f" {entry.weight:.2f}{gate} | {entry.harden} · without: {entry.without} |"
                )
        lines.append("")
    return "\n".join(lines)


def _claims(asked: str) -> str:
    """Return the table of claims of a page and a section."""
    page, section = asked.split()
    return claims.as_table(page, section)


def _readiness(_: str) -> str:
    """Return the table of the readiness review's questions."""
    return as_table(read_rows())


def _meanings(kind: type[Enum]) -> str:
    """Return a table of the members of an enum, with the comments beside them."""
    members = re.findall(r"^    (\w+) = \d+  # (.*)\.$", inspect.getsource(kind), re.MULTILINE)
    return "\n".join(["| | |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in members)])


def _states(asked: str) -> str:
    """Return the states of one side of an exchange, and its table of changes."""
    table: Mapping[Enum, Mapping[Any, Enum]] = getattr(_state, asked.strip().upper())
    kind: type[Enum] = getattr(_state, asked.strip())
    lines = [
        _meanings(kind),
        "",
        f"| after | {' | '.join(f'`{event.name}`' for event in table)} |",
        f"|---|{'---|' * len(table)}",
    ]
    arrows = ["```text"]
    for state in kind:
        after = {event: row[state] for event, row in table.items() if row[state] is not state}
        cells = [f"`{after[event].name}`" if event in after else "" for event in table]
        lines.append(f"| `{state.name}` | {' | '.join(cells)} |")
        arrows += [
            f"{state.name if not number else '':10} --{event.name:-<9}-> {changed.name}"
            for number, (event, changed) in enumerate(after.items())
        ]
    return "\n".join([*lines, "", *arrows, "```"])


async def _nothing(*_: object) -> None:
    """Stand for an application, and for a probe."""


def _parts(_: str) -> str:
    """Return the parts that are asked before an application, in their order."""
    running = RunningRequests()
    every_part = Kernel(
        _nothing,
        recorders=[Part()],
        cors=CorsRules(Cors()),
        doors={"/": _nothing},
        rules=Rules(limits=TransferLimits(), rates=RatePlan([], proxies=NO_PROXIES, luck=LUCK)),
        parts=[Part()],
        requests=running,
    )
    rows = [
        (part.name or "a team's own", inspect.getdoc(type(part)) or "") for part in every_part.order
    ]
    rows.append(("limiter", "Admits a request, has it wait for a moment, or refuses it."))
    return "\n".join(f"{n}. `{name}`: {text}" for n, (name, text) in enumerate(rows, 1))


_MAKERS: Final[Mapping[str, Callable[[str], str]]] = {
    "api": _api,
    "buckets": _buckets,
    "checks": _checks,
    "claims": _claims,
    "classes": _each(lambda module, name: render(getattr(module, name))),
    "costs": _costs,
    "errors": _errors,
    "events_of_exchange": lambda _: _meanings(_state.Event),
    "functions": _each(lambda module, name: _function(name, attrgetter(name)(module))),
    "instruments": _instruments,
    "metrics": _metrics,
    "business": _business,
    "runtime": _runtime,
    "names": _names,
    "parts": _parts,
    "readiness": _readiness,
    "states": _states,
    "values": _each(_value),
}


def fill(page: str) -> str:
    """Make what stands between the marks of a page, and link the classes that have a heading on it.

    Raises:
        KeyError: If a mark names a table that is not made.
    """
    filled = _MARKED.sub(lambda mark: f"{mark[1]}{_MAKERS[mark[2]](mark[3])}\n<!-- end -->", page)
    names = {*_HEADING.findall(filled)} - _AMBIGUOUS
    before, *sections = re.split(r"(?=^### )", filled, flags=re.MULTILINE)
    return "".join([before, *(_linked(section, names) for section in sections)])


@cache
def page_text(path: str) -> str:
    """Return a page as the site has it, by its path in the repository."""
    text = (ROOT / path).read_text()
    return fill(text) if path in PAGES else text


def _linked(section: str, names: set[str]) -> str:
    """Link each name where it stands first in a section that is not its own."""
    heading = _HEADING.match(section)
    left = names - ({heading[1]} if heading else set())

    def link(found: re.Match[str]) -> str:
        name = found[1]
        if name not in left:
            return found[0]
        left.remove(name)
        return f"[`{name}`](#{name.lower()})"

    return _NAME.sub(link, section)


def main() -> None:
    """Print pages as the site has them."""
    sys.stdout.write("\n".join(page_text(path) for path in sys.argv[1:] or PAGES))


if __name__ == "__main__":
    main()
