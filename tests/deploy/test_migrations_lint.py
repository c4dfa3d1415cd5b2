"""`make migrations-check`: revisions keep the version before working, and a bad one is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.migrations.check import BAD, faults
from tests.kit.every import every

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("programs")


def test_what_revisions_send_passes() -> None:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, ROOT / "deploy/migrations/check.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"pass     {len(BAD)} bad revisions are refused" in done.stdout
    assert "pass     0002: " in done.stdout


def test_a_bad_statement_is_refused_among_good_ones() -> None:
    good = "create table if not exists notes (id bigint primary key, body text)  -- the last line may be a comment"
    index = "create index if not exists notes_body on notes (body)"
    with every() as case:
        for rule, bad in BAD.items():
            with case(rule):
                assert any(found.startswith(rule) for found in faults([good, index, bad]))
        with case("good ones alone"):
            assert faults([good, index]) == []


def test_an_index_of_a_new_table_blocks_no_one() -> None:
    index = "create index if not exists notes_body on notes (body)"
    assert (
        faults(["create table if not exists notes (id bigint primary key, body text)", index]) == []
    )
    assert faults([index]) != []
    assert faults(["create index concurrently if not exists notes_body on notes (body)"]) == []
