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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import mlflow
from feast import FeatureStore
from mlflow.entities.model_registry import ModelVersion

from feature_repo.settings import Settings
from ml.errors import ModelContractError, RegistryBusyError, RegistryUnavailableError
from ml.evidence import Limits
from ml.known_answer import ask_loaded
from ml.registry import BASELINE, CHALLENGER, CHAMPION, ROLE_TAG, aliases_of, open_registry, versions_of, without_password
from serving.bounded import Bounded
from serving.errors import NoModelError
from serving.predictor import Predictor

NO_CHAMPION = "there is no champion (none promoted, or rolled back): this is the tabular baseline"
REGISTRY_PATIENCE_S = 30.0
"""How long the registry is waited for by whoever needs it to be opened; the limits of `serving.commands_serve` give a server that
is away up sooner."""

START_PATIENCE_S = 8.0
"""How long the start waits for a server to say which models there are; for a file of the home as long as whoever needs it."""

LOADING_PATIENCE_S = 60.0
"""How long the start then waits for the first models; they go on loading after that."""

CLOSING_PATIENCE_S = 3.0
"""How long the end waits for a look at the registry that is under way."""

STANDS_IN = "the champion could not be loaded: this is the tabular baseline"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 600.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model version that answers.

    Attributes:
        predictor: asks it.
        version: in the registry.
        role: `champion`, `baseline` or `challenger`.
        stands_in: it is the baseline and answers for a champion that could not be loaded.
        loaded_at: UNIX time, seconds.
    """

    predictor: Predictor
    version: str
    role: str
    stands_in: bool = False
    loaded_at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class _Models:
    """What is loaded, replaced as one. `answering` is the champion, or the baseline where there is none."""

    answering: LoadedModel | None = None
    baseline: LoadedModel | None = None
    challenger: LoadedModel | None = None

    @property
    def loaded(self) -> list[LoadedModel]:
        """All of them, in that order; the baseline may be among them twice."""
        return [model for model in (self.answering, self.baseline, self.challenger) if model is not None]

    def of_version(self, version: str) -> LoadedModel | None:
        """A loaded model of that version in whatever role."""
        return next((model for model in self.loaded if model.version == version), None)


@dataclass(frozen=True)
class _Failure:
    """A version that could not take over, and when it is tried again (`time.monotonic`)."""

    message: str
    tries: int
    again_at: float


class ModelManager:
    """Loads the models of a home and says which one answers about a race.

    Made once they are loaded, or after a short wait where the registry does not answer: they are loaded when it does.

    Args:
        settings: which home; `model_poll_s`, `challenger_share` and `challenger_shadow`.
        store: its open store.
    """

    def __init__(self, settings: Settings, store: FeatureStore) -> None:
        self._settings, self._store = settings, store
        self._client: mlflow.MlflowClient | None = None
        self._opening = Bounded(self._open, "pitwall-registry")
        self._models = _Models()
        self._failures: dict[str, _Failure] = {}
        self._problems: dict[str, str] = {}
        self._retired: list[Predictor] = []
        self._in_use: list[_Models] = []
        self._changing = threading.Lock()
        self._refreshing = threading.Lock()
        self._stopped = threading.Event()
        self._asked, self._looked = threading.Event(), threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="pitwall-models", daemon=True)
        self._watcher.start()
        if self._asked.wait(REGISTRY_PATIENCE_S if settings.mlflow_tracking_uri is None else START_PATIENCE_S):
            self._looked.wait(LOADING_PATIENCE_S)

    @property
    def champion(self) -> LoadedModel:
        """The champion, or the baseline (role `baseline`) where nothing is promoted.

        Raises:
            NoModelError: neither could be loaded yet.
        """
        model = self._models.answering
        if model is not None:
            return model
        if problems := self.problems:
            raise NoModelError("; ".join(problems.values()))
        if not self._looked.is_set():
            raise NoModelError(f"{self._settings.mlflow_uri}: the first models are being loaded; ask again in some seconds")
        raise NoModelError(
            f"{self._settings.mlflow_uri}: no registered model; run `pitwall train`, `evaluate` and `promote` first"
        )

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
        return self._about(race_id, self._models)[0]

    @contextmanager
    def about(self, race_id: str) -> Iterator[list[LoadedModel]]:
        """The models to ask about a race, each only if the one before it fails: challenger (its share), champion, baseline.

        None of them is closed within the block, whatever takes over meanwhile.

        Raises:
            NoModelError: as `champion`.
        """
        with self._kept() as models:
            yield self._about(race_id, models)

    @contextmanager
    def beside(self, answered: LoadedModel) -> Iterator[LoadedModel | None]:
        """The model that is compared with the one that answered: the challenger with a champion, and with the challenger what
        answers about other races; None for another role, and where no other version is loaded. It is not closed in the block.
        """
        with self._kept() as models:
            other = {CHAMPION: models.challenger, CHALLENGER: models.answering}.get(answered.role)
            yield None if other is None or other.version == answered.version else other

    def _about(self, race_id: str, models: _Models) -> list[LoadedModel]:
        of_challenger = not self._settings.challenger_shadow and self.is_for_challenger(race_id)
        found: dict[str, LoadedModel] = {}
        for model in (models.challenger if of_challenger else None, models.answering, models.baseline):
            if model is not None:
                found.setdefault(model.version, model)
        return list(found.values()) or [self.champion]

    @contextmanager
    def _kept(self) -> Iterator[_Models]:
        with self._changing:
            models = self._models
            self._in_use.append(models)
        try:
            yield models
        finally:
            with self._changing:
                self._in_use.remove(models)

    def is_for_challenger(self, race_id: str) -> bool:
        """Whether a race falls to the challenger's share: by a hash of its id, so always alike."""
        bucket = int.from_bytes(hashlib.sha256(race_id.encode()).digest()[:8]) / 2**64
        return bucket < self._settings.challenger_share

    def refresh(self) -> None:
        """Look at the registry now and load what changed. Never raises: what goes wrong is in `problems` and the log."""
        with self._refreshing:
            self._close_retired()
            try:
                wanted = self._wanted()
            except Exception as error:  # noqa: BLE001 - the registry may be down; what is loaded goes on answering
                self._note("registry", error)
                return
            finally:
                self._asked.set()
            self._problems.pop("registry", None)
            self._change(wanted)

    def close(self) -> None:
        """Stop looking for new models and write what the predictors have buffered; returns within seconds."""
        self._stopped.set()
        self._watcher.join(CLOSING_PATIENCE_S)
        for predictor in [*self._retired, *(model.predictor for model in self._models.loaded)]:
            predictor.close()

    def _watch(self) -> None:
        self.refresh()
        self._looked.set()
        while not self._stopped.wait(self._settings.model_poll_s):
            self.refresh()

    def _close_retired(self) -> None:
        """Write the logs of models that took their leave, except of those that a request which began with them still asks."""
        with self._changing:
            in_use = {id(model.predictor.served) for models in self._in_use for model in models.loaded}
            closing = [predictor for predictor in self._retired if id(predictor.served) not in in_use]
            self._retired = [predictor for predictor in self._retired if id(predictor.served) in in_use]
        for predictor in closing:
            predictor.close()

    def client(self) -> mlflow.MlflowClient:
        """The client of the home's registry, opened on first use: the registry may come up after this process.

        Raises:
            RegistryUnavailableError: it does not answer, or not within 30 s.
            RegistryBusyError: another process is making it.
        """
        if self._client is None:
            try:
                self._client = self._opening.answer(REGISTRY_PATIENCE_S)
            except RegistryBusyError:
                raise
            except TimeoutError as error:
                raise RegistryUnavailableError(
                    f"MLflow registry {without_password(self._settings.mlflow_uri)}: got no answer within "
                    f"{REGISTRY_PATIENCE_S:g} s; see that the server runs and that PITWALL_MLFLOW_TRACKING_URI names it, then "
                    "try again"
                ) from error
        return self._client

    def _open(self) -> mlflow.MlflowClient:
        return open_registry(self._settings)

    def _wanted(self) -> dict[str, str]:
        """Role -> version as the registry has it now."""
        aliases = aliases_of(self.client())
        wanted = {role: aliases[role] for role in (CHAMPION, BASELINE) if role in aliases}
        if self._settings.challenger_share > 0 or self._settings.challenger_shadow:
            challenger = aliases.get(CHALLENGER)
            if challenger is None or challenger == wanted.get(CHAMPION):
                challenger = _newest_candidate(versions_of(self.client()), besides=wanted.get(CHAMPION))
            if challenger is not None:
                wanted[CHALLENGER] = challenger
        return wanted

    def _change(self, wanted: dict[str, str]) -> None:
        before = self._models
        baseline = self._take(BASELINE, wanted.get(BASELINE), before.baseline)
        first = CHAMPION if CHAMPION in wanted else BASELINE
        note = "" if first == CHAMPION else NO_CHAMPION
        answering = self._take(first, wanted.get(first), before.answering, note=note)
        if first == CHAMPION and (answering is None or answering.role == BASELINE):
            is_held = answering is not None and baseline is not None and answering.version == baseline.version
            stand_in = answering if is_held else baseline or answering
            answering = None if stand_in is None else self._in_role(stand_in, BASELINE, STANDS_IN, stands_in=True)
        challenger = self._take(CHALLENGER, wanted.get(CHALLENGER), before.challenger)
        if CHAMPION not in wanted:
            self._problems.pop(CHAMPION, None)
        after = _Models(answering, baseline, challenger)
        if after == before:
            return
        kept = {id(model.predictor.served) for model in after.loaded}
        gone = {id(model.predictor.served): model.predictor for model in before.loaded}
        with self._changing:
            self._models = after  # the one assignment by which a model takes over
            self._retired += [predictor for served, predictor in gone.items() if served not in kept]
        loaded = {model.role: model.version for model in after.loaded}
        logger.info("models_changed %s", " ".join(f"{role}={version}" for role, version in loaded.items()))

    def _take(self, role: str, version: str | None, held: LoadedModel | None, *, note: str = "") -> LoadedModel | None:
        """The model of a version in a role, or what was held if it cannot be loaded now; None where no version has the role."""
        if version is None:
            self._problems.pop(role, None)
            return None
        is_held = held is not None and (held.version, held.role) == (version, role)
        loaded = held if is_held else self._models.of_version(version)
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

    def _in_role(self, model: LoadedModel, role: str, note: str, *, stands_in: bool = False) -> LoadedModel:
        if (model.role, model.predictor.model.note, model.stands_in) == (role, note, stands_in):
            return model
        return replace(model, predictor=model.predictor.in_role(role, note), role=role, stands_in=stands_in)

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
