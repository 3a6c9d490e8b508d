"""Drawing on Spark: each worker draws whole races with the embedded engine's renderer, so the PNGs are equal bytes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from feature_repo.settings import Settings
from feature_repo.stores.spark_session import n_tasks, session_of, worker_errors
from ml.traces.axes import RaceAxes
from ml.traces.batch import Drawing, RaceJob
from ml.traces.batch import render_races as render_here
from ml.traces.laps import LapTrace

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_JOB = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("race_id", pa.string()),
        pa.field("max_lap", pa.int64()),
        pa.field("speed_low_kph", pa.float64()),
        pa.field("speed_high_kph", pa.float64()),
        pa.field("driver_ids", pa.list_(pa.string())),
        pa.field("titles", pa.list_(pa.string())),
        pa.field("laps", pa.list_(pa.list_(pa.int64()))),
        pa.field("speeds_kph", pa.list_(pa.list_(pa.float64()))),
    ]
)
_DRAWN = "number long, pictures array<binary>"


def render_races(settings: Settings, jobs: Sequence[RaceJob]) -> Iterator[tuple[RaceJob, list[bytes]]]:
    """Each job with its PNGs in the order of its drawings; jobs in the order in which workers finish.

    Raises:
        SparkNotAvailableError: no Spark session can be had.
    """
    if not jobs:
        return
    spark = session_of(settings)
    rows: DataFrame = spark.createDataFrame(pa.Table.from_pylist([_row(*job) for job in enumerate(jobs)], schema=_JOB))
    drawn = rows.repartition(min(len(jobs), n_tasks(spark))).mapInPandas(_draw, _DRAWN)
    with worker_errors("traces"):
        for row in drawn.toLocalIterator(prefetchPartitions=True):
            yield jobs[row.number], [bytes(png) for png in row.pictures]


def _row(number: int, job: RaceJob) -> dict[str, object]:
    return {
        "number": number,
        "race_id": job.race_id,
        "max_lap": job.axes.max_lap,
        "speed_low_kph": float(job.axes.speed_low_kph),
        "speed_high_kph": float(job.axes.speed_high_kph),
        "driver_ids": [drawing.driver_id for drawing in job.drawings],
        "titles": [drawing.title for drawing in job.drawings],
        "laps": [drawing.trace.lap_numbers for drawing in job.drawings],
        "speeds_kph": [drawing.trace.speeds_kph for drawing in job.drawings],
    }


def _draw(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    for batch in batches:
        for row in batch.itertuples():
            traces = [
                LapTrace(np.asarray(laps, dtype=np.int64), np.asarray(speeds, dtype=np.float64))
                for laps, speeds in zip(row.laps, row.speeds_kph, strict=True)
            ]
            drawings = [Drawing(*drawing) for drawing in zip(row.driver_ids, traces, row.titles, strict=True)]
            axes = RaceAxes(int(row.max_lap), row.speed_low_kph, row.speed_high_kph)
            ((_, pictures),) = render_here([RaceJob(row.race_id, axes, tuple(drawings))])
            yield pd.DataFrame({"number": [row.number], "pictures": [pictures]})
