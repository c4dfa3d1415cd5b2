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
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any, Final

from postfacta_core.installation import install_command

try:
    import yaml
except ModuleNotFoundError:
    sys.stderr.write(
        f"slo: this command needs an extra that is not installed: {install_command('slo')} (no"
        " module yaml)\n"
    )
    raise SystemExit(2) from None

from postfacta_core.clock import WALL, Clock

from .grafana.dashboard import dashboard_of
from .promise.model import Model, Service
from .promise.openslo import read
from .promise.promql import SloError
from .promise.reading import seconds
from .proofs.files import proofs_of, unproved
from .rules.alerts import rules_of
from .rules.table import table_of
from .status.gate import NO_DATA, judge, read_policy
from .status.prometheus import Prometheus, PrometheusError
from .status.query import MONTH, query_status
from .status.report import FORMATS, Report, render

_MOST_LINES: Final = 40  # Of a difference.
_MOST_LEVELS: Final = 100  # That YAML may be nested.
_DONE = 0
_FAILED = 1
_Add = Callable[..., object]
_Run = Callable[[argparse.Namespace], int]
_MADE_BY: Final = "# Generated from the file of objectives; a change here would be lost.\n"
_FILES: Final = {
    "rules": "the file of recording and alerting rules for Prometheus",
    "tests": "the file of promtool's unit tests of these rules, and NAME.slow.yml beside it,",
    "dashboard": "the Grafana dashboard in JSON",
    "table": "the Markdown page for people",
}
_CODES: Final = (
    "Exit codes with --check: 0 go ahead, 2 no data or wrong usage, 3 restricted, 4 exhausted; 1"
    " the policy cannot be read. Without it: 0."
)

# Of each way to measure HTTP services: the counter of requests, the histogram of their seconds and
# its edges, the conditions that leave out probes and scrapes, those of an event that counts, that
# it failed, and of an answer whose seconds say how quick the service is, if the histogram says so.
METRICS: Final[Mapping[str, Mapping[str, str]]] = {
    "postfacta": {
        "counter": "http_server_requests_total",
        "histogram": "http_server_request_duration_seconds",
        "edges": "0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10",
        "users": 'traffic="user",http_route!~"/healthz.*|/metrics"',
        # 499 is what the client ended: it left, or the time that it had given itself was up.
        "counted": ',http_response_status_code!="499"',
        "bad": ',error_type!=""',
        # No failures and refusals, which are quick, and no streams, as long as their content.
        "answered": ',http_route!="_prerouting",outcome=~"2xx|3xx|4xx"',
    },
    "fastapi-instrumentator": {
        "counter": "http_requests_total",
        "histogram": "http_request_duration_seconds",
        "edges": "0.1, 0.5, 1",
        "users": 'handler!="/metrics"',
        "counted": "",
        "bad": ',status="5xx"',
        "answered": "",
    },
}


def main(arguments: Sequence[str] | None = None, *, clock: Clock = WALL) -> int:
    """Run one command."""
    options = _parser().parse_args(arguments, argparse.Namespace(clock=clock))
    try:
        return int(options.run(options))
    except (SloError, PrometheusError, OSError) as error:
        sys.stderr.write(f"slo: {error}\n")
        return _FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slo",
        description=(
            "Make rules, their tests, a dashboard and a table from a file of objectives (OpenSLO"
            " v1)."
        ),
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: _Run, summary: str, *, epilog: str = "") -> _Add:
        word = commands.add_parser(name, help=summary, description=summary, epilog=epilog)
        word.set_defaults(run=run)
        return word.add_argument

    _describe_init(command("init", _init, "write a first file of objectives for a service"))
    _describe_files(command("generate", _generate, "generate the files for a file of objectives"))
    _describe_files(
        command(
            "check", _check, "check that the files match it: exit code 1 and a difference if not"
        )
    )
    _describe_report(
        command("report", _report, "report the state of objectives, from a Prometheus")
    )
    _describe_budget(
        command(
            "budget",
            _budget,
            "report what the error budget allows; with --check, as a gate",
            epilog=_CODES,
        )
    )
    return parser


def _describe_init(add: _Add) -> None:
    add("file", type=Path, help="the file to write; it must not be there yet")
    add("--service", required=True, help="the name of your service")
    add("--job", default="", help="the label `job` of its series (default: its name)")
    metrics_help = "what measures it (default: %(default)s)"
    add("--metrics", choices=sorted(METRICS), default="postfacta", help=metrics_help)


def _describe_files(add: _Add) -> None:
    add("file", type=Path, help="the file of objectives, OpenSLO v1 in YAML")
    for name, content in _FILES.items():
        add(f"--{name}", type=Path, metavar="PATH", help=f"where {content} stands")
    compress_help = (
        "divide each window, `for` and interval by N, for a rehearsal; not for dashboard and table"
    )
    add("--compress", type=int, default=1, metavar="N", help=compress_help)


def _describe_report(add: _Add) -> None:
    _describe_source(add)
    add("--service", default="", metavar="NAME", help="of which service (default: all)")
    add("--slo", default="", metavar="NAME", help="which objective (default: all)")
    add("--window", type=_window, default=MONTH, metavar="LENGTH", help="such as 7d (default: 30d)")
    add("--format", choices=FORMATS, default=FORMATS[0], help="(default: %(default)s)")
    add("--file", type=Path, help="the file of objectives, to report where most failures were")
    by_help = "the label to group them by (default: %(default)s)"
    add("--by", default="http_route", metavar="LABEL", help=by_help)


def _describe_budget(add: _Add) -> None:
    _describe_source(add)
    add(
        "--policy",
        type=Path,
        required=True,
        metavar="FILE",
        help="the error-budget policy, in YAML",
    )
    add("--check", action="store_true", help="also set the exit code, to stop a deployment")


def _describe_source(add: _Add) -> None:
    address_help = (
        "the server's address, such as http://localhost:9090; it may contain a user and password"
    )
    add("--prometheus", required=True, metavar="URL", help=address_help)
    add("--token-file", type=Path, metavar="FILE", help="holds a bearer token for it")
    add("--timeout", type=float, default=30.0, help="seconds for each query (default: %(default)g)")


def _window(text: str) -> int:
    try:
        return seconds(text)
    except SloError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _init(options: argparse.Namespace) -> int:
    text = starter(options.service, options.job or options.service, options.metrics)
    try:
        with options.file.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise SloError(f"{options.file}: is there already, and stays as it is") from error
    command = f"generate {options.file} --rules rules.yml --tests tests.yml"
    sys.stdout.write(f"{options.file}: written; next: {command}\n")
    return _DONE


def starter(service: str, job: str, metrics: str) -> str:
    """Return a file of objectives in YAML.

    99.5 % of requests succeed, and 99 % take half a second or less.

    It is for a service whose series have this label `job` in Prometheus, and are measured by one of
    `METRICS`.
    """
    Service(name=service, job=job)
    if not job.isprintable() or set(job) & set("\"\\'{}"):
        raise SloError(f"needs a job without quotes, braces and backslashes: {job!r}")
    template = (
        files("postfacta_slo.promise").joinpath("starter.openslo.yaml").read_text(encoding="utf-8")
    )
    fields = METRICS[metrics]
    users = f'job="{job}",{fields["users"]}'
    return Template(template).substitute(fields, service=service, job=job, users=users)


def _generate(options: argparse.Namespace) -> int:
    model = _load(options.file)
    for path, text in _generated(options, model).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        is_unchanged = path.is_file() and path.read_text(encoding="utf-8") == text
        if not is_unchanged:
            path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}: {'unchanged' if is_unchanged else 'written'}\n")
    if options.tests:
        for name, reason in unproved(model).items():
            sys.stdout.write(f"{options.tests}: does not prove {name}: {reason}\n")
    return _DONE


def _check(options: argparse.Namespace) -> int:
    code = _DONE
    for path, text in _generated(options, _load(options.file)).items():
        current = path.read_text(encoding="utf-8") if path.is_file() else ""
        if current != text:
            code = _FAILED
            sys.stdout.write(_difference(path, current, text))
    if code:
        reason = (
            "these files are not what the objectives say; run `generate` with the same arguments"
        )
        sys.stderr.write(f"slo: {reason}\n")
    return code


def _difference(path: Path, current: str, text: str) -> str:
    label_before = f"{path} (as it is)"
    label_after = f"{path} (as it must be)"
    lines = difflib.unified_diff(
        current.splitlines(), text.splitlines(), label_before, label_after, lineterm="", n=1
    )
    head = list(islice(lines, _MOST_LINES + 1))
    ellipsis = ["..."] if len(head) > _MOST_LINES else []
    return "\n".join([*head[:_MOST_LINES], *ellipsis, ""])


def _generated(options: argparse.Namespace, model: Model) -> dict[Path, str]:
    """Return the text of each file that is asked for."""
    if not (options.rules or options.tests or options.dashboard or options.table):
        flags = ", ".join(f"--{name}" for name in _FILES)
        raise SloError(f"no file is asked for: give at least one of {flags}")
    if options.compress != 1 and (options.dashboard or options.table):
        reason = "the dashboard and the table stay as they are"
        raise SloError(f"--compress is for rules and their tests: {reason}")
    texts: dict[Path, str] = {}
    if options.rules:
        texts[options.rules] = _yaml(rules_of(model, compress=options.compress))
    if options.tests:
        texts |= _proofs(options, model)
    if options.dashboard:
        dashboard = json.dumps(dashboard_of(model), indent=2, ensure_ascii=False)
        texts[options.dashboard] = f"{dashboard}\n"
    if options.table:
        texts[options.table] = table_of(model)
    return texts


def _proofs(options: argparse.Namespace, model: Model) -> dict[Path, str]:
    if not options.rules:
        raise SloError("--tests needs --rules too: the tests say which file they prove")
    rules = Path(options.rules)
    tests = Path(options.tests)
    place = Path(os.path.relpath(rules, tests.parent)).as_posix()
    head = {"rule_files": [place]}
    reasons = unproved(model)
    remarks = "".join(f"# Not proved: {name}: {reason}\n" for name, reason in reasons.items())
    # Two files: promtool takes one interval for each, and months need another than minutes.
    stem, _, suffix = tests.name.partition(".")
    return {
        path: _yaml(head | proofs_of(model, slow=slow, compress=options.compress), remarks)
        for path, slow in ((tests, False), (tests.with_name(f"{stem}.slow.{suffix}"), True))
    }


def _report(options: argparse.Namespace) -> int:
    objectives = _load(options.file).objectives if options.file else ()
    source = _source(options)
    at = options.clock()
    filters = {name: getattr(options, name) for name in ("window", "service", "slo", "by")}
    statuses = query_status(source, at=at, objectives=objectives, **filters)
    if not statuses:
        raise SloError(
            f"{source.name} records no such objective: load the generated rules, or ask for another"
        )
    report = Report(source=source.name, at=at, window=options.window, statuses=statuses)
    sys.stdout.write(render(report, options.format))
    return _DONE


def _budget(options: argparse.Namespace) -> int:
    documents = _documents(options.policy)
    if len(documents) != 1:
        raise SloError(f"{options.policy}: must hold one document, not {len(documents)}")
    policy = read_policy(documents[0])
    source = _source(options)
    try:
        statuses = query_status(
            source, at=options.clock(), window=policy.window, service=policy.service
        )
        level, reasons = judge(policy, statuses)
    except PrometheusError as error:
        level = NO_DATA
        reasons = [str(error)]
    sys.stdout.write("\n  ".join([f"{level.name}: {level.effect}", *reasons]) + "\n")
    return int(level.gate) if options.check else _DONE


def _source(options: argparse.Namespace) -> Prometheus:
    token = options.token_file.read_text().strip() if options.token_file else ""
    try:
        return Prometheus(options.prometheus, timeout=options.timeout, token=token)
    except ValueError as error:
        raise SloError(f"--prometheus: {error}") from None


def _load(file: Path) -> Model:
    documents = _documents(file)
    try:
        return read(documents, note=lambda text: sys.stderr.write(f"slo: {file}: {text}\n"))
    except SloError as error:
        raise SloError(f"{file}: {error}") from error


def _documents(file: Path) -> list[object]:
    try:
        return list(yaml.load_all(file.read_text(encoding="utf-8"), Loader=_Loader))
    except (yaml.YAMLError, ValueError) as error:
        raise SloError(f"{file}: is no YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML ignores the first, and what is nested too deeply."""

    levels = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.levels += 1
        # PyYAML recurses for each level, and its time grows with their square.
        if self.levels > _MOST_LEVELS:
            raise yaml.YAMLError(f"nested by more than {_MOST_LEVELS} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.levels -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key} stands twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


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


if __name__ == "__main__":
    sys.exit(main())
