"""Which model answers: a promotion is taken over while requests run, a bad model changes nothing, a token guards the moves."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from champion_home import TOKEN, candidate, crown, races, registered_again, until, without_champion
from fastapi.testclient import TestClient
from loop_setup import MLFLOW_WARNS, Loop

from feature_repo.settings import Settings
from feature_repo.spine import load_entrants
from ml.errors import ModelContractError
from ml.registry import BASELINE, CHAMPION, MODEL_NAME, alias_version, open_registry
from serving.app import create_app
from serving.dashboard import model_board
from serving.live_pictures import PictureEmbeddings
from serving.models import ModelManager
from serving.predictor import Predictor
from serving.state import ServingState

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)


@pytest.fixture
def settings(loop: Loop, tmp_path: Path) -> Settings:
    """A home of its own without a champion, watched closely."""
    return without_champion(loop, tmp_path / "home")


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The service over it."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as one:
        yield one


def test_a_promotion_is_taken_over_while_requests_run_and_none_sees_half_of_two(settings: Settings, client: TestClient) -> None:
    race_id, new = races(settings)[-1], candidate(settings)
    old = alias_version(open_registry(settings), BASELINE)
    expected = {
        version: Predictor.open(settings, version=version).predict(race_id).to_json()["drivers"] for version in (old, new)
    }
    assert expected[old] != expected[new], "the two models must differ for this test to say anything"
    stop, seen, wrong = threading.Event(), [], []

    def hammer() -> None:
        while not stop.is_set():
            said = client.post("/v1/predict", json={"race_id": race_id}).json()
            version = said["model"]["version"]
            seen.append(version)
            if said["drivers"] != expected[version] or (said["model"]["role"] == "champion") != (version == new):
                wrong.append(said)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(seen) > 4)
    crown(settings, new)
    until(lambda: seen[-1] == new)
    until(lambda: seen.count(new) > 8)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert set(seen) == {old, new}
    assert client.get("/v1/models").json()["serving"]["version"] == new


def test_a_new_model_that_fails_changes_nothing_but_what_is_said(
    settings: Settings, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    race_id, new = races(settings)[-1], candidate(settings)
    before = client.post("/v1/predict", json={"race_id": race_id}).json()["model"]
    tried = []

    def broken(*_: Any, version: str, **__: Any) -> Predictor:
        tried.append(version)
        raise OSError("weights.safetensors: cut short")

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "load", broken)
        crown(settings, new)
        until(lambda: "champion" in client.get("/v1/models").json()["problems"])
        time.sleep(0.5)  # ten looks at the registry
        assert tried == [new], "a model that failed is left alone for a while"
        told = client.get("/v1/models").json()
        assert "cut short" in told["problems"]["champion"]
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "cut short" in ready.json()["parts"]["model"]["detail"]
        during = client.post("/v1/predict", json={"race_id": race_id}).json()
        assert during["model"]["version"] == before["version"]
        assert "could not be loaded" in during["model"]["note"]
        assert during["fallbacks"][-1] == "baseline"


def test_a_model_that_does_not_give_its_known_answer_is_not_taken(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    new = candidate(settings)
    state = ServingState(settings)
    try:
        monkeypatch.setattr("ml.known_answer.read_question", _another_question)
        crown(settings, new)
        state.models.refresh()
        assert state.models.champion.version != new
        assert ModelContractError.__name__ in state.models.problems["champion"]
        assert "known question" in state.models.problems["champion"]
    finally:
        state.close()


def _another_question(folder: Path) -> Any:
    from ml.served_model import read_question

    tabular, images, answer = read_question(folder)
    return tabular, images, answer[::-1]


def test_a_rollback_needs_the_token_and_gives_the_place_back(settings: Settings, client: TestClient) -> None:
    new = candidate(settings)
    old = alias_version(open_registry(settings), BASELINE)
    crown(settings, new)
    until(lambda: client.get("/v1/models").json()["serving"]["version"] == new)
    url = f"/v1/models/{MODEL_NAME}/rollback"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN} "[:-2]}):
        refused = client.post(url, headers=headers)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert alias_version(open_registry(settings), CHAMPION) == new
    done = client.post(url, headers={"Authorization": f"Bearer {TOKEN}"})
    assert done.status_code == 200, done.text
    assert (done.json()["version"], done.json()["previous"], done.json()["serving"]["version"]) == (None, new, old)
    again = client.post(url, headers={"Authorization": f"Bearer {TOKEN}"})
    assert again.status_code == 409
    assert TOKEN not in client.get("/v1/models").text + repr(settings)


def test_a_rollback_of_another_champion_than_expected_is_refused(settings: Settings, client: TestClient) -> None:
    new, url = candidate(settings), f"/v1/models/{MODEL_NAME}/rollback"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    crown(settings, new)
    refused = client.post(url, headers=headers, json={"version": "999"})
    assert refused.status_code == 409
    assert refused.json()["error"]["type"] == "StaleChampionError"
    assert f"got version 999 to roll back, now it is {new}" in refused.json()["error"]["message"]
    assert alias_version(open_registry(settings), CHAMPION) == new
    page = client.get("/models").text
    assert f'data-version="{new}"' in page, "the page sends the version that it shows"
    assert client.post(url, headers=headers, json={"version": new}).json()["previous"] == new
    assert alias_version(open_registry(settings), CHAMPION) is None
    nobody = client.post(url, headers=headers, json={"version": new})
    assert nobody.status_code == 409, "the champion of then was rolled back already"


def test_gate_records_are_fetched_once_and_nobody_waits_behind_a_download(
    settings: Settings, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, stored_record = [], model_board.stored_record

    def slow(*arguments: Any) -> Any:
        fetched.append(arguments[-1].version)
        assert not model_board._lock.locked()
        return stored_record(*arguments)

    monkeypatch.setattr(model_board, "stored_record", slow)
    url = f"/v1/models/{MODEL_NAME}/decisions"
    first = client.get(url).json()
    assert [decision["version"] for decision in first["decisions"]] == [candidate(settings)]
    before = sorted(fetched)
    assert client.get(url).json() == first
    assert client.get("/v1/models").status_code == 200
    assert sorted(fetched) == before
    assert len(set(before)) == len(before)


def test_promoting_by_hand_obeys_the_gate(loop: Loop, settings: Settings, client: TestClient) -> None:
    new, url = candidate(settings), f"/v1/models/{MODEL_NAME}/promote"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    passed = loop.report("promote")["decision"]["promote"]
    answer = client.post(url, json={"version": new}, headers=headers)
    if passed:
        assert (answer.status_code, answer.json()["version"]) == (200, new)
    else:
        assert answer.status_code == 409
        assert "refused" in answer.json()["error"]["message"]
    old = alias_version(open_registry(settings), BASELINE)
    assert "has not decided" in client.post(url, json={"version": old}, headers=headers).json()["error"]["message"]
    assert client.post(url, json={"version": "999"}, headers=headers).status_code == 404
    (decision,) = client.get(f"/v1/models/{MODEL_NAME}/decisions", params={"inputs": True}).json()["decisions"]
    assert (decision["version"], decision["decision"]["promote"]) == (new, passed)
    assert decision["inputs"]["candidate"]["races"]


def test_a_challenger_answers_about_the_same_races_every_time(settings: Settings) -> None:
    all_races = races(settings)
    shared = settings.model_copy(update={"challenger_share": 0.5})
    state = ServingState(shared)
    try:
        assert state.models.challenger is not None
        assert state.models.challenger.version == candidate(settings)
        chosen = {race_id: state.models.current(race_id).role for race_id in all_races}
        assert set(chosen.values()) == {"challenger", "baseline"}, "12 races, half of them each"
        assert {race_id: state.models.current(race_id).role for race_id in all_races} == chosen
        of_challenger = next(race_id for race_id, role in chosen.items() if role == "challenger")
        with state.models.beside(state.models.current(of_challenger)) as other:
            assert other is not None
            assert other.role == "baseline"
    finally:
        state.close()


def test_a_shadow_is_loaded_but_never_answers(settings: Settings) -> None:
    state = ServingState(settings.model_copy(update={"challenger_share": 1.0, "challenger_shadow": True}))
    try:
        assert {state.models.current(race_id).role for race_id in races(settings)} == {"baseline"}
        crown(settings, registered_again(settings, candidate(settings)))
        state.models.refresh()
        with state.models.beside(state.models.current(races(settings)[0])) as other:
            assert other is not None
            assert other.role == "challenger"
    finally:
        state.close()


def test_shares_are_as_large_as_they_should_be(settings: Settings) -> None:
    some = [f"{season}_{number:02d}" for season in range(1950, 2050) for number in range(1, 25)]
    manager = ModelManager.__new__(ModelManager)
    taken = {}
    for share in (0.0, 0.2, 1.0):
        manager._settings = settings.model_copy(update={"challenger_share": share})
        taken[share] = {race_id for race_id in some if manager.is_for_challenger(race_id)}
    assert not taken[0.0]
    assert len(taken[1.0]) == len(some)
    assert 0.17 < len(taken[0.2]) / len(some) < 0.23


def test_pictures_that_cannot_be_made_and_a_model_that_fails_are_fallen_back_from(
    settings: Settings, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    race_id, new = races(settings)[-1], candidate(settings)
    old = alias_version(open_registry(settings), BASELINE)
    crown(settings, new)
    until(lambda: client.get("/v1/models").json()["serving"]["version"] == new)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(PictureEmbeddings, "embed", broken)
        said = client.post("/v1/predict", json={"race_id": race_id}).json()
        assert said["fallbacks"][-1] == "no_pictures"
        assert (said["model"]["version"], len(said["missing"]["pictures"])) == (new, len(said["drivers"]))
    predict = Predictor.predict

    def fails(self: Predictor, *arguments: Any) -> Any:
        if self.model.version == new:
            raise ModelContractError("embedding: wrong width")
        return predict(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "predict", fails)
        said = client.post("/v1/predict", json={"race_id": race_id}).json()
        assert said["fallbacks"][-1] == "baseline"
        assert said["model"]["version"] == old
    said = client.post("/v1/predict", json={"race_id": race_id}).json()
    assert not {"baseline", "no_pictures"} & set(said["fallbacks"])


def test_without_any_model_features_are_served_and_readiness_says_what_is_missing(settings: Settings) -> None:
    registry = open_registry(settings)
    registry.delete_registered_model_alias(MODEL_NAME, BASELINE)
    race_id = races(settings)[-1]
    driver_id = load_entrants(settings).query("race_id == @race_id")["driver_id"].iloc[0]
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        answer = client.post("/v1/predict", json={"race_id": race_id})
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "NoModelError"
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert [name for name, part in ready.json()["parts"].items() if not part["ok"]] == ["model"]
        rows = [{"race_id": race_id, "driver_id": driver_id}]
        assert client.post("/v1/features", json={"entity_rows": rows}).status_code == 200
        crown(settings, candidate(settings))
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/predict", json={"race_id": race_id}).json()["model"]["role"] == "champion"
