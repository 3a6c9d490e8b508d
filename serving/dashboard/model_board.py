"""Model versions with their roles, the gate's verdict on each, and what its record says of gains, seasons and controls."""

import logging
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

import mlflow
from mlflow.entities.model_registry import ModelVersion

from feature_repo.files import read_json
from feature_repo.settings import Settings
from ml.errors import RegistryBusyError, RegistryUnavailableError
from ml.registry import (
    BASELINE,
    CHAMPION,
    MODEL_NAME,
    MODEL_TAG,
    ROLE_TAG,
    VERDICT_TAG,
    ChampionMove,
    aliases_of,
    champion_history,
    effective_history,
    standing_promotions,
    stored_record,
    versions_of,
)
from serving.state import ServingState

METRICS = ("accuracy", "mae", "log_loss", "rps", "top3")
_records: WeakKeyDictionary[ServingState, dict[str, dict[str, Any] | None]] = WeakKeyDictionary()
_lock = threading.Lock()

logger = logging.getLogger(__name__)


def model_board(state: ServingState) -> dict[str, Any]:
    """Every registered version, newest first, and the champion's history.

    Returns:
        `name`; `serving` (version, role and model that answer now, or None); `aliases`; `versions` (`version, model, role,
        aliases, verdict, registered_at, decision`, the last from `decision_summary`, or None); `history` (moves of the champion,
        newest first); `can_roll_back`; `rollback_to` (what that would make champion: a version, or None for none); `baseline`
        (its version); `problems` (what is wrong with models that should be loaded); `registry_problem` (why the registry does
        not say what it holds, so that versions, aliases and history are empty; else None).
    """
    aliases: dict[str, str] = {}
    versions: list[dict[str, Any]] = []
    moves: list[ChampionMove] = []
    registry_problem = None
    try:
        client = state.models.client()
        aliases = aliases_of(client)
        moves = effective_history(champion_history(client), aliases.get(CHAMPION))
        versions = [_version(state, client, version, aliases) for version in versions_of(client)]
    except (RegistryUnavailableError, RegistryBusyError) as error:  # what is loaded goes on answering, and is told
        logger.warning("model_board_without_registry %s", error)
        registry_problem = str(error)
    standing = standing_promotions(moves)
    current = state.models.answering
    return {
        "name": MODEL_NAME,
        "serving": current and {"version": current.version, "role": current.role, "model": current.predictor.model.name},
        "aliases": aliases,
        "versions": versions,
        "history": [move.to_json() for move in reversed(moves)],
        "can_roll_back": CHAMPION in aliases and bool(standing),
        "rollback_to": standing[-1].previous if standing else None,
        "baseline": aliases.get(BASELINE),
        "problems": dict(state.models.problems),
        "registry_problem": registry_problem,
    }


def decision_summary(record: dict[str, Any], evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """What the board shows of a gate record.

    Args:
        record: `inputs` and `decision` as stored with a version.
        evaluation: the evaluation report of that very model, or None.
    Returns:
        `promote, reasons, checks`; `gain` (`estimate, low, high, limit, bound`: exact hits against the baseline); `metrics`
        (model -> metrics); `slices` (season -> model -> share of exact hits); `controls` (`name, estimate, low, high`: the
        candidate's relative gain over each); `n_races`.
    """
    decision, inputs = record["decision"], record["inputs"]
    models = [
        inputs["candidate"],
        inputs["baseline"],
        *([inputs["champion"]] if inputs.get("champion") else []),
        *_trivial(inputs),
    ]
    limits = {check["name"]: check["limit"] for check in decision["checks"]}
    bounds = {check["name"]: check["value"] for check in decision["checks"]}
    return {
        "promote": bool(decision["promote"]),
        "reasons": list(decision["reasons"]),
        "checks": [{key: check[key] for key in ("name", "passed", "message")} for check in decision["checks"]],
        "gain": {
            "estimate": decision["relative_gain"],
            "low": decision["gain_low"],
            "high": decision["gain_high"],
            "limit": limits.get("gain_over_baseline"),
            "bound": bounds.get("gain_bound"),
        },
        "metrics": {model["name"]: {name: model["metrics"].get(name) for name in METRICS} for model in models},
        "slices": _slices(models),
        "controls": _controls(evaluation),
        "n_races": len(inputs["candidate"]["races"]),
    }


def gate_record(state: ServingState, client: mlflow.MlflowClient, version: ModelVersion) -> dict[str, Any] | None:
    """The gate record of a version, or None if it was never decided; written once, so fetched once per verdict.

    Raises:
        RegistryUnavailableError: the registry does not give it.
    """
    key = f"{version.version} {version.run_id} {version.tags.get(VERDICT_TAG)}"
    with _lock:
        kept = _records.setdefault(state, {})
        if key in kept:
            return kept[key]
    record = stored_record(client, version)  # a download: whoever wants another record does not wait for it
    with _lock:
        kept[key] = record
    return record


def _version(
    state: ServingState, client: mlflow.MlflowClient, version: ModelVersion, aliases: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "version": str(version.version),
        "model": version.tags.get(MODEL_TAG, ""),
        "role": version.tags.get(ROLE_TAG, ""),
        "aliases": sorted(name for name, target in aliases.items() if target == str(version.version)),
        "verdict": version.tags.get(VERDICT_TAG),
        "registered_at": _instant(version.creation_timestamp),
        "decision": _decision(state, client, version),
    }


def _decision(state: ServingState, client: mlflow.MlflowClient, version: ModelVersion) -> dict[str, Any] | None:
    try:
        record = gate_record(state, client, version)
    except (OSError, ValueError):  # one record that cannot be had: the other versions are shown
        logger.exception("gate_record_unreadable version=%s", version.version)
        return None
    return None if record is None else decision_summary(record, _evaluation(state.settings, record))


def _evaluation(settings: Settings, record: dict[str, Any]) -> dict[str, Any] | None:
    """The home's evaluation report, if it is the one that the record was decided on: same model, same scores to the last bit."""
    path = settings.reports_dir / "evaluation.json"
    if not path.exists():
        return None
    report: dict[str, Any] = read_json(path)
    candidate = record["inputs"]["candidate"]
    same = report["candidate"]["name"] == candidate["name"] and all(
        report["candidate"].get(name) == candidate["metrics"].get(name) for name in METRICS
    )
    return report if same else None


def _trivial(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    trivial = inputs.get("trivial") or []
    return list(trivial.values()) if isinstance(trivial, dict) else list(trivial)


def _slices(models: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    slices: dict[str, dict[str, list[int]]] = {}
    for model in models:
        for race in model["races"]:
            tally = slices.setdefault(race["race_id"][:4], {}).setdefault(model["name"], [0, 0])
            tally[0] += race["hits"]
            tally[1] += race["n_rows"]
    return {
        season: {name: hits / rows for name, (hits, rows) in by_model.items() if rows}
        for season, by_model in sorted(slices.items())
    }


def _controls(evaluation: dict[str, Any] | None) -> list[dict[str, Any]]:
    if evaluation is None:
        return []
    found = [
        (key.removeprefix("candidate_vs_"), gains["accuracy"])
        for key, gains in evaluation["comparisons"].items()
        if key.startswith("candidate_vs_")
    ]
    return [
        {"name": name, **{key: gain[key] for key in ("estimate", "low", "high")}}
        for name, gain in found
        if gain and gain["estimate"] is not None
    ]


def _instant(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
