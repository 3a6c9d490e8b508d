"""The commands that answer at request time: `pitwall lookup` and `pitwall predict`, found by `pipelines.cli` as entry points."""

from typing import Annotated, Any

import pandas as pd
import typer

from feature_repo.console import emit, instant, out, table
from feature_repo.errors import FutureMomentError, NotKnownYetError, PitwallError
from feature_repo.options import AsJson, Home, settings_of
from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_entrants, load_entrants_known, refuse_future
from feature_repo.visibility import visible

AsOf = Annotated[
    pd.Timestamp | None,
    typer.Option(
        "--as-of",
        parser=instant,
        metavar="INSTANT",
        help="A past instant, UTC (2024-05-26T14:00:00Z) or with an offset: the answer of then, later corrections left out.",
    ),
]
Race = Annotated[str, typer.Option("--race", help="race_id such as 2024_08, or 'latest'.")]


def lookup(
    race: Race,
    driver: Annotated[str, typer.Option("--driver", help="driver_id such as max_verstappen.")],
    service: Annotated[str, typer.Option("--service", help="Feature service.")] = "finish_position_v1",
    as_of: AsOf = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Features of one driver in one race: value, event time, age and status. Online by default."""
    from serving.lookup import lookup as ask
    from serving.races import race_of

    settings = settings_of(home)
    _refuse_future(as_of)
    found = ask(settings, race_id=chosen_race(settings, race, as_of), driver_id=driver, service=service, as_of=as_of)

    def show() -> None:
        rows = [
            [name, _value(feature.value), _time(feature.event_timestamp), _age(feature.age_s), feature.status]
            for name, feature in found.features.items()
        ]
        mark = " SIMULATED" if race_of(settings, found.race_id).is_simulated else ""
        title = f"{found.race_id}{mark} {found.driver_id}: {found.service}, {found.source} as of {_time(found.as_of)}"
        table(title, ["feature", "value", "event time (UTC)", "age", "status"], rows)

    emit(found.to_json(), as_json=as_json, show=show)


def predict(
    race: Race,
    lap: Annotated[int | None, typer.Option("--lap", min=0, help="When the leader completes this lap; 0 = lights out.")] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", min=0.0, max=1.0, help="Share of the scheduled distance.")
    ] = None,
    as_of: AsOf = None,
    live: Annotated[bool, typer.Option("--live", help="From the online store's newest values instead of a past moment.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="Another registered version than the champion.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """The finishing order as it could be foretold at a moment of the race (default: the home's default moment)."""
    if sum([lap is not None, fraction is not None, as_of is not None, live]) > 1:
        raise typer.BadParameter("give one of --lap, --fraction and --live, or --as-of alone")
    _refuse_future(as_of)
    from serving.predictor import Predictor

    settings = settings_of(home)
    race_id = chosen_race(settings, race, as_of)
    predictor = Predictor.open(settings, version=model)
    if live:
        said = predictor.predict_live(race_id)
    else:
        asked = f"lap:{lap}" if lap is not None else f"fraction:{fraction}" if fraction is not None else settings.moment
        said = predictor.predict(race_id, Moment.parse(asked) if as_of is None else Moment.at(as_of))

    def show() -> None:
        rows: list[list[Any]] = [
            [driver.position, driver.driver_id, driver.expected_position, driver.p_win, driver.p_podium, driver.p_points]
            for driver in said.drivers
        ]
        where = f"lap {said.moment['lap']}" if said.moment["lap"] is not None else "now"
        mark = " SIMULATED" if said.simulated else ""
        title = f"{said.race_id}{mark} at {where} ({said.moment['as_of']}), {said.source}"
        table(title, ["place", "driver", "expected", "P(win)", "P(podium)", "P(points)"], rows)
        used = said.model
        out.print(f"model: {used.name} version {used.version} ({used.role}), service {used.feature_service}")
        if used.encoder:
            encoder = used.encoder
            out.print(f"encoder: {encoder['kind']} {encoder['weights_sha256'][:12]}, pictures as {encoder['transform']}")
        for note in said.notes:
            out.print(f"note: {note}", highlight=False)
        gaps = said.missing["features"]
        out.print(
            f"missing: {sum(len(drivers) for drivers in gaps.values())} feature values"
            + (f" ({', '.join(list(gaps)[:4])}{', ...' if len(gaps) > 4 else ''})" if gaps else "")
            + f", {len(said.missing['pictures'])} pictures"
            + (f" ({', '.join(said.missing['pictures'])})" if said.missing["pictures"] else "")
        )

    emit(said.to_json(), as_json=as_json, show=show)


def _refuse_future(as_of: pd.Timestamp | None) -> None:
    if as_of is None:
        return
    try:
        refuse_future(as_of)
    except FutureMomentError as error:
        raise typer.BadParameter(str(error)) from error


def chosen_race(settings: Settings, race: str, as_of: pd.Timestamp | None = None) -> str:
    """The race that `--race` names; `latest` is the newest one, or the newest that was known at an instant.

    Raises:
        NotKnownYetError, PitwallError: there is none.
    """
    if race != "latest":
        return race
    if as_of is not None:
        history = load_entrants_known(settings)
        known = history.loc[visible(history, as_of), "race_id"]
        if known.empty:
            raise NotKnownYetError(f"as of {as_of.isoformat()}: no race was known yet; ask about a later instant")
        return str(known.max())
    entrants = load_entrants(settings)
    if entrants.empty:
        raise PitwallError(f"{settings.features_dir}: no entrants; run `pitwall run` first")
    return str(entrants["race_id"].max())


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."


def _time(stamp: Any) -> str:
    return "-" if stamp is None else f"{stamp:%Y-%m-%d %H:%M:%S}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
