"""Starts a real Prometheus on the configuration that is deployed, with other targets and at another pace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, cast

import httpx2
import yaml

from chaos.durations import compress_rules, divide

# Each program here starts and ends in the same way.
from postfacta_lab.engine.processes import Child, free_port, wait_until

__all__ = ["CONFIG", "RULES", "Prometheus", "Sample", "compressed", "make_history"]

CONFIG = Path(__file__).parent.parent / "deploy/prometheus/prometheus.yml"
"""What is deployed."""

RULES = Path(__file__).parent.parent / "deploy/prometheus/rules"
"""Where the rules are."""

Sample = tuple[Mapping[str, str], Sequence[tuple[float, str]]]
"""Labels, the name among them as `__name__`, and values with their moments in seconds since 1970."""

_START = 30.0
_LOOKBACK, _RESEND = "5m", "1m"  # Prometheus' own defaults, which must shrink with the rest
_KEPT = (
    "job_name",
    "metrics_path",
    "honor_labels",
    "relabel_configs",
    "metric_relabel_configs",
    "params",
)
_PACE = ("scrape_interval", "scrape_timeout", "evaluation_interval")


def compressed(rules: Path, folder: Path, by: float) -> Path:
    """Write a file of rules again, with every length of time divided; return where."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / rules.name
    document = compress_rules(yaml.safe_load(rules.read_text()), by)
    target.write_text(json.dumps(document, indent=1))  # JSON is YAML
    return target


class Prometheus(Child):
    """One Prometheus; a context manager, running inside the block.

    Args:
        folder: Where its configuration, data and log are written.
        targets: Host and port of what is scraped, by the names of jobs in the configuration.
        rules: Files of rules, at their pace already.
        alertmanagers: Host and port of each.
        by: How much shorter all waits of the configuration are.
        config: What it is configured by.

    Attributes:
        targets: May be changed; `reload` then makes it so.
        rules: So may these.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, Sequence[str]],
        *,
        rules: Sequence[Path] = (),
        alertmanagers: Sequence[str] = (),
        by: float = 1.0,
        config: Path = CONFIG,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.targets = dict(targets)
        self.config = folder / "prometheus.yml"
        self.data = folder / "prometheus-data"
        self._base = config
        self._by = by
        self.rules = list(rules)
        self._alertmanagers = list(alertmanagers)
        folder.mkdir(parents=True, exist_ok=True)
        self.reconfigure()
        super().__init__(
            "prometheus",
            [
                self.program() or "prometheus",
                f"--config.file={self.config}",
                f"--storage.tsdb.path={self.data}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                f"--query.lookback-delta={divide(_LOOKBACK, by)}",
                f"--rules.alert.resend-delay={divide(_RESEND, by)}",
                "--log.level=warn",
            ],
            log=folder / "prometheus.log",
            environment=os.environ,
        )

    @staticmethod
    def program(name: str = "prometheus") -> str | None:
        """Find it, or its `promtool`; None if this system has none."""
        return shutil.which(name)

    def reconfigure(self) -> None:
        """Write the configuration, with what the targets are now.

        A start reads it, and `reload` too.

        Raises:
            ValueError: A target belongs to no job that is deployed.
        """
        config = cast("dict[str, Any]", yaml.safe_load(self._base.read_text()))
        known = {job["job_name"]: job for job in config.get("scrape_configs", ())}
        if strangers := [name for name in self.targets if name not in known]:
            raise ValueError(
                f"{self._base.name} has no job {strangers[0]!r}: it has {', '.join(known)}"
            )
        jobs = [_localized(known[name], where, self._by) for name, where in self.targets.items()]
        local = {
            "global": _at_pace({**_DEFAULTS, **config.get("global", {})}, self._by),
            "rule_files": [str(path) for path in self.rules],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": self._alertmanagers}]}]},
            "scrape_configs": jobs,
        }
        self.config.write_text(json.dumps(local, indent=1))

    def reload(self) -> None:
        """Make it read the configuration again, with what the targets are now."""
        self.reconfigure()
        os.kill(self.pid, signal.SIGHUP)

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            return httpx2.get(f"{self.url}/-/ready", timeout=2.0).status_code == 200
        except httpx2.TransportError:
            return False

    def wait_ready(self, within: float = _START) -> float:
        """Wait until it answers queries; return the seconds that took.

        Raises:
            TimeoutError: It did not get there; the end of its log is shown.
        """
        try:
            return wait_until(self.is_ready, "prometheus is ready", within=within, every=0.05)
        except TimeoutError as error:
            last = self.log.read_text(errors="replace")[-1500:]
            raise TimeoutError(f"{error}; its last words:\n{last}") from None

    def alerts(self) -> Sequence[Mapping[str, Any]]:
        """List the alerts that are pending or firing, with `labels`, `annotations` and `state`."""
        return cast("list[dict[str, Any]]", self._ask("/api/v1/alerts")["alerts"])

    def query(self, expression: str) -> Sequence[Sample]:
        """Evaluate an expression now; of a range vector, the samples themselves are given."""
        found = self._ask("/api/v1/query", query=expression)["result"]
        return [(one["metric"], one.get("values") or [one["value"]]) for one in found]

    def troubles(self) -> Sequence[str]:
        """Return the rules that failed at their last evaluation, with the reasons."""
        groups = self._ask("/api/v1/rules")["groups"]
        return [
            f"{rule['name']}: {rule['lastError']}"
            for group in groups
            for rule in group["rules"]
            if rule.get("lastError")
        ]

    def _ask(self, path: str, **parameters: str) -> Any:
        answer = httpx2.get(f"{self.url}{path}", params=parameters, timeout=10.0)
        body = answer.json()
        if body.get("status") != "success":
            raise ValueError(f"prometheus refused {parameters or path}: {body.get('error')}")
        return body["data"]

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


_DEFAULTS = {"scrape_interval": "1m", "scrape_timeout": "10s", "evaluation_interval": "1m"}


def _at_pace(settings: Mapping[str, Any], by: float) -> dict[str, Any]:
    paced = {
        key: divide(str(value), by) if key in _PACE else value for key, value in settings.items()
    }
    # A scrape takes as long as ever, so it gets all the time there is.
    if by > 1 and "scrape_timeout" in paced and "scrape_interval" in paced:
        paced["scrape_timeout"] = paced["scrape_interval"]
    return paced


def _localized(job: Mapping[str, Any], where: Sequence[str], by: float) -> dict[str, Any]:
    """Keep what names and shapes the series.

    How a target is found, and what proves who asks, is ours.
    """
    kept = {key: job[key] for key in (*_KEPT, *_PACE) if key in job}
    return {**_at_pace(kept, by), "static_configs": [{"targets": list(where)}]}


def make_history(
    data: Path, samples: Sequence[Sample], *, length: float, folder: Path, spacing: float = 1.0
) -> int:
    """Write a past for a Prometheus that does not run yet, in which each series had the last of these values.

    A window of an hour over a minute of data is a window of a minute. A service that has been well
    for days is what alerts are made for, and this is such a past: at the same spacing as the
    samples.

    Args:
        data: The folder of its data.
        samples: What was seen, at least three values of each series.
        length: How many seconds the past is long; it ends now.
        folder: Where a file may be left.
        spacing: Multiplies the time between two samples.

    Returns:
        The number of series.

    Raises:
        RuntimeError: promtool refused it.
    """
    now = time.time()  # noqa: TID251 - what Prometheus stores stands at moments of the wall's clock
    source = folder / "history.txt"
    by_name: dict[str, list[str]] = {}
    for labels, values in samples:
        by_name.setdefault(labels["__name__"], []).extend(
            _past(labels, values, (now - length, now), spacing)
        )
    source.write_text("\n".join(line for lines in by_name.values() for line in lines) + "\n# EOF\n")
    command = [
        Prometheus.program("promtool") or "promtool",
        "tsdb",
        "create-blocks-from",
        "openmetrics",
    ]
    done = subprocess.run(  # noqa: S603 - an argument list, no shell
        [*command, "--quiet", str(source), str(data)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"promtool: {(done.stderr or done.stdout).strip()[-500:]}")
    return len(samples)


def _past(
    labels: Mapping[str, str],
    values: Sequence[tuple[float, str]],
    between: tuple[float, float],
    spacing: float,
) -> list[str]:
    name = labels["__name__"]
    inner = ",".join(
        f'{key}="{_escaped(text)}"' for key, text in labels.items() if key != "__name__"
    )
    gaps = sorted(later[0] - earlier[0] for earlier, later in pairwise(values))
    step = spacing * gaps[len(gaps) // 2]
    first, last = between
    moments = (first + number * step for number in range(int((last - first) / step)))
    return [f"{name}{{{inner}}} {values[-1][1]} {moment:.3f}" for moment in moments]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
