"""The drill of migrations.

An upgrade is killed and resumed, both versions serve, and bad revisions are noticed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from chaos.processes import command
from deploy.migrations import kills
from deploy.migrations.drill import BAD, bad_build, former, refused, serve_both
from deploy.migrations.kills import HOW, kill_each, run
from postfacta_app.migrations import HEAD
from postfacta_embedded import EmbeddedPostgres
from tests.kit.every import every
from tests.kit.pg import open_folder, prepared_server

FEW = 40

pytestmark = pytest.mark.usefixtures("programs")


def some(number: int) -> Iterable[int]:
    return range(FEW, number + 1, FEW)


def last(number: int) -> Iterable[int]:
    return (number,)


@pytest.mark.parametrize("how", HOW)
def test_a_killed_upgrade_is_resumed(
    postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    name = f"kills_{os.getpid()}"
    run(postgres_server.dsn(), f"create database {name}")
    monkeypatch.setattr(kills, "every_statement", some)
    try:
        found = kill_each(postgres_server, name, how)
    finally:
        run(postgres_server.dsn(), f"drop database {name} with (force)")
    assert found.faults == []
    assert found.number >= 2


def test_what_a_resumed_upgrade_leaves_otherwise_is_seen(
    postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"kills_{os.getpid()}"

    def meddle(dsn: str, at: int) -> bool:
        run(dsn, "create table left_behind (id bigint)")
        return False

    monkeypatch.setitem(HOW, "meddle", meddle)
    monkeypatch.setattr(kills, "every_statement", last)
    run(postgres_server.dsn(), f"create database {name}")
    try:
        found = kill_each(postgres_server, name, "meddle")
    finally:
        run(postgres_server.dsn(), f"drop database {name} with (force)")
    assert [text.partition(": ")[2] for text in found.faults] == [
        "it was not killed",
        "resumed, it left something else",
    ]


def test_the_version_before_has_no_newest_revision(tmp_path: Path) -> None:
    source = former(tmp_path)
    if source is None:
        pytest.skip("git's history does not reach the version before")
    revisions = {
        file.name[:4] for file in (source / "postfacta_app/migrations/versions").glob("0*.sql")
    }
    assert HEAD not in revisions
    assert f"{int(HEAD) - 1:04}" in revisions


def test_a_bad_build_needs_its_own_revision(tmp_path: Path) -> None:
    source = bad_build(tmp_path / "src", ("select 1",))
    environment = {**os.environ, "PYTHONPATH": str(source)}
    code = "from postfacta_app.migrations import HEAD; print(HEAD)"
    asked = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert asked.stdout == f"{int(HEAD) + 1:04}\n"


@pytest.mark.long
def test_no_request_fails_while_two_versions_roll() -> None:
    with open_folder() as folder, prepared_server() as server:
        old = former(folder)
        if old is None:
            pytest.skip("git's history does not reach the version before")
        command("migrate", dsn=server.dsn(), environment={"PYTHONPATH": str(old)})
        callers, faults = serve_both(server.dsn(), old, folder / "rolled")
    assert faults == []
    assert callers.recorded > 10
    assert {name for (_, name), count in callers.answers.items() if count} == {"before", "this"}


@pytest.mark.long
def test_a_bad_revision_is_noticed() -> None:
    with open_folder() as folder, prepared_server() as server:
        run(server.dsn(), "create database good")
        command("migrate", dsn=server.dsn("good"))
        with every() as case:
            for number, (what, statements) in enumerate(BAD.items()):
                with case(what):
                    run(server.dsn(), f"create database bad{number} template good")
                    assert (
                        refused(server.dsn(f"bad{number}"), statements, folder / str(number)) != []
                    )
