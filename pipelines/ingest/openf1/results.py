"""Who finished where: OpenF1's results as raw entries, and the order in which the cars crossed the line before any penalty.

Pure. The order on the road does not come from `position`: from the flag on, the service's positions have time penalties in them.
"""

import pandas as pd

from feature_repo.visibility import EVENT
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.openf1.tables import RaceAnswers

_SCORING = 10  # places that score
CLASSIFIED_SHARE = 0.9  # of the winner's laps


def make_results(race: RaceAnswers, people: pd.DataFrame) -> pd.DataFrame:
    """Raw results (`entries.RESULT_CONTENT` and `milliseconds`) of one race.

    A car without a position that neither retired nor failed to start and covered the distance was disqualified, whatever `dsq`
    says (2023 round 18 and 2024 round 14). A car that started and has no place on the grid started from the pit lane. No points
    for one of the first ten cannot be (10 entries of 2023) and are not believed.
    """
    rows = _flagged(race.result)
    grid = race.starting_grid.dropna(subset=["driver_number"]).drop_duplicates("driver_number", keep="last")
    place = rows["driver_number"].map(grid.set_index("driver_number")["position"])
    if len(grid):
        place = place.mask(place.isna() & ~rows["dns"], 0)
    position, laps = rows["position"], rows["number_of_laps"]
    text = position.astype("Int64").astype("string").astype(object).where(position.notna(), "R")
    is_finisher = ~rows["dnf"] & position.notna()
    status = pd.Series("Retired", index=rows.index, dtype=object)
    status = status.mask(is_finisher, "Finished").mask(is_finisher & (laps < laps.max()), "Lapped")
    official_s = pd.to_numeric(rows["duration"], errors="coerce").astype("float64")
    order = rows.assign(_group=_group(rows), _laps=-laps.fillna(0)).sort_values(["_group", "position", "_laps"], kind="stable")
    frame = pd.DataFrame(
        {
            "car_number": rows["driver_number"],
            "grid": place,
            "position": position,
            "position_text": text.mask(rows["dns"], "W").mask(rows["dsq"], "D"),
            "position_order": pd.Series(range(1, len(order) + 1), index=order.index, dtype="float64"),
            "points": rows["points"].mask((rows["points"] == 0) & (position <= _SCORING)),
            "laps_completed": laps.mask(rows["dns"] & laps.isna(), 0),
            "status": status.mask(rows["dns"], "Did not start").mask(rows["dsq"], "Disqualified"),
            "milliseconds": (official_s * 1000).where((position == 1) & (official_s == official_s.max())),
        }
    )
    return _of_race(frame, rows, race, people)


def make_qualifying(race: RaceAnswers, people: pd.DataFrame) -> pd.DataFrame:
    """Raw qualifying (`entries.QUALIFYING_CONTENT`); cars without a position follow the others in the order of the answer."""
    rows = race.qualifying.sort_values("position", kind="stable", ignore_index=True)  # without a position: last
    parts = [value if isinstance(value, list) else [] for value in rows["duration"]]
    times = pd.DataFrame([[*part[:3], *[None] * (3 - len(part))] for part in parts], columns=["q1_s", "q2_s", "q3_s"])
    behind = rows["position"].isna().cumsum() + rows["position"].max()
    frame = times.apply(pd.to_numeric, errors="coerce").astype("float64").assign(position=rows["position"].fillna(behind))
    return _of_race(frame, rows, race, people)


def classification_at_flag(laps: pd.DataFrame, result: pd.DataFrame) -> pd.DataFrame:
    """The order in which cars crossed the line at the flag, before penalties and disqualifications of after the race.

    Cars that were running or have 90 % of the winner's laps, by laps completed and then by the instant of crossing the line. The
    instant is the median, over the car's laps, of where the lap begins plus the times of it and all that follow: each beginning
    is off by 0.1 s, their median by some milliseconds. The official gaps of 2023-2024, less penalties of 5 s and multiples
    thereof, follow from it to within 0.03 s.

    Args:
        laps: `openf1_answers.typed("laps", ...)` of the race.
        result: its `session_result`.

    Returns:
        `driver_number, position, finish` (UTC), one row a car; no rows where the last laps of a car are missing (2023 round 14).
    """
    nothing = pd.DataFrame({"driver_number": [], "position": [], "finish": pd.Series([], dtype="datetime64[us, UTC]")})
    rows = _flagged(result.drop_duplicates("driver_number"))
    laps = laps.drop_duplicates(["driver_number", "lap_number"])
    counted = rows[rows["position"].notna() | (rows["dsq"] & _went_the_distance(rows))]
    completed = counted.set_index("driver_number")["number_of_laps"].dropna()
    within = laps[laps["lap_number"] <= laps["driver_number"].map(completed)]
    ordered = within.sort_values(["driver_number", "lap_number"], ascending=[True, False], kind="stable")
    by_driver = ordered.groupby("driver_number")
    if by_driver["lap_number"].max().reindex(completed.index).ne(completed).any() or completed.empty:
        return nothing
    # counted from the last lap back; a lap without a time (lap 1) ends it
    is_timed = ordered["lap_duration"].notna().groupby(ordered["driver_number"]).cummin()
    to_go = ordered["lap_duration"].groupby(ordered["driver_number"]).cumsum()
    crossing = (ordered["date_start"] + pd.to_timedelta(to_go, unit="s"))[is_timed & ordered["date_start"].notna()]
    finish = crossing.groupby(ordered["driver_number"]).median().reindex(completed.index)
    if finish[completed == completed.max()].isna().any():
        return nothing
    found = pd.DataFrame({"completed": -completed, "finish": finish.dt.round("us")}).sort_values(["completed", "finish"])
    return found.reset_index().assign(position=range(1, len(found) + 1))[["driver_number", "position", "finish"]]


def with_provisional(entries: pd.DataFrame, road: pd.DataFrame) -> pd.DataFrame:
    """`entries` with, for races whose result is not the order on the road, what was known when the last car had finished.

    A race has one row an entry or two: the provisional one (no points; a car that was disqualified later `Finished` or `Lapped`;
    known when the last car crossed the line) and, created three hours after the flag, the official one that corrects it.

    Args:
        entries: canonical entries of a season, one row a key.
        road: `round, code, position, known` of cars classified on the road (`known`: UTC on the clock of the laps).
    """
    joined = entries.merge(road.rename(columns={"position": "road"}), how="left", on=["round", "code"])
    by_race = joined.groupby("round")
    told = by_race["road"].transform("count") > 0
    differs = joined["road"].fillna(0) != joined["position"].fillna(0)
    differs |= differs.groupby(joined["round"]).transform("any")
    first = joined[told & differs].copy()
    if first.empty:
        return entries
    is_on_road = first["road"].notna()
    rest = first[~is_on_road].sort_values(["round", "position_order"], kind="stable")
    behind = rest.groupby("round").cumcount() + 1 + rest["round"].map(is_on_road.groupby(first["round"]).sum())
    leader = first.groupby("round")["laps_completed"].transform("max")
    running = pd.Series("Finished", index=first.index, dtype=object).mask(first["laps_completed"] < leader, "Lapped")
    known = first.groupby("round")["known"].transform("max").dt.as_unit("us")
    first = first.assign(
        position=first["road"],
        position_order=first["road"].fillna(behind).astype("int64"),
        is_classified=is_on_road,
        status=first["status"].mask(is_on_road & (first["status"] == "Disqualified"), running),
        points=float("nan"),
        created_timestamp=known.where(known > first[EVENT], first[EVENT]),
    )
    return pd.concat([entries, first[entries.columns]], ignore_index=True)


def _flagged(result: pd.DataFrame) -> pd.DataFrame:
    """`result` with `dnf, dns, dsq` as plain booleans, a disqualification that is not marked included."""
    rows = result.reset_index(drop=True)
    for flag in ("dnf", "dns", "dsq"):
        rows[flag] = rows[flag].fillna(False).astype(bool)
    unmarked = rows["position"].isna() & ~rows["dnf"] & ~rows["dns"] & _went_the_distance(rows)
    return rows.assign(dsq=rows["dsq"] | unmarked)


def _went_the_distance(rows: pd.DataFrame) -> "pd.Series[bool]":
    return rows["number_of_laps"] >= rows["number_of_laps"].max() * CLASSIFIED_SHARE


def _group(rows: pd.DataFrame) -> "pd.Series[int]":
    """0 classified, 1 retired, 2 not started, 3 disqualified."""
    group = rows["position"].isna().astype(int)
    return group.mask(rows["dns"], 2).mask(rows["dsq"], 3)


def _of_race(frame: pd.DataFrame, rows: pd.DataFrame, race: RaceAnswers, people: pd.DataFrame) -> pd.DataFrame:
    """`frame` with season, round, origin, and who drove the car."""
    known = people[(people["season"] == race.season) & (people["round"] == race.round)].set_index("driver_number")
    identity = {name: rows["driver_number"].map(known[name]) for name in ("code", "driver_id", "constructor_id")}
    return frame.assign(season=race.season, round=race.round, **identity, **{FILE: rows[FILE], ROW: rows[ROW]})
