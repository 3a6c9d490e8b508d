"""Who is believed about what, when several sources tell of the same race: one order per table and column, first one first.

Timing comes from the feed that FastF1 reads, whoever delivers it; classifications from the record that is corrected after the
race. A source that is not named in an order is never asked about that column.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipelines.schemas import TABLES

TIMING = ("fastf1", "files", "livetiming", "openf1", "jolpica")
OFFICIAL = ("jolpica", "files", "fastf1", "openf1")
# Only files know f1db, which tells a start from the pit lane from a place at the end of the grid.
GRID = ("files", "jolpica", "fastf1", "openf1")
# The official chart has times and places alone, and the time of lap 1 and of laps behind the safety car that the feed lacks.
LAP_TIME = ("jolpica", "fastf1", "files", "livetiming", "openf1")

Rows = Literal["union", "race"]


@dataclass(frozen=True)
class Precedence:
    """How one table is merged.

    Attributes:
        order: sources, the most believed first.
        rows: `union`: a row is there if any source has it. `race`: the rows of a race are those of the first source that has any
            row of it, because numbers of stints or instants of messages differ between sources and must not be mixed.
        columns: column -> another order.
        fills: a null of the source that gives the row is filled from the next one that has the same key.
        tolerance: column -> largest difference that still counts as agreement (columns that are compared; 0: equal).
    """

    order: tuple[str, ...]
    rows: Rows = "race"
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fills: bool = True
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def of(self, column: str) -> tuple[str, ...]:
        """The order for one column."""
        return self.columns.get(column, self.order)


_STAMPS = dict.fromkeys(("event_timestamp", "created_timestamp"), TIMING)
_MS = 0.001
_RACE_COLUMNS = {
    # laps count from the start that their source goes by: start, laps and flag are of one source, right or wrong together
    **dict.fromkeys(("race_start", "race_end"), TIMING),
    **_STAMPS,
    **dict.fromkeys(("course_length_km", "turns", "circuit_type", "direction", "scheduled_laps"), GRID),
}
PRECEDENCE: dict[str, Precedence] = {
    "circuits": Precedence(OFFICIAL, "union", tolerance={"lat_deg": 0.05, "lng_deg": 0.05}),
    "races": Precedence(
        OFFICIAL,
        "union",
        _RACE_COLUMNS,
        tolerance={"race_start": 0, "circuit_id": 0, "course_length_km": 0.01, "turns": 0, "scheduled_laps": 0, "race_end": 1.0},
    ),
    "drivers": Precedence(OFFICIAL, "union", tolerance={"code": 0, "car_number": 0}),
    "constructors": Precedence(OFFICIAL, "union"),
    "entries": Precedence(
        OFFICIAL,
        columns={**dict.fromkeys(("grid", "is_pit_lane_start", "grid_timestamp"), GRID), **_STAMPS},
        tolerance={
            "constructor_id": 0,
            "grid": 0,
            "is_pit_lane_start": 0,
            "position": 0,
            "position_order": 0,
            "is_classified": 0,
            "points": 0,
            "laps_completed": 0,
        },
    ),
    "qualifying": Precedence(OFFICIAL, tolerance={"position": 0, "q1_s": _MS, "q2_s": _MS, "q3_s": _MS}),
    "sprint_results": Precedence(OFFICIAL, tolerance={"position": 0, "grid": 0, "points": 0}),
    "driver_standings": Precedence(OFFICIAL, tolerance={"position": 0, "points": 0}),
    "constructor_standings": Precedence(OFFICIAL, tolerance={"position": 0, "points": 0}),
    "laps": Precedence(
        TIMING,
        columns={"lap_time_s": LAP_TIME},
        tolerance={
            "lap_time_s": _MS,
            **dict.fromkeys(("sector1_s", "sector2_s", "sector3_s"), _MS),
            **dict.fromkeys(("speed_i1_kph", "speed_i2_kph", "speed_fl_kph", "speed_st_kph"), 0.0),
            "position": 0,
            "compound": 0,
        },
    ),
    "stints": Precedence(TIMING, fills=False, tolerance={"compound": 0, "start_lap": 0, "end_lap": 0}),
    "pit_stops": Precedence(TIMING, fills=False, tolerance={"pit_lane_time_s": 0.5}),
    "weather": Precedence(TIMING, fills=False),
    "track_status": Precedence(TIMING, fills=False),
    "race_control": Precedence(TIMING, fills=False),
}

# What a steward's decision can change after the race: a new word of the same source about it is a new row, known later.
CORRECTED = ("entries", "qualifying", "sprint_results", "driver_standings", "constructor_standings")


def as_rows() -> list[tuple[str, str, str]]:
    """The rules for people: (table, columns, order), the general order of a table first."""
    rows = []
    for table in TABLES:
        rule = PRECEDENCE[table]
        what = "whole race" if rule.rows == "race" and not rule.fills else "all other columns" if rule.columns else "all columns"
        rows.append((table, what, " > ".join(rule.order)))
        orders: dict[tuple[str, ...], list[str]] = {}
        for column, order in rule.columns.items():
            orders.setdefault(order, []).append(column)
        rows += [(table, ", ".join(columns), " > ".join(order)) for order, columns in orders.items()]
    return rows
