"""The command line, `python -m postfacta_slo`: the only module that touches files or knows YAML.

A command returns its exit code; an `SloError` is shown, and is exit code 1.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

try:
    import yaml
except ModuleNotFoundError:
    sys.stderr.write(
        'slo: this command needs an extra that is not installed: pip install "postfacta[slo]" (no module yaml)\n'
    )
    raise SystemExit(2) from None

from postfacta_core.clock import WALL, Clock

from .grafana.dashboard import dashboard_of
from .promise.model import Model, SloError
from .promise.openslo import read
from .promise.reading import seconds
from .promise.starter import METRICS, starter
from .proofs.files import proofs_of, unproved
from .rules.groups import rules_of
from .rules.table import table_of
from .status.gate import NO_DATA, Verdict, judge, read_policy
from .status.prometheus import Prometheus, PrometheusError
from .status.query import MONTH, query_status
from .status.report import FORMATS, Report, render

__all__ = ["COMMANDS", "main"]

_MOST_LINES: Final = 40
_DONE, _FAILED = 0, 1
_HOUR: Final = 3_600
_Describe = Callable[[argparse.ArgumentParser], None]
_Run = Callable[[argparse.Namespace], int]
_MADE_BY: Final = "# Generated from the file of objectives; a change here would be lost.\n"


def main(arguments: Sequence[str] | None = None, *, clock: Clock = WALL) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(
        prog="slo",
        description="Make rules, their tests, a dashboard and a table from a file of objectives (OpenSLO v1).",
    )
    words = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (summary, describe, run) in COMMANDS.items():
        word = words.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=_EXAMPLES.get(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        describe(word)
        word.set_defaults(run=run, clock=clock)
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except (SloError, PrometheusError, OSError) as error:
        _complain(str(error))
        return _FAILED


def _complain(text: str) -> None:
    sys.stderr.write(f"slo: {text}\n")


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML would ignore the first value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key} stands twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


def _documents(file: Path) -> list[object]:
    try:
        return list(yaml.load_all(file.read_text(encoding="utf-8"), Loader=_Loader))
    except (yaml.YAMLError, ValueError) as error:
        raise SloError(f"{file}: is no YAML: {error}") from error


def _load(file: Path) -> Model:
    documents = _documents(file)
    try:
        return read(documents)
    except SloError as error:
        raise SloError(f"{file}: {error}") from error


def _describe_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the file of objectives, OpenSLO v1 in YAML")
    for name, what in _FILES.items():
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help=f"where {what} stands")
    parser.add_argument(
        "--compress",
        type=int,
        default=1,
        metavar="N",
        help="divide each window, `for` and interval by N, for a rehearsal; not for dashboard and table (default: 1)",
    )


_FILES: Final = {
    "rules": "the file of recording and alerting rules for Prometheus",
    "tests": "the file of promtool's unit tests of these rules, and NAME.slow.yml beside it,",
    "dashboard": "the Grafana dashboard in JSON",
    "table": "the Markdown page for people",
}


def _made(given: argparse.Namespace) -> dict[Path, str]:
    model = _load(given.file)
    if given.compress != 1 and (given.dashboard or given.table):
        raise SloError(
            "--compress is for rules and their tests: the dashboard and the table stay as they are"
        )
    made: dict[Path, str] = {}
    if given.rules:
        made[given.rules] = _yaml(rules_of(model, compress=given.compress))
    if given.tests:
        made |= _proofs(given, model)
    if given.dashboard:
        made[given.dashboard] = json.dumps(dashboard_of(model), indent=2, ensure_ascii=False) + "\n"
    if given.table:
        made[given.table] = table_of(model)
    if not made:
        raise SloError(
            f"no file is asked for: give at least one of {', '.join(f'--{name}' for name in _FILES)}"
        )
    return made


def _proofs(given: argparse.Namespace, model: Model) -> dict[Path, str]:
    if not given.rules:
        raise SloError("--tests needs --rules too: the tests say which file they prove")
    rules, tests = Path(given.rules), Path(given.tests)
    named = {"rule_files": [Path(os.path.relpath(rules, tests.parent)).as_posix()]}
    unknown = "".join(f"# Not proved: {name}: {why}\n" for name, why in unproved(model).items())
    return {
        path: _yaml(named | proofs_of(model, slow=slow, compress=given.compress), unknown)
        for path, slow in ((tests, False), (_slow(tests), True))
    }


def _slow(path: Path) -> Path:
    """Return the second file of tests: promtool takes one interval for each, and months need another than minutes."""
    first, _, rest = path.name.partition(".")
    return path.with_name(f"{first}.slow.{rest}")


def _generate(given: argparse.Namespace) -> int:
    for path, text in _made(given).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        if not same:
            path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}: {'unchanged' if same else 'written'}\n")
    if given.tests:
        for name, why in unproved(_load(given.file)).items():
            sys.stdout.write(f"{given.tests}: does not prove {name}: {why}\n")
    return _DONE


def _check(given: argparse.Namespace) -> int:
    stale = False
    for path, text in _made(given).items():
        found = path.read_text(encoding="utf-8") if path.is_file() else ""
        if found != text:
            stale = True
            sys.stdout.write(_difference(path, found, text))
    if stale:
        _complain("these files are not what the objectives say; run `generate` with the same arguments")
    return _FAILED if stale else _DONE


def _difference(path: Path, found: str, text: str) -> str:
    is_, must = f"{path} (as it is)", f"{path} (as it must be)"
    lines = difflib.unified_diff(found.splitlines(), text.splitlines(), is_, must, lineterm="", n=1)
    shown = list(islice(lines, _MOST_LINES + 1))
    return "\n".join([*shown[:_MOST_LINES], *(["..."] if len(shown) > _MOST_LINES else []), ""])


def _describe_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the file to write; it must not be there yet")
    parser.add_argument("--service", required=True, help="the name of your service")
    parser.add_argument("--job", default="", help="the label `job` of its series (default: its name)")
    what = "what measures it (default: postfacta)"
    parser.add_argument("--metrics", choices=sorted(METRICS), default="postfacta", help=what)


def _init(given: argparse.Namespace) -> int:
    text = starter(given.service, given.job or given.service, given.metrics)
    try:
        with given.file.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise SloError(f"{given.file}: is there already, and stays as it is") from error
    then = f"generate {given.file} --rules rules.yml --tests tests.yml"
    sys.stdout.write(f"{given.file}: written; next: {then}\n")
    return _DONE


def _describe_report(parser: argparse.ArgumentParser) -> None:
    _describe_source(parser)
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


def _describe_budget(parser: argparse.ArgumentParser) -> None:
    _describe_source(parser)
    parser.add_argument(
        "--policy", type=Path, required=True, metavar="FILE", help="the error-budget policy, in YAML"
    )
    parser.add_argument("--check", action="store_true", help="also set the exit code, to stop a deployment")


def _describe_source(parser: argparse.ArgumentParser) -> None:
    address = "the server's address; it may contain a user and password"
    parser.add_argument("--prometheus", required=True, metavar="URL", help=address)
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds a bearer token for it")
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="seconds for each query (default: %(default)g)"
    )


def _window(text: str) -> int:
    try:
        window = seconds(text)
    except SloError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if window < _HOUR:
        raise argparse.ArgumentTypeError("a window has an hour or more: shorter ones say nothing of a budget")
    return window


def _source(given: argparse.Namespace) -> Prometheus:
    token = given.token_file.read_text().strip() if given.token_file else ""
    try:
        return Prometheus(given.prometheus, timeout=given.timeout, token=token)
    except ValueError as error:
        raise SloError(f"--prometheus: {error}") from None


def _report(given: argparse.Namespace) -> int:
    objectives = _load(given.file).objectives if given.file else ()
    source, at = _source(given), given.clock()
    which = {name: getattr(given, name) for name in ("window", "service", "slo", "by")}
    statuses = query_status(source, at=at, objectives=objectives, **which)
    if not statuses:
        raise SloError(
            f"{source.name} records no such objective: load the generated rules, or ask for another"
        )
    made = Report(source=source.name, at=at, window=given.window, statuses=statuses)
    sys.stdout.write(render(made, given.format))
    return _DONE


def _budget(given: argparse.Namespace) -> int:
    documents = _documents(given.policy)
    if len(documents) != 1:
        raise SloError(f"{given.policy}: must hold one document, not {len(documents)}")
    policy, source = read_policy(documents[0]), _source(given)
    try:
        statuses = query_status(source, at=given.clock(), window=policy.window, service=policy.service)
        verdict = judge(policy, statuses)
    except PrometheusError as error:
        verdict = Verdict(NO_DATA.gate, NO_DATA.name, NO_DATA.effect, [str(error)])
    sys.stdout.write("\n  ".join([f"{verdict.level}: {verdict.effect}", *verdict.reasons]) + "\n")
    return verdict.gate.code if given.check else _DONE


class _Dumper(yaml.SafeDumper):
    """Writes expressions in readable form: each on its own lines, without YAML references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(content: Mapping[str, Any], remarks: str = "") -> str:
    # Its stubs leave open what it dumps.
    dump: Any = yaml.dump  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - see above
    text: str = dump(content, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
    return _MADE_BY + remarks + text


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


# All commands, in the order of the help: what each does on one line, what adds its arguments, and what does it.
COMMANDS: Final[Mapping[str, tuple[str, _Describe, _Run]]] = {
    "init": ("write a first file of objectives for a service", _describe_init, _init),
    "generate": ("generate the files for a file of objectives", _describe_files, _generate),
    "check": ("check that the files match it: exit code 1 and a difference if not", _describe_files, _check),
    "report": ("report the state of objectives, from a Prometheus", _describe_report, _report),
    "budget": (
        "report what the error budget allows; with --check, as a gate",
        _describe_budget,
        _budget,
    ),
}


if __name__ == "__main__":
    sys.exit(main())
