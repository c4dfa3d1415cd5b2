"""The overlay of a canary keeps the rules of the manifests, and its own finds what breaks it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import yaml

from deploy.k8s.check import schema_faults
from deploy.k8s.rules import RULES
from tests.deploy.test_kubernetes import (
    CONFIG,
    HPA,
    K8S,
    SOUND,
    Change,
    Objects,
    faults,
    put,
    resources,
    without,
)
from tests.kit.every import every

ROLLOUT, TEMPLATE, INGRESS = "Rollout/postfacta", "AnalysisTemplate/postfacta", "Ingress/postfacta"
CANARY = K8S / "overlays/canary"
STEPS = "spec.strategy.canary.steps"


def built() -> Objects:
    """Do what `kustomize build` does with the overlay, on what it does with `plain`."""
    top = yaml.safe_load((CANARY / "kustomization.yaml").read_text())
    found = deepcopy(SOUND)
    for one in resources(CANARY):
        one["metadata"]["labels"] |= top["labels"][0]["pairs"]
        found[f"{one['kind']}/{one['metadata']['name']}"] = one
    name, _, value = top["configMapGenerator"][0]["literals"][0].partition("=")
    found[CONFIG]["data"][name] = value
    (patch,) = yaml.safe_load(top["patches"][0]["patch"])
    found[HPA]["spec"]["scaleTargetRef"] = patch["value"]
    return found


FOUND = built()
REFERENCE: dict[str, Any] = {"kind": "Deployment", "name": "postfacta"}
BROKEN: list[tuple[str, Change, str]] = [
    (
        "the-autoscaler-owns-the-replicas",
        put(HPA, "spec.scaleTargetRef", REFERENCE),
        "scale the Rollout",
    ),
    (
        "the-autoscaler-owns-the-replicas",
        put(ROLLOUT, "spec.replicas", 3),
        "the Rollout must not set",
    ),
    (
        "connections-fit-the-database",
        put(CONFIG, "data.POSTFACTA_POOL_MAX_SIZE", "9"),
        "12 pods with 9",
    ),
    (
        "a-canary-is-judged",
        put(ROLLOUT, "spec.workloadRef.name", "other"),
        "must name the Deployment",
    ),
    ("a-canary-is-judged", put(ROLLOUT, "spec.progressDeadlineAbort", None), "never ready"),
    ("a-canary-is-judged", put(ROLLOUT, "spec.strategy.canary.maxUnavailable", 1), "must be 0"),
    ("a-canary-is-judged", without("Service/postfacta-canary"), "must be Services"),
    (
        "a-canary-is-judged",
        put(ROLLOUT, "spec.strategy.canary.trafficRouting", None),
        "change nothing",
    ),
    (
        "a-canary-is-judged",
        put(INGRESS, "spec.rules.0.http.paths.0.backend.service.name", "x"),
        "change nothing",
    ),
    ("a-canary-is-judged", put(ROLLOUT, f"{STEPS}.0.setWeight", 20), "from 10 or less"),
    ("a-canary-is-judged", put(ROLLOUT, f"{STEPS}.4.setWeight", 20), "must rise"),
    ("a-canary-is-judged", put(ROLLOUT, f"{STEPS}.1", {"pause": {}}), "followed by an analysis"),
    (
        "a-canary-is-judged",
        put(ROLLOUT, f"{STEPS}.1.analysis.args", []),
        "no value for the argument",
    ),
    ("a-canary-is-judged", without(TEMPLATE), "no AnalysisTemplate postfacta"),
    (
        "a-canary-is-judged",
        put(TEMPLATE, "spec.metrics.0.successCondition", "true"),
        "not known here",
    ),
    (
        "a-canary-is-judged",
        put(TEMPLATE, "spec.metrics.1.successCondition", None),
        "errors: no data is a success",
    ),
    (
        "a-canary-is-judged",
        put(TEMPLATE, "spec.metrics.1.provider.prometheus.query", "up"),
        "does not select",
    ),
    (
        "a-canary-is-judged",
        put(TEMPLATE, "spec.metrics.0", FOUND[TEMPLATE]["spec"]["metrics"][1]),
        "only pauses",
    ),
]
REFUSED: list[tuple[str, Change, str]] = [
    (ROLLOUT, put(ROLLOUT, "spec.stratgy", {}), "stratgy"),
    (ROLLOUT, put(ROLLOUT, f"{STEPS}.0.setWeight", 101), "101"),
    (ROLLOUT, put(ROLLOUT, "spec.workloadRef", None), "workloadRef"),
    (TEMPLATE, put(TEMPLATE, "spec.metrics.0.interval", "30"), "30"),
    (TEMPLATE, put(TEMPLATE, "spec.metrics.0.succesCondition", "true"), "succesCondition"),
    (TEMPLATE, put(TEMPLATE, "apiVersion", "argoproj.io/v1"), "v1alpha1"),
]


def test_the_overlay_keeps_every_rule_and_its_schema() -> None:
    with every() as case:
        for rule in RULES:
            with case(rule):
                assert faults(rule, FOUND) == []
        for name in (ROLLOUT, TEMPLATE):
            with case(name):
                assert list(schema_faults(FOUND[name])) == []


def test_each_rule_finds_each_break_of_the_canary() -> None:
    with every() as case:
        for number, (rule, change, expected) in enumerate(BROKEN):
            with case(rule, number):
                objects = deepcopy(FOUND)
                change(objects)
                assert expected in "\n".join(faults(rule, objects))


def test_the_schema_finds_what_argo_rollouts_would_refuse() -> None:
    with every() as case:
        for name, change, expected in REFUSED:
            with case(name, expected):
                objects = deepcopy(FOUND)
                change(objects)
                (found,) = schema_faults(objects[name])
                assert found.startswith(f"{name}: ")
                assert expected in found
