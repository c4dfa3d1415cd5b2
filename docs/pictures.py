"""Make the pictures of the documentation again.

Of the demo's sample incidents in Chromium, and of measured results.

    python -m docs.pictures                    # writes docs/images
    python -m docs.pictures --to build/images  # elsewhere, to compare

The window, the data and the moment are fixed, so a picture changes only when a page does. Beside
each PNG stands the text of its page: a change of words is seen in a diff, and
`tests/docs/test_pictures.py` compares texts and sizes.
"""

# ruff: noqa: INP001 - a tool, and no package: `docs` has pages

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from postfacta_app import migrations
from postfacta_app.db import Unit
from postfacta_app.demo import EMAIL, SEEDER, record
from postfacta_app.identity.accounts import Passwords, add_user
from postfacta_app.identity.model import NewUser
from postfacta_app.principal import Role
from postfacta_embedded import EmbeddedPostgres
from postfacta_postgres import Connection, Database

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["CHROMIUM", "NAMES", "main"]

ROOT: Final = Path(__file__).parent.parent
_NOW: Final = datetime(2026, 3, 3, 14, 30, tzinfo=UTC)
"""When the sample incidents end, and when they seem to have been recorded."""

_PASSWORD: Final = "correct horse battery staple"  # noqa: S105 - of a database that is thrown away
_LISTENING: Final = re.compile(r"listening on (http://\S+?);")
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
)
_COLUMNS: Final = """
select table_name, column_name from information_schema.columns
where table_schema = 'public' and data_type = 'timestamp with time zone'"""


@dataclass(frozen=True, slots=True)
class _Shot:
    """A part of a page.

    Attributes:
        path: Of the page.
        height: Of the picture; its width is that of the window.
        top: What it begins at; empty for the top of the page.
    """

    path: str
    height: int
    top: str = ""


_WIDTH: Final = 1200
_SHOTS: Final = {
    "incidents.png": _Shot("/incidents", 1000),
    "timeline.png": _Shot("/incidents/INC-4", 1500, top="h2:has-text('Timeline')"),
}

NAMES: Final = frozenset({*_SHOTS, *(f"{Path(name).stem}.txt" for name in _SHOTS)})
"""All files that it writes."""


def main(arguments: list[str] | None = None) -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(
        "python -m docs.pictures", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--to", type=Path, default=ROOT / "docs/images", help="folder (%(default)s)"
    )
    folder: Path = parser.parse_args(arguments).to
    folder.mkdir(parents=True, exist_ok=True)
    # Not with closed permissions: PostgreSQL may run as another user.
    with tempfile.TemporaryDirectory(prefix="postfacta-pictures-") as name:
        data = Path(name).resolve()
        data.chmod(0o755)
        with EmbeddedPostgres(data / "postgres", settings={"fsync": "off"}) as server:
            anyio.run(_seed, server.dsn())
            with _service(server.dsn()) as url, _chromium() as browser:
                _take(browser, url, folder)


async def _seed(dsn: str) -> None:
    """Record the demo's incidents, as if it were another day."""
    await migrations.migrate(dsn, progress=lambda _: None)
    async with Database(dsn, name="pictures") as database:
        await database.wait_connected()
        start = await database.fetchval("select clock_timestamp()")
        password_hash = await Passwords().hash(_PASSWORD)
        person = NewUser(
            email=EMAIL, password=_PASSWORD, display_name="Demo admin", role=Role.ADMIN
        )
        async with database.transaction() as connection:
            unit = Unit(connection, SEEDER, None)
            await add_user(unit, person, password_hash=password_hash)
            await record(connection, now=_NOW)
        async with database.transaction() as connection:
            await _move(connection, start)


async def _move(connection: Connection, start: datetime) -> None:
    """Put what was recorded since a moment to the fixed one, a microsecond each, so that their order stays."""
    columns = [(row["table_name"], row["column_name"]) for row in await connection.fetch(_COLUMNS)]
    seen = " union ".join(f'select "{column}" as old from "{table}"' for table, column in columns)  # noqa: S608
    await connection.execute(
        "set local session_replication_role = replica"
    )  # facts are append-only
    await connection.execute(
        "create temp table moved (old timestamptz primary key, new timestamptz) on commit drop"
    )
    await connection.execute(
        f"insert into moved select old, $1::timestamptz + interval '1 microsecond' * row_number() over (order by old)"  # noqa: S608
        f" from ({seen}) as seen where old >= $2",
        _NOW,
        start,
    )
    for table, column in columns:
        await connection.execute(
            f'update "{table}" set "{column}" = new from moved where "{column}" = old'  # noqa: S608
        )


@contextmanager
def _service(dsn: str) -> Generator[str]:
    """Serve until the block ends; give the address."""
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("POSTFACTA_")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "postfacta_app", "serve", "--port", "0"],
        env={**others, "POSTFACTA_DATABASE_DSN": dsn, "LOG_LEVEL": "ERROR"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in process.stdout or ():
            if found := _LISTENING.search(line):
                yield found[1]
                return
        raise RuntimeError("the service ended before it listened")
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def _chromium() -> Generator[Browser]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - NAMES can be read without it

    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS)
        yield browser
        browser.close()


def _take(browser: Browser, url: str, folder: Path) -> None:
    """Sign in, and take each picture."""
    page = browser.new_page(
        base_url=url,
        viewport={"width": _WIDTH, "height": 1000},
        locale="en-US",
        color_scheme="light",
    )
    page.goto("/signin")
    page.fill("#email", EMAIL)
    page.fill("#password", _PASSWORD)
    page.click("main button")
    page.wait_for_url("**/incidents")
    for name, shot in _SHOTS.items():
        page.goto(shot.path)
        box = page.locator(shot.top).first.bounding_box() if shot.top else None
        top = box["y"] - 24 if box else 0
        page.screenshot(
            path=folder / name,
            full_page=True,
            clip={"x": 0, "y": top, "width": _WIDTH, "height": shot.height},
        )
        (folder / name).with_suffix(".txt").write_text(_text(page))


def _text(page: Page) -> str:
    """Read what a page shows, without the version."""
    lines = (line.strip() for line in page.inner_text("main").splitlines())
    return "\n".join(line for line in lines if line) + "\n"


if __name__ == "__main__":
    main()
