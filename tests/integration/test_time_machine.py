"""Answers about past instants are those that would have been given then, corrections included."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from leak_home import corrected_result
from loop_home import candidate_predictor, copy_of, one_object
from loop_setup import MLFLOW_WARNS, Loop, Pitwall

from feature_repo.errors import FutureMomentError, NotKnownYetError
from feature_repo.files import read_parquet, write_parquet
from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_moments, newest_known
from feature_repo.visibility import CREATED, EVENT, visible
from ml.served_model import ServedModel
from pipelines import schemas
from pipelines.candidates import CANDIDATE
from pipelines.features.build import build_features
from pipelines.lake import Lake
from serving.errors import NoModelError
from serving.lookup import lookup
from serving.prediction import Prediction
from serving.predictor import Predictor

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

RACE, BEFORE = "2024_03", "2024_02"


@dataclass(frozen=True)
class Times:
    """Instants of the race asked about."""

    qualifying: pd.Timestamp
    grid: pd.Timestamp
    start: pd.Timestamp
    result: pd.Timestamp
    laps: dict[int, pd.Timestamp]


@pytest.fixture(scope="module")
def times(loop: Loop) -> Times:
    grid = read_parquet(loop.settings.features_dir / "grid.parquet").query("race_id == @RACE")[CREATED]
    moments = load_moments(loop.settings).query("race_id == @RACE")
    result = read_parquet(loop.settings.features_dir / "race_result.parquet").query("race_id == @RACE")[CREATED].max()
    laps = dict(zip(moments["lap"], moments["as_of"], strict=True))
    return Times(grid.min(), grid.max(), moments["race_start"].iloc[0], result, laps)


@pytest.fixture(scope="module")
def candidate(loop: Loop) -> Predictor:
    return candidate_predictor(loop.settings)


def answer(said: Prediction) -> dict[str, Any]:
    """An answer without how its moment was put and what is remarked on that."""
    found = said.to_json()
    return {name: found[name] for name in ("race_id", "simulated", "missing", "drivers", "source")} | {
        "lap": found["moment"]["lap"], "as_of": found["moment"]["as_of"]
    }  # fmt: skip


@pytest.mark.parametrize("lap", [0, 1, 13, 27])
def test_the_instant_of_a_lap_is_that_lap_bit_for_bit(candidate: Predictor, times: Times, lap: int) -> None:
    at_lap = candidate.predict(RACE, Moment.parse(f"lap:{lap}"))
    at_instant = candidate.predict(RACE, Moment.at(times.laps[lap]))
    assert answer(at_instant) == answer(at_lap)
    assert at_instant.moment["asked"].startswith("at:2024-")


def test_within_a_lap_only_what_was_completed_counts(candidate: Predictor, times: Times) -> None:
    just_before = candidate.predict(RACE, Moment.at(times.laps[13] - pd.Timedelta(microseconds=1)))
    assert just_before.moment["lap"] == 12
    assert answer(just_before)["drivers"] != answer(candidate.predict(RACE, Moment.at(times.laps[13])))["drivers"]
    first = candidate.predict(RACE, Moment.at(times.start + pd.Timedelta(seconds=30)))
    assert (first.moment["lap"], len(first.missing["pictures"])) == (0, 20)


def test_before_the_race_the_answer_knows_qualifying_and_then_the_grid(candidate: Predictor, times: Times) -> None:
    before_grid = candidate.predict(RACE, Moment.at(times.grid - pd.Timedelta(microseconds=1)))
    with_grid = candidate.predict(RACE, Moment.at(times.grid))
    assert len(before_grid.missing["features"]["grid_position"]) == 20
    assert "grid_position" not in with_grid.missing["features"]
    assert "grid_qualifying_position" not in before_grid.missing["features"]
    with pytest.raises(NotKnownYetError, match=re.escape(f"known from {times.qualifying.isoformat()}")):
        candidate.predict(RACE, Moment.at(times.qualifying - pd.Timedelta(microseconds=1)))
    with pytest.raises(NotKnownYetError):
        candidate.predict(RACE, Moment.parse("at:1990-01-01T00:00:00Z"))


def test_after_the_result_the_answer_says_that_it_knows_it(candidate: Predictor, times: Times) -> None:
    before, after = (candidate.predict(RACE, Moment.at(times.result - pd.Timedelta(microseconds=us))) for us in (1, 0))
    assert not any("result of this race was published" in note for note in before.notes)
    assert any("result of this race was published" in note for note in after.notes)


def test_instants_ahead_are_refused(candidate: Predictor, loop: Loop) -> None:
    with pytest.raises(FutureMomentError, match="expected an instant in the past"):
        candidate.predict(RACE, Moment.at(pd.Timestamp.now("UTC") + pd.Timedelta(hours=1)))
    with pytest.raises(FutureMomentError, match="ingest newer races"):
        candidate.predict(RACE, Moment.at(newest_known(loop.settings) + pd.Timedelta(days=2)))
    driver = next(iter(candidate.predict(RACE).drivers)).driver_id
    with pytest.raises(FutureMomentError):
        lookup(loop.settings, race_id=RACE, driver_id=driver, as_of=pd.Timestamp.now("UTC") + pd.Timedelta(days=1))


@pytest.fixture(scope="module")
def cut(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home whose feature tables a test cuts off at an instant."""
    return copy_of(loop, tmp_path_factory.mktemp("cut") / "home")


@hypothesis_settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), lap=st.integers(-1, 30), gone=st.booleans())
def test_what_came_after_the_instant_changes_nothing(
    loop: Loop, cut: Settings, times: Times, candidate: Predictor, share: float, lap: int, gone: bool
) -> None:
    """Rows after it are deleted, or every number in them is changed; from qualifying to lap 31."""
    begin, end = (times.qualifying, times.start) if lap < 0 else (times.laps[lap], times.laps[lap + 1])
    as_of = (begin + share * (end - begin)).floor("us")
    for path in sorted(loop.settings.features_dir.glob("*.parquet")):
        table = read_parquet(path)
        known = table["known_at"] <= as_of if path.stem == "moments" else visible(table, as_of) if EVENT in table else None
        if known is None:
            continue
        later = table[~known].copy()
        for column in later.select_dtypes(["float32", "float64"]):
            later[column] = later[column] + 17
        for column in {"driver_name", "constructor_id", "name", "scheduled_laps"} & set(later.columns):
            later[column] = later[column] + (3 if column == "scheduled_laps" else "_other")
        write_parquet(
            cut.features_dir / path.name, table[known] if gone else pd.concat([table[known], later.astype(table.dtypes)])
        )
    moment = Moment.at(as_of)
    then = candidate.predict(RACE, moment)
    model = loop.settings.models_dir / CANDIDATE
    assert candidate_predictor(cut, model=model).predict(RACE, moment) == then
    ids = {"race_id": RACE, "driver_id": then.drivers[0].driver_id, "as_of": as_of}
    for service in ("finish_position_v1", "race_state_v1", "race_result_v1"):
        assert lookup(cut, service=service, **ids) == lookup(loop.settings, service=service, **ids)


def test_a_corrected_result_is_seen_from_its_publication_on(
    loop: Loop, times: Times, candidate: Predictor, tmp_path: Path
) -> None:
    """The race before is corrected while this one is on: the winner is disqualified between laps 10 and 11."""
    settings = copy_of(loop, tmp_path / "home")
    lake = Lake(settings.lake_dir)
    frames = {name: lake.read(name) for name in schemas.TABLES}
    first = frames["entries"].query("race_id == @BEFORE and position_order == 1").iloc[0]
    published = times.laps[10] + pd.Timedelta(seconds=30)
    corrected = corrected_result(frames, BEFORE, first["driver_id"], after=published - first[CREATED])
    entries = corrected["entries"]
    lake.write("entries", 2024, entries[entries["season"] == 2024])
    build_features(settings)
    now = candidate_predictor(settings, model=loop.settings.models_dir / CANDIDATE)
    for instant in (times.laps[10], published - pd.Timedelta(microseconds=1)):
        assert now.predict(RACE, Moment.at(instant)) == candidate.predict(RACE, Moment.at(instant))
    for instant in (published, times.laps[11]):
        assert now.predict(RACE, Moment.at(instant)).drivers != candidate.predict(RACE, Moment.at(instant)).drivers
    ids = {"race_id": RACE, "driver_id": first["driver_id"]}
    last_finish = [
        lookup(settings, as_of=published - pd.Timedelta(microseconds=us), **ids).features["driver_finish_mean_5"].value
        for us in (1, 0)
    ]
    assert last_finish[0] < last_finish[1], "a win became a last place"
    result = {"race_id": BEFORE, "driver_id": first["driver_id"], "service": "race_result_v1"}
    classified = [
        lookup(settings, as_of=published - pd.Timedelta(microseconds=us), **result).features["finish_position"].value
        for us in (1, 0)
    ]
    assert classified == [1, 20]


def test_a_name_that_is_corrected_later_changes_no_picture_of_before(
    loop: Loop, times: Times, candidate: Predictor, tmp_path: Path
) -> None:
    settings = copy_of(loop, tmp_path / "home")
    lake = Lake(settings.lake_dir)
    people = lake.read("drivers", [2024])
    late = people.assign(family_name="Other", **{CREATED: times.laps[20]})
    lake.write("drivers", 2024, pd.concat([people, late.astype(people.dtypes)]))
    build_features(settings)
    now = candidate_predictor(settings, model=loop.settings.models_dir / CANDIDATE)
    assert now.predict(RACE, Moment.at(times.laps[19])) == candidate.predict(RACE, Moment.at(times.laps[19]))
    assert now.predict(RACE, Moment.parse("lap:19")) == candidate.predict(RACE, Moment.parse("lap:19"))
    renamed = now.predict(RACE, Moment.at(times.laps[20]))
    assert renamed.drivers != candidate.predict(RACE, Moment.at(times.laps[20])).drivers, "titles are part of pictures"


def test_the_commands_answer_about_instants(loop: Loop, times: Times, pitwall: Pitwall) -> None:
    home = loop.settings.home
    at_lap = one_object(pitwall("predict", "--race", RACE, "--lap", "13", "--json", home=home).out)
    local = times.laps[13].tz_convert("Europe/Berlin").isoformat()
    found = one_object(pitwall("predict", "--race", RACE, "--as-of", local, "--json", home=home).out)
    assert (found["drivers"], found["missing"]) == (at_lap["drivers"], at_lap["missing"])
    assert found["moment"]["as_of"] == at_lap["moment"]["as_of"]
    note = next(note for note in found["notes"] if "the model is newer" in note)
    assert "version 1 was registered at" in note
    assert "learnt from races up to 2024_" in note
    assert not any("the model is newer" in note for note in at_lap["notes"])
    shown = pitwall("predict", "--race", "latest", "--as-of", times.laps[13].isoformat(), home=home)
    assert (shown.code, f"{RACE} SIMULATED at lap 13" in shown.out) == (0, True), "the latest race of then"
    value = one_object(pitwall("lookup", "--race", RACE, "--driver", found["drivers"][0]["driver_id"], "--as-of", local, "--json",
                               home=home).out)  # fmt: skip
    assert pd.Timestamp(value["as_of"]) == times.laps[13]


def test_another_version_can_be_asked(loop: Loop, times: Times, pitwall: Pitwall, candidate: Predictor) -> None:
    asked = ("predict", "--race", RACE, "--as-of", times.laps[13].isoformat())
    found = one_object(pitwall(*asked, "--model", "2", "--json", home=loop.settings.home).out)
    assert (found["model"]["name"], found["model"]["version"], found["model"]["role"]) == (CANDIDATE, "2", "version 2")
    expected = [vars(driver) for driver in candidate.predict(RACE, Moment.at(times.laps[13])).drivers]
    assert found["drivers"] == expected
    assert "this is version 2 as asked" in found["notes"][0]
    with pytest.raises(NoModelError, match="no version '9'"):
        Predictor.open(loop.settings, version="9")
    assert ServedModel(loop.settings.models_dir / CANDIDATE).name == CANDIDATE


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("predict", "--race", RACE, "--as-of", "2199-01-01T00:00:00Z"), 2, "expected an instant in the past"),
        (("lookup", "--race", RACE, "--driver", "bea_rowe", "--as-of", "2199-01-01"), 2, "expected an instant in the past"),
        (("predict", "--race", RACE, "--as-of", "2024-05-26T14:00 CEST"), 2, "expected a UTC instant"),
        (("predict", "--race", RACE, "--as-of", "now"), 2, "expected a UTC instant"),
        (("predict", "--race", RACE, "--as-of", "2024-03-24T12:00Z", "--lap", "3"), 2, "or --as-of alone"),
        (("predict", "--race", RACE, "--as-of", "2024-02-01T00:00:00Z"), 1, "no driver was known to take part"),
        (("lookup", "--race", RACE, "--driver", "bea_rowe", "--as-of", "2024-02-01"), 1, "no driver was known to take part"),
        (("predict", "--race", RACE, "--as-of", "2025-12-01T00:00:00Z"), 2, "ingest newer races"),
        (("predict", "--race", "latest", "--as-of", "1990-01-01"), 1, "no race was known yet"),
        (("predict", "--race", RACE, "--model", "77"), 1, "there is no version '77'"),
    ],
)
def test_what_cannot_be_told_is_an_error_that_says_what_next(
    loop: Loop, pitwall: Pitwall, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = pitwall(*arguments, home=loop.settings.home)
    assert (ended.code, ended.out) == (code, "")
    assert said in " ".join(ended.err.replace("│", " ").split())


def test_materializing_until_the_future_says_that_it_stops_now(loop: Loop, pitwall: Pitwall, tmp_path: Path) -> None:
    settings = copy_of(loop, tmp_path / "home")
    ended = pitwall("materialize", "--until", "2199-01-01T00:00:00Z", "--json", home=settings.home)
    assert ended.code == 0, ended.err
    assert "lies in the future: taken as now" in " ".join(ended.err.split())
    assert one_object(ended.out)["until"] < "2199"
    shutil.rmtree(settings.home)
