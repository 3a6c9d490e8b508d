"""What an online store that holds exactly what is known at a moment would serve, computed without Feast, and how it is logged."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from feast import FeatureStore
from numpy.typing import NDArray

from feature_repo.feature_log import FeatureLog
from feature_repo.files import read_parquet
from feature_repo.settings import Settings
from feature_repo.spine import load_entrants
from feature_repo.store import get_service, views_of
from feature_repo.visibility import EVENT, latest_visible

SERVICE = "finish_position_v1"
SERVED_AT = pd.Timestamp("2026-03-01T12:00:00Z")
"""When every answer of these tests was served; the moments they are about are of the races."""


@dataclass(frozen=True)
class Answer:
    """The arguments of `FeatureLog.append`."""

    frame: pd.DataFrame
    entity_rows: list[dict[str, str]]
    event_us: NDArray[np.int64]
    moment: pd.Timestamp
    withheld: bool = True
    views: tuple[str, ...] = ()

    def with_cells(self, feature: str, change: Callable[[pd.Series], pd.Series]) -> "Answer":
        """The answer with one feature changed."""
        return replace(self, frame=self.frame.assign(**{feature: change(self.frame[feature])}))

    def about(self, moment: pd.Timestamp) -> "Answer":
        """The same values, said to be about another moment."""
        return replace(self, moment=moment)


def answer(
    settings: Settings, store: FeatureStore, race_id: str, moment: pd.Timestamp, *, service: str = SERVICE, withheld: bool = True
) -> Answer:
    """The whole grid of a race as known at a moment: per view the newest visible row, none older than its ttl if `withheld`."""
    entrants = load_entrants(settings).query("race_id == @race_id").sort_values("driver_id", ignore_index=True)
    views = views_of(store, get_service(store, service))
    frame, events = entrants[["race_id", "driver_id"]].copy(), []
    for view, names in views:
        keys = list(view.join_keys)
        known = latest_visible(read_parquet(settings.features_dir / f"{view.name}.parquet"), keys, moment)
        if view.ttl and withheld:
            known = known[known[EVENT] >= moment - view.ttl]
        held = entrants[keys].merge(known, on=keys, how="left", validate="many_to_one")
        for name in names:
            frame[name] = held[name].to_numpy()
        stamps = held[EVENT].astype("datetime64[us, UTC]")
        events.append(np.where(stamps.isna(), 0, stamps.fillna(pd.Timestamp(0, tz="UTC")).astype("int64")))
    needed = sorted({key for view, _ in views for key in view.join_keys})
    named = tuple(view.name for view, _ in views)
    return Answer(frame, entrants[needed].to_dict("records"), np.array(events, dtype=np.int64).T, moment, withheld, named)


def log_answers(settings: Settings, store: FeatureStore, answers: Iterable[Answer], *, service: str = SERVICE) -> None:
    """Log answers, one second apart from `SERVED_AT` on."""
    with FeatureLog(settings, service, store=store) as log:
        given = 0
        for number, said in enumerate(answers):
            log.append(
                said.frame,
                entity_rows=said.entity_rows,
                event_us=said.event_us,
                moment=said.moment,
                withheld=said.withheld,
                request_id=f"request-{number}",
                served_at=SERVED_AT + pd.Timedelta(seconds=number),
            )
            given += len(said.frame)
        log.flush()
        assert (log.counts.written, log.counts.failed) == (given, 0)
