"""The log of predictions: a row a driver of every answer, from the service and the model beside it; whole, bounded, harmless."""

import hashlib
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from loop_home import copy_of
from loop_setup import MLFLOW_WARNS, Loop

from feature_repo.parquet_log import dropped_so_far, log_files
from feature_repo.settings import Settings
from feature_repo.spine import Moment, entity_frame
from feature_repo.store import historical, open_store
from ml.registry import CHALLENGER, MODEL_NAME
from ml.served_model import tabular_array
from ml.traces.store import ImageArtifactStore
from pipelines.registry import move_champion, open_registry, registry_lock
from serving.app import create_app
from serving.models import LoadedModel
from serving.prediction_log import SCHEMA, PredictionLog, features_hash, prediction_log_folder, read_predictions
from serving.predictor import Predictor
from serving.state import Answer

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

RACE = "2024_03"
EVER = {"since": pd.Timestamp(0, tz="UTC"), "until": pd.Timestamp("2100-01-01", tz="UTC")}
CHAMPIONS, CHALLENGERS = "2", "1"
"""Versions: the model that looks at pictures, and the tabular one."""


@pytest.fixture(scope="module")
def home(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with a champion and a challenger."""
    settings = copy_of(loop, tmp_path_factory.mktemp("logged") / "home")
    client = open_registry(settings)
    with registry_lock(settings):
        move_champion(client, expected=None, new=CHAMPIONS, reason="promote")
    client.set_registered_model_alias(MODEL_NAME, CHALLENGER, CHALLENGERS)
    return settings


@pytest.fixture(scope="module")
def predictor(home: Settings) -> Predictor:
    """The champion."""
    return Predictor.open(home)


@pytest.fixture(scope="module")
def answer(predictor: Predictor) -> Answer:
    """What the champion says half-way."""
    said = predictor.predict(RACE)
    return Answer(said, LoadedModel(predictor, CHAMPIONS, "champion"), ["missing_values"], {}, 12.5)


@pytest.fixture
def elsewhere(home: Settings, tmp_path: Path) -> Settings:
    """Settings whose log is empty."""
    return home.model_copy(update={"home": tmp_path})


def logged(settings: Settings) -> pd.DataFrame:
    tables = [table for _, table in read_predictions(settings, **EVER) if table is not None]
    return pa.concat_tables(tables).to_pandas() if tables else SCHEMA.empty_table().to_pandas()


def test_every_driver_has_a_row_with_hashes_of_what_the_model_saw(
    home: Settings, elsewhere: Settings, predictor: Predictor, answer: Answer
) -> None:
    log = PredictionLog(elsewhere)
    log.record(answer, request_id="abc-1", served_at=pd.Timestamp("2026-03-01T12:00:00.000001Z"))
    log.close()
    rows = logged(elsewhere)
    said = answer.prediction
    assert list(rows["driver_id"]) == [driver.driver_id for driver in said.drivers]
    assert list(rows["place"]) == list(range(1, 21))
    assert np.array_equal(np.stack(rows["probabilities"]), [driver.probabilities for driver in said.drivers]), "to the last bit"
    assert list(rows["p_win"]) == [driver.p_win for driver in said.drivers]
    same = {"request_id": "abc-1", "race_id": RACE, "model_version": CHAMPIONS, "role": "champion", "latency_ms": 12.5,
            "model": "fusion_best", "feature_service": "finish_position_v1", "source": "offline", "simulated": True,
            "lap": said.moment["lap"], "saw_this_race": said.saw_this_race}  # fmt: skip
    for column, value in same.items():
        assert set(rows[column]) == {value}, column
    assert set(rows["as_of"]) == {pd.Timestamp(said.moment["as_of"])}
    assert set(rows["served_at"]) == {pd.Timestamp("2026-03-01T12:00:00.000001Z")}
    assert rows["fallbacks"].map(list).map(tuple).unique().tolist() == [("missing_values",)]

    spine = entity_frame(home, Moment.parse(home.moment), [RACE])
    features = tabular_array(historical(open_store(home), "finish_position_v1", spine), predictor.served.specs)
    expected = {driver: features_hash(row) for driver, row in zip(spine["driver_id"], features, strict=True)}
    assert dict(zip(rows["driver_id"], rows["features_sha256"], strict=True)) == expected, "that of the training row"
    stored = {record.driver_id: record.sha256 for record in ImageArtifactStore(home.multimodal_dir).records().values()
              if record.race_id == RACE}  # fmt: skip
    pictures = rows.set_index("driver_id")["picture_sha256"].dropna().to_dict()
    assert pictures == stored, "that of `pitwall traces`"
    assert set(said.missing["pictures"]) == set(rows["driver_id"]) - set(pictures)


def test_missing_values_of_any_kind_hash_alike() -> None:
    other = np.array([0x7FC00001, 0xFFC00000], dtype=np.uint32).view(np.float32)
    assert features_hash(np.array([1.0, other[0], other[1]], dtype=np.float32)) == features_hash(
        np.array([1.0, np.nan, np.nan], dtype=np.float32)
    )
    assert features_hash(np.array([1.0], dtype=np.float32)) == hashlib.sha256(b"\x00\x00\x80\x3f").hexdigest()


def test_part_of_the_field_has_the_hashes_of_its_own_cars(elsewhere: Settings, answer: Answer) -> None:
    some = answer.prediction.drivers[3:5]
    part = Answer(_replaced(answer, drivers=some), answer.model)
    with_log(elsewhere, answer, part)
    rows = logged(elsewhere)
    both = rows.groupby("driver_id")[["features_sha256", "picture_sha256"]].nunique(dropna=False)
    assert len(rows) == 22
    assert (both == 1).all().all()


def _replaced(answer: Answer, **changes: Any) -> Any:
    return type(answer.prediction)(**{**vars(answer.prediction), **changes})


def with_log(settings: Settings, *answers: Answer, **options: Any) -> PredictionLog:
    log = PredictionLog(settings, **options)
    for one in answers:
        log.record(one)
    log.close()
    return log


@pytest.mark.parametrize("changes", [{"race_id": "../../etc"}, {"moment": {"as_of": "never", "lap": 1}}, {"drivers": None}])
def test_what_cannot_be_logged_is_counted_and_fails_nobody(elsewhere: Settings, answer: Answer, changes: dict[str, Any]) -> None:
    bad = Answer(_replaced(answer, **changes), answer.model)
    log = with_log(elsewhere, answer, bad, answer)
    assert log.counts.written == 40
    assert log.counts.failed >= 1
    assert len(logged(elsewhere)) == 40
    refused = PredictionLog(elsewhere)
    refused.record(answer, request_id="../x")
    refused.close()
    assert refused.counts.failed == 20


def test_a_disk_that_refuses_fails_nobody(elsewhere: Settings, answer: Answer) -> None:
    prediction_log_folder(elsewhere).write_text("a file where the folder should be", encoding="utf-8")
    log = with_log(elsewhere, answer)
    assert (log.counts.accepted, log.counts.written, log.counts.failed) == (20, 0, 20)


def test_it_is_rotated_and_bounded(elsewhere: Settings, answer: Answer) -> None:
    log = PredictionLog(elsewhere, rotate_s=3600, buffer_rows=50)
    for _ in range(4):
        log.record(answer)
    assert (log.counts.accepted, log.counts.failed) == (40, 40), "more than the buffer holds is lost, and counted"
    log.close()
    size = log_files(prediction_log_folder(elsewhere))[0].path.stat().st_size
    bounded = PredictionLog(elsewhere, max_bytes=int(2.5 * size))
    for _ in range(3):
        bounded.record(answer)
        bounded.record(answer)
        bounded.flush()
    bounded.close()
    files = log_files(prediction_log_folder(elsewhere))
    assert [file.rows for file in files] == [40, 40]
    assert dropped_so_far(prediction_log_folder(elsewhere))["rows"] == 80
    assert all(pq.read_schema(file.path).equals(SCHEMA) for file in files)


def test_many_threads_lose_and_double_nothing(elsewhere: Settings, answer: Answer) -> None:
    log = PredictionLog(elsewhere, rotate_rows=200)
    threads = [
        threading.Thread(target=lambda worker=worker: [log.record(answer, request_id=f"{worker}-{n}") for n in range(10)])
        for worker in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    counts = logged(elsewhere)["request_id"].value_counts()
    assert (len(counts), set(counts)) == (80, {20})
    assert log.counts.failed == 0


@pytest.fixture
def clean(home: Settings) -> None:
    """No log of another test."""
    for file in log_files(prediction_log_folder(home)):
        file.path.unlink()


@pytest.mark.parametrize("kind", ["share", "shadow"])
def test_the_service_logs_its_answers_and_those_of_the_model_beside(home: Settings, clean: None, kind: str) -> None:
    chosen = {"challenger_share": 1.0} if kind == "share" else {"challenger_shadow": True}
    settings = home.model_copy(update=chosen)
    app = create_app(settings)
    with TestClient(app) as client:
        for asked in ({"lap": 3}, {"lap": 3}, {"fraction": 0.5}, {"lap": 4, "drivers": ["nobody"]}):
            client.post("/v1/predict", json={"race_id": RACE, **asked})
        app.state.serving.on_answer[0].__self__.wait()
    rows = logged(home)
    shown, beside = ("challenger", "champion") if kind == "share" else ("champion", "shadow")
    answers = rows.groupby(["role", "model_version", "lap"])["request_id"].nunique()
    half = int(rows["lap"].max())
    version = {"challenger": CHALLENGERS, "shadow": CHALLENGERS, "champion": CHAMPIONS}
    assert answers.to_dict() == {
        (shown, version[shown], 3): 2,
        (shown, version[shown], half): 1,
        (beside, version[beside], 3): 1,  # asked once about a moment
        (beside, version[beside], half): 1,
    }
    paired = rows[rows["lap"] == half].groupby("request_id")["role"].agg(set)
    assert paired.tolist() == [{shown, beside}], "one request, one id"
    for (_, lap), one in rows.groupby(["model_version", "lap"]):
        said = Predictor.open(home, version=str(one["model_version"].iloc[0])).predict(RACE, Moment("lap", lap=int(lap)))
        expected = {driver.driver_id: driver.probabilities for driver in said.drivers}
        assert all(list(row.probabilities) == expected[row.driver_id] for row in one.itertuples())


def counted(page: str) -> dict[str, float]:
    """Outcome -> rows, of a page of metrics."""
    found = re.findall(r'^pitwall_prediction_log_rows_total{outcome="(\w+)"} (\S+)$', page, re.MULTILINE)
    return {outcome: float(rows) for outcome, rows in found}


def test_metrics_say_what_became_of_the_rows(loop: Loop, tmp_path: Path) -> None:
    app = create_app(copy_of(loop, tmp_path / "home"))
    with TestClient(app) as client:
        before = counted(client.get("/metrics").text)  # other applications of this process may have counted
        said = client.post("/v1/predict", json={"race_id": RACE, "lap": 3}).json()
        log: PredictionLog = app.state.serving.on_answer[0].__self__._log
        log.flush()
        log.refuse(7, ValueError("no"))
        after = counted(client.get("/metrics").text)
    more = {outcome: rows - before[outcome] for outcome, rows in after.items()}
    assert more == {"written": len(said["drivers"]), "failed": 7, "dropped": 0}


def test_without_a_challenger_nobody_else_is_asked(loop: Loop, tmp_path: Path) -> None:
    settings = copy_of(loop, tmp_path / "home")
    shutil.rmtree(prediction_log_folder(settings), ignore_errors=True)  # what other tests asked of the home that is copied
    with TestClient(create_app(settings)) as client:
        said = client.post("/v1/predict", json={"race_id": RACE}).json()
    rows = logged(settings)
    assert set(rows["role"]) == {"baseline"}
    assert list(rows["place"]) == [driver["position"] for driver in said["drivers"]]
    assert rows["picture_sha256"].isna().all(), "the baseline looks at no picture"
