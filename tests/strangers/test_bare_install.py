"""Each command of the bare wheel names the extra that it needs, and each extra brings what the wheel has code for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from postfacta_app import COMMANDS
from tests.strangers.kit import Environments

_APP, _LAB, _SLO = (
    f"{command} needs an extra that is not installed: pip install 'postfacta[{extra}] @ file://"
    for command, extra in (
        ("postfacta: this command", "app"),
        ("postfacta: lab", "lab"),
        ("slo: this command", "slo"),
    )
)


def test_a_command_without_its_extra_names_it_in_one_line(
    environments: Environments, tmp_path: Path
) -> None:
    for command, line in (
        *((f"postfacta {name} --help", _APP) for name in COMMANDS),
        ("postfacta serve", _APP),
        ("python -m postfacta_app serve", _APP),
        ("postfacta slo", _SLO),
        ("python -m postfacta_slo", _SLO),
        ("python -m postfacta_slo --help", _SLO),
        ("postfacta lab", _LAB),
        ("python -m postfacta_lab proxy", _LAB),
    ):
        done = environments().run(*command.split(), cwd=tmp_path)
        # Of the lab, 2 says that a run could not be judged.
        assert (done.returncode, done.stdout) == (3 if line == _LAB else 2, ""), command
        assert done.stderr.startswith(line), command
        assert "' (no module " in done.stderr, command
        assert done.stderr.count("\n") == 1, command


def test_the_command_without_any_extra_lists_all_that_there_are(
    environments: Environments, tmp_path: Path
) -> None:
    for command in ("postfacta --help", "python -m postfacta_app --help"):
        done = environments().run(*command.split(), cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        for name in (*COMMANDS, "slo", "lab"):
            extra = "app" if name in COMMANDS else name
            assert re.search(rf"^    {name}\s[^\[]+\[{extra}\]$", done.stdout, re.MULTILINE), name
        assert "a command needs: pip install 'postfacta[app] @ file://" in done.stdout
    done = environments().run("postfacta", "--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"postfacta \d+\.\d+\.\d+\n", done.stdout)


def test_the_core_runs_without_any_extra(environments: Environments, tmp_path: Path) -> None:
    done = environments().script(
        """
        import asyncio
        from postfacta_core import Retry
        async def answer() -> int:
            return 7
        print(asyncio.run(Retry("upstream").call(answer)))
        """,
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("7\n", "")


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("app", "postfacta --help"),
        ("app", "postfacta slo --help"),
        ("slo", "python -m postfacta_slo --help"),
        ("slo", "postfacta slo --help"),
        ("lab", "postfacta lab --help"),
        ("lab", "postfacta lab proxy --help"),
    ],
)
def test_a_command_with_its_extra_runs(
    extra: str, command: str, environments: Environments, tmp_path: Path
) -> None:
    done = environments(extras=[extra]).run(*command.split(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage" in done.stdout.lower()


def test_the_lab_brings_few_packages_and_neither_app_nor_database(
    environments: Environments, tmp_path: Path
) -> None:
    bare, lab = (
        set(
            it.script(
                "from importlib.metadata import distributions\nprint(*(it.metadata['Name'] for it in distributions()))",
                cwd=tmp_path,
            )
            .stdout.lower()
            .split()
        )
        for it in (environments(), environments(extras=["lab"]))
    )
    assert len(lab - bare) <= 15, lab - bare
    assert not lab & {"starlette", "uvicorn", "asyncpg", "httpx2", "locust"}


def test_no_extra_lacks_its_code_or_brings_tools_that_build(
    environments: Environments, tmp_path: Path
) -> None:
    bare, app = environments(), environments(extras=["app"])
    told = bare.script(
        "from importlib.metadata import metadata; print(*metadata('postfacta').get_all('Provides-Extra'))",
        cwd=tmp_path,
    )
    assert set(told.stdout.split()) == {
        "app",
        "demo",
        "flags",
        "jwt",
        "lab",
        "otlp",
        "postgres",
        "psycopg",
        "pybreaker",
        "slo",
        "sqlalchemy",
        "starlette",
        "uvicorn",
        "valkey",
    }
    names = app.script(
        "from importlib.metadata import distributions\nprint(*(it.metadata['Name'] for it in distributions()))",
        cwd=tmp_path,
    )
    installed = set(names.stdout.lower().split())
    assert "starlette" in installed
    assert not installed & {"hatchling", "editables", "locust", "chaostoolkit", "pytest", "fastapi"}
