"""The registry of sources speaks of tables and settings that exist, and docs/sources.md is what it says."""

import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from feature_repo.errors import BadUsageError
from feature_repo.settings import Settings
from pipelines.commands_sources import sources as command
from pipelines.ingest import catalogue
from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical.assemble import RawSeason, assemble
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.precedence import as_rows
from pipelines.ingest.web.limits import Limits
from pipelines.schemas import TABLES
from pipelines.simulator.tables import NOT_SIMULATED

_DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "sources.md"
NAMES = ["simulator", "files", "jolpica", "openf1", "fastf1", "livetiming"]


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(command)
    return made


def test_the_document_is_the_generated_text() -> None:
    assert _DOCUMENT.read_text(encoding="utf-8") == catalogue.as_markdown(), "run: pitwall sources --markdown > docs/sources.md"


def test_every_source_is_listed_once_with_tables_that_exist() -> None:
    assert catalogue.source_names() == NAMES
    for info in catalogue.sources():
        assert info.tables
        assert set(info.tables) <= set(TABLES), info.name
        assert info.licence
        assert all(since is None or 1950 < since < 2027 for since in info.tables.values())


def test_the_simulator_gives_what_it_makes() -> None:
    assert set(catalogue.source_info("simulator").tables) == set(TABLES) - set(NOT_SIMULATED)


def test_addresses_are_settings() -> None:
    named = {url for info in catalogue.sources() for url in info.urls}
    assert named == {
        name for name in Settings.model_fields if name in ("jolpica_url", "openf1_url", "livetiming_url", "schedule_url")
    }


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("jolpica", Limits(per_second=4, per_hour=500)), ("openf1", Limits(per_second=3, per_minute=30))],
)
def test_limits_are_those_the_services_document(name: str, allowed: Limits) -> None:
    assert catalogue.limits(name) == allowed


@pytest.mark.parametrize("name", ["files", "simulator", "livetiming"])
def test_a_source_that_asks_no_service_has_no_limits(name: str) -> None:
    with pytest.raises(BadUsageError, match="expected one of jolpica, openf1, fastf1"):
        catalogue.limits(name)


def test_an_unknown_source_is_named_with_those_that_exist() -> None:
    with pytest.raises(BadUsageError, match="'ergast', expected one of simulator, files, jolpica"):
        catalogue.source_info("ergast")


def test_the_document_has_every_source_table_and_rule() -> None:
    text = catalogue.as_markdown()
    for info in catalogue.sources():
        assert f"\n## {info.name}\n" in text
        assert info.licence in text
        assert catalogue.limits_text(info) in text
    assert all(f"\n| `{table}` | {columns} | {order} |\n" in text for table, columns, order in as_rows())
    assert all(f"\n| `{table}` | " in text for table in TABLES)
    row = next(line for line in text.splitlines() if line.startswith("| `pit_stops` |"))
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["✓", "✓", "from 2011", "✓", "✓", "✓"]


def test_what_old_seasons_of_jolpica_need_is_said() -> None:
    jolpica = catalogue.source_info("jolpica")
    assert "start times before 2005 need --path DIR with f1db/races.csv" in jolpica.seasons
    assert any("no start time" in note and "before 2005" in note for note in jolpica.notes)


def test_races_are_assembled_only_for_sources_that_exist() -> None:
    report = IngestReport("elsewhere", is_simulated=False, seasons=[2030])
    nothing = RawSeason(2030, pd.DataFrame(), pd.DataFrame(), pd.DataFrame())
    with pytest.raises(BadUsageError, match="got 'elsewhere', expected one of simulator, files"):
        assemble(nothing, "elsewhere", Sieve(report, [2030]))


def test_the_command_lists_json_and_markdown(app: typer.Typer) -> None:
    said = CliRunner().invoke(app, ["--json"])
    assert said.exit_code == 0
    found = json.loads(said.stdout)["sources"]
    assert [info["name"] for info in found] == NAMES
    assert found[2]["limits"] == {"per_second": 4, "per_hour": 500, "per_minute": None}
    assert found[2]["tables"]["sprint_results"] == 2021
    assert CliRunner().invoke(app, ["--markdown"]).stdout == catalogue.as_markdown()
    assert CliRunner().invoke(app, ["--markdown", "--json"]).exit_code == 2


def test_the_command_shows_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    command()
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    assert "docs/sources.md" in shown
