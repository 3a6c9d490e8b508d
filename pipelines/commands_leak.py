"""`pitwall leak-probe`: is anything said about a moment that only its future could tell?"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from feature_repo.console import emit, out, progress_bar, table
from feature_repo.options import AsJson, Home, settings_of
from feature_repo.spine import Moment
from pipelines.errors import LeakError

_SHOWN = 12


def leak_probe(
    race: Annotated[str | None, typer.Option("--race", help="race_id such as 2024_08 [any].")] = None,
    lap: Annotated[int | None, typer.Option("--lap", min=0, help="When the leader completes this lap; needs --race.")] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", min=0.0, max=1.0, help="Share of the scheduled distance; needs --race.")
    ] = None,
    moments: Annotated[int, typer.Option("--moments", min=1, help="How many moments, chosen by the seed.")] = 1,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Delete, then scramble, all that was not knowable at a moment; compute everything again; demand the same, bit for bit."""
    if (lap is not None or fraction is not None) and race is None:
        raise typer.BadParameter("--lap and --fraction need --race")
    if sum([lap is not None, fraction is not None, moments > 1]) > 1:
        raise typer.BadParameter("give one of --lap, --fraction and --moments")
    from pipelines.leak.models import served_models
    from pipelines.leak.probe import choose_moments, probe

    settings = settings_of(home)
    if lap is not None or fraction is not None:
        asked = [(str(race), Moment.parse(f"lap:{lap}" if lap is not None else f"fraction:{fraction}"))]
    elif race is not None and moments == 1:
        asked = [(race, Moment.parse(settings.moment))]
    else:
        asked = choose_moments(settings, moments, seed=settings.seed, race_id=race)
    with tempfile.TemporaryDirectory(prefix="pitwall-leak-") as folder, progress_bar("leak-probe") as progress:
        found = probe(settings, asked, models=served_models(settings, Path(folder)), progress=progress).to_json()
    emit(found, as_json=as_json, show=lambda: _show(found))
    if found["leaks"]:
        raise LeakError(f"{found['n_leaks']} things are said otherwise without the future: {_names(found)}")


def _show(found: dict[str, Any]) -> None:
    rows = [[seen["race_id"], seen["moment"], seen["as_of"], seen["n_leaks"], seen["seconds"]] for seen in found["moments"]]
    table("asked with and without the future", ["race", "moment", "instant", "differences", "seconds"], rows)
    compared = ", ".join(f"{count:,} {what}" for what, count in found["compared"].items())
    models = ", ".join(found["models"]) or "no model is registered, so no prediction"
    out.print(f"compared bit for bit: {compared} ({models})", highlight=False)
    shown = [[leak["kind"], leak["name"], leak["driver_id"], leak["race_id"], leak["variant"], leak["got"], leak["expected"]]
             for leak in found["leaks"][:_SHOWN]]  # fmt: skip
    if shown:
        table("what leaked", ["kind", "name", "driver", "race", "future", "got", "expected"], shown)


def _names(found: dict[str, Any]) -> str:
    """What leaked, by kind and name, with how often, the causes before what follows from them."""
    counts = Counter((leak["kind"], leak["name"]) for leak in found["leaks"])
    first = {(leak["kind"], leak["name"]): leak for leak in reversed(found["leaks"])}
    said = [
        f"{kind} {name} ({count}; {first[kind, name]['driver_id']}: got {first[kind, name]['got']}, expected "
        f"{first[kind, name]['expected']})"
        for (kind, name), count in list(counts.items())[:_SHOWN]
    ]
    return "; ".join(said) + ("; ..." if len(counts) > _SHOWN else "")
