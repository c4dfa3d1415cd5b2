"""Operations and secrets: what only the files of the project can tell, read by parsers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...engine.values import as_dict, as_dicts, read_yaml
from ..bench import Bench
from ..model import CheckResult, group

_MOST_FILES = 20_000
_MOST_BYTES = 2**20  # of a file; a larger one is not read
_SKIPPED = frozenset(
    {
        ".git",
        "node_modules",
        ".venv",
        "venv",
        "vendor",
        "__pycache__",
        ".tox",
        ".mypy_cache",
        "dist",
        "target",
    }
)
_LOCKS = frozenset(
    {
        "uv.lock",
        "poetry.lock",
        "Pipfile.lock",
        "pdm.lock",
        "pylock.toml",
        "package-lock.json",
        "yarn.lock",
        "pnpm-lock.yaml",
        "go.sum",
        "Cargo.lock",
        "Gemfile.lock",
        "composer.lock",
    }
)
_SCANS = re.compile(
    "pip-audit|govulncheck|npm audit|osv-scanner|trivy|grype|snyk|cargo audit|safety"
    " check|zizmor|dependency-review|uv audit"
)
_BOTS = r"^(\.github/)?(dependabot\.ya?ml|renovate\.json5?|\.renovaterc)$"
_HOOKS = r"^(\.pre-commit-config\.yaml|lefthook\.ya?ml|\.husky|\.githooks)"
_TESTS = (
    r"(^|/)(test_[^/]*\.py|[^/]*_test\.(go|py)|[^/]*\.(test|spec)\.[jt]sx?"
    r"|tests?/.*\.(py|js|ts|rs|java))$"
)
_RUNS = (
    r"\b(pytest|go test|npm (run )?test|cargo test|mvn|gradle|(make|just)"
    r" (test|check)|tox|nox|\.ci/run)\b"
)
_SECRET = re.compile(
    r"-----BEGIN (?:RSA |EC |OPENSSH )?PRIVATE"
    r" KEY-----\s*\n[A-Za-z0-9+/=]{40}|\bAKIA[0-9A-Z]{16}\b|\bghp_[A-Za-z0-9]{36}\b"
    r"|\bxox[abp]-\d{8,}-[A-Za-z0-9-]{10,}|\bsk_live_[A-Za-z0-9]{20,}\b|\bAIza[A-Za-z0-9_-]{35}\b"
)
_ENV_SECRET = re.compile(
    r"^\s*(export\s+)?\w*(SECRET|TOKEN|PASSWORD|API_KEY|PRIVATE)\w*\s*=\s*['\"]?[^\s'\"$<{]{8,}",
    re.MULTILINE | re.IGNORECASE,
)
_CI = (
    r"^(\.github/workflows/|\.gitlab-ci|\.ci/|\.circleci/|Jenkinsfile|azure-pipelines|\.buildkite/)"
)
_ROLLBACK = re.compile(
    r"roll(ing|ed)?[ -]?back|previous (image|version|release)|redeploy", re.IGNORECASE
)


@dataclass(frozen=True)
class _Project:
    """The files of a project: those that git tracks, or all if it has none."""

    root: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        git = shutil.which("git")
        if git is not None and (self.root / ".git").exists():
            command = [git, "ls-files", "-z"]
            listed = subprocess.run(  # noqa: S603 - git
                command,
                cwd=self.root,
                capture_output=True,
                timeout=30,
                check=False,
            )
            if listed.returncode == 0:
                tracked = listed.stdout.decode("utf-8", "replace").split("\0")[:-1]
                return tuple(tracked[:_MOST_FILES])
        paths = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        names = sorted(path.as_posix() for path in paths if _SKIPPED.isdisjoint(path.parts))
        return tuple(names[:_MOST_FILES])

    def text(self, name: str) -> str:
        """The content of a file, empty if it is large, gone or none."""
        path = self.root / name
        try:
            small = path.stat().st_size <= _MOST_BYTES
            return path.read_text(encoding="utf-8", errors="replace") if small else ""
        except OSError:
            return ""

    def matching(self, pattern: str) -> list[str]:
        return [name for name in self.names if re.search(pattern, name)]

    def texts(self, pattern: str) -> list[str]:
        return [self.text(name) for name in self.matching(pattern)]


@group("SECU-5", *(f"OPER-{number}" for number in range(1, 7)), needs=("project",))
async def _files(bench: Bench) -> dict[str, CheckResult]:
    project = _Project((bench.spec.project or Path()).resolve())
    shown = await _says_version(bench)
    return {
        "SECU-5": _secrets(project),
        **_operations(project),
        **_engineering(project, says_version=shown),
    }


def _secrets(project: _Project) -> CheckResult:
    environments = project.matching(r"(^|/)\.env(rc)?(\.(local|production|prod|dev))?$")
    patterns = {name: _ENV_SECRET if name in environments else _SECRET for name in project.names}
    leaking = [name for name, secret in patterns.items() if secret.search(project.text(name))]
    if leaking:
        more = f" and {len(leaking) - 1} more" if leaking[1:] else ""
        return CheckResult.fails(f"a secret stands in {leaking[0]}{more}")
    if environments:
        return CheckResult.scored(0.5, f"{environments[0]} is tracked, without a secret")
    return CheckResult.passes(f"no key, no token, no .env in {len(project.names)} files")


def _operations(project: _Project) -> dict[str, CheckResult]:
    documents = list(_yaml(project))
    objectives = [name for name, document in documents if _is_objective(document)]
    books = len(project.matching(r"(?i)runbook.*(?<!README)\.(md|rst)$"))
    way_back = any(map(_ROLLBACK.search, project.texts(r"\.(md|rst)$")))
    evidence = f"{books} runbooks; {'a' if way_back else 'no'} way back is written"
    alerts = [rule for _, document in documents for rule in _alerts(document)]
    place = objectives[0] if objectives else "no file"
    return {
        "OPER-1": _alerting(project, alerts),
        "OPER-2": CheckResult.share((books >= 5) + way_back, 2, evidence),
        "OPER-3": CheckResult.holds(bool(objectives), f"objectives in {place}"),
    }


def _yaml(project: _Project) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each document of YAML that is a mapping; files that do not parse are passed over."""
    for name in project.matching(r"\.ya?ml$"):
        text = project.text(name)
        if not re.search(r"alert:|openslo|sloth|pyrra|slos:", text, re.IGNORECASE):
            continue
        try:
            documents = read_yaml(text)
        except ValueError:
            continue
        yield from ((name, document) for document in as_dicts(documents))


def _alerts(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    groups = document.get("groups") or as_dict(document.get("spec")).get("groups")
    for rules in as_dicts(groups):
        for rule in as_dicts(rules.get("rules")):
            if rule.get("alert") and rule.get("expr"):
                yield rule


def _is_objective(document: dict[str, Any]) -> bool:
    version = str(document.get("apiVersion", "")).lower()
    kind = str(document.get("kind", ""))
    return (
        ("openslo" in version and kind in {"SLO", "SLI"})
        or "sloth" in version
        or str(document.get("version", "")).startswith("prometheus/v")
        or ("pyrra" in version and kind == "ServiceLevelObjective")
    )


def _alerting(project: _Project, alerts: list[dict[str, Any]]) -> CheckResult:
    if not alerts:
        return CheckResult.fails("no alert rules were found")
    names = {_stem(name) for name in project.names}
    booked = sum(_has_runbook(alert, names) for alert in alerts)
    evidence = f"{booked} of {len(alerts)} alerts name a runbook whose file exists"
    return CheckResult.scored(1.0 if booked == len(alerts) else 0.5, evidence)


def _has_runbook(alert: dict[str, Any], names: Collection[str]) -> bool:
    annotations = as_dict(alert.get("annotations"))
    url = str(annotations.get("runbook_url") or annotations.get("runbook") or "")
    end = _stem(urlsplit(url).path.rstrip("/"))
    if not url:
        return False
    if str(alert["alert"]) in names:
        return True
    return end != "" and "{{" not in url and end in names


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]


def _engineering(project: _Project, *, says_version: bool) -> dict[str, CheckResult]:
    """Judge dependencies, image and tests, each by three parts that should be there."""
    ci = "\n".join(project.texts(_CI))
    pins = project.texts(r"(^|/)requirements[^/]*(/[^/]+)?\.txt$")
    has_lock_file = any(Path(name).name in _LOCKS for name in project.names)
    has_hashes = any("--hash=" in pin for pin in pins)
    images = project.texts(r"(^|/)(Dockerfile|Containerfile)[^/]*$")
    stages = [len(re.findall(r"(?m)^FROM\s", image)) for image in images]
    users = [re.findall(r"^USER\s+([^\s:]+)", image, re.MULTILINE)[-1:] for image in images]
    parts: Mapping[str, Mapping[str, object]] = {
        "OPER-4": {
            "a lock file": has_lock_file or has_hashes,
            "a scan in CI": _SCANS.search(ci),
            "a bot for updates": project.matching(_BOTS),
        },
        "OPER-5": {
            "an image in stages": max(stages, default=0) > 1,
            "an unprivileged user": any(user not in ([], ["root"], ["0"]) for user in users),
            "its version at run time": says_version,
        },
        "OPER-6": {
            "tests": project.matching(_TESTS),
            "CI that runs them": re.search(_RUNS, ci),
            "hooks for commits": project.matching(_HOOKS),
        },
    }
    parts_found = {
        name: {part: bool(is_there) for part, is_there in conditions.items()}
        for name, conditions in parts.items()
    }
    scores = (0.0, 0.25, 0.75, 1.0)  # two of three are more than half
    return {
        name: replace(CheckResult.parts(conditions), score=scores[sum(conditions.values())])
        for name, conditions in parts_found.items()
    }


async def _says_version(bench: Bench) -> bool:
    for series in await bench.scrape():
        named = re.search(r"(build|app|service)_?info|version", series.name)
        runtime = series.name.startswith(("go_", "python_", "nodejs_"))
        if named and not runtime and "version" in dict(series.labels):
            return True
    for path in ("/version", "/info", "/buildinfo", "/actuator/info"):
        answer = await bench.call(path)
        if answer.good and re.search(r"version|commit|\d+\.\d+", answer.text):
            return True
    return False
