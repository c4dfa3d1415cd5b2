"""Judges an experiment by what its users went through and what Chaos Toolkit noted; never by the journal's `status`.

Chaos Toolkit calls an experiment "completed" whose steady state did not hold before the fault, and does not mind one
that broke while the fault lasted. Here, each is a claim that did not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..verdict import FEWEST, Verdict, nothing_measured

__all__ = ["Judgement", "is_ours", "judge"]

_MOST_LATE = 1.0  # seconds; what a generator adds to each wait beyond it is no fault of the service


@dataclass(slots=True)
class Judgement:
    """What was found.

    Attributes:
        broken: Claims that did not hold.
        flaws: Why the figures say nothing, whatever they are.
        doubts: Why it is undecided although all held.
        nothing: Why nothing was measured.
    """

    broken: list[str] = field(default_factory=list[str])
    flaws: list[str] = field(default_factory=list[str])
    doubts: list[str] = field(default_factory=list[str])
    nothing: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.nothing:
            return Verdict.NOTHING
        if self.flaws:
            return Verdict.INVALID
        if self.broken:
            return Verdict.FAIL
        return Verdict.INVALID if self.doubts else Verdict.PASS

    @property
    def reasons(self) -> list[str]:
        """All that was found, what decides first."""
        return [*([self.nothing] if self.nothing else []), *self.flaws, *self.broken, *self.doubts]


def judge(journal: Mapping[str, Any], users: Mapping[str, Any], *, watched: bool) -> Judgement:
    """Judge an experiment.

    Args:
        journal: Of Chaos Toolkit.
        users: What the lab noted of them.
        watched: Whether there were users: whether the experiment has the lab among its controls.
    """
    found = Judgement()
    if watched:
        _judge_users(users, found)
    states = _part(journal, "steady_states")
    before, after = _part(states, "before"), _part(states, "after")
    if not before:
        found.flaws.append("no steady state was looked at before the fault: nothing was claimed")
    found.broken += _unmet("before", before) + _unmet("after", after)
    if not _part(_part(journal, "experiment"), "configuration").get("may_break_during"):
        found.broken += _unmet_during(states.get("during") or [])
    _judge_deeds(journal.get("run") or [], found)
    rollbacks: Sequence[Mapping[str, Any]] = journal.get("rollbacks", ())
    found.broken += [
        f"rollback, {it['activity']['name']}: {_why(it)}"
        for it in rollbacks
        if it["status"] != "succeeded" or it["output"] is False
    ]
    if journal.get("status") in {"interrupted", "aborted"}:
        found.flaws.append(f"the experiment was {journal['status']}")
    if before.get("steady_state_met") and not _was_something_done(journal.get("run") or []):
        found.doubts.append("the fault was not confirmed: no action was done to the service")
    return found


def is_ours(module: str) -> bool:
    """Return whether an action of this module marks its moments itself, and is no fault by itself if it fails."""
    return module.startswith(("postfacta_lab.", "chaos."))


def _judge_users(users: Mapping[str, Any], found: Judgement) -> None:
    count = int(users.get("ended", 0))
    if failure := users.get("failure"):
        found.nothing = f"no user was watched: {failure}"
    elif nothing := nothing_measured(count, _part(users, "errors")):
        found.nothing = nothing
    elif count < FEWEST:
        found.flaws.append(f"{count} requests ended, at least {FEWEST} are needed")
    if (late := float(users.get("late", 0.0))) > _MOST_LATE:
        found.flaws.append(f"the generator did not keep up: the 95th percentile of its delay is {late:.1f} s")


def _judge_deeds(deeds: Iterable[Mapping[str, Any]], found: Judgement) -> None:
    for it in deeds:
        activity: Mapping[str, Any] = it["activity"]
        provider = _part(activity, "provider")
        if it["status"] != "succeeded":
            # What waits for users says that they are not well; what is to break the service did not.
            ours = is_ours(str(provider.get("module", "")))
            (found.broken if ours else found.doubts).append(f"{activity['name']}: {_why(it)}")
        elif activity.get("type") == "action" and (problem := _refusal(it.get("output"))):
            found.doubts.append(f"the fault was not confirmed: {activity['name']}: {problem}")


def _refusal(output: object) -> str:
    """Return how a program or a request failed that Chaos Toolkit takes for done."""
    if not isinstance(output, dict) or "status" not in output:
        return ""
    told = cast("dict[str, object]", output)
    status, text = told["status"], str(told.get("stderr") or told.get("body") or "").strip()
    if "stdout" in told:
        return f"ended with {status}: {text[-200:]}" if status else ""
    return f"was answered {status}: {text[-200:]}" if isinstance(status, int) and status >= 400 else ""


def _was_something_done(deeds: Sequence[Mapping[str, Any]]) -> bool:
    waiting = {"await_steady", "observe", "restore"}
    return any(
        it["activity"].get("type") == "action"
        and _part(it["activity"], "provider").get("func") not in waiting
        for it in deeds
    )


def _unmet(when: str, state: Mapping[str, Any]) -> list[str]:
    return [
        f"{when}, not so: {it['activity']['name']}: {_why(it)}"
        for it in state.get("probes", [])
        if not it.get("tolerance_met")
    ]


def _unmet_during(states: Sequence[Mapping[str, Any] | None]) -> list[str]:
    looks = [state for state in states if state]
    last: dict[str, tuple[int, str]] = {}
    for state in looks:
        for it in state.get("probes", []):
            if not it.get("tolerance_met"):
                name = it["activity"]["name"]
                last[name] = (last.get(name, (0, ""))[0] + 1, _why(it))
    return [
        f"during, not so {times} of {len(looks)} times: {name}: {why}" for name, (times, why) in last.items()
    ]


def _part(whole: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what stands under a name; nothing if it is missing, or null."""
    return whole.get(name) or cast("Mapping[str, Any]", {})


def _why(it: Mapping[str, Any]) -> str:
    if it.get("exception"):
        return str(it["exception"][-1]).strip()
    return f"found {it.get('output')}"
