"""Moments of prediction, and the entity frames (who, where, when) that every retrieval starts from.

A moment is asked for in the race's own terms (`pre_race`, `lap:22`, `fraction:0.5`) and resolved to a UTC instant: when the
leader completed that lap. Or it is an instant to begin with (`at:2024-05-26T14:00:00Z`). Everything downstream only sees the
instant: also who takes part, for which team, over which distance, is what was known of it then.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Literal

import pandas as pd
import pyarrow.parquet as pq

from feature_repo.errors import FutureMomentError, InvalidMomentError, NotKnownYetError, UnknownEntityError
from feature_repo.files import read_parquet
from feature_repo.ids import validate_driver_id, validate_race_id
from feature_repo.settings import Settings
from feature_repo.visibility import CREATED, EVENT, as_utc, parse_instant

SPINE_COLUMNS = ("race_id", "driver_id", "constructor_id", "circuit_id", "season", "round", "lap", EVENT)
# A home that holds nothing this much newer cannot say what was known: races may have been held that it has not ingested.
NEWS_BY = pd.Timedelta(days=1)


@dataclass(frozen=True)
class Moment:
    """A moment of a race before it is known when that was.

    Attributes:
        kind: `pre_race` (lights out), `lap` (the leader completes that lap), `fraction` (of the scheduled laps) or `at`.
        lap: the lap, 0 or more, for kind `lap` only; lap 0 is lights out.
        fraction: exact, 0..1, for kind `fraction` only. A rational number, because 0.1 * 70 laps is 7 and not a hair more.
        instant: UTC, microseconds, for kind `at` only.
    """

    kind: Literal["pre_race", "lap", "fraction", "at"]
    lap: int | None = None
    fraction: Fraction | None = None
    instant: pd.Timestamp | None = None

    @classmethod
    def at(cls, instant: datetime | pd.Timestamp) -> "Moment":
        """The moment that is an instant; a naive time is UTC."""
        return cls("at", instant=as_utc(instant))

    @classmethod
    def parse(cls, text: str) -> "Moment":
        """`pre_race`, `lap:22`, `fraction:0.5` or `at:2024-05-26T14:00:00Z` as a moment.

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
        if kind == "at":
            try:
                return cls.at(parse_instant(value))
            except ValueError as error:
                raise _bad_moment(text) from error
        raise _bad_moment(text)

    def __str__(self) -> str:
        if self.kind == "lap":
            return f"lap:{self.lap}"
        if self.kind == "fraction" and self.fraction is not None:
            as_float = float(self.fraction)
            exact = Fraction(repr(as_float)) == self.fraction
            return f"fraction:{as_float if exact else self.fraction}"
        if self.kind == "at" and self.instant is not None:
            return f"at:{self.instant.isoformat().replace('+00:00', 'Z')}"
        return self.kind

    def lap_of(self, scheduled_laps: int) -> int:
        """The leader's lap this moment means in a race over `scheduled_laps`: fraction f is lap ceil(f * scheduled laps).

        An instant means none before it is resolved in a race; 0 then.
        """
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
        lap: the lap the leader had completed then, as was known then; 0 = lights out, or before.
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


def load_entrants_known(settings: Settings) -> pd.DataFrame:
    """`features/entrants_known.parquet`: who was known to take part in each race, a row each time that changed."""
    return read_parquet(settings.features_dir / "entrants_known.parquet")


def load_races_known(settings: Settings) -> pd.DataFrame:
    """`features/races_known.parquet`: what the calendar said of each race, a row each time that changed."""
    return read_parquet(settings.features_dir / "races_known.parquet")


def newest_known(settings: Settings) -> pd.Timestamp:
    """When the newest row of any feature table of a home became known, UTC; from the files' footers."""
    newest = pd.Timestamp.min.tz_localize(UTC)
    for path in sorted(settings.features_dir.glob("*.parquet")):
        footer = pq.read_metadata(path)
        names = [footer.schema.column(column).path for column in range(footer.num_columns)]
        if CREATED in names:
            statistics = [
                footer.row_group(group).column(names.index(CREATED)).statistics for group in range(footer.num_row_groups)
            ]
            newest = max([newest, *(as_utc(found.max) for found in statistics if found is not None and found.has_min_max)])
    return newest


def refuse_future(instant: pd.Timestamp, *, newest: pd.Timestamp | None = None, now: datetime | None = None) -> None:
    """Raise if nobody can say what was known at an instant.

    Args:
        instant: the instant asked about.
        newest: when the newest row that the home holds became known; None leaves that out.
        now: the clock; default the current time.
    Raises:
        FutureMomentError: it has not come yet, or lies more than a day after `newest`.
    """
    clock = as_utc(now or datetime.now(UTC))
    if instant > clock:
        raise FutureMomentError(
            f"as of {instant.isoformat()}: expected an instant in the past, it is {clock.isoformat(timespec='seconds')}; leave "
            "--as-of out for what is known now"
        )
    if newest is not None and instant > newest + NEWS_BY:
        raise FutureMomentError(
            f"as of {instant.isoformat()}: the newest thing this home knows became known at {newest.isoformat()}, over a day "
            "before, so it cannot say what was known then; ingest newer races, or ask about an earlier instant"
        )


def resolve_moment(moments: pd.DataFrame, race_id: str, moment: Moment) -> MomentPoint:
    """The instant of `moment` in one race.

    Args:
        moments: frame of `load_moments`, all races or some.
        race_id: the race.
        moment: what is asked about.
    Raises:
        UnknownEntityError: the race is not in `moments`.
        InvalidMomentError: a lap beyond the scheduled distance.
        FutureMomentError: an instant that has not come yet.
    """
    validate_race_id(race_id)
    of_race = moments[moments["race_id"] == race_id]
    if of_race.empty:
        raise unknown("race_id", race_id, moments["race_id"].unique())
    return _resolve(of_race, race_id, moment)


def entity_frame(settings: Settings, moment: Moment, race_ids: Iterable[str] | None = None) -> pd.DataFrame:
    """Every entrant of the races at one moment of each race: the spine of a training set or of a prediction.

    Who takes part, for which team and at which circuit is what was known of it at the moment.

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
        NotKnownYetError: at the moment nobody was known to take part in one of the races.
    """
    entrants, moments, history = load_entrants(settings), load_moments(settings), load_entrants_known(settings)
    known = {*entrants["race_id"], *history["race_id"]}  # before the grid is known, only the history has the race
    asked = entrants["race_id"] if race_ids is None else map(validate_race_id, race_ids)
    wanted = sorted(set(asked))
    missing = set(wanted) - known
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
    cars = known_at(history, ["race_id", "driver_id"], when)
    races = known_at(load_races_known(settings), ["race_id"], when)
    frame = cars[cars["is_entered"].astype(bool)].merge(
        races[["race_id", "circuit_id", "season", "round"]], on="race_id", validate="many_to_one"
    )
    empty = sorted(set(wanted) - set(frame["race_id"]))
    if empty:
        raise _too_early(settings, empty[0], points[wanted.index(empty[0])].as_of)
    frame = frame.merge(when, on="race_id", validate="many_to_one")
    return frame[list(SPINE_COLUMNS)].sort_values(["race_id", "driver_id"], kind="stable", ignore_index=True)


def known_at(history: pd.DataFrame, keys: list[str], when: pd.DataFrame) -> pd.DataFrame:
    """The newest row of each key that was known at the moment of its race.

    Args:
        history: of `load_entrants_known` or `load_races_known`.
        keys: key columns, `race_id` first.
        when: `race_id` and `event_timestamp` (the moment), a row a race.
    Returns:
        The rows, without their stamps; at most one a key.
    """
    moments = when[["race_id", EVENT]].rename(columns={EVENT: "_moment"})
    rows = history.merge(moments, on="race_id", validate="many_to_one")
    rows = rows[(rows[EVENT] <= rows["_moment"]) & (rows[CREATED] <= rows["_moment"])]
    rows = rows.sort_values([*keys, EVENT, CREATED], kind="stable").drop_duplicates(keys, keep="last")
    return rows.drop(columns=["_moment", EVENT, CREATED])


def find_entrant_at(settings: Settings, race_id: str, driver_id: str, instant: pd.Timestamp) -> pd.Series:
    """One car of a race as it was known at an instant: race_id, driver_id, constructor_id, circuit_id, season, round.

    Raises:
        InvalidIdError, UnknownEntityError: no such race, or the driver did not enter it.
        NotKnownYetError: at the instant the driver was not known to take part.
    """
    spine = entity_frame(settings, Moment.at(instant), [race_id])
    row = spine[spine["driver_id"] == validate_driver_id(driver_id)]
    if row.empty:
        find_entrant(load_entrants(settings), race_id, driver_id)  # a driver who never entered is another error
        raise _too_early(settings, race_id, instant, driver_id)
    return row.iloc[0]


def _too_early(settings: Settings, race_id: str, instant: pd.Timestamp, driver_id: str | None = None) -> NotKnownYetError:
    history = load_entrants_known(settings)
    history = history[(history["race_id"] == race_id) & history["is_entered"].astype(bool)]
    if driver_id is not None:
        history = history[history["driver_id"] == driver_id]
    later = history.loc[history[CREATED] > instant, CREATED]
    since = "" if later.empty else f"; that was known from {as_utc(later.min()).isoformat()}, ask about then or later"
    who = "no driver was known to take part" if driver_id is None else f"{driver_id} was not known to take part"
    return NotKnownYetError(f"{race_id}, as of {instant.isoformat()}: {who}{since}")


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
    if moment.instant is not None:
        refuse_future(moment.instant)
        completed = of_race.loc[of_race["known_at"] <= moment.instant, "lap"]
        return MomentPoint(race_id, int(completed.max()) if len(completed) else 0, moment.instant, truncated=False)
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
    return InvalidMomentError(
        f"moment: got {text!r}, expected pre_race, lap:<L> with L >= 0, fraction:<0..1>, or at:<UTC instant>"
    )
