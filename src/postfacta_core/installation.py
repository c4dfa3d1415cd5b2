"""Where this distribution was installed from: a message about a missing extra names it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["install_command", "missing_extra"]


def install_command(extra: str) -> str:
    """Return the shell command that adds an extra to this installation, from its own source.

    The source is what the installer recorded (PEP 610): a repository and its commit, a folder, or a
    wheel. No package index holds PostFacta, and anyone could register its name there. Without a
    record the command has a path to fill in.
    """
    # It takes as long as all else that a command imports, and a message is rare.
    from importlib.metadata import distribution  # noqa: PLC0415

    text = distribution("postfacta").read_text("direct_url.json")
    record: Mapping[str, Any] = json.loads(text or "{}")
    # What stands before the `@` of an address may be a password; installers leave out less than
    # they should.
    url = re.sub(r"//(?!git@)[^/]*@", "//", record.get("url", ""))
    if not url:
        return f"pip install '/path/to/checkout-or-wheel-of-postfacta[{extra}]'"
    if record.get("dir_info", {}).get("editable"):
        return f"pip install -e {shlex.quote(f'{unquote(urlsplit(url).path)}[{extra}]')}"
    if repository := record.get("vcs_info"):
        url = f"{repository['vcs']}+{url}@{repository['commit_id']}"
    if digest := record.get("archive_info", {}).get("hashes", {}).get("sha256"):
        url += f"#sha256={digest}"
    return f"pip install {shlex.quote(f'postfacta[{extra}] @ {url}')}"


def missing_extra(owner: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error of a module whose extra is not installed; it says what to install."""
    return ModuleNotFoundError(
        f"{owner} needs {error.name}: {install_command(extra)}", name=error.name, path=error.path
    )
