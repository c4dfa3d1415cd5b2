"""The command `postfacta lab`, also as `python -m postfacta_lab`: it imports a subcommand when that is run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final

from .verdict import Verdict

try:
    import click
except ModuleNotFoundError:
    sys.stderr.write(
        'postfacta: lab needs an extra that is not installed: pip install "postfacta[lab]" (no module click)\n'
    )
    raise SystemExit(int(Verdict.NOTHING)) from None

__all__ = ["main"]

_COMMANDS: Final[Mapping[str, str]] = {
    "init": "write a suite for a service: requests, tests, a workflow",
    "load": "load a running service in open loop, and judge it",
    "capacity": "say what measured runs tell about capacity",
    "chaos": "run experiments on a service under load, and judge them",
    "drain": "stop a service under load, and count what its clients noticed",
    "proxy": "break TCP connections on request",
}
_CODES: Final = "Exit codes: 0 held, 1 did not hold, 2 undecided, 3 nothing measured or wrong usage."


class _Lab(click.Group):
    """Its subcommands are modules: the list of them is shown without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand.

        Raises:
            click.ClickException: A package of its extra is not installed.
        """
        if cmd_name not in _COMMANDS:
            return None
        try:
            found: click.Command = import_module(f"postfacta_lab.{cmd_name}.command").command
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("postfacta"):
                raise  # no extra provides it
            raise click.ClickException(
                f'lab {cmd_name} needs an extra that is not installed: pip install "postfacta[lab]" (no module {error.name})'
            ) from None
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    lab = _Lab(
        "postfacta lab",
        help="Load, drain and break any service, and judge how its users fared.",
        epilog=_CODES,
    )
    try:
        code: object = lab.main(arguments, prog_name="postfacta lab", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return int(Verdict.NOTHING)
    except click.ClickException as error:
        click.echo(f"postfacta: {error.format_message()}", err=True)
        return int(Verdict.NOTHING)
    except click.Abort:
        return 130
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
