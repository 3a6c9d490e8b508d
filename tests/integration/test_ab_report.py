"""Champion against challenger on logged answers: paired by race and moment, a race once, and no conclusion from too few."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from loop_home import copy_of, one_object
from loop_setup import MLFLOW_WARNS, Loop, Pitwall
from numpy.typing import NDArray

from feature_repo.files import read_parquet, write_parquet
from feature_repo.parquet_log import log_files, write_log_file
from feature_repo.settings import Settings
from feature_repo.spine import load_moments
from ml.assignment import assign_positions
from ml.statistics import difference
from serving.ab import AbReport, NothingToCompareError, ab_report
from serving.prediction_log import SCHEMA, prediction_log_folder

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

SERVED = pd.Timestamp("2026-03-01T12:00:00Z")
SURE, UNSURE = 1.5, 6.0
"""How wide a model's distribution is around the truth, places."""


@pytest.fixture(scope="module")
def races(loop: Loop) -> dict[str, pd.DataFrame]:
    """race_id -> driver_id and finish_position, the published result; twelve races."""
    results = read_parquet(loop.settings.features_dir / "race_result.parquet")
    newest = results.sort_values("created_timestamp").drop_duplicates(["race_id", "driver_id"], keep="last")
    return {str(race): rows.sort_values("driver_id") for race, rows in newest.groupby("race_id")}


@pytest.fixture
def home(loop: Loop, tmp_path: Path) -> Settings:
    """A copy of the loop's home with an empty log."""
    return copy_of(loop, tmp_path / "home")


def around(position: NDArray[np.int64], width: float, seed: int = 0) -> NDArray[np.float64]:
    """(N, 20) distributions around the true places, off by some noise."""
    centre = position + np.random.default_rng(seed).normal(0, width, len(position))
    weights = np.exp(-0.5 * ((np.arange(1, 21)[None, :] - centre[:, None]) / width) ** 2) + 1e-6
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def log(
    settings: Settings,
    race: pd.DataFrame,
    role: str,
    width: float,
    *,
    lap: int = 10,
    seed: int = 0,
    served_at: pd.Timestamp = SERVED,
    version: str | None = None,
    **changes: Any,
) -> NDArray[np.float64]:
    """Log one answer about a race; returns its probabilities."""
    race_id, position = str(race["race_id"].iloc[0]), race["finish_position"].to_numpy()
    probabilities = around(position, width, seed)
    moments = load_moments(settings).query("race_id == @race_id").set_index("lap")["as_of"]
    common = {
        "request_id": "x", "served_at": served_at, "race_id": race_id, "simulated": True, "as_of": moments[lap], "lap": lap,
        "source": "offline", "model": "m", "model_version": version or {"champion": "2"}.get(role, "3"), "role": role,
        "saw_this_race": "no", "feature_service": "s", "features_sha256": "", "picture_sha256": None, "latency_ms": 1.0,
        "fallbacks": [],
    } | changes  # fmt: skip
    places = assign_positions(probabilities, np.zeros(len(position), dtype=np.int64))
    rows = [
        common | {"driver_id": driver, "place": int(place), "probabilities": list(map(float, chances)),
                  "expected_position": 0.0, "p_win": 0.0, "p_podium": 0.0, "p_points": 0.0}
        for driver, place, chances in zip(race["driver_id"], places, probabilities, strict=True)
    ]  # fmt: skip
    write_log_file(prediction_log_folder(settings), pa.Table.from_pylist(rows, SCHEMA), time="served_at")
    return probabilities


def only(report: AbReport) -> Any:
    assert len(report.comparisons) == 1
    return report.comparisons[0]


def rps(probabilities: NDArray[np.float64], position: NDArray[np.int64]) -> float:
    """By its definition, one driver and threshold at a time."""
    sums = [
        sum((chances[:place].sum() - (finish <= place)) ** 2 for place in range(1, 20)) / 19
        for chances, finish in zip(probabilities, position, strict=True)
    ]
    return float(np.mean(sums))


@pytest.mark.parametrize("role", ["challenger", "shadow"])
def test_a_sharper_challenger_is_found_better_by_numbers_computed_here(
    home: Settings, races: dict[str, pd.DataFrame], role: str
) -> None:
    ours: dict[str, list[list[float]]] = {"rps": [], "log_loss": [], "mae": [], "exact": []}
    for number, race in enumerate(races.values()):
        position = race["finish_position"].to_numpy()
        found = [log(home, race, who, width, seed=number) for who, width in (("champion", UNSURE), (role, SURE))]
        places = [assign_positions(one, np.zeros(len(position), dtype=np.int64)) for one in found]
        ours["rps"].append([rps(one, position) for one in found])
        ours["log_loss"].append([float(-np.log(one[np.arange(20), position - 1]).mean()) for one in found])
        ours["mae"].append([float(np.abs(place - position).mean()) for place in places])
        ours["exact"].append([float((place == position).mean()) for place in places])
    report = ab_report(home)
    said = only(report)
    assert (said.n_races, said.n_moments, said.n_rows) == (12, 12, 240)
    assert (said.champion.version, said.other.role, said.other.version) == ("2", role, "3")
    cars = np.full(12, 20)
    for name, pairs in ours.items():
        champions, others = np.array(pairs).T
        metric = said.metrics[name]
        assert (metric.champion, metric.other) == pytest.approx((champions.mean(), others.mean()))
        expected = difference(others * cars, champions * cars, cars)
        assert (metric.gap.estimate, metric.gap.low, metric.gap.high) == pytest.approx(
            (expected.estimate, expected.low, expected.high)
        )
        assert metric.better == role, name
    assert said.conclusion.startswith(f"the {role} version 3 is better on 12 races: rps -")


def test_equal_models_differ_by_nothing_and_a_worse_one_loses(home: Settings, races: dict[str, pd.DataFrame]) -> None:
    for number, race in enumerate(races.values()):
        log(home, race, "champion", SURE, seed=number)
        log(home, race, "challenger", SURE, seed=number)
        log(home, race, "shadow", UNSURE, seed=number, version="4")
    one, two = sorted(ab_report(home).comparisons, key=lambda comparison: comparison.other.role)
    assert (one.other.role, two.other.role) == ("challenger", "shadow")
    assert one.conclusion.startswith("no difference shown on 12 races")
    assert {metric.gap.estimate for metric in one.metrics.values()} == {0.0}
    assert {metric.better for metric in one.metrics.values()} == {None}
    assert two.conclusion.startswith("the champion is better on 12 races")


def test_too_few_races_conclude_nothing(home: Settings, races: dict[str, pd.DataFrame]) -> None:
    for race in list(races.values())[:11]:
        for role, width in (("champion", UNSURE), ("challenger", SURE)):
            log(home, race, role, width)
    said = only(ab_report(home))
    assert said.conclusion == "no conclusion: 11 races with a known result, at least 12 are needed"
    assert said.metrics["rps"].gap.high < 0, "the numbers are shown"
    assert {metric.better for metric in said.metrics.values()} == {None}, "nobody is called better"


def test_a_race_counts_once_however_often_it_was_asked_about(home: Settings, races: dict[str, pd.DataFrame]) -> None:
    for number, race in enumerate(races.values()):
        for role, width in (("champion", UNSURE), ("challenger", SURE)):
            log(home, race, role, width, seed=number)
    before = only(ab_report(home)).metrics
    first = next(iter(races.values()))
    for second in range(5):
        for role, width in (("champion", UNSURE), ("challenger", SURE)):
            log(home, first, role, width, served_at=SERVED + pd.Timedelta(seconds=second))
    assert only(ab_report(home)).metrics == before
    position = first["finish_position"].to_numpy()
    later = [log(home, first, role, 4.0, lap=20, seed=99) for role in ("champion", "challenger")]
    after = only(ab_report(home))
    assert (after.n_races, after.n_moments, after.n_rows) == (12, 13, 240)
    first_race = [rps(around(position, width), position) for width in (UNSURE, SURE)]
    halves = [(rps(one, position) - old) / 2 / 12 for one, old in zip(later, first_race, strict=True)]
    assert after.metrics["rps"].champion - before["rps"].champion == pytest.approx(halves[0])
    assert after.metrics["rps"].other - before["rps"].other == pytest.approx(halves[1])


def test_what_is_no_test_of_both_is_left_out(home: Settings, races: dict[str, pd.DataFrame]) -> None:
    learnt, waiting, after, alone, apart, good = list(races.values())[:6]
    for role in ("champion", "challenger"):
        log(home, learnt, role, SURE, saw_this_race="training" if role == "champion" else "no")
        log(home, waiting, role, SURE)
        log(home, after, role, SURE, as_of=after["event_timestamp"].max() + pd.Timedelta(days=1))
        log(home, apart, role, SURE, lap=10 if role == "champion" else 11)
        log(home, good, role, SURE)
    log(home, alone, "champion", SURE)
    log(home, good, "baseline", SURE)
    results = read_parquet(home.features_dir / "race_result.parquet")
    unknown = str(waiting["race_id"].iloc[0])
    write_parquet(home.features_dir / "race_result.parquet", results[results["race_id"] != unknown].reset_index(drop=True))
    report = ab_report(home)
    said = only(report)
    assert (said.n_races, said.n_moments) == (1, 1)
    assert said.waiting == [unknown]
    assert said.learnt_from == [learnt["race_id"].iloc[0]]
    assert said.metrics == {}
    assert {arm["role"]: arm["answers"] for arm in report.arms} == {"champion": 6, "challenger": 5}


def test_part_of_the_field_is_compared_on_the_cars_both_spoke_of(home: Settings, races: dict[str, pd.DataFrame]) -> None:
    race = next(iter(races.values()))
    log(home, race, "champion", SURE)
    log(home, race.iloc[4:9], "challenger", SURE)
    assert only(ab_report(home)).n_rows == 5
    log(home, race, "challenger", SURE, served_at=SERVED - pd.Timedelta(hours=1))
    assert only(ab_report(home)).n_rows == 20, "an answer about the whole field counts before a part of it"


def test_the_window_the_damaged_file_and_what_was_dropped(home: Settings, races: dict[str, pd.DataFrame]) -> None:
    for number, race in enumerate(races.values()):
        for role in ("champion", "challenger"):
            log(home, race, role, SURE, served_at=SERVED + pd.Timedelta(days=number))
    folder = prediction_log_folder(home)
    report = ab_report(home, since=SERVED + pd.Timedelta(days=2), until=SERVED + pd.Timedelta(days=4))
    assert only(report).n_races == 3
    assert report.dropped_until is None
    log_files(folder)[0].path.write_bytes(b"PAR1")
    (folder / "dropped.json").write_text(f'{{"files": 1, "rows": 20, "until_us": {SERVED.value // 1000}}}')
    report = ab_report(home)
    assert only(report).n_races == 11
    assert report.unreadable == [log_files(folder)[0].path.name]
    assert report.dropped_until == SERVED


def test_the_command(pitwall: Pitwall, home: Settings, races: dict[str, pd.DataFrame]) -> None:
    nothing = pitwall("ab-report", home=home.home)
    assert nothing.code == 1
    assert "PITWALL_CHALLENGER_SHARE" in nothing.err
    with pytest.raises(NothingToCompareError):
        ab_report(home)
    for number, race in enumerate(races.values()):
        for role, width in (("champion", UNSURE), ("challenger", SURE)):
            log(home, race, role, width, seed=number)
    said = pitwall("ab-report", "--json", home=home.home)
    assert said.code == 0, said.err
    report = one_object(said.out)
    assert report["comparisons"][0]["metrics"]["rps"]["gap"]["n_races"] == 12
    shown = pitwall("ab-report", "--since", "2026-03-01T00:00:00Z", home=home.home)
    assert "12 races, 12 moments, 240 cars" in " ".join(shown.out.split())
    assert "the challenger version 3 is better" in " ".join(shown.out.split())
    wrong = pitwall("ab-report", "--since", "2026-03-02", "--until", "2026-03-01", home=home.home)
    assert wrong.code == 2
