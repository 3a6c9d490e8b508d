"""Who finishes where, asked of the champion: features and pictures as known at the moment, through one loaded model.

Nothing here knows HTTP. A `Predictor` holds one open Feast store and one loaded model version; `predict` asks about any moment of
any race by point-in-time retrieval, `predict_live` about the newest state in the online store.
"""

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from feast import FeatureStore
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from feature_repo.errors import MissingInputError
from feature_repo.feature_log import FeatureLog
from feature_repo.settings import Settings
from feature_repo.spine import Moment, MomentPoint, refuse_future
from feature_repo.store import get_service, open_store, views_of
from ml.assignment import assign_positions
from ml.registry import BASELINE, CHAMPION, MODEL_NAME, NOT_THERE, aliases_of, registry_errors
from ml.rows import EMBEDDING_DIM
from ml.served_model import ServedModel, tabular_array
from ml.traces.renderer import TraceRenderer
from serving.errors import NoModelError, RaceOverError
from serving.live_pictures import KEEP, TRACE_SERVICE, Drawing, PictureEmbeddings, drawings
from serving.lookup import GridLookup, log_served, lookup_grid
from serving.online_lookup import lookup_rows
from serving.past_lookup import lookup_past
from serving.prediction import (
    BEHIND_CLOCK,
    MISSING_VALUES,
    NO_PICTURES,
    STALE_VALUES,
    ModelInUse,
    Prediction,
    Seen,
    said_about,
)
from serving.race_clock import NEWS_WITHIN_S, seconds_without_news
from serving.races import cars_at, driver_names, moment_point, newest_row_known, race_of, result_known

Columns = Mapping[str, NDArray[Any]]
"""Name -> (cars,) values: features of the cars of one race, and `driver_id`."""

_NO_NUMBER = "INVALID_PARAMETER_VALUE"
"""The `error_code` with which MLflow refuses a version that is no number."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a model is asked with.

    Attributes:
        features: columns of its service, and `driver_id`.
        traces: likewise of `speed_trace_v1`; None for a tabular model.
        stale: feature -> drivers whose value is old, but not expired.
        seconds: it took to look them up.
        is_behind: the race goes on, and nothing newer is known of it for longer than should be.
    """

    features: Columns
    traces: Columns | None
    stale: dict[str, list[str]]
    seconds: float
    is_behind: bool = False


class Predictor:
    """One store and one model, opened once and asked many times.

    Args:
        settings: which home.
        store: its open Feast store.
        served: the loaded model.
        model: said with every answer.
        folder: of the model, with its stored question.
        keep_pictures: how many pictures' embeddings are kept; 0 draws and embeds every picture every time.
        without_pictures: answer as for cars without a picture where pictures cannot be made, and say so, instead of failing.
    """

    def __init__(
        self,
        settings: Settings,
        store: FeatureStore,
        served: ServedModel,
        model: ModelInUse,
        *,
        folder: Path | None = None,
        keep_pictures: int = KEEP,
        without_pictures: bool = False,
    ) -> None:
        self.settings = settings
        self.store = store
        self.served = served
        self.model = model
        self.folder = folder
        self._without_pictures = without_pictures
        self._renderer = TraceRenderer()
        self._embeddings = PictureEmbeddings(self._renderer, keep=keep_pictures)
        views = views_of(store, get_service(store, served.origin.feature_service))
        services = [served.origin.feature_service, *([TRACE_SERVICE] if served.uses_pictures else [])]
        self._logs = [FeatureLog.where_wanted(settings, service, store=store) for service in services]
        self._race_views = [view.name for view, _ in views if "race_id" in view.join_keys]

    @classmethod
    def open(cls, settings: Settings, *, version: str | None = None) -> "Predictor":
        """Load the champion, or the tabular baseline where nothing is promoted yet.

        Args:
            settings: which home.
            version: another version of the registry instead, such as one that was champion before.
        Raises:
            NotAppliedError: the home has no feature registry.
            NoModelError: the registry has neither, or not that version.
            RegistryUnavailableError: the registry does not answer.
        """
        store = open_store(settings)
        mlflow.set_tracking_uri(settings.mlflow_uri)
        mlflow.set_registry_uri(settings.mlflow_uri)
        with registry_errors(settings.mlflow_uri):
            client = mlflow.MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)
        aliases = aliases_of(client)
        role = next((alias for alias in (CHAMPION, BASELINE) if alias in aliases), None)
        if role is None:
            raise NoModelError(f"{settings.mlflow_uri}: no registered model; run `pitwall train`, `evaluate` and `promote` first")
        note = "" if role == CHAMPION else "there is no champion (none promoted, or rolled back): this is the tabular baseline"
        if version is not None and version != aliases[role]:
            role, note = f"version {version}", f"this is version {version} as asked, not the {role} (version {aliases[role]})"
        version = version or aliases[role]
        return cls.load(settings, store, client, version=version, role=role, note=note)

    @classmethod
    def load(
        cls,
        settings: Settings,
        store: FeatureStore,
        client: mlflow.MlflowClient,
        *,
        version: str,
        role: str,
        note: str = "",
        without_pictures: bool = False,
    ) -> "Predictor":
        """Load one version of the registry.

        Args:
            settings: which home.
            store: its open store.
            client: of its registry.
            version: which.
            role: said with every answer.
            note: likewise.
            without_pictures: see `Predictor`.
        Raises:
            NoModelError: there is no such version.
            RegistryUnavailableError: the registry does not answer.
        """
        with registry_errors(settings.mlflow_uri):
            try:
                registered = client.get_model_version(MODEL_NAME, version).creation_timestamp
            except MlflowException as error:
                if error.error_code not in (NOT_THERE, _NO_NUMBER):
                    raise
                raise NoModelError(
                    f"{MODEL_NAME}: there is no version {version!r}; `pitwall status` lists those there are"
                ) from error
            loaded = mlflow.pyfunc.load_model(f"models:/{MODEL_NAME}/{version}").unwrap_python_model()
        served = loaded.served
        model = ModelInUse(
            name=served.name,
            version=version,
            role=role,
            feature_service=served.origin.feature_service,
            encoder=None if served.identity is None else served.identity.to_json(),
            note=note,
            registered_at=pd.Timestamp(registered, unit="ms", tz="UTC").isoformat(),
        )
        logger.info("model_loaded name=%s version=%s role=%s", model.name, version, role)
        return cls(settings, store, served, model, folder=loaded.model_dir, without_pictures=without_pictures)

    def in_role(self, role: str, note: str) -> "Predictor":
        """The same model, sharing everything, that says another role and note with its answers."""
        other = copy.copy(self)
        other.model = replace(self.model, role=role, note=note)
        return other

    def close(self) -> None:
        """Write what the feature logs have buffered; the predictor logs nothing after that."""
        for log in self._logs:
            if log is not None:
                log.close()

    def predict(self, race_id: str, moment: Moment | None = None) -> Prediction:
        """The finishing order as it could be foretold at a moment of the race; later rows change nothing.

        Args:
            race_id: the race.
            moment: default the home's default moment.
        Raises:
            UnknownEntityError, InvalidMomentError: no such race or lap.
            NotKnownYetError, FutureMomentError: an instant at which nothing was known of the race yet, or that lies ahead.
        """
        began = time.perf_counter()
        asked = moment or Moment.parse(self.settings.moment)
        point = moment_point(self.settings, race_id, asked)
        cars = cars_at(self.settings, race_id, point.as_of)
        if asked.instant is not None:
            refuse_future(asked.instant, newest=newest_row_known(self.settings))
        moments_us = np.full(len(cars["driver_id"]), point.as_of.value // 1000, dtype=np.int64)
        found = lookup_past(self.store, self.served.origin.feature_service, cars, moments_us)
        drivers = {"driver_id": np.array(cars["driver_id"], dtype=object)}
        traces = None
        if self.served.uses_pictures:
            traces = drivers | lookup_past(self.store, TRACE_SERVICE, cars, moments_us).arrays()
        described = {"asked": str(asked), "lap": point.lap, "as_of": point.as_of.isoformat(), "truncated": point.truncated}
        stale = _names_by_driver(found.is_stale(), found.view_of, drivers)
        inputs = Inputs(drivers | found.arrays(), traces, stale, time.perf_counter() - began)
        return self._answer(race_id, inputs, described, "offline", point.as_of)

    def predict_live(self, race_id: str, *, at: MomentPoint | None = None) -> Prediction:
        """The finishing order from what the online store holds now.

        Args:
            race_id: the race.
            at: the moment at which the store stands (a replay's clock): who takes part, names and ages are those of then.
                Default: the newest event of the race that the store holds, and who is known to take part now.
        Raises:
            UnknownEntityError: no such race.
            RaceOverError: the store already knows what came after the race, or after `at`.
            MissingInputError: nothing about the race was materialized.
        """
        began = time.perf_counter()
        clock = None if at is None else at.as_of
        grid = self._grid(race_id, self.served.origin.feature_service, clock)
        now = self._instant_of_race(race_id, grid, clock)
        # What had expired by the moment of the answer is missing, as it was in training.
        features, traces = grid.columns(expired_at=now), None
        allowed_s = np.array([[view.ttl_s, view.fresh_for_s] for view in grid.features.plan.views])
        ages_s = grid.features.ages_s(now)
        old = (ages_s > allowed_s[:, 1]) & ~(ages_s > allowed_s[:, 0])
        grids = [grid]
        if self.served.uses_pictures:
            grids.append(self._grid(race_id, TRACE_SERVICE, clock))
            traces = grids[1].columns(expired_at=now)
        described = {"asked": "live", "lap": None, "as_of": now.isoformat(), "truncated": False}
        if at is not None:
            described |= {"lap": at.lap, "truncated": at.truncated}
        notes = [
            f"{view}: holds rows that became known after {now.isoformat()}; the answer knows these corrections"
            for view in dict.fromkeys(name for one in grids for name in one.corrected_after(now))
        ]
        behind = [] if at is not None else self._behind_the_clock(race_id, grid, now)
        stale = _names_by_driver(old, grid.features.plan.view_of, features)
        inputs = Inputs(features, traces, stale, time.perf_counter() - began, bool(behind))
        said = self._answer(race_id, inputs, described, "online", clock, [*behind, *notes])
        for log, one in zip(self._logs, grids, strict=True):
            log_served(log, one, moment=now, withheld_at=now, model_version=self.model.version)
        return said

    def _behind_the_clock(self, race_id: str, grid: GridLookup, newest: pd.Timestamp) -> list[str]:
        """What is to be said where the race goes on and the online store has fallen behind it; [] where it has not."""
        without_news_s = seconds_without_news(self.settings, race_id, newest)
        fresh_for_s = [view.fresh_for_s for view in grid.features.plan.views if view.view.name in self._race_views]
        if without_news_s is None or without_news_s <= min([NEWS_WITHIN_S, *fresh_for_s]):
            return []
        return [
            f"the race goes on, but nothing of it has come online for {without_news_s / 60:.0f} min: this is about "
            f"{newest.isoformat()}, not about now; is `pitwall materialize` still run?"
        ]

    def _notes(self, race_id: str, moment: dict[str, Any], as_of: pd.Timestamp | None) -> list[str]:
        notes = [self.model.note] if self.model.note else []
        if moment["truncated"]:
            notes.append(f"the leader has not completed the lap asked for; this is lap {moment['lap']}, the last one completed")
        seen = self.served.origin.saw(race_id)
        if seen != "no":
            notes.append(f"this race was among the model's {seen} races, so this answer is no test of it; see `pitwall evaluate`")
        if str(moment["asked"]).startswith("at:") and as_of is not None:
            notes += self._notes_on_past(race_id, as_of)
        learnt = Moment.parse(self.served.origin.moment)
        lap = learnt.lap_of(race_of(self.settings, race_id, as_of).scheduled_laps)
        if moment["lap"] is not None and moment["lap"] != lap:
            notes.append(
                f"the model learnt to answer at {learnt} (lap {lap}); at other laps its probabilities are not calibrated"
            )
        return notes

    def _notes_on_past(self, race_id: str, as_of: pd.Timestamp) -> list[str]:
        """How an answer about a past instant differs from one given at that instant: inputs are those of then, the model not."""
        notes = []
        registered = self.model.registered_at
        if registered is not None and pd.Timestamp(registered) > as_of:
            notes.append(
                f"the features are those known at {as_of.isoformat()}, the model is newer: version {self.model.version} was "
                f"registered at {registered} and learnt from races up to {self.served.origin.fitted_until}"
            )
        if result_known(self.settings, race_id, as_of):
            notes.append("the result of this race was published by then, and the features know it")
        return notes

    def _grid(self, race_id: str, service: str, at: pd.Timestamp | None) -> GridLookup:
        """What the online store holds about the cars of a race: those known to take part at an instant, or now."""
        if at is None:
            drivers = list(driver_names(self.settings, race_id))
            return lookup_grid(self.store, race_id=race_id, driver_ids=drivers, service=service)
        cars = cars_at(self.settings, race_id, at)
        rows = [dict(zip(cars, car, strict=True)) for car in zip(*cars.values(), strict=True)]
        return GridLookup(race_id, cars["driver_id"], lookup_rows(self.store, service, rows))

    def _instant_of_race(self, race_id: str, grid: GridLookup, at: pd.Timestamp | None) -> pd.Timestamp:
        """The newest event of the race itself, or the instant given; nothing online may be newer, or the answer would know what
        came after.
        """
        newest = grid.newest()
        now = grid.newest(self._race_views) if at is None or newest is None else at
        if now is None or newest is None:
            raise MissingInputError(f"{race_id}: nothing about this race is online; run `pitwall materialize` first")
        if newest > now and at is not None:
            raise RaceOverError(f"{race_id}: the online store holds rows of {newest}, after {at}; expected none later")
        if newest > now:
            raise RaceOverError(
                f"{race_id}: the online store holds rows of {newest}, after this race's last row of {now}, so its result is "
                "known; ask about a moment of the race instead (--lap or --fraction)"
            )
        return now

    def pictures(self, race_id: str, traces: Columns, as_of: pd.Timestamp | None = None) -> list[bytes | None]:
        """The speed trace of each car as the model sees it: PNG, or None for a car without a lap.

        Args:
            race_id: the race.
            traces: `driver_id` and the features of `speed_trace_v1`, the cars of the race at one moment.
            as_of: the instant whose names and distance the pictures have; None = those known now.
        """
        return [
            None
            if drawing is None
            else self._renderer.render(drawing.trace.lap_numbers, drawing.trace.speeds_kph, drawing.axes, title=drawing.title)
            for drawing in self._drawings(race_id, traces, as_of)
        ]

    def _drawings(self, race_id: str, traces: Columns, as_of: pd.Timestamp | None) -> tuple[Drawing | None, ...]:
        return drawings(race_id, race_of(self.settings, race_id, as_of), driver_names(self.settings, race_id, as_of), traces)

    def _answer(
        self,
        race_id: str,
        inputs: Inputs,
        moment: dict[str, Any],
        source: str,
        as_of: pd.Timestamp | None = None,
        notes: Sequence[str] = (),
    ) -> Prediction:
        features = inputs.features
        tabular = tabular_array(features, self.served.specs)
        drivers = [str(driver_id) for driver_id in features["driver_id"]]
        began = time.perf_counter()
        embedding, has_picture, drawn = self._embedded(race_id, inputs.traces, as_of, len(drivers))
        drawn_at = time.perf_counter()
        probabilities = self.served.predict_embedded(tabular, embedding, has_picture)
        asked_at = time.perf_counter()
        places = assign_positions(probabilities, np.zeros(len(drivers), dtype=np.int64))
        unknown = np.isnan(tabular)
        missing = {
            "features": {
                self.served.specs[column].name: [drivers[row] for row in np.flatnonzero(unknown[:, column])]
                for column in np.flatnonzero(unknown.any(axis=0))
            },
            "pictures": [driver for driver, has in zip(drivers, has_picture, strict=True) if not has]
            if self.served.uses_pictures
            else [],
        }
        used = {spec.name for spec in self.served.specs}
        stale = {name: cars for name, cars in inputs.stale.items() if name in used}
        needed = {
            BEHIND_CLOCK: inputs.is_behind,
            STALE_VALUES: bool(stale),
            MISSING_VALUES: bool(missing["features"]),
            NO_PICTURES: drawn is None,
        }
        order = np.argsort(places, kind="stable")
        return Prediction(
            race_id=race_id,
            simulated=race_of(self.settings, race_id, as_of).is_simulated,
            moment=moment,
            source=source,
            model=self.model,
            saw_this_race=self.served.origin.saw(race_id),
            notes=[*self._notes(race_id, moment, as_of), *notes],
            missing=missing,
            drivers=[said_about(drivers[row], int(places[row]), probabilities[row]) for row in order],
            stale=stale,
            fallbacks=[name for name, is_needed in needed.items() if is_needed],
            stages={"features": inputs.seconds, "pictures": drawn_at - began, "model": asked_at - drawn_at},
            seen=Seen(tuple(drivers), tabular, drawn or (None,) * len(drivers)),
        )

    def _embedded(
        self, race_id: str, traces: Columns | None, as_of: pd.Timestamp | None, n_cars: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[Drawing | None, ...] | None]:
        """Embeddings, which cars have one, and what the pictures show: None if they could not be made and had to be left out."""
        embedding, has_picture = np.zeros((n_cars, EMBEDDING_DIM), dtype=np.float32), np.zeros(n_cars, dtype=bool)
        if traces is None:
            return embedding, has_picture, (None,) * n_cars
        try:
            drawn = self._drawings(race_id, traces, as_of)
            return *self._embeddings.embed(drawn, self.served.encoder()), drawn
        except Exception:
            if not self._without_pictures:
                raise
            logger.exception("pictures_left_out race=%s model=%s", race_id, self.model.version)
            return embedding, has_picture, None


def _names_by_driver(marked: NDArray[np.bool_], view_of: Mapping[str, int], cars: Columns) -> dict[str, list[str]]:
    """Feature -> drivers whose view is marked; features without any are left out."""
    drivers = [[str(cars["driver_id"][row]) for row in np.flatnonzero(marked[:, view])] for view in range(marked.shape[1])]
    return {name: drivers[view] for name, view in view_of.items() if drivers[view]}
