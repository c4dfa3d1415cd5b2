"""Judges an experiment by what its users went through and what Chaos Toolkit noted.

Never by the journal's `status`.

Chaos Toolkit calls an experiment "completed" whose steady state did not hold before the fault, and
does not mind one that broke while the fault lasted. Here, each is a claim that did not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, cast

from ..engine.values import Fields, as_dict
from ..verdict import FEWEST, Verdict, nothing_measured

_MOST_LATE = 1.0  # seconds; what a generator adds to each wait beyond it is no fault of the service
_WAITING = {"await_steady", "observe", "restore"}

# What a finding means; the first decides. Nothing was measured; the figures say nothing, whatever
# they are; a claim did not hold; it is undecided although all held.
_NOTHING, _FLAW, _BROKEN, _DOUBT = range(4)
_VERDICTS = (Verdict.NOTHING, Verdict.INVALID, Verdict.FAIL, Verdict.INVALID)
_Finding = tuple[int, str]


def judge(
    journal: Fields,
    users: Fields,
    *,
    watched: bool,
    failure: str = "",
) -> tuple[Verdict, list[str]]:
    """Judge by the journal, by what the lab noted of users, and by how Chaos Toolkit ended.

    Its own failure can only make the verdict worse. Return also all that was found, what decides
    first.
    """
    findings = [
        *(_of_users(users) if watched else ()),
        *_of_claims(journal),
        *_of_activities(journal),
    ]
    if failure and not journal:
        findings.append((_FLAW, failure))
    elif failure and not findings:
        findings.append((_BROKEN, failure))
    if not findings:
        return Verdict.PASS, []
    findings.sort(key=itemgetter(0))
    worst, _ = findings[0]
    return _VERDICTS[worst], [reason for _, reason in findings]


def is_ours(module: str) -> bool:
    """Return whether an action marks its own moments, and is no fault if it fails."""
    return module.startswith(("postfacta_lab.", "chaos."))


def _of_users(users: Fields) -> Iterator[_Finding]:
    count = int(users.get("ended", 0))
    if not users:
        yield _NOTHING, "no user was watched: name postfacta_lab.chaos.control under `controls`"
    elif failure := users.get("failure"):
        yield _NOTHING, f"no user was watched: {failure}"
    elif nothing := nothing_measured(count, as_dict(users.get("errors"))):
        yield _NOTHING, nothing
    elif count < FEWEST:
        yield _FLAW, f"{count} requests ended, at least {FEWEST} are needed"
    if (late := float(users.get("late", 0.0))) > _MOST_LATE:
        yield (
            _FLAW,
            f"the generator did not keep up: the 95th percentile of its delay is {late:.1f} s",
        )
    if (history := users.get("findings_verdict", "not asked")) not in {"pass", "not asked"}:
        yield _BROKEN, f"history: {history}"


def _of_claims(journal: Fields) -> Iterator[_Finding]:
    states = as_dict(journal.get("steady_states"))
    if not states.get("before"):
        yield _FLAW, "no steady state was looked at before the fault: nothing was claimed"
    yield from _unmet("before", [states.get("before")])
    yield from _unmet("after", [states.get("after")])
    experiment = as_dict(journal.get("experiment"))
    configuration = as_dict(experiment.get("configuration"))
    if not configuration.get("may_break_during"):
        yield from _unmet("during", states.get("during") or [])
    if journal.get("status") in {"interrupted", "aborted"}:
        yield _FLAW, f"the experiment was {journal['status']}"
    rollbacks: Sequence[Fields] = journal.get("rollbacks", ())
    for rollback in rollbacks:
        if rollback["status"] != "succeeded" or rollback["output"] is False:
            name = rollback["activity"]["name"]
            yield _BROKEN, f"rollback, {name}: {_why(rollback)}"


def _unmet(when: str, states: Sequence[Fields | None]) -> Iterator[_Finding]:
    looks = [state for state in states if state]
    times: Counter[str] = Counter()
    last: dict[str, Fields] = {}
    for state in looks:
        for probe in state.get("probes", []):
            if not probe.get("tolerance_met"):
                name = probe["activity"]["name"]
                times[name] += 1
                last[name] = probe
    for name, probe in last.items():
        often = ""
        if len(looks) > 1:
            often = f" {times[name]} of {len(looks)} times"
        yield _BROKEN, f"{when}, not so{often}: {name}: {_why(probe)}"


def _of_activities(journal: Fields) -> Iterator[_Finding]:
    is_done = False
    entries: Sequence[Fields] = journal.get("run") or []
    for entry in entries:
        activity: Fields = entry["activity"]
        provider = as_dict(activity.get("provider"))
        is_action = activity.get("type") == "action"
        is_done |= is_action and provider.get("func") not in _WAITING
        if entry["status"] != "succeeded":
            # What waits for users says that they are not well; what is to break the service did
            # not.
            module = str(provider.get("module", ""))
            rank = _BROKEN if is_ours(module) else _DOUBT
            yield rank, f"{activity['name']}: {_why(entry)}"
        elif is_action and (problem := _refusal(entry.get("output"))):
            yield _DOUBT, f"the fault was not confirmed: {activity['name']}: {problem}"
    states = as_dict(journal.get("steady_states"))
    before = as_dict(states.get("before"))
    if not is_done and before.get("steady_state_met"):
        yield _DOUBT, "the fault was not confirmed: no action was done to the service"


def _refusal(output: object) -> str:
    """Return how a program or a request failed that Chaos Toolkit takes for done."""
    if not isinstance(output, dict) or "status" not in output:
        return ""
    fields = cast("dict[str, Any]", output)
    status = fields["status"]
    message = str(fields.get("stderr") or fields.get("body") or "")
    text = message.strip()[-200:]
    if "stdout" in fields:
        return f"ended with {status}: {text}" if status else ""
    is_refused = isinstance(status, int) and status >= 400
    return f"was answered {status}: {text}" if is_refused else ""


def _why(entry: Fields) -> str:
    if not entry.get("exception"):
        return f"found {entry.get('output')}"
    last_line = str(entry["exception"][-1])
    return last_line.strip()
