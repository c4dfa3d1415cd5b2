"""What is shipped is listed, licensed and looked up, and no check passes that could not look."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from deploy.supply.advisories import Advisory, NotAskedError, Waiver, judged, mirror
from deploy.supply.check import Policy, bill_faults, leaks, licence_faults, planted
from tests.kit.every import every
from tests.ops.prometheus import needs

ROOT = Path(__file__).parents[2]
LOCK = "anyio==4.0 \\\n    --hash=sha256:ab\ncolorama==0.4 ; sys_platform == 'win32' \\\n    --hash=sha256:cd\n"
BILL: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "metadata": {"component": {"name": "postfacta"}},
    "components": [
        {
            "name": "AnyIO",
            "version": "4.0",
            "purl": "pkg:pypi/anyio@4.0",
            "licenses": [{"license": {"id": "MIT"}}],
        }
    ],
}
TODAY = date(2026, 11, 28)
CANARY = {"jinja2": "2.4.1"}
KNOWN = Advisory("jinja2", "2.4.1", frozenset({"CVE-2016-10745"}))


def of(**changes: object) -> dict[str, Any]:
    bill = deepcopy(BILL)
    bill["components"][0] |= changes
    return bill


def test_a_bill_that_differs_from_the_lock_is_found() -> None:
    assert list(bill_faults(BILL, LOCK)) == []
    broken: list[tuple[dict[str, Any], str]] = [
        (of(version="4.1"), "anyio: 4.0 is locked, and 4.1 is listed"),
        (of(purl="pkg:generic/anyio"), "no address"),
        ({**BILL, "components": []}, "nothing is listed"),
        (
            {
                **BILL,
                "components": [*BILL["components"], {**BILL["components"][0], "name": "left"}],
            },
            "left: nothing",
        ),
        ({**BILL, "specVersion": "1.4"}, "not CycloneDX 1.6"),
        ({**BILL, "metadata": {}}, "whose bill"),
    ]
    with every() as case:
        for bill, fault in broken:
            with case(fault):
                assert fault in "\n".join(bill_faults(bill, LOCK))


def test_a_licence_that_may_not_be_shipped_is_found() -> None:
    policy = Policy()
    cases: list[tuple[list[dict[str, Any]], bool]] = [
        ([{"license": {"id": "MIT"}}], True),
        ([{"expression": "Apache-2.0 AND BSD-2-Clause"}], True),
        ([{"expression": "GPL-3.0-only OR MIT"}], True),
        (
            [
                {"license": {"id": "MIT"}},
                {"license": {"name": "License :: OSI Approved :: MIT License"}},
            ],
            True,
        ),
        ([{"license": {"id": "AGPL-3.0-only"}}], False),
        ([{"expression": "MIT AND GPL-3.0-only"}], False),
        ([{"license": {"id": "MIT"}}, {"license": {"id": "SSPL-1.0"}}], False),
        ([{"license": {"name": "License :: OSI Approved :: MIT License"}}], False),
        ([], False),
    ]
    with every() as case:
        for licences, is_allowed in cases:
            with case(licences):
                assert (list(licence_faults(of(licenses=licences), policy)) == []) is is_allowed


def test_a_source_that_does_not_find_the_canary_was_not_asked() -> None:
    with pytest.raises(NotAskedError, match="canary"):
        judged(lambda _: [], {"anyio": "4.0"}, canary=CANARY, waivers=[], today=TODAY)


def test_an_advisory_fails_until_it_is_waived_and_again_when_that_ends() -> None:
    def source(packages: Mapping[str, str]) -> list[Advisory]:
        return [KNOWN] if "jinja2" in packages else []

    def faults(*waivers: Waiver) -> list[str]:
        return judged(source, CANARY, canary=CANARY, waivers=waivers, today=TODAY)

    assert faults() == ["jinja2 2.4.1: CVE-2016-10745"]
    assert faults(Waiver("CVE-2016-10745", "not reached", "Ada", TODAY)) == []
    assert (
        "ended on 2026-11-27"
        in faults(Waiver("CVE-2016-10745", "not reached", "Ada", date(2026, 11, 27)))[0]
    )
    assert faults(Waiver("CVE-0000-1", "another", "Ada", TODAY)) != []


def advisory(name: str = "Jinja2", **more: object) -> dict[str, Any]:
    events = [
        {"introduced": "0"},
        {"fixed": "2.8.1"},
        {"introduced": "3.0"},
        {"last_affected": "3.1.0"},
    ]
    affected = {
        "package": {"ecosystem": "PyPI", "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
    }
    return {"id": "GHSA-1", "aliases": ["CVE-2016-10745"], "affected": [affected], **more}


def test_a_folder_of_advisories_is_read_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(NotAskedError, match="no advisories"):
        mirror(tmp_path)
    file = tmp_path / "GHSA-1.json"
    file.write_text(json.dumps(advisory()))
    source = mirror(tmp_path)
    with every() as case:
        for version, is_known in (
            ("2.4.1", True),
            ("2.8.1", False),
            ("2.9", False),
            ("3.0", True),
            ("3.1.0", True),
            ("3.1.1", False),
        ):
            with case(version):
                assert bool(source({"jinja2": version})) is is_known
    assert source({"jinja2": "2.4.1"}) == [
        Advisory("jinja2", "2.4.1", frozenset({"GHSA-1", "CVE-2016-10745"}))
    ]
    assert source({"anyio": "2.4.1"}) == []
    for other in (advisory(withdrawn="2026-01-01T00:00:00Z"), advisory("another")):
        file.write_text(json.dumps(other))
        assert mirror(tmp_path)({"jinja2": "2.4.1"}) == []


def test_an_archive_of_advisories_is_read_as_it_is(tmp_path: Path) -> None:
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("README.txt", "not an advisory")
    with pytest.raises(NotAskedError, match="no advisories"):
        mirror(archive)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("GHSA-1.json", json.dumps(advisory()))
    assert [found.names for found in mirror(archive)(CANARY)] == [{"GHSA-1", "CVE-2016-10745"}]


def test_the_policy_names_what_is_shipped() -> None:
    policy = Policy()
    locked = (ROOT / "requirements/image.txt").read_text()
    assert all(f"\n{name.lower()}==" in f"\n{locked}" for name in policy.named)
    assert all(waiver.reason and waiver.owner for waiver in policy.waivers)


def test_each_update_has_a_bot_and_each_action_a_digest() -> None:
    bot = (ROOT / ".github/dependabot.yml").read_text()
    assert set(re.findall(r"package-ecosystem: (\S+)", bot)) == {
        "github-actions",
        "docker",
        "docker-compose",
    }
    assert bot.count("cooldown:") == bot.count("package-ecosystem:")
    for file in (ROOT / ".github/workflows").glob("*.yml"):
        for used in re.findall(r"uses: (\S+)", file.read_text()):
            assert re.search(r"@[0-9a-f]{40}$", used), f"{file.name}: {used}"


@needs("gitleaks")
def test_a_key_in_the_history_is_found_and_an_empty_history_is_clean(
    programs: None, tmp_path: Path
) -> None:
    assert any("aws" in found and "settings.py" in found for found in planted())
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True, timeout=30)  # noqa: S603, S607
    assert leaks(tmp_path) == []


@pytest.mark.long
@needs("gitleaks")
def test_what_is_shipped_passes(programs: None, tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, ROOT / "deploy/supply/check.py", "--out", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=os.environ,
    )
    assert "FAIL" not in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 77) is ("not run" in done.stdout)
    assert json.loads((tmp_path / "bill.cdx.json").read_text())["specVersion"] == "1.6"
