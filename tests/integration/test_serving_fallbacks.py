"""What is done when a model fails while it answers: the next one is asked, and the answer says so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from champion_home import candidate, crown, races, registered_again, until, without_champion
from fastapi.testclient import TestClient
from loop_setup import MLFLOW_WARNS, Loop

from feature_repo.settings import Settings
from ml.errors import ModelContractError
from ml.registry import BASELINE, alias_version, open_registry
from serving.app import create_app
from serving.beside import Beside
from serving.models import NO_CHAMPION
from serving.prediction_log import PredictionLog
from serving.predictor import Predictor
from serving.state import Answer, ServingState

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)


@pytest.fixture
def settings(loop: Loop, tmp_path: Path) -> Settings:
    """A home of its own without a champion, watched closely."""
    return without_champion(loop, tmp_path / "home")


@pytest.fixture
def three(settings: Settings) -> Iterator[ServingState]:
    """A service whose challenger answers about every race, beside a champion and a baseline, each another version."""
    crown(settings, registered_again(settings, candidate(settings)))
    state = ServingState(settings.model_copy(update={"challenger_share": 1.0}))
    yield state
    state.close()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Roles whose models fail when they are asked."""
    roles: set[str] = set()
    predict = Predictor.predict

    def asked(self: Predictor, *arguments: Any) -> Any:
        if self.model.role in roles:
            raise ModelContractError("embedding: wrong width")
        return predict(self, *arguments)

    monkeypatch.setattr(Predictor, "predict", asked)
    return roles


@pytest.mark.parametrize(
    ("fail", "role", "stood_in"),
    [
        (set(), "challenger", []),
        ({"challenger"}, "champion", ["champion"]),
        ({"challenger", "champion"}, "baseline", ["champion", "baseline"]),
        ({"champion"}, "challenger", []),
    ],
    ids=["none", "challenger", "both", "champion"],
)
def test_a_challenger_that_fails_leaves_the_answer_to_the_champion_and_that_to_the_baseline(
    settings: Settings, three: ServingState, failing: set[str], fail: set[str], role: str, stood_in: list[str]
) -> None:
    failing |= fail
    answer = three.answer(races(settings)[-1])
    assert answer.model.role == answer.prediction.model.role == role
    assert [name for name in answer.fallbacks if name in ("champion", "baseline")] == stood_in


def test_where_every_model_fails_the_last_error_is_the_answer(settings: Settings, three: ServingState, failing: set[str]) -> None:
    failing |= {"challenger", "champion", "baseline"}
    with pytest.raises(ModelContractError):
        three.answer(races(settings)[-1])


def test_the_log_pairs_the_champion_that_stood_in_with_the_challenger_and_never_with_itself(
    settings: Settings, three: ServingState, failing: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[tuple[str, str, list[str]]] = []

    def record(_: PredictionLog, answer: Answer, *, request_id: str, role: str | None = None) -> None:
        rows.append((role or answer.model.role, answer.model.version, answer.fallbacks))
        failing.clear()  # the challenger is asked again in the background, and answers then

    monkeypatch.setattr(PredictionLog, "record", record)
    one = Beside(three, PredictionLog(settings))
    failing |= {"challenger"}
    three.answer(races(settings)[-1])
    one.wait()
    assert [role for role, *_ in rows] == ["champion", "challenger"]
    assert rows[0][1] != rows[1][1]
    assert "champion" in rows[0][2]
    assert "champion" not in rows[1][2]


def test_a_baseline_that_stands_in_for_a_champion_is_a_fallback_until_there_is_no_champion(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    race_id, new = races(settings)[-1], candidate(settings)
    crown(settings, new)
    load = Predictor.load

    def broken(*arguments: Any, version: str, **options: Any) -> Predictor:
        if version == new:
            raise OSError("weights.safetensors: cut short")
        return load(*arguments, version=version, **options)

    monkeypatch.setattr(Predictor, "load", broken)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:

        def said() -> Any:
            return client.post("/v1/predict", json={"race_id": race_id}).json()

        first, baseline = said(), alias_version(open_registry(settings), BASELINE)
        assert (first["model"]["version"], first["model"]["role"]) == (baseline, "baseline")
        assert first["fallbacks"][-1] == "baseline"
        assert "could not be loaded" in first["model"]["note"]
        assert 'pitwall_fallbacks_total{fallback="baseline"}' in client.get("/metrics").text
        assert "could not be loaded" in client.get(f"/races/{race_id}").text
        crown(settings, None)
        until(lambda: said()["model"]["note"] == NO_CHAMPION)
        assert "baseline" not in said()["fallbacks"], "without a champion the baseline is what is wanted"
        assert "could not be loaded" not in client.get(f"/races/{race_id}").text


def test_models_are_not_taken_over_anew_while_nothing_changes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    crown(settings, candidate(settings))
    monkeypatch.setattr(Predictor, "load", _only_version(alias_version(open_registry(settings), BASELINE)))
    state = ServingState(settings.model_copy(update={"model_poll_s": 3600.0}))
    try:
        before = state.models.answering
        assert before is not None
        assert before.stands_in
        state.models.refresh()
        assert state.models.answering is before
    finally:
        state.close()


def test_a_model_is_not_closed_while_a_request_that_began_with_it_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, closed, close = candidate(settings), [], Predictor.close

    def noted(self: Predictor) -> None:
        closed.append(self.model.version)
        close(self)

    monkeypatch.setattr(Predictor, "close", noted)
    crown(settings, new)
    state = ServingState(settings.model_copy(update={"model_poll_s": 3600.0}))
    try:
        with state.models.about(races(settings)[0]) as models:
            assert models[0].version == new
            crown(settings, None)
            for _ in range(3):  # promotions and rollbacks in quick succession
                state.models.refresh()
            assert state.models.champion.role == "baseline"
            assert closed == []
        state.models.refresh()
        assert closed == [new]
    finally:
        state.close()


def _only_version(version: str | None) -> Any:
    load = Predictor.load

    def loaded(*arguments: Any, **options: Any) -> Predictor:
        if options["version"] != version:
            raise OSError("weights.safetensors: cut short")
        return load(*arguments, **options)

    return loaded
