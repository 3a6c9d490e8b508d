"""Predictions about any moment of a race: whole, consistent, and the same through the predictor, MLflow and the command."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from loop_home import candidate_predictor, copy_of, registry_state
from loop_setup import MLFLOW_WARNS, Loop, loop_environment

from feature_repo.errors import InvalidIdError, InvalidMomentError, MissingInputError, UnknownEntityError
from feature_repo.files import read_parquet, write_parquet
from feature_repo.settings import Settings
from feature_repo.spine import Moment, entity_frame
from feature_repo.store import apply, historical
from feature_repo.visibility import EVENT, visible
from ml.served_model import decode_pictures, tabular_array
from ml.traces.store import ImageArtifactStore
from pipelines.candidates import CANDIDATE
from pipelines.features.tables import SPINE_TABLES
from pipelines.materialize import materialize
from pipelines.registry import move_champion, open_registry, registry_lock
from serving.errors import NoModelError, RaceOverError
from serving.prediction import Prediction
from serving.predictor import Predictor
from serving.race_clock import seconds_without_news
from serving.races import laps_of

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

RACE = "2024_03"
HALF = Moment.parse("fraction:0.5")


@pytest.fixture(scope="module")
def candidate(loop: Loop) -> Predictor:
    """The model that looks at pictures, whatever the gate said of it."""
    return candidate_predictor(loop.settings)


@pytest.fixture(scope="module")
def baseline(loop: Loop) -> Predictor:
    """What answers in a home without a champion."""
    return Predictor.open(loop.settings)


def check_whole(said: Prediction, n_cars: int = 20) -> None:
    """Every place goes to one driver; distributions are distributions and their sums are told rightly."""
    assert [driver.position for driver in said.drivers] == list(range(1, n_cars + 1))
    assert len({driver.driver_id for driver in said.drivers}) == n_cars
    for driver in said.drivers:
        chances = np.array(driver.probabilities)
        assert chances.shape == (20,)
        assert (chances >= 0).all()
        assert chances.sum() == pytest.approx(1, abs=1e-6)
        assert driver.p_win == chances[0]
        assert driver.p_podium == pytest.approx(chances[:3].sum())
        assert driver.p_points == pytest.approx(chances[:10].sum())
        assert driver.expected_position == pytest.approx(chances @ np.arange(1, 21))
    json.dumps(said.to_json(), allow_nan=False)


@pytest.mark.parametrize("moment", ["pre_race", "lap:0", "lap:1", "fraction:0.5", "fraction:1.0"])
def test_a_prediction_is_whole_at_any_moment(candidate: Predictor, moment: str) -> None:
    said = candidate.predict(RACE, Moment.parse(moment))
    check_whole(said)
    assert said.source == "offline"
    assert said.moment["asked"] == moment
    start = moment in ("pre_race", "lap:0")
    assert (said.moment["lap"] == 0) is start
    if start:
        assert len(said.missing["pictures"]) == 20, "nothing was driven yet"
        assert "tire_compound" in said.missing["features"]
    elif moment == "lap:1":
        assert len(said.missing["pictures"]) == 19, "only the leader has ended a lap"
    else:
        assert 0 < len(said.missing["pictures"]) < 5, "cars that never ended a lap, and no others"


def test_equal_moments_have_equal_answers(candidate: Predictor, loop: Loop) -> None:
    one, two = candidate.predict(RACE), candidate.predict(RACE, HALF)
    assert one == two
    lap = candidate.predict(RACE, Moment.parse(f"lap:{one.moment['lap']}"))
    assert [vars(driver) for driver in lap.drivers] == [vars(driver) for driver in one.drivers]
    assert lap.moment["as_of"] == one.moment["as_of"]


def test_what_was_driven_reaches_the_model(candidate: Predictor) -> None:
    start, later = candidate.predict(RACE, Moment.parse("lap:0")), candidate.predict(RACE, Moment.parse("lap:20"))
    assert {driver.driver_id: driver.probabilities for driver in start.drivers} != {
        driver.driver_id: driver.probabilities for driver in later.drivers
    }
    assert len(start.missing["features"]["tire_compound"]) == 20
    assert later.missing["features"]["tire_compound"] == later.missing["pictures"], "cars that never ended a lap"


def test_without_a_champion_the_baseline_answers_and_says_so(baseline: Predictor) -> None:
    said = baseline.predict(RACE)
    check_whole(said)
    assert (said.model.role, said.model.version, said.model.name) == ("baseline", "1", "ensemble")
    assert said.model.note == "there is no champion (none promoted, or rolled back): this is the tabular baseline"
    assert said.model.encoder is None
    assert said.missing["pictures"] == [], "a tabular model misses none"


def test_a_champion_answers_with_pictures_and_its_encoder(loop: Loop, candidate: Predictor, tmp_path: Path) -> None:
    """The champion of the registry gives, bit for bit, what the trained folder gives."""
    settings = copy_of(loop, tmp_path / "home")
    with registry_lock(settings):
        move_champion(open_registry(settings), expected=None, new="2", reason="promote")
    champion = Predictor.open(settings)
    assert (champion.model.role, champion.model.version, champion.model.note) == ("champion", "2", "")
    assert champion.model.encoder is not None
    assert champion.model.encoder["kind"] == "random"
    assert champion.predict(RACE).drivers == candidate.predict(RACE).drivers
    assert "champion" not in registry_state(loop.settings)["aliases"], "the other home is another registry"


@pytest.mark.parametrize("race_id", ["2022_01", "2024_03", "2024_04"])
def test_pictures_in_the_store_are_those_the_predictor_draws(loop: Loop, candidate: Predictor, race_id: str) -> None:
    spine = entity_frame(loop.settings, HALF, [race_id])
    drawn = candidate.pictures(race_id, historical(candidate.store, "speed_trace_v1", spine))
    store = ImageArtifactStore(loop.settings.multimodal_dir)
    stored = {record.driver_id: store.load(record) for record in store.records().values() if record.race_id == race_id}
    assert stored == {driver: png for driver, png in zip(spine["driver_id"], drawn, strict=True) if png is not None}
    assert len(stored) >= 15


def test_mlflow_gives_the_same_answer_in_a_fresh_process_and_enforces_the_signature(
    loop: Loop, candidate: Predictor, tmp_path: Path
) -> None:
    spine = entity_frame(loop.settings, HALF, [RACE])
    tabular = tabular_array(historical(candidate.store, "finish_position_v1", spine), candidate.served.specs)
    pictures = candidate.pictures(RACE, historical(candidate.store, "speed_trace_v1", spine))
    np.savez(tmp_path / "inputs.npz", image=decode_pictures(pictures), tabular=tabular)
    code = textwrap.dedent(
        f"""
        import mlflow, numpy as np
        from mlflow.exceptions import MlflowException
        mlflow.set_tracking_uri({loop.settings.mlflow_uri!r})
        stored = np.load({str(tmp_path / "inputs.npz")!r})
        inputs = {{"image": stored["image"], "tabular": stored["tabular"]}}
        model = mlflow.pyfunc.load_model("models:/finish_position@challenger")
        np.save({str(tmp_path / "answer.npy")!r}, model.predict(inputs))
        wrong = {{
            "no pictures": {{"tabular": inputs["tabular"]}},
            "a column short": {{**inputs, "tabular": inputs["tabular"][:, 1:]}},
            "other numbers": {{**inputs, "tabular": inputs["tabular"].astype("float64")}},
            "pictures as floats": {{**inputs, "image": inputs["image"].astype("float32")}},
            "grey pictures": {{**inputs, "image": inputs["image"][..., :1]}},
        }}
        for name, given in wrong.items():
            try:
                model.predict(given)
            except MlflowException:
                print("refused:", name)
        """
    )
    environment = loop_environment(loop.settings.home)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300, env=environment, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("refused:") == 5, run.stdout
    said = {driver.driver_id: driver.probabilities for driver in candidate.predict(RACE, HALF).drivers}
    expected = np.array([said[driver] for driver in spine["driver_id"]])
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), expected, atol=1e-6)


def test_bad_questions_are_named(baseline: Predictor) -> None:
    with pytest.raises(InvalidIdError):
        baseline.predict("../../etc")
    with pytest.raises(UnknownEntityError, match="did you mean"):
        baseline.predict("2024_09")
    with pytest.raises(InvalidMomentError, match="scheduled over"):
        baseline.predict(RACE, Moment.parse("lap:900"))
    with pytest.raises(UnknownEntityError):
        baseline.predict_live("2024_09")
    with pytest.raises(InvalidIdError):
        baseline.predict_live("../../etc")


@pytest.fixture(scope="module")
def half_way(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home in which the race is half over: nothing later has been ingested or materialized yet."""
    settings = copy_of(loop, tmp_path_factory.mktemp("live") / "home")
    as_of = entity_frame(settings, HALF, [RACE])[EVENT].iloc[0]
    for path in settings.features_dir.glob("*.parquet"):
        if path.stem not in SPINE_TABLES:
            table = read_parquet(path)
            write_parquet(path, table[visible(table, as_of)].reset_index(drop=True))
    materialize(settings, rebuild=True)
    return settings


def test_a_live_answer_is_the_one_that_history_gives_for_that_moment(loop: Loop, half_way: Settings) -> None:
    model = loop.settings.models_dir / CANDIDATE
    live = candidate_predictor(half_way, model=model).predict_live(RACE)
    then = candidate_predictor(loop.settings, model=model).predict(RACE, HALF)
    check_whole(live)
    assert (live.source, live.moment["asked"], live.moment["lap"]) == ("online", "live", None)
    assert pd.Timestamp(live.moment["as_of"]) == pd.Timestamp(then.moment["as_of"])
    assert live.missing == then.missing
    assert live.drivers == then.drivers


@pytest.mark.parametrize(
    ("minutes", "is_behind"), [(-240.0, False), (-1.0, False), (4.0, False), (6.0, True), (45.0, True), (300.0, False)]
)
def test_a_live_answer_says_that_the_race_has_gone_on_without_it(
    loop: Loop, half_way: Settings, monkeypatch: pytest.MonkeyPatch, minutes: float, is_behind: bool
) -> None:
    """Nothing came online after the first half; the clock of the wall is some minutes later, and four hours later it is over."""
    predictor = candidate_predictor(half_way, model=loop.settings.models_dir / CANDIDATE)
    past = predictor.predict_live(RACE)
    assert "behind_clock" not in past.fallbacks, "years ago"
    newest = pd.Timestamp(past.moment["as_of"])
    _without_the_second_half(monkeypatch, newest)
    monkeypatch.setattr("serving.race_clock.wall_clock", lambda: newest + pd.Timedelta(minutes=minutes))
    said = predictor.predict_live(RACE)
    assert ("behind_clock" in said.fallbacks) == is_behind
    assert [note for note in said.notes if note not in past.notes] == [
        f"the race goes on, but nothing of it has come online for {minutes:.0f} min: this is about {newest.isoformat()}, not "
        "about now; is `pitwall materialize` still run?"
    ] * is_behind
    assert (said.drivers, said.moment, said.stale) == (past.drivers, past.moment, past.stale)


def test_a_race_that_is_known_to_be_over_is_not_under_way(
    loop: Loop, half_way: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    laps = laps_of(half_way, RACE)
    end = laps.loc[laps["lap"] == laps["scheduled_laps"], "as_of"].iloc[0]
    newest = end - pd.Timedelta(minutes=20)
    for after, expected in ((-60.0, 1140.0), (60.0, None)):
        monkeypatch.setattr("serving.race_clock.wall_clock", lambda after=after: end + pd.Timedelta(seconds=after))
        assert seconds_without_news(half_way, RACE, newest) == expected


def test_before_its_first_row_a_race_is_counted_from_its_start(half_way: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    start = laps_of(half_way, RACE)["race_start"].iloc[0]
    monkeypatch.setattr("serving.race_clock.wall_clock", lambda: start + pd.Timedelta(seconds=90))
    assert seconds_without_news(half_way, RACE, start - pd.Timedelta(hours=20)) == 90.0


def _without_the_second_half(monkeypatch: pytest.MonkeyPatch, newest: pd.Timestamp) -> None:
    """Take the laps away that the leader had not completed yet: the home's moments know the whole race."""

    def known(settings: Settings, race_id: str) -> pd.DataFrame:
        laps = laps_of(settings, race_id)
        return laps[laps["as_of"] <= newest]

    monkeypatch.setattr("serving.race_clock.laps_of", known)


def test_nothing_is_said_live_about_a_race_that_has_not_begun(half_way: Settings, loop: Loop) -> None:
    predictor = candidate_predictor(half_way, model=loop.settings.models_dir / CANDIDATE)
    with pytest.raises(MissingInputError, match="nothing about this race is online"):
        predictor.predict_live("2024_04")


def test_a_live_answer_about_a_finished_race_is_refused(baseline: Predictor) -> None:
    with pytest.raises(RaceOverError, match="--lap or --fraction"):
        baseline.predict_live("2024_04")


def test_a_home_without_models_says_what_to_do(loop: Loop, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "empty")
    apply(settings)
    with pytest.raises(NoModelError, match="run `pitwall train`, `evaluate` and `promote` first"):
        Predictor.open(settings)
