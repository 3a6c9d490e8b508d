"""Recorded Jolpica responses and live timing give the lake that files give; what differs is known, counted and explained.

docs/recorded-races.md has the same table; a test keeps the two in step.
"""

from pathlib import Path

import pandas as pd
import pytest
from lake_differences import differences
from recorded_races import ALONE, EXPLAINED, RACES, as_page, from_files, from_recordings

from pipelines.schemas import TABLES


@pytest.fixture(scope="module")
def table(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    lake = from_recordings(tmp_path_factory.mktemp("recorded") / "home", real_data)
    assert {name for names in lake.read("laps")["source"] for name in names.split("+")} == {"jolpica", "livetiming"}
    return differences({name: lake.read(name) for name in TABLES}, from_files(real_data))


def test_every_shared_column_is_equal_or_explained(table: pd.DataFrame) -> None:
    found = {(row.table, row.column): row.differ for row in table.itertuples() if row.differ}
    assert found == {where: rows for where, (rows, _) in EXPLAINED.items()}


def test_every_row_has_its_partner_or_an_explanation(table: pd.DataFrame) -> None:
    rows = table.drop_duplicates("table")
    found = {row.table: (row.only_ours, row.only_theirs) for row in rows.itertuples() if row.only_ours or row.only_theirs}
    assert found == {name: (ours, theirs) for name, (ours, theirs, _) in ALONE.items()}


def test_all_race_tables_were_compared(table: pd.DataFrame) -> None:
    # none of the four weekends had a sprint
    assert set(table["table"]) == {name for name in TABLES if TABLES[name].is_race_table} - {"sprint_results"}
    assert table.groupby("table")["both"].max().loc[["races", "entries", "qualifying"]].tolist() == [len(RACES), 80, 80]


def test_the_page_is_made_from_this_table(table: pd.DataFrame) -> None:
    assert (Path(__file__).parents[2] / "docs" / "recorded-races.md").read_text(encoding="utf-8") == as_page(table)
