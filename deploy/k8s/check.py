"""Check the Kubernetes manifests of folders.

By `kustomize build`, by the schema of Kubernetes, and by our rules.

    python deploy/k8s/check.py                         # all overlays that are shipped
    python deploy/k8s/check.py path/to/your/overlay

Exit codes: 0 all passed, 1 something failed, 77 something could not be looked at.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import yaml

# It is started by its path from anywhere, and its modules are no part of an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.k8s.rules import RULES, Manifests, Rule
from deploy.outcome import Outcome
from postfacta_app.settings import SettingsError

__all__ = ["KUBERNETES", "build", "main", "schema_faults"]

KUBERNETES: Final = "1.30"
"""The oldest version that the manifests are for: `preStop.sleep` came with it."""

_SHIPPED: Final = Path(__file__).parent / "overlays"
_ARGO: Final = json.loads((Path(__file__).parent / "argo.schema.json").read_text())


def build(overlay: Path) -> Manifests:
    """Build a folder as it would be applied.

    Raises:
        FileNotFoundError: There is no kustomize.
        ValueError: It refused the folder; its words are the text.
    """
    program = shutil.which("kustomize")
    if program is None:
        raise FileNotFoundError("kustomize is not installed (Debian: apt-get install kustomize)")
    done = subprocess.run(  # noqa: S603 - a program of the system
        [program, "build", overlay], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return Manifests(yaml.safe_load_all(done.stdout))


def schema_faults(found: dict[str, Any]) -> Iterator[str]:
    """Compare an object with the schema of its kind, strictly.

    Raises:
        LookupError: Neither Kubernetes nor Argo Rollouts, as far as it is used here, has such a
            kind.
    """
    if found["apiVersion"].startswith("argoproj.io/") and found["kind"] in _ARGO["$defs"]:
        checker = jsonschema_rs.Draft202012Validator({**_ARGO, "$ref": f"#/$defs/{found['kind']}"})
        for fault in checker.iter_errors(found):
            where = ".".join(map(str, fault.instance_path))
            yield f"{found['kind']}/{found['metadata']['name']}: {where}: {fault.message}"
        return
    import kubernetes_validate  # type: ignore[import-untyped] # noqa: PLC0415

    try:
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        raise LookupError(
            f"{found['apiVersion']} {found['kind']} is no kind of Kubernetes itself"
        ) from error
    except kubernetes_validate.ValidationError as error:
        where = ".".join(map(str, error.path))
        yield f"{found['kind']}/{found['metadata']['name']}: {where}: {error.message}"


def main(arguments: Sequence[str]) -> int:
    """Check each folder; return the exit code."""
    outcome = Outcome()
    overlays = [Path(word) for word in arguments] or sorted(_SHIPPED.iterdir())
    for overlay in overlays:
        try:
            its = build(overlay)
        except FileNotFoundError as missing:
            outcome.not_run(overlay.name, str(missing))
            continue
        except ValueError as refused:
            outcome.check(f"{overlay.name}: kustomize build", [str(refused)])
            continue
        _schemas(outcome, overlay.name, its)
        for name, rule in RULES.items():
            outcome.check(f"{overlay.name}: {name}", _faults(rule, its))
    return outcome.end()


def _schemas(outcome: Outcome, name: str, its: Manifests) -> None:
    faults: list[str] = []
    unknown: set[str] = set()
    for found in its.objects:
        try:
            faults += schema_faults(dict(found))
        except LookupError as error:
            unknown.add(str(error))
    outcome.check(f"{name}: schemas of Kubernetes {KUBERNETES}", faults)
    for why in sorted(unknown):
        outcome.not_run(f"{name}: schema", why)


def _faults(rule: Rule, its: Manifests) -> list[str]:
    try:
        return list(rule(its))
    except SettingsError:
        return ["the settings are refused: see settings-are-accepted"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
