"""When the flag fell: the winner's laps, his official time, or the laps of whoever has most."""

import pandas as pd
import pytest

from pipelines.ingest.canonical.timing import SessionClock, flags_of

START = pd.Timestamp("2030-05-05T13:00:00Z")
CLOCK = SessionClock(starts={1: START}, origins={1: 0.0})


def laps(**ends: list[float]) -> pd.DataFrame:
    """Seconds since lights out at which each driver ended his laps."""
    rows = [
        {"round": 1, "driver_id": name, "lap": number, "event_timestamp": START + pd.Timedelta(seconds=end)}
        for name, of_driver in ends.items()
        for number, end in enumerate(of_driver, start=1)
    ]
    return pd.DataFrame(rows, columns=["round", "driver_id", "lap", "event_timestamp"])


def winner(*, completed: int = 3, milliseconds: float = 270_500.0) -> pd.DataFrame:
    return pd.DataFrame(
        {"round": [1], "driver_id": ["ada"], "position_order": [1], "laps_completed": [completed], "milliseconds": [milliseconds]}
    )


@pytest.mark.parametrize(
    ("known", "result", "seconds"),
    [
        (laps(ada=[90, 180, 270], bob=[91, 182, 273]), winner(), 270),  # his last lap, on the clock of all laps
        (laps(ada=[90]), winner(), 270.5),  # a lap chart that has begun to arrive
        (laps(ada=[90, 420]), winner(), 420),  # laps that the feed lost: never before what is known of him
        (laps(bob=[91, 182, 273]), winner(), 270.5),
        (laps(), winner(), 270.5),
        (laps(ada=[90, 180], bob=[91, 182, 273], eve=[92, 184, 276]), winner(milliseconds=float("nan")), 180),
        (laps(bob=[91, 182, 273], eve=[92, 184, 272]), winner(milliseconds=float("nan")), 272),
    ],
)
def test_the_flag(known: pd.DataFrame, result: pd.DataFrame, seconds: float) -> None:
    assert flags_of(known, result, CLOCK) == {1: START + pd.Timedelta(seconds=seconds)}


def test_without_laps_and_time_the_flag_is_not_known() -> None:
    assert flags_of(laps(), winner(milliseconds=float("nan")), CLOCK) == {}
