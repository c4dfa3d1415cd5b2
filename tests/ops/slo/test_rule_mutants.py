"""The generated tests bite: with any clause taken out of any rule, at least one of them fails."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from postfacta_slo.proofs.files import proofs_of
from postfacta_slo.rules.alerts import rules_of
from tests.ops.slo.promtool import complaints, cost, of
from tests.slo.files import APP, ORDERS, model
from tests.slo.promtool import needs_promtool

pytestmark = pytest.mark.long

# Samples up to which tests are run together, since starting promtool takes as long as they do.
SHORT: Final = (80, 480)
# A condition on a label of the service's own series, with the comma that parts it from the one
# before.
_MATCHER: Final = re.compile(r',?(?!service=|slo=)\b([a-zA-Z_]+)(=~|!~|!=|=)"(?:[^"\\]|\\.)*"')
_BRANCH: Final = re.compile(r"\n or [^\n]*? \* 0")
_ENOUGH: Final = re.compile(r" and on\(\) \((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")
_SUM: Final = ("clamp_max(\n", "\n+ ", "\n, 1)")


@dataclass(frozen=True)
class Mutant:
    """A rule with something taken out.

    Attributes:
        file: Whose rules.
        group: The name of its group.
        place: Which rule of it.
        name: What was taken out of what.
        rule: What is left.
    """

    file: Path
    group: str
    place: int
    name: str
    rule: dict[str, Any]

    @property
    def whose(self) -> str:
        """The objective or the service that the group is of."""
        return self.group.split(":")[min(2, self.group.count(":"))]


def without(
    expression: str, pattern: re.Pattern[str], instead: str = ""
) -> Iterator[tuple[str, str]]:
    """Each place that a pattern finds, and the expression without it."""
    for found in pattern.finditer(expression):
        yield (
            found[0].strip(", \n"),
            expression[: found.start()] + instead + expression[found.end() :],
        )


def without_conditions(expression: str) -> Iterator[tuple[str, str]]:
    unneeded = [found.span() for found in _BRANCH.finditer(expression)]
    for found in _MATCHER.finditer(expression):
        # In "or total * 0" a condition decides nothing: where it would, there is no total to divide
        # by.
        if not any(start <= found.start() < end for start, end in unneeded):
            left = expression[: found.start()] + expression[found.end() :]
            yield found[0].lstrip(","), left.replace("{,", "{").replace("{}", "")


def without_terms(expression: str) -> Iterator[tuple[str, str]]:
    head, parting, tail = _SUM if expression.startswith(_SUM[0]) else ("", "\nand\n", "")
    terms = expression.removeprefix(head).removesuffix(tail).split(parting)
    if len(terms) > 1:
        for place, term in enumerate(terms):
            yield term.strip(), head + parting.join(terms[:place] + terms[place + 1 :]) + tail
        if head:
            yield "clamp_max", parting.join(terms).replace(parting, " + ")


def taken_out(expression: str) -> Iterator[tuple[str, str]]:
    """What may be taken out of an expression, and what is left of it."""
    yield from without_conditions(expression)
    yield from without_terms(expression)
    yield from without(expression, _BRANCH)
    yield from without(expression, _ENOUGH)
    yield from without(expression, re.compile(r" or vector\(0\)"))
    yield from without(expression, re.compile(r" (> 0|>= -Inf)\)"), ")")


def mutants(file: Path) -> Iterator[Mutant]:
    for group in rules_of(model(file))["groups"]:
        for place, rule in enumerate(group["rules"]):
            name = (
                rule.get("record")
                or f"{rule['alert']} {rule['labels'].get('burnrate_tier', '')}".strip()
            )
            ways = [(what, rule | {"expr": left}) for what, left in taken_out(rule["expr"])]
            if rule.get("for", "0s") != "0s":
                ways.append((f"for: {rule['for']}", rule | {"for": "0s"}))
            for way, (what, left) in enumerate(ways):
                told = f"{group['name']} {name} without {way}: {what}".replace("\n", " ")
                yield Mutant(file, group["name"], place, told, left)


@pytest.fixture(scope="module")
def proofs() -> dict[Path, list[dict[str, Any]]]:
    return {
        file: [proofs_of(model(file), slow=slow) for slow in (False, True)]
        for file in (APP, ORDERS)
    }


@needs_promtool
@pytest.mark.parametrize(
    "mutant", [pytest.param(one, id=one.name) for file in (APP, ORDERS) for one in mutants(file)]
)
def test_a_rule_that_lacks_a_clause_fails_a_test(
    mutant: Mutant, proofs: dict[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    groups = copy.deepcopy(rules_of(model(mutant.file))["groups"])
    next(group for group in groups if group["name"] == mutant.group)["rules"][mutant.place] = (
        mutant.rule
    )
    stem = mutant.group.removesuffix(":period")
    mine = [group for group in groups if group["name"] in {stem, f"{stem}:period"}]
    for proof in proofs[mutant.file]:
        for few in cheapest_first(of(proof, mutant.whose)["tests"]):
            if complaints(tmp_path, mine, {**proof, "tests": few}):
                return
    pytest.fail(f"nobody missed it; what was left:\n{mutant.rule['expr']}")


def cheapest_first(tests: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Many short tests together, then longer ones, and the longest one by one."""
    shortest, short = (
        [test for test in tests if low < cost(test) <= high]
        for low, high in ((-1, SHORT[0]), SHORT)
    )
    long = sorted((test for test in tests if cost(test) > SHORT[1]), key=cost)
    return [some for some in (shortest, short, *([test] for test in long)) if some]


@pytest.mark.parametrize("file", [APP, ORDERS])
def test_no_rule_reads_what_was_recorded_of_another_objective(file: Path) -> None:
    for group in rules_of(model(file))["groups"]:
        for rule in group["rules"]:
            labels = rule["labels"]
            read = re.findall(r"slo:[a-zA-Z_:0-9]+(\{[^}]*\})?", rule["expr"])
            assert set(read) <= {f'{{service="{labels["service"]}",slo="{labels.get("slo")}"}}'}
