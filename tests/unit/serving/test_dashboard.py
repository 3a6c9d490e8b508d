"""What pages compute by themselves: stints, rain, distributions of features, and summaries of gate records."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.files import write_json
from feature_repo.settings import Settings
from serving.dashboard import model_board
from serving.dashboard.catalogue import BINS, SAMPLED_ROWS, distributions
from serving.dashboard.charts import Stint
from serving.dashboard.model_board import decision_summary
from serving.dashboard.race_data import race_data
from serving.dashboard.seasons import race_list

START = pd.Timestamp("2024-03-03T13:00:00Z")
RACE = "2024_01"


def minute(number: float) -> pd.Timestamp:
    return (START + pd.Timedelta(minutes=number)).as_unit("us")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A race of two cars over four laps of a minute; b changes tyres after lap 2 and a's third lap becomes known late."""
    chosen = Settings(home=tmp_path)
    chosen.features_dir.mkdir()
    moments = [
        {"race_id": RACE, "season": 2024, "round": 1, "name": "Test Grand Prix", "circuit_id": "test", "lap": lap,
         "as_of": minute(lap), "known_at": minute(lap), "scheduled_laps": 5, "race_start": minute(0), "is_simulated": True}
        for lap in range(5)
    ]  # fmt: skip
    laps = [("a", lap, "HARD", 1.0, minute(lap), minute(lap + (6 if lap == 3 else 0))) for lap in range(1, 5)]
    laps += [
        ("b", lap, "SOFT" if lap < 3 else None, 1.0 + (lap > 2), minute(lap + 0.1), minute(lap + 0.1)) for lap in range(1, 5)
    ]
    keys = ["race_id", "driver_id", "event_timestamp", "created_timestamp"]
    state = [(RACE, who, event, known, float(lap), 60.0 * lap + (who == "b") * 6) for who, lap, _, _, event, known in laps]
    tyres = [(RACE, who, event, known, compound, stint) for who, _, compound, stint, event, known in laps]
    weather = [
        (RACE, minute(at), minute(at), 20.0, 30.0, 2.0, rain)
        for at, rain in ((-5, 1.0), (-1, 0.0), (0.5, 1.0), (1.5, 1.0), (2.5, 0.0), (3.5, 1.0))
    ]
    tables: dict[str, pd.DataFrame] = {
        "moments": pd.DataFrame(moments),
        "entrants": pd.DataFrame(
            [(RACE, who, "team", "test", 2024, 1, who.upper() * 3, who.upper()) for who in "ab"],
            columns=["race_id", "driver_id", "constructor_id", "circuit_id", "season", "round", "code", "driver_name"],
        ),
        "race_state": pd.DataFrame(state, columns=[*keys, "running_laps_completed", "running_elapsed_s"]),
        "tire_state": pd.DataFrame(tyres, columns=[*keys, "tire_compound", "tire_stint"]),
        "race_weather": pd.DataFrame(
            weather,
            columns=[
                "race_id",
                "event_timestamp",
                "created_timestamp",
                "weather_air_temp_c",
                "weather_track_temp_c",
                "weather_wind_speed_mps",
                "weather_is_raining",
            ],
        ),
        "race_result": pd.DataFrame(
            [
                (RACE, who, place, True, "Finished", minute(200), minute(known))
                for who, place, known in (("a", 1, 200), ("b", 2, 200), ("a", 2, 300), ("b", 1, 300))
            ],
            columns=[
                "race_id",
                "driver_id",
                "finish_position",
                "is_classified",
                "status",
                "event_timestamp",
                "created_timestamp",
            ],
        ),
    }
    for name, frame in tables.items():
        frame.to_parquet(chosen.features_dir / f"{name}.parquet", index=False)
    return chosen


def test_stints_hold_the_laps_known_at_the_instant(settings: Settings) -> None:
    race = race_data(settings, RACE)
    assert race.stints(minute(2)) == {"a": [Stint(1, 2, "HARD")], "b": [Stint(1, 1, "SOFT")]}
    assert race.stints(minute(4)) == {"a": [Stint(1, 4, "HARD")], "b": [Stint(1, 2, "SOFT"), Stint(3, 3, None)]}
    assert race.stints(minute(0)) == {}


def test_the_running_order_is_by_laps_then_time(settings: Settings) -> None:
    race = race_data(settings, RACE)
    assert race.running(minute(2.2)) == {"a": 1, "b": 2}
    assert race.running(minute(3.2)) == {"b": 1, "a": 2}, "the third lap of a is not known yet"


def test_rain_is_in_laps_of_the_leader_and_from_lights_out_on(settings: Settings) -> None:
    race = race_data(settings, RACE)
    assert race.rain(minute(1)) == [(0.5, 1.0)]
    assert race.rain(minute(3)) == [(0.5, 2.5)]
    assert race.rain(minute(4)) == [(0.5, 2.5), (3.5, 4.0)]


def test_the_newest_reading_of_the_weather_is_that_of_the_instant(settings: Settings) -> None:
    race = race_data(settings, RACE)
    readings = [race.weather(minute(at)) for at in (-6, 1, 3)]
    assert readings[0] is None
    assert [reading.is_raining for reading in readings[1:] if reading] == [True, False]


def test_a_corrected_result_is_the_result(settings: Settings) -> None:
    race = race_data(settings, RACE)
    assert race.winner == "b"
    assert race.result_known_at == minute(300)
    assert [one["winner"]["driver_id"] for one in race_list(settings)] == ["b"]


def test_a_driver_who_is_not_among_the_entrants_has_a_name_of_his_id(settings: Settings) -> None:
    assert race_data(settings, RACE).entrant("nobody_known").name == "Nobody Known"


def test_a_replaced_table_is_read_again(settings: Settings) -> None:
    before = race_data(settings, RACE)
    assert race_data(settings, RACE) is before
    path = settings.features_dir / "race_result.parquet"
    pd.read_parquet(path).iloc[:2].to_parquet(path, index=False)
    assert race_data(settings, RACE).winner == "a"


def written(settings: Settings, **columns: Any) -> dict[str, dict[str, Any]]:
    pq.write_table(pa.table(columns), settings.features_dir / "view.parquet")
    return distributions(settings, "view")


def test_numbers_have_histograms_and_words_are_counted(settings: Settings) -> None:
    shapes = written(
        settings,
        number=pa.array([1.0, 2.0, None, float("nan"), 5.0]),
        word=pa.array(["b", "a", "b", None, "b"]),
        flag=pa.array([True, False, True, True, None]),
        many=pa.array([[1.0, 2.0], None, [], [3.0], [float("nan")]]),
        nothing=pa.array([None] * 5, pa.float64()),
        driver_id=pa.array(list("abcde")),
    )
    assert set(shapes) == {"number", "word", "flag", "many", "nothing"}, "keys and times are no features"
    assert shapes["number"]["missing"] == 0.4
    assert (sum(shapes["number"]["counts"]), len(shapes["number"]["counts"])) == (3, BINS)
    assert (shapes["number"]["edges"][0], shapes["number"]["edges"][-1]) == (1, 5)
    assert shapes["word"] == {"sampled": 5, "missing": 0.2, "values": ["b", "a"], "counts": [3, 1]}
    assert shapes["flag"]["values"] == ["True", "False"]
    assert (shapes["many"]["missing"], sum(shapes["many"]["counts"])) == (0.2, 3)
    assert shapes["nothing"] == {"sampled": 5, "missing": 1.0, "counts": [], "edges": []}


def test_rare_words_are_counted_together(settings: Settings) -> None:
    shape = written(settings, word=pa.array([letter for at, letter in enumerate("abcdefghij") for _ in range(20 - at)]))["word"]
    assert shape["values"] == [*"abcdefgh", "other"]
    assert shape["counts"][-1] == 12 + 11


def test_a_long_table_is_sampled_evenly(settings: Settings) -> None:
    n_rows = 3 * SAMPLED_ROWS + 7
    shape = written(settings, number=pa.array(range(n_rows), pa.int64()))["number"]
    assert shape["sampled"] == -(-n_rows // 4)
    assert max(shape["counts"]) - min(shape["counts"]) <= 1


def test_a_view_without_a_table_has_no_distributions(settings: Settings) -> None:
    assert distributions(settings, "absent") == {}


def scored(name: str, hits: int) -> dict[str, Any]:
    races = [{"race_id": f"{season}_01", "hits": hits, "n_rows": 20} for season in (2023, 2024)]
    return {"name": name, "metrics": {"accuracy": hits / 20, "mae": 2.0}, "races": races}


def record(**inputs: Any) -> dict[str, Any]:
    decision = {
        "promote": True, "reasons": [], "relative_gain": 0.5, "gain_low": 0.1, "gain_high": 0.9,
        "checks": [
            {"name": "gain_over_baseline", "limit": 0.05, "passed": True, "message": "more", "value": 0.5},
            {"name": "gain_bound", "limit": 0.0, "passed": True, "message": "above", "value": 0.12},
        ],
    }  # fmt: skip
    return {"decision": decision, "inputs": {"candidate": scored("new", 6), "baseline": scored("old", 4), **inputs}}


def test_a_record_is_summed_up_with_its_gain_slices_and_models() -> None:
    summary = decision_summary(record(trivial=[scored("grid_order", 2)], champion=scored("now", 5)), None)
    assert summary["gain"] == {"estimate": 0.5, "low": 0.1, "high": 0.9, "limit": 0.05, "bound": 0.12}
    assert list(summary["metrics"]) == ["new", "old", "now", "grid_order"]
    assert summary["slices"]["2024"] == {"new": 0.3, "old": 0.2, "now": 0.25, "grid_order": 0.1}
    assert (summary["n_races"], summary["controls"]) == (2, [])


def test_controls_come_from_the_evaluation_of_that_very_model_only(settings: Settings) -> None:
    gain = {"estimate": 0.4, "low": 0.2, "high": None}
    evaluation = {
        "candidate": {"name": "new", "accuracy": 0.3, "mae": 2.0},
        "comparisons": {"candidate_vs_blank": {"accuracy": gain}, "candidate_vs_broken": {"accuracy": {"estimate": None}}},
    }
    assert model_board._evaluation(settings, record()) is None, "there is no report yet"
    settings.reports_dir.mkdir()
    write_json(settings.reports_dir / "evaluation.json", evaluation)
    found = model_board._evaluation(settings, record())
    assert decision_summary(record(), found)["controls"] == [{"name": "blank", **gain}]
    assert model_board._evaluation(settings, record(candidate=scored("new", 7))) is None
    assert model_board._evaluation(settings, record(candidate=scored("other", 6))) is None
