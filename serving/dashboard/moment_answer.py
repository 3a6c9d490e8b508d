"""The JSON twin of the race page: what it shows of one lap, from the same view."""

from dataclasses import asdict
from typing import Any

from serving.dashboard.moment_view import MomentView, Row


def moment_answer(view: MomentView) -> dict[str, Any]:
    """One lap of a race as JSON (see `serving.schemas.moment.MomentResponse`)."""
    race, said = view.race, view.prediction.to_json()
    return {
        "race_id": race.race_id,
        "season": race.season,
        "round": race.round,
        "name": race.name,
        "circuit_id": race.circuit_id,
        "race_start": race.race_start.isoformat(),
        "scheduled_laps": race.scheduled_laps,
        "last_lap": race.last_lap,
        "simulated": race.is_simulated,
        "lap": view.lap,
        "as_of": view.as_of.isoformat(),
        "replay": view.replay,
        **{name: said[name] for name in ("source", "model", "notes", "missing")},
        "fallbacks": view.fallbacks,
        "stale": view.stale,
        "weather": None if view.weather is None else asdict(view.weather),
        "rain": None if view.rain is None else [{"from_lap": start, "to_lap": end} for start, end in view.rain],
        "cars": [_car(row) for row in view.rows],
        "result_known_at": None if race.result_known_at is None else race.result_known_at.isoformat(),
        "exact_places": view.exact,
        "mean_error_places": view.mean_error,
    }


def _car(row: Row) -> dict[str, Any]:
    return {
        **vars(row.said),
        "code": row.entrant.code,
        "driver_name": row.entrant.name,
        "constructor_id": row.entrant.constructor_id,
        "likeliest_position": row.likeliest,
        "running_position": row.running,
        "stints": [asdict(stint) for stint in row.stints],
        "result": None if row.result is None else {**asdict(row.result), "off_by": row.off_by},
    }
