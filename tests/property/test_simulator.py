"""Physical sanity of any simulated season, whatever the seed."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.simulator.season import LAST_SEASON, simulate_seasons

KEYS = ["race_id", "driver_id"]
SEASONS = st.tuples(st.integers(0, 2**32), st.integers(2015, LAST_SEASON), st.integers(1, 4))


def tables_of(request: tuple[int, int, int]) -> dict[str, pd.DataFrame]:
    seed, year, races = request
    [(_, tables)] = simulate_seasons([year], races, seed)
    return tables


@settings(max_examples=6, deadline=None)
@given(SEASONS)
def test_laps_are_contiguous_in_number_and_time(request):
    laps = tables_of(request)["laps"]
    start = laps["lap_start"]
    assert (laps["event_timestamp"] > start).all()
    timed = laps["lap_time_s"].notna()
    assert (laps.loc[timed, "lap_time_s"] > 50).all()
    assert np.allclose((laps["event_timestamp"] - start).dt.total_seconds()[timed], laps.loc[timed, "lap_time_s"], atol=1e-6)
    sectors = laps[["sector1_s", "sector2_s", "sector3_s"]]
    assert (sectors[timed] > 0).all().all()
    assert np.allclose(sectors[timed].sum(axis=1), laps.loc[timed, "lap_time_s"], atol=1e-6)
    for _, car in laps.groupby(KEYS):
        assert car["lap"].tolist() == list(range(1, len(car) + 1))
        assert (car["lap_start"].iloc[1:].to_numpy() == car["event_timestamp"].iloc[:-1].to_numpy()).all()


@settings(max_examples=6, deadline=None)
@given(SEASONS)
def test_positions_of_a_lap_are_one_to_n_in_the_order_of_the_line(request):
    laps = tables_of(request)["laps"]
    ends = laps.groupby(["race_id", "lap"])["event_timestamp"]
    assert (ends.rank(method="first") == laps["position"].astype(float)).all()
    assert not laps.duplicated(["race_id", "lap", "event_timestamp"]).any()


@settings(max_examples=6, deadline=None)
@given(SEASONS)
def test_stints_tile_the_laps_and_pit_stops_lie_between_them(request):
    tables = tables_of(request)
    laps, stints, stops = tables["laps"], tables["stints"], tables["pit_stops"]
    assert stints["length_laps"].sum() == len(laps)
    for _, car in stints.groupby(KEYS):
        assert car["stint"].tolist() == list(range(1, len(car) + 1))
        assert car["start_lap"].iloc[0] == 1
        assert (car["start_lap"].iloc[1:].to_numpy() == car["end_lap"].iloc[:-1].to_numpy() + 1).all()
    assert len(stops) == len(stints) - stints.groupby(KEYS).ngroups
    ended = stops.merge(stints, on=[*KEYS, "stint"], suffixes=("", "_stint"))
    assert len(ended) == len(stops)
    assert (ended["lap"] == ended["end_lap"]).all()
    assert (stops["pit_out"] > stops["pit_in"]).all()
    in_lap = stops.merge(laps, on=[*KEYS, "lap"], suffixes=("", "_lap"))
    assert ((in_lap["pit_in"] > in_lap["lap_start"]) & (in_lap["pit_in"] < in_lap["event_timestamp_lap"])).all()
    out_lap = stops.assign(lap=stops["lap"] + 1).merge(laps, on=[*KEYS, "lap"], suffixes=("", "_lap"))
    assert len(out_lap) == len(stops)
    assert ((out_lap["pit_out"] > out_lap["lap_start"]) & (out_lap["pit_out"] < out_lap["event_timestamp_lap"])).all()
    assert (out_lap["pit_out"] == out_lap["pit_out_lap"]).all()
    on_set = laps.groupby([*KEYS, "stint"])["tyre_life_laps"].diff().dropna()
    assert (on_set == 1).all()
    assert (laps.groupby([*KEYS, "stint"])["compound"].nunique() == 1).all()


@settings(max_examples=6, deadline=None)
@given(SEASONS)
def test_the_result_follows_from_the_laps(request):
    tables = tables_of(request)
    entries, laps, races = tables["entries"], tables["laps"], tables["races"].set_index("race_id")
    done = laps.groupby(KEYS).agg(laps=("lap", "max"), end=("event_timestamp", "max"))
    for race_id, race in entries.groupby("race_id"):
        ordered = race.sort_values("position_order").merge(done, on=KEYS, how="left")
        assert ordered["position_order"].tolist() == list(range(1, 21))
        assert sorted(race["grid"]) == list(range(1, 21))
        assert (ordered["laps"].fillna(0) == ordered["laps_completed"]).all()
        assert ordered["laps_completed"].iloc[0] == races.loc[race_id, "scheduled_laps"]
        assert ordered["is_classified"].eq(ordered["position"].notna()).all()
        finished = ordered[ordered["status"].str.startswith("+") | ordered["status"].isin(["Finished", "Lapped"])]
        assert finished["position_order"].tolist() == list(range(1, len(finished) + 1))
        assert finished["laps_completed"].is_monotonic_decreasing
        # Among cars on the same lap the clock decides, and nobody starts another lap once the flag is out.
        for _, together in finished.groupby("laps_completed"):
            assert together["end"].is_monotonic_increasing
        assert (finished["end"] >= races.loc[race_id, "race_end"]).all()
        assert (laps.loc[laps["race_id"] == race_id, "lap_start"] < races.loc[race_id, "race_end"]).all()
        assert ordered.loc[~ordered["is_classified"], "points"].eq(0).all()


@settings(max_examples=6, deadline=None)
@given(SEASONS)
def test_what_is_known_is_never_older_than_what_it_tells(request):
    tables = tables_of(request)
    for name, frame in tables.items():
        assert (frame["created_timestamp"] >= frame["event_timestamp"]).all(), name
    starts = tables["races"].set_index("race_id")["race_start"]
    laps = tables["laps"]
    assert (laps.loc[laps["lap"] == 1, "lap_start"] == laps.loc[laps["lap"] == 1, "race_id"].map(starts)).all()
