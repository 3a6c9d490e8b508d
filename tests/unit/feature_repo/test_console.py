"""Commands speak one JSON object or a table on stdout; progress, logs and warnings stay off it."""

import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer import BadParameter

from feature_repo import console


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    names = ["feature_repo", "ml", "pipelines", "serving", "mlflow", "alembic", "feast", "torch", "matplotlib", "py.warnings"]
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_json_is_one_object_on_stdout_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "when": datetime(2024, 5, 26, 13, tzinfo=UTC),
        "stamp": pd.Timestamp("2024-05-26T13:00:00Z"),
        "number": np.float32(0.5),
        "count": np.int64(3),
        "path": Path("a/b"),
        "none": None,
    }
    console.emit(value, as_json=True, show=lambda: pytest.fail("a table was asked for"))
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "when": "2024-05-26T13:00:00+00:00",
        "stamp": "2024-05-26T13:00:00+00:00",
        "number": 0.5,
        "count": 3,
        "path": "a/b",
        "none": None,
    }
    assert said.out.endswith("}\n")
    assert said.out.count("\n") == 1
    assert said.err == ""


def test_a_number_that_json_does_not_have_is_an_error() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.emit({"mae": float("nan")}, as_json=True, show=lambda: None)


def test_without_json_the_view_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit({"x": 1}, as_json=False, show=lambda: console.out.print("shown"))
    assert capsys.readouterr().out == "shown\n"


def test_a_table_aligns_numbers_and_shows_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["grid", 12345, 0.125, True, None], ["a_feature_with_a_long_name_of_forty_letters_", 7, 123456.7, False, "x"]]
    console.table("tables", ["name", "rows", "share", "ok", "note"], rows)
    said = capsys.readouterr().out
    assert "12,345" in said
    assert "0.125" in said
    assert "123,457" in said
    assert "yes" in said
    assert "no" in said
    assert "-" in said
    assert "a_feature_with_a_long_name_of_forty_letters_" in said, "piped output is wide enough for ids"


def test_progress_is_silent_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bar("traces") as report:
        report("traces", 1, 2)
        report("", 0, 0)
    said = capsys.readouterr()
    assert (said.out, said.err.strip()) == ("", "")


def test_a_time_on_the_command_line_is_utc_or_bad_usage() -> None:
    assert console.instant("2024-05-26 15:00+02:00") == pd.Timestamp("2024-05-26T13:00:00Z")
    assert console.instant("2024-05-26") == pd.Timestamp("2024-05-26T00:00:00Z")
    for text in ("soon", "", "2024-13-01", "99999-01-01"):
        with pytest.raises(BadParameter, match="expected a UTC instant such as"):
            console.instant(text)


@pytest.mark.parametrize("verbose", [False, True])
def test_events_go_to_stderr_when_asked_for(verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    console.configure_logging(verbose=verbose)
    logging.getLogger("pipelines.traces").info("traces_rendered count=3")
    logging.getLogger("mlflow.store").warning("chatter")
    logging.getLogger("serving.predictor").warning("a human should look")
    said = capsys.readouterr()
    assert said.out == ""
    assert ("traces_rendered" in said.err) is verbose
    assert "a human should look" in said.err
    assert "chatter" not in said.err


@pytest.mark.parametrize("verbose", [False, True])
def test_warnings_of_libraries_are_for_those_who_ask(verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        console.configure_logging(verbose=verbose)
        warnings.warn("a library is out of date", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    said = capsys.readouterr()
    assert said.out == ""
    assert ("a library is out of date" in said.err) is verbose
