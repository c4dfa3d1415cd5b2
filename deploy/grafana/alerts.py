"""Write the alerts of a service on `postfacta_core`: PostFacta's own, without those on its business.

The expressions, thresholds and texts stand once, in `deploy/prometheus/rules/postfacta.yml`, where
promtool proves that each fires and stays silent. An alert is taken if a service of another name has
all series that it asks for; what says that it is down, and burns its budget, is `postfacta slo`'s.
"""

from __future__ import annotations

# YAML is written without types.
# pyright: reportUnknownMemberType=false
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from postfacta_core.telemetry.catalogue import INSTRUMENTS, POLICY_METRICS, RUNTIME_METRICS
from postfacta_slo.promise.model import Service

__all__ = ["alerts_of", "renamed"]

_SOURCE: Final = Path(__file__).parents[1] / "prometheus/rules/postfacta.yml"
_SERIES: Final = re.compile(r"([a-z_]+)\{([^}]*)\}")
_SUFFIX: Final = re.compile(r"_(bucket|count|sum)$")
_ANY: Final = re.compile(r"up|process_[a-z_]+")
_CATALOGUE: Final = {*INSTRUMENTS, *POLICY_METRICS, *RUNTIME_METRICS}
_OWN_CHECKS: Final = ('check="schema"', 'check="durability"')


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as it stands."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def alerts_of(service: Service) -> str:
    """Return the alerts of a service in YAML, for Prometheus.

    Args:
        service: `runbook_url` is where a runbook is, with `{alert}` for its alert; without it none
            is named, and the same for `dashboard_url`.
    """
    groups: list[dict[str, Any]] = []
    for group in yaml.safe_load(_SOURCE.read_text(encoding="utf-8"))["groups"]:
        rules = [_rule(rule, service) for rule in group["rules"] if _is_of_any(rule["expr"])]
        groups.append({"name": renamed(group["name"], service), "rules": rules})
    content = {"groups": groups}
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
    return f"# By deploy/grafana/generate.py; a change here would be lost.\n{text}"


def _is_of_any(expr: str) -> bool:
    """Whether any service has all the series of an expression."""
    for name, labels in _SERIES.findall(expr):
        is_known = name in _CATALOGUE or _SUFFIX.sub("", name) in _CATALOGUE
        if not (is_known or _ANY.fullmatch(name)) or any(own in labels for own in _OWN_CHECKS):
            return False
    return True


def _rule(rule: Mapping[str, Any], service: Service) -> dict[str, Any]:
    alert = renamed(rule["alert"], service)
    texts = {
        name: renamed(rule["annotations"][name], service) for name in ("summary", "description")
    }
    for page in ("runbook_url", "dashboard_url"):
        if address := getattr(service, page):
            texts[page] = address.replace("{alert}", alert)
    labels = {name: renamed(value, service) for name, value in rule["labels"].items()}
    expr = renamed(rule["expr"], service)
    return {**rule, "alert": alert, "expr": expr, "labels": labels, "annotations": texts}


def renamed(text: str, service: Service) -> str:
    """Return a text of PostFacta's alerts as that of a service."""
    named = {"PostFacta": service.name, "postfacta": service.name}
    text = re.sub(r'job="postfacta"', lambda _: f'job="{service.job}"', text)
    text = re.sub(r"\bPostfacta(?=[A-Z])", lambda _: service.alert_prefix, text)
    return re.sub(
        r'\bPostFacta\b|^postfacta(?=\.|$)|(?<=service=")postfacta(?=")',
        lambda match: named[match[0]],
        text,
    )
