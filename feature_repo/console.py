"""How commands talk: one JSON object or a table on stdout; progress, logs and errors on stderr."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
from rich import progress as rich_progress
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from typer import BadParameter

from feature_repo.progress import Progress
from feature_repo.visibility import parse_instant

# Piped output has no width of its own; 80 columns would cut ids and feature names.
_PIPED_WIDTH = 160

out = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else _PIPED_WIDTH)


def configure_logging(*, verbose: bool) -> None:
    """Send our log events to stderr; third parties only from WARNING on. Called once, by the entry point."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(name)s %(message)s",
        handlers=[RichHandler(console=err, show_path=False, show_time=False, markup=False)],
        force=True,
    )
    for package in ("feature_repo", "ml", "pipelines", "serving"):
        logging.getLogger(package).setLevel(logging.INFO if verbose else logging.WARNING)
    for chatty in ("mlflow", "alembic", "feast", "torch", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    # Warnings of libraries about their own code are for us, not for who runs a command; --verbose shows them.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if verbose else logging.ERROR)


def instant(text: str) -> pd.Timestamp:
    """A time given on the command line (see `parse_instant`), as UTC.

    Raises:
        BadParameter: it is none.
    """
    try:
        return parse_instant(text)
    except ValueError as error:
        raise BadParameter(
            f"got {text!r}, expected a UTC instant such as 2024-05-26T14:00:00Z, or one with an offset such as "
            "2024-05-26T16:00:00+02:00"
        ) from error


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A progress bar on stderr, driven by the callback it yields; plain silence where stderr is not a terminal."""
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
    )
    with rich_progress.Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{title}: {what}", completed=done, total=total or None)

        yield report


def emit(value: dict[str, Any], *, as_json: bool, show: Callable[[], None]) -> None:
    """Print `value` as one JSON object on stdout, or call `show` to print it for a person."""
    if as_json:
        sys.stdout.write(json.dumps(value, allow_nan=False, default=json_value) + "\n")
    else:
        show()


def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table; numbers are right-aligned, None is shown as a dash."""
    grid = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in rows)
        grid.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        grid.add_row(*[_shown(cell) for cell in row])
    out.print(grid)


def _shown(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:,.3f}".rstrip("0").rstrip(".") if abs(cell) < 1000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def json_value(value: Any) -> Any:
    """What JSON has no form for: times in ISO 8601, numpy scalars as numbers; anything else as text."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else str(value)
