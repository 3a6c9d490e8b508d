"""A race once more, lap by lap, the way a live race goes: rows into an online store, pictures, embedding, answer.

A replay has an online store of its own below `<home>/replay/<race_id>/`, under the same Feast definitions. It begins with what
was known at the first moment; at each lap of the leader, the rows that became known since are written to it by the store's own
rule, and the race is predicted from that store alone. Nothing of later is ever in it, so what is shown at a lap is what
`pitwall predict --lap` says of it, bit for bit.
"""

import logging
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from feature_repo.errors import InvalidMomentError, NotAppliedError
from feature_repo.settings import Settings
from feature_repo.spine import Moment, MomentPoint, load_entrants_known, load_moments, load_races_known
from feature_repo.store import open_store
from feature_repo.stores.online import WriteCounts, newest_per_key, packed_store
from feature_repo.stores.packed import Layout, entity_keys, pack
from feature_repo.visibility import CREATED, EVENT
from serving.errors import ReplayRunningError
from serving.prediction import Prediction
from serving.predictor import Predictor
from serving.races import moment_point, race_of
from serving.replay_file import ReplayWriter, replay_path

logger = logging.getLogger(__name__)

_US = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class ReplayReport:
    """A replay that has ended.

    Attributes:
        race_id: the race.
        run: names this replay in its events.
        model: version that answered.
        first_lap, last_lap: of the leader; 0 = lights out.
        rows: written to the replay's store, views together.
        seconds: it took.
        slowest_s: longest time from the rows of a lap to its prediction.
        record: the file of its events.
    """

    race_id: str
    run: str
    model: str
    first_lap: int
    last_lap: int
    rows: int
    seconds: float
    slowest_s: float
    record: Path


class ReplayStore:
    """An online store that knows of one race what was known at an instant, and learns what came after.

    Args:
        settings: which home.
        race_id: the race.
        folder: where its file is; nothing else may be in it.
    Raises:
        NotAppliedError: the home has no feature registry, or its feature tables are of another home.
    """

    def __init__(self, settings: Settings, race_id: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.feast: FeatureStore = open_store(settings, online=folder / "online_store.db")
        self._online = packed_store(self.feast)
        views = sorted((view for view in self.feast.list_feature_views() if view.online), key=lambda view: view.name)
        self._online.update(self.feast.config, [], views, [], [], partial=True)
        cars = _join_keys(settings, race_id)
        self._histories = [_History.of(settings, view, cars) for view in views]

    def advance(self, point: MomentPoint) -> WriteCounts:
        """Write the rows that became known since the last call, up to a moment (itself included)."""
        counts, until_us = WriteCounts(), point.as_of.value // 1000
        for history in self._histories:
            keys, values = newest_per_key(*history.known_until(until_us))
            if keys:
                counts += self._online.write_rows(self.feast.config, history.view, keys, values)
        return counts

    def close(self) -> None:
        """Close the file."""
        self._online.disconnect()


def replay(
    settings: Settings,
    race_id: str,
    *,
    speed: float = 60.0,
    from_lap: int = 0,
    to_lap: int | None = None,
    version: str | None = None,
    on_lap: Callable[[int, int, Prediction], None] | None = None,
) -> ReplayReport:
    """Replay a race and record each lap's prediction in `<home>/replay/<race_id>.jsonl`.

    Args:
        settings: which home; its online store is neither read nor written.
        race_id: the race.
        speed: times real time, counted by the instants at which the leader completed the laps; 0 = as fast as it can.
        from_lap: the first lap shown; 0 = lights out.
        to_lap: the last one; default the last that the leader completed.
        version: another version of the registry than the champion.
        on_lap: called after each lap with the lap, the last lap and what was predicted.
    Raises:
        InvalidIdError, UnknownEntityError: no such race.
        InvalidMomentError: no such laps, or a negative speed.
        ReplayRunningError: this race is being replayed already.
        NoModelError: nothing was promoted, not even the baseline.
    """
    if not speed >= 0:
        raise InvalidMomentError(f"speed: got {speed}, expected 0 (as fast as it can) or more, such as 60")
    points = _points(settings, race_id, from_lap, to_lap)
    quiet = settings.model_copy(update={"log_features": False})  # a replay is nobody's answer
    opened = Predictor.open(quiet, version=version)
    with _alone(settings, race_id) as folder:
        store = ReplayStore(settings, race_id, folder)
        try:
            predictor = Predictor(quiet, store.feast, opened.served, opened.model, folder=opened.folder)
            return _run(settings, predictor, store, points, speed, on_lap)
        finally:
            store.close()


def _run(
    settings: Settings,
    predictor: Predictor,
    store: ReplayStore,
    points: list[MomentPoint],
    speed: float,
    on_lap: Callable[[int, int, Prediction], None] | None,
) -> ReplayReport:
    race_id, last = points[0].race_id, points[-1].lap
    race = race_of(settings, race_id)
    run = secrets.token_hex(6)
    path = replay_path(settings, race_id)
    start = {
        "event": "start", "race_id": race_id, "name": race.name, "simulated": race.is_simulated, "speed": speed,
        "from_lap": points[0].lap, "to_lap": last, "scheduled_laps": race.scheduled_laps, "model": vars(predictor.model),
    }  # fmt: skip
    began, rows, slowest = time.monotonic(), 0, 0.0
    with ReplayWriter(path, run, start) as record:
        logger.info("replay_started race=%s run=%s laps=%d..%d speed=%g", race_id, run, points[0].lap, last, speed)
        for place, point in enumerate(points):
            _wait_until(began + _after(points[0], point, speed))
            started = time.monotonic()
            counts = store.advance(point)
            said = predictor.predict_live(race_id, at=point)
            took = time.monotonic() - started
            rows, slowest = rows + counts.written, max(slowest, took)
            following = points[place + 1] if place + 1 < len(points) else point
            record.append(
                {
                    "event": "lap", **said.to_json(), "lap": point.lap, "as_of": point.as_of.isoformat(), "to_lap": last,
                    "rows": counts.written, "seconds": took, "next_in_s": _after(point, following, speed),
                    "stale": said.stale, "fallbacks": said.fallbacks,
                }
            )  # fmt: skip
            if on_lap is not None:
                on_lap(point.lap, last, said)
        record.append({"event": "end", "race_id": race_id, "lap": last})
    seconds = time.monotonic() - began
    logger.info("replay_ended race=%s run=%s rows=%d seconds=%.1f", race_id, run, rows, seconds)
    return ReplayReport(race_id, run, predictor.model.version, points[0].lap, last, rows, seconds, slowest, path)


@dataclass
class _History:
    """The rows of a view that concern a race, packed, in the order in which they became known.

    Attributes:
        view: the view.
        keys, values: (N) of the rows.
        known_us: (N,) when each became known and true: the later of its two times.
        written: how many have been handed out.
    """

    view: FeatureView
    keys: list[bytes]
    values: list[bytes]
    known_us: NDArray[np.int64]
    written: int = 0

    @classmethod
    def of(cls, settings: Settings, view: FeatureView, cars: dict[str, list[str]]) -> "_History":
        source = Path(view.batch_source.path)
        if not source.is_relative_to(settings.home):
            raise NotAppliedError(f"view {view.name}: reads {source}, outside {settings.home}; run `pitwall apply` again")
        layout = Layout.of(view)
        columns = [*view.join_keys, *(field.name for field in layout.fields), EVENT, CREATED]
        table = pq.read_table(source, columns=columns, filters=[(key, "in", cars[key]) for key in view.join_keys])
        event, created = (table[name].cast(_US).cast(pa.int64()) for name in (EVENT, CREATED))
        known = pc.and_(event.is_valid(), created.is_valid())
        table, event, created = table.filter(known), event.filter(known).to_numpy(), created.filter(known).to_numpy()
        order = np.argsort(np.maximum(event, created), kind="stable")
        values, keys = pack(layout, table, event, created), entity_keys(view, table)
        return cls(view, [keys[at] for at in order], [values[at] for at in order], np.maximum(event, created)[order])

    def known_until(self, until_us: int) -> tuple[list[bytes], list[bytes]]:
        """Keys and values of the rows that became known since the last call, up to an instant (included)."""
        first, self.written = self.written, int(np.searchsorted(self.known_us, until_us, side="right"))
        return self.keys[first : self.written], self.values[first : self.written]


def _points(settings: Settings, race_id: str, from_lap: int, to_lap: int | None) -> list[MomentPoint]:
    race_of(settings, race_id)  # says what is wrong with the race
    moments = load_moments(settings)
    laps = sorted({0, *map(int, moments.loc[moments["race_id"] == race_id, "lap"])})
    last = laps[-1] if to_lap is None else to_lap
    if not 0 <= from_lap <= last <= laps[-1]:
        raise InvalidMomentError(
            f"{race_id}: got laps {from_lap} to {last}, expected 0 <= first <= last <= {laps[-1]}, the leader's last lap"
        )
    return [moment_point(settings, race_id, Moment("lap", lap=lap)) for lap in laps if from_lap <= lap <= last]


def _join_keys(settings: Settings, race_id: str) -> dict[str, list[str]]:
    """Every value that each join key has in a race, whenever it was known."""
    entrants, races = load_entrants_known(settings), load_races_known(settings)
    cars, race = entrants[entrants["race_id"] == race_id], races[races["race_id"] == race_id]
    found = {"race_id": [race_id], "circuit_id": sorted(set(race["circuit_id"]))}
    return found | {key: sorted(set(cars[key])) for key in ("driver_id", "constructor_id")}


def _after(first: MomentPoint, then: MomentPoint, speed: float) -> float:
    """Seconds of the replay between two moments of the race."""
    return max(0.0, (then.as_of - first.as_of).total_seconds()) / speed if speed else 0.0


def _wait_until(instant: float) -> None:
    while (left := instant - time.monotonic()) > 0:
        time.sleep(left)


@contextmanager
def _alone(settings: Settings, race_id: str) -> Iterator[Path]:
    """The empty folder of a replay's store, for one process at a time; what an interrupted one left is removed."""
    folder = replay_path(settings, race_id).with_suffix("")
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{race_id}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ReplayRunningError(
            f"{race_id}: is being replayed by another process; follow that one, or end it and try again"
        ) from error
    try:
        shutil.rmtree(folder, ignore_errors=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
