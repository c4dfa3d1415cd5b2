"""Hosted CI is checked before it is pushed: by its schema and by zizmor, offline.

And both find what is broken.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

GITHUB = Path(__file__).parent.parent.parent / ".github"
CI = (GITHUB / "workflows/ci.yml").read_text()
SCHEMAS = {
    "workflows/*.yml": "github-workflows",
    "dependabot.yml": "dependabot",
    "ISSUE_TEMPLATE/config.yml": "github-issue-config",
    "ISSUE_TEMPLATE/[!c]*.yml": "github-issue-forms",
}
PINNED = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1"
RUN = "- run: make docs PYTHON=python"

pytestmark = pytest.mark.usefixtures("programs")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)  # noqa: S603 - both are ours


def schema(name: str, *files: Path) -> subprocess.CompletedProcess[str]:
    """Validate files by a schema that the package brings."""
    return run(
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        f"vendor.{name}",
        *map(str, files),
    )


def zizmor(where: Path) -> subprocess.CompletedProcess[str]:
    """Audit workflows without asking any host."""
    program = shutil.which("zizmor", path=Path(sys.executable).parent) or "zizmor"
    return run(program, "--offline", "--no-progress", "--persona", "pedantic", str(where))


def test_every_file_of_the_forge_matches_its_schema() -> None:
    checked = 0
    for pattern, name in SCHEMAS.items():
        files = sorted(GITHUB.glob(pattern))
        done = schema(name, *files)
        assert done.returncode == 0, done.stdout + done.stderr
        checked += len(files)
    assert checked == len(list(GITHUB.rglob("*.yml")))


def test_zizmor_finds_nothing_in_the_workflows() -> None:
    done = zizmor(GITHUB)
    assert (done.returncode, "No findings" in done.stdout) == (0, True), done.stdout + done.stderr


BROKEN = {
    "unpinned-uses": (PINNED, "actions/checkout@v7"),
    "template-injection": (RUN, "- run: echo ${{ github.event.pull_request.title }}"),
    "excessive-permissions": ("permissions: {}", "permissions: write-all"),
    "artipacked": ("persist-credentials: false", "clean: true"),
}


def test_zizmor_finds_each_break(tmp_path: Path) -> None:
    for audit, (sound, broken) in BROKEN.items():
        file = tmp_path / audit / ".github/workflows/ci.yml"
        file.parent.mkdir(parents=True)
        assert sound in CI
        file.write_text(CI.replace(sound, broken, 1))
        done = zizmor(file)
        assert done.returncode > 10, audit
        assert f"[{audit}]" in done.stdout, done.stdout


def jobs_that_may(permission: str) -> dict[str, dict[str, Any]]:
    """Return the jobs of all workflows that have a permission to write."""
    return {
        f"{file.stem}.{name}": job
        for file in sorted((GITHUB / "workflows").glob("*.yml"))
        for name, job in yaml.safe_load(file.read_text())["jobs"].items()
        if job["permissions"].get(permission) == "write"
    }


def test_what_may_sign_or_publish_runs_no_code_of_the_repository() -> None:
    signing, publishing = jobs_that_may("id-token"), jobs_that_may("contents")
    assert list(signing) == ["publish.upload", "release.attest"]
    assert list(publishing) == ["release.release"]
    for job in (*signing.values(), *publishing.values()):
        used = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
        assert set(used) <= {
            "actions/attest",
            "actions/download-artifact",
            "actions/upload-artifact",
            "pypa/gh-action-pypi-publish",
        }
        ran = "\n".join(step.get("run", "") for step in job["steps"])
        assert "sha256sum --check --strict SHA256SUMS" in ran
        assert not re.search(r"\b(python|pip|make|bash|sh|npm|curl)\b", ran)


def test_a_release_has_a_signed_origin_and_a_signed_bill_which_are_verified() -> None:
    jobs = yaml.safe_load((GITHUB / "workflows/release.yml").read_text())["jobs"]
    assert [job.get("needs") for job in jobs.values()] == [None, "build", "attest"]
    attested = [
        step["with"] for step in jobs["attest"]["steps"] if "attest@" in step.get("uses", "")
    ]
    assert [sorted(given) for given in attested] == [
        ["subject-checksums"],
        ["sbom-path", "subject-checksums"],
    ]
    verified = jobs["release"]["steps"][-1]["run"]
    assert verified.count("gh attestation verify") == 2
    assert verified.index("gh attestation verify") < verified.index("gh release create")
    assert "diff -r dist again" in str(jobs["build"]["steps"])


def test_what_is_uploaded_is_what_was_signed_and_no_token_exists() -> None:
    text = (GITHUB / "workflows/publish.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"release": {"types": ["published"]}}  # YAML 1.1 reads `on` so
    (job,) = workflow["jobs"].values()
    verify, upload = job["steps"]
    assert job["environment"] == "package-index"
    assert verify["run"].index("gh attestation verify") < verify["run"].index("cp ")
    assert upload["with"] == {"packages-dir": "dist/", "attestations": True}
    assert "secrets." not in text


def test_the_schema_finds_a_job_without_a_runner(tmp_path: Path) -> None:
    file = tmp_path / "ci.yml"
    file.write_text(CI.replace("    runs-on: ubuntu-24.04\n", "", 1))
    assert schema("github-workflows", file).returncode == 1
