"""The models a serving process answers with, and how a new champion takes over while it serves.

A thread looks at the registry every few seconds. A new champion is loaded beside the old one and asked its stored question;
only if it gives the answer known from its training does one reference change. A request takes one `LoadedModel` and keeps it to
its end, so none sees half of two. A model that cannot be loaded, or answers otherwise, changes nothing but what `problems` says,
and is tried again after a growing pause.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import mlflow
from feast import FeatureStore
from mlflow.entities.model_registry import ModelVersion

from feature_repo.settings import Settings
from ml.errors import ModelContractError
from ml.evidence import Limits
from ml.known_answer import ask_loaded
from ml.registry import BASELINE, CHALLENGER, CHAMPION, MODEL_NAME, ROLE_TAG, open_registry
from serving.errors import NoModelError
from serving.predictor import Predictor

NO_CHAMPION = "there is no champion (none promoted, or rolled back): this is the tabular baseline"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 600.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model version that answers.

    Attributes:
        predictor: asks it.
        version: in the registry.
        role: `champion`, `baseline` or `challenger`.
        loaded_at: UNIX time, seconds.
    """

    predictor: Predictor
    version: str
    role: str
    loaded_at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class _Models:
    """What is loaded, replaced as one. `answering` is the champion, or the baseline where there is none."""

    answering: LoadedModel | None = None
    baseline: LoadedModel | None = None
    challenger: LoadedModel | None = None

    def of_version(self, version: str) -> LoadedModel | None:
        """A loaded model of that version in whatever role."""
        return next(
            (model for model in (self.answering, self.baseline, self.challenger) if model and model.version == version), None
        )


@dataclass(frozen=True)
class _Failure:
    """A version that could not take over, and when it is tried again (`time.monotonic`)."""

    message: str
    tries: int
    again_at: float


class ModelManager:
    """Loads the models of a home and says which one answers about a race.

    Args:
        settings: which home; `model_poll_s`, `challenger_share` and `challenger_shadow`.
        store: its open store.
        on_change: called with the roles and versions now loaded, after a change.
    """

    def __init__(
        self, settings: Settings, store: FeatureStore, *, on_change: Callable[[dict[str, str]], None] | None = None
    ) -> None:
        self._settings, self._store = settings, store
        self._client: mlflow.MlflowClient | None = None
        self._on_change = on_change
        self._models = _Models()
        self._failures: dict[str, _Failure] = {}
        self._problems: dict[str, str] = {}
        self._retired: list[Predictor] = []
        self._refreshing = threading.Lock()
        self._stopped = threading.Event()
        self.refresh()
        self._watcher = threading.Thread(target=self._watch, name="pitwall-models", daemon=True)
        self._watcher.start()

    @property
    def champion(self) -> LoadedModel:
        """The champion, or the baseline (role `baseline`) where nothing is promoted.

        Raises:
            NoModelError: neither could be loaded yet.
        """
        model = self._models.answering
        if model is None:
            why = "; ".join(self._problems.values()) or f"{self._settings.mlflow_uri}: no registered model"
            raise NoModelError(f"{why}; run `pitwall train`, `evaluate` and `promote` first")
        return model

    @property
    def answering(self) -> LoadedModel | None:
        """What `champion` gives, or None."""
        return self._models.answering

    @property
    def baseline(self) -> LoadedModel | None:
        """The tabular baseline; None where it could not be loaded."""
        return self._models.baseline

    @property
    def challenger(self) -> LoadedModel | None:
        """The challenger; None without one, or where no share of races is given to it."""
        return self._models.challenger

    @property
    def problems(self) -> dict[str, str]:
        """Role -> why the version it should have is not the one that is loaded; empty when all is well."""
        return dict(self._problems)

    def current(self, race_id: str) -> LoadedModel:
        """The model that answers about a race: the same one for all requests about it while no model changes.

        Raises:
            NoModelError: as `champion`.
        """
        models = self._models
        if models.challenger is not None and not self._settings.challenger_shadow and self.is_for_challenger(race_id):
            return models.challenger
        return models.answering or self.champion

    def other(self, race_id: str) -> LoadedModel | None:
        """The model that does not answer about a race but is compared with the one that does; None without a challenger."""
        models = self._models
        if models.challenger is None or models.answering is None:
            return None
        return models.answering if self.current(race_id) is models.challenger else models.challenger

    def is_for_challenger(self, race_id: str) -> bool:
        """Whether a race falls to the challenger's share: by a hash of its id, so always alike."""
        bucket = int.from_bytes(hashlib.sha256(race_id.encode()).digest()[:8]) / 2**64
        return bucket < self._settings.challenger_share

    def refresh(self) -> None:
        """Look at the registry now and load what changed. Never raises: what goes wrong is in `problems` and the log."""
        with self._refreshing:
            for predictor in self._retired:  # since the last look every request that used it has ended
                predictor.close()
            self._retired = []
            try:
                wanted = self._wanted()
            except Exception as error:  # noqa: BLE001 - the registry may be down; what is loaded goes on answering
                self._note("registry", error)
                return
            self._problems.pop("registry", None)
            self._change(wanted)

    def close(self) -> None:
        """Stop looking for new models and write what the predictors have buffered."""
        self._stopped.set()
        self._watcher.join()
        models = self._models
        for predictor in [*self._retired, *(m.predictor for m in (models.answering, models.baseline, models.challenger) if m)]:
            predictor.close()

    def _watch(self) -> None:
        while not self._stopped.wait(self._settings.model_poll_s):
            self.refresh()

    def client(self) -> mlflow.MlflowClient:
        """The client of the home's registry, opened on first use: the registry may come up after this process."""
        if self._client is None:
            self._client = open_registry(self._settings)
        return self._client

    def _wanted(self) -> dict[str, str]:
        """Role -> version as the registry has it now."""
        aliases = {name: str(version) for name, version in self.client().get_registered_model(MODEL_NAME).aliases.items()}
        wanted = {role: aliases[role] for role in (CHAMPION, BASELINE) if role in aliases}
        if self._settings.challenger_share > 0 or self._settings.challenger_shadow:
            challenger = aliases.get(CHALLENGER)
            if challenger is None or challenger == wanted.get(CHAMPION):
                versions = self.client().search_model_versions(f"name = '{MODEL_NAME}'")
                challenger = _newest_candidate(versions, besides=wanted.get(CHAMPION))
            if challenger is not None:
                wanted[CHALLENGER] = challenger
        return wanted

    def _change(self, wanted: dict[str, str]) -> None:
        before = self._models
        baseline = self._take(BASELINE, wanted.get(BASELINE), before.baseline)
        first = CHAMPION if CHAMPION in wanted else BASELINE
        note = "" if first == CHAMPION else NO_CHAMPION
        answering = self._take(first, wanted.get(first), before.answering, note=note)
        stand_in = answering or baseline
        if first == CHAMPION and stand_in is not None and stand_in.role == BASELINE:
            answering = self._in_role(stand_in, BASELINE, "the champion could not be loaded: this is the tabular baseline")
        challenger = self._take(CHALLENGER, wanted.get(CHALLENGER), before.challenger)
        if CHAMPION not in wanted:
            self._problems.pop(CHAMPION, None)
        after = _Models(answering, baseline, challenger)
        if after == before:
            return
        self._models = after  # the one assignment by which a model takes over
        kept = {id(model.predictor.served) for model in (answering, baseline, challenger) if model}
        gone = [model.predictor for model in (before.answering, before.baseline, before.challenger) if model]
        self._retired = list({id(p): p for p in gone if id(p.served) not in kept}.values())
        loaded = {model.role: model.version for model in (answering, baseline, challenger) if model}
        logger.info("models_changed %s", " ".join(f"{role}={version}" for role, version in loaded.items()))
        if self._on_change is not None:
            self._on_change(loaded)

    def _take(self, role: str, version: str | None, held: LoadedModel | None, *, note: str = "") -> LoadedModel | None:
        """The model of a version in a role, or what was held if it cannot be loaded now; None where no version has the role."""
        if version is None or (held is not None and (held.version, held.role) == (version, role)):
            self._problems.pop(role, None)
            return held if version is not None else None
        loaded = self._models.of_version(version)
        if loaded is not None:
            self._problems.pop(role, None)
            return self._in_role(loaded, role, note)
        failure = self._failures.get(version)
        if failure is not None and time.monotonic() < failure.again_at:
            return held
        try:
            model = self._load(version, role, note)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a new model, the old one goes on answering
            tries = 1 if failure is None else failure.tries + 1
            pause = min(_FIRST_PAUSE_S * 2 ** (tries - 1), _LONGEST_PAUSE_S)
            self._failures[version] = _Failure(str(error), tries, time.monotonic() + pause)
            self._note(role, error, version)
            return held
        self._failures.pop(version, None)
        self._problems.pop(role, None)
        return model

    def _load(self, version: str, role: str, note: str) -> LoadedModel:
        """Load a version and hear it answer the question it was stored with.

        Raises:
            NoModelError: there is no such version.
            ModelContractError: it answers otherwise than it did when it was trained.
        """
        mlflow.set_tracking_uri(self._settings.mlflow_uri)
        mlflow.set_registry_uri(self._settings.mlflow_uri)
        predictor = Predictor.load(
            self._settings, self._store, self.client(), version=version, role=role, note=note, without_pictures=True
        )
        served, limit = predictor.served, Limits().max_answer_difference
        assert predictor.folder is not None
        known = ask_loaded(lambda inputs: served.predict(inputs["tabular"], inputs.get("image")), served, predictor.folder)
        if not known.answered or not known.largest_difference <= limit:
            predictor.close()
            raise ModelContractError(
                f"its known question: got {known.detail or f'an answer {known.largest_difference:.3g} off'}, "
                f"expected the stored answer within {limit:g}"
            )
        return LoadedModel(predictor, version, role)

    def _in_role(self, model: LoadedModel, role: str, note: str) -> LoadedModel:
        if model.role == role and model.predictor.model.note == note:
            return model
        return replace(model, predictor=model.predictor.in_role(role, note), role=role)

    def _note(self, role: str, error: Exception, version: str | None = None) -> None:
        what = role if version is None else f"{role}, version {version}"
        held = self._models.answering
        goes_on = "nothing is loaded" if held is None else f"version {held.version} ({held.role}) goes on answering"
        message = f"{what}: {type(error).__name__}: {error}; {goes_on}"
        if self._problems.get(role) != message:
            logger.error("model_not_loaded %s", message)
        self._problems[role] = message


def _newest_candidate(versions: Iterable[ModelVersion], *, besides: str | None) -> str | None:
    candidates = [found for found in versions if found.tags.get(ROLE_TAG) == "candidate"]
    numbers = [int(found.version) for found in candidates if str(found.version) != besides]
    return str(max(numbers)) if numbers else None
