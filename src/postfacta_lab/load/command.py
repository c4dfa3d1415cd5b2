"""The command `postfacta lab load`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..engine.variables import credentials, refuse_strangers
from ..verdict import FEWEST, Verdict
from .gate import Limits
from .generator import Target
from .mix import read_mix
from .profiles import PROFILES, Plan, run_profile
from .report import Report

__all__ = ["command"]

_NUMBERS: Mapping[str, tuple[float, str]] = {
    "rate": (50.0, "The expected peak, in arrivals a second."),
    "times": (1.0, "Multiplies the peak."),
    "seconds": (0.0, "Length of each stage; 0 for the profile's."),
    "warm-up": (0.0, "Seconds of the first stage that are not judged."),
    "p95": (0.2, "Largest 95th percentile, in seconds."),
    "p99": (0.5, "Largest 99th percentile, in seconds."),
    "min-count": (FEWEST, "Fewest requests for a verdict."),
    "capacity": (0.0, "Good answers a second, as `breakpoint` found them."),
    "cap": (500, "Requests in flight; more are dropped and counted."),
    "patience": (20.0, "Seconds after which a client hangs up."),
    "seed": (1, "Of arrivals and mix."),
    "pid": (0, "The service's process, whose resources `soak` looks at."),
}
_FILE = click.Path(path_type=Path)


@click.command(
    "load",
    epilog="TOKEN is sent as a bearer token, TRAFFIC_KEY as X-Traffic-Key.",
    params=[
        click.Option([f"--{name}"], default=default, show_default=True, help=about)
        for name, (default, about) in _NUMBERS.items()
    ],
)
@click.option("--url", required=True, help="Where the service is; this machine, or a host in LOAD_HOSTS.")
@click.option("--path", "paths", multiple=True, help="Of the service, asked for by GET; may be repeated.")
@click.option("--mix", type=_FILE, help="A file of requests instead: YAML or JSON.")
@click.option("--profile", type=click.Choice(list(PROFILES)), default="expected", show_default=True)
@click.option("--failed", type=float, help="Largest share of failures; by default the profile's.")
@click.option("--against", help="The other service of the profile `ab`.")
@click.option(
    "--arrivals", "shape", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True
)
@click.option("--report", "folder", type=_FILE, default=Path("build/load"), show_default=True)
def command(
    *,
    url: str,
    paths: tuple[str, ...],
    mix: Path | None,
    profile: str,
    against: str | None,
    folder: Path,
    **numbers: Any,
) -> Verdict:
    """Load a running service in open loop, and judge how its users fared.

    The moments of all arrivals are decided before they come, and a latency counts from the moment its request was
    meant to begin. It writes load.json, report.html and junit.xml.
    """
    chosen = PROFILES[profile]
    if numbers["failed"] is None:
        numbers["failed"] = chosen.failed
    shares = {name: numbers.pop(name) for name in ("failed", "p95", "p99")}
    limits = Limits(count=numbers.pop("min_count"), **shares)
    numbers["rate"] = (chosen.rate or numbers["rate"]) * numbers.pop("times")
    numbers["seconds"] = numbers["seconds"] or chosen.seconds
    try:
        for one in filter(None, (url, against)):
            refuse_strangers(one)
        plan = Plan(
            target=Target(url, credentials()),
            against=Target(against, credentials()) if against else None,
            asks=read_mix(paths, mix),
            limits=limits,
            **numbers,
        )
        parts = asyncio.run(run_profile(chosen, plan))
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    about = {"url": url, "profile": profile, "mix": mix or " ".join(paths), **numbers}
    report = Report(parts, limits, {name: str(value) for name, value in about.items()})
    report.write(folder)
    click.echo(report.as_text())
    return report.verdict
