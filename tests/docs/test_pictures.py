"""The pictures of the documentation are what one command makes."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest
from docs.pictures import CHROMIUM, NAMES, main

IMAGES = Path(__file__).parent.parent.parent / "docs/images"


def size(png: Path) -> tuple[int, int]:
    """Read the width and height of a PNG."""
    width, height = struct.unpack(">II", png.read_bytes()[16:24])
    return width, height


def test_the_command_makes_every_picture() -> None:
    assert {path.name for path in IMAGES.iterdir()} == NAMES


def test_every_picture_is_on_a_page() -> None:
    root = IMAGES.parent.parent
    pages = [root / "README.md", *root.glob("docs/**/*.md")]
    text = "\n".join(page.read_text() for page in pages)
    assert [
        name for name in NAMES if not name.endswith(".txt") and f"images/{name})" not in text
    ] == []


@pytest.mark.skipif(
    not any(map(shutil.which, CHROMIUM)) and "TEST_REQUIRE_ALL" not in os.environ,
    reason="there is no Chromium: install the package",
)
@pytest.mark.usefixtures("chromiums")
def test_the_pictures_show_what_the_pages_show_now(tmp_path: Path) -> None:
    main(["--to", str(tmp_path)])
    for name in sorted(NAMES):
        made, kept = tmp_path / name, IMAGES / name
        if name.endswith(".png"):
            assert size(made) == size(kept), name
            assert made.stat().st_size > 50_000, name
        else:
            assert made.read_text() == kept.read_text(), f"{name}: run python -m docs.pictures"
