"""Every command of `pitwall` by name, as the console script knows them."""

import typer
from typer.core import TyperCommand

from pipelines import cli


def all_commands() -> dict[str, TyperCommand]:
    """The commands of `pipelines.cli` and those of other packages."""
    cli.add_commands()
    commands = typer.main.get_group(cli.app).commands.items()
    return {name: command for name, command in commands if isinstance(command, TyperCommand)}
