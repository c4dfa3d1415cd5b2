"""A message about a missing extra names the source of the installation, as its installer recorded it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from postfacta_core.installation import install_command, missing_extra
from tests.kit.every import every

COMMIT: Final = "5aa336a8" * 5
GIT: Final = {"vcs": "git", "commit_id": COMMIT}
# What an installer recorded, and the requirement that installs the same with the extra `lab`.
SOURCES: Final[tuple[tuple[dict[str, Any] | None, str], ...]] = (
    (None, "/path/to/checkout-or-wheel-of-postfacta[lab]"),
    (
        {"url": "https://forge.example/postfacta.git", "vcs_info": GIT},
        f"postfacta[lab] @ git+https://forge.example/postfacta.git@{COMMIT}",
    ),
    (
        {"url": "ssh://git@forge.example/postfacta.git", "vcs_info": GIT},
        f"postfacta[lab] @ git+ssh://git@forge.example/postfacta.git@{COMMIT}",
    ),
    (
        {"url": "file:///srv/post%20facta", "dir_info": {}},
        "postfacta[lab] @ file:///srv/post%20facta",
    ),
    (
        {"url": "file:///srv/post%20facta", "dir_info": {"editable": True}},
        "-e\0/srv/post facta[lab]",
    ),
    (
        {"url": "https://files.example/postfacta-0.1.0-py3-none-any.whl", "archive_info": {}},
        "postfacta[lab] @ https://files.example/postfacta-0.1.0-py3-none-any.whl",
    ),
    (
        {
            "url": "file:///srv/postfacta-0.1.0-py3-none-any.whl",
            "archive_info": {"hashes": {"sha256": "ab"}},
        },
        "postfacta[lab] @ file:///srv/postfacta-0.1.0-py3-none-any.whl#sha256=ab",
    ),
)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a distribution of our name before all others; return where its source is recorded."""
    folder = tmp_path / "postfacta-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: postfacta\nVersion: 0.1.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return folder / "direct_url.json"


def test_the_command_names_the_recorded_source(recorded: Path) -> None:
    with every() as case:
        for record, requirement in SOURCES:
            with case(str(record)):
                recorded.unlink(missing_ok=True)
                if record is not None:
                    recorded.write_text(json.dumps(record))
                words = shlex.split(install_command("lab"))
                assert words == ["pip", "install", *requirement.split("\0")]


def test_a_password_in_the_source_is_left_out(recorded: Path) -> None:
    for secret in ("ada:hunter2", "hunter2", "ada:hun@ter2"):
        url = f"https://{secret}@forge.example/postfacta.git"
        recorded.write_text(json.dumps({"url": url, "vcs_info": GIT}))
        assert install_command("lab").endswith(f"git+https://forge.example/postfacta.git@{COMMIT}'")


def test_a_missing_extra_is_named(recorded: Path) -> None:
    recorded.write_text('{"url": "file:///srv/postfacta", "dir_info": {}}')
    error = missing_extra("core.db", "postgres", ModuleNotFoundError("no", name="asyncpg"))
    assert error.name == "asyncpg"
    assert (
        str(error)
        == "core.db needs asyncpg: pip install 'postfacta[postgres] @ file:///srv/postfacta'"
    )
