"""The command `pitwall`: one sub-command a step, all steps in order, and what a home holds.

Steps are the functions that flows and tests call; a command only reads options, shows progress and prints the report. Exit code 0
only on success, 1 on an error that is named, 2 for bad usage, 3 when the gate refuses and promotion was required.
"""

import logging
import os
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
# Waiting threads sleep: on cores shared with other work, spinning ones make teaching several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import pandas as pd
import typer
from pydantic import ValidationError
from yaml import YAMLError

from feature_repo.console import configure_logging, emit, err, instant, out, progress_bar
from feature_repo.errors import BadUsageError, PitwallError
from feature_repo.options import AsJson, Home, settings_of
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from pipelines import shown
from pipelines.command_errors import said_of_server, said_of_system, server_errors
from pipelines.commands_conformance import conformance
from pipelines.commands_leak import leak_probe
from pipelines.commands_skew import skew
from pipelines.commands_sources import sources
from pipelines.flows import STEPS, StepOutcome, run_all, run_step
from pipelines.ingest import parse_seasons
from pipelines.ingest.choose import USUAL_RACES, choose_source
from pipelines.ingest.run import ingest as run_ingest

BAD_USAGE = 2
GATE_REFUSED = 3

app = typer.Typer(
    name="pitwall",
    help="Formula 1 on a feature store: given everything knowable at this moment, who finishes where?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help is shown as it is written: defaults stand in brackets, which are markup to Rich
    pretty_exceptions_enable=False,
)

SourceName = Annotated[str, typer.Option("--source", help="simulator, files, fastf1, jolpica, openf1 or livetiming.")]
Paths = Annotated[
    list[Path] | None, typer.Option("--path", help="Folder of race files, or recorded live timing (repeat it to add later ones).")
]
Seasons = Annotated[
    str | None, typer.Option("--seasons", help="Which, such as 2018-2024. simulator: how many. livetiming: those of its files.")
]
Races = Annotated[int | None, typer.Option("--races", min=1, help="simulator: races a season [12].")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="simulator: seed [PITWALL_SEED, 7].")]


@app.callback()
def main_options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every step to stderr.")] = False,
) -> None:
    """Options of every command."""
    configure_logging(verbose=verbose)


@app.command()
def ingest(
    source: Annotated[
        str | None, typer.Option("--source", help="simulator, files, fastf1, jolpica, openf1 or livetiming.")
    ] = None,
    seasons: Seasons = None,
    path: Paths = None,
    rounds: Annotated[str | None, typer.Option("--rounds", help="Services: only these rounds, such as 5-8.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Services: ask again for what they gave before.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Show where sources disagree, after reading one if it is named.")
    ] = False,
    races: Races = None,
    seed: Seed = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Read races from a source into the lake; every row is written, or quarantined with a reason."""
    settings = settings_of(home)
    if source is None:
        if not report:
            raise typer.BadParameter("give --source NAME to read races, or --report to see where sources disagree")
        given = {"--path": path, "--rounds": rounds, "--refresh": refresh or None, "--races": races, "--seed": seed}
        unused = [option for option, value in given.items() if value is not None]
        if unused:
            raise typer.BadParameter(f"{', '.join(unused)} says what to read from a source; give --source NAME too")
    else:
        origin, years = choose_source(
            settings, source, seasons, paths=path or [], rounds=rounds, refresh=refresh, races=races, seed=seed
        )
        with progress_bar("ingest") as told:
            found = run_ingest(settings, origin, years, progress=told).to_json()
        if not report:
            emit(found, as_json=as_json, show=lambda: shown.show("ingest", found))
            return
        if not as_json:
            shown.show("ingest", found)
    from pipelines.ingest.merging import differences

    said = differences.read(settings, parse_seasons(seasons) if seasons and source != "simulator" else None).to_json()
    emit(said, as_json=as_json, show=lambda: shown.show("differences", said))


@app.command()
def features(home: Home = None, as_json: AsJson = False) -> None:
    """Compute the feature tables from the lake."""
    _run("features", settings_of(home), as_json=as_json)


@app.command()
def apply(home: Home = None, as_json: AsJson = False) -> None:
    """Register entities, feature views and services in the home's Feast registry."""
    _run("apply", settings_of(home), as_json=as_json)


@app.command()
def materialize(
    since: Annotated[
        pd.Timestamp | None, typer.Option("--since", parser=instant, help="Only rows from this UTC instant on.")
    ] = None,
    until: Annotated[
        pd.Timestamp | None, typer.Option("--until", parser=instant, help="Only rows up to this UTC instant.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Bring the online store up to date; an older row never replaces a newer one."""
    if since is not None and until is not None and since > until:
        raise typer.BadParameter(f"--since {since.isoformat()} is after --until {until.isoformat()}")
    now = pd.Timestamp.now("UTC").floor("us")
    if until is not None and until > now:
        err.print(f"--until {until.isoformat()} lies in the future: taken as now, {now.isoformat()}", highlight=False)
        until = now
    from pipelines.flows import as_json as to_json
    from pipelines.materialize import materialize as step

    with progress_bar("materialize") as report:
        found = to_json(step(settings_of(home), since=since, until=until, progress=report))
    emit(found, as_json=as_json, show=lambda: shown.show("materialize", found))


@app.command()
def traces(
    lap: Annotated[int | None, typer.Option("--lap", min=1, help="When the leader completes this lap.")] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", min=0.0, max=1.0, help="Share of the scheduled distance.")
    ] = None,
    race: Annotated[list[str] | None, typer.Option("--race", help="Only these races (repeat it).")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Draw the speed traces of every race at a moment (default: the home's default moment)."""
    if lap is not None and fraction is not None:
        raise typer.BadParameter("give --lap or --fraction, not both")
    from pipelines.flows import as_json as to_json
    from pipelines.traces import render_traces

    moment = f"lap:{lap}" if lap is not None else f"fraction:{fraction}" if fraction is not None else None
    with progress_bar("traces") as report:
        found = to_json(render_traces(settings_of(home), moment=moment, race_ids=race or None, progress=report))
    emit(found, as_json=as_json, show=lambda: shown.show("traces", found))


@app.command()
def embed(home: Home = None, as_json: AsJson = False) -> None:
    """Embed every picture once with the frozen encoder; teaches the encoder on simulated traces if it must."""
    _run("embed", settings_of(home), as_json=as_json)


@app.command("pretrain-encoder")
def pretrain_encoder(home: Home = None, as_json: AsJson = False) -> None:
    """Teach the trace encoder on simulated traces (minutes on two cores); reused by hash afterwards."""
    from pipelines.encoder_choice import pretrain_encoder as step

    with progress_bar("pretrain-encoder") as report:
        found = step(settings_of(home), progress=report).to_json()
    emit(found, as_json=as_json, show=lambda: shown.show("pretrain-encoder", found))


@app.command()
def train(home: Home = None, as_json: AsJson = False) -> None:
    """Fit the candidate, the reference design, the tabular twin and the baseline on every known race."""
    _run("train", settings_of(home), as_json=as_json)


@app.command()
def evaluate(
    test_seasons: Annotated[
        str | None, typer.Option("--test-seasons", help="Seasons to test on (default: the newest five with two earlier ones).")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Score every model on seasons it never saw, with controls, intervals and what the gate would say."""
    from pipelines.evaluation import evaluate as step
    from pipelines.promotion import preview

    settings = settings_of(home)
    seasons = parse_seasons(test_seasons) if test_seasons else None
    with progress_bar("evaluate") as report:
        found = step(settings, test_seasons=seasons, progress=report)
    found["decision"] = preview(settings, None if found["usual_seasons"] else found["test_seasons"]).to_dict()
    emit(found, as_json=as_json, show=lambda: shown.show("evaluate", found))


@app.command()
def promote(
    replay: Annotated[str | None, typer.Option("--replay", help="Derive the stored verdict of this version again.")] = None,
    require: Annotated[bool, typer.Option("--require-promotion", help="Exit with 3 when the gate refuses.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Register the trained candidate, decide by the gate, and make it champion if it passes."""
    settings = settings_of(home)
    if replay is None:
        found = run_step("promote", settings)
        emit(found, as_json=as_json, show=lambda: shown.show("promote", found))
        if require and not found["decision"]["promote"]:
            raise typer.Exit(GATE_REFUSED)
        return
    from pipelines.promotion import replay_decision

    stored, again = replay_decision(settings, replay)
    result = {"version": replay, "same": stored == again, "stored": stored.to_dict(), "replayed": again.to_dict()}
    emit(result, as_json=as_json, show=lambda: shown.show("replay", result))
    if stored != again:
        raise PitwallError(f"model version {replay}: the stored inputs now give another verdict; see the two above")


@app.command()
def rollback(home: Home = None, as_json: AsJson = False) -> None:
    """Give the champion alias back to the version it was taken from."""
    from pipelines.registry import open_registry
    from pipelines.registry import rollback as step

    settings = settings_of(home)
    found = step(settings, open_registry(settings)).to_json()
    emit(found, as_json=as_json, show=lambda: shown.show("rollback", found))


@app.command()
def status(home: Home = None, as_json: AsJson = False) -> None:
    """What the home holds: lake, features, pictures, embeddings, online store, models, champion."""
    from pipelines.status import status as step

    found = step(settings_of(home))
    emit(found, as_json=as_json, show=lambda: shown.show("status", found))


@app.command()
def run(
    source: SourceName,
    seasons: Seasons = None,
    path: Paths = None,
    races: Races = None,
    seed: Seed = None,
    require: Annotated[bool, typer.Option("--require-promotion", help="Exit with 3 when the gate refuses.")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Every step in order, from races of three seasons or more to a gated model; what is up to date is skipped."""
    settings = settings_of(home)
    origin, years = choose_source(settings, source, seasons, paths=path or [], races=races, seed=seed)
    started = time.perf_counter()

    def told(outcome: StepOutcome) -> None:
        if not as_json:
            shown.show_step(outcome)

    if not as_json:
        kind = "SIMULATED races" if origin.is_simulated else "real races"
        out.print(f"{kind}, seasons {years[0]}-{years[-1]}, into {settings.home}")
    with _step_progress() as progress:
        outcomes = run_all(settings, origin, years, progress=progress, on_step=told)
    decision = outcomes[-1].report["decision"]
    result = {
        "home": str(settings.home),
        "simulated": origin.is_simulated,
        "seconds": round(time.perf_counter() - started, 1),
        "steps": [vars(outcome) for outcome in outcomes],
        "decision": decision,
    }

    def show() -> None:
        shown.show("evaluate", outcomes[STEPS.index("evaluate")].report)
        shown.show("promote", outcomes[-1].report)
        out.print(f"done in {result['seconds']} s")

    emit(result, as_json=as_json, show=show)
    if require and not decision["promote"]:
        raise typer.Exit(GATE_REFUSED)


@app.command("simulator-report")
def simulator_report(
    real_home: Annotated[Path, typer.Option("--real-home", help="Home whose lake holds real races.", file_okay=False)],
    seasons: Annotated[int, typer.Option("--seasons", min=1, help="How many seasons to simulate [3].")] = 3,
    races: Annotated[int, typer.Option("--races", min=1, help="Races in each of them [12].")] = USUAL_RACES,
    seed: Seed = None,
    document: Annotated[
        Path | None, typer.Option("--document", help="Replace the table in this file too (docs/simulator.md).", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the simulator's distributions with real races."""
    from pipelines.flows import as_json as to_json
    from pipelines.lake import Lake
    from pipelines.simulator.compare import as_markdown, compare, write_table

    settings = settings_of(real_home)
    found = compare(Lake(settings.lake_dir), seasons=seasons, races=races, seed=settings.seed if seed is None else seed)
    if document is not None:
        write_table(document, found)
    emit(to_json(found), as_json=as_json, show=lambda: out.print(as_markdown(found), markup=False, highlight=False))


app.command()(skew)
app.command("leak-probe")(leak_probe)
app.command()(conformance)
app.command()(sources)


def _run(step: str, settings: Settings, *, as_json: bool) -> None:
    with progress_bar(step) as report:
        found = run_step(step, settings, report)
    emit(found, as_json=as_json, show=lambda: shown.show(step, found))


class _step_progress:
    """One progress bar after the other, each closed when the next step begins."""

    def __enter__(self) -> Any:
        self._open: Any = None
        return self._next

    def __exit__(self, *error: object) -> None:
        self._close()

    def _next(self, step: str) -> Progress:
        self._close()
        self._open = progress_bar(step)
        return self._open.__enter__()

    def _close(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None


def add_commands() -> None:
    """Add the commands of other packages, registered under `pitwall.commands` (see pyproject.toml), to `app`; once."""
    registered = {command.name for command in app.registered_commands}
    for entry in sorted(entry_points(group="pitwall.commands"), key=lambda entry: entry.name):
        if entry.name not in registered:
            app.command(entry.name)(entry.load())


def main() -> None:
    """Entry point of the console script."""
    add_commands()
    try:
        app()
    except PitwallError as error:
        _fail(str(error), error, BAD_USAGE if isinstance(error, BadUsageError) else 1)
    except (ValidationError, YAMLError) as error:
        _fail(f"settings (PITWALL_* variables or pitwall.yaml): {error}", error, BAD_USAGE)
    except OSError as error:
        _fail(said_of_system(error), error)
    except server_errors() as error:
        _fail(said_of_server(error), error)


def _fail(said: str, cause: Exception, code: int = 1) -> NoReturn:
    logging.getLogger(__name__).debug("failed", exc_info=cause)
    err.print(f"error: {said}", style="red", highlight=False, markup=False)
    raise SystemExit(code) from cause
