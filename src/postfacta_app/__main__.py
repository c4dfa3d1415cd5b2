"""The command `postfacta`, also as `python -m postfacta_app`.

It imports a subcommand when that is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from postfacta_core import __version__
from postfacta_core.installation import install_command

from . import COMMANDS

# Of other packages: the module, the extra that it needs, and what it does.
_COMMANDS: Final = {
    "slo": ("postfacta_slo.__main__", "slo", "objectives as code: generate, check, report, budget"),
    "lab": ("postfacta_lab.__main__", "lab", "load, drain and break any service"),
    "assess": ("postfacta_lab.assess.cli", "lab", "grade any service by what it does under faults"),
}
_START: Final = """\
[app], [slo] and [lab] name the extra that a command needs: {}

to try it:
  postfacta demo        PostgreSQL, sample incidents and the service, on this machine

to run it in production:
  postfacta migrate     creates or upgrades the tables
  postfacta user add --email ada@example.org --role admin
  postfacta serve       listens on 127.0.0.1:8080
  postfacta doctor      checks the installation

Settings come from environment variables, such as
POSTFACTA_DATABASE_DSN=postgresql://user@host/name, or from a file that
POSTFACTA_DATABASE_DSN_FILE names. Exit codes: 0 success, 1 failure, 2 invalid usage
or settings; of `smoke` also 77, if a check was not run. The how-to guides show each
command at work."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code, 2 if the packages of its extra are not installed."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        "postfacta",
        description="Record operational incidents, their timelines and post-mortems.",
        epilog=_START.format(install_command("app")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"postfacta {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="name", required=True, metavar="<command>"
    )
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=f"{summary} [app]", add_help=False)
    for name, (_, extra, summary) in _COMMANDS.items():
        commands.add_parser(name, help=f"{summary} [{extra}]", add_help=False)
    name = parser.parse_args(words[:1]).name
    module, extra = "postfacta_app.cli", "app"
    if name in _COMMANDS:
        module, extra, _ = _COMMANDS[name]
        words = words[1:]
    try:
        run = import_module(module).main
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.startswith("postfacta"):
            raise  # no extra provides it
        sys.stderr.write(
            "postfacta: this command needs an extra that is not installed: "
            f"{install_command(extra)} (no module {missing})\n"
        )
        return 2
    return int(run(words))


if __name__ == "__main__":
    sys.exit(main())
