"""Kill the database under writes, again and again, and look whether anything acknowledged is lost or doubled.

    make chaos        (python -m chaos.durability [--kills 5] [--writers 8] [--json FILE])

A real PostgreSQL and a real service run as processes. Writers record incidents, each with an Idempotency-Key, and
repeat a request until it is acknowledged, as a careful client does. Meanwhile the database is killed (SIGKILL) and
started again. At the end every acknowledged incident must be there exactly once, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from postfacta_embedded import EmbeddedPostgres

__all__ = ["main"]

EMAIL, PASSWORD = "chaos@tests.example", secrets.token_urlsafe(16)
PORT = 18_765
URL = f"http://127.0.0.1:{PORT}"


@dataclass(slots=True)
class History:
    """What writers sent, and what they were told."""

    acknowledged: list[str] = field(default_factory=list[str])
    answers: Counter[str] = field(default_factory=Counter[str])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: str, title: str | None = None) -> None:
        """Count an answer; with a title, the write was acknowledged."""
        with self.lock:
            self.answers[answer] += 1
            if title is not None:
                self.acknowledged.append(title)


@contextmanager
def service(server: EmbeddedPostgres) -> Generator[str]:
    """Run the service on the server until the block ends; give a bearer token."""
    environment = {**os.environ, "POSTFACTA_DATABASE_DSN": server.dsn(), "LOG_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "postfacta_app"]
    subprocess.run([*command, "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
    who = ["admin", "create", "--email", EMAIL, "--name", "Chaos", "--password-stdin"]
    subprocess.run(  # noqa: S603 - our own
        [*command, *who], env=environment, check=True, input=PASSWORD, text=True, stdout=subprocess.DEVNULL
    )
    process = subprocess.Popen([*command, "serve", "--port", str(PORT)], env=environment)  # noqa: S603 - our own
    try:
        with httpx2.Client(base_url=URL) as client:
            wait_for_200(client, "/healthz/ready")
            answer = client.post("/login", json={"email": EMAIL, "password": PASSWORD})
            yield str(answer.json()["token"])
    finally:
        process.terminate()
        process.wait(30)


def wait_for_200(client: httpx2.Client, path: str, seconds: float = 30.0) -> float:
    """Ask until the service answers 200; return how long that took."""
    started = time.monotonic()
    pause = threading.Event()
    while time.monotonic() < started + seconds:
        try:
            if client.get(path).status_code == 200:
                return time.monotonic() - started
        except httpx2.TransportError:
            pass
        pause.wait(0.01)
    raise TimeoutError(f"no 200 from {path}")


def write(token: str, history: History, stop: threading.Event, writer: int) -> None:
    """Record incidents one after the other until told to stop."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=URL, headers=headers, timeout=20) as client:
        number = 0
        while not stop.is_set():
            number += 1
            title = f"Write {writer}-{number}"
            body = {
                "title": title,
                "description": "Written under chaos",
                "severity": "LOW",
                "kind": "exercise",
            }
            key = {"Idempotency-Key": f"{writer}-{number}"}
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                answer = attempt(client, body, key)
                if answer == "201":
                    history.note(answer, title)
                    break
                history.note(answer)
                time.sleep(0.05)  # noqa: TID251 - this is a thread of its own, not a loop
            else:
                history.note("gave up")


def attempt(client: httpx2.Client, body: dict[str, str], headers: dict[str, str]) -> str:
    """Send it once; tell the status, or the transport's error."""
    try:
        return str(client.post("/api/v1/incidents", json=body, headers=headers).status_code)
    except httpx2.TransportError as error:
        return type(error).__name__


def kill_and_start(server: EmbeddedPostgres, token: str) -> float:
    """Kill the postmaster and start it again; return the seconds from then to the service's first answer."""
    if server.pid is None:
        raise RuntimeError("the server does not run")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    server.start()
    with httpx2.Client(base_url=URL, headers={"Authorization": f"Bearer {token}"}) as client:
        return wait_for_200(client, "/api/v1/incidents?limit=1")


def recorded(token: str) -> Counter[str]:
    """Read all incidents back, page by page, and count each title."""
    titles: Counter[str] = Counter()
    with httpx2.Client(base_url=URL, headers={"Authorization": f"Bearer {token}"}, timeout=20) as client:
        cursor = None
        while True:
            query = {"kind": "exercise", "limit": "200", **({"cursor": cursor} if cursor else {})}
            page = client.get("/api/v1/incidents", params=query).raise_for_status().json()
            titles.update(item["title"] for item in page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return titles


def run(kills: int, writers: int) -> dict[str, object]:
    """Do it all; return the figures and the verdict."""
    history, stop = History(), threading.Event()
    with tempfile.TemporaryDirectory(prefix="postfacta-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        with EmbeddedPostgres(folder / "data") as server, service(server) as token:
            threads = [
                threading.Thread(target=write, args=(token, history, stop, number))
                for number in range(writers)
            ]
            for thread in threads:
                thread.start()
            recoveries: list[float] = []
            for _ in range(kills):
                stop.wait(2.0)
                recoveries.append(kill_and_start(server, token))
            stop.wait(1.0)
            stop.set()
            for thread in threads:
                thread.join(90)
            titles = recorded(token)
    acknowledged = Counter(history.acknowledged)
    lost = [title for title in acknowledged if not titles[title]]
    doubled = [title for title, count in titles.items() if count > 1]
    unasked = [title for title in titles if title not in acknowledged]
    return {
        "verdict": "fail" if lost or doubled or unasked or not acknowledged else "pass",
        "acknowledged": len(acknowledged),
        "lost": lost,
        "doubled": doubled,
        "recorded_but_never_acknowledged": unasked,
        "answers": dict(history.answers),
        "seconds_from_restart_to_first_answer": [round(seconds, 3) for seconds in recoveries],
    }


def main() -> int:
    """Run, print the figures, and tell by the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    figures = json.dumps(run(options.kills, options.writers), indent=2)
    print(figures)  # noqa: T201 - its job
    if options.json:
        options.json.write_text(figures + "\n")
    return 0 if json.loads(figures)["verdict"] == "pass" else 1


if __name__ == "__main__":
    sys.exit(main())
