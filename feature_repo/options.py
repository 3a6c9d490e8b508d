"""Options that commands share, and the settings that follow from them."""

from pathlib import Path
from typing import Annotated

import typer

from feature_repo.settings import Settings

Home = Annotated[Path | None, typer.Option("--home", help="Folder that holds everything Pitwall writes [PITWALL_HOME, ./data].")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; logs go to stderr.")]


def settings_of(home: Path | None) -> Settings:
    """The settings of the environment, with the home of the command line if one was given."""
    return Settings() if home is None else Settings(home=home)
