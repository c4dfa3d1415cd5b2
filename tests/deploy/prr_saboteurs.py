"""What breaks the subject of each row of the readiness review.

A text that takes the place of another in a file.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SABOTEURS", "Saboteur"]

_CORE = "src/postfacta_core"
_APP = "src/postfacta_app"
_RULES = "deploy/prometheus/rules"
_DRILL = "# A drill\n\nMeasured on 2026-11-28.\n\n| what | held |\n|---|---|\n| all | **no** |\n"
# Made at each run, as gitleaks looks through this repository too.
_KEY = f'AWS_KEY = "AKIA{"".join(random.Random(16).choices(string.ascii_uppercase + "234567", k=16))}"\n'  # noqa: S311 - of no use


@dataclass(frozen=True, slots=True)
class Saboteur:
    """Breaks one file; without `old`, the file is new."""

    file: str
    old: str
    new: str

    def strike(self, root: Path) -> None:
        """Break the file below a root.

        Raises:
            LookupError: What it breaks is not there.
        """
        path = root / self.file
        if not self.old:
            path.write_text(self.new)
            return
        text = path.read_text()
        if self.old not in text:
            raise LookupError(f"{self.file} has no {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


SABOTEURS = {
    "R01": Saboteur("docs/reference/settings.md", "`POSTFACTA_DRAIN_DELAY`", "`POSTFACTA_DELAY`"),
    "R02": Saboteur(
        "docs/reference/chaos-catalogue.md", "tests/app/test_cors.py", "tests/app/test_none.py"
    ),
    "R03": Saboteur("deploy/oncall.yaml", "role: engineering-manager", "rotation: primary"),
    "R04": Saboteur("deploy/slo/postfacta.openslo.yaml", "0.995", "0.996"),
    "R05": Saboteur(f"{_RULES}/infra.yml", "expr: ", "expr: (("),
    "R06": Saboteur(f"{_RULES}/postfacta.yml", "[15m]) > 3", "[15m]) > 300"),
    "R07": Saboteur(
        "src/postfacta_slo/proofs/burn_tests.py",
        "        tests.append(_smoulder(scenario, place))\n"
        "        tests.append(_blip(scenario, tier))\n"
        "        tests += _few(scenario, tier)\n",
        "        tests.append(_blip(scenario, tier))\n",
    ),
    "R08": Saboteur(f"{_RULES}/postfacta.yml", "component: journey", "part: journey"),
    "R09": Saboteur(
        "deploy/alertmanager/alertmanager.yml", 'severity="page"\']', 'severity="pages"\']'
    ),
    "R10": Saboteur("deploy/bin/deadman.py", "do_POST", "do_PUT"),
    "R11": Saboteur(f"{_RULES}/selfmon.yml", "expr: vector(1)", "expr: vector(1) > 1"),
    "R12": Saboteur("docs/runbooks/PostfactaDown.md", "## Verification", "## Check"),
    "R13": Saboteur("docs/reference/gameday.md", "Verdict: **pass**", "Verdict: **fail**"),
    "R14": Saboteur("deploy/slo/policy.yaml", "review_by: 2027-05-26", "review_by: 2026-05-26"),
    "R15": Saboteur(
        f"{_CORE}/telemetry/exchange.py",
        'UNMATCHED: Final = "_unmatched"',
        'UNMATCHED: Final = "/"',
    ),
    "R16": Saboteur(
        f"{_CORE}/asgi/_route.py",
        "return None if mounts is None else mounts + template",
        "return template",
    ),
    "R17": Saboteur(
        f"{_CORE}/telemetry/metrics.py",
        "        if exchange.error is not None:\n            self._count",
        "        if exchange.error is None:\n            self._count",
    ),
    "R18": Saboteur(
        f"{_CORE}/telemetry/families.py", "return len(self) >= self.cap", "return False"
    ),
    "R19": Saboteur(f"{_CORE}/telemetry/catalogue.py", "    0.2,\n", ""),
    "R20": Saboteur(f"{_CORE}/telemetry/metrics.py", "int(request.trace_flags, 16) & 1:", "False:"),
    "R21": Saboteur(
        f"{_APP}/reliability/about.py",
        "self._counts[metric][labels].observe(1)",
        "self._counts[metric][labels].observe(0)",
    ),
    "R22": Saboteur(
        f"{_CORE}/telemetry/tracing.py", 'f"{name} {exchange.route}" if is_routed else name', "name"
    ),
    "R23": Saboteur(f"{_CORE}/telemetry/redaction.py", '"exception.stacktrace"', '"stack"'),
    "R24": Saboteur("deploy/logs/rsyslog.conf", 'action(type="mmjsonparse" cookie="")', ""),
    "R25": Saboteur(
        f"{_CORE}/asgi/_kernel.py",
        "            CURRENT.reset(token)\n",
        "            pass\n",
    ),
    "R26": Saboteur(
        f"{_CORE}/telemetry/redaction.py", r'(re.compile(r"\bpf_[A-Za-z0-9_-]{8,}"), REDACTED),', ""
    ),
    "R27": Saboteur(
        "deploy/grafana/queries.py", '_WINDOW: Final = "$__rate_interval"', '_WINDOW: Final = "5m"'
    ),
    "R28": Saboteur(
        "deploy/bin/journey_probe.py", "return 0 if outcome.is_success else 1", "return 0"
    ),
    "R29": Saboteur(
        f"{_CORE}/backoff.py",
        "from __future__ import annotations\n",
        "from __future__ import annotations\nimport os\n",
    ),
    "R30": Saboteur(f"{_APP}/openapi.py", '"openapi": "3.1.0"', '"openapi": "3.2.0"'),
    "R31": Saboteur(
        "src/postfacta_lab/load/generator.py",
        "return tuple(at / rate for at in takewhile(",
        "return tuple(at for at in takewhile(",
    ),
    "R32": Saboteur("docs/capacity.md", "197 ms | held |", "197 ms | did not hold |"),
    "R33": Saboteur("docs/capacity.md", "92 ms | held |", "92 ms | did not hold |"),
    "R36": Saboteur(
        "src/postfacta_lab/capacity/command.py", "_FEWEST_POINTS = 6", "_FEWEST_POINTS = 2"
    ),
    "R37": Saboteur(
        f"{_CORE}/deadlines/_limits.py", "return max(0.0, self.at - self.clock())", "return 1.0"
    ),
    "R38": Saboteur(
        f"{_CORE}/guards/budget.py", "allowed = tokens >= 1.0", "allowed = tokens >= 0.0"
    ),
    "R39": Saboteur(
        f"{_CORE}/limits/_rates.py",
        "if after > now + self._span:",
        "if False:",
    ),
    "R40": Saboteur(
        f"{_CORE}/guards/_circuit.py",
        "if self.state is _OPEN and now >= self._until:",
        "if self.state is _OPEN:",
    ),
    "R41": Saboteur(
        f"{_CORE}/limits/_overload.py",
        "if self.in_flight < self._rooms[priority]:",
        "if self.in_flight < self._rooms[0]:",
    ),
    "R42": Saboteur(f"{_CORE}/health/_verdict.py", "(self.rise if self.up is False else 1)", "1e9"),
    "R43": Saboteur(
        f"{_CORE}/guards/_slots.py", "if self.used >= self.size:", "if self.used > self.size:"
    ),
    "R44": Saboteur("docs/reference/durability.md", "| lost | 0 |", "| lost | 1 |"),
    "R45": Saboteur(
        "docs/reference/drain.md",
        "| uvicorn-2 | 0 / 10874 | 9 | reached |",
        "| uvicorn-2 | 9 / 10874 | 9 | **missed** |",
    ),
    "R46": Saboteur(
        f"{_CORE}/health/_verdict.py", "if self._failures >= self.fall:", "if self._failures >= 1:"
    ),
    "R47": Saboteur("docs/reference/failover.md", "", _DRILL),
    "R48": Saboteur(
        "deploy/k8s/base/deployment.yaml",
        "terminationGracePeriodSeconds: 45",
        "terminationGracePeriodSeconds: 30",
    ),
    "R49": Saboteur("deploy/haproxy/haproxy.cfg", "  timeout http-request 10s\n", ""),
    "R50": Saboteur("deploy/Dockerfile", "USER 10001:10001", "USER root"),
    "R51": Saboteur(
        f"{_APP}/migrations/versions/0004_incident_labels.sql",
        "create index if not exists incident_labels_label",
        "alter table users drop column name\n\ncreate index if not exists incident_labels_label",
    ),
    "R52": Saboteur("docs/reference/migrations.md", "", _DRILL),
    "R53": Saboteur("docs/reference/rollback.md", "", _DRILL),
    "R54": Saboteur("docs/reference/canary.md", "", _DRILL),
    "R55": Saboteur("docs/reference/rollback.md", "", _DRILL),
    "R56": Saboteur(f"{_APP}/smoke.py", "_need(not lacking, ", "_need(True, "),
    "R57": Saboteur("src/postfacta_web/switches.py", "return self.states[name].on", "return True"),
    "R58": Saboteur("docs/reference/restore.md", "", _DRILL),
    "R59": Saboteur(
        f"{_APP}/migrations/__init__.py", "then v.verb in ('select', 'insert')", "then true"
    ),
    "R60": Saboteur(
        f"{_APP}/principal.py",
        "Role.RESPONDER: set(Access) - {Access.ADMIN}",
        "Role.RESPONDER: set(Access)",
    ),
    "R61": Saboteur(
        f"{_APP}/identity/model.py",
        'return "expired" if is_idle or now >= self.expires_at else "ok"',
        'return "ok"',
    ),
    "R62": Saboteur(f"{_CORE}/asgi/_cors.py", '"*" in self.allow_origins or', "True or"),
    "R63": Saboteur(
        f"{_CORE}/asgi/_exchange.py", "if received > self.rules.limits.max_body_bytes:", "if False:"
    ),
    "R64": Saboteur("docs/reference/rotation.md", "requests, 0 failed.", "requests, 3 failed."),
    "R65": Saboteur("deploy/key.py", "", _KEY),
    "R66": Saboteur("requirements/image.txt", "anyio==4.16.0", "anyio==4.15.0"),
    "R67": Saboteur("deploy/supply/policy.toml", '"MIT", ', ""),
    "R68": Saboteur(
        "deploy/supply/advisories.py",
        "    lines = ",
        '    return [Advisory(name, version, frozenset({"CVE-2026-0001"})) for name, version in packages.items()]\n    lines = ',
    ),
    "R69": Saboteur(
        ".github/workflows/ci.yml",
        "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1",
        "actions/checkout@v7",
    ),
    "R70": Saboteur(
        f"{_APP}/reliability/codebase.json", '"version": "0.1.0"', '"version": "0.0.9"'
    ),
    "R71": Saboteur(
        "src/postfacta_adapters/otlp.py",
        "if self._pending >= self._queued",
        "if False",
    ),
    "R72": Saboteur("deploy/prr/targets.py", "figure.n < least", "figure.n < 0"),
    "R75": Saboteur("docs/reference/durability.md", "| **pass** | 1295 |", "| **fail** | 1295 |"),
    "R76": Saboteur("docs/reference/shared-limits.md", "", _DRILL),
}
"""By the row that each must make fail."""
