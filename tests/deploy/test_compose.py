"""The compose file keeps its rules, and each rule finds what breaks it."""

from __future__ import annotations

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

DEPLOY = Path(__file__).parents[2] / "deploy"
SOUND: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
# Their images say who they are: the Dockerfile here.
OURS = ("app-1", "app-2", "migrate")
HAS_ITS_USER = {*OURS}


def hardening(file: dict[str, Any]) -> Iterator[str]:
    for name, service in file["services"].items():
        if not service.get("read_only"):
            yield f"{name}: its root can be written"
        if service.get("cap_drop") != ["ALL"] or service.get("privileged") or service.get("cap_add"):
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
            if name != "haproxy" or not str(port).startswith("127.0.0.1:"):
                yield f"{name}: {port} is reached from outside"
        if service.get("network_mode") or (name != "haproxy" and service.get("networks") != ["inside"]):
            yield f"{name}: it is not inside"
    inside = file["networks"]["inside"]
    trusted = file["services"]["app-1"]["environment"].get("POSTFACTA_TRUSTED_PROXIES")
    if not inside.get("internal") or inside["ipam"]["config"][0]["subnet"] != trusted:
        yield "inside: only its own addresses are trusted, and none outside of it is reached"


def secrets(file: dict[str, Any]) -> Iterator[str]:
    made = (DEPLOY / "secrets.sh").read_text()
    for name, service in file["services"].items():
        for variable in service.get("environment", {}):
            if any(
                word in variable for word in ("PASSWORD", "TOKEN", "DSN", "KEY")
            ) and not variable.endswith("_FILE"):
                yield f"{name}: {variable} is no file"
        for secret in service.get("secrets", []):
            if secret not in file["secrets"] or f"write {secret} " not in made:
                yield f"{name}: secret {secret} is not made"
    if "owner_dsn" in file["services"]["app-1"]["secrets"]:
        yield "app-1: only the migration has the owner's address"


def settings(file: dict[str, Any]) -> Iterator[str]:
    for name in ("app-1", "app-2"):
        service = file["services"][name]
        given = {
            key: value for key, value in service["environment"].items() if key != "POSTFACTA_SECRETS_DIR"
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


RULES: tuple[Callable[[dict[str, Any]], Iterator[str]], ...] = (hardening, reach, secrets, settings, images)
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


def test_the_secrets_of_compose_are_made_once_and_for_their_owner_alone(
    programs: None, tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    run = ["sh", str(DEPLOY / "secrets.sh"), str(folder)]
    subprocess.run(run, check=True, timeout=30)  # noqa: S603 - our own script
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert made.keys() == SOUND["secrets"].keys()
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o400}
    assert folder.stat().st_mode & 0o777 == 0o700
    subprocess.run(run, check=True, timeout=30)  # noqa: S603
    assert {file.name: file.read_text() for file in folder.iterdir()} == made
    assert made["service_password"].strip() in made["postfacta_database_dsn"]


def test_the_compose_file_matches_its_schema_and_a_broken_one_does_not(
    programs: None, tmp_path: Path
) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(
        (DEPLOY / "compose.yaml").read_text().replace("    restart: on-failure:3\n", "    restarts: 3\n")
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
