"""Look at what is shipped: a bill of materials, licences, advisories, and secrets in the history.

    python deploy/supply/check.py [--advisories COPY] [--out build/supply]

The bill is CycloneDX 1.6, of an environment that is installed from `requirements/image.txt`.
Advisories are those of the package index, or those of a copy in the OSV format. Exit codes: 0 all
passed, 1 something failed, 77 something could not be looked at, which is never passed.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name

# It is started by its path from anywhere, and its modules are no part of an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.outcome import Outcome
from deploy.supply.advisories import NotAskedError, Waiver, audit, judged, mirror

__all__ = ["Policy", "bill_faults", "leaks", "licence_faults", "main"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_LOCK: Final = _ROOT / "requirements/image.txt"
_POLICY: Final = Path(__file__).with_name("policy.toml")
_BIN: Final = Path(sys.executable).parent
_CLASSIFIERS: Final = "License :: "


class Policy:
    """What may pass.

    Args:
        file: The policy, in TOML.
    """

    def __init__(self, file: Path = _POLICY) -> None:
        found = tomllib.loads(file.read_text())
        self.licences: frozenset[str] = frozenset(found["licences"])
        self.named: Mapping[str, str] = found.get("named", {})
        self.canary: Mapping[str, str] = {found["canary"]["name"]: found["canary"]["version"]}
        self.waivers = [Waiver(**waiver) for waiver in found.get("waivers", [])]


def bill_faults(bill: Mapping[str, Any], lock: str) -> Iterator[str]:
    """Compare a bill of materials with the lock that it should list."""
    if (bill.get("bomFormat"), bill.get("specVersion")) != ("CycloneDX", "1.6"):
        yield "it is not CycloneDX 1.6"
    if bill.get("metadata", {}).get("component", {}).get("name") != "postfacta":
        yield "it does not say whose bill it is"
    listed: dict[str, str] = {
        canonicalize_name(one["name"]): one["version"] for one in bill.get("components", [])
    }
    locked: dict[str, set[str | None]] = {}
    for name, version, marker in re.findall(r"^([\w.-]+)==([^\s;]+)( ;)?", lock, re.MULTILINE):
        # One with a marker may be of another system, or of another Python.
        locked.setdefault(name, set()).update({version, None} if marker else {version})
    for name in sorted(locked.keys() | listed.keys()):
        if listed.get(name) not in locked.get(name, set()):
            known = ", ".join(sorted(filter(None, locked.get(name, set())))) or "nothing"
            yield f"{name}: {known} is locked, and {listed.get(name, 'nothing')} is listed"
    for one in bill.get("components", []):
        if not str(one.get("purl")).startswith("pkg:pypi/"):
            yield f"{one['name']} has no address of a package"


def licence_faults(bill: Mapping[str, Any], policy: Policy) -> Iterator[str]:
    """List the packages whose licence is unknown, or may not be shipped."""
    for one in bill.get("components", []):
        found = policy.named.get(one["name"]) or " AND ".join(_licences(one.get("licenses", [])))
        if not found:
            yield f"{one['name']} {one['version']} names no licence"
        elif not _allowed(found, policy.licences):
            yield f"{one['name']} {one['version']}: {found}"


def _licences(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for entry in entries:
        found = (
            entry.get("expression")
            or entry["license"].get("id")
            or entry["license"].get("name", "")
        )
        if not found.startswith(_CLASSIFIERS):
            yield f"({found})" if " OR " in found else found


def _allowed(expression: str, licences: frozenset[str]) -> bool:
    parts = re.split(r" AND (?![^(]*\))", expression)
    return all(
        any(one in licences for one in re.split(r" OR ", part.strip("()"))) for part in parts
    )


def leaks(repository: Path) -> list[str]:
    """Return each secret that gitleaks finds in the history of a repository, by rule, file and commit.

    Raises:
        FileNotFoundError: It is not installed.
    """
    program = shutil.which("gitleaks")
    if program is None:
        raise FileNotFoundError("gitleaks is not installed (Debian: apt-get install gitleaks)")
    with tempfile.TemporaryDirectory(prefix="postfacta-leaks-") as folder:
        report = Path(folder) / "report.json"
        options = [
            "--config",
            f"{_ROOT}/.gitleaks.toml",
            "--report-format",
            "json",
            "--report-path",
            f"{report}",
        ]
        done = subprocess.run(
            [program, "detect", "--source", repository, "--redact", "--no-banner", *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if done.returncode not in {0, 1} or not report.exists():
            raise FileNotFoundError(f"gitleaks did not finish: {done.stderr.strip()[-300:]}")
        found: list[dict[str, Any]] = json.loads(report.read_text()) or []
    return [
        f"{one['RuleID']}: {one['File']}:{one['StartLine']} in {one['Commit'][:12]}"
        for one in found
    ]


def planted() -> list[str]:
    """Return what is found in a repository whose history, but not its last commit, holds a key."""
    with tempfile.TemporaryDirectory(prefix="postfacta-planted-") as name:
        folder = Path(name)
        key = Path(name) / "settings.py"
        git = [
            "git",
            "-C",
            name,
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.org",
            "-c",
            "commit.gpgsign=false",
        ]
        for words in (
            ["init", "-q"],
            ["add", "."],
            ["commit", "-qm", "Add"],
            ["rm", "-q", key.name],
            ["commit", "-qm", "Remove"],
        ):
            if words[0] == "add":
                key.write_text(
                    f'AWS_KEY = "AKIA{secrets.token_hex(20).translate(_BASE32).upper()[:16]}"\n'
                )
            subprocess.run([*git, *words], check=True, capture_output=True, timeout=60)
        return leaks(folder)


# Digits that base 32 does not have.
_BASE32: Final = str.maketrans("0189", "ghij")


def main(words: Sequence[str]) -> int:
    """Check all; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--advisories", type=Path, help="a folder or an archive of advisories in the OSV format"
    )
    parser.add_argument(
        "--out", type=Path, default=_ROOT / "build/supply", help="where the bill goes"
    )
    given = parser.parse_args(words)
    outcome = Outcome()
    policy = Policy()
    bill = _bill(outcome, given.out)
    outcome.check("licences", licence_faults(bill, policy))
    packages = {one["name"]: one["version"] for one in bill.get("components", [])}
    _audit(outcome, policy, packages, folder=given.advisories)
    _secrets(outcome)
    return outcome.end()


def _bill(outcome: Outcome, out: Path) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "bill.cdx.json"
    with tempfile.TemporaryDirectory(prefix="postfacta-bill-") as folder:
        for command in (
            [_BIN / "uv", "venv", "-q", "--python", sys.executable, folder],
            [
                _BIN / "uv",
                "pip",
                "install",
                "-q",
                "--python",
                folder,
                "--require-hashes",
                "-r",
                _LOCK,
            ],
            # It compares what it wrote with the schema.
            [
                _BIN / "cyclonedx-py",
                "environment",
                f"{folder}/bin/python",
                "--pyproject",
                _ROOT / "pyproject.toml",
                "--spec-version",
                "1.6",
                "--output-reproducible",
                "--validate",
                "--output-file",
                file,
            ],
        ):
            done = subprocess.run(
                list(map(str, command)), capture_output=True, text=True, check=False, timeout=600
            )
            if done.returncode:
                outcome.check("bill of materials", [done.stderr.strip()[-500:]])
                return {}
    bill: dict[str, Any] = json.loads(file.read_text())
    outcome.check(
        f"bill of materials: {len(bill['components'])} packages",
        bill_faults(bill, _LOCK.read_text()),
    )
    return bill


def _audit(
    outcome: Outcome, policy: Policy, packages: Mapping[str, str], *, folder: Path | None
) -> None:
    try:
        source = mirror(folder) if folder else audit
        faults = judged(
            source,
            packages,
            canary=policy.canary,
            waivers=policy.waivers,
            today=datetime.now(UTC).date(),  # noqa: TID251 - what a command is for today
        )
    except NotAskedError as error:
        outcome.not_run("advisories", str(error))
        return
    outcome.check("advisories", faults)


def _secrets(outcome: Outcome) -> None:
    try:
        if not planted():
            outcome.not_run("secrets in the history", "gitleaks does not find a planted key")
            return
        outcome.check("secrets in the history", leaks(_ROOT))
    except FileNotFoundError as error:
        outcome.not_run("secrets in the history", str(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
