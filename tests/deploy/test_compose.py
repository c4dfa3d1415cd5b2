"""The compose file keeps its rules, and each rule finds what breaks it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from postfacta_app.server import graceful_timeout
from postfacta_app.settings import load_settings
from tests.kit.every import every
from tests.ops.alerting.rules import needs_promtool

DEPLOY = Path(__file__).parents[2] / "deploy"
SOUND: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
# Their images say who they are: the Dockerfile here.
OURS = ("app-1", "app-2", "migrate", "journey")
# On a loopback port; and those that call what is elsewhere.
PUBLISHED = {"haproxy", "grafana"}
OUTWARD = {*PUBLISHED, "alertmanager"}
# What `secrets.sh` cannot make.
BY_HAND = {"pager_url", "ticket_url", "deadman_url", "probe_token"}
HAS_ITS_USER = {*OURS}


def hardening(file: dict[str, Any]) -> Iterator[str]:
    for name, service in file["services"].items():
        if not service.get("read_only"):
            yield f"{name}: its root can be written"
        if (
            service.get("cap_drop") != ["ALL"]
            or service.get("privileged")
            or service.get("cap_add")
        ):
            yield f"{name}: it has capabilities"
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{name}: it may gain privileges"
        if name not in HAS_ITS_USER and str(service.get("user", "0")).partition(":")[0] == "0":
            yield f"{name}: it is root"
        if missing := {"mem_limit", "cpus", "pids_limit", "logging"} - service.keys():
            yield f"{name}: no bound on {sorted(missing)}"


def reach(file: dict[str, Any]) -> Iterator[str]:
    for name, service in file["services"].items():
        for port in service.get("ports", []):
            if name not in PUBLISHED or not str(port).startswith("127.0.0.1:"):
                yield f"{name}: {port} is reached from outside"
        if service.get("network_mode") or (
            name not in OUTWARD and service.get("networks") != ["inside"]
        ):
            yield f"{name}: it is not inside"
    inside = file["networks"]["inside"]
    trusted = file["services"]["app-1"]["environment"].get("POSTFACTA_TRUSTED_PROXIES")
    if not inside.get("internal") or inside["ipam"]["config"][0]["subnet"] != trusted:
        yield "inside: only its own addresses are trusted, and none outside of it is reached"


def sources(service: dict[str, Any]) -> list[str]:
    return [one if isinstance(one, str) else one["source"] for one in service.get("secrets", [])]


def secrets(file: dict[str, Any]) -> Iterator[str]:
    made = (DEPLOY / "secrets.sh").read_text()
    for name, service in file["services"].items():
        for variable in service.get("environment", {}):
            if any(
                word in variable for word in ("PASSWORD", "TOKEN", "DSN", "KEY")
            ) and not variable.endswith("_FILE"):
                yield f"{name}: {variable} is no file"
        for secret in sources(service):
            if secret not in file["secrets"] or not (
                secret in BY_HAND or f"write {secret} " in made
            ):
                yield f"{name}: secret {secret} is not made"
    if "owner_dsn" in sources(file["services"]["app-1"]):
        yield "app-1: only the migration has the owner's address"


def settings(file: dict[str, Any]) -> Iterator[str]:
    for name in ("app-1", "app-2"):
        service = file["services"][name]
        given = {
            key: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value)
            for key, value in service["environment"].items()
            if key != "POSTFACTA_SECRETS_DIR"
        }
        read = load_settings({**given, "POSTFACTA_HOST": "0.0.0.0"})  # noqa: S104 - as in the image
        drain = (read.drain_delay if read.drain_delay is not None else 5) + graceful_timeout(read)
        if int(service["stop_grace_period"].rstrip("s")) < drain + 5:
            yield f"{name}: it is killed before its drain of {drain:g} s has ended"
        if service["depends_on"]["migrate"]["condition"] != "service_completed_successfully":
            yield f"{name}: it starts before the migration has ended"


def images(file: dict[str, Any]) -> Iterator[str]:
    for name, service in file["services"].items():
        tag = service["image"].rpartition(":")[2]
        if tag in {service["image"], "latest"} or not tag[0].isalnum():
            yield f"{name}: {service['image']} names no version"
    if len({file["services"][name]["image"] for name in OURS}) != 1:
        yield "the migration and the service are of different images"


RULES: tuple[Callable[[dict[str, Any]], Iterator[str]], ...] = (
    hardening,
    reach,
    secrets,
    settings,
    images,
)
APP = ("services", "app-1")
BROKEN: dict[Callable[[dict[str, Any]], Iterator[str]], list[tuple[tuple[str, ...], Any]]] = {
    hardening: [
        ((*APP, "read_only"), False),
        ((*APP, "cap_drop"), []),
        ((*APP, "cap_add"), ["NET_ADMIN"]),
        ((*APP, "security_opt"), []),
        (("services", "valkey", "user"), "0:0"),
        (("services", "postgres", "mem_limit"), None),
    ],
    reach: [
        (("services", "haproxy", "ports"), ["8080:8080"]),
        (("services", "postgres", "ports"), ["127.0.0.1:5432:5432"]),
        (("services", "prometheus", "ports"), ["127.0.0.1:9090:9090"]),
        (("services", "grafana", "ports"), ["3000:3000"]),
        (("services", "postgres", "networks"), ["inside", "outside"]),
        (("networks", "inside", "internal"), False),
        ((*APP, "environment", "POSTFACTA_TRUSTED_PROXIES"), "10.0.0.0/8"),
    ],
    secrets: [
        ((*APP, "environment", "POSTFACTA_METRICS_TOKEN"), "a-token"),
        ((*APP, "secrets"), ["owner_dsn"]),
        ((*APP, "secrets"), ["forgotten"]),
    ],
    settings: [
        ((*APP, "stop_grace_period"), "39s"),
        ((*APP, "environment", "POSTFACTA_DRAIN_TIMEOUT"), "60"),
        ((*APP, "depends_on", "migrate", "condition"), "service_started"),
    ],
    images: [
        ((*APP, "image"), "postfacta:0.0.9"),
        (("services", "journey", "image"), "postfacta:0.0.9"),
        (("services", "postgres", "image"), "postgres"),
        (("services", "postgres", "image"), "postgres:latest"),
    ],
}


def test_the_compose_file_keeps_every_rule() -> None:
    assert [fault for rule in RULES for fault in rule(SOUND)] == []


def test_each_rule_of_compose_finds_each_break() -> None:
    with every() as case:
        for rule in RULES:
            for (*way, last), value in BROKEN[rule]:
                with case(rule.__name__, *way, last):
                    file = deepcopy(SOUND)
                    at = file
                    for key in way:
                        at = at[key]
                    if value is None:
                        del at[last]
                    else:
                        at[last] = value
                    assert list(rule(file))


def test_the_proxy_asks_the_instances_of_the_compose_file() -> None:
    config = (DEPLOY / "haproxy/haproxy.cfg").read_text()
    assert all(f"{name}:8080" in config for name in OURS[:2])


def test_prometheus_beside_compose_judges_as_everywhere_and_asks_the_containers_that_there_are() -> (
    None
):
    beside, alone = (
        yaml.safe_load((DEPLOY / "prometheus" / f"{name}.yml").read_text())
        for name in ("compose", "prometheus")
    )
    assert (beside["global"], beside["rule_files"]) == (alone["global"], alone["rule_files"])
    jobs = {job["job_name"] for job in beside["scrape_configs"]}
    assert jobs <= {job["job_name"] for job in alone["scrape_configs"]}
    targets = re.findall(
        r"\"([a-z][a-z0-9-]*):\d+\"", (DEPLOY / "prometheus/compose.yml").read_text()
    )
    assert set(targets) == {"alertmanager", "app-1", "app-2", "journey"} <= SOUND["services"].keys()


@needs_promtool
def test_prometheus_reads_its_configuration_beside_compose(programs: None) -> None:
    words = ["promtool", "check", "config", "--syntax-only", str(DEPLOY / "prometheus/compose.yml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - a tool of ours
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_secrets_of_compose_are_made_once_and_for_their_owner_alone(
    programs: None, tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    run = ["sh", str(DEPLOY / "secrets.sh"), str(folder)]
    subprocess.run(run, check=True, timeout=30)  # noqa: S603 - our own script
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert made.keys() == SOUND["secrets"].keys() - BY_HAND
    assert made["metrics_token_of_prometheus"] == made["postfacta_metrics_token"]
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o400}
    assert folder.stat().st_mode & 0o777 == 0o700
    by_hand = {name: f"https://pages.example/{name}\n" for name in BY_HAND}
    for name, text in by_hand.items():
        (folder / name).write_text(text)
    subprocess.run(run, check=True, timeout=30)  # noqa: S603
    assert {file.name: file.read_text() for file in folder.iterdir()} == made | by_hand
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o400}
    assert made["service_password"].strip() in made["postfacta_database_dsn"]


def test_the_compose_file_matches_its_schema_and_a_broken_one_does_not(
    programs: None, tmp_path: Path
) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(
        (DEPLOY / "compose.yaml")
        .read_text()
        .replace("    restart: on-failure:3\n", "    restarts: 3\n")
    )
    for file, code in ((DEPLOY / "compose.yaml", 0), (broken, 1)):
        schema = ["--builtin-schema", "vendor.compose-spec", str(file)]
        done = subprocess.run(  # noqa: S603 - a tool of ours
            [sys.executable, "-m", "check_jsonschema", *schema],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
