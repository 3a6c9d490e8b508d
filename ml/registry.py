"""The MLflow model registry: opening it once, versions with their gate records, and moving the champion alias by compare-and-set.

MLflow's own alias call is last-writer-wins. Every move here happens under one lock, after checking that the champion is still the
one the decision was made against, and is written to the champion history, so that a rollback knows where to go back to. What
trains and what serves both move the champion, and only here.
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import mlflow
from filelock import FileLock, Timeout
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from feature_repo.settings import Settings
from ml.errors import (
    NothingToRollBackError,
    NotPromotableError,
    RegistryBusyError,
    RegistryUnavailableError,
    StaleChampionError,
    UnknownModelVersionError,
)

MODEL_NAME = "finish_position"
CHAMPION = "champion"
CHALLENGER = "challenger"
BASELINE = "baseline"
ROLE_TAG, MODEL_TAG, VERDICT_TAG = "pitwall.role", "pitwall.model", "gate.verdict"
RECORD = "gate_record.json"
NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
"""The one `error_code` of MLflow that says that something does not exist; every other says that nobody knows."""

_HISTORY_TAG = "champion_history"
_LOCK_SECONDS = 120.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChampionMove:
    """One entry of the champion history.

    Attributes:
        version: the version that became champion; None when a rollback left none.
        previous: the version it replaced; None for the first.
        reason: `promote` or `rollback`.
        at: UTC instant, ISO 8601.
    """

    version: str | None
    previous: str | None
    reason: str
    at: str

    def to_json(self) -> dict[str, str | None]:
        """The entry as JSON."""
        return {"version": self.version, "previous": self.previous, "reason": self.reason, "at": self.at}


def without_password(uri: str) -> str:
    """A URI as it may be shown."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.password else uri


@contextmanager
def registry_errors(uri: str) -> Iterator[None]:
    """Ask MLflow within this block: what it raises is named.

    Args:
        uri: of the registry asked.
    Raises:
        RegistryUnavailableError: for every `MlflowException`. Who expects that something does not exist catches that inside.
    """
    try:
        yield
    except MlflowException as error:
        shown = without_password(uri)
        said = str(error).replace(uri.rstrip("/"), shown.rstrip("/")).partition("\n")[0][:500]
        raise RegistryUnavailableError(
            f"MLflow registry {shown}: does not say what it holds, got {error.error_code}: {said}; see that it runs and that "
            "PITWALL_MLFLOW_TRACKING_URI names it, then try again"
        ) from error


@contextmanager
def registry_lock(settings: Settings) -> Iterator[None]:
    """Hold the one lock under which the champion moves (re-entrant within a process only through one holder).

    Raises:
        RegistryBusyError: another process held it for two minutes.
        RegistryUnavailableError: the registry stopped to answer in the block.
    """
    with _held(settings, "registry.lock"), registry_errors(settings.mlflow_uri):
        yield


@contextmanager
def _held(settings: Settings, name: str) -> Iterator[None]:
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.home / name)
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout as exc:
        raise RegistryBusyError(
            f"{settings.home / name}: held by another process for {_LOCK_SECONDS:.0f} s; wait for what it does with the "
            "registry to end, then try again"
        ) from exc
    try:
        yield
    finally:
        lock.release()


def open_registry(settings: Settings) -> mlflow.MlflowClient:
    """A client of this home's registry, with database, experiment and registered model made on first use.

    Initialising is done under a lock: two processes creating one MLflow SQLite database at once break it.

    Raises:
        RegistryBusyError: another process has been initialising it for two minutes.
        RegistryUnavailableError: it does not answer.
    """
    with _held(settings, "mlflow-init.lock"), registry_errors(settings.mlflow_uri):
        mlflow.set_tracking_uri(settings.mlflow_uri)
        mlflow.set_registry_uri(settings.mlflow_uri)
        # Already the client's constructor creates and migrates the database.
        client = mlflow.MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)
        if client.get_experiment_by_name(MODEL_NAME) is None:
            local = settings.mlflow_tracking_uri is None
            client.create_experiment(MODEL_NAME, artifact_location=settings.mlflow_artifacts.as_uri() if local else None)
        if _registered(client) is None:
            client.create_registered_model(MODEL_NAME, description="Who finishes where, at a moment of the race.")
    return client


def versions_of(client: mlflow.MlflowClient) -> list[ModelVersion]:
    """Every version of the registered model, newest first; [] where the registry has no such model.

    Raises:
        RegistryUnavailableError: it does not answer.
    """
    with registry_errors(client.tracking_uri):
        found = client.search_model_versions(f"name = '{MODEL_NAME}'")
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def get_version(client: mlflow.MlflowClient, version: str) -> ModelVersion:
    """The model version.

    Raises:
        UnknownModelVersionError: the registry has no such version; says which there are.
        RegistryUnavailableError: it does not answer.
    """
    known = {str(found.version): found for found in versions_of(client)}
    if version not in known:
        listed = ", ".join(sorted(known, key=int)) or "none"
        raise UnknownModelVersionError(f"model version: got {version!r}, expected one of {MODEL_NAME}: {listed}")
    return known[version]


def aliases_of(client: mlflow.MlflowClient) -> dict[str, str]:
    """Alias -> version; {} where the registry has no such model.

    Raises:
        RegistryUnavailableError: it does not answer.
    """
    model = _registered(client)
    return {} if model is None else {name: str(version) for name, version in model.aliases.items()}


def alias_version(client: mlflow.MlflowClient, alias: str) -> str | None:
    """The version an alias points to, or None.

    Raises:
        RegistryUnavailableError: the registry does not answer.
    """
    return aliases_of(client).get(alias)


def champion_history(client: mlflow.MlflowClient) -> list[ChampionMove]:
    """Every recorded move of the champion alias, oldest first.

    Raises:
        RegistryUnavailableError: the registry does not answer.
    """
    model = _registered(client)
    return [] if model is None else [ChampionMove(**entry) for entry in json.loads(model.tags.get(_HISTORY_TAG, "[]"))]


def _registered(client: mlflow.MlflowClient) -> RegisteredModel | None:
    with registry_errors(client.tracking_uri):
        try:
            return client.get_registered_model(MODEL_NAME)
        except MlflowException as error:
            if error.error_code != NOT_THERE:
                raise
            return None


def move_champion(client: mlflow.MlflowClient, *, expected: str | None, new: str | None, reason: str) -> ChampionMove:
    """Point the champion alias at `new` if it still points at `expected`. Call under `registry_lock`.

    The history is written first and the alias last: killed in between, the alias still names the old champion, and the entry
    without effect is dropped by the next move.

    Raises:
        StaleChampionError: the alias points elsewhere than `expected`; nothing was changed.
    """
    current = alias_version(client, CHAMPION)
    if current != expected:
        raise StaleChampionError(
            f"champion of {MODEL_NAME}: the decision was made against version {expected}, now it is {current}; decide again"
        )
    move = ChampionMove(version=new, previous=current, reason=reason, at=datetime.now(UTC).isoformat(timespec="seconds"))
    history = effective_history(champion_history(client), current)
    client.set_registered_model_tag(MODEL_NAME, _HISTORY_TAG, json.dumps([entry.to_json() for entry in [*history, move]]))
    if new is None:
        client.delete_registered_model_alias(MODEL_NAME, CHAMPION)
    else:
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, new)
    logger.info("champion_moved previous=%s new=%s reason=%s", current, new, reason)
    return move


def effective_history(history: list[ChampionMove], current: str | None) -> list[ChampionMove]:
    """The history without a last entry that never took effect (the process died before the alias moved)."""
    if history and history[-1].version != current:
        return history[:-1]
    return history


def stored_record(client: mlflow.MlflowClient, version: ModelVersion) -> dict[str, Any] | None:
    """The gate record stored with a version (`inputs` and `decision`), or None if it was never decided.

    Raises:
        RegistryUnavailableError: the registry does not give it.
    """
    if VERDICT_TAG not in version.tags:
        return None
    with tempfile.TemporaryDirectory() as folder, registry_errors(client.tracking_uri):
        path = mlflow.artifacts.download_artifacts(
            run_id=version.run_id, artifact_path=f"gate/{RECORD}", dst_path=folder, tracking_uri=client.tracking_uri
        )
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))


def promote_version(settings: Settings, client: mlflow.MlflowClient, version: str) -> ChampionMove:
    """Make a version champion by hand, if the gate's verdict on it allows that: it passed, against the champion of now.

    A promotion that was rolled back can so be carried out again, once somebody has decided that it should.

    Raises:
        UnknownModelVersionError: no such version.
        NotPromotableError: it is champion already, was never decided on, was refused, or was decided on against another champion.
        RegistryBusyError: another promotion is under way.
    """
    with registry_lock(settings):
        record = stored_record(client, get_version(client, version))
        current = alias_version(client, CHAMPION)
        where = f"model version {version}"
        if version == current:
            raise NotPromotableError(f"{where}: is the champion already")
        if record is None:
            raise NotPromotableError(f"{where}: the gate has not decided on it; run `pitwall promote`")
        if not record["decision"]["promote"]:
            raise NotPromotableError(f"{where}: the gate refused it: {'; '.join(record['decision']['reasons'])}")
        against = record["inputs"]["current_champion"] or None
        if against != current:
            raise NotPromotableError(
                f"{where}: it was decided on against champion {against}, now it is {current}; run `pitwall promote` again"
            )
        return move_champion(client, expected=current, new=version, reason="promote")


def rollback(settings: Settings, client: mlflow.MlflowClient, *, expected: str | None = None) -> ChampionMove:
    """Give the champion alias back to the version it replaced; the move is recorded like any other.

    Rolling back twice goes two promotions back, not to and fro. Rolling back the first promotion leaves no champion; the
    tabular baseline then answers.

    Args:
        settings: which home.
        client: of its registry.
        expected: the version that is to lose the champion's place; None = whichever has it.
    Raises:
        StaleChampionError: the champion is another than `expected`; nothing was moved.
        NothingToRollBackError: nothing was ever promoted, or everything is rolled back already.
        RegistryBusyError, RegistryUnavailableError: as `registry_lock`.
    """
    with registry_lock(settings):
        current = alias_version(client, CHAMPION)
        if expected is not None and current != expected:
            raise StaleChampionError(
                f"champion of {MODEL_NAME}: got version {expected} to roll back, now it is {current}; nothing was changed, look "
                "again before rolling back"
            )
        standing = standing_promotions(effective_history(champion_history(client), current))
        if current is None or not standing:
            raise NothingToRollBackError(f"{MODEL_NAME}: there is no champion to roll back; nothing was changed")
        return move_champion(client, expected=current, new=standing[-1].previous, reason="rollback")


def standing_promotions(history: list[ChampionMove]) -> list[ChampionMove]:
    """The promotions not yet undone, oldest first: each rollback takes the newest one away."""
    standing: list[ChampionMove] = []
    for move in history:
        if move.reason == "rollback":
            standing = standing[:-1]
        else:
            standing.append(move)
    return standing
