"""Moments of prediction, and the entity frames (who, where, when) that every retrieval starts from.

A moment is asked for in the race's own terms (`pre_race`, `lap:22`, `fraction:0.5`) and resolved to a UTC instant: when the
leader completed that lap. Everything downstream only sees the instant.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import pandas as pd

from feature_repo.errors import InvalidMomentError, UnknownEntityError
from feature_repo.files import read_parquet
from feature_repo.ids import validate_driver_id, validate_race_id
from feature_repo.settings import Settings
from feature_repo.visibility import EVENT, as_utc

SPINE_COLUMNS = ("race_id", "driver_id", "constructor_id", "circuit_id", "season", "round", "lap", EVENT)


@dataclass(frozen=True)
class Moment:
    """A moment of a race before it is known when that was.

    Attributes:
        kind: `pre_race` (lights out), `lap` (the leader completes that lap) or `fraction` (of the scheduled laps).
        lap: the lap, 0 or more, for kind `lap` only; lap 0 is lights out.
        fraction: exact, 0..1, for kind `fraction` only. A rational number, because 0.1 * 70 laps is 7 and not a hair more.
    """

    kind: Literal["pre_race", "lap", "fraction"]
    lap: int | None = None
    fraction: Fraction | None = None

    @classmethod
    def parse(cls, text: str) -> "Moment":
        """`pre_race`, `lap:22` or `fraction:0.5` as a moment.

        Raises:
            InvalidMomentError: any other form, a negative lap, or a fraction outside 0..1.
        """
        kind, _, value = text.strip().partition(":")
        if kind == "pre_race" and not value:
            return cls("pre_race")
        if kind == "lap" and value.isascii() and value.isdigit() and len(value) <= 4:
            return cls("lap", lap=int(value))
        if kind == "fraction":
            try:
                fraction = Fraction(value)
            except (ValueError, ZeroDivisionError) as error:
                raise _bad_moment(text) from error
            if 0 <= fraction <= 1:
                return cls("fraction", fraction=fraction)
        raise _bad_moment(text)

    def __str__(self) -> str:
        if self.kind == "lap":
            return f"lap:{self.lap}"
        if self.kind == "fraction" and self.fraction is not None:
            as_float = float(self.fraction)
            exact = Fraction(repr(as_float)) == self.fraction
            return f"fraction:{as_float if exact else self.fraction}"
        return self.kind

    def lap_of(self, scheduled_laps: int) -> int:
        """The leader's lap this moment means in a race over `scheduled_laps`: fraction f is lap ceil(f * scheduled laps)."""
        if self.kind == "lap" and self.lap is not None:
            return self.lap
        if self.kind == "fraction" and self.fraction is not None:
            return math.ceil(self.fraction * scheduled_laps)
        return 0


@dataclass(frozen=True)
class MomentPoint:
    """A moment of one race as an instant.

    Attributes:
        race_id: the race.
        lap: the lap the leader had completed then; 0 = lights out.
        as_of: UTC instant; nothing later may be read.
        truncated: the race was stopped before the lap asked for, so this is the last lap that the leader completed.
    """

    race_id: str
    lap: int
    as_of: pd.Timestamp
    truncated: bool


def load_entrants(settings: Settings) -> pd.DataFrame:
    """`features/entrants.parquet`: one row per race and driver (ids of all four, season, round, code, name)."""
    return read_parquet(settings.features_dir / "entrants.parquet")


def load_moments(settings: Settings) -> pd.DataFrame:
    """`features/moments.parquet`: one row per race and leader's lap (race_id, lap, as_of, scheduled_laps, race_start, ...)."""
    return read_parquet(settings.features_dir / "moments.parquet")


def resolve_moment(moments: pd.DataFrame, race_id: str, moment: Moment) -> MomentPoint:
    """The instant of `moment` in one race.

    Args:
        moments: frame of `load_moments`, all races or some.
        race_id: the race.
        moment: what is asked about.
    Raises:
        UnknownEntityError: the race is not in `moments`.
        InvalidMomentError: a lap beyond the scheduled distance.
    """
    validate_race_id(race_id)
    of_race = moments[moments["race_id"] == race_id]
    if of_race.empty:
        raise unknown("race_id", race_id, moments["race_id"].unique())
    return _resolve(of_race, race_id, moment)


def entity_frame(settings: Settings, moment: Moment, race_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """Every entrant of the races at one moment of each race: the spine of a training set or of a prediction.

    Args:
        settings: which home.
        moment: resolved for each race by itself.
        race_ids: some races; default all that have entrants.
    Returns:
        race_id, driver_id, constructor_id, circuit_id, season, round, lap (leader's lap of the moment) and event_timestamp (the
        moment, UTC, microseconds); sorted by race_id, driver_id; one row per entrant.
    Raises:
        UnknownEntityError: a race without entrants or without moments.
        InvalidMomentError: the lap lies beyond the distance of one of the races.
    """
    entrants, moments = load_entrants(settings), load_moments(settings)
    known = entrants["race_id"].unique()
    wanted = sorted(known) if race_ids is None else sorted({validate_race_id(race_id) for race_id in race_ids})
    missing = set(wanted) - set(known)
    if missing:
        raise unknown("race_id", min(missing), known)
    by_race = dict(list(moments[moments["race_id"].isin(wanted)].groupby("race_id", sort=False)))
    without = sorted(set(wanted) - set(by_race))
    if without:
        raise UnknownEntityError(
            f"{without[0]}: has entrants but no moments ({len(without)} such races); run `pitwall features` again"
        )
    points = [_resolve(by_race[race_id], race_id, moment) for race_id in wanted]
    when = pd.DataFrame({"race_id": wanted, "lap": [point.lap for point in points]})
    when[EVENT] = pd.Series(pd.to_datetime([point.as_of for point in points], utc=True), dtype="datetime64[us, UTC]")
    frame = entrants[entrants["race_id"].isin(wanted)].merge(when, on="race_id", validate="many_to_one")
    return frame[list(SPINE_COLUMNS)].sort_values(["race_id", "driver_id"], kind="stable", ignore_index=True)


def find_entrant(entrants: pd.DataFrame, race_id: str, driver_id: str) -> pd.Series:
    """The row of `entrants` for one race and driver.

    Raises:
        InvalidIdError: an id is not of the form of ids.
        UnknownEntityError: no such race, or the driver did not enter it; the message suggests near names.
    """
    validate_race_id(race_id)
    validate_driver_id(driver_id)
    of_race = entrants[entrants["race_id"] == race_id]
    if of_race.empty:
        raise unknown("race_id", race_id, entrants["race_id"].unique())
    row = of_race[of_race["driver_id"] == driver_id]
    if row.empty:
        raise unknown("driver_id", driver_id, of_race["driver_id"].unique(), where=f" in race {race_id}")
    return row.iloc[0]


def unknown(kind: str, got: str, known: Iterable[str], where: str = "") -> UnknownEntityError:
    """The error for a well-formed id that nothing is known about, with near names and how many there are."""
    names = sorted(str(name) for name in known)
    near = difflib.get_close_matches(got, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known are {names[0]} ... {names[-1]}" if names else "none are known"
    return UnknownEntityError(f"{kind}: got {got!r}, not among the {len(names)} known{where}; {hint}")


def _resolve(of_race: pd.DataFrame, race_id: str, moment: Moment) -> MomentPoint:
    scheduled = int(of_race["scheduled_laps"].iloc[0])
    start = as_utc(of_race["race_start"].iloc[0])
    wanted = moment.lap_of(scheduled)
    if wanted == 0:
        return MomentPoint(race_id, 0, start, truncated=False)
    completed = of_race[of_race["lap"] <= wanted]
    if wanted > scheduled and wanted not in set(of_race["lap"]):
        raise InvalidMomentError(f"{moment}: race {race_id} is scheduled over {scheduled} laps; ask for lap 0 to {scheduled}")
    if completed.empty or int(completed["lap"].max()) == 0:
        return MomentPoint(race_id, 0, start, truncated=True)
    last = completed.loc[completed["lap"].idxmax()]
    return MomentPoint(race_id, int(last["lap"]), as_utc(last["as_of"]), truncated=int(last["lap"]) < wanted)


def _bad_moment(text: str) -> InvalidMomentError:
    return InvalidMomentError(f"moment: got {text!r}, expected pre_race, lap:<L> with L >= 0, or fraction:<0..1>")
