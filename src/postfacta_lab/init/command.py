"""The command `postfacta lab init`.

A suite, made from what a service answers and what its OpenAPI document names.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import click

from postfacta_core.installation import install_command

from ..drain.stop import Service, StartError, Subject, command_line
from ..engine.client import Response, ask, encode
from ..engine.values import Fields, as_dict, as_dicts
from ..engine.variables import credentials
from ..load.mix import read_mix
from ..verdict import Verdict

_DOCUMENTS = ("/openapi.json", "/api/openapi.json", "/api/v1/openapi.json", "/swagger.json")
_READINESS = ("/healthz/ready", "/readyz", "/ready", "/health/ready", "/healthz", "/health")

_TESTS = Template('''\
"""Reliability of the service, as its users see it.

Written by `postfacta lab init`, and yours to change.
"""

from pathlib import Path

from postfacta_lab.fixtures import Loading, Starting, Stopping
from postfacta_lab.load.gate import Limits

COMMAND = $command
MIX = Path(__file__).with_name("mix.yaml")
READY = $ready


def test_users_are_served_under_load(lab_service: Starting, lab_load: Loading) -> None:
    url = lab_service(COMMAND, path=$path)
    limits = Limits(failed=0.0, p95=0.2, p99=0.5)
    report = lab_load(url, mix=MIX, rate=20, seconds=10, limits=limits)
    assert report.verdict == 0, report.as_text()


def test_a_deployment_fails_no_request(lab_drain: Stopping) -> None:
    result = lab_drain(COMMAND, mix=MIX, ready=READY)
    assert result.verdict == 0, result.misses
''')
_WORKFLOW = Template("""\
# Written by `postfacta lab init`; yours to change.
name: reliability
on: [push]
permissions: {contents: read}
jobs:
  reliability:
    runs-on: ubuntu-latest
    timeout-minutes: 15
    steps:
      - uses: actions/checkout@v4
        with: {persist-credentials: false}
      - uses: actions/setup-python@v5
        with: {python-version: "3.13"}
      # Install your service here, too.
      # Where PostFacta was installed from when this was written. Put a source here that CI can
      # reach, such as a repository or a wheel beside this file: no package index has it.
      - run: $install
      - run: pytest reliability --junit-xml=reliability.xml
      - uses: actions/upload-artifact@v4
        if: always()
        with: {name: reliability, path: reliability.xml}
""")


@click.command("init", epilog="Example: postfacta lab init -- uvicorn billing:app --port {port}")
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND...")
@click.option("--path", "paths", multiple=True, help="What users ask for by GET; may be repeated.")
@click.option("--folder", type=Path, default=Path(), help="Where the suite is written.")
def command(*, words: tuple[str, ...], paths: tuple[str, ...], folder: Path) -> Verdict:
    """Write a suite for a service: what its users ask for, tests by pytest, a workflow for CI.

    The service is started by its command, and its OpenAPI document is read, if it has one. Only
    what it answers by GET with 200 to 299 is taken; nothing is written to it.
    """
    service = Service(command=command_line(words), asks=read_mix(paths or ["/"], None))
    suite = asyncio.run(_explore(service, paths))
    texts = {folder / name: text for name, text in files(suite).items()}
    if existing := [str(path) for path in texts if path.exists()]:
        raise click.ClickException(
            f"{existing[0]} is there already: remove it, or name another --folder"
        )
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        click.echo(f"wrote {path}")
    click.echo(
        f"{len(suite.paths)} requests, readiness {suite.ready or 'unknown'}. Run it: pytest"
        f" {folder / 'reliability'}"
    )
    return Verdict.PASS


async def _explore(service: Service, paths: Sequence[str]) -> Suite:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        subject = Subject(service, Path(folder))
        flaw = "it answers nothing with 200 to 299"
        try:
            await subject.serve()
        except StartError as error:
            flaw = str(error)
        try:
            suite = await _ask_around(service.command, subject.port, paths)
        finally:
            subject.kill()
    if not suite.paths:
        raise click.ClickException(f"{flaw}\nname what it has by --path")
    return suite


async def _ask_around(line: str, port: int, paths: Sequence[str]) -> Suite:
    """Ask a running service for its paths and probes, and keep what it answers well."""
    document: dict[str, Any] = {}
    for path in _DOCUMENTS:
        answer = await _get(port, path)
        if answer.status == 200 and not document:
            document = as_dict(answer.json)
    requested = list(paths)
    left_out: dict[str, str] = {}
    if not paths:
        requested, left_out = candidates(document)
    good: list[str] = []
    for path in requested or ["/"]:
        if path in {*_READINESS, "/metrics"}:
            continue
        answer = await _get(port, path)
        if answer.good:
            good.append(path)
        else:
            left_out[f"GET {path}"] = f"answered {answer}"
    # A service that answers everything with 200 says nothing about itself.
    missing = await _get(port, "/no-such-path-of-the-lab")
    probes: list[str] = []
    if missing.status != 200:
        probes = [path for path in _READINESS if (await _get(port, path)).status == 200]
    return Suite(line, good, probes[0] if probes else "", left_out)


async def _get(port: int, path: str) -> Response:
    return await ask(port, encode("GET", path, credentials()), patience=5.0)


@dataclass(frozen=True, slots=True)
class Suite:
    """What a service has."""

    command: str  # ``{port}`` stands for its port
    paths: Sequence[str]  # that were answered with 200 to 299
    ready: str  # the readiness path; empty for none
    left_out: Mapping[str, str]  # what the document names and was not taken, each with the reason


def candidates(document: Fields) -> tuple[list[str], dict[str, str]]:
    """Return the paths that can be read, and for each other operation why it is left out."""
    paths: list[str] = []
    left_out: dict[str, str] = {}
    for path, item in as_dict(document.get("paths")).items():
        for method, operation in as_dict(item).items():
            if method in {"post", "put", "patch", "delete"}:
                left_out[f"{method.upper()} {path}"] = (
                    "writes: add it with a body that may be written"
                )
            elif method == "get":
                if "{" in path or _needs_query(item) or _needs_query(operation):
                    left_out[f"GET {path}"] = "has a parameter: add it with a value"
                else:
                    paths.append(path)
    return paths, left_out


def _needs_query(part: object) -> bool:
    """Return whether a path item or an operation of OpenAPI has a required query parameter."""
    return any(
        parameter.get("in") == "query" and parameter.get("required")
        for parameter in as_dicts(as_dict(part).get("parameters"))
    )


def files(suite: Suite) -> dict[str, str]:
    requests = "".join(f"- {{path: {json.dumps(path)}}}\n" for path in suite.paths)
    left_out = "".join(f"# {name}: {reason}\n" for name, reason in suite.left_out.items())
    tests = _TESTS.substitute(
        command=json.dumps(suite.command),
        ready=json.dumps(suite.ready),
        path=json.dumps(suite.paths[0]),
    )
    return {
        "reliability/mix.yaml": (
            "# What users ask for; `share` is a weight, `method` and `body` make a write.\n"
            + requests
            + left_out
        ),
        "reliability/conftest.py": (
            '"""The fixtures of the lab."""\n\npytest_plugins = ["postfacta_lab.fixtures"]\n'
        ),
        "reliability/test_reliability.py": tests,
        ".github/workflows/reliability.yml": _WORKFLOW.substitute(
            install=json.dumps(f"{install_command('lab')} pytest")
        ),
    }
