"""What the race page shows besides the prediction: laps, tyres, weather, running order and result of one race.

Read once per race and version of the feature tables; asked at an instant, it gives only what was known then. The result is
apart: it is what is known now, and the page says so.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from feature_repo.ids import validate_race_id
from feature_repo.settings import Settings
from feature_repo.spine import unknown
from feature_repo.visibility import CREATED, EVENT, as_utc, latest_visible, visible
from serving.dashboard.charts import Stint
from serving.dashboard.tables import FileVersion, rows_of_race, versions
from serving.races import race_of

TABLES = ("moments", "entrants", "race_state", "tire_state", "race_weather", "race_result")


@dataclass(frozen=True)
class Entrant:
    """A car of the race: three-letter code, the driver's name, the constructor's id."""

    code: str
    name: str
    constructor_id: str


@dataclass(frozen=True)
class Result:
    """Where a car finished: official order, whether it is classified, and how its race ended."""

    position: int
    is_classified: bool
    status: str


@dataclass(frozen=True)
class Weather:
    """The newest reading: air and track temperature (degrees Celsius), wind (m/s), rain now; None where not measured."""

    air_c: float | None
    track_c: float | None
    wind_mps: float | None
    is_raining: bool | None


@dataclass(frozen=True)
class RaceData:
    """One race; every method that takes an instant answers from rows known by then.

    Attributes:
        race_id, season, round, name, circuit_id: which race.
        race_start: lights out, UTC.
        scheduled_laps: race distance, laps.
        is_simulated: it never happened.
        laps: completed lap of the leader -> its instant, UTC; lap 0 is lights out.
        entrants: driver_id -> who drives.
        results: driver_id -> result as known now; empty while there is none.
        result_known_at: when the result became known, UTC.
    """

    race_id: str
    season: int
    round: int
    name: str
    circuit_id: str
    race_start: pd.Timestamp
    scheduled_laps: int
    is_simulated: bool
    laps: Mapping[int, pd.Timestamp]
    entrants: Mapping[str, Entrant]
    results: Mapping[str, Result]
    result_known_at: pd.Timestamp | None
    _cars: pd.DataFrame
    _weather: pd.DataFrame

    @property
    def last_lap(self) -> int:
        """The last lap that the leader has completed."""
        return max(self.laps)

    @property
    def winner(self) -> str | None:
        """driver_id of the winner, once known."""
        return next((driver_id for driver_id, result in self.results.items() if result.position == 1), None)

    def entrant(self, driver_id: str) -> Entrant:
        """Who drives; made of the id for a driver who was known to take part at a moment, but is not among the entrants."""
        return self.entrants.get(driver_id) or Entrant(driver_id[-3:].upper(), driver_id.replace("_", " ").title(), "")

    def stints(self, as_of: pd.Timestamp) -> dict[str, list[Stint]]:
        """driver_id -> runs on one set of tyres, of the laps that were known by the instant."""
        known = latest_visible(self._cars, ["driver_id", "lap"], as_of)
        return {str(driver_id): _stints(rows) for driver_id, rows in known.groupby("driver_id", sort=True)}

    def running(self, as_of: pd.Timestamp) -> dict[str, int]:
        """driver_id -> place in the running order of the instant; cars that stopped count until they are passed."""
        known = latest_visible(self._cars, ["driver_id"], as_of)
        order = known.sort_values(["lap", "running_elapsed_s"], ascending=[False, True], kind="stable")
        return {str(driver_id): place for place, driver_id in enumerate(order["driver_id"], start=1)}

    def weather(self, as_of: pd.Timestamp) -> Weather | None:
        """The newest reading known at the instant; None before the first."""
        known = latest_visible(self._weather, ["race_id"], as_of)
        if known.empty:
            return None
        row = known.iloc[0]
        rain = _measured(row["weather_is_raining"])
        return Weather(
            air_c=_measured(row["weather_air_temp_c"]),
            track_c=_measured(row["weather_track_temp_c"]),
            wind_mps=_measured(row["weather_wind_speed_mps"]),
            is_raining=None if rain is None else rain > 0,
        )

    def rain(self, as_of: pd.Timestamp) -> list[tuple[float, float]] | None:
        """Start and end of each shower known at the instant, in laps of the leader with fractions; lap 0 is lights out.

        None where no reading known by then says whether it rained.
        """
        readings = self._weather[visible(self._weather, as_of)]
        if readings["weather_is_raining"].isna().all():
            return None
        known = readings[readings[EVENT] >= self.race_start].sort_values(EVENT)
        instants = [self.laps[lap].value for lap in sorted(self.laps)]
        at = np.interp([stamp.value for stamp in known[EVENT]], instants, sorted(self.laps))
        end = float(np.interp(as_utc(as_of).value, instants, sorted(self.laps)))
        spans: list[tuple[float, float]] = []
        for number, is_wet in enumerate(known["weather_is_raining"] > 0):
            if not is_wet:
                continue
            until = float(at[number + 1]) if number + 1 < len(at) else end
            if spans and spans[-1][1] >= at[number]:
                spans[-1] = (spans[-1][0], until)
            else:
                spans.append((float(at[number]), until))
        return spans


def race_data(settings: Settings, race_id: str) -> RaceData:
    """One race, from the feature tables as they are now.

    Raises:
        InvalidIdError, UnknownEntityError: no such race.
        MissingInputError: there are no feature tables.
    """
    race_of(settings, validate_race_id(race_id))
    return _race_data(race_id, versions(settings, *TABLES))


@functools.lru_cache(maxsize=16)
def _race_data(race_id: str, files: tuple[FileVersion, ...]) -> RaceData:
    moments, entrants, state, tyres, weather, result = (rows_of_race(version[0], race_id) for version in files)
    if moments.empty:
        raise unknown("race_id", race_id, [])
    keys = ["driver_id", EVENT, CREATED]
    cars = state.merge(tyres[[*keys, "tire_compound", "tire_stint"]], on=keys, how="left", validate="one_to_one")
    cars["lap"] = cars["running_laps_completed"].astype("int64")
    newest = result.sort_values([EVENT, CREATED]).drop_duplicates("driver_id", keep="last")
    first = moments.sort_values("lap").iloc[0]
    return RaceData(
        race_id=race_id,
        season=int(first["season"]),
        round=int(first["round"]),
        name=str(first["name"]),
        circuit_id=str(first["circuit_id"]),
        race_start=as_utc(first["race_start"]),
        scheduled_laps=int(first["scheduled_laps"]),
        is_simulated=bool(first["is_simulated"]),
        laps={int(lap): as_utc(instant) for lap, instant in zip(moments["lap"], moments["as_of"], strict=True)},
        entrants={row.driver_id: Entrant(row.code, row.driver_name, row.constructor_id) for row in entrants.itertuples()},
        results={
            row.driver_id: Result(int(row.finish_position), bool(row.is_classified), str(row.status))
            for row in newest.sort_values("finish_position").itertuples()
        },
        result_known_at=None if newest.empty else as_utc(newest[CREATED].max()),
        _cars=cars,
        _weather=weather,
    )


def _measured(value: object) -> float | None:
    return None if pd.isna(value) else float(value)  # type: ignore[arg-type]  # a number where it is not missing


def _stints(rows: pd.DataFrame) -> list[Stint]:
    found: list[Stint] = []
    before: tuple[float, str | None] | None = None
    for row in rows.sort_values("lap").itertuples():
        compound = row.tire_compound if isinstance(row.tire_compound, str) else None
        if before == (row.tire_stint, compound) and found:
            found[-1] = Stint(found[-1].start, int(row.lap), compound)
        else:
            found.append(Stint(int(row.lap), int(row.lap), compound))
        before = (row.tire_stint, compound)
    return found
