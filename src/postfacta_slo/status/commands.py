"""The commands that query a Prometheus: `report` shows the objectives, `budget` what their policy allows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from postfacta_core.clock import WALL, Clock

from ..promise.model import Objective, SloError
from ..promise.reading import seconds
from .gate import NO_DATA, Gate, Verdict, judge, read_policy
from .prometheus import Prometheus, PrometheusError
from .query import MONTH, query_status
from .report import FORMATS, Report, render

__all__ = ["budget", "describe_budget", "describe_report", "report"]

_SHORTEST: Final = 3_600
_EXAMPLES: Final = {
    "report": """\
  %(prog)s --prometheus http://localhost:9090
  %(prog)s --prometheus http://localhost:9090 --window 7d --format html > report.html
  %(prog)s --prometheus http://localhost:9090 --file objectives.yaml     # where most failed, too

Exit codes: 0 done, 1 failed, 2 wrong usage.""",
    "budget": """\
  %(prog)s --prometheus http://localhost:9090 --policy policy.yaml --check && deploy

Exit codes with --check: 0 go ahead, 2 no data or wrong usage, 3 restricted, 4 exhausted; 1 the policy cannot be read.
Without it: 0.""",
}


def describe_report(parser: argparse.ArgumentParser) -> None:
    _describe_source(parser, "report")
    parser.add_argument("--service", default="", metavar="NAME", help="of which service (default: all)")
    parser.add_argument("--slo", default="", metavar="NAME", help="which objective (default: all)")
    parser.add_argument(
        "--window", type=_window, default=MONTH, metavar="LENGTH", help="such as 7d (default: 30d)"
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="(default: %(default)s)")
    parser.add_argument(
        "--file", type=Path, help="the file of objectives, to report where most failures were"
    )
    by = "the label to group them by (default: %(default)s)"
    parser.add_argument("--by", default="http_route", metavar="LABEL", help=by)


def describe_budget(parser: argparse.ArgumentParser) -> None:
    _describe_source(parser, "budget")
    parser.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="the error-budget policy, in YAML"
    )
    parser.add_argument("--check", action="store_true", help="also set the exit code, to stop a deployment")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: %(default)s)")


def _describe_source(parser: argparse.ArgumentParser, name: str) -> None:
    parser.epilog = _EXAMPLES[name]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    address = "the server's address; it may contain a user and password"
    parser.add_argument("--prometheus", required=True, metavar="URL", help=address)
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds a bearer token for it")
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="seconds for each query (default: %(default)g)"
    )


def _window(text: str) -> int:
    try:
        window = seconds(text, "a window")
    except SloError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if window < _SHORTEST:
        raise argparse.ArgumentTypeError("a window has an hour or more: shorter ones say nothing of a budget")
    return window


def _source(given: argparse.Namespace) -> Prometheus:
    token = given.token_file.read_text().strip() if given.token_file else ""
    try:
        return Prometheus(given.prometheus, timeout=given.timeout, token=token)
    except ValueError as error:
        raise SloError(f"--prometheus: {error}") from None


def report(given: argparse.Namespace, objectives: Sequence[Objective] = (), *, clock: Clock = WALL) -> int:
    """Report the state of objectives."""
    source, at = _source(given), clock()
    try:
        which = {name: getattr(given, name) for name in ("window", "service", "slo", "by")}
        statuses = query_status(source, at=at, objectives=objectives, **which)
    except PrometheusError as error:
        raise SloError(str(error)) from None
    if not statuses:
        raise SloError(
            f"{source.name} records no such objective: load the generated rules, or ask for another"
        )
    made = Report(source=source.name, at=at, window=given.window, statuses=statuses)
    sys.stdout.write(render(made, given.format))
    return 0


def budget(given: argparse.Namespace, document: object, *, clock: Clock = WALL) -> int:
    """Report what is left of the budgets, and the policy's decision."""
    policy, source = read_policy(document), _source(given)
    try:
        verdict = judge(
            policy, query_status(source, at=clock(), window=policy.window, service=policy.service)
        )
    except PrometheusError as error:
        verdict = Verdict(Gate.UNKNOWN, NO_DATA.name, NO_DATA.effect, [str(error)])
    sys.stdout.write(_told(verdict, given.format))
    return verdict.gate.code if given.check else 0


def _told(verdict: Verdict, form: str) -> str:
    if form == "json":
        return json.dumps(asdict(verdict), indent=2, ensure_ascii=False) + "\n"
    reasons = "".join(f"\n  {reason}" for reason in verdict.reasons)
    return f"{verdict.level}: {verdict.effect}{reasons}\n"
