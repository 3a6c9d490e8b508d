"""Skew replay on the loop's own races: live predictions and lookups are what history gives, and ranges are the champion's."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from loop_home import candidate_predictor, copy_of
from loop_setup import MLFLOW_WARNS, Loop
from skew_home import SERVED_AT, SERVICE, Answer, answer, log_answers

from feature_repo.feature_log_files import log_folder, logged_services
from feature_repo.files import read_parquet, write_parquet
from feature_repo.settings import Settings
from feature_repo.spine import Moment, entity_frame
from feature_repo.store import feature_names, get_service, open_store, views_of
from feature_repo.visibility import EVENT, visible
from pipelines.candidates import CANDIDATE
from pipelines.features.tables import SPINE_TABLES
from pipelines.materialize import materialize
from pipelines.registry import move_champion, open_registry, registry_lock
from pipelines.skew import skew
from pipelines.skew_report import ServiceSkew
from serving.lookup import lookup

RACE = "2024_02"
pytestmark = [pytest.mark.filterwarnings(MLFLOW_WARNS)]


@pytest.fixture(scope="module")
def home(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The loop's home after every race, with the trained candidate as champion."""
    settings = copy_of(loop, tmp_path_factory.mktemp("skew") / "home")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with registry_lock(settings):
            move_champion(open_registry(settings), expected=None, new="2", reason="promote")
    return settings


@pytest.fixture(scope="module")
def half_way(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home in which the race is half over: nothing later is known or online yet; what is served is logged."""
    settings = copy_of(loop, tmp_path_factory.mktemp("live") / "home").model_copy(update={"log_features": True})
    as_of = half_of(settings, RACE)
    for path in settings.features_dir.glob("*.parquet"):
        if path.stem not in SPINE_TABLES:
            table = read_parquet(path)
            write_parquet(path, table[visible(table, as_of)].reset_index(drop=True))
    materialize(settings, rebuild=True)
    return settings


def half_of(settings: Settings, race_id: str) -> pd.Timestamp:
    return entity_frame(settings, Moment.parse("fraction:0.5"), [race_id])[EVENT].iloc[0]


def found(settings: Settings, answers: list[Answer]) -> ServiceSkew:
    """The report about a fresh log of these answers."""
    shutil.rmtree(log_folder(settings, SERVICE), ignore_errors=True)
    log_answers(settings, open_store(settings), answers)
    return skew(settings, since=SERVED_AT, service=SERVICE).service(SERVICE)


def test_live_predictions_and_lookups_are_what_history_gives_when_the_race_is_over(
    loop: Loop, half_way: Settings, home: Settings
) -> None:
    predictor = candidate_predictor(half_way, model=loop.settings.models_dir / CANDIDATE)
    predictor.predict_live(RACE)
    for log in predictor._logs:
        assert log is not None
        log.close()
    predicted = pd.Timestamp.now(tz="UTC")
    clock = half_of(half_way, RACE) + pd.Timedelta(minutes=2)
    drivers = list(entity_frame(half_way, Moment.parse("pre_race"), [RACE])["driver_id"])
    for driver in drivers[:3]:
        lookup(half_way, race_id=RACE, driver_id=driver, now=clock)
    assert logged_services(half_way) == [SERVICE, "speed_trace_v1"]
    then = skew(half_way, since="2000-01-01")
    assert then.service(SERVICE).vectors == len(drivers) + 3

    # When all of the race is known, history as of the moment is still the same.
    shutil.rmtree(home.home / "feature_log", ignore_errors=True)
    shutil.copytree(half_way.home / "feature_log", home.home / "feature_log")
    later = skew(home, since="2000-01-01", until=predicted)
    assert later.service(SERVICE).vectors == len(drivers)
    for report in (then, later):
        assert report.within_limit
        served = report.service(SERVICE)
        assert (served.mismatches, served.wrong_keys, served.future_rows, served.problems) == (0, 0, 0, ())
        assert all(line.inexact == 0 for line in served.features)
        assert report.service("speed_trace_v1").mismatches == 0

    # The lookups of two minutes later were answered before the laps of those minutes had come in: history has them by now.
    stale = skew(home, since=predicted).service(SERVICE)
    assert stale.vectors == 3
    assert stale.view("tire_state").older >= 1
    assert 30 < stale.view("tire_state").largest_lag_s <= 240
    assert stale.view("driver_form").older == 0


def test_no_race_of_the_loop_differs_and_none_is_outside_the_champions_training(home: Settings) -> None:
    """At the moment the model was trained at, on the races it was trained on: its own ranges hold."""
    store = open_store(home)
    races = entity_frame(home, Moment.parse("fraction:0.5")).groupby("race_id")[EVENT].first()
    report = found(home, [answer(home, store, race_id, moment) for race_id, moment in races.items()])
    assert report.vectors >= 12 * 15
    assert report.cells == report.vectors * len(feature_names(store, SERVICE))
    assert (report.mismatches, report.wrong_keys, report.future_rows, report.problems) == (0, 0, 0, ())
    assert report.ranges_from == "champion version 2"
    assert {line.name: line.out_of_range for line in report.features if line.out_of_range} == {}
    assert [line.name for line in report.features if line.constant] == []


def test_a_bug_of_one_view_is_named_by_its_features_only(home: Settings) -> None:
    """In every view in turn its first number is served a little wrong, then the view of a lap ago, then that of another car."""
    store = open_store(home)
    said = answer(home, store, RACE, half_of(home, RACE))
    views = views_of(store, get_service(store, SERVICE))
    for _, names in views:
        number = next(name for name in names if said.frame[name].dtype.kind == "f" and said.frame[name].notna().any())
        report = found(home, [said.with_cells(number, lambda values: values * 1.001 + 0.01)])
        assert {line.name for line in report.features if line.mismatches} == {number}
        assert report.feature(number).mismatches == int(said.frame[number].notna().sum())
        assert not report.within_limit
        assert report.problems[0].startswith(f"{number}: ")


def test_a_grid_served_from_the_rows_of_an_hour_earlier_or_of_the_next_car_is_seen(home: Settings) -> None:
    store = open_store(home)
    moment = half_of(home, RACE)
    said = answer(home, store, RACE, moment)
    earlier = found(home, [answer(home, store, RACE, moment - pd.Timedelta(minutes=10)).about(moment)])
    assert earlier.view("tire_state").older >= 15
    assert earlier.view("tire_state").largest_lag_s > 300
    assert earlier.feature("tire_life_laps").mismatches >= 15
    assert (earlier.wrong_keys, earlier.future_rows) == (0, 0)

    next_car = np.roll(np.arange(len(said.frame)), 1)
    rolled = said.frame.iloc[next_car].reset_index(drop=True).assign(driver_id=said.frame["driver_id"])
    report = found(home, [Answer(rolled, said.entity_rows, said.event_us[next_car], moment)])
    assert report.wrong_keys == len(said.frame)
    assert report.keys == {"circuit_id": 0, "constructor_id": 0, "driver_id": 0, "race_id": 0}
    assert report.view("driver_form").wrong_key == len(said.frame)
    assert report.view("circuit_profile").wrong_key == 0, "all cars are at one circuit"


def test_a_champion_is_asked_for_its_ranges_whatever_was_trained_since(home: Settings, tmp_path: Path) -> None:
    (home.models_dir / CANDIDATE).mkdir(parents=True)
    (home.models_dir / CANDIDATE / "served_model.json").write_text('{"features": []}', encoding="utf-8")
    report = found(home, [answer(home, open_store(home), RACE, half_of(home, RACE))])
    assert report.ranges_from == "champion version 2"
