"""The generator: one picture or many, and a batch that goes on past what cannot be drawn."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from feature_repo.errors import InvalidIdError
from ml.errors import InvalidLapDataError
from ml.traces.generator import SpeedTraceGenerator

GOOD = [180.0, 200.0, 201.0, 199.0]


@pytest.mark.parametrize("lap_data", [GOOD, [200.0], [200.0] * 100, {1: 180.0, 7: 200.0}, [0.0, 0.0, 0.0], [200.0, 5.0, 201.0]])
def test_one_picture(tmp_path: Path, lap_data: object) -> None:
    generator = SpeedTraceGenerator(tmp_path)
    path = generator.generate_trace("2024_08", "norris", lap_data)
    assert path == tmp_path / "2024_08" / "norris.png"
    first = path.read_bytes()
    assert Image.open(io.BytesIO(first)).size == (800, 600)
    assert generator.generate_trace("2024_08", "norris", lap_data).read_bytes() == first
    assert SpeedTraceGenerator(tmp_path / "other").generate_trace("2024_08", "norris", lap_data).read_bytes() == first


@pytest.mark.parametrize("lap_data", [[], None, [None], ["fast"], [float("nan")], [-3.0], pd.DataFrame()])
def test_bad_lap_data_is_an_error_and_writes_nothing(tmp_path: Path, lap_data: object) -> None:
    with pytest.raises(InvalidLapDataError, match="2024_08 norris"):
        SpeedTraceGenerator(tmp_path).generate_trace("2024_08", "norris", lap_data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("race_id", "driver_id"), [("../../etc", "norris"), ("2024_08", "../passwd"), ("2024_8", "norris"), ("2024_08", "")]
)
def test_hostile_ids_never_touch_a_path(tmp_path: Path, race_id: str, driver_id: str) -> None:
    with pytest.raises(InvalidIdError):
        SpeedTraceGenerator(tmp_path / "out").generate_trace(race_id, driver_id, GOOD)
    assert not list(tmp_path.iterdir())


def test_batch_goes_on_past_bad_drivers_and_races(tmp_path: Path) -> None:
    races = {
        "2024_08": {"norris": GOOD, "piastri": [float("nan")], "../x": GOOD},
        "2024_09": {"norris": []},
        "../../etc": {"norris": GOOD},
        "2024_10": None,
        "2024_11": {"alonso": GOOD},
    }
    seen: list[tuple[str, int, int]] = []
    paths = SpeedTraceGenerator(tmp_path).generate_batch(races, progress=lambda *step: seen.append(step))
    assert sorted(paths) == ["2024_08_norris", "2024_11_alonso"]
    assert all(path.is_file() for path in paths.values())
    assert seen == [("traces", 1, 2), ("traces", 2, 2)]
    skipped = json.loads((tmp_path / "skipped_races.json").read_text())
    assert sorted(skipped) == ["../../etc", "2024_09", "2024_10"]
    log = [json.loads(line) for line in (tmp_path / "generation_errors.log").read_text().splitlines()]
    assert {(line["race_id"], line["driver_id"]) for line in log} >= {
        ("2024_08", "piastri"),
        ("2024_08", "../x"),
        ("2024_09", "norris"),
    }
    assert all(line["message"] and line["error"] for line in log)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "2024_08",
        "2024_11",
        "generation_errors.log",
        "skipped_races.json",
    ]


def test_a_repaired_race_leaves_the_skipped_list(tmp_path: Path) -> None:
    generator = SpeedTraceGenerator(tmp_path)
    generator.generate_batch({"2024_08": {}, "2024_09": {}})
    generator.generate_batch({"2024_08": {"norris": GOOD}})
    assert list(json.loads((tmp_path / "skipped_races.json").read_text())) == ["2024_09"]


def test_axes_are_common_to_a_race_and_a_bad_car_does_not_move_them(tmp_path: Path) -> None:
    cars = {"norris": GOOD, "piastri": [value - 5 for value in GOOD]}
    together = SpeedTraceGenerator(tmp_path / "a").generate_batch({"2024_08": cars}, scheduled_laps={"2024_08": 50})
    with_bad = SpeedTraceGenerator(tmp_path / "b").generate_batch(
        {"2024_08": {**cars, "sainz": [-1.0]}}, scheduled_laps={"2024_08": 50}
    )
    alone = SpeedTraceGenerator(tmp_path / "c").generate_trace("2024_08", "norris", GOOD)
    assert together["2024_08_norris"].read_bytes() == with_bad["2024_08_norris"].read_bytes()
    assert together["2024_08_norris"].read_bytes() != alone.read_bytes()


def test_two_processes_give_the_same_bytes(tmp_path: Path) -> None:
    races = {f"2024_{n:02d}": {"norris": GOOD, "alonso": [180.0 + n] * 5} for n in range(1, 4)}
    here = SpeedTraceGenerator(tmp_path / "a").generate_batch(races)
    there = SpeedTraceGenerator(tmp_path / "b").generate_batch(races, processes=2)
    assert {key: path.read_bytes() for key, path in here.items()} == {key: path.read_bytes() for key, path in there.items()}
