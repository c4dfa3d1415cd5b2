"""Decide about a canary from the measurements of an AnalysisTemplate, as Argo Rollouts does.

Of its conditions it knows a small part, and refuses the rest: clauses joined by `&&` that ask for
the length of the result, for `isNaN`, or compare one member with a number.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

__all__ = ["Metric", "Phase", "assessed", "holds", "measured", "metrics_of", "weights_of", "worst"]


class Phase(StrEnum):
    """How a measurement, a metric or a whole analysis stands; a later one is worse."""

    SUCCESSFUL = "successful"
    RUNNING = "running"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    FAILED = "failed"


_ORDER: Final = list(Phase)
_ERRORS: Final = 4  # Consecutive errors that Argo Rollouts permits by default.
_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER: Final = r"-?\d+(?:\.\d+)?"
_CLAUSE: Final = re.compile(
    rf"(?P<nan>!?)isNaN\(result\[(?P<of>\d+)\]\)"
    r"|(?:(?P<length>len\(result\))|result\[(?P<at>\d+)\]) (?P<how>[<>=!]=|[<>])"
    rf" (?P<number>{_NUMBER})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of an AnalysisTemplate.

    Attributes:
        name: Its name.
        query: In PromQL, with the arguments of the template in it.
        delay: Before the first measurement, as it is written.
        interval: Between two.
        count: How many are made.
        success: When a measurement is one; empty leaves it to the other.
        failure: When it is a failure.
        failures: More of these end the analysis, as do the next two.
        inconclusive: Measurements that were neither.
        errors: Consecutive measurements that could not be made.
    """

    name: str
    query: str
    delay: str
    interval: str
    count: int
    success: str
    failure: str
    failures: int
    inconclusive: int
    errors: int


def metrics_of(template: Mapping[str, Any], given: Mapping[str, str]) -> list[Metric]:
    """Read the metrics of an AnalysisTemplate, with values for its arguments.

    Raises:
        ValueError: An argument has no value.
    """
    spec = template["spec"]
    values = {one["name"]: given.get(one["name"], one.get("value")) for one in spec.get("args", ())}

    def filled(text: str) -> str:
        for name in re.findall(r"\{\{args\.([\w-]+)\}\}", text):
            if values.get(name) is None:
                raise ValueError(f"no value for the argument {name}")
            text = text.replace(f"{{{{args.{name}}}}}", str(values[name]))
        return text

    return [
        Metric(
            name=one["name"],
            query=filled(one["provider"]["prometheus"]["query"]).strip(),
            delay=one.get("initialDelay", "0"),
            interval=one["interval"],
            count=one["count"],
            success=one.get("successCondition", ""),
            failure=one.get("failureCondition", ""),
            failures=one.get("failureLimit", 0),
            inconclusive=one.get("inconclusiveLimit", 0),
            errors=one.get("consecutiveErrorLimit", _ERRORS),
        )
        for one in spec["metrics"]
    ]


def weights_of(rollout: Mapping[str, Any]) -> list[int]:
    """Return the weights of a Rollout's steps.

    Raises:
        ValueError: A weight is not followed by an analysis.
    """
    steps = rollout["spec"]["strategy"]["canary"]["steps"]
    weights = [one["setWeight"] for one in steps[::2] if "setWeight" in one]
    if len(steps) != 2 * len(weights) or not all("analysis" in one for one in steps[1::2]):
        raise ValueError("each weight must be followed by an analysis")
    return weights


def holds(condition: str, result: Sequence[float]) -> bool:
    """Evaluate a condition.

    Raises:
        ValueError: It is more than the part of the language that is known here.
        IndexError: It asks for a member that the result lacks; `&&` stops before that if it can.
    """
    clauses = [_CLAUSE.fullmatch(text) for text in condition.split(" && ")]
    if not all(clauses):
        raise ValueError(f"not known here: {condition}")
    return all(_clause(clause, result) for clause in clauses if clause)


def _clause(found: re.Match[str], result: Sequence[float]) -> bool:
    if found["of"]:
        return math.isnan(result[int(found["of"])]) is not bool(found["nan"])
    value = len(result) if found["length"] else result[int(found["at"])]
    return _COMPARISONS[found["how"]](value, float(found["number"]))


def measured(metric: Metric, result: Sequence[float]) -> Phase:
    """Judge one measurement; with both conditions, one that meets neither is inconclusive."""
    try:
        success = bool(metric.success) and holds(metric.success, result)
        failure = bool(metric.failure) and holds(metric.failure, result)
    except IndexError:
        return Phase.ERROR
    if not metric.failure:
        failure = bool(metric.success) and not success
    elif not metric.success:
        success = not failure
    return (
        Phase.FAILED
        if failure
        else Phase.SUCCESSFUL
        if success or not metric.success
        else Phase.INCONCLUSIVE
    )


def assessed(metric: Metric, phases: Sequence[Phase]) -> Phase:
    """Judge a metric by its measurements so far, in their order."""
    if phases.count(Phase.FAILED) > metric.failures:
        return Phase.FAILED
    if phases.count(Phase.INCONCLUSIVE) > metric.inconclusive:
        return Phase.INCONCLUSIVE
    row = next(
        (at for at, phase in enumerate(reversed(phases)) if phase is not Phase.ERROR), len(phases)
    )
    if row > metric.errors:
        return Phase.ERROR
    return Phase.SUCCESSFUL if len(phases) >= metric.count else Phase.RUNNING


def worst(phases: Sequence[Phase]) -> Phase:
    """Judge a whole analysis by its metrics.

    One that did not succeed ends it, and it runs until all have.
    """
    return max(phases, key=_ORDER.index)
