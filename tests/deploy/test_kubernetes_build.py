"""`make k8s-check`: what kustomize builds matches the schema of Kubernetes and keeps our rules."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from deploy.k8s.check import build, schema_faults
from tests.deploy.test_kubernetes import DEPLOYMENT, SOUND, Change, put
from tests.ops.prometheus import needs

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy/k8s"

pytestmark = [pytest.mark.usefixtures("programs"), needs("kustomize")]


def check(*words: object) -> tuple[int, str]:
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, K8S / "check.py", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_what_is_shipped_passes() -> None:
    code, report = check()
    assert (code, "FAIL" in report, "not run" in report) == (0, False, False), report
    assert "pass     plain: schemas of Kubernetes 1.30" in report


def content(its: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{it['kind']}/{it['metadata']['name']}": it.get("spec", it.get("data")) for it in its}


def test_kustomize_builds_what_the_fast_tests_take_for_built(tmp_path: Path) -> None:
    overlay = tmp_path / "overlays/plain"
    shutil.copytree(K8S, tmp_path, dirs_exist_ok=True)
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("generatorOptions: {disableNameSuffixHash: true}\n")
    assert content(build(overlay).objects) == content(SOUND.values())


def test_a_changed_setting_is_a_rollout(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path, dirs_exist_ok=True)
    before = build(tmp_path / "overlays/plain").service.container["envFrom"]
    with (tmp_path / "base/settings.env").open("a") as file:
        file.write("POSTFACTA_STATEMENT_TIMEOUT=4\n")
    assert build(tmp_path / "overlays/plain").service.container["envFrom"] != before


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (put(DEPLOYMENT, "container.readyProbe", {}), "readyProbe"),
        (put(DEPLOYMENT, "spec.minReadySeconds", "5 s"), "minReadySeconds"),
        (put(DEPLOYMENT, "pod.spec.containers", None), "containers"),
    ],
    ids=["unknown", "type", "missing"],
)
def test_the_schema_finds_what_kubernetes_would_refuse(change: Change, fault: str) -> None:
    objects = deepcopy(SOUND)
    change(objects)
    (found,) = schema_faults(objects[DEPLOYMENT])
    assert found.startswith(f"{DEPLOYMENT}: ")
    assert fault in found


def test_what_has_no_schema_is_not_run_and_not_passed(tmp_path: Path) -> None:
    monitor = K8S / "components/prometheus-operator/monitor.yaml"
    shutil.copy(monitor, tmp_path)
    (tmp_path / "kustomization.yaml").write_text("resources: [monitor.yaml]\n")
    _, report = check(tmp_path)
    assert f"not run  {tmp_path.name}: schema" in report
    assert "monitoring.coreos.com/v1 PodMonitor is no kind of Kubernetes itself" in report


def test_a_folder_that_cannot_be_built_fails(tmp_path: Path) -> None:
    code, report = check(tmp_path)
    assert code == 1
    assert "FAIL" in report
