"""The rules that the Kubernetes manifests keep beyond their schema, each with the fault that it prevents.

A rule gets all objects of one `kustomize build`, and yields a sentence for each fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, Final, cast

from deploy.canary.analysis import Phase, measured, metrics_of, weights_of
from postfacta_app.server import graceful_timeout
from postfacta_app.settings import Settings, SettingsError, load_settings

__all__ = ["RULES", "Manifests", "Rule"]

Object = Mapping[str, Any]

_MARGIN: Final = 5  # seconds between the end of the drain and SIGKILL
_STARTUP: Final = 120  # seconds in which a database may come up
_CONNECTIONS: Final = "postfacta.example.org/database-connections"
_OWNER: Final = "postfacta-owner"
# DNS, PostgreSQL, Valkey, the collector, the identity provider.
_OUT: Final = {53, 443, 4317, 4318, 5432, 6379}
_LABELS: Final = {
    f"app.kubernetes.io/{name}" for name in ("name", "component", "part-of", "version")
}


class Manifests:
    """All objects of one build.

    Args:
        objects: As YAML has them.
    """

    def __init__(self, objects: Iterable[Object]) -> None:
        self.objects = [found for found in objects if found]

    def of(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str) -> Object:
        """Return the only object of a kind; an empty one if there are none or several."""
        found = self.of(kind)
        return found[0] if len(found) == 1 else {}

    @cached_property
    def service(self) -> _Pods:
        """The pods that serve."""
        return _Pods(self.one("Deployment"))

    @property
    def rollout(self) -> Object:
        """The Rollout that takes the template of the Deployment.

        An empty one if that rolls out by itself.
        """
        return self.one("Rollout")

    @property
    def pods(self) -> list[_Pods]:
        """Everything that makes pods."""
        return [_Pods(found) for kind in ("Deployment", "Job") for found in self.of(kind)]

    @cached_property
    def settings(self) -> Settings:
        """What the service would read.

        Raises:
            SettingsError: It refuses them.
        """
        given = dict(self.service.plain)
        for source in self.service.container.get("envFrom", []):
            name = source.get("configMapRef", {}).get("name")
            for found in self.of("ConfigMap"):
                if found["metadata"]["name"] == name:
                    given.update(found["data"])
        given.pop("POSTFACTA_SECRETS_DIR", None)  # It is here on no machine.
        return load_settings(given)

    @property
    def grace(self) -> int:
        """The longest that a pod takes from its deletion to its end, in seconds."""
        settings = self.settings
        pause = at(self.service.container, "lifecycle", "preStop", "sleep", "seconds", default=0)
        return int(pause) + ceil((settings.drain_delay or 0) + graceful_timeout(settings))


@dataclass(frozen=True)
class _Pods:
    """An object that makes pods."""

    object: Object

    @property
    def name(self) -> str:
        return f"{self.object.get('kind')}/{at(self.object, 'metadata', 'name')}"

    @property
    def template(self) -> Object:
        return cast("Object", at(self.object, "spec", "template", default={}))

    @property
    def spec(self) -> Object:
        return cast("Object", self.template.get("spec", {}))

    @property
    def containers(self) -> Sequence[Object]:
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]

    @property
    def container(self) -> Object:
        return self.containers[0] if len(self.containers) == 1 else {}

    @property
    def labels(self) -> Mapping[str, str]:
        return cast("Mapping[str, str]", at(self.template, "metadata", "labels", default={}))

    @property
    def plain(self) -> dict[str, str]:
        """The variables whose values stand in the manifest."""
        return {
            one["name"]: one["value"] for one in self.container.get("env", []) if "value" in one
        }

    @property
    def secrets(self) -> set[str]:
        """The names of the secrets that are mounted."""
        volumes = self.spec.get("volumes", [])
        return {one["secret"]["secretName"] for one in volumes if "secret" in one}


def at(found: Object, *path: str, default: Any = None) -> Any:
    """Return what stands below some keys."""
    value: Any = found
    for key in path:
        # Also what a broken manifest has in the place of a mapping.
        value = cast("Object", value).get(key) if isinstance(value, Mapping) else None
    return default if value is None else value


def selects(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """Whether a selector, which is no empty one, matches labels."""
    wanted = at(selector or {}, "matchLabels", default={})
    return bool(wanted) and all(labels.get(key) == value for key, value in wanted.items())


Rule = Callable[[Manifests], Iterator[str]]
RULES: Final[dict[str, Rule]] = {}
"""Each rule by its name."""


def _rule(rule: Rule) -> Rule:
    RULES[rule.__name__.removeprefix("_").replace("_", "-")] = rule
    return rule


# The settings of the service


@_rule
def _settings_are_accepted(its: Manifests) -> Iterator[str]:
    """A pod whose settings are refused ends at once, and again."""
    try:
        settings = its.settings
    except SettingsError as error:
        yield from str(error).splitlines()
        return
    if settings.is_local:
        yield "ENVIRONMENT is local: cookies and limits are relaxed"
    if settings.is_loopback:
        yield "POSTFACTA_HOST: nothing outside of the pod reaches a loopback address"
    if settings.port not in {
        port["containerPort"] for port in its.service.container.get("ports", [])
    }:
        yield f"POSTFACTA_PORT: {settings.port} is no port of the container"


@_rule
def _no_service_links(its: Manifests) -> Iterator[str]:
    """For a Service `postfacta`, Kubernetes would set POSTFACTA_PORT to an address."""
    for pods in its.pods:
        if pods.spec.get("enableServiceLinks") is not False:
            yield f"{pods.name}: enableServiceLinks must be false"


# How it starts, ends and is replaced


@_rule
def _grace_is_longer_than_the_drain(its: Manifests) -> Iterator[str]:
    """SIGKILL before the end of the drain breaks requests, and leaves the lifespan without its shutdown."""
    given = its.service.spec.get("terminationGracePeriodSeconds", 30)
    if given < its.grace + _MARGIN:
        yield (
            f"terminationGracePeriodSeconds: {given} is less than {its.grace} of the drain and"
            f" {_MARGIN} of margin"
        )
    pause = at(its.service.container, "lifecycle", "preStop", "sleep", "seconds", default=0)
    probe = its.service.container.get("readinessProbe", {})
    notice = pause + (its.settings.drain_delay or 0)
    if notice < (least := probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3) + 1):
        yield (
            f"a pod serves for {notice:g} s after its deletion: balancers may need {least} s to see"
            " it unready"
        )


@_rule
def _probes_ask_what_they_mean(its: Manifests) -> Iterator[str]:
    """A liveness probe that asks for readiness restarts every pod while the database is away."""
    for probe, path in (
        ("startup", "/healthz/startup"),
        ("liveness", "/healthz/live"),
        ("readiness", "/healthz/ready"),
    ):
        found = its.service.container.get(f"{probe}Probe", {})
        if at(found, "httpGet", "path") != path:
            yield f"{probe}Probe must ask {path}"
        if found.get("timeoutSeconds", 1) != 1:
            yield f"{probe}Probe: timeoutSeconds must be 1: the service answers from memory"
    startup = its.service.container.get("startupProbe", {})
    if startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3) < _STARTUP:
        yield (
            f"startupProbe gives up within {_STARTUP} s: a pod that waits for the database is"
            " restarted"
        )
    if at(its.service.container, "readinessProbe", "failureThreshold", default=3) != 1:
        yield (
            "readinessProbe: failureThreshold must be 1: the service waits for several failures"
            " itself"
        )
    if at(its.service.container, "livenessProbe", "failureThreshold", default=3) < 3:  # noqa: PLR2004
        yield (
            "livenessProbe: failureThreshold must be 3 or more: one slow answer is no dead process"
        )


@_rule
def _a_rollout_takes_no_pod_away_first(its: Manifests) -> Iterator[str]:
    """With `maxUnavailable` above 0, a bad version costs capacity before it is known to be bad."""
    strategy = at(its.service.object, "spec", "strategy", default={})
    if at(strategy, "rollingUpdate", "maxUnavailable") != 0 or not at(
        strategy, "rollingUpdate", "maxSurge"
    ):
        yield "strategy: rollingUpdate needs maxUnavailable 0 and maxSurge of 1 or more"
    if "progressDeadlineSeconds" not in at(its.service.object, "spec", default={}):
        yield "progressDeadlineSeconds: say when a rollout has failed"


@_rule
def _the_schema_is_migrated_before(its: Manifests) -> Iterator[str]:
    """Pods that migrate at their start race each other, and need the rights of the owner."""
    jobs = [pods for pods in its.pods if pods.object["kind"] == "Job"]
    if [list(pods.container.get("args", [])) for pods in jobs] != [["migrate"]]:
        yield "there must be one Job, that runs `migrate`"
    for pods in jobs:
        if pods.spec.get("restartPolicy") != "Never":
            yield f"{pods.name}: restartPolicy must be Never: the log of a failed try is kept"
        if "activeDeadlineSeconds" not in pods.object["spec"]:
            yield f"{pods.name}: activeDeadlineSeconds: say when it has failed"
    if list(its.service.container.get("args", [])) != ["serve"]:
        yield "the Deployment must run `serve` alone, in one container"


@_rule
def _a_canary_is_judged(its: Manifests) -> Iterator[str]:
    """Steps that no one judges are a slow way to break everything.

    A judge without data must not say yes.
    """
    for found in its.of("Rollout"):
        name = f"Rollout/{found['metadata']['name']}"
        canary = at(found, "spec", "strategy", "canary", default={})
        if at(found, "spec", "workloadRef", "name") != at(
            its.service.object, "metadata", "name", default="?"
        ):
            yield f"{name}: workloadRef must name the Deployment"
        if not at(found, "spec", "progressDeadlineAbort"):
            yield (
                f"{name}: progressDeadlineAbort must be true: a version that is never ready is not"
                " waited for"
            )
        if canary.get("maxUnavailable") != 0:
            yield f"{name}: maxUnavailable must be 0"
        services = {one["metadata"]["name"] for one in its.of("Service")}
        if not {canary.get("stableService"), canary.get("canaryService")} <= services:
            yield f"{name}: stableService and canaryService must be Services"
        stable = at(canary, "trafficRouting", "nginx", "stableIngress")
        ways = [one for one in its.of("Ingress") if one["metadata"]["name"] == stable]
        if [_backends(way) for way in ways] != [{canary.get("stableService")}]:
            yield f"{name}: stableIngress must lead to the stableService, or weights change nothing"
        yield from (f"{name}: {fault}" for fault in _steps(its, found))


def _backends(ingress: Object) -> set[object]:
    rules = at(ingress, "spec", "rules", default=())
    paths = [path for rule in rules for path in at(rule, "http", "paths", default=())]
    return {at(path, "backend", "service", "name") for path in paths}


def _steps(its: Manifests, rollout: Object) -> Iterator[str]:
    try:
        weights = weights_of(rollout)
    except ValueError as error:
        yield f"steps: {error}"
        return
    if weights != sorted(set(weights)) or not weights or weights[0] > 10 or weights[-1] >= 100:  # noqa: PLR2004
        yield "steps: weights must rise, from 10 or less to less than 100"
    templates = {one["metadata"]["name"]: one for one in its.of("AnalysisTemplate")}
    for step in rollout["spec"]["strategy"]["canary"]["steps"][1::2]:
        given = {one["name"]: f"<{one['name']}>" for one in step["analysis"].get("args", ())}
        for one in step["analysis"]["templates"]:
            if one["templateName"] not in templates:
                yield f"there is no AnalysisTemplate {one['templateName']}"
            else:
                yield from _analysis(templates[one["templateName"]], given)


def _analysis(template: Object, given: Mapping[str, str]) -> Iterator[str]:
    try:
        metrics = metrics_of(template, given)
        silent = {
            it.name: {measured(it, result) for result in ([], [float("nan")])} for it in metrics
        }
    except ValueError as error:
        yield f"analysis: {error}"
        return
    for it in metrics:
        if Phase.SUCCESSFUL in silent[it.name]:
            yield f"metric {it.name}: no data is a success"
        if "<canary-hash>" not in it.query:
            yield f"metric {it.name}: its query does not select the canary"
    if {Phase.FAILED} not in silent.values():
        yield (
            "analysis: no metric fails without data, so that a canary which no one can see only"
            " pauses"
        )


# How many there are


@_rule
def _the_autoscaler_owns_the_replicas(its: Manifests) -> Iterator[str]:
    """With `replicas` in the Deployment, each rollout resets what the autoscaler chose."""
    scaler = its.one("HorizontalPodAutoscaler").get("spec", {})
    owner = its.rollout or its.service.object
    wanted = (owner.get("kind"), at(owner, "metadata", "name", default="?"))
    if (at(scaler, "scaleTargetRef", "kind"), at(scaler, "scaleTargetRef", "name")) != wanted:
        yield f"one HorizontalPodAutoscaler must scale the {owner.get('kind')}"
    if "replicas" in {
        **at(its.service.object, "spec", default={}),
        **at(its.rollout, "spec", default={}),
    }:
        yield f"the {owner.get('kind')} must not set replicas"
    if scaler.get("minReplicas", 1) < 3 or scaler.get("maxReplicas", 0) <= scaler.get(  # noqa: PLR2004
        "minReplicas", 1
    ):
        yield "minReplicas must be 3 or more, and maxReplicas greater"
    if at(scaler, "behavior", "scaleDown", "stabilizationWindowSeconds", default=0) < 300:  # noqa: PLR2004
        yield "scaleDown must wait for 300 s: a short lull is no end of the load"


@_rule
def _connections_fit_the_database(its: Manifests) -> Iterator[str]:
    """More pods than PostgreSQL has connections for fail at the worst moment.

    When load is highest.
    """
    allowed = at(its.service.object, "metadata", "annotations", _CONNECTIONS)
    if allowed is None:
        yield f"the Deployment needs the annotation {_CONNECTIONS}"
        return
    surge = at(its.service.object, "spec", "strategy", "rollingUpdate", "maxSurge", default=0)
    most = its.one("HorizontalPodAutoscaler").get("spec", {}).get("maxReplicas", 0)
    if its.rollout:
        surge = most  # The stable pods stay until the canary has them all.
    pods = most + (surge if isinstance(surge, int) else 0)
    needed = pods * its.settings.pool_max_size
    if not isinstance(surge, int) or needed > int(allowed):
        yield (
            f"{pods} pods with {its.settings.pool_max_size} connections each need {needed} of"
            f" {allowed}"
        )


@_rule
def _a_drained_node_leaves_enough(its: Manifests) -> Iterator[str]:
    """Without a budget, an upgrade of the nodes may evict all pods at once."""
    budget = its.one("PodDisruptionBudget").get("spec", {})
    if not selects(budget.get("selector"), its.service.labels):
        yield "one PodDisruptionBudget must select the pods"
    if budget.get("maxUnavailable") in {None, 0, "0%", "100%"} or "minAvailable" in budget:
        yield "PodDisruptionBudget: set maxUnavailable, between nothing and everything, as in 33%"
    if budget.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
        yield "PodDisruptionBudget: without AlwaysAllow a broken pod blocks the drain of its node"


@_rule
def _pods_are_spread(its: Manifests) -> Iterator[str]:
    """Pods that share a node or a zone end together."""
    spread = its.service.spec.get("topologySpreadConstraints", [])
    keys = {
        one["topologyKey"]
        for one in spread
        if selects(one.get("labelSelector"), its.service.labels)
    }
    for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname"):
        if key not in keys:
            yield f"topologySpreadConstraints: spread the pods over {key}"


@_rule
def _resources_are_stated(its: Manifests) -> Iterator[str]:
    """Memory above its request ends pods of others.

    A limit of the processor makes a pod wait on an idle node.
    """
    for pods in its.pods:
        for container in pods.containers:
            asked, most = (
                at(container, "resources", key, default={}) for key in ("requests", "limits")
            )
            if "cpu" not in asked or "memory" not in asked:
                yield f"{pods.name}: request cpu and memory"
            if most.get("memory") != asked.get("memory"):
                yield f"{pods.name}: the limit of memory must be its request"
            if "cpu" in most:
                yield f"{pods.name}: set no limit of cpu"


# What it may do


_POD: Final = {
    "hostNetwork": (False, None),
    "hostPID": (False, None),
    "hostIPC": (False, None),
    "automountServiceAccountToken": (False,),
}
_POD_CONTEXT: Final = {"runAsNonRoot": (True,)}
_CONTEXT: Final = {
    "allowPrivilegeEscalation": (False,),
    "readOnlyRootFilesystem": (True,),
    "privileged": (False, None),
}


@_rule
def _pods_are_restricted(its: Manifests) -> Iterator[str]:
    """An intruder in the process finds no root, nothing to write on, and no credential of the cluster."""
    for pods in its.pods:
        context = pods.spec.get("securityContext", {})
        yield from _unlike(pods.name, pods.spec, _POD)
        yield from _unlike(pods.name, context, _POD_CONTEXT)
        if context.get("runAsUser", 0) < 10_000:  # noqa: PLR2004 - below are users of nodes
            yield f"{pods.name}: runAsUser must be 10000 or more"
        if at(context, "seccompProfile", "type") != "RuntimeDefault":
            yield f"{pods.name}: seccompProfile must be RuntimeDefault"
        if any("hostPath" in volume for volume in pods.spec.get("volumes", [])):
            yield f"{pods.name}: a volume is a folder of the node"
    for found in its.of("Namespace"):
        if at(found, "metadata", "labels", "pod-security.kubernetes.io/enforce") != "restricted":
            yield f"Namespace/{found['metadata']['name']}: enforce the standard `restricted`"


@_rule
def _containers_are_restricted(its: Manifests) -> Iterator[str]:
    """The same, of what a container may be given."""
    for pods in its.pods:
        for container in pods.containers:
            context = container.get("securityContext", {})
            yield from _unlike(pods.name, context, _CONTEXT)
            if at(context, "capabilities", "drop") != ["ALL"] or at(context, "capabilities", "add"):
                yield f"{pods.name}: capabilities must drop ALL, and add none"


def _unlike(name: str, found: Object, wanted: Mapping[str, tuple[object, ...]]) -> Iterator[str]:
    for key, allowed in wanted.items():
        if found.get(key) not in allowed:
            yield f"{name}: {key} must be {allowed[0]}".replace("True", "true").replace(
                "False", "false"
            )


@_rule
def _secrets_are_files(its: Manifests) -> Iterator[str]:
    """A variable is read by every child and every crash report, and changes only with a restart."""
    for pods in its.pods:
        text = str(
            [container.get(key) for container in pods.containers for key in ("env", "envFrom")]
        )
        if "secretKeyRef" in text or "secretRef" in text:
            yield f"{pods.name}: a secret is a variable; mount it as a file"
        for volume in pods.spec.get("volumes", []):
            if "secret" in volume and volume["secret"].get("defaultMode", 0o644) & 0o337:
                yield f"{pods.name}: secret {volume['name']}: defaultMode must be 0400"
        mounts = [
            mount for container in pods.containers for mount in container.get("volumeMounts", [])
        ]
        if any(not mount.get("readOnly") for mount in mounts):
            yield f"{pods.name}: mount volumes readOnly"
    for found in its.of("Secret"):
        yield f"Secret/{found['metadata']['name']}: no secret stands in a manifest"


@_rule
def _each_has_its_own_secret(its: Manifests) -> Iterator[str]:
    """With the address of the owner, the service could change recorded facts."""
    if _OWNER in its.service.secrets:
        yield f"{its.service.name}: only the migration may have the secret {_OWNER}"
    data = [found.get("data", {}) for found in its.of("ConfigMap")]
    folders = {found["POSTFACTA_SECRETS_DIR"] for found in data if "POSTFACTA_SECRETS_DIR" in found}
    if folders != {mount["mountPath"] for mount in its.service.container.get("volumeMounts", [])}:
        yield f"{its.service.name}: the secrets must be mounted at POSTFACTA_SECRETS_DIR"


@_rule
def _images_are_pinned(its: Manifests) -> Iterator[str]:
    """A tag that moves puts versions side by side that no one chose, and a rollback gets the same one again."""
    images = {container.get("image", "") for pods in its.pods for container in pods.containers}
    for image in images:
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in {"", "latest"}:
            yield f"{image}: name a version or a digest"
    if len(images) > 1:
        yield f"the migration must be of the same image: {', '.join(sorted(images))}"


@_rule
def _only_named_traffic_passes(its: Manifests) -> Iterator[str]:
    """Without a policy every pod of the cluster reaches the service, and the service every address."""
    policies = [found["spec"] for found in its.of("NetworkPolicy")]
    for pods in its.pods:
        denied = {
            direction
            for policy in policies
            if selects(policy.get("podSelector"), pods.labels)
            and not policy.get("ingress")
            and not policy.get("egress")
            for direction in policy.get("policyTypes", [])
        }
        if denied != {"Ingress", "Egress"}:
            yield f"{pods.name}: no NetworkPolicy denies the rest, in both directions"
    for policy in policies:
        for rule in policy.get("ingress", []):
            if not rule.get("from") or not rule.get("ports"):
                yield "NetworkPolicy: an ingress rule must name from where, and which port"
        for rule in policy.get("egress", []):
            ports = {port.get("port") for port in rule.get("ports", [])}
            if not rule.get("to") or not ports or not ports <= _OUT:
                yield (
                    f"NetworkPolicy: an egress rule must name where to, and ports of {sorted(_OUT)}"
                )


@_rule
def _the_way_in_is_encrypted(its: Manifests) -> Iterator[str]:
    """Session cookies and tokens pass it."""
    for found in its.of("Ingress"):
        secured = {host for tls in found["spec"].get("tls", []) for host in tls.get("hosts", [])}
        for rule in found["spec"].get("rules", []):
            if rule.get("host") not in secured:
                yield (
                    f"Ingress/{found['metadata']['name']}: no TLS for"
                    f" {rule.get('host', 'every host')}"
                )


# How they belong together


@_rule
def _selectors_select_the_pods(its: Manifests) -> Iterator[str]:
    """A Service whose selector matches no pod is no error of its own: it only has no endpoints."""
    labels = its.service.labels
    if not selects(at(its.service.object, "spec", "selector"), labels):
        yield f"{its.service.name}: its selector does not match its own pods"
    for found in its.of("Service"):
        if not selects({"matchLabels": found["spec"].get("selector", {})}, labels):
            yield f"Service/{found['metadata']['name']}: selects no pods of the Deployment"
        named = {port.get("name") for port in its.service.container.get("ports", [])}
        for port in found["spec"].get("ports", []):
            if port.get("targetPort") not in named:
                yield (
                    f"Service/{found['metadata']['name']}: no port of the container is"
                    f" {port.get('targetPort')}"
                )
    for pods in its.pods:
        if pods.object["kind"] == "Job" and selects(
            at(its.service.object, "spec", "selector"), pods.labels
        ):
            yield f"{pods.name}: its pods would be counted as those of the service"


@_rule
def _labels_say_what_it_is(its: Manifests) -> Iterator[str]:
    """The version label is what APP_VERSION shows, and what a rollback looks for."""
    for found in its.objects:
        if found["kind"] != "Namespace" and (
            missing := _LABELS - at(found, "metadata", "labels", default={}).keys()
        ):
            yield f"{found['kind']}/{found['metadata']['name']}: label {', '.join(sorted(missing))}"
    for pods in its.pods:
        version = pods.labels.get("app.kubernetes.io/version", "?")
        image = pods.container.get("image", "")
        if "@" not in image and not image.endswith(f":{version}"):
            yield f"{pods.name}: its label says {version}, its image is {image}"
