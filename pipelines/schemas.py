"""The canonical tables of the lake: columns, types, units, allowed ranges and natural keys.

`TABLES` is the declaration; `SCHEMAS` are the pandera schemas made from it (strict, in column order) and `arrow_schema` is the
type each column has on disk. A key may repeat with another `created_timestamp`: from then on that row corrects the earlier one.
All times are tz-aware UTC with microseconds. Only a column declared nullable may hold a null
(`<NA>` in Int64 and boolean columns, NaN in float64, NaT in times, None in strings): it means that the source does not say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa

from feature_repo.ids import make_race_id, validate_race_id, validate_ref
from feature_repo.visibility import CREATED, EVENT
from pipelines.errors import LakeSchemaError, UnknownTableError

Kind = Literal["str", "int", "float", "bool", "time"]

COMPOUNDS = ("HYPERSOFT", "ULTRASOFT", "SUPERSOFT", "SOFT", "MEDIUM", "HARD", "INTERMEDIATE", "WET")
CIRCUIT_TYPES = ("race", "street", "road")
DIRECTIONS = ("clockwise", "anti_clockwise")
MAX_SPEED_KPH = 400.0  # the fastest speed-trap reading of 2018-2024 is 364
MAX_LAP_TIME_S = 14_400.0  # a race may be stopped within a lap: three hours and more did happen (2021 Belgian Grand Prix)
SIMULATOR = "simulator"  # the value of `source` in every simulated row


@dataclass(frozen=True)
class Col:
    """One column: kind, description (with unit) and what values are allowed. `low` and `high` are inclusive."""

    kind: Kind
    description: str
    nullable: bool = False
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] | None = None
    ref: bool = False

    @property
    def dtype(self) -> str:
        """The pandas dtype of the column in memory."""
        nullable = {"int": "Int64", "bool": "boolean"}
        plain = {"str": "object", "int": "int64", "float": "float64", "bool": "bool", "time": "datetime64[us, UTC]"}
        return nullable.get(self.kind, plain[self.kind]) if self.nullable else plain[self.kind]

    @property
    def arrow(self) -> pa.DataType:
        """The type of the column on disk."""
        types = {
            "str": pa.string(),
            "int": pa.int64(),
            "float": pa.float64(),
            "bool": pa.bool_(),
            "time": pa.timestamp("us", tz="UTC"),
        }
        return types[self.kind]


@dataclass(frozen=True)
class Table:
    """One canonical table: its columns in order, its natural key (also its sort order) and when its rows are true and known."""

    name: str
    description: str
    key: tuple[str, ...]
    time_semantics: str
    cols: Mapping[str, Col] = field(repr=False)

    @property
    def columns(self) -> list[str]:
        """Column names in order."""
        return list(self.cols)

    @property
    def is_race_table(self) -> bool:
        """Rows belong to one race (`race_id`, `round`)."""
        return "race_id" in self.cols


_SEASON = {"season": Col("int", "championship year", low=1950, high=2099)}
_RACE = {
    "race_id": Col("str", "<season>_<round, two digits>"),
    **_SEASON,
    "round": Col("int", "round of the championship", low=1, high=99),
}
_STAMPS = {
    EVENT: Col("time", "when the row became true"),
    CREATED: Col("time", "when the row became known"),
    "source": Col("str", "who gave the row: a source, or several joined by `+`"),
}
_DRIVER = {"driver_id": Col("str", "Ergast/Jolpica driverRef", ref=True)}
_CONSTRUCTOR = {"constructor_id": Col("str", "Ergast/Jolpica constructorRef", ref=True)}
_CIRCUIT = {"circuit_id": Col("str", "Ergast/Jolpica circuitRef", ref=True)}
_COMPOUND = {
    "compound": Col("str", "tyre compound as named at the event; null where the feed does not say", True, values=COMPOUNDS)
}

_STANDING = {
    "position": Col("int", "place in the championship after this race; null where the source gives none", True, 1, 200),
    "points": Col("float", "championship points up to and including this race, sprints included", low=0, high=2000),
    "wins": Col("int", "races won in the season so far, sprints not counted", low=0, high=99),
}


def _time(description: str, nullable: bool = False) -> Col:
    return Col("time", description, nullable)


def _speed(where: str) -> Col:
    return Col("float", f"speed at {where}, km/h", True, low=0, high=MAX_SPEED_KPH)


def _seconds(description: str, nullable: bool = True, high: float = MAX_LAP_TIME_S) -> Col:
    return Col("float", f"{description}, seconds", nullable, low=0.001, high=high)


def _table(name: str, description: str, key: tuple[str, ...], time_semantics: str, cols: dict[str, Col]) -> Table:
    return Table(name, description, key, time_semantics, {**cols, **_STAMPS})


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        _table(
            "circuits",
            "circuits raced on in a season",
            ("circuit_id",),
            "event = created = seven days before the season's first race there",
            {
                **_SEASON,
                **_CIRCUIT,
                "name": Col("str", "full name"),
                "locality": Col("str", "town", True),
                "country": Col("str", "country", True),
                "lat_deg": Col("float", "latitude, degrees north", True, -90, 90),
                "lng_deg": Col("float", "longitude, degrees east", True, -180, 180),
                "altitude_m": Col("float", "altitude, metres above sea level", True, -500, 6000),
            },
        ),
        _table(
            "races",
            "races that were held",
            ("race_id",),
            "event = created = seven days before race_start; race_end is not known before the flag",
            {
                **_RACE,
                "name": Col("str", "name of the event"),
                **_CIRCUIT,
                "race_start": _time("scheduled lights out"),
                "qualifying_start": _time("start of qualifying", nullable=True),
                "course_length_km": Col("float", "length of a lap, kilometres", low=1, high=30),
                "turns": Col("int", "number of turns", low=1, high=200),
                "circuit_type": Col("str", "kind of circuit", values=CIRCUIT_TYPES),
                "direction": Col("str", "driving direction", values=DIRECTIONS),
                "scheduled_laps": Col("int", "laps planned before the start", low=1, high=500),
                "race_end": _time("the flag: end of the winner's last lap"),
            },
        ),
        _table(
            "drivers",
            "drivers entered in a season",
            ("driver_id",),
            "event = created = one hour before the driver's first race of the season",
            {
                **_SEASON,
                **_DRIVER,
                "code": Col("str", "three-letter code, unique only within a season"),
                "car_number": Col("int", "race number in the driver's first race of the season", True, 0, 999),
                "given_name": Col("str", "given name"),
                "family_name": Col("str", "family name"),
                "date_of_birth": _time("midnight UTC of the date of birth", nullable=True),
                "nationality": Col("str", "nationality", True),
            },
        ),
        _table(
            "constructors",
            "constructors entered in a season",
            ("constructor_id",),
            "event = created = one hour before the constructor's first race of the season",
            {**_SEASON, **_CONSTRUCTOR, "name": Col("str", "name in use"), "nationality": Col("str", "nationality", True)},
        ),
        _table(
            "entries",
            "one driver in one race: grid and official result, non-starters included",
            ("race_id", "driver_id"),
            "event = race_end, created = race_end + 3 h; grid and is_pit_lane_start were known at grid_timestamp",
            {
                **_RACE,
                **_DRIVER,
                **_CONSTRUCTOR,
                "code": Col("str", "three-letter code"),
                "car_number": Col("int", "race number", True, 0, 999),
                "grid": Col(
                    "int", "starting place; pit-lane starters follow the last grid slot by qualifying position", low=1, high=60
                ),
                "is_pit_lane_start": Col("bool", "started from the pit lane"),
                "grid_timestamp": _time("when the grid was known: race_start - 1 h"),
                "position": Col("float", "official finishing position, null if not classified", True, 1, 60),
                "position_order": Col("int", "official order of all entries, 1..n", low=1, high=60),
                "is_classified": Col("bool", "has an official finishing position"),
                "status": Col("str", "how the race ended, in the source's words"),
                "points": Col("float", "championship points scored in the race; null where the source has none", True, 0, 60),
                "laps_completed": Col("int", "laps completed", low=0, high=500),
            },
        ),
        _table(
            "qualifying",
            "qualifying classification",
            ("race_id", "driver_id"),
            "event = created = qualifying_start + 75 min, or race_start - 20 h where its start is not known",
            {
                **_RACE,
                **_DRIVER,
                **_CONSTRUCTOR,
                "position": Col("int", "position in qualifying", low=1, high=60),
                "q1_s": _seconds("best time of the first part"),
                "q2_s": _seconds("best time of the second part"),
                "q3_s": _seconds("best time of the third part"),
            },
        ),
        _table(
            "sprint_results",
            "sprint classification; only weekends that have a sprint, only sources that tell of it",
            ("race_id", "driver_id"),
            "event = start of the sprint + the winner's time (1 h if unknown), or race_start - 20 h where its start is unknown; "
            "created = event + 3 h",
            {
                **_RACE,
                **_DRIVER,
                **_CONSTRUCTOR,
                "grid": Col("int", "starting place; null for a start from the pit lane", True, 1, 60),
                "position": Col("float", "official finishing position, null if not classified", True, 1, 60),
                "position_order": Col("int", "official order of all entries, 1..n", low=1, high=60),
                "status": Col("str", "how the sprint ended, in the source's words"),
                "points": Col("float", "championship points scored in the sprint", low=0, high=60),
                "laps_completed": Col("int", "laps completed", low=0, high=500),
            },
        ),
        _table(
            "driver_standings",
            "championship of drivers after each race",
            ("race_id", "driver_id"),
            "event = race_end, created = race_end + 3 h",
            {**_RACE, **_DRIVER, **_STANDING},
        ),
        _table(
            "constructor_standings",
            "championship of constructors after each race",
            ("race_id", "constructor_id"),
            "event = race_end, created = race_end + 3 h",
            {**_RACE, **_CONSTRUCTOR, **_STANDING},
        ),
        _table(
            "laps",
            "laps of the race",
            ("race_id", "driver_id", "lap"),
            "event = created = instant the lap ended: race_start + session clock since lights out",
            {
                **_RACE,
                **_DRIVER,
                "lap": Col("int", "lap number", low=1, high=500),
                "lap_start": _time("instant the lap began"),
                "lap_time_s": _seconds("official lap time; lap 1 counts from lights out; null where untimed"),
                "sector1_s": _seconds("time in sector 1"),
                "sector2_s": _seconds("time in sector 2"),
                "sector3_s": _seconds("time in sector 3"),
                "speed_i1_kph": _speed("the first intermediate"),
                "speed_i2_kph": _speed("the second intermediate"),
                "speed_fl_kph": _speed("the finish line (null on pit laps)"),
                "speed_st_kph": _speed("the speed trap on the longest straight"),
                "position": Col("int", "running order at the end of the lap", True, 1, 60),
                "stint": Col("int", "stint of the driver, from 1", low=1, high=60),
                **_COMPOUND,
                "tyre_life_laps": Col("float", "laps driven on this set at the end of the lap", True, 0, 200),
                "is_fresh_tyre": Col("bool", "the set was new when fitted", True),
                "pit_in": _time(
                    "instant of entering the pit lane on this lap; null if after its end (see pit_stops)", nullable=True
                ),
                "pit_out": _time("instant of leaving the pit lane on this lap; null if after its end", nullable=True),
                "track_status": Col(
                    "str",
                    "every code seen during the lap: 1 clear, 2 yellow, 4 safety car, 5 red, 6 VSC, 7 VSC ending; "
                    "null where the source does not know",
                    True,
                ),
                "is_accurate": Col("bool", "timing is consistent with the neighbouring laps and no pit, red or safety-car lap"),
                "is_deleted": Col("bool", "lap time deleted by race control; null where no messages are known", True),
            },
        ),
        _table(
            "stints",
            "runs on one set of tyres",
            ("race_id", "driver_id", "stint"),
            "event = created = end of end_lap",
            {
                **_RACE,
                **_DRIVER,
                "stint": Col("int", "stint of the driver, from 1", low=1, high=60),
                **_COMPOUND,
                "start_lap": Col("int", "first lap", low=1, high=500),
                "end_lap": Col("int", "last lap", low=1, high=500),
                "length_laps": Col("int", "laps driven", low=1, high=500),
            },
        ),
        _table(
            "pit_stops",
            "passages through the pit lane",
            ("race_id", "driver_id", "lap"),
            "event = created = pit_out; for a car that stayed in the pit lane event = pit_in, created = the flag",
            {
                **_RACE,
                **_DRIVER,
                "lap": Col("int", "lap on which the driver entered the pit lane", low=1, high=500),
                "stint": Col("int", "stint that ended with this stop", True, 1, 60),
                "pit_in": _time("instant of entering the pit lane"),
                "pit_out": _time("instant of leaving the pit lane; null for a car that stayed there", nullable=True),
                "pit_lane_time_s": _seconds("time in the pit lane, stationary time and red flags included"),
            },
        ),
        _table(
            "weather",
            "trackside weather of the race session, about one reading a minute",
            ("race_id", EVENT),
            "event = created = instant of the reading; readings before race_start exist",
            {
                **_RACE,
                "air_temp_c": Col("float", "air temperature, degrees Celsius", low=-30, high=60),
                "track_temp_c": Col("float", "track temperature, degrees Celsius", low=-30, high=90),
                "humidity_pct": Col("float", "relative humidity, percent", low=0, high=100),
                "pressure_mbar": Col("float", "air pressure, millibar", low=600, high=1100),
                "is_raining": Col("bool", "rain was measured"),
                "wind_direction_deg": Col("float", "where the wind comes from, degrees from north", low=0, high=360),
                "wind_speed_mps": Col("float", "wind speed, metres a second", low=0, high=60),
            },
        ),
        _table(
            "track_status",
            "changes of the track status during the race session",
            ("race_id", EVENT, "status"),
            "event = created = instant of the change",
            {**_RACE, "status": Col("str", "status code as in laps.track_status"), "message": Col("str", "its name", True)},
        ),
        _table(
            "race_control",
            "messages of race control during the race session",
            ("race_id", EVENT, "category", "message"),
            "event = instant of the message; created = event, or when a recording says that it came, if that is later",
            {
                **_RACE,
                "category": Col("str", "kind of message"),
                "message": Col("str", "text"),
                "flag": Col("str", "flag shown", True),
                "scope": Col("str", "what the flag covers", True),
                "sector": Col("int", "marshalling sector", True, 0, 200),
                "car_number": Col("int", "car addressed", True, 0, 999),
                "lap": Col("int", "lap of the leader", True, 0, 500),
            },
        ),
    )
}


def table(name: str) -> Table:
    """The declaration of one table.

    Raises:
        UnknownTableError: the lake has no such table.
    """
    if name not in TABLES:
        raise UnknownTableError(f"lake table: got {name!r}, expected one of {', '.join(TABLES)}")
    return TABLES[name]


def _is_text(values: "pd.Series[Any]") -> bool:
    return pd.api.types.infer_dtype(values, skipna=True) in ("string", "empty")


def _are_refs(values: "pd.Series[Any]") -> bool:
    for value in values.dropna().unique():
        validate_ref(str(values.name), value)
    return True


def _column(col: Col) -> pandera.Column:
    checks = []
    if col.kind == "str":
        checks.append(pandera.Check(_is_text, name="text", error="text"))
    if col.low is not None:
        checks.append(pandera.Check.ge(col.low, error=f">= {col.low}"))
    if col.high is not None:
        checks.append(pandera.Check.le(col.high, error=f"<= {col.high}"))
    if col.values is not None:
        checks.append(pandera.Check.isin(col.values, error=f"one of {', '.join(col.values)}"))
    if col.ref:
        checks.append(pandera.Check(_are_refs, name="id", error="an id of lower-case letters, digits and '_'"))
    return pandera.Column(col.dtype, checks=checks, nullable=col.nullable, description=col.description)


SCHEMAS: dict[str, pandera.DataFrameSchema] = {
    name: pandera.DataFrameSchema(
        {column: _column(col) for column, col in spec.cols.items()}, name=name, strict=True, ordered=True
    )
    for name, spec in TABLES.items()
}


def arrow_schema(name: str) -> pa.Schema:
    """The types of a table's columns on disk, in order."""
    return pa.schema([pa.field(column, col.arrow) for column, col in table(name).cols.items()])


def empty_frame(name: str, columns: list[str] | None = None) -> pd.DataFrame:
    """No rows, with the table's columns (or some of them) in their types."""
    cols = table(name).cols
    return pd.DataFrame({column: pd.Series([], dtype=cols[column].dtype) for column in (columns or list(cols))})


def conform(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with the table's columns in order, each in its declared dtype, sorted by the natural key.

    Lossless casts only: integral floats to integers, any time unit to microseconds, any zone to UTC.

    Raises:
        LakeSchemaError: a column is missing or unexpected, or its values cannot be cast without loss.
    """
    spec = table(name)
    missing = [column for column in spec.cols if column not in frame.columns]
    unexpected = [str(column) for column in frame.columns if column not in spec.cols]
    if missing or unexpected:
        raise LakeSchemaError(
            f"lake table {name}: missing columns {missing}, unexpected columns {unexpected}; expected exactly {spec.columns}"
        )
    cast = pd.DataFrame({column: _cast(name, column, frame[column], col) for column, col in spec.cols.items()}, index=frame.index)
    return cast.sort_values(list(spec.key), kind="stable", ignore_index=True)


def _cast(name: str, column: str, values: "pd.Series[Any]", col: Col) -> "pd.Series[Any]":
    if col.kind == "str":
        return values.astype(object).where(values.notna(), None)
    try:
        if col.kind == "time":
            # a naive time is refused by tz_convert below; an all-null column has no zone to speak of
            stamps = (
                values
                if isinstance(values.dtype, pd.DatetimeTZDtype) or values.notna().any()
                else pd.to_datetime(values, utc=True)
            )
            return stamps.dt.tz_convert("UTC").dt.as_unit("us")
        if col.kind in ("int", "bool"):
            nullable = values.astype("Int64" if col.kind == "int" else "boolean")
            return nullable if col.nullable else nullable.astype(col.dtype)
        return values.astype("float64")
    except (AttributeError, TypeError, ValueError) as error:
        raise LakeSchemaError(
            f"lake table {name}, column {column!r}: got {values.dtype} ({error}), expected {col.dtype}; convert it in the source"
        ) from error


def validate(name: str, frame: pd.DataFrame, season: int) -> pd.DataFrame:
    """`conform(name, frame)`, checked: types, ranges, allowed values, ids, key, and that every row is of `season`.

    Raises:
        LakeSchemaError: anything of that fails; names table, column, row, value and what is allowed.
        InvalidIdError: an id does not have the form of ids.
    """
    spec = table(name)
    checked = conform(name, frame)
    if checked.empty:
        return checked
    try:
        SCHEMAS[name].validate(checked, lazy=True)
    except pandera.errors.SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        where = f"lake table {name}, season {season}, row {first['index']}, column {first['column']!r}"
        raise LakeSchemaError(
            f"{where}: got {first['failure_case']!r}, expected {first['check']} ({len(error.failure_cases)} failures); "
            "such rows belong into quarantine"
        ) from error
    if (checked["season"] != season).any():
        raise LakeSchemaError(
            f"lake table {name}: got rows of {sorted(checked['season'].unique())}, expected only season {season}"
        )
    if spec.is_race_table:
        for race_id, round_ in checked[["race_id", "round"]].drop_duplicates().itertuples(index=False):
            if validate_race_id(race_id) != make_race_id(season, round_):
                raise LakeSchemaError(f"lake table {name}: got race_id {race_id!r} with round {round_}, season {season}")
    # A row that became known later with the same key corrects the earlier one; both stay, for questions about the time between.
    twice = checked.duplicated([*spec.key, CREATED])
    if twice.any():
        example = checked.loc[twice, list(spec.key)].iloc[0].to_dict()
        raise LakeSchemaError(
            f"lake table {name}: {int(twice.sum())} rows repeat a key and when it was known, first {example}; expected each once"
        )
    early = checked[CREATED] < checked[EVENT]
    if early.any():
        raise LakeSchemaError(f"lake table {name}: {int(early.sum())} rows were known before they were true (created < event)")
    return checked
