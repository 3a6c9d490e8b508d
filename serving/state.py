"""What a serving process holds open between requests, and the one path on which every answer is made."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from fastapi import Request
from prometheus_client.core import GaugeMetricFamily

from feature_repo.errors import PitwallError
from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_entrants, unknown
from feature_repo.store import open_store
from feature_repo.stores.online import packed_store
from ml.errors import ModelContractError
from ml.registry import BASELINE, CHALLENGER, CHAMPION
from ml.traces.renderer import TraceRenderer
from serving.bounded import Bounded
from serving.gate import FairGate
from serving.live_pictures import trace_png
from serving.metrics import Metrics
from serving.models import LoadedModel, ModelManager
from serving.prediction import Prediction

MAY_FAIL = (CHAMPION, CHALLENGER, BASELINE, "registry")
"""Of what `ModelManager.problems` may speak."""

FRESHNESS_FOR_S, FRESHNESS_PATIENCE_S = 15.0, 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A prediction and how it came about.

    Attributes:
        prediction: what the model says; only of the drivers asked about.
        model: that answered.
        fallbacks: what was done instead of what was wanted, in order: `behind_clock`, `stale_values`, `missing_values`,
            `no_pictures`, `champion` (the challenger failed, the champion was asked), `baseline` (a model failed or could not be
            loaded, the tabular baseline was asked); empty when nothing was.
        stale: feature -> drivers whose value was older than its view allows, and used all the same.
        latency_ms: from the call to the answer, waiting included.
    """

    prediction: Prediction
    model: LoadedModel
    fallbacks: list[str] = field(default_factory=list)
    stale: dict[str, list[str]] = field(default_factory=dict)
    latency_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The prediction as JSON, with `fallbacks`, `stale` and `latency_ms`."""
        return {
            **self.prediction.to_json(),
            "fallbacks": self.fallbacks,
            "stale": self.stale,
            "latency_ms": round(self.latency_ms, 3),
        }


class ServingState:
    """One open store and the loaded models of a home; shared by all threads of the process.

    Args:
        settings: which home.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings, serving=True)
        self.gate = FairGate(settings.serve_slots)
        """Before predictions, which may draw and embed twenty pictures."""
        self.lookups = FairGate(settings.serve_slots)
        """Before lookups, so that they need not wait behind a prediction that draws."""
        self.metrics = Metrics()
        self.started_at = time.time()
        self.models = ModelManager(settings, self.store)
        self.on_answer: list[Callable[[Answer], None]] = []
        """Called with every answer after it is made; what they raise is logged and goes no further."""
        self.on_close: list[Callable[[], None]] = []
        """Called when the service ends, before the models are closed."""
        self._renderer = TraceRenderer()
        self._freshness: tuple[float, dict[str, float]] = (float("-inf"), {})
        self._newest_events = Bounded(self._read_newest_events, "pitwall-freshness")
        self._warm()

    def answer(
        self, race_id: str, moment: Moment | None = None, *, live: bool = False, drivers: Sequence[str] | None = None
    ) -> Answer:
        """The finishing order at a moment of a race, or from the newest state.

        Args:
            race_id: the race.
            moment: default the home's default moment.
            live: from the online store's newest values instead.
            drivers: only these; the race is predicted as a whole either way.
        Raises:
            PitwallError: as `Predictor.predict` and `Predictor.predict_live`; UnknownEntityError for a driver who is not in it.
            NoModelError: no model is loaded.
        """
        started = time.perf_counter()
        with self.models.about(race_id) as models, self.gate.entered():
            waited = time.perf_counter() - started
            said, model, fell_back = _ask(models, race_id, moment, live=live)
        if drivers is not None:
            said = _only(said, drivers)
        latency = time.perf_counter() - started
        answer = Answer(said, model, [*said.fallbacks, *fell_back], said.stale, latency * 1e3)
        self._count(answer, {"wait": waited, **said.stages, "total": latency})
        for listener in self.on_answer:
            try:
                listener(answer)
            except Exception:
                logger.exception("answer_not_noted race=%s", race_id)
        return answer

    def _count(self, answer: Answer, stages: dict[str, float]) -> None:
        self.metrics.count_stages(stages)
        self.metrics.count_inputs(answer.prediction)
        self.metrics.predictions.labels(answer.model.version, answer.model.role, answer.prediction.source).inc()
        for fallback in answer.fallbacks:
            self.metrics.fallbacks.labels(fallback).inc()

    def _warm(self) -> None:
        """Answer once before anybody asks: reading tables, registry and encoder makes a first answer a hundred times slower."""
        try:
            self.answer(str(load_entrants(self.settings)["race_id"].max()))
        except Exception as error:  # noqa: BLE001 - a home that cannot answer yet; /readyz says what is missing
            logger.warning("not_warm %s: %s", type(error).__name__, error)

    def trace_png(self, race_id: str, driver_id: str, moment: Moment) -> bytes | None:
        """The speed trace of a car at a moment, drawn as for the model; None for a car without a lap.

        Raises:
            UnknownEntityError: no such race, or the driver is not in it.
            InvalidMomentError, NotKnownYetError: the race has no such moment.
        """
        with self.gate.entered():
            return trace_png(self.settings, self.store, self._renderer, race_id, driver_id, moment)

    def freshness_s(self) -> dict[str, float]:
        """View -> seconds since the newest event that the online store holds of it; asked of the store at most every 15 s.

        Raises:
            OnlineStoreUnavailableError: the store does not answer.
            TimeoutError: it says nothing within 2 s.
        """
        made, newest = self._freshness
        if time.monotonic() - made > FRESHNESS_FOR_S:
            newest = self._newest_events.answer(FRESHNESS_PATIENCE_S)
            self._freshness = (time.monotonic(), newest)
        now = pd.Timestamp.now("UTC").timestamp()
        return {name: now - event for name, event in newest.items()}

    def _read_newest_events(self) -> dict[str, float]:
        online = packed_store(self.store)
        views = [view for view in self.store.list_feature_views(allow_cache=True) if view.online]
        held = {view.name: online.newest_event(self.store.config, view) for view in views}
        return {name: event / 1e6 for name, event in held.items() if event is not None}

    def measure(self) -> None:
        """Tell the metrics how many wait and which models are not those that should answer."""
        problems = self.models.problems
        self.metrics.measured(
            waiting=self.gate.waiting + self.lookups.waiting, problems={role: role in problems for role in MAY_FAIL}
        )

    def gauges(self) -> Iterable[GaugeMetricFamily]:
        """Model ages, freshness and whether the online store answers, measured now."""
        self.measure()
        age = GaugeMetricFamily("pitwall_model_age_seconds", "Since the version was registered.", labels=("role", "version"))
        models = self.models
        loaded = filter(None, (models.answering, models.baseline, models.challenger))
        for model in {(model.role, model.version): model for model in loaded}.values():  # the baseline may be what answers
            registered = model.predictor.model.registered_at
            if registered is not None:
                age.add_metric((model.role, model.version), time.time() - pd.Timestamp(registered).timestamp())
        yield age
        up = GaugeMetricFamily("pitwall_online_store_up", "1 where the online store answers.")
        fresh = GaugeMetricFamily("pitwall_view_freshness_seconds", "Since the newest event held online.", labels=("view",))
        try:
            for view, seconds in self.freshness_s().items():
                fresh.add_metric((view,), seconds)
            up.add_metric((), 1.0)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the store, what is measured must still be read
            logger.warning("freshness_unknown %s: %s", type(error).__name__, error)
            up.add_metric((), 0.0)
        yield up
        yield fresh

    def close(self) -> None:
        """Stop the background work and write what is buffered."""
        for closing in self.on_close:
            try:
                closing()
            except Exception:
                logger.exception("not_closed")
        self.models.close()


async def get_state(request: Request) -> ServingState:
    """The state of the application that a request came to; `async`, or each request would go through a second thread for it."""
    state: ServingState = request.app.state.serving
    return state


def _ask(
    models: Sequence[LoadedModel], race_id: str, moment: Moment | None, *, live: bool
) -> tuple[Prediction, LoadedModel, list[str]]:
    """What the first of some models says that does not fail itself, which one that is, and the roles that stood in for others."""
    model, *others = models
    stands_in = [model.role] if model.stands_in else []
    try:
        said = model.predictor.predict_live(race_id) if live else model.predictor.predict(race_id, moment)
    except Exception as error:
        model_failed = isinstance(error, ModelContractError) or not isinstance(error, PitwallError)
        if not model_failed or not others:
            raise
        logger.exception("model_failed version=%s race=%s; the %s is asked", model.version, race_id, others[0].role)
    else:
        return said, model, stands_in
    said, model, stood_in = _ask(others, race_id, moment, live=live)
    return said, model, list(dict.fromkeys([*stands_in, others[0].role, *stood_in]))


def _only(said: Prediction, drivers: Sequence[str]) -> Prediction:
    """What was said about some drivers, in the order of their places."""
    known = {driver.driver_id for driver in said.drivers}
    strangers = [driver for driver in drivers if driver not in known]
    if strangers:
        raise unknown("driver_id", strangers[0], known, where=f" in race {said.race_id}")
    wanted = set(drivers)

    def kept(by_feature: dict[str, list[str]]) -> dict[str, list[str]]:
        found = {name: [car for car in cars if car in wanted] for name, cars in by_feature.items()}
        return {name: cars for name, cars in found.items() if cars}

    return replace(
        said,
        drivers=[driver for driver in said.drivers if driver.driver_id in wanted],
        missing={
            "features": kept(said.missing["features"]),
            "pictures": [car for car in said.missing["pictures"] if car in wanted],
        },
        stale=kept(said.stale),
    )
