"""The demo: one command, everything there, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest

from postfacta_app.demo import EMAIL
from tests.app.running import Account, demo, sign_in
from tests.kit.pg import open_folder

pytestmark = pytest.mark.usefixtures("programs")


@pytest.fixture
def folder() -> Generator[Path]:
    with open_folder() as path:
        yield path


def postgres_pid(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody may have reaped it: where process 1 does not, a dead orphan stays in the table.
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


def test_the_demo_says_how_to_sign_in_and_has_something_to_see(folder: Path) -> None:
    with demo(folder) as (process, said):
        url = re.findall(r"listening on (http://\S+?);", said)[0]
        password = re.findall(r"password +(\S+)", said)[0]
        with httpx2.Client(base_url=url) as client:
            client.headers["Authorization"] = f"Bearer {sign_in(client, Account(EMAIL, password))}"
            incidents = client.get("/api/v1/incidents", params={"limit": 200}).json()["items"]
            assert len(incidents) == 7
            assert {it["status"] for it in incidents} == {"IN_PROGRESS", "RESOLVED", "CLOSED"}
            assert len(client.get("/api/v0/incidents").json()) == 7
        pid = postgres_pid(folder)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert not is_alive(pid)


def test_what_was_recorded_is_there_again_even_after_the_demo_was_killed(folder: Path) -> None:
    with demo(folder) as (process, said):
        url = re.findall(r"listening on (http://\S+?);", said)[0]
        who = Account(EMAIL, re.findall(r"password +(\S+)", said)[0])
        with httpx2.Client(base_url=url) as client:
            headers = {"Authorization": f"Bearer {sign_in(client, who)}"}
            new = {"title": "Still here", "description": "An unmistakable word", "severity": "LOW"}
            assert client.post("/api/v1/incidents", json=new, headers=headers).status_code == 201
        orphan = postgres_pid(folder)
        process.kill()
        process.wait(30)
    with demo(folder) as (_, said):
        assert not is_alive(orphan)
        with httpx2.Client(base_url=re.findall(r"listening on (http://\S+?);", said)[0]) as client:
            headers = {"Authorization": f"Bearer {sign_in(client, who)}"}
            found = client.get(
                "/api/v1/incidents", params={"q": "unmistakable"}, headers=headers
            ).json()["items"]
            assert [it["title"] for it in found] == ["Still here"]
            # The samples are not recorded once more.
            everything = client.get(
                "/api/v1/incidents", params={"limit": 200}, headers=headers
            ).json()
            assert len(everything["items"]) == 8


def test_the_service_of_the_demo_cannot_change_what_was_recorded(folder: Path) -> None:
    with demo(folder):
        database = (folder / "service-password").read_text()
        assert (folder / "service-password").stat().st_mode & 0o077 == 0
        assert (folder / "admin-password").stat().st_mode & 0o077 == 0
        assert len(database) >= 16


def test_a_second_demo_on_the_same_folder_is_refused(folder: Path) -> None:
    with demo(folder) as (process, _), demo(folder) as (second, said):
        assert second.wait(30) == 1
        assert f"another postfacta demo (pid {process.pid})" in said
