"""Promotion against a real MLflow registry: recorded, replayable, compare-and-set, and finished after a kill."""

import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from registry_home import evidence, write_evaluation, write_trained

from feature_repo.settings import Settings
from ml.errors import NothingToRollBackError, StaleChampionError, UnknownModelVersionError
from ml.served_model import PREDICTOR, QUESTION, read_question
from pipelines import registry
from pipelines.candidates import BASELINE, CANDIDATE
from pipelines.errors import GateRecordError, ModelNotAskedError, NotTrainedError
from pipelines.promotion import preview, promote, replay_decision


def test_a_better_candidate_becomes_champion_and_answers_in_a_fresh_process(settings: Settings) -> None:
    write_trained(settings)
    report = promote(settings)
    assert report.decision.promote, report.decision.reasons
    assert report.moved
    assert report.champion == report.version
    assert report.previous_champion is None

    code = textwrap.dedent(
        f"""
        import mlflow, numpy as np
        from pathlib import Path
        from ml.served_model import read_question
        mlflow.set_tracking_uri({settings.mlflow_uri!r})
        tabular, images, expected = read_question(Path({str(settings.models_dir / CANDIDATE / QUESTION)!r}))
        model = mlflow.pyfunc.load_model("models:/finish_position@champion")
        assert np.abs(model.predict({{"tabular": tabular}}) - expected).max() < 1e-6
        try:
            model.predict({{"tabular": tabular[:, :-1]}})
        except mlflow.exceptions.MlflowException:
            print("signature enforced")
        """
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "signature enforced" in run.stdout


def test_a_second_promotion_of_the_same_model_changes_nothing(settings: Settings) -> None:
    write_trained(settings)
    first, second = promote(settings), promote(settings)
    assert (second.version, second.champion, second.decision) == (first.version, first.champion, first.decision)
    assert second.already_decided
    assert not second.moved
    assert len(registry.open_registry(settings).search_model_versions("name = 'finish_position'")) == 2


def test_a_refusal_is_recorded_with_its_numbers_and_leaves_no_champion(settings: Settings) -> None:
    write_trained(settings, candidate_hits=4, baseline_hits=4)
    report = promote(settings)
    assert not report.decision.promote
    assert report.champion is None
    assert any("gain_over_baseline: +0 %" in reason for reason in report.decision.reasons)
    client = registry.open_registry(settings)
    assert client.get_model_version("finish_position", report.version).tags["gate.verdict"] == "refuse"
    assert registry.alias_version(client, registry.BASELINE) == report.baseline_version


def test_the_stored_verdict_can_be_derived_again(settings: Settings) -> None:
    write_trained(settings)
    report = promote(settings)
    stored, again = replay_decision(settings, report.version)
    assert stored == again == report.decision
    with pytest.raises(GateRecordError, match="no gate record"):
        replay_decision(settings, report.baseline_version)
    with pytest.raises(UnknownModelVersionError, match=r"got '99', expected one of finish_position: 1, 2"):
        replay_decision(settings, "99")


def test_a_changed_record_is_noticed(settings: Settings) -> None:
    write_trained(settings)
    report = promote(settings)
    record = next(settings.mlflow_artifacts.rglob("gate_record.json"))
    content = json.loads(record.read_text(encoding="utf-8"))
    content["inputs"]["candidate"]["races"][0]["hits"] += 1
    record.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(GateRecordError, match="changed after the decision"):
        replay_decision(settings, report.version)


def test_rollback_goes_back_one_promotion_at_a_time(settings: Settings) -> None:
    write_trained(settings, seed=0)
    first = promote(settings)
    write_trained(settings, candidate_hits=7, seed=1)
    second = promote(settings)
    assert second.champion != first.champion
    client = registry.open_registry(settings)
    move = registry.rollback(settings, client)
    assert (move.version, move.previous, move.reason) == (first.version, second.version, "rollback")
    assert registry.alias_version(client, registry.CHAMPION) == first.version
    assert promote(settings).champion == first.version, "a rolled back version is not promoted again by itself"
    assert registry.rollback(settings, client).version is None
    assert registry.alias_version(client, registry.CHAMPION) is None
    with pytest.raises(NothingToRollBackError):
        registry.rollback(settings, client)
    assert [entry.reason for entry in registry.champion_history(client)] == ["promote", "promote", "rollback", "rollback"]


def test_a_worse_candidate_does_not_replace_the_champion(settings: Settings) -> None:
    write_trained(settings, candidate_hits=7, seed=0)
    first = promote(settings)
    write_trained(settings, candidate_hits=6, seed=1)
    second = promote(settings)
    assert not second.decision.promote
    assert second.champion == first.version
    assert any(reason.startswith("not_worse_than_champion") for reason in second.decision.reasons)


def test_earlier_tries_make_the_bound_harder(settings: Settings) -> None:
    write_trained(settings, candidate_hits=4, seed=0)
    promote(settings)
    write_trained(settings, candidate_hits=6, seed=1)
    bound = next(check for check in promote(settings).decision.checks if check.name == "gain_bound")
    assert "try 2" in bound.message


def test_the_champion_moves_only_from_the_version_decided_against(settings: Settings) -> None:
    write_trained(settings)
    report = promote(settings)
    client = registry.open_registry(settings)
    with registry.registry_lock(settings), pytest.raises(StaleChampionError, match="decide again"):
        registry.move_champion(client, expected=None, new=report.baseline_version, reason="promote")
    assert registry.alias_version(client, registry.CHAMPION) == report.version


def test_a_model_that_does_not_load_is_refused(settings: Settings) -> None:
    write_trained(settings)
    (settings.models_dir / CANDIDATE / PREDICTOR / "weights.safetensors").write_bytes(b"damaged")
    report = promote(settings)
    assert not report.decision.promote
    assert any("did not load" in reason and "DamagedFileError" in reason for reason in report.decision.reasons)


def test_a_model_that_answers_otherwise_is_refused(settings: Settings) -> None:
    write_trained(settings)
    question = settings.models_dir / CANDIDATE / QUESTION / "question.json"
    stored = json.loads(question.read_text(encoding="utf-8"))
    stored["answer"][0] = stored["answer"][0][::-1]
    question.write_text(json.dumps(stored), encoding="utf-8")
    assert any(reason.startswith("known_answer") for reason in preview(settings).reasons)


def test_a_candidate_that_saw_the_test_season_is_refused(settings: Settings) -> None:
    write_trained(settings)
    found = evidence(6, 4)
    folds = tuple(replace(fold, last_race_seen=f"{fold.test_season}_03") for fold in found[CANDIDATE].folds)
    write_evaluation(settings, {**found, CANDIDATE: replace(found[CANDIDATE], folds=folds)})
    assert any(reason.startswith("test_season_unseen") for reason in promote(settings).decision.reasons)


def test_nothing_is_promoted_before_training_or_on_other_data(settings: Settings) -> None:
    with pytest.raises(NotTrainedError, match="run `pitwall train` first"):
        promote(settings)
    write_trained(settings)
    write_evaluation(settings, evidence(6, 4), data_hash="e" * 64)
    with pytest.raises(NotTrainedError, match="trained with data_hash dddddddddddd, the evaluation is of eeeeeeeeeeee"):
        promote(settings)
    write_evaluation(settings, evidence(6, 4), recipe="f" * 64)
    with pytest.raises(NotTrainedError, match="trained with recipe rrrrrrrrrrrr, the evaluation is of ffffffffffff"):
        promote(settings)


def test_to_look_at_a_candidate_is_a_try(settings: Settings) -> None:
    write_trained(settings, candidate_hits=5, seed=0)
    assert "try 1" in str(preview(settings).checks)
    assert "try 1" in str(promote(settings).decision.checks), "the same candidate again is no new try"
    write_trained(settings, candidate_hits=6, seed=1)
    assert "try 2" in str(preview(settings).checks)


def test_a_load_test_that_could_not_be_made_decides_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trained(settings)

    def too_slow(*args: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("python", 300)

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.promotion.subprocess.run", too_slow)
        with pytest.raises(ModelNotAskedError, match="nothing was decided"):
            promote(settings)
    assert promote(settings).moved


def test_a_verdict_against_another_champion_is_decided_again(settings: Settings) -> None:
    """Killed between record and move, then overtaken: the stored verdict is stale, so it is made anew, not a dead end."""
    write_trained(settings, candidate_hits=6, seed=0)
    first = promote(settings)
    write_trained(settings, candidate_hits=7, seed=1)
    code = textwrap.dedent(
        f"""
        import os, signal
        from feature_repo.settings import Settings
        from pipelines import promotion
        promotion.move_champion = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
        promotion.promote(Settings(home={str(settings.home)!r}))
        """
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=240).returncode == -signal.SIGKILL
    )
    registry.rollback(settings, registry.open_registry(settings))
    report = promote(settings)
    assert not report.already_decided
    assert report.moved
    assert report.previous_champion is None
    assert report.champion not in (None, first.version)


def test_two_promoters_at_once_decide_one_after_the_other(settings: Settings) -> None:
    write_trained(settings)
    code = textwrap.dedent(
        f"""
        from feature_repo.settings import Settings
        from pipelines.promotion import promote
        promote(Settings(home={str(settings.home)!r}))
        """
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors
    client = registry.open_registry(settings)
    assert len(registry.champion_history(client)) == 1
    assert len(client.search_model_versions("name = 'finish_position'")) == 2


@pytest.mark.parametrize("where", ["log_version", "_store_record", "move_champion", "set_registered_model_alias"])
def test_killed_while_promoting_a_second_run_ends_as_a_clean_one(settings: Settings, where: str) -> None:
    write_trained(settings)
    code = textwrap.dedent(
        f"""
        import os, signal
        from mlflow import MlflowClient
        from feature_repo.settings import Settings
        from pipelines import promotion
        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
        if {where!r} == "set_registered_model_alias":
            kept = MlflowClient.set_registered_model_alias
            MlflowClient.set_registered_model_alias = (
                lambda self, name, alias, version: die() if alias == "champion" else kept(self, name, alias, version)
            )
        else:
            setattr(promotion, {where!r}, die)
        promotion.promote(Settings(home={str(settings.home)!r}))
        """
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, timeout=240, capture_output=True)
    assert run.returncode == -signal.SIGKILL
    report = promote(settings)
    client = registry.open_registry(settings)
    assert report.decision.promote
    assert report.champion == report.version
    assert [(move.version, move.previous) for move in registry.champion_history(client)] == [(report.version, None)]
    roles = sorted(found.tags["pitwall.role"] for found in client.search_model_versions("name = 'finish_position'"))
    assert roles == ["baseline", "candidate"]
    assert replay_decision(settings, report.version)[1] == report.decision


def test_two_homes_have_two_registries(tmp_path: Path) -> None:
    one, two = Settings(home=tmp_path / "one"), Settings(home=tmp_path / "two")
    for home in (one, two):
        registry.open_registry(home)
    client = registry.open_registry(one)
    client.set_registered_model_tag("finish_position", "x", "1")
    assert "x" not in registry.open_registry(two).get_registered_model("finish_position").tags


def test_the_question_survives_as_it_was(settings: Settings) -> None:
    write_trained(settings)
    tabular, images, answer = read_question(settings.models_dir / BASELINE / QUESTION)
    assert tabular.dtype == np.float32
    assert np.isnan(tabular).any(), "missing values stay missing"
    assert not images.any()
    assert answer.shape == (20, 20)
