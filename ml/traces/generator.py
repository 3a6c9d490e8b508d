"""Pictures from lap data a caller holds: one at a time, or a batch of races that survives a bad race or driver."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feature_repo.errors import PitwallError
from feature_repo.files import write_bytes
from feature_repo.ids import validate_driver_id, validate_race_id
from feature_repo.progress import Progress
from ml.errors import InvalidLapDataError
from ml.traces.axes import RaceAxes, race_axes
from ml.traces.batch import Drawing, RaceJob, render_races
from ml.traces.failures import FailureLog
from ml.traces.laps import LapTrace, parse_lap_data
from ml.traces.renderer import TraceRenderer


class SpeedTraceGenerator:
    """Writes `<output_dir>/<race_id>/<driver_id>.png`; equal lap data gives equal bytes.

    It keeps no record of when laps were known; the `traces` step and `ImageArtifactStore` do.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self.output_dir = Path(output_dir)
        self._renderer = TraceRenderer()

    def generate_trace(self, race_id: str, driver_id: str, lap_data: Any, *, axes: RaceAxes | None = None) -> Path:
        """Draw one car and return the picture's path.

        Args:
            race_id: such as `2024_08`.
            driver_id: such as `max_verstappen`.
            lap_data: a mapping lap -> km/h, a sequence of km/h (laps 1..n), or a frame with columns `lap` and `speed_kph`.
            axes: the race's common axes; without them the axes fit this car alone, and the picture compares with no other.
        Raises:
            InvalidIdError: an id is not of the form of ids.
            InvalidLapDataError: the lap data is empty, None, non-numeric, NaN or negative, or repeats a lap.
        """
        path = self._path(race_id, driver_id)
        trace = parse_lap_data(lap_data, where=f"{race_id} {driver_id}")
        shared = axes or race_axes({driver_id: trace}, int(trace.lap_numbers[-1]))
        write_bytes(path, self._renderer.render(trace.lap_numbers, trace.speeds_kph, shared, title=f"{race_id} {driver_id}"))
        return path

    def generate_batch(
        self,
        races: Mapping[str, Mapping[str, Any]],
        *,
        scheduled_laps: Mapping[str, int] | None = None,
        processes: int = 1,
        progress: Progress | None = None,
    ) -> dict[str, Path]:
        """Draw many races on race-common axes; what cannot be drawn is logged and the rest is.

        Args:
            races: race_id -> driver_id -> lap data (see `generate_trace`).
            scheduled_laps: race_id -> race distance, laps; default the last lap drawn in the race.
            processes: how many processes draw.
            progress: called with ("traces", pictures done, pictures in all) after each race.
        Returns:
            `<race_id>_<driver_id>` -> path of each picture drawn. A car that failed is in `generation_errors.log`, a race without
            any picture also in `skipped_races.json`, both in the output folder.
        """
        failures = FailureLog(self.output_dir)
        jobs = []
        for race_id, cars in races.items():
            try:
                jobs.append(self._job(race_id, cars, (scheduled_laps or {}).get(race_id), failures))
            except PitwallError as error:
                failures.skip(str(race_id), error)
        paths: dict[str, Path] = {}
        total = sum(len(job.drawings) for job in jobs)
        for job, pictures in render_races(jobs, processes=processes):
            for drawing, png in zip(job.drawings, pictures, strict=True):
                path = self._path(job.race_id, drawing.driver_id)
                write_bytes(path, png)
                paths[f"{job.race_id}_{drawing.driver_id}"] = path
            if progress is not None:
                progress("traces", len(paths), total)
        failures.finish({str(race_id) for race_id in races})
        return paths

    def _job(self, race_id: str, cars: Any, scheduled_laps: int | None, failures: FailureLog) -> RaceJob:
        validate_race_id(race_id)
        if not isinstance(cars, Mapping):
            raise InvalidLapDataError(
                f"{race_id}: got {type(cars).__name__}, expected a mapping driver_id -> lap data; give the race's cars by driver"
            )
        traces: dict[str, LapTrace] = {}
        for driver_id, lap_data in cars.items():
            try:
                validate_driver_id(driver_id)
                traces[driver_id] = parse_lap_data(lap_data, where=f"{race_id} {driver_id}")
            except PitwallError as error:
                failures.fail(race_id, str(driver_id), error)
        if not traces:
            raise InvalidLapDataError(f"{race_id}: got {len(cars)} cars, none with laps that can be drawn; see the lines before")
        last = max(int(trace.lap_numbers[-1]) for trace in traces.values())
        axes = race_axes(traces, scheduled_laps or last)
        drawings = tuple(Drawing(driver_id, trace, f"{race_id} {driver_id}") for driver_id, trace in traces.items())
        return RaceJob(race_id, axes, drawings)

    def _path(self, race_id: str, driver_id: str) -> Path:
        return self.output_dir / validate_race_id(race_id) / f"{validate_driver_id(driver_id)}.png"
