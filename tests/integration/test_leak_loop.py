"""The leak probe on a home in which the whole loop ran: up to embeddings, predictions, and what is stored."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from loop_home import copy_of, one_object, tree
from loop_setup import MLFLOW_WARNS, Loop, Pitwall

from feature_repo.files import read_parquet, write_parquet
from feature_repo.spine import Moment, entity_frame
from feature_repo.store import historical, open_store
from feature_repo.visibility import CREATED, EVENT, visible
from ml.served_model import ServedModel, decode_pictures, tabular_array
from pipelines.candidates import CANDIDATE
from pipelines.leak.answer import ask, draw
from pipelines.leak.compare import compare
from pipelines.leak.probe import linked_home, probe
from pipelines.leak.stored import compare_stored

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

LOOP_RACE = "2024_03"
HALF = Moment.parse("fraction:0.5")


def test_a_home_of_the_whole_loop_has_no_leak(loop: Loop) -> None:
    """Half distance, for which pictures, embeddings and training rows are stored too, asked with the model that sees pictures."""
    before = tree(loop.settings.home)
    model = ServedModel(loop.settings.models_dir / CANDIDATE)
    found = probe(loop.settings, [(LOOP_RACE, HALF)], models=[model])
    assert [str(leak) for leak in found.leaks] == []
    assert found.models == [CANDIDATE]
    assert found.counts.cells > 400_000
    assert (found.counts.pictures, found.counts.embeddings) == (51, 51), "three times 17: stored, deleted, scrambled"
    assert found.counts.predictions == 2 * 20
    assert tree(loop.settings.home) == before


def test_corrections_published_after_the_moment_are_not_seen(loop: Loop, tmp_path: Path) -> None:
    """Rows with the same event time and other values that were created after the moment, in every table; up to the prediction."""
    as_of = entity_frame(loop.settings, HALF, [LOOP_RACE])[EVENT].iloc[0]
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
    model = ServedModel(loop.settings.models_dir / CANDIDATE)
    copy = linked_home(loop.settings, tmp_path / "linked")
    for instant, kinds in (
        (as_of, set()),
        (as_of + pd.Timedelta(minutes=5), {"row", "feature", "picture", "embedding", "prediction"}),
    ):
        answers = [ask(home, LOOP_RACE, instant, [model]) for home in (copy, settings)]
        leaks, _ = compare(*answers, race_id=LOOP_RACE, as_of=instant, variant="scrambled")
        assert {leak.kind for leak in leaks} == kinds


def test_pictures_reach_the_model(loop: Loop, tmp_path: Path) -> None:
    """Without this the pictures above could leak whatever they liked without changing the prediction."""
    copy = linked_home(loop.settings, tmp_path / "linked")
    served = ServedModel(loop.settings.models_dir / CANDIDATE)
    drawn = draw(copy, LOOP_RACE, Moment.at(entity_frame(copy, HALF, [LOOP_RACE])[EVENT].iloc[0]))
    spine = entity_frame(copy, HALF, [LOOP_RACE])
    features = historical(open_store(copy), served.origin.feature_service, spine[spine["driver_id"].isin(drawn)])
    images = decode_pictures([drawn[driver] for driver in features["driver_id"]])
    tabular = tabular_array(features, served.specs)
    assert np.abs(served.predict(tabular, images) - served.predict(tabular, None)).max() > 1e-3


def test_stored_things_of_a_later_moment_are_found(loop: Loop, tmp_path: Path) -> None:
    """Pictures, embeddings and training rows of half distance, taken for those of lap 9."""
    settings = copy_of(loop, tmp_path / "home").model_copy(update={"moment": "lap:9"})
    as_of = entity_frame(settings, Moment.parse("lap:9"), [LOOP_RACE])[EVENT].iloc[0]
    model = ServedModel(loop.settings.models_dir / CANDIDATE)
    asked = ask(linked_home(settings, tmp_path / "linked"), LOOP_RACE, as_of, [model])
    leaks, _ = compare_stored(settings, asked, race_id=LOOP_RACE, as_of=as_of, models=[model])
    assert {leak.kind for leak in leaks} == {"stored picture", "stored embedding", "training row"}


def test_the_command_asks_the_baseline_and_the_challenger_and_touches_nothing(loop: Loop, pitwall: Pitwall) -> None:
    before = tree(loop.settings.home)
    ended = pitwall("leak-probe", "--race", LOOP_RACE, "--lap", "2", "--json", home=loop.settings.home)
    assert ended.code == 0, ended.err
    assert one_object(ended.out)["models"] == ["ensemble", CANDIDATE]
    assert tree(loop.settings.home) == before
