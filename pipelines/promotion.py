"""Promotion: log the trained candidate and baseline as model versions, decide by the gate, move the champion, record everything.

The verdict is decided by `ml.gate` from evidence alone; this module gathers the evidence, stores the record with the version, and
carries the verdict out. Killed at any point and run again it ends in the same state: a version is logged once per trained model,
decided once, and a recorded promotion that was not carried out is carried out.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlflow
import numpy as np

from feature_repo.files import read_json, sha256_json, write_json
from feature_repo.settings import Settings
from ml.evidence import EarlierTry, Evidence, GateInputs, KnownAnswer, SkewEvidence
from ml.gate import Decision, decide_from, replay
from ml.registry import MODEL_TAG, RECORD, ROLE_TAG, VERDICT_TAG
from ml.served_model import DESCRIPTION, QUESTION, read_question
from pipelines.candidates import BASELINE, CANDIDATE, GRID_ORDER, ORDER_AT_MOMENT
from pipelines.errors import GateRecordError, ModelNotAskedError, NotTrainedError
from pipelines.evaluation import load_evidence, reports_folder
from pipelines.registry import (
    BASELINE as BASELINE_ALIAS,
)
from pipelines.registry import (
    CHALLENGER,
    CHAMPION,
    MODEL_NAME,
    alias_version,
    champion_history,
    effective_history,
    get_version,
    log_version,
    move_champion,
    open_registry,
    registry_lock,
    stored_record,
)
from pipelines.skew_report import skew_evidence

_RECIPE, _INPUTS_SHA = "pitwall.recipe", "gate.inputs_sha256"
_TRIES = "gate_tries"
_LOAD_SECONDS = 300.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromotionReport:
    """What became of the candidate.

    Attributes:
        version: the candidate's version.
        baseline_version: the baseline's version.
        champion: the champion after this call; None when there is none.
        previous_champion: the champion before.
        moved: this call moved the alias.
        already_decided: the verdict was stored by an earlier call.
        decision: the gate's verdict.
    """

    version: str
    baseline_version: str
    champion: str | None
    previous_champion: str | None
    moved: bool
    already_decided: bool
    decision: Decision

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {**asdict(self), "decision": self.decision.to_dict()}


def promote(settings: Settings) -> PromotionReport:
    """Register the trained candidate and baseline, decide, and move the champion if the gate says so.

    A verdict stands until the champion it was decided against has changed, or the skew of what is served has come above or below
    its limit; then the candidate is decided on anew. A promotion that was carried out once is not repeated after a rollback.

    Raises:
        NotTrainedError: nothing was trained or evaluated yet, or they do not belong together.
        ModelNotAskedError: the load test could not be made (time, memory); nothing was decided.
        RegistryBusyError: another promotion is under way.
    """
    evidence = _evidence_for_gate(settings)
    client = open_registry(settings)
    with registry_lock(settings):
        baseline_version = _register(settings, client, BASELINE, evidence[BASELINE], role="baseline")
        client.set_registered_model_alias(MODEL_NAME, BASELINE_ALIAS, baseline_version)
        version = _register(settings, client, CANDIDATE, evidence[CANDIDATE], role="candidate")
        client.set_registered_model_alias(MODEL_NAME, CHALLENGER, version)
        previous = alias_version(client, CHAMPION)
        carried_out = any(move.version == version for move in effective_history(champion_history(client), previous))
        stored = stored_record(client, get_version(client, version))
        skew = skew_evidence(settings, evidence[CANDIDATE].services)
        stands = stored is not None and (carried_out or _still_stands(stored["inputs"], previous, skew))
        if stored is not None and stands:
            decision = _decision(stored)
        else:
            inputs = _gate_inputs(settings, client, evidence, version=version, champion=previous, skew=skew)
            decision = decide_from(inputs)
            _store_record(settings, client, version, inputs, decision)
        moved = decision.promote and not carried_out
        if moved:
            move_champion(client, expected=previous, new=version, reason="promote")
        champion = alias_version(client, CHAMPION)
    logger.info("gate_decided version=%s promote=%s moved=%s champion=%s", version, decision.promote, moved, champion)
    return PromotionReport(version, baseline_version, champion, previous, moved, stands, decision)


def preview(settings: Settings, test_seasons: Sequence[int] | None = None) -> Decision:
    """What the gate would say now about the trained candidate; no version is registered and nothing is moved.

    To look is to try: the candidate is counted among the tries on its test seasons, so that choosing by previews makes the
    bound of later candidates harder.

    Args:
        settings: which home.
        test_seasons: of an evaluation on chosen seasons; None = the usual one.
    Raises:
        NotTrainedError, ModelNotAskedError: as in `promote`.
    """
    evidence = _evidence_for_gate(settings, test_seasons)
    client = open_registry(settings)
    with registry_lock(settings):
        skew = skew_evidence(settings, evidence[CANDIDATE].services)
        inputs = _gate_inputs(settings, client, evidence, version=None, champion=alias_version(client, CHAMPION), skew=skew)
        _count_try(client, evidence[CANDIDATE])
    return decide_from(inputs)


def replay_decision(settings: Settings, version: str) -> tuple[Decision, Decision]:
    """The stored verdict of a version and the verdict derived again from its stored inputs.

    Raises:
        UnknownModelVersionError: no such version.
        GateRecordError: it has no gate record, or the record is not the one that was stored.
    """
    client = open_registry(settings)
    found = get_version(client, version)
    stored = stored_record(client, found)
    if stored is None:
        raise GateRecordError(
            f"model version {version}: has no gate record; only candidates that went through `promote` have one"
        )
    again = replay(stored["inputs"])
    expected = found.tags.get(_INPUTS_SHA)
    if again.inputs_sha256 != expected:
        raise GateRecordError(
            f"model version {version}: its gate inputs hash to {again.inputs_sha256[:12]}, recorded was {str(expected)[:12]}; "
            "the record was changed after the decision"
        )
    return _decision(stored), again


def _evidence_for_gate(settings: Settings, test_seasons: Sequence[int] | None = None) -> dict[str, Evidence]:
    """Evidence of the evaluation, if it was made of what was trained: same data, configuration, code, seed and encoder."""
    folder = reports_folder(settings, test_seasons)
    for name in (CANDIDATE, BASELINE):
        if not (settings.models_dir / name / DESCRIPTION).exists():
            raise NotTrainedError(f"{settings.models_dir / name}: no trained model; run `pitwall train` first")
    if not (folder / "evaluation.json").exists():
        raise NotTrainedError(f"{folder}: no evaluation; run `pitwall evaluate` first")
    evaluation = read_json(folder / "evaluation.json")
    if "recipes" not in evaluation:
        raise NotTrainedError(f"{folder}: written by an earlier version; run `pitwall train` and `pitwall evaluate` again")
    for name in (CANDIDATE, BASELINE):
        trained = read_json(settings.models_dir / name / DESCRIPTION).get("origin", {"data_hash": "", "recipe": ""})
        evaluated = {"data_hash": evaluation["data_hash"], "recipe": evaluation["recipes"][name]}
        for what, expected in evaluated.items():
            if trained[what] != expected:
                raise NotTrainedError(
                    f"{name}: trained with {what} {trained[what][:12]}, the evaluation is of {expected[:12]}; "
                    "run `pitwall train` and `pitwall evaluate` again"
                )
    return load_evidence(folder)


def _recipe(settings: Settings, name: str, evidence: Evidence) -> str:
    """What makes a version another one: the trained files and what the evaluation found."""
    description = read_json(settings.models_dir / name / DESCRIPTION)
    return sha256_json({"files": description["files"], "evidence": evidence.fingerprint})


def _register(settings: Settings, client: mlflow.MlflowClient, name: str, evidence: Evidence, *, role: str) -> str:
    """The version of a trained model, logged if it is not there yet."""
    recipe = _recipe(settings, name, evidence)
    for found in client.search_model_versions(f"name = '{MODEL_NAME}'"):
        if found.tags.get(_RECIPE) == recipe and found.tags.get(ROLE_TAG) == role:
            return str(found.version)
    folder = settings.models_dir / name
    description = read_json(folder / DESCRIPTION)
    evaluation = read_json(settings.reports_dir / "evaluation.json")
    tabular, images, _ = read_question(folder / QUESTION)
    example: Mapping[str, np.ndarray] = (
        {"tabular": tabular} if description["encoder"] is None else {"image": images, "tabular": tabular}
    )
    encoder = description["encoder"] or {}
    return log_version(
        client,
        model_dir=folder,
        input_example=example,
        run_name=name,
        params={
            "model": name,
            **description["origin"],
            "test_seasons": evaluation["test_seasons"],
            "encoder_kind": encoder.get("kind", "none"),
            "encoder_weights_sha256": encoder.get("weights_sha256", "none"),
            "seed": settings.seed,
        },
        metrics={metric: value for metric, value in evidence.metrics.items() if np.isfinite(value)},
        # The verdict's tags are set with the verdict.
        tags={ROLE_TAG: role, MODEL_TAG: name, _RECIPE: recipe},
        reports=[settings.reports_dir / "evaluation.json", settings.reports_dir / "evaluation.png"],
    )


def _gate_inputs(
    settings: Settings,
    client: mlflow.MlflowClient,
    evidence: Mapping[str, Evidence],
    *,
    version: str | None,
    champion: str | None,
    skew: tuple[SkewEvidence, ...],
) -> GateInputs:
    """Everything the gate decides on; `version` None asks about the trained folder before it is registered."""
    champion_evidence = None
    if champion is not None:
        record = stored_record(client, get_version(client, champion))
        if record is None:
            raise GateRecordError(f"model version {champion}: is champion without a gate record; roll back first")
        champion_evidence = replace(GateInputs.from_dict(record["inputs"]).candidate, version=champion)
    return GateInputs(
        candidate=replace(evidence[CANDIDATE], version=version or ""),
        baseline=evidence[BASELINE],
        champion=champion_evidence,
        current_champion=champion or "",
        history=_history(client),
        trivial=(evidence[GRID_ORDER], evidence[ORDER_AT_MOMENT]),
        known_answer=_ask_in_fresh_process(settings, version),
        skew=skew,
    )


def _still_stands(decided_on: Mapping[str, Any], champion: str | None, skew: Sequence[SkewEvidence]) -> bool:
    """A verdict against this champion, made when the skew was on the same side of its limit as now."""
    then = GateInputs.from_dict(dict(decided_on)).skew or ()
    return decided_on["current_champion"] == (champion or "") and all(found.within_limit for found in then) == all(
        found.within_limit for found in skew
    )


def _history(client: mlflow.MlflowClient) -> tuple[EarlierTry, ...]:
    """Every candidate that was looked at or decided on before; the gate leaves out those that did the same as this one."""
    stored = json.loads(client.get_registered_model(MODEL_NAME).tags.get(_TRIES, "[]"))
    return tuple(EarlierTry(entry["fingerprint"], tuple(entry["test_seasons"])) for entry in stored)


def _count_try(client: mlflow.MlflowClient, candidate: Evidence) -> None:
    """Remember that a candidate was looked at. Call under `registry_lock`."""
    tries = json.loads(client.get_registered_model(MODEL_NAME).tags.get(_TRIES, "[]"))
    new = {"fingerprint": candidate.fingerprint, "test_seasons": sorted(candidate.test_seasons)}
    if new not in tries:
        client.set_registered_model_tag(MODEL_NAME, _TRIES, json.dumps([*tries, new]))


def _ask_in_fresh_process(settings: Settings, version: str | None) -> KnownAnswer:
    """Load a version (or, before it has one, the trained folder) in another process and ask its stored question.

    Raises:
        ModelNotAskedError: the process gave no report, which says nothing about the model.
    """
    target = f"models:/{MODEL_NAME}/{version}" if version is not None else str(settings.models_dir / CANDIDATE)
    command = [sys.executable, "-m", "ml.known_answer", target, settings.mlflow_uri]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_LOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelNotAskedError(
            f"{target}: no answer within {_LOAD_SECONDS:.0f} s; nothing was decided, run it again"
        ) from error
    if run.returncode != 0 or not run.stdout.strip():
        raise ModelNotAskedError(
            f"{target}: the load test ended with exit code {run.returncode} and no report ({run.stderr.strip()[-300:]}); "
            "nothing was decided, run it again"
        )
    said = json.loads(run.stdout.strip().splitlines()[-1])
    difference = float("nan") if said["largest_difference"] is None else float(said["largest_difference"])
    return KnownAnswer(said["loaded"], said["answered"], difference, said["detail"])


def _store_record(settings: Settings, client: mlflow.MlflowClient, version: str, inputs: GateInputs, decision: Decision) -> None:
    """Store inputs and verdict with the version; the verdict's tag comes last, because it says that the record is there."""
    record = {"inputs": inputs.to_dict(), "decision": decision.to_dict()}
    local = settings.reports_dir / "decisions" / f"{version}" / RECORD
    write_json(local, record)
    client.log_artifact(get_version(client, version).run_id, str(local), artifact_path="gate")
    _count_try(client, inputs.candidate)
    tags = {_INPUTS_SHA: decision.inputs_sha256, VERDICT_TAG: "promote" if decision.promote else "refuse"}
    for name, value in tags.items():
        client.set_model_version_tag(MODEL_NAME, version, name, value)


def _decision(stored: dict[str, Any]) -> Decision:
    """A stored verdict as the object it was."""
    from ml.gate import Check

    fields = dict(stored["decision"])
    fields["reasons"] = tuple(fields["reasons"])
    fields["checks"] = tuple(Check(**check) for check in fields["checks"])
    return Decision(**fields)
