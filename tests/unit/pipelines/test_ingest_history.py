"""Corrections of a source: asking again changes nothing, whatever moved, and every version stays readable."""

import shutil

import pandas as pd
import pytest
from source_views import Still, with_clock
from strategies import small_lake

from feature_repo.settings import Settings
from feature_repo.visibility import CREATED, EVENT, latest_visible
from pipelines.ingest.merging.history import with_history
from pipelines.ingest.merging.merge import merge
from pipelines.ingest.run import ingest
from pipelines.lake import Lake
from pipelines.schemas import TABLES, validate

SEASON = 2022
AT = pd.Timestamp("2026-01-01T00:00:00Z")
LATER = AT + pd.Timedelta(days=1)
KEY = list(TABLES["entries"].key)
SECOND, DAY = pd.Timedelta(seconds=1), pd.Timedelta(days=1)


@pytest.fixture(scope="module")
def lake_frames() -> dict[str, pd.DataFrame]:
    frames: dict[str, pd.DataFrame] = small_lake(3, seasons=(SEASON,), rounds=2)
    return frames


@pytest.fixture
def entries(lake_frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return lake_frames["entries"].assign(source="openf1").reset_index(drop=True)


def _moved(rows: pd.DataFrame, by: pd.Timedelta) -> pd.DataFrame:
    return rows.assign(**{EVENT: rows[EVENT] + by, CREATED: rows[CREATED] + by})


def _said_again(rows: pd.DataFrame, said: pd.DataFrame) -> pd.DataFrame:
    again, corrected = with_history("entries", rows, said, LATER)
    assert corrected == 0
    return again


def test_a_correction_that_moves_the_flag_back_is_still_found_when_it_is_said_again(entries: pd.DataFrame) -> None:
    said = _moved(entries.assign(status="Disqualified"), -SECOND)
    rows, corrected = with_history("entries", entries, said, AT)
    assert corrected == len(entries)
    again = _said_again(rows, said)
    pd.testing.assert_frame_equal(again, rows)
    assert set(latest_visible(again, KEY, LATER)["status"]) == {"Disqualified"}


def test_a_flag_that_moves_behind_a_correction_is_fit_for_the_lake(entries: pd.DataFrame) -> None:
    early = entries[EVENT].max() + pd.Timedelta(hours=4)
    said = entries.assign(status="Disqualified")
    rows, _ = with_history("entries", entries, said, early)
    again = _said_again(rows, _moved(said, 2 * DAY))
    validate("entries", again, SEASON)


@pytest.mark.parametrize("then", ["nothing", "points"])
def test_a_corrected_starting_place_stays_unknown_until_it_was_said(entries: pd.DataFrame, then: str) -> None:
    said = entries.assign(grid=entries["grid"] + 1)
    rows, _ = with_history("entries", entries, said, AT)
    if then == "nothing":
        again = _said_again(rows, said)
    else:
        points = said.assign(points=said["points"].fillna(0) + 1)
        again, _ = with_history("entries", rows, points, LATER)
    moved = again[again[CREATED] >= AT]
    assert len(moved) == len(entries) * (1 if then == "nothing" else 2)
    assert (moved["grid_timestamp"] == AT).all()


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_first_version_that_is_told_otherwise_later_does_not_stand_beside_the_one_that_was_read(
    entries: pd.DataFrame, *, is_ours: bool
) -> None:
    """A source with a row at the flag and one after it changes both."""
    at_flag = entries.assign(status="Finished", created_timestamp=entries[EVENT])
    told = pd.concat([at_flag, entries], ignore_index=True)
    rows, _ = with_history("entries", told, told.assign(points=3.0), AT)
    other = pd.concat([at_flag.assign(laps_completed=7), entries], ignore_index=True).assign(points=4.0)
    again, _ = with_history("entries", rows, other, LATER, ours={1: is_ours, 2: is_ours})
    validate("entries", again, SEASON)
    before = latest_visible(rows, KEY, AT - SECOND).reset_index(drop=True)
    pd.testing.assert_frame_equal(latest_visible(again, KEY, AT - SECOND).reset_index(drop=True), before)


@pytest.mark.parametrize(("column", "value", "corrected"), [("status", "Disqualified", 1), ("laps_completed", 7, 0)])
def test_where_nothing_tells_whose_a_difference_is_what_stewards_decide_is_a_correction(
    entries: pd.DataFrame, column: str, value: object, corrected: int
) -> None:
    """A home of an earlier version does not say what the source said then, and the code has changed."""
    first = entries.index == 0
    said = entries.assign(**{column: entries[column].mask(first, value)})
    rows, count = with_history("entries", entries, said, AT, ours={1: None, 2: None})
    assert count == corrected
    assert len(rows) == len(entries) + corrected
    assert (rows[column] == value).sum() == 1 + (entries[column] == value).sum()
    early = latest_visible(rows, KEY, AT - SECOND).sort_values(KEY, ignore_index=True)
    expected = entries if corrected else said
    assert early[column].tolist() == expected.sort_values(KEY)[column].tolist()


def test_the_starting_place_and_since_when_it_is_known_are_of_one_source(entries: pd.DataFrame) -> None:
    """The files are believed about the grid: when they correct it, the others knew no better before."""
    files = entries.assign(source="files")
    corrected, _ = with_history("entries", files, files.assign(grid=files["grid"] + 1), AT)
    merged = merge({"files": {"entries": corrected}, "jolpica": {"entries": entries.assign(source="jolpica")}}).tables["entries"]
    late = merged[merged[CREATED] >= AT].sort_values(KEY, ignore_index=True)
    assert late["grid"].tolist() == (files.sort_values(KEY)["grid"] + 1).tolist()
    assert (late["grid_timestamp"] == AT).all()


def _still(name: str, frames: dict[str, pd.DataFrame]) -> Still:
    return Still(name, {table: rows.assign(source=name) for table, rows in frames.items() if len(rows)})


def test_a_source_whose_folder_was_deleted_leaves_the_lake_with_the_next_ingest(
    settings: Settings, lake_frames: dict[str, pd.DataFrame]
) -> None:
    files, jolpica = _still("files", lake_frames), _still("jolpica", lake_frames)
    ingest(settings, jolpica, [SEASON], observed_at=AT)
    ingest(settings, files, [SEASON], observed_at=AT)
    assert ingest(settings, files, [SEASON], observed_at=AT).skipped_up_to_date
    shutil.rmtree(settings.sources_dir / "jolpica")
    assert not ingest(settings, files, [SEASON], observed_at=AT).skipped_up_to_date
    assert set(Lake(settings.lake_dir).read("entries")["source"]) == {"files"}
    assert ingest(settings, files, [SEASON], observed_at=AT).skipped_up_to_date


@pytest.mark.parametrize("is_corrected", [False, True])
def test_nothing_of_a_race_is_known_before_it_by_the_schedule_of_another_source(
    lake_frames: dict[str, pd.DataFrame], *, is_corrected: bool
) -> None:
    """A dump with an old schedule has the race a day early; the feed, which is believed about times, has it right."""
    key = ["race_id", "driver_id"]
    files = with_clock(lake_frames, "files", -DAY)
    result = files["entries"][["season", "round", *key, EVENT, CREATED, "source"]]
    files["driver_standings"] = result.assign(position=1, points=25.0, wins=1)[TABLES["driver_standings"].columns]
    fastf1 = with_clock(lake_frames, "fastf1", 0 * DAY)
    weather = fastf1.pop("weather", None)
    corrections = [fastf1["entries"].iloc[:1].assign(status="Disqualified", created_timestamp=AT)] if is_corrected else []
    fastf1["entries"] = pd.concat([fastf1["entries"], *corrections], ignore_index=True)
    merged = merge({"files": files, "fastf1": fastf1}).tables
    flags = merged["races"].set_index("race_id")["race_end"]
    pd.testing.assert_series_equal(flags, lake_frames["races"].set_index("race_id")["race_end"].loc[flags.index])
    for table in ("entries", "driver_standings"):
        rows = merged[table]
        assert len(rows) >= len(result)
        assert (rows[CREATED] >= rows["race_id"].map(flags) + pd.Timedelta(hours=3)).all()
        assert (rows[EVENT] >= rows["race_id"].map(flags)).all()
        validate(table, rows, SEASON)
    assert len(merged["entries"]) == len(result)  # the files are believed about results: they never changed
    first = lake_frames["entries"].set_index(key)["grid_timestamp"].sort_index()
    grid = merged["entries"].drop_duplicates(key).set_index(key)["grid_timestamp"].sort_index()
    pd.testing.assert_series_equal(grid, first)
    if weather is not None:
        expected = weather.set_index("race_id")[EVENT].sort_index(kind="stable")
        pd.testing.assert_series_equal(merged["weather"].set_index("race_id")[EVENT].sort_index(kind="stable"), expected)


def test_a_correction_keeps_the_instant_at_which_it_was_noticed_on_any_clock(lake_frames: dict[str, pd.DataFrame]) -> None:
    files = with_clock(lake_frames, "files", -DAY)
    corrected = files["entries"].iloc[:1].assign(status="Disqualified", created_timestamp=AT)
    files["entries"] = pd.concat([files["entries"], corrected], ignore_index=True)
    merged = merge({"files": files, "fastf1": with_clock(lake_frames, "fastf1", 0 * DAY)}).tables["entries"]
    assert merged.loc[merged["status"] == "Disqualified", CREATED].tolist() == [AT]
