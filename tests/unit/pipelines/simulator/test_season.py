"""Whole seasons: determinism, independence, schemas, and the size of the figures."""

import numpy as np
import pandas as pd
import pytest

from pipelines import schemas
from pipelines.errors import SimulationRequestError, SourceMissingError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.simulator import SimulatorSource
from pipelines.lake import Lake
from pipelines.simulator import compare, incidents
from pipelines.simulator.season import calendar, season_years, simulate_seasons
from pipelines.simulator.tables import NOT_SIMULATED


@pytest.fixture(scope="module")
def season() -> dict[str, pd.DataFrame]:
    [(_, tables)] = simulate_seasons([2024], 12, 7)
    return tables


def same(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> None:
    assert set(left) == set(right) == set(schemas.TABLES)
    for name, frame in left.items():
        pd.testing.assert_frame_equal(frame, right[name], check_exact=True)


def test_the_same_seed_gives_byte_identical_partitions(tmp_path, season):
    [(_, again)] = simulate_seasons([2024], 12, 7)
    for name in set(schemas.TABLES) - set(NOT_SIMULATED):
        Lake(tmp_path / "one").write(name, 2024, season[name])
        Lake(tmp_path / "two").write(name, 2024, again[name])
        assert Lake(tmp_path / "one").path(name, 2024).read_bytes() == Lake(tmp_path / "two").path(name, 2024).read_bytes()


def test_a_season_does_not_depend_on_the_seasons_around_it():
    alone = dict(simulate_seasons([2023], 3, 7))
    among = dict(simulate_seasons([2022, 2023, 2024], 3, 7))
    same(alone[2023], among[2023])


def test_a_race_does_not_depend_on_the_races_after_it(season):
    [(_, short)] = simulate_seasons([2024], 4, 7)
    first = season["races"]["race_id"].tolist()[:4]
    for name, spec in schemas.TABLES.items():
        if spec.is_race_table:
            kept = season[name][season[name]["race_id"].isin(first)].reset_index(drop=True)
            pd.testing.assert_frame_equal(kept, short[name], check_exact=True)


def test_different_seeds_differ(season):
    [(_, other)] = simulate_seasons([2024], 12, 8)
    assert set(other["drivers"]["driver_id"]) != set(season["drivers"]["driver_id"])
    assert other["laps"]["lap_time_s"].sum() != season["laps"]["lap_time_s"].sum()


def test_every_table_passes_its_schema_and_says_that_it_is_simulated(season):
    for name, frame in season.items():
        assert len(schemas.validate(name, frame, 2024)) == len(frame)
        assert set(frame["source"]) == (set() if name in NOT_SIMULATED else {"simulator"})


def test_races_are_on_sundays_and_qualifying_is_before():
    weekends = calendar(7, 2024, 26)
    assert all(weekend.race_start.weekday() == 6 for weekend in weekends)
    starts = [weekend.race_start for weekend in weekends]
    assert starts == sorted(set(starts))
    assert (starts[0].month, starts[-1].year) == (3, 2024)
    assert len({weekend.circuit_number for weekend in weekends}) == 26


def test_seasons_end_in_2024():
    assert season_years(3) == [2022, 2023, 2024]


@pytest.mark.parametrize(("seasons", "races", "seed"), [(0, 12, 7), (51, 12, 7), (3, 0, 7), (3, 27, 7)])
def test_an_impossible_request_is_refused(seasons, races, seed):
    with pytest.raises(SimulationRequestError):
        SimulatorSource(seasons=seasons, races=races, seed=seed)


def test_a_negative_seed_is_refused():
    with pytest.raises(SimulationRequestError, match="seed -1"):
        SimulatorSource(seasons=1, races=1, seed=-1)


def test_results_are_known_three_hours_after_the_flag(season):
    entries = season["entries"].merge(season["races"][["race_id", "race_end", "race_start"]], on="race_id")
    assert (entries["event_timestamp"] == entries["race_end"]).all()
    assert (entries["created_timestamp"] - entries["race_end"] == pd.Timedelta(hours=3)).all()
    assert (entries["race_start"] - entries["grid_timestamp"] == pd.Timedelta(hours=1)).all()
    qualifying = season["qualifying"].merge(season["races"][["race_id", "qualifying_start"]], on="race_id")
    assert (qualifying["event_timestamp"] - qualifying["qualifying_start"] == pd.Timedelta(minutes=75)).all()


def test_the_flag_falls_when_the_winner_ends_the_last_lap(season):
    winners = season["entries"].query("position_order == 1")
    last = season["laps"].groupby(["race_id", "driver_id"])["event_timestamp"].max()
    ends = season["races"].set_index("race_id")["race_end"]
    for race_id, driver_id in winners[["race_id", "driver_id"]].itertuples(index=False):
        assert last[race_id, driver_id] == ends[race_id]


def test_the_race_is_informative_but_not_decided_at_half_distance(season):
    figures = compare.measure(season)
    assert 15 < figures["order at 50% of the distance is the result: exact"][0] < 50
    assert 0.35 < figures["correlation of grid and result (Spearman)"][0] < 0.85
    assert 5 < figures["entries that did not reach the flag"][0] < 30
    assert 1.2 < figures["pit stops per entry"][0] < 2.6
    assert all(np.isfinite(value) for value, _ in figures.values())


def test_the_source_yields_each_season_once_and_counts_what_it_read():
    source = SimulatorSource(seasons=2, races=2, seed=3)
    report = IngestReport(source=source.name, is_simulated=source.is_simulated, seasons=source.years)
    read = list(source.read([2024, 2023, 2024], report))
    assert [one.season for one in read] == [2023, 2024]
    for name in schemas.TABLES:
        assert report.table(name).rows_read == sum(len(one.tables[name]) for one in read)
    assert source.is_simulated
    with pytest.raises(SourceMissingError, match="2020"):
        list(source.read([2020], report))


def test_the_fingerprint_names_what_the_rows_depend_on():
    one = SimulatorSource(seasons=2, races=2, seed=3).fingerprint()
    assert one == SimulatorSource(seasons=9, races=2, seed=3).fingerprint()
    assert one != SimulatorSource(seasons=2, races=3, seed=3).fingerprint()
    assert one != SimulatorSource(seasons=2, races=2, seed=4).fingerprint()


def test_the_comparison_is_written_between_the_markers(tmp_path):
    figures = (compare.Figure("pit stops per entry", "", 2.0, 2.2), compare.Figure("races won from pole", "%", 50.0, 20.0))
    comparison = compare.Comparison(figures, 149, (2018, 2024), 36, (3, 12, 7))
    document = tmp_path / "simulator.md"
    document.write_text(f"before\n{compare.BEGIN}\nold\n{compare.END}\nafter\n", encoding="utf-8")
    compare.write_table(document, comparison)
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| pit stops per entry |  | 2 | 2.2 | 1.10 |  |" in text
    assert "| races won from pole | % | 50 | 20 | 0.40 | off |" in text


def test_a_simulated_lake_is_not_taken_for_a_real_one(tmp_path, season):
    lake = Lake(tmp_path)
    lake.write("laps", 2024, season["laps"])
    with pytest.raises(SimulationRequestError, match="simulated"):
        compare.compare(lake, seasons=1, races=1, seed=7)


def test_a_race_of_red_flags_and_retirements_still_makes_sense(monkeypatch):
    """Regression: a car that retired on the lap of a restart stayed at the head of the queue and held everybody for ever."""
    monkeypatch.setattr(incidents, "ACCIDENT_ANSWER", (1.0, 1.0, 1.0))
    monkeypatch.setattr(incidents, "ACCIDENT_PER_LAP", 20 * incidents.ACCIDENT_PER_LAP)
    [(_, tables)] = simulate_seasons([2024], 6, 7)
    for name, frame in tables.items():
        schemas.validate(name, frame, 2024)
    assert (tables["track_status"]["status"] == "5").sum() > 6
    assert (tables["entries"]["laps_completed"].groupby(tables["entries"]["race_id"]).max() > 40).all()
