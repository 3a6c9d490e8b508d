"""The traces step: feature table `trace` at a moment of each race -> pictures in the image-artifact store.

Reads `features/trace.parquet`, `moments.parquet` and what was known of races and entrants; writes `multimodal/`. Idempotent: a
picture is drawn again only if what it shows, how it is drawn, or its file has changed.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo.errors import InvalidMomentError, MissingInputError, NotKnownYetError, PitwallError
from feature_repo.ids import validate_race_id
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from feature_repo.spine import (
    Moment,
    known_at,
    load_entrants,
    load_entrants_known,
    load_moments,
    load_races_known,
    resolve_moment,
    unknown,
)
from feature_repo.visibility import CREATED, EVENT, latest_visible
from ml.errors import InvalidLapDataError
from ml.traces.axes import RaceAxes, race_axes
from ml.traces.batch import Drawing, RaceJob, picture_title, render_races
from ml.traces.failures import FailureLog
from ml.traces.laps import LapTrace, lap_trace
from ml.traces.manifest import PictureRecord, picture_uri
from ml.traces.renderer import RENDERER_VERSION
from ml.traces.store import ImageArtifactStore

# Below this, starting another process costs more than it saves.
_WORTH_A_POOL = 800

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TracesReport:
    """What the step did.

    Attributes:
        rendered: pictures drawn now.
        up_to_date: pictures that were there, intact, and drawn from the same laps.
        repaired: of those drawn now, how many took the place of a damaged or lost file.
        discarded: pictures removed because their race or driver is gone or has no lap by the moment any more.
        missing: `race_id/driver_id` of entrants without a timed lap by the moment: there is nothing to draw.
        failed: `race_id/driver_id` of entrants with laps that could not be drawn (see `generation_errors.log`).
        skipped: race_id of races left out altogether (see `skipped_races.json`).
        share: pictures over entrants with laps and all entrants of skipped races, 0..1; 1 when there are none.
        seconds: wall time.
    """

    rendered: int
    up_to_date: int
    repaired: int
    discarded: int
    missing: list[str]
    failed: list[str]
    skipped: list[str]
    share: float
    seconds: float


@dataclass(frozen=True)
class _Wanted:
    """One picture that should be in the store."""

    uri: str
    race_id: str
    lap: int
    drawing: Drawing
    axes: RaceAxes
    event_timestamp: pd.Timestamp
    created_timestamp: pd.Timestamp
    source_hash: str


@dataclass(frozen=True)
class _Race:
    """One race at the moment asked about."""

    lap: int
    as_of: pd.Timestamp
    scheduled_laps: int
    name: str
    is_simulated: bool


def render_traces(
    settings: Settings,
    *,
    moment: str | None = None,
    race_ids: Iterable[str] | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> TracesReport:
    """Bring the pictures of each race at a moment up to date.

    Args:
        settings: which home, and the default moment.
        moment: `lap:22`, `fraction:0.5` or `at:<instant>`; default `settings.moment`, whose pictures are the ones training uses.
        race_ids: some races; default all that have entrants.
        processes: how many processes draw; default one, or `settings.threads` when there is much to draw.
        progress: called with ("traces", pictures done, pictures to draw).
    Raises:
        MissingInputError: the feature tables are not there.
        UnknownEntityError: a race in `race_ids` has no entrants.
        InvalidMomentError: `moment` has another form, or no race asked for has it.
        StoreBusyError: another process is rendering into this home.
    """
    started = time.perf_counter()
    default = Moment.parse(settings.moment)
    asked = default if moment is None else Moment.parse(moment)
    is_default = asked == default
    entrants = load_entrants(settings)
    entered_races = _entered_races(entrants, race_ids)
    failures = FailureLog(settings.multimodal_dir)
    races = _races_at(load_moments(settings), load_races_known(settings), entered_races, asked, failures)
    if entered_races and not races:
        raise InvalidMomentError(f"{asked}: none of the {len(entered_races)} races asked for has this moment; nothing was drawn")
    entered = known_at(load_entrants_known(settings), ["race_id", "driver_id"], _when(races))
    entered = entered[entered["is_entered"].astype(bool)]
    wanted = _wanted(settings, races, entered, failures, is_default=is_default)

    store = ImageArtifactStore(settings.multimodal_dir)
    settings.multimodal_dir.mkdir(parents=True, exist_ok=True)
    with store.writing():
        gone = set() if race_ids is not None else {record.race_id for record in store.records().values()} - set(entered_races)
        stale = _stale(store.records(), set(wanted), races, gone, is_default=is_default)
        for uri in stale:
            store.discard(uri)
        todo, repaired = _to_do(store, wanted)
        if processes is None:
            processes = settings.threads if len(todo) >= _WORTH_A_POOL else 1
        _render(settings, store, todo, processes, is_default=is_default, progress=progress)
    failures.finish(set(entered_races))

    drawn = {(item.race_id, item.drawing.driver_id) for item in wanted.values()}
    broken = set(failures.failed)
    names = [(str(race_id), str(driver_id)) for race_id, driver_id in zip(entered["race_id"], entered["driver_id"], strict=True)]
    missing = sorted(
        f"{race}/{driver}" for race, driver in names if (race, driver) not in drawn and f"{race}/{driver}" not in broken
    )
    # Entrants of a race that was left out altogether count as not drawn.
    expected = len(wanted) + len(broken) + int(entrants["race_id"].isin(set(entered_races) - set(races)).sum())
    report = TracesReport(
        rendered=len(todo),
        up_to_date=len(wanted) - len(todo),
        repaired=repaired,
        discarded=len(stale),
        missing=missing,
        failed=sorted(broken),
        skipped=sorted(failures.skipped),
        share=len(wanted) / expected if expected else 1.0,
        seconds=time.perf_counter() - started,
    )
    logger.info(
        "traces_rendered moment=%s rendered=%d up_to_date=%d missing=%d failed=%d seconds=%.2f",
        asked, report.rendered, report.up_to_date, len(missing), len(broken), report.seconds,
    )  # fmt: skip
    return report


def _entered_races(entrants: pd.DataFrame, race_ids: Iterable[str] | None) -> list[str]:
    known = set(entrants["race_id"])
    if race_ids is None:
        return sorted(known)
    races = sorted({validate_race_id(race_id) for race_id in race_ids})
    for race_id in races:
        if race_id not in known:
            raise unknown("race_id", race_id, known)
    return races


def _races_at(
    moments: pd.DataFrame, calendar: pd.DataFrame, race_ids: list[str], asked: Moment, failures: FailureLog
) -> dict[str, _Race]:
    """Each race at the moment, as it was known then; a race that has no such moment is skipped and logged."""
    by_race = dict(list(moments.groupby("race_id", sort=False)))
    history = dict(list(calendar.groupby("race_id", sort=False)))
    races: dict[str, _Race] = {}
    for race_id in race_ids:
        of_race = by_race.get(race_id, moments.iloc[:0])
        try:
            point = resolve_moment(of_race, race_id, asked)
            known = latest_visible(history.get(race_id, calendar.iloc[:0]), ["race_id"], point.as_of)
            if known.empty:
                raise NotKnownYetError(f"{race_id}, as of {point.as_of.isoformat()}: the race was not in the calendar yet")
        except PitwallError as error:
            failures.skip(race_id, error)
            continue
        then = known.iloc[0]
        races[race_id] = _Race(point.lap, point.as_of, int(then["scheduled_laps"]), str(then["name"]), bool(then["is_simulated"]))
    return races


def _when(races: dict[str, _Race]) -> pd.DataFrame:
    when = pd.DataFrame({"race_id": list(races)}, dtype=object)
    instants = pd.to_datetime([race.as_of for race in races.values()], utc=True)
    return when.assign(**{EVENT: pd.Series(instants, dtype="datetime64[us, UTC]")})


def _wanted(
    settings: Settings, races: dict[str, _Race], entered: pd.DataFrame, failures: FailureLog, *, is_default: bool
) -> dict[str, _Wanted]:
    """Every picture that the races should have at their moments, by uri."""
    rows, lists = _rows_at(settings, races)
    names = {
        (race_id, driver_id): name
        for race_id, driver_id, name in zip(entered["race_id"], entered["driver_id"], entered["driver_name"], strict=True)
    }
    wanted: dict[str, _Wanted] = {}
    for race_id, of_race in rows.groupby("race_id", sort=True):
        traces: dict[str, LapTrace] = {}
        for row in of_race.itertuples():
            if (race_id, row.driver_id) not in names or len(lists[row.position][0]) == 0:
                continue  # laps without a time cannot be drawn: nothing is known of this car's pace yet
            try:
                traces[row.driver_id] = lap_trace(*lists[row.position], where=f"{race_id} {row.driver_id}")
            except InvalidLapDataError as error:
                failures.fail(str(race_id), row.driver_id, error)
        if not traces:
            continue
        race = races[str(race_id)]
        axes = race_axes(traces, race.scheduled_laps)
        times = {row.driver_id: (getattr(row, EVENT), getattr(row, CREATED)) for row in of_race.itertuples()}
        for driver_id, trace in sorted(traces.items()):
            uri = picture_uri(str(race_id), driver_id, None if is_default else race.lap)
            event, created = times[driver_id]
            title = picture_title(str(race_id), race.name, names[race_id, driver_id], is_simulated=race.is_simulated)
            drawing = Drawing(driver_id, trace, title)
            source_hash = _source_hash(race.lap, axes, drawing)
            wanted[uri] = _Wanted(uri, str(race_id), race.lap, drawing, axes, event, created, source_hash)
    return wanted


def _rows_at(
    settings: Settings, races: dict[str, _Race]
) -> tuple[pd.DataFrame, list[tuple[NDArray[np.int64], NDArray[np.float64]]]]:
    """The trace row of each car that is the newest one knowable at its race's moment, and the laps of those rows.

    Rows hold the whole trace so far, so only the chosen ones (one in fifty) become arrays.
    """
    path = settings.features_dir / "trace.parquet"
    if not path.exists():
        raise MissingInputError(f"{path}: no such file; run `pitwall features` first")
    table = pq.read_table(path, columns=["race_id", "driver_id", EVENT, CREATED, "lap_numbers", "lap_speeds_kph"])
    keys = table.select(["race_id", "driver_id", EVENT, CREATED]).to_pandas()
    keys["row"] = np.arange(len(keys))
    chosen = [
        latest_visible(of_race, ["race_id", "driver_id"], races[str(race_id)].as_of)
        for race_id, of_race in keys[keys["race_id"].isin(races)].groupby("race_id", sort=False)
    ]
    rows = pd.concat(chosen) if chosen else keys.iloc[:0]
    rows = rows.assign(position=np.arange(len(rows)))
    taken = table.select(["lap_numbers", "lap_speeds_kph"]).take(pa.array(rows["row"].to_numpy(), type=pa.int64()))
    numbers, speeds = (_arrays(taken.column(name)) for name in ("lap_numbers", "lap_speeds_kph"))
    return rows, list(zip(numbers, speeds, strict=True))


def _arrays(column: Any) -> list[NDArray[Any]]:
    """One array per row of a list column; a null row is an empty array, a null element NaN."""
    return [
        np.empty(0) if values is None else np.asarray(values.to_numpy(zero_copy_only=False))
        for values in (scalar.values for scalar in column)
    ]


def _source_hash(lap: int, axes: RaceAxes, drawing: Drawing) -> str:
    """Hash of everything a picture shows."""
    shown = [lap, axes.max_lap, axes.speed_low_kph, axes.speed_high_kph, drawing.title]
    digest = hashlib.sha256(json.dumps(shown).encode())
    digest.update(drawing.trace.lap_numbers.tobytes())
    digest.update(drawing.trace.speeds_kph.tobytes())
    return digest.hexdigest()


def _stale(
    records: dict[str, PictureRecord], wanted: set[str], races: dict[str, _Race], gone: set[str], *, is_default: bool
) -> list[str]:
    """Pictures of these races and this moment that nobody entered for, or without a lap by the moment; and of races gone."""

    def is_asked(record: PictureRecord) -> bool:
        race = races.get(record.race_id)
        return race is not None and record.is_default == is_default and (is_default or record.lap == race.lap)

    return [uri for uri, record in records.items() if record.race_id in gone or (uri not in wanted and is_asked(record))]


def _to_do(store: ImageArtifactStore, wanted: dict[str, _Wanted]) -> tuple[list[_Wanted], int]:
    """What must be drawn, and how many of those only because their file is damaged."""
    records = store.records()
    current = [
        uri
        for uri, item in wanted.items()
        if (record := records.get(uri)) is not None
        and (record.source_hash, record.renderer_version) == (item.source_hash, RENDERER_VERSION)
        and (record.event_timestamp, record.created_timestamp) == (item.event_timestamp, item.created_timestamp)
    ]
    damaged = store.damaged(current)
    for uri in damaged:
        logger.warning("picture_damaged uri=%s: rendering it again", uri)
    up_to_date = set(current) - set(damaged)
    return [item for uri, item in wanted.items() if uri not in up_to_date], len(damaged)


def _render(
    settings: Settings,
    store: ImageArtifactStore,
    todo: list[_Wanted],
    processes: int,
    *,
    is_default: bool,
    progress: Progress | None,
) -> None:
    by_race: dict[str, list[_Wanted]] = {}
    for item in todo:
        by_race.setdefault(item.race_id, []).append(item)
    jobs = [RaceJob(race_id, items[0].axes, tuple(item.drawing for item in items)) for race_id, items in by_race.items()]
    done = 0
    for job, pictures in _drawn(settings, jobs, processes):
        for item, png in zip(by_race[job.race_id], pictures, strict=True):
            store.put(
                item.race_id,
                item.drawing.driver_id,
                item.lap,
                png,
                last_lap=int(item.drawing.trace.lap_numbers[-1]),
                event_timestamp=item.event_timestamp,
                created_timestamp=item.created_timestamp,
                source_hash=item.source_hash,
                renderer_version=RENDERER_VERSION,
                is_default=is_default,
            )
        done += len(pictures)
        if progress is not None:
            progress("traces", done, len(todo))


def _drawn(settings: Settings, jobs: list[RaceJob], processes: int) -> Iterator[tuple[RaceJob, list[bytes]]]:
    if settings.engine == "spark":
        from pipelines.spark import pictures  # PySpark is an extra

        return pictures.render_races(settings, jobs)
    return render_races(jobs, processes=processes)
