"""Cause faults on purpose, and judge what users and data went through.

    python -m chaos                     all of it: the durability check with 100 faults, and every
    experiment python -m chaos C03 C04             these experiments python -m chaos durability
    --faults 20 --seed 7 python -m chaos --quick             a short form of all, as CI runs it

Any other service: `postfacta lab chaos`.

Writes `result.json` and `report.html`. Exit codes: 0 all held, 1 something did not, 2 undecided, 3
nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chaos.catalogue import find
from chaos.durability import Durability, Options, check_durability
from chaos.report import as_html
from chaos.stack import prepare
from chaos.tables import replace_tables
from postfacta_lab.chaos.command import VERDICTS, Experiment, run
from postfacta_lab.engine.page import machine
from postfacta_lab.verdict import Verdict, overall

__all__ = ["QUICK", "main"]

QUICK = {"CHAOS_WINDOW": "2", "CHAOS_FREEZE": "6", "CHAOS_RATE": "30", "CHAOS_DRAIN_DELAY": "3"}
"""What makes the experiments short."""

_DURABILITY = "durability"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = _parse(argv)
    names = [name for word in options.only for name in word.split(",") if name]
    try:
        paths = (
            find([name for name in names if name != _DURABILITY])
            if set(names) != {_DURABILITY}
            else []
        )
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201 - its job
        return int(Verdict.INVALID)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="postfacta-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        template = prepare(folder / "template")
        durability = (
            _durability(options, folder, template) if not names or _DURABILITY in names else None
        )
        settings = {"CHAOS_TEMPLATE": str(template), **(QUICK if options.quick else {})}
        experiments = [_experiment(path, options.out, settings) for path in paths]
    if options.markdown:
        replace_tables(options.markdown, durability, experiments)
    return _conclude(options.out, durability, experiments)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "only",
        nargs="*",
        help="ids of experiments, files of your own, or `durability`; all without any",
    )
    parser.add_argument("--quick", action="store_true", help="short windows, few faults")
    parser.add_argument("--faults", type=int, help="of the durability check (100; 6 with --quick)")
    parser.add_argument("--writers", type=int, default=8, help="its clients (%(default)s)")
    parser.add_argument(
        "--minimum", type=int, help="acknowledged writes that a verdict needs (50 a fault)"
    )
    parser.add_argument(
        "--seed", type=int, help="of its choices; printed, so that a run can be had again"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/chaos"), help="folder of the report (%(default)s)"
    )
    parser.add_argument("--markdown", type=Path, help="a page whose tables are replaced")
    return parser.parse_args(argv)


def _durability(options: argparse.Namespace, folder: Path, template: Path) -> Durability:
    faults = options.faults or (6 if options.quick else 100)
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    minimum = options.minimum if options.minimum is not None else 50 * faults
    chosen = Options(faults=faults, writers=options.writers, seed=seed, minimum=minimum)
    _say(f"durability: {faults} faults, seed {seed}")
    found = check_durability(folder, chosen, template=template)
    findings = found.findings
    wrong = ", ".join(f"{name} {len(texts)}" for name, texts in findings.wrong.items())
    _say(
        f"durability: {found.verdict}; {findings.acknowledged} acknowledged, {wrong};"
        f" {found.seconds:.0f} s"
    )
    told = found.statements.findings
    wrong = ", ".join(f"{name} {len(texts)}" for name, texts in told.wrong.items())
    _say(
        f"single statements: {told.verdict}; {told.acknowledged} acknowledged, {told.unknown}"
        f" unknown, {wrong}"
    )
    for problem in found.problems:
        _say(f"  {problem}")
    return found


def _experiment(path: Path, out: Path, settings: dict[str, str]) -> Experiment:
    _say(f"{path.stem}: running")
    done = run(path, out, settings=settings)
    _say(done.as_text())
    return done


def _conclude(out: Path, durability: Durability | None, experiments: Sequence[Experiment]) -> int:
    codes = {name: code for code, name in VERDICTS.items()} | {"fail": Verdict.FAIL}
    verdicts = [it.verdict for it in experiments] + ([durability.verdict] if durability else [])
    code = overall(codes[it] for it in verdicts)
    verdict = "fail" if code is Verdict.FAIL else VERDICTS[code]
    result = {
        "verdict": verdict,
        "exit_code": int(code),
        "machine": machine(),
        "durability": durability.as_json() if durability else None,
        "experiments": [it.as_json() for it in experiments],
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "report.html").write_text(as_html(verdict, durability, experiments))
    _say(f"{verdict}; report: {out / 'report.html'}")
    return int(code)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its job


if __name__ == "__main__":
    sys.exit(main())
