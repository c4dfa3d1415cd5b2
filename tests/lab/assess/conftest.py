"""Services to assess: a saboteur with its store and its project, and what is found of it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from postfacta_lab.assess.report import document_of
from postfacta_lab.assess.runner import Options, run
from postfacta_lab.assess.spec import Spec
from postfacta_lab.engine.processes import free_port

HERE = Path(__file__).parent
Assess = Callable[..., dict[str, Any]]

# What the checks of files look for, by the check that misses it.
PROJECT = {
    "OPER-1": (
        "rules.yml",
        "groups: [{name: a, rules: [{alert: High, expr: up, annotations: {runbook_url: x/1.md}}]}]",
    ),
    "OPER-2": ("rollback.md", "Redeploy the previous image."),
    "OPER-3": ("slo.yaml", "apiVersion: openslo/v1\nkind: SLO\n"),
    "OPER-4": ("uv.lock", ""),
    "OPER-5": ("Dockerfile", "FROM a AS b\nFROM c\nUSER app\n"),
    "OPER-6": ("test_it.py", ""),
}
BESIDES = {
    **{f"runbooks/{number}.md": "# Look" for number in range(6)},
    ".github/workflows/ci.yml": "- run: pip-audit\n- run: pytest\n",
    ".github/dependabot.yml": "",
    ".pre-commit-config.yaml": "",
}
GONE_TOO = {
    "OPER-2": tuple(f"runbooks/{number}.md" for number in range(2, 6)),
    "OPER-4": (".github/dependabot.yml",),
    "OPER-5": (),
    "OPER-6": (".pre-commit-config.yaml",),
}


def write_project(folder: Path, without: frozenset[str] = frozenset()) -> None:
    """Write the files of a project, without those that a check wants."""
    files = {name: text for check, (name, text) in PROJECT.items() if check not in without}
    gone = {name for check in without for name in GONE_TOO.get(check, ())}
    if "SECU-5" in without:
        files[".env"] = "API_TOKEN=0123456789abcdef\n"
    for name, text in {**files, **BESIDES}.items():
        if name not in gone:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


@pytest.fixture(scope="session")
def store(programs: None) -> Generator[int]:
    """Run the store of the saboteurs; return its port."""
    port = free_port()
    child = subprocess.Popen([sys.executable, str(HERE / "store.py"), str(port)])  # noqa: S603 - our own
    for _ in range(200):
        with socket.socket() as probe:
            probe.settimeout(0.1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
    yield port
    child.kill()
    child.wait()


def service_file(
    port: int, *, without: frozenset[str] = frozenset(), script: str = "saboteur.py"
) -> dict[str, Any]:
    """Return the service file of a saboteur."""
    return {
        "service": {
            "name": "saboteur",
            "start": [sys.executable, str(HERE / script)],
            "grace": 8,
            "project": "project",
            "env": {
                "TOKEN": "saboteur-token-1",
                "RATE_LIMIT": "300",
                "WITHOUT": ",".join(sorted(without)),
            },
        },
        "read": {"path": "/invoices/{id}"},
        "write": {"path": "/invoices", "json": {"customer": "{unique}", "total": 120}},
        "stream": {"path": "/stream", "ends": "[DONE]"},
        "auth": {"header": "Authorization: Bearer saboteur-token-1"},
        "database": {"env": "DATABASE_URL", "url": f"kv://127.0.0.1:{port}"},
        "limits": {"off": {"RATE_LIMIT": ""}},
    }


@pytest.fixture
def assess(store: int, tmp_path: Path) -> Assess:
    """Assess the saboteur without some checks; return the document."""

    def assess_(*without: str, script: str = "saboteur.py", **options: Any) -> dict[str, Any]:
        off = frozenset(without)
        write_project(tmp_path / "project", off)
        spec = Spec.of(service_file(store, without=off, script=script), {}, tmp_path)
        return document_of(asyncio.run(run(spec, {}, Options(busy=2, **options))))

    return assess_
