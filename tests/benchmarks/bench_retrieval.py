"""Point-in-time retrieval of the training set through Feast, against one plain `pandas.merge_asof` per view.

The spine is every entrant of the real races 2018-2024 at half distance (2,979 rows), where those are found (`PITWALL_TEST_DATA`,
or `shared/data` beside the checkout); otherwise as many entrants of simulated races. Both sides read the feature tables from disk
and honour event time, created time and ttl. `equal`: every cell of every feature agrees. Each side is measured in processor
seconds of all threads and in wall seconds, in turns; the ratio is of processor seconds.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore

from feature_repo.settings import Settings
from feature_repo.spine import Moment, entity_frame
from feature_repo.store import get_service, historical, open_store, views_of
from feature_repo.visibility import CREATED, EVENT
from pipelines.flows import run_step
from pipelines.ingest.base import Source
from pipelines.ingest.files import FilesSource
from pipelines.ingest.run import ingest
from pipelines.ingest.simulator import SimulatorSource

SERVICE = "finish_position_v1"
SEASONS = range(2018, 2025)
_REPOSITORY = Path(__file__).resolve().parent.parent.parent


def run(*, quick: bool = False) -> list[dict[str, Any]]:
    """One row: seconds to retrieve the training set's features; `detail` has rows a second."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), seed=7)
        source, years, what = _races(quick=quick)
        ingest(settings, source, years)
        for step in ("features", "apply"):
            run_step(step, settings)
        return _measure(settings, what, repeats=1 if quick else 5)


def _races(*, quick: bool) -> tuple[Source, list[int], str]:
    real = Path(os.environ.get("PITWALL_TEST_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not quick and (real / "fastf1").is_dir():
        return FilesSource([real]), list(SEASONS), "real races 2018-2024"
    simulator = SimulatorSource(seasons=1 if quick else 7, races=2 if quick else 21, seed=7)
    return simulator, list(simulator.years), "simulated races"


def _measure(settings: Settings, what: str, *, repeats: int) -> list[dict[str, Any]]:
    store = open_store(settings)
    spine = entity_frame(settings, Moment.parse("fraction:0.5"))
    found = historical(store, SERVICE, spine)
    expected = by_merge_asof(store, SERVICE, spine)
    features = [name for name in found.columns if name not in spine.columns]
    unequal = [name for name in features if not _same(found[name], expected[name])]
    ours, reference = [], []
    for _ in range(repeats):
        ours.append(_seconds(lambda: historical(store, SERVICE, spine)))
        reference.append(_seconds(lambda: by_merge_asof(store, SERVICE, spine)))
    (ours_s, ours_wall_s), (reference_s, reference_wall_s) = np.median(ours, axis=0), np.median(reference, axis=0)
    return [
        {
            "name": f"retrieve {len(spine):,} rows of {len(features)} features point in time, against pandas.merge_asof per view",
            "ours_s": float(ours_s),
            "reference_s": float(reference_s),
            "ratio": float(reference_s / ours_s),
            "goal": None,
            "equal": not unequal and len(found) == len(expected) == len(spine),
            "detail": (
                f"{what}; wall {ours_wall_s:.2f} s = {len(spine) / ours_wall_s:,.0f} rows/s, pandas {reference_wall_s:.2f} s = "
                f"{len(spine) / reference_wall_s:,.0f} rows/s; {len(spine) * len(features):,} cells compared"
                + (f", unequal: {', '.join(unequal)}" if unequal else "")
            ),
        }
    ]


def by_merge_asof(store: FeatureStore, service: str, spine: pd.DataFrame) -> pd.DataFrame:
    """What `historical` answers, by pandas alone: per view the newest event among the rows visible at each row's moment."""
    asked = spine.assign(row=np.arange(len(spine))).sort_values(EVENT, kind="stable")
    for view, names in views_of(store, get_service(store, service)):
        keys = list(view.join_keys)
        table = pd.read_parquet(view.batch_source.path, columns=[*keys, *names, EVENT, CREATED]).dropna(subset=[CREATED])
        # A row can be seen from the later of its two times on. One that comes when a newer event is visible is never the answer.
        table["visible"] = table[[EVENT, CREATED]].max(axis=1)
        table = table.sort_values(["visible", EVENT, CREATED], kind="stable")
        table = table[table[EVENT] == table.groupby(keys, sort=False)[EVENT].cummax()]
        table = table.drop(columns=CREATED).rename(columns={EVENT: "event"})
        asked = pd.merge_asof(asked, table, left_on=EVENT, right_on="visible", by=keys)
        if view.ttl:
            asked.loc[asked["event"] < asked[EVENT] - view.ttl, names] = None
        asked = asked.drop(columns=["event", "visible"])
    return asked.sort_values("row", ignore_index=True).drop(columns="row")


def _same(ours: pd.Series, reference: pd.Series) -> bool:
    """Equal cell by cell, missing where the other is missing."""
    missing = ours.isna().to_numpy()
    if not np.array_equal(missing, reference.isna().to_numpy()):
        return False
    return bool((ours.to_numpy(dtype=object)[~missing] == reference.to_numpy(dtype=object)[~missing]).all())


def _seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Processor seconds of all threads and wall seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - processor, time.perf_counter() - wall


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']}: {row['ours_s']:.2f} s against {row['reference_s']:.2f} s, equal {row['equal']}; {row['detail']}")
