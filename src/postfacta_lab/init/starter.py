"""What a suite begins with, made from what a service answers and from its OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from string import Template
from typing import Any, Final
from urllib.parse import quote, urlencode

from ..engine.values import as_dict, as_list

__all__ = ["DOCUMENTS", "READINESS", "Found", "candidates", "files"]

DOCUMENTS: Final = ("/openapi.json", "/api/openapi.json", "/api/v1/openapi.json", "/swagger.json")
READINESS: Final = ("/healthz/ready", "/readyz", "/ready", "/health/ready", "/healthz", "/health")

_TESTS = Template('''\
"""Reliability of the service, as its users see it; written by `postfacta lab init`, and yours to change."""

from pathlib import Path

from postfacta_lab.fixtures import Loading, Starting, Stopping
from postfacta_lab.load.gate import Limits

COMMAND = $command
MIX = Path(__file__).with_name("mix.yaml")
READY = $ready


def test_users_are_served_under_load(lab_service: Starting, lab_load: Loading) -> None:
    url = lab_service(COMMAND, path=$path)
    report = lab_load(url, mix=MIX, rate=20, seconds=10, limits=Limits(failed=0.0, p95=0.2, p99=0.5))
    assert report.verdict == 0, report.as_text()


def test_a_deployment_fails_no_request(lab_drain: Stopping) -> None:
    result = lab_drain(COMMAND, mix=MIX, ready=READY)
    assert result.verdict == 0, result.misses
''')
_WORKFLOW = """\
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
      - run: pip install "postfacta[lab]" pytest
      - run: pytest reliability --junit-xml=reliability.xml
      - uses: actions/upload-artifact@v4
        if: always()
        with: {name: reliability, path: reliability.xml}
"""


@dataclass(frozen=True, slots=True)
class Found:
    """What a service has."""

    command: str  # ``{port}`` stands for its port
    paths: Sequence[str]  # that were answered with 200 to 299
    ready: str  # the readiness path; empty for none
    others: Mapping[str, str]  # what the document names and was not taken, each with the reason


def candidates(document: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Return the paths that can be read, and for each other operation why it is left out."""
    paths: list[str] = []
    others: dict[str, str] = {}
    for path, item in as_dict(document.get("paths")).items():
        for method, operation in as_dict(item).items():
            if method in {"post", "put", "patch", "delete"}:
                others[f"{method.upper()} {path}"] = "writes: add it with a body that may be written"
            elif method == "get":
                parameters = [as_list(as_dict(it).get("parameters")) for it in (item, operation)]
                filled = _filled(path, chain(*parameters))
                if filled is None:
                    others[f"GET {path}"] = "a parameter has no example"
                else:
                    paths.append(filled)
    return paths, others


def _filled(path: str, parameters: Iterable[object]) -> str | None:
    query: dict[str, str] = {}
    for parameter in map(as_dict, parameters):
        name, schema = str(parameter.get("name")), as_dict(parameter.get("schema"))
        examples = (parameter.get("example"), schema.get("example"), schema.get("default"))
        given = [it for it in (*examples, *as_list(schema.get("examples"))) if it is not None]
        if given and parameter.get("in") == "path":
            path = path.replace(f"{{{name}}}", quote(str(given[0]), safe=""))
        elif parameter.get("in") == "query" and parameter.get("required"):
            if not given:
                return None
            query[name] = str(given[0])
    if "{" in path:
        return None
    return f"{path}?{urlencode(query)}" if query else path


def files(found: Found) -> dict[str, str]:
    requests = "".join(f"- {{path: {json.dumps(path)}}}\n" for path in found.paths)
    others = "".join(f"# {name}: {why}\n" for name, why in found.others.items())
    tests = _TESTS.substitute(
        command=json.dumps(found.command), ready=json.dumps(found.ready), path=json.dumps(found.paths[0])
    )
    return {
        "reliability/mix.yaml": "# What users ask for; `share` is a weight, `method` and `body` make a write.\n"
        + requests
        + others,
        "reliability/conftest.py": '"""The fixtures of the lab."""\n\npytest_plugins = ["postfacta_lab.fixtures"]\n',
        "reliability/test_reliability.py": tests,
        ".github/workflows/reliability.yml": _WORKFLOW,
    }
