"""Simulated against real races: the command, its table, and what cannot be compared."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from feature_repo.settings import Settings
from pipelines.cli import app
from pipelines.errors import SimulationRequestError
from pipelines.lake import Lake
from pipelines.simulator.compare import BEGIN, END, Figure, compare
from pipelines.simulator.season import season_years, simulate_seasons

RACES, SEED = 3, 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose lake says that its races were held; they are those of the simulator's seed."""
    home = tmp_path_factory.mktemp("held") / "home"
    lake = Lake(Settings(home=home).lake_dir)
    for season, tables in simulate_seasons(season_years(1), RACES, SEED):
        held = {name: rows.assign(source="files") if "source" in rows else rows for name, rows in tables.items()}
        lake.publish(lake.stage(season, held, {}))
    return home


def report(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["simulator-report", *arguments])


def test_the_same_races_on_both_sides_have_the_same_figures(home: Path) -> None:
    said = report("--real-home", str(home), "--seasons", "1", "--races", str(RACES), "--seed", str(SEED), "--json")
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert (found["real_races"], found["simulated_races"]) == (RACES, RACES)
    assert len(found["figures"]) == 36
    assert [figure for figure in found["figures"] if figure["real"] != figure["simulated"]] == []


def test_the_table_of_a_document_is_replaced_and_nothing_else(home: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    command = ("--real-home", str(home), "--seasons", "1", "--races", str(RACES), "--seed", str(SEED), "--document", str(page))
    assert report(*command).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{BEGIN}\n\nReal: {RACES} races, 2024-2024.")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "old" not in text
    assert text.count("\n| ") == 36 + 1
    assert report(*command).exit_code == 0
    assert page.read_text(encoding="utf-8") == text


def test_a_document_without_a_place_for_the_table_is_refused(home: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n", encoding="utf-8")
    said = report("--real-home", str(home), "--seasons", "1", "--races", "1", "--document", str(page))
    assert isinstance(said.exception, SimulationRequestError)
    assert "expected one '<!-- figures: begin -->'" in str(said.exception)
    assert page.read_text(encoding="utf-8") == "# Title\n"


@pytest.mark.parametrize(
    ("real", "simulated", "ratio", "same"),
    [(2.0, 2.5, 1.25, True), (2.0, 1.0, 0.5, False), (0.0, 0.0, 1.0, True), (0.0, 0.1, math.inf, False)],
)
def test_figures_of_the_same_size(real: float, simulated: float, ratio: float, same: bool) -> None:
    figure = Figure("races with a red flag", "%", real, simulated)
    assert (figure.ratio, figure.is_same_size) == (ratio, same)


def test_an_empty_lake_is_no_real_one(tmp_path: Path) -> None:
    with pytest.raises(SimulationRequestError, match="expected one with real laps"):
        compare(Lake(tmp_path), seasons=1, races=1, seed=1)
