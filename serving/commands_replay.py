"""The command `pitwall replay`: a race once more, lap by lap, for whoever follows it in a browser."""

from typing import Annotated

import typer

from feature_repo.console import emit, out
from feature_repo.options import AsJson, Home, settings_of
from serving.commands import Race, chosen_race


def replay(
    race: Race,
    speed: Annotated[float, typer.Option("--speed", min=0.0, help="Times real time; 0 = as fast as it can.")] = 60.0,
    from_lap: Annotated[int, typer.Option("--from-lap", min=0, help="First lap shown; 0 = lights out.")] = 0,
    to_lap: Annotated[int | None, typer.Option("--to-lap", min=0, help="Last lap shown; default the race's last.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Another registered version than the champion.")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Walk a race lap by lap through the live path; the race page of `pitwall serve` follows it."""
    from serving.prediction import Prediction
    from serving.replay import replay as run

    settings = settings_of(home)

    def show_lap(lap: int, last: int, said: Prediction) -> None:
        first = ", ".join(f"{driver.driver_id} {driver.p_win:.0%}" for driver in said.drivers[:3])
        out.print(f"lap {lap:>2} of {last}  {said.moment['as_of'][:19]}  {first}", highlight=False)

    race_id = chosen_race(settings, race)
    report = run(
        settings, race_id, speed=speed, from_lap=from_lap, to_lap=to_lap, version=model, on_lap=None if as_json else show_lap
    )

    def show() -> None:
        out.print(
            f"replayed {report.race_id}, laps {report.first_lap} to {report.last_lap}, in {report.seconds:.1f} s: {report.rows} "
            f"rows, model version {report.model}, slowest lap {report.slowest_s * 1e3:.0f} ms; recorded in {report.record}",
            highlight=False,
        )

    emit(vars(report), as_json=as_json, show=show)
