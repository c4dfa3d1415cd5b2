"""The Kubernetes manifests keep their rules, and each rule finds what breaks it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.k8s.rules import RULES, Manifests
from postfacta_app.server import graceful_timeout
from postfacta_app.settings import load_settings
from tests.kit.every import every

ROOT = Path(__file__).parents[2]
K8S = ROOT / "deploy/k8s"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
Objects = dict[str, dict[str, Any]]
Change = Callable[[Objects], None]


def resources(folder: Path) -> Iterator[dict[str, Any]]:
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        if (folder / name).is_file():
            yield from yaml.safe_load_all((folder / name).read_text())


def built() -> Objects:
    """Do what `kustomize build` does with the overlay, as far as it uses it.

    The tests with programs run the real one.
    """
    base, overlay = K8S / "base", K8S / "overlays/plain"
    top = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    lines = (base / "settings.env").read_text().splitlines() + top["configMapGenerator"][0][
        "literals"
    ]
    data = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    config: dict[str, Any] = {
        "kind": "ConfigMap",
        "metadata": {"name": "postfacta", "labels": {}},
        "data": data,
    }
    image = f"{top['images'][0]['newName']}:{top['images'][0]['newTag']}"
    labels: dict[str, str] = {}
    for source in (yaml.safe_load((base / "kustomization.yaml").read_text()), top):
        labels |= source["labels"][0]["pairs"]
    found: Objects = {}
    for one in (*resources(base), *resources(overlay), config):
        metadata = one["metadata"]
        metadata["labels"] = {
            "app.kubernetes.io/component": "service",
            **metadata["labels"],
            **labels,
        }
        if template := one.get("spec", {}).get("template"):
            template["metadata"]["labels"] |= labels
            template["spec"]["containers"][0]["image"] = image
        found[f"{one['kind']}/{metadata['name']}"] = one
    return found


SOUND = built()
DEPLOYMENT, JOB, CONFIG = "Deployment/postfacta", "Job/postfacta-migrate", "ConfigMap/postfacta"
HPA, PDB = "HorizontalPodAutoscaler/postfacta", "PodDisruptionBudget/postfacta"


def faults(rule: str, objects: Objects) -> list[str]:
    return list(RULES[rule](Manifests(objects.values())))


def put(name: str, path: str, value: object) -> Change:
    """Return a change that sets one value; `pod.` and `container.` stand for where those are."""
    path = path.replace("container.", "pod.spec.containers.0.").replace("pod.", "spec.template.")

    def change(objects: Objects) -> None:
        *way, last = path.split(".")
        at: Any = objects[name]
        for key in way:
            at = at[int(key)] if key.isdecimal() else at.setdefault(key, {})
        if value is None:
            del at[last]
        else:
            at[int(last) if last.isdecimal() else last] = value

    return change


def without(name: str) -> Change:
    def change(objects: Objects) -> None:
        del objects[name]

    return change


SECRET = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "postfacta", "key": "key"}}}
HOST_PATH = {"name": "secrets", "hostPath": {"path": "/etc"}}
BROKEN: dict[str, list[tuple[Change, str]]] = {
    "settings-are-accepted": [
        (put(CONFIG, "data.POSTFACTA_PROT", "8080"), "did you mean POSTFACTA_PORT"),
        (put(CONFIG, "data.ENVIRONMENT", "local"), "ENVIRONMENT is local"),
        (put(CONFIG, "data.POSTFACTA_HOST", "127.0.0.1"), "loopback"),
        (put(CONFIG, "data.POSTFACTA_PORT", "8081"), "no port of the container"),
    ],
    "no-service-links": [
        (put(DEPLOYMENT, "pod.spec.enableServiceLinks", None), "Deployment/postfacta"),
        (put(JOB, "pod.spec.enableServiceLinks", value=True), "Job/postfacta-migrate"),
    ],
    "grace-is-longer-than-the-drain": [
        (put(DEPLOYMENT, "pod.spec.terminationGracePeriodSeconds", 44), "44 is less than 40"),
        (put(DEPLOYMENT, "pod.spec.terminationGracePeriodSeconds", None), "30 is less than 40"),
        (put(CONFIG, "data.POSTFACTA_DRAIN_TIMEOUT", "30"), "45 is less than 50"),
        (put(DEPLOYMENT, "container.lifecycle.preStop.sleep.seconds", 6), "45 is less than 41"),
        (put(DEPLOYMENT, "container.lifecycle", None), "serves for 5 s"),
    ],
    "probes-ask-what-they-mean": [
        (
            put(DEPLOYMENT, "container.livenessProbe.httpGet.path", "/healthz/ready"),
            "/healthz/live",
        ),
        (put(DEPLOYMENT, "container.livenessProbe.failureThreshold", 1), "no dead process"),
        (put(DEPLOYMENT, "container.readinessProbe.failureThreshold", 3), "waits for several"),
        (put(DEPLOYMENT, "container.readinessProbe.timeoutSeconds", 5), "timeoutSeconds must be 1"),
        (put(DEPLOYMENT, "container.startupProbe.failureThreshold", 29), "within 120 s"),
    ],
    "a-rollout-takes-no-pod-away-first": [
        (put(DEPLOYMENT, "spec.strategy.rollingUpdate.maxUnavailable", 1), "maxUnavailable 0"),
        (put(DEPLOYMENT, "spec.strategy", {"type": "Recreate"}), "maxUnavailable 0"),
        (put(DEPLOYMENT, "spec.progressDeadlineSeconds", None), "progressDeadlineSeconds"),
    ],
    "the-schema-is-migrated-before": [
        (without(JOB), "one Job"),
        (put(JOB, "pod.spec.restartPolicy", "OnFailure"), "must be Never"),
        (put(JOB, "spec.activeDeadlineSeconds", None), "activeDeadlineSeconds"),
        (put(DEPLOYMENT, "pod.spec.initContainers", [{"args": ["migrate"]}]), "`serve` alone"),
    ],
    "the-autoscaler-owns-the-replicas": [
        (put(DEPLOYMENT, "spec.replicas", 3), "must not set replicas"),
        (put(HPA, "spec.minReplicas", 2), "3 or more"),
        (put(HPA, "spec.maxReplicas", 3), "maxReplicas greater"),
        (put(HPA, "spec.behavior", None), "300 s"),
        (put(HPA, "spec.scaleTargetRef.name", "another"), "must scale the Deployment"),
    ],
    "connections-fit-the-database": [
        (put(HPA, "spec.maxReplicas", 9), "10 pods with 10 connections each need 100 of 97"),
        (put(CONFIG, "data.POSTFACTA_POOL_MAX_SIZE", "14"), "need 98 of 97"),
        (put(DEPLOYMENT, "spec.strategy.rollingUpdate.maxSurge", "25%"), "of 97"),
        (put(DEPLOYMENT, "metadata.annotations", {}), "needs the annotation"),
    ],
    "a-drained-node-leaves-enough": [
        (without(PDB), "must select the pods"),
        (put(PDB, "spec.maxUnavailable", "100%"), "between nothing and everything"),
        (put(PDB, "spec.maxUnavailable", 0), "between nothing and everything"),
        (put(PDB, "spec.unhealthyPodEvictionPolicy", "IfHealthyBudget"), "AlwaysAllow"),
        (put(PDB, "spec.selector.matchLabels", {}), "must select the pods"),
    ],
    "pods-are-spread": [
        (put(DEPLOYMENT, "pod.spec.topologySpreadConstraints", []), "kubernetes.io/hostname"),
        (
            put(DEPLOYMENT, "pod.spec.topologySpreadConstraints.0.topologyKey", "rack"),
            "kubernetes.io/zone",
        ),
    ],
    "resources-are-stated": [
        (put(DEPLOYMENT, "container.resources.requests.cpu", None), "request cpu"),
        (put(DEPLOYMENT, "container.resources.limits.memory", "1Gi"), "must be its request"),
        (put(JOB, "container.resources.limits.cpu", "1"), "no limit of cpu"),
    ],
    "pods-are-restricted": [
        (put(DEPLOYMENT, "pod.spec.securityContext.runAsNonRoot", None), "runAsNonRoot"),
        (put(DEPLOYMENT, "pod.spec.securityContext.runAsUser", 0), "runAsUser"),
        (put(JOB, "pod.spec.securityContext.seccompProfile.type", "Unconfined"), "RuntimeDefault"),
        (put(JOB, "pod.spec.automountServiceAccountToken", None), "automountServiceAccountToken"),
        (put(DEPLOYMENT, "pod.spec.hostNetwork", value=True), "hostNetwork must be false"),
        (put(DEPLOYMENT, "pod.spec.volumes.0", HOST_PATH), "folder of the node"),
        (put("Namespace/postfacta", "metadata.labels", {}), "restricted"),
    ],
    "containers-are-restricted": [
        (
            put(DEPLOYMENT, "container.securityContext.allowPrivilegeEscalation", value=True),
            "must be false",
        ),
        (put(DEPLOYMENT, "container.securityContext.readOnlyRootFilesystem", None), "must be true"),
        (put(JOB, "container.securityContext.privileged", value=True), "privileged must be false"),
        (put(JOB, "container.securityContext.capabilities.drop", ["NET_RAW"]), "drop ALL"),
        (put(JOB, "container.securityContext.capabilities.add", ["SYS_ADMIN"]), "add none"),
    ],
    "secrets-are-files": [
        (put(DEPLOYMENT, "container.env.0", SECRET), "mount it as a file"),
        (
            put(DEPLOYMENT, "container.envFrom.0", {"secretRef": {"name": "postfacta"}}),
            "mount it as a file",
        ),
        (put(DEPLOYMENT, "pod.spec.volumes.0.secret.defaultMode", None), "0400"),
        (put(JOB, "container.volumeMounts.0.readOnly", None), "readOnly"),
        (
            lambda objects: objects.update(
                {"": {"kind": "Secret", "metadata": {"name": "postfacta"}}}
            ),
            "no secret stands in a manifest",
        ),
    ],
    "each-has-its-own-secret": [
        (
            put(DEPLOYMENT, "pod.spec.volumes.0.secret.secretName", "postfacta-owner"),
            "only the migration",
        ),
        (put(CONFIG, "data.POSTFACTA_SECRETS_DIR", "/secrets"), "mounted at POSTFACTA_SECRETS_DIR"),
    ],
    "images-are-pinned": [
        (put(DEPLOYMENT, "container.image", "postfacta"), "a version or a digest"),
        (put(DEPLOYMENT, "container.image", "host:5000/postfacta:latest"), "a version or a digest"),
        (put(JOB, "container.image", "postfacta:0.0.9"), "the same image"),
    ],
    "only-named-traffic-passes": [
        (without("NetworkPolicy/postfacta-deny"), "denies the rest"),
        (
            put("NetworkPolicy/postfacta-deny", "spec.policyTypes", ["Ingress"]),
            "in both directions",
        ),
        (put("NetworkPolicy/postfacta-in", "spec.ingress.0.from", []), "from where"),
        (put("NetworkPolicy/postfacta-out", "spec.egress.1.ports", []), "egress rule"),
        (put("NetworkPolicy/postfacta-out", "spec.egress.1.ports.0.port", 22), "egress rule"),
        (put("NetworkPolicy/postfacta-out", "spec.egress.1.to", []), "egress rule"),
    ],
    "the-way-in-is-encrypted": [
        (put("Ingress/postfacta", "spec.tls", None), "no TLS for postfacta.example.org"),
        (put("Ingress/postfacta", "spec.rules.0.host", None), "no TLS for every host"),
    ],
    "selectors-select-the-pods": [
        (put("Service/postfacta", "spec.selector", {"app": "postfacta"}), "selects no pods"),
        (
            put("Service/postfacta", "spec.ports.0.targetPort", "web"),
            "no port of the container is web",
        ),
        (put(DEPLOYMENT, "spec.selector.matchLabels", {"app": "postfacta"}), "its own pods"),
        (
            put(JOB, "pod.metadata.labels", SOUND[DEPLOYMENT]["spec"]["selector"]["matchLabels"]),
            "counted",
        ),
    ],
    "labels-say-what-it-is": [
        (put("Service/postfacta", "metadata.labels", {}), "app.kubernetes.io/version"),
        (
            put(DEPLOYMENT, "container.image", "registry.example.org/postfacta:0.2.0"),
            "its label says",
        ),
    ],
}


def test_the_manifests_keep_every_rule() -> None:
    with every() as case:
        for rule in RULES:
            with case(rule):
                assert faults(rule, SOUND) == []


def test_each_rule_finds_each_break() -> None:
    assert (
        BROKEN.keys() | {"a-canary-is-judged"} == RULES.keys()
    )  # tests/deploy/test_kubernetes_canary.py
    with every() as case:
        for rule, breaks in BROKEN.items():
            for number, (change, expected) in enumerate(breaks):
                with case(rule, number):
                    objects = deepcopy(SOUND)
                    change(objects)
                    assert expected in "\n".join(faults(rule, objects))


def test_the_grace_follows_from_the_settings_of_the_service() -> None:
    given = load_settings({"ENVIRONMENT": "production", "POSTFACTA_DRAIN_DELAY": "5"})
    before_sigterm = 5
    assert Manifests(SOUND.values()).grace == before_sigterm + 5 + graceful_timeout(given)


def test_the_version_is_that_of_the_package() -> None:
    assert SOUND[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]["image"].endswith(
        f":{VERSION}"
    )


@pytest.mark.parametrize("name", [DEPLOYMENT, JOB])
def test_a_pod_has_the_user_of_the_image(name: str) -> None:
    context = SOUND[name]["spec"]["template"]["spec"]["securityContext"]
    assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {10001}
