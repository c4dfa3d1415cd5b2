"""Compare packages with advisories.

By pip-audit, or by a copy of advisories in the OSV format, for machines without a network.

The copy is a JSON file for each advisory, in a folder or in an archive such as OSV's
`PyPI/all.zip`. A source counts only if it finds the canary, a package that is known to be
vulnerable: else it was not asked, and what it does not find means nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version

__all__ = ["Advisory", "NotAskedError", "Waiver", "audit", "judged", "mirror"]

Packages = Mapping[str, str]
Source = Callable[[Packages], "list[Advisory]"]


class NotAskedError(Exception):
    """The source could not be asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Advisory:
    """What is known against a version of a package.

    Attributes:
        names: All of its ids, such as GHSA, CVE and PYSEC.
    """

    package: str
    version: str
    names: frozenset[str]

    def __str__(self) -> str:
        return f"{self.package} {self.version}: {', '.join(sorted(self.names))}"


@dataclass(frozen=True, slots=True)
class Waiver:
    """An advisory that is accepted for a while."""

    advisory: str
    reason: str
    owner: str
    until: date


def judged(
    source: Source, packages: Packages, *, canary: Packages, waivers: Iterable[Waiver], today: date
) -> list[str]:
    """Return a sentence for each advisory that is not waived.

    Raises:
        NotAskedError: The source does not find the canary.
    """
    if not source(canary):
        raise NotAskedError(
            f"it knows nothing of the canary {dict(canary)}: its advisories were not reached"
        )
    waived: dict[str, Waiver] = {waiver.advisory: waiver for waiver in waivers}
    faults: list[str] = []
    for found in source(packages):
        waiver = next((waived[name] for name in found.names if name in waived), None)
        if waiver is None:
            faults.append(str(found))
        elif waiver.until < today:
            faults.append(f"{found}: the waiver of {waiver.owner} ended on {waiver.until}")
    return faults


def audit(packages: Packages) -> list[Advisory]:
    """Ask the package index, by pip-audit.

    Raises:
        NotAskedError: It did not answer.
    """
    lines = "\n".join(f"{name}=={version}" for name, version in packages.items())
    options = [
        "--strict",
        "--disable-pip",
        "--no-deps",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *options, "--requirement", "/dev/stdin"],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        said = done.stderr.strip().splitlines()
        raise NotAskedError(said[-1] if said else "pip-audit said nothing") from None
    return [
        Advisory(one["name"], one["version"], frozenset({found["id"], *found["aliases"]}))
        for one in report["dependencies"]
        for found in one.get("vulns", [])
    ]


def mirror(folder: Path) -> Source:
    """Return a source that reads advisories in the OSV format, from a folder or an archive.

    Raises:
        NotAskedError: There are none.
    """
    advisories: list[dict[str, Any]] = [json.loads(text) for text in _texts(folder)]
    if not advisories:
        raise NotAskedError(f"{folder} holds no advisories")

    def ask(packages: Packages) -> list[Advisory]:
        wanted = {canonicalize_name(name): (name, version) for name, version in packages.items()}
        return [
            Advisory(name, version, frozenset({one["id"], *one.get("aliases", [])}))
            for one in advisories
            if "withdrawn" not in one
            for name, version in {wanted[key] for key in _named(one) if key in wanted}
            if any(_affects(it, canonicalize_name(name), version) for it in one.get("affected", []))
        ]

    return ask


def _texts(place: Path) -> Iterator[bytes]:
    if place.is_file():
        with zipfile.ZipFile(place) as archive:
            yield from (archive.read(name) for name in archive.namelist() if name.endswith(".json"))
    else:
        yield from (file.read_bytes() for file in sorted(place.rglob("*.json")))


def _named(advisory: Mapping[str, Any]) -> set[NormalizedName]:
    return {canonicalize_name(one["package"]["name"]) for one in advisory.get("affected", [])}


def _affects(affected: Mapping[str, Any], name: str, version: str) -> bool:
    package = affected["package"]
    if package.get("ecosystem") != "PyPI" or canonicalize_name(package["name"]) != name:
        return False
    return version in affected.get("versions", []) or any(
        _within(one["events"], Version(version))
        for one in affected.get("ranges", [])
        if one["type"] == "ECOSYSTEM"
    )


def _within(events: Iterable[Mapping[str, str]], version: Version) -> bool:
    inside = False
    for event in events:
        ((kind, text),) = event.items()
        try:
            at = Version(text)
        except InvalidVersion:
            continue
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside
