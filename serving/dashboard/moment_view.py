"""Everything the race page shows about one lap, and the features behind one driver's prediction."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from feature_repo.ids import validate_driver_id
from feature_repo.spine import Moment, unknown
from serving.dashboard import charts
from serving.dashboard.charts import Stint
from serving.dashboard.race_data import Entrant, RaceData, Result, Weather
from serving.dashboard.tables import FileVersion, file_version
from serving.online_lookup import Status
from serving.past_lookup import lookup_past
from serving.prediction import NO_PICTURES, DriverPrediction, Prediction
from serving.races import cars_at
from serving.replayed import replayed
from serving.state import ServingState

KEPT_VIEWS = 512
_Key = tuple[str, int, str, str, tuple[FileVersion, ...]]
_kept: WeakKeyDictionary[ServingState, "_Views"] = WeakKeyDictionary()


@dataclass(frozen=True)
class Row:
    """One car of the tower.

    Attributes:
        driver_id: of the car.
        entrant: who drives.
        said: the prediction.
        running: place in the running order of the moment; None before the first lap.
        result: as known now; None while there is none.
        stints: tyres so far.
    """

    driver_id: str
    entrant: Entrant
    said: DriverPrediction
    running: int | None
    result: Result | None
    stints: list[Stint]

    @property
    def likeliest(self) -> int:
        """The place with the highest probability; the assigned one may differ, because each place is given out once."""
        return 1 + max(range(len(self.said.probabilities)), key=lambda at: self.said.probabilities[at])

    @property
    def off_by(self) -> int | None:
        """Places between the result and the assigned place: > 0 finished further back than predicted."""
        return None if self.result is None else self.result.position - self.said.position


@dataclass(frozen=True)
class MomentView:
    """One lap of one race.

    Attributes:
        race: the race.
        lap: of the leader.
        as_of: the instant; nothing later was read for the prediction, tyres, running order or weather.
        prediction: what is said of the moment.
        fallbacks, stale: how it came about, as in `serving.state.Answer`.
        rows: the cars in predicted order.
        weather: newest reading, or None.
        rain: showers so far, laps of the leader; None where it was not measured.
        replay: names the replay that predicted this; None where the service did.
    """

    race: RaceData
    lap: int
    as_of: pd.Timestamp
    prediction: Prediction
    fallbacks: list[str]
    stale: dict[str, list[str]]
    rows: list[Row]
    weather: Weather | None
    rain: list[tuple[float, float]] | None
    replay: str | None = None

    @property
    def said(self) -> str:
        """The moment in one sentence: lap, model, first place; empty without cars."""
        model = self.prediction.model
        how = f"{'replayed with ' if self.replay else ''}{model.name} version {model.version}"
        return f"Lap {self.lap}, {how}: {self.rows[0].entrant.name} is predicted to win." if self.rows else ""

    @property
    def when(self) -> str:
        """The moment in words: `at lights out`, `after lap 12`."""
        return f"after lap {self.lap}" if self.lap else "at lights out"

    @property
    def so_far(self) -> str:
        """What was driven, in words: `up to lap 12`."""
        return f"up to lap {self.lap}" if self.lap else "before the first lap"

    @property
    def laps_driven(self) -> bool:
        """Some car has completed a lap."""
        return any(row.stints for row in self.rows)

    @property
    def compounds(self) -> list[str]:
        """Compounds that the legend of the tyres names: those of today, and older ones that were driven; softest first."""
        driven = {stint.compound for row in self.rows for stint in row.stints}
        return [compound for compound in charts.COMPOUNDS if compound in driven or compound not in charts.OLD_COMPOUNDS]

    @property
    def exact(self) -> int | None:
        """Cars that finished where they were predicted; None while there is no result."""
        off = [row.off_by for row in self.rows if row.off_by is not None]
        return sum(places == 0 for places in off) if off else None

    @property
    def mean_error(self) -> float | None:
        """Mean distance between prediction and result, places; None while there is no result."""
        off = [abs(row.off_by) for row in self.rows if row.off_by is not None]
        return sum(off) / len(off) if off else None


@dataclass(frozen=True)
class FeatureLine:
    """A feature behind a prediction: value, when it became true, its age at the moment (seconds), FRESH, STALE or MISSING."""

    name: str
    value: Any
    event: pd.Timestamp | None
    age_s: float | None
    status: Status


class _Views:
    """The moments most recently shown. Safe to share between threads."""

    def __init__(self) -> None:
        self._views: OrderedDict[_Key, MomentView] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, key: _Key) -> MomentView | None:
        with self._lock:
            found = self._views.get(key)
            if found is not None:
                self._views.move_to_end(key)
            return found

    def keep(self, key: _Key, view: MomentView) -> None:
        with self._lock:
            self._views[key] = view
            while len(self._views) > KEPT_VIEWS:
                self._views.popitem(last=False)


def moment_view(state: ServingState, race: RaceData, lap: int | None = None, *, replay: str | None = None) -> MomentView:
    """What the race page shows at a lap; kept per race, lap, model or replay, and version of the feature tables.

    Args:
        state: of the service.
        race: the race.
        lap: completed by the leader, 0 = lights out; default the home's default moment. One beyond the last is the last.
        replay: what this replay predicted then, instead of what the service says.
    Raises:
        PitwallError: as `ServingState.answer`; NoReplayError: not the newest replay, or it has not shown the lap.
    """
    at = min(Moment.parse(state.settings.moment).lap_of(race.scheduled_laps) if lap is None else lap, race.last_lap)
    kept = _kept.setdefault(state, _Views())
    files = tuple(file_version(path) for path in sorted(state.settings.features_dir.glob("*.parquet")))
    if replay is not None:
        key = (race.race_id, at, replay, "replay", files)
        found = kept.recall(key)
        if found is None:
            said = replayed(state.settings, race.race_id, replay, at)
            found = replace(_view(race, at, said, said.fallbacks, said.stale), replay=replay)
            kept.keep(key, found)
        return found
    model = state.models.current(race.race_id)
    key = (race.race_id, at, model.version, f"{model.role} {model.predictor.model.note}", files)
    found = kept.recall(key)
    if found is None:
        answer = state.answer(race.race_id, Moment("lap", lap=at))
        found = _view(race, at, answer.prediction, answer.fallbacks, answer.stale)
        if NO_PICTURES not in answer.fallbacks and answer.model is model:  # the next answer may have its pictures, or that model
            kept.keep(key, found)
    return found


def _view(race: RaceData, lap: int, prediction: Prediction, fallbacks: list[str], stale: dict[str, list[str]]) -> MomentView:
    as_of = pd.Timestamp(prediction.moment["as_of"])
    running, stints = race.running(as_of), race.stints(as_of)
    rows = [
        Row(
            driver_id=said.driver_id,
            entrant=race.entrant(said.driver_id),
            said=said,
            running=running.get(said.driver_id),
            result=race.results.get(said.driver_id),
            stints=stints.get(said.driver_id, []),
        )
        for said in prediction.drivers
    ]
    return MomentView(race, lap, as_of, prediction, fallbacks, stale, rows, race.weather(as_of), race.rain(as_of))


def driver_features(state: ServingState, view: MomentView, driver_id: str) -> dict[str, list[FeatureLine]]:
    """The features behind a driver's prediction: view -> its features as known at the moment.

    Raises:
        InvalidIdError, UnknownEntityError: the driver was not in the race at the moment.
    """
    cars = cars_at(state.settings, view.race.race_id, view.as_of)
    if validate_driver_id(driver_id) not in cars["driver_id"]:
        raise unknown("driver_id", driver_id, cars["driver_id"], where=f" in race {view.race.race_id}")
    at = cars["driver_id"].index(driver_id)
    keys = {name: values[at : at + 1] for name, values in cars.items()}
    moments_us = np.array([view.as_of.value // 1000], dtype=np.int64)
    service = view.prediction.model.feature_service
    found = lookup_past(state.store, service, keys, moments_us)
    ages, held = found.ages_s()[0], found.held[0]
    lines: dict[str, list[FeatureLine]] = {}
    for name, number in found.view_of.items():
        event = pd.Timestamp(int(found.event_us[0, number]), unit="us", tz="UTC") if held[number] else None
        age_s = float(ages[number]) if held[number] else None
        line = FeatureLine(name, found.values(name)[0], event, age_s, found.statuses(name)[0])
        lines.setdefault(found.views[number].view.name, []).append(line)
    return lines
