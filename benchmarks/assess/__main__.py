"""Grade our own service and the references; write their reports and the page of grades."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.assess.original_service import write_project
from postfacta_embedded import EmbeddedPostgres
from postfacta_lab.assess.bench import NotServingError
from postfacta_lab.assess.model import is_below
from postfacta_lab.assess.report import badge, document_of, grade_text
from postfacta_lab.assess.runner import Options, run
from postfacta_lab.assess.spec import Spec

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
RESULTS = ROOT / "benchmarks/results/assess"
PAGE = ROOT / "docs/reference/assessment.md"
README = ROOT / "README.md"
_BEGIN = "<!-- grades: written by make assess -->"
_END = "<!-- end of grades -->"
OURS = "postfacta"
# By name: what it is, the command, whether it uses PostgreSQL.
REFERENCES: Mapping[str, tuple[str, list[str], bool]] = {
    "original": (
        "a stand-in of the original service",
        [sys.executable, str(HERE / "original_service.py")],
        False,
    ),
    "node": ("Node `http`, in memory", ["node", str(HERE / "node_service.js")], False),
    "express": ("Express, in memory", ["node", str(HERE / "express_service.js")], False),
    "go": ("Go `net/http`, in memory", ["{folder}/service"], False),
    **{
        name: (
            f"{name.title()} under gunicorn, in memory",
            ["gunicorn", f"benchmarks.assess.{name}_service:app", "--bind", "127.0.0.1:{port}"],
            False,
        )
        for name in ("flask", "django")
    },
    **{
        f"fastapi-{name}": (
            title,
            ["uvicorn", "benchmarks.assess.fastapi_service:app", "--port", "{port}"],
            "memory" not in name,
        )
        for name, title in {
            "memory": "FastAPI, in memory",
            "memory-harden": "the same with `harden`",
            "postgres": "FastAPI, PostgreSQL, as in tutorials",
            "postgres-harden": "the same with `harden`, `Database` and `logs.configure`",
            "sqlalchemy": "FastAPI, SQLAlchemy, as in tutorials",
            "sqlalchemy-harden": "the same with `harden`, `guard_engine` and `logs.configure`",
        }.items()
    },
}
# The README shows these alone.
_SHOWN = (
    *(REFERENCES[name][0] for name in ("fastapi-postgres", "fastapi-postgres-harden")),
    "PostFacta",
)
# What a reference needs is made in a folder of its own, from the registries.
NEEDS: Mapping[str, list[str]] = {
    "express": ["npm", "install", "--silent", "--prefix", "{folder}", "express@5"],
    "go": ["go", "build", "-o", "{folder}/service", str(HERE / "go_service.go")],
    "django": [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--target",
        "{folder}",
        "django==5.2.19",
    ],
}
_OF_FILES = ("SECU-5", *(f"OPER-{number}" for number in range(1, 7)))


class NotHereError(Exception):
    """What a reference needs is not on this machine."""


def prepare(name: str, folder: Path) -> None:
    """Make what a reference needs.

    Raises:
        NotHereError: If its tool is missing or fails, such as without a way to its registry.
    """
    command = [part.format(folder=folder) for part in NEEDS.get(name, [])]
    tool = command[0] if command else REFERENCES[name][1][0]
    if shutil.which(tool) is None:
        raise NotHereError(f"there is no {tool}")
    if not command:
        return
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603 - ours, above
    if done.returncode:
        raise NotHereError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")


def reference(name: str, server: EmbeddedPostgres, folder: Path) -> Spec:
    """Return the service file of a reference.

    The original has files to judge, the others are a program each.
    """
    _, command, postgres = REFERENCES[name]
    env = {"REFERENCE": name.removeprefix("fastapi-"), "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    env["NODE_PATH"] = str(folder / "node_modules")
    command = [part.replace("{folder}", str(folder)) for part in command]
    data: dict[str, Any] = {
        "service": {"name": name, "start": command, "env": env},
        "read": {"path": "/items/{id}"},
        "write": {"path": "/items", "json": {"name": "{unique}", "price": 1.5}},
    }
    if name == "original":
        data["service"]["project"] = str(write_project(folder))
        data["read"] = {"path": "/api/v0/incidents"}
        wish = {
            "description": "An assessment writes this.",
            "reporter": "assess",
            "severity": "LOW",
        }
        data["write"] = {"path": "/api/v0/incidents/start", "json": {"title": "{unique}", **wish}}
        return Spec.of(data, os.environ, ROOT)
    data["declare"] = [
        {"check": check, "why": "a program without a project"} for check in _OF_FILES
    ]
    if name.endswith("harden"):
        env["SHOP_RATE_LIMITS"] = "300/minute per client"
        data["limits"] = {"off": {"SHOP_RATE_LIMITS": ""}}
    if postgres:  # `harden` does not authenticate; what else it does is to be seen
        data["declare"].append(
            {"check": "SECU-2", "why": "as if behind a gateway that authenticates"}
        )
        asyncio.run(_tables(server))
        data["database"] = {"env": "DATABASE_URL", "url": server.dsn("shop")}
    return Spec.of(data, os.environ, ROOT)


async def _tables(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.dsn())
    try:
        await connection.execute("drop database if exists shop with (force)")
        await connection.execute("create database shop")
    finally:
        await connection.close()
    connection = await asyncpg.connect(server.dsn("shop"))
    try:
        await connection.execute(
            "create table items (id serial primary key, name text, price double precision)"
        )
    finally:
        await connection.close()


def ours(server: EmbeddedPostgres) -> Spec:
    """Return the service file of PostFacta, with a database and a token of its own."""
    asyncio.run(_database(server, "postfacta"))
    dsn = server.dsn("postfacta")
    env = {**os.environ, "POSTFACTA_DATABASE_DSN": dsn, "POSTFACTA_DATABASE_OWNER_DSN": dsn}
    command = [
        "postfacta",
        "token",
        "create",
        "--name",
        "assess",
        "--scope",
        "incidents:read",
        "--scope",
        "incidents:write",
    ]
    subprocess.run(["postfacta", "migrate"], env=env, check=True, capture_output=True)  # noqa: S607 - of this checkout
    made = subprocess.run(command, env=env, check=True, capture_output=True, text=True)  # noqa: S603 - likewise
    token = next(word for word in made.stdout.split() if len(word) > 30)
    limits = ("POSTFACTA_RATE_ADDRESS", "POSTFACTA_RATE_READ", "POSTFACTA_RATE_WRITE")
    data: dict[str, Any] = {
        "service": {
            "name": OURS,
            "start": ["postfacta", "serve"],
            "env": {
                "ENVIRONMENT": "production",
                "LOG_FORMAT": "JSON",
                "POSTFACTA_TRACES": "otlp",
                "POSTFACTA_DRAIN_DELAY": "2",
                "POSTFACTA_METRICS_TOKEN": token,
                "POSTFACTA_PORT": "{port}",
            },
            "project": ".",
            "live": "/healthz/live",
            "ready": "/healthz/ready",
            "metrics": "/metrics",
        },
        "read": {"path": "/api/v1/incidents/{id}"},
        "write": {
            "path": "/api/v1/incidents",
            "json": {
                "title": "{unique}",
                "description": "An assessment writes this.",
                "severity": "LOW",
                "services": ["shop"],
            },
            "id": "/id",
        },
        "auth": {"header": f"Authorization: Bearer {token}"},
        "database": {"env": "POSTFACTA_DATABASE_DSN", "url": dsn},
        "limits": {"off": dict.fromkeys(limits, "1000000/minute")},
    }
    return Spec.of(data, os.environ, ROOT)


async def _database(server: EmbeddedPostgres, name: str) -> None:
    connection = await asyncpg.connect(server.dsn())
    try:
        await connection.execute(f"create database {name}")
    finally:
        await connection.close()


@contextmanager
def postgres() -> Generator[EmbeddedPostgres]:
    """Run a PostgreSQL for all of them."""
    with tempfile.TemporaryDirectory(prefix="assess-postgres-") as name:
        Path(name).chmod(0o755)
        with EmbeddedPostgres(Path(name) / "data") as server:
            yield server


def assess(name: str, server: EmbeddedPostgres, options: Options) -> dict[str, Any]:
    """Grade one; write its report."""
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    with tempfile.TemporaryDirectory(prefix="assess-project-") as folder:
        if name == OURS:
            spec = ours(server)
        else:
            prepare(name, Path(folder))
            spec = reference(name, server, Path(folder))
        found = document_of(asyncio.run(run(spec, env, options)))
    found["date"] = datetime.now(UTC).date().isoformat()  # noqa: TID251 - a date for people
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def reports() -> dict[str, Any]:
    """Return the reports that are kept, by title."""
    titles = {**{name: title for name, (title, _, _) in REFERENCES.items()}, OURS: "PostFacta"}
    files = {title: RESULTS / f"{name}.json" for name, title in titles.items()}
    return {title: json.loads(file.read_text()) for title, file in files.items() if file.exists()}


def page() -> str:
    """Return the page of grades, from the reports that are kept."""
    lines = [
        "# Grades", "",
        "`make assess` grades PostFacta and the reference services with [`postfacta assess`](../how-to/assess-a-service.md), and writes this page.", "",
        "| service | grade | points | measured | held down by | seconds | processor waited for | graded |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for title, found in reports().items():
        lines.append(
            f"| {title} | {grade_text(found)} | {found['grade']['points']:.0f} |"
            f" {100 * found['grade']['measured']:.0f} % | {_gates(found)} | {found['seconds']:.0f}"
            f" | {_waited(found)} % | {found['date']} |"
        )
    kept = reports()
    lines += [
        f"| {title} | not run in full yet | | | | | | |"
        for title, _, _ in REFERENCES.values()
        if title not in kept
    ]
    lines += [
        "",
        (
            "Held down by: the gates that failed. Files are judged for PostFacta and the original;"
            " the other references are a program"
        ),
        (
            "without a project, so that their seven checks of files are declared, and their one for"
            " credentials where there is a"
        ),
        (
            "database. *With `harden`* is with `HardenOptions.from_env`, `Database`,"
            " `logs.configure` and a"
        ),
        "[provider of spans](traces.md#when-the-collector-is-away), and nothing else.",
        "",
    ]
    return "\n".join(lines)


def readme(text: str) -> str:
    """Return the README with three grades, from the reports that are kept."""
    found = {title: each for title, each in reports().items() if title in _SHOWN}
    waited = [_waited(each) for each in found.values()]
    dates = sorted({each["date"] for each in found.values()})
    lines = ["| service | grade | points | held down by |", "|---|---|---|---|"]
    lines += [
        f"| {title} | {grade_text(each)} | {each['grade']['points']:.0f} | {_gates(each)} |"
        for title, each in found.items()
    ]
    state = (
        f"{found['PostFacta']['machine']['processors']:.0f} cores, for which the tool waited"
        f" {min(waited)} to {max(waited)} % of its time"
    )
    lines += [
        "",
        (
            f"`make assess` on {' and '.join(dates)}, on {state}: [all"
            " services](docs/reference/assessment.md), Express, Go and Flask among them."
        ),
    ]
    if any(each["grade"]["lowest"] != each["grade"]["highest"] for each in found.values()):
        lines += ["A range is what a busy machine could not decide."]
    before, mark, rest = text.partition(_BEGIN)
    return (
        f"{before}{mark}\n{chr(10).join(lines)}\n{_END}{rest.partition(_END)[2]}" if mark else text
    )


def _gates(found: Mapping[str, Any]) -> str:
    return ", ".join(check["id"] for check in found["checks"] if check["gate"] is not None and check["word"] == "fail") or "–"  # fmt: skip # noqa: RUF001 - for people


def _waited(found: Mapping[str, Any]) -> int:
    share: float = found["machine"].get("waited", 0.0)
    return round(100 * share)


def main() -> int:
    """Grade those that are named, or all."""
    parser = argparse.ArgumentParser("python -m benchmarks.assess", description=main.__doc__)
    parser.add_argument(
        "names", nargs="*", default=[], metavar="NAME", help=", ".join((OURS, *REFERENCES))
    )
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    code = 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with postgres() as server:
        for name in given.names or [*REFERENCES, OURS]:
            try:
                found = assess(name, server, Options(quick=given.quick))
            except NotHereError as error:
                sys.stderr.write(f"{name}: not run: {error}\n")
                continue
            except NotServingError as error:
                sys.stderr.write(f"{name}: {error}\n")
                code = 2
                continue
            sys.stdout.write(
                f"{name}: {grade_text(found)}, {found['grade']['points']} points,"
                f" {found['seconds']} s\n"
            )
            sys.stdout.flush()
            if name == OURS:
                (ROOT / "docs/static/assessment.svg").write_text(badge(found))
                code = max(code, int(is_below(found["grade"]["lowest"], "A")))
    PAGE.write_text(page())
    README.write_text(readme(README.read_text()))
    return code


if __name__ == "__main__":
    sys.exit(main())
