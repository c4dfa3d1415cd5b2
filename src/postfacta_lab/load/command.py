"""The command `postfacta lab load`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from ..engine.variables import credentials, refuse_strangers
from ..verdict import Verdict
from .arrivals import Shape
from .gate import Limits
from .generator import Target
from .mix import read_mix
from .profiles import PROFILES, Plan, run_profile
from .report import Report

__all__ = ["command"]


@click.command("load", epilog="TOKEN is sent as a bearer token, TRAFFIC_KEY as X-Traffic-Key.")
@click.option("--url", required=True, help="Where the service is; this machine, or a host in LOAD_HOSTS.")
@click.option("--path", "paths", multiple=True, help="Of the service, asked for by GET; may be repeated.")
@click.option(
    "--mix", type=click.Path(path_type=Path), help="A file of requests instead: YAML, JSON or TOML."
)
@click.option("--profile", type=click.Choice(list(PROFILES)), default="expected", show_default=True)
@click.option(
    "--rate", type=float, default=50.0, show_default=True, help="The expected peak, in arrivals a second."
)
@click.option("--seconds", type=float, default=0.0, help="Length of each stage; 0 for the profile's.")
@click.option("--times", type=float, default=1.0, help="Multiplies the peak.")
@click.option("--failed", type=float, help="Largest share of failures; by default the profile's.")
@click.option(
    "--p95", type=float, default=0.2, show_default=True, help="Largest 95th percentile, in seconds."
)
@click.option(
    "--p99", type=float, default=0.5, show_default=True, help="Largest 99th percentile, in seconds."
)
@click.option("--min-count", type=int, default=100, show_default=True, help="Fewest requests for a verdict.")
@click.option(
    "--capacity", type=float, default=0.0, help="Good answers a second, as `breakpoint` found them."
)
@click.option("--against", help="The other service of the profile `ab`.")
@click.option("--pid", type=int, default=0, help="The service's process, whose resources `soak` looks at.")
@click.option("--arrivals", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of arrivals and mix.")
@click.option(
    "--cap",
    type=int,
    default=500,
    show_default=True,
    help="Requests in flight; more are dropped and counted.",
)
@click.option("--warm-up", type=float, default=0.0, help="Seconds of the first stage that are not judged.")
@click.option(
    "--patience", type=float, default=20.0, show_default=True, help="Seconds after which a client hangs up."
)
@click.option(
    "--report", "folder", type=click.Path(path_type=Path), default=Path("build/load"), show_default=True
)
def command(
    *,
    url: str,
    paths: tuple[str, ...],
    mix: Path | None,
    profile: str,
    failed: float | None,
    p95: float,
    p99: float,
    min_count: int,
    against: str | None,
    arrivals: Shape,
    folder: Path,
    **numbers: Any,
) -> Verdict:
    """Load a running service in open loop, and judge how its users fared.

    The moments of all arrivals are decided before they come, and a latency counts from the moment its request was
    meant to begin. It writes load.json, report.html and junit.xml.
    """
    chosen = PROFILES[profile]
    numbers["rate"] = chosen.rate or numbers["rate"]
    try:
        for one in (url, *([against] if against else [])):
            refuse_strangers(one)
        plan = Plan(
            target=Target(url, credentials()),
            against=Target(against, credentials()) if against else None,
            asks=read_mix(paths, mix),
            limits=Limits(
                failed=chosen.failed if failed is None else failed, p95=p95, p99=p99, count=min_count
            ),
            shape=arrivals,
            **numbers,
        )
        parts = asyncio.run(run_profile(chosen, plan))
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    about = {
        "url": url,
        "profile": profile,
        "mix": str(mix or " ".join(paths)),
        "arrivals": arrivals,
        **numbers,
    }
    report = Report(parts, plan.limits, {name: str(value) for name, value in about.items()})
    report.write(folder)
    click.echo(report.as_text())
    return report.verdict
