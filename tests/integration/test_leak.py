"""Nothing that became known after the moment changes a feature, a picture or a prediction, from the lake to the answer.

Two homes hold the same past and different futures: in the second every lap, result, qualifying time, weather sample and message
after the moment is changed, deleted or joined by others. Both are computed anew and asked about the same race at the same moment,
with the same model. The check itself is tested by feeding it homes with a leak.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from loop_home import MLFLOW_WARNS, Loop, candidate_predictor, copy_of, tree

from feature_repo.files import read_parquet, write_parquet
from feature_repo.settings import Settings
from feature_repo.spine import Moment, entity_frame
from feature_repo.store import historical
from feature_repo.visibility import CREATED, EVENT, visible
from ml.served_model import decode_pictures, tabular_array
from ml.traces.store import ImageArtifactStore
from pipelines import schemas
from pipelines.candidates import CANDIDATE
from pipelines.dataset import build_training_set, load_training_set
from pipelines.embeddings import embed_traces
from pipelines.features import build
from pipelines.features.build import build_features
from pipelines.lake import Lake
from pipelines.traces import render_traces
from serving.lookup import lookup
from serving.predictor import Predictor

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

RACE, NEXT_RACE, SEASON = "2024_03", "2024_04", 2024
HALF = Moment.parse("fraction:0.5")
SERVICES = ("finish_position_v1", "race_state_v1", "speed_trace_v1")


@dataclass(frozen=True)
class Answer:
    """Everything Pitwall says about one race at one moment."""

    features: dict[str, pd.DataFrame]
    pictures: dict[str, bytes]
    prediction: dict[str, Any]


@pytest.fixture(scope="module")
def as_of(loop: Loop) -> pd.Timestamp:
    """The instant the leader of the race completes half of it."""
    moment: pd.Timestamp = entity_frame(loop.settings, HALF, [RACE])[EVENT].iloc[0]
    return moment


@pytest.fixture(scope="module")
def other(loop: Loop, as_of: pd.Timestamp, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The home with another future, every step up to the embeddings run again."""
    settings = copy_of(loop, tmp_path_factory.mktemp("leak") / "other")
    change_future(Lake(settings.lake_dir), as_of, seed=1)
    build_features(settings)
    render_traces(settings)
    embed_traces(settings)
    return settings


def answer(settings: Settings, loop: Loop, race_id: str = RACE, moment: Moment = HALF) -> Answer:
    """Ask a home with the loop's candidate; pictures are those that the predictor draws for itself."""
    return _answer(settings, loop.settings.models_dir / CANDIDATE, race_id, moment)


@functools.cache
def _answer(settings: Settings, model: Path, race_id: str, moment: Moment) -> Answer:
    predictor = _predictor(settings, model)
    spine = entity_frame(settings, moment, [race_id])
    features = {service: historical(predictor.store, service, spine) for service in SERVICES}
    drawn = predictor.pictures(race_id, features["speed_trace_v1"])
    pictures = {driver: png for driver, png in zip(spine["driver_id"], drawn, strict=True) if png is not None}
    return Answer(features, pictures, predictor.predict(race_id, moment).to_json())


@functools.cache
def _predictor(settings: Settings, model: Path) -> Predictor:
    return candidate_predictor(settings, model=model)


def differences(one: Answer, two: Answer) -> list[str]:
    """What differs between two answers: columns of features, pictures, the prediction. Values are compared bit for bit."""
    found = [
        f"{service}.{column}"
        for service, frame in one.features.items()
        for column in frame
        if not _equal(frame[column], two.features[service][column])
    ]
    found += [f"picture of {driver}" for driver in sorted({*one.pictures, *two.pictures})
              if one.pictures.get(driver) != two.pictures.get(driver)]  # fmt: skip
    return found + (["prediction"] if one.prediction != two.prediction else [])


def test_another_future_changes_nothing_that_is_said_about_the_moment(loop: Loop, other: Settings) -> None:
    assert differences(answer(loop.settings, loop), answer(other, loop)) == []


@pytest.mark.parametrize("moment", ["pre_race", "lap:9"])
def test_nor_about_an_earlier_moment_of_the_race(loop: Loop, other: Settings, moment: str) -> None:
    asked = Moment.parse(moment)
    assert differences(answer(loop.settings, loop, moment=asked), answer(other, loop, moment=asked)) == []


def test_the_future_is_another_one(loop: Loop, other: Settings) -> None:
    """The experiment has power: what is asked about later moments is answered otherwise, in every kind of answer."""
    for race_id, moment in ((RACE, "fraction:0.8"), (NEXT_RACE, "fraction:0.5")):
        asked = Moment.parse(moment)
        found = differences(answer(loop.settings, loop, race_id, asked), answer(other, loop, race_id, asked))
        assert "prediction" in found
        assert any(name.startswith("picture of") for name in found)
        assert {name.split(".")[0] for name in found} >= set(SERVICES)
    unchanged = tree(loop.settings.features_dir).items() & tree(other.features_dir).items()
    assert set(dict(unchanged)) == {"entrants.parquet"}, "every feature table has a row about the future"


def test_pictures_in_the_store_are_the_same_up_to_the_moment(loop: Loop, other: Settings, as_of: pd.Timestamp) -> None:
    here, there = ImageArtifactStore(loop.settings.multimodal_dir), ImageArtifactStore(other.multimodal_dir)
    known = {uri: record for uri, record in here.records().items() if record.event_timestamp <= as_of}
    assert len({record.race_id for record in known.values()}) == 11
    for uri, record in known.items():
        assert here.load(record) == there.load(there.records()[uri]), uri
    of_next = [uri for uri, record in here.records().items() if record.race_id == NEXT_RACE]
    assert any(here.records()[uri].sha256 != there.records()[uri].sha256 for uri in of_next if uri in there.records())


def test_training_rows_up_to_the_moment_are_the_same_but_for_labels_not_known_then(loop: Loop, other: Settings) -> None:
    build_training_set(other)
    one, two = load_training_set(loop.settings), load_training_set(other)
    before = {id(rows): rows.take(np.flatnonzero((rows.keys["race_id"] <= RACE).to_numpy())) for rows in (one, two)}
    one, two = before[id(one)], before[id(two)]
    pd.testing.assert_frame_equal(one.keys, two.keys)
    pd.testing.assert_frame_equal(one.features, two.features)
    assert np.array_equal(one.embedding, two.embedding)
    assert list(one.picture_sha256) == list(two.picture_sha256)
    np.testing.assert_array_equal(one.order, two.order)
    finished = (one.keys["race_id"] < RACE).to_numpy()
    assert np.array_equal(one.position[finished], two.position[finished])
    assert not np.array_equal(one.position[~finished], two.position[~finished]), "the race itself now ends otherwise"


def test_a_lookup_in_the_past_is_the_same(loop: Loop, other: Settings, as_of: pd.Timestamp) -> None:
    driver = str(entity_frame(loop.settings, HALF, [RACE])["driver_id"].iloc[4])
    for service in ("finish_position_v1", "race_state_v1"):
        one, two = (lookup(home, race_id=RACE, driver_id=driver, service=service, as_of=as_of).to_json()
                    for home in (loop.settings, other))  # fmt: skip
        assert one == two


def test_corrections_published_after_the_moment_are_not_seen(loop: Loop, as_of: pd.Timestamp, tmp_path: Path) -> None:
    """A row with the same event time and other values that was created after the moment: a late correction of the past."""
    settings = copy_of(loop, tmp_path / "corrected")
    corrected = 0
    for view in ("driver_form", "constructor_form", "driver_circuit", "circuit_profile", "grid", "race_weather", "tire_state",
                 "race_state", "trace"):  # fmt: skip
        path = settings.features_dir / f"{view}.parquet"
        table = read_parquet(path)
        late = table[visible(table, as_of)].assign(**{CREATED: as_of + pd.Timedelta(seconds=1)})
        late[CREATED] = late[CREATED].astype(table[CREATED].dtype)
        for column in late.select_dtypes("float32"):
            late[column] = late[column] + np.float32(17)
        if view == "trace":
            late["lap_speeds_kph"] = [speeds * np.float32(0.9) for speeds in late["lap_speeds_kph"]]
        corrected += len(late)
        write_parquet(path, pd.concat([table, late], ignore_index=True))
    assert corrected > 1000
    assert differences(answer(loop.settings, loop), answer(settings, loop)) == []
    later = Moment.parse("fraction:0.6")
    assert "prediction" in differences(answer(loop.settings, loop, moment=later), answer(settings, loop, moment=later))


def leak_of_the_result(lake: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The grid view, with the place that each car will finish in, stamped as if it were known with the grid."""
    honest = build_grid(lake)
    place = lake["entries"].set_index(["race_id", "driver_id"])["position_order"]
    keys = pd.MultiIndex.from_frame(honest[["race_id", "driver_id"]])
    return honest.assign(grid_position=place.reindex(keys).to_numpy(dtype="float32"))


def leak_of_the_next_lap(lake: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The trace view, in which every row holds the laps of the row after it."""
    honest = build_trace(lake).sort_values(["race_id", "driver_id", EVENT], ignore_index=True)
    following = honest.groupby(["race_id", "driver_id"])[["lap_numbers", "lap_speeds_kph"]].shift(-1)
    return honest.assign(**{name: following[name].where(following[name].notna(), honest[name]) for name in following})


build_grid, build_trace = build.COMPUTE["grid"], build.COMPUTE["trace"]


@pytest.mark.parametrize(
    ("view", "leak", "caught"),
    [
        ("grid", leak_of_the_result, {"finish_position_v1.grid_position", "prediction"}),
        ("trace", leak_of_the_next_lap, {"speed_trace_v1.lap_speeds_kph", "prediction"}),
    ],
)
def test_a_leak_is_caught(
    loop: Loop, other: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    view: str, leak: Callable[[dict[str, pd.DataFrame]], pd.DataFrame], caught: set[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(build.COMPUTE, view, leak)
    answers = []
    for name, lake in (("past", loop.settings.lake_dir), ("future", other.lake_dir)):
        settings = copy_of(loop, tmp_path / name)
        read = Lake(lake)
        write_parquet(settings.features_dir / f"{view}.parquet", leak({table: read.read(table) for table in schemas.TABLES}))
        answers.append(answer(settings, loop))
    found = set(differences(*answers))
    assert found >= caught
    assert ("picture of" in " ".join(found)) is (view == "trace")


def test_pictures_reach_the_model(loop: Loop) -> None:
    """Without this the pictures above could leak whatever they liked without changing the prediction."""
    predictor = _predictor(loop.settings, loop.settings.models_dir / CANDIDATE)
    said = answer(loop.settings, loop)
    images = decode_pictures([said.pictures[driver] for driver in sorted(said.pictures)][:20])
    spine = entity_frame(loop.settings, HALF, [RACE])
    features = historical(predictor.store, "finish_position_v1", spine)
    tabular = tabular_array(features, predictor.served.specs)[: len(images)]
    with_pictures, without = predictor.served.predict(tabular, images), predictor.served.predict(tabular, None)
    assert np.abs(with_pictures - without).max() > 1e-3


def change_future(lake: Lake, as_of: pd.Timestamp, *, seed: int) -> None:
    """Rewrite the season's partitions: what was visible at `as_of` stays, everything else becomes something else."""
    rng = np.random.default_rng(seed)
    kept = {table: lake.read(table, [SEASON]) for table in schemas.TABLES}
    shift = pd.Timedelta(seconds=95)
    for table in ("laps", "weather", "qualifying", "pit_stops", "stints", "track_status", "race_control"):
        frame = kept[table]
        future = frame[~visible(frame, as_of)].copy()
        future = future[rng.random(len(future)) < 0.9]  # some are deleted,
        future = _revalued(table, future, rng)  # the others are changed and later,
        for column in (EVENT, CREATED):
            future[column] = (future[column] + shift).astype(frame[column].dtype)
        added = _added(table, frame[~visible(frame, as_of)], rng)  # and new ones are there
        lake.write(table, SEASON, pd.concat([frame[visible(frame, as_of)], future, added], ignore_index=True))
    entries, races = kept["entries"], kept["races"]
    open_result = ~visible(entries, as_of)
    pending = entries[open_result].copy()
    pending["position_order"] = pending.groupby("race_id")["position_order"].transform(lambda place: rng.permutation(place))
    pending["position"] = pending["position_order"].astype("float64").where(rng.random(len(pending)) < 0.8)
    pending["is_classified"] = pending["position"].notna()
    pending["status"] = np.where(pending["is_classified"], "Finished", "Disqualified")
    pending["points"] = rng.integers(0, 26, len(pending)).astype("float64")
    pending["laps_completed"] = rng.integers(1, 50, len(pending))
    later_grid = pending["grid_timestamp"] > as_of
    turned = pending.groupby("race_id")["grid"].transform(lambda grid: rng.permutation(grid))
    pending["grid"] = pending["grid"].where(~later_grid, turned)
    for column in (EVENT, CREATED):
        pending[column] = (pending[column] + pd.Timedelta(minutes=7)).astype(entries[column].dtype)
    changed = pd.concat([entries[~open_result], pending.astype(entries.dtypes)], ignore_index=True)
    lake.write("entries", SEASON, changed)
    ends_later = races["race_end"] > as_of  # known only at the flag, whenever the row was
    races["race_end"] = races["race_end"].mask(ends_later, races["race_end"] + pd.Timedelta(minutes=7))
    races = races.astype(kept["races"].dtypes)
    lake.write("races", SEASON, races)


def _revalued(table: str, rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    n, types = len(rows), rows.dtypes
    if table == "laps":
        rows["lap_time_s"] = rng.uniform(70, 130, n)
        rows["compound"] = rng.choice(["SOFT", "HARD", "WET"], n)
        rows["tyre_life_laps"] = rng.integers(1, 30, n).astype(float)
        rows["track_status"] = rng.choice(["1", "4"], n)
    elif table == "weather":
        rows["track_temp_c"], rows["is_raining"] = rng.uniform(10, 50, n), rng.random(n) < 0.5
    elif table == "qualifying":
        rows["q1_s"] = rng.uniform(70, 80, n)
    elif table == "pit_stops":
        rows["pit_lane_time_s"] = rng.uniform(15, 40, n)
    return rows.astype(types)


def _added(table: str, future: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Laps beyond the last one of every car of the race; nothing for other tables."""
    if table != "laps":
        return future.iloc[:0]
    last = future.sort_values("lap").groupby(["race_id", "driver_id"]).tail(1).copy()
    types = last.dtypes
    last["lap"] += 1
    for column in (EVENT, CREATED):
        last[column] = last[column] + pd.Timedelta(seconds=300)
    last["lap_start"] = last[EVENT] - pd.Timedelta(seconds=100)
    return _revalued("laps", last.astype(types), rng)


def _equal(one: pd.Series, two: pd.Series) -> bool:
    """Same values, missing ones in the same places; arrays element by element, numbers by their bits."""

    def plain(value: object) -> object:
        if isinstance(value, np.ndarray | list):
            return ("array", np.asarray(value).tobytes())
        return None if pd.isna(value) else value

    return [plain(value) for value in one] == [plain(value) for value in two]
