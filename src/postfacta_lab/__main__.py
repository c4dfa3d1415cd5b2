"""The command `postfacta lab`, also as `python -m postfacta_lab`.

It imports a subcommand when that is run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final

from postfacta_core.installation import install_command

from .verdict import Verdict

try:
    import click
except ModuleNotFoundError:
    sys.stderr.write(
        f"postfacta: lab needs an extra that is not installed: {install_command('lab')} (no module"
        " click)\n"
    )
    raise SystemExit(int(Verdict.NOTHING)) from None

_COMMANDS: Final[Mapping[str, str]] = {
    "init": "write a suite for a service: requests, tests, a workflow",
    "load": "load a running service in open loop, and judge it",
    "capacity": "say what measured runs tell about capacity",
    "advise": "advise time-outs and sizes by what was measured",
    "chaos": "run experiments on a service under load, and judge them",
    "drain": "stop a service under load, and count what its clients noticed",
    "proxy": "break TCP connections on request",
}
_HELP: Final = """\
Usage: postfacta lab COMMAND [--help]

Load, drain and break any service, and judge how its users fared.

{}

Exit codes: 0 held, 1 did not hold, 2 undecided, 3 nothing measured or wrong usage."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    name, *options = words or [""]
    if name not in _COMMANDS:
        is_asked = name in {"--help", "-h"}
        summaries = "\n".join(f"  {command:<10}{summary}" for command, summary in _COMMANDS.items())
        click.echo(_HELP.format(summaries), err=not is_asked)
        return int(Verdict.PASS if is_asked else Verdict.NOTHING)
    try:
        command: click.Command = import_module(f"postfacta_lab.{name}.command").command
        program = f"postfacta lab {name}"
        code: object = command.main(options, prog_name=program, standalone_mode=False)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("postfacta"):
            raise  # no extra provides it
        needs = f"needs an extra that is not installed: {install_command('lab')}"
        click.echo(f"postfacta: lab {name} {needs} (no module {error.name})", err=True)
        return int(Verdict.NOTHING)
    # By a ValueError, the parts of the lab refuse what is wrong.
    except (click.ClickException, ValueError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else error
        click.echo(f"postfacta: {message}", err=True)
        return int(Verdict.NOTHING)
    except click.Abort:
        return 130  # as a shell has it: 128 and SIGINT
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
