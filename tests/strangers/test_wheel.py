"""The distributions: reproducible, complete, and importable without a warning by each Python that they claim."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest

from tests.strangers.kit import ROOT, Environment, Environments, build

PACKAGES = (
    "postfacta_adapters",
    "postfacta_core",
    "postfacta_embedded",
    "postfacta_postgres",
    "postfacta_slo",
    "postfacta_web",
)
# These need an extra. The public ones name it in their error.
NEEDS = {
    "postfacta_postgres.connecting": "asyncpg",
    "postfacta_postgres.database": "pip install 'postfacta[postgres] @ file:///",
    "postfacta_postgres.guarded": "asyncpg",
    "postfacta_postgres.idempotency": "pip install 'postfacta[postgres] @ file:///",
    "postfacta_postgres.listening": "asyncpg",
    "postfacta_postgres.monitor": "asyncpg",
    "postfacta_postgres.outbox": "pip install 'postfacta[postgres] @ file:///",
    "postfacta_postgres.pool": "asyncpg",
    "postfacta_web.conditional": "pip install 'postfacta[starlette] @ file:///",
    "postfacta_web.jwks": "pip install 'postfacta[jwt] @ file:///",
    "postfacta_adapters.psycopg": "pip install 'postfacta[psycopg] @ file:///",
    "postfacta_adapters.sqlalchemy": "pip install 'postfacta[sqlalchemy] @ file:///",
    "postfacta_web.stale": "pip install 'postfacta[starlette] @ file:///",
    "postfacta_adapters.pybreaker": "pip install 'postfacta[pybreaker] @ file:///",
    "postfacta_adapters.otlp": "pip install 'postfacta[otlp] @ file:///",
    "postfacta_adapters.uvicorn": "pip install 'postfacta[uvicorn] @ file:///",
    "postfacta_slo.__main__": "2",
}
WALK: Final = """
    import importlib, json, pkgutil, sys

    failed = {}
    for name in sys.argv[1:]:
        importlib.import_module(name)
        for module in pkgutil.walk_packages(sys.modules[name].__path__, f"{name}."):
            try:
                importlib.import_module(module.name)
            except (Exception, SystemExit) as error:
                failed[module.name] = f"{type(error).__name__}: {error}"
    print(json.dumps(failed))
"""
# Third parties that a service loads when it uses what needs them, and the most modules that a face
# loads at once.
HEAVY = ("asyncpg", "limits", "opentelemetry", "prometheus_client", "pybreaker", "yaml")
LOADED: Final = """
    import json, sys

    before = set(sys.modules)
    {statement}
    print(json.dumps(sorted(set(sys.modules) - before)))
"""
TOOLS = ("check-wheel-contents==0.6.3", "twine==7.0.0")


@pytest.fixture(scope="session")
def interpreters() -> dict[str, str]:
    """Find each Python of this machine that is new enough, by its minor version."""
    found = {f"3.{sys.version_info.minor}": sys.executable}
    names = ("/usr/bin/python3", *(f"python3.{minor}" for minor in range(11, 20)))
    for python in filter(None, map(shutil.which, names)):
        # A version manager has names for those that it could run, and ends with an error.
        done = subprocess.run([python, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
        version = re.match(r"Python (3\.(\d+))", done.stdout)
        if version is not None and int(version[2]) >= 11:
            found.setdefault(version[1], python)
    return found


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (it for it in opened.namelist() if it.endswith(".dist-info/METADATA"))
        return Parser().parsestr(opened.read(name).decode())


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_two_builds_give_the_same_bytes(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    again = build(tmp_path, TZ="Pacific/Auckland", PYTHONHASHSEED="7")
    for first, second in zip(distributions, again, strict=True):
        # By digests: the difference of two archives takes pytest hours.
        assert digest(first) == digest(second), first.name


def test_the_wheel_of_the_source_distribution_is_the_wheel_of_the_tree(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    source, wheel = distributions
    with tarfile.open(source) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    (tree,) = (tmp_path / "source").iterdir()
    assert build(tmp_path / "dist", tree)[1].read_bytes() == wheel.read_bytes()


def test_the_wheel_holds_all_files_of_the_packages_and_no_others(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "src"],  # noqa: S607 - git made this checkout
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    assert held == {name.removeprefix("src/") for name in tracked}


def test_what_an_index_checks_is_clean(
    distributions: tuple[Path, Path], environments: Environments
) -> None:
    tools = environments(*TOOLS)
    for command in (
        ("twine", "--no-color", "check", "--strict", *distributions),
        ("check-wheel-contents", distributions[1]),
    ):
        done = tools.run(*command, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "OK" in done.stdout or "PASSED" in done.stdout


def test_the_long_description_is_the_readme_without_links_into_the_repository(wheel: Path) -> None:
    given = metadata(wheel)
    described, readme = str(given.get_payload()), (ROOT / "README.md").read_text()
    assert given["Description-Content-Type"] == "text/markdown"
    assert not re.findall(r"\]\((?!https?://)[^)]*\)", described)
    assert re.findall(r"\]\(https?://[^)]*\)", described) == re.findall(
        r"\]\(https?://[^)]*\)", readme
    )
    code = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
    assert code.findall(described) == code.findall(readme)
    headings = re.compile(r"^#+ .*", re.MULTILINE)
    assert headings.findall(described) == headings.findall(readme)


def test_each_python_that_is_claimed_is_one_that_imports_are_tested_with(
    wheel: Path, interpreters: dict[str, str]
) -> None:
    classifiers = metadata(wheel).get_all("Classifier", [])
    claimed = {line.rpartition(" ")[2] for line in classifiers if re.search(r":: 3\.\d+$", line)}
    missing = claimed - interpreters.keys()
    if missing and "TEST_REQUIRE_ALL" not in os.environ:
        pytest.skip(f"this machine has no Python {', '.join(sorted(missing))}")
    assert "3.11" in claimed
    assert not missing


def walk(environment: Environment, folder: Path, *packages: str) -> dict[str, str]:
    """Import every module, with each warning as an error, and return those that could not be."""
    (folder / "walk.py").write_text(dedent(WALK))
    done = environment.run("python", "-W", "error", "walk.py", *packages, cwd=folder)
    assert done.returncode == 0, done.stderr
    failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failed


def test_every_module_of_the_core_is_imported_without_a_warning(
    environments: Environments, interpreters: dict[str, str], tmp_path: Path
) -> None:
    for version, python in interpreters.items():
        failed = walk(environments(python=python), tmp_path, *PACKAGES)
        assert failed.keys() == NEEDS.keys(), (version, failed)
        assert all(NEEDS[name] in text for name, text in failed.items()), (version, failed)


def test_every_module_is_imported_without_a_warning_with_all_extras(
    environments: Environments, interpreters: dict[str, str], tmp_path: Path
) -> None:
    for version, python in interpreters.items():
        whole = environments(
            extras=["app", "lab", "psycopg", "pybreaker", "sqlalchemy", "valkey"], python=python
        )
        # Only pytest runs it.
        failed = walk(whole, tmp_path, *PACKAGES, "postfacta_app", "postfacta_lab")
        assert failed.keys() == {"postfacta_lab.fixtures"}, (version, failed)


@pytest.mark.parametrize(
    ("statement", "heavy", "most"),
    [
        ("import postfacta_core", (), 20),
        ("import postfacta_core.asgi", (), 20),
        ("import postfacta_postgres", (), 20),
        ("from postfacta_core import Retry", (), 120),
        ("from postfacta_core import current_deadline", (), 100),
        ("from postfacta_core import Retry, Timeout", (), 160),
        ("from postfacta_core.asgi import harden", ("opentelemetry", "prometheus_client"), 330),
        ("from postfacta_core import CircuitBreaker", (), 80),
    ],
    ids=["core", "asgi", "postgres", "retry", "deadline", "guards", "harden", "breaker"],
)
def test_a_face_loads_only_what_is_used(
    statement: str, heavy: tuple[str, ...], most: int, environments: Environments, tmp_path: Path
) -> None:
    done = environments().script(LOADED.format(statement=statement), cwd=tmp_path)
    loaded = json.loads(done.stdout)
    assert {name for name in HEAVY if name in loaded} == set(heavy)
    assert len(loaded) <= most, len(loaded)
