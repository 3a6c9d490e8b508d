"""What workers make of their parts, put together, is what the embedded engine makes of everything; seen here without Spark."""

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import Lake, lake_number, lakes

from pipelines import schemas
from pipelines.features.tables import COMPUTE, LAKE_TABLES
from pipelines.spark import features, parcels
from pipelines.spark.features import HISTORIES, KEYED, parcels_of_partition, whole, work_on_all_races, work_on_key, work_on_races

# A lake is a function of its number, so there is nothing to shrink.
quick = settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


class HeldLake:
    """Frames in memory that answer as `pipelines.lake.Lake` does; they may hold late rows, which a lake on disk cannot."""

    def __init__(self, frames: Lake) -> None:
        self.frames = frames

    def read(self, table: str, seasons: list[int], columns: list[str] | None = None) -> pd.DataFrame:
        frame = self.frames[table]
        return frame.loc[frame["season"].isin(seasons), columns or list(frame)].reset_index(drop=True)


def by_workers(lake: Lake, seed: int) -> dict[str, pd.DataFrame]:
    """Every table, computed part by part as Spark would; parts arrive in an order that `seed` decides."""
    held = HeldLake(lake)
    of_lake = [
        parcel
        for name in LAKE_TABLES
        for season in sorted(lake[name]["season"].unique())
        for parcel in parcels_of_partition(held, name, int(season))  # type: ignore[arg-type]
    ]
    of_races = spread(parcels.to_frame(of_lake), work_on_races, seed)
    rated = work_on_all_races(of_races[of_races["name"].isin(["starter_facts", "team_facts"])])
    histories = spread(pd.concat([of_races[of_races["name"].isin(KEYED)], rated]), work_on_key, seed)
    return {name: whole(name, parcels.merged(histories if name in HISTORIES else of_races, name)) for name in COMPUTE}


def spread(frame: pd.DataFrame, work: object, seed: int) -> pd.DataFrame:
    shuffled = frame.sample(frac=1.0, random_state=seed)
    made = [work(group) for _, group in shuffled.groupby("key", sort=False)]  # type: ignore[operator]
    return pd.concat(made, ignore_index=True).sample(frac=1.0, random_state=seed)


@pytest.mark.parametrize("races_a_call", [1, 2])
@quick
@given(lake=lakes(), seed=st.integers(0, 2**16))
def test_parts_put_together_are_the_whole_bit_for_bit(
    lake: Lake, seed: int, races_a_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "RACES_A_CALL", races_a_call)
    found = by_workers(lake, seed)
    for name, compute in COMPUTE.items():
        pd.testing.assert_frame_equal(found[name], compute(lake), check_exact=True, obj=name)


def test_a_calendar_without_races_run_gives_the_same_tables_most_of_them_empty() -> None:
    calendar = {"races", "circuits"}
    lake = {name: lake_number(3, late=False)[name] if name in calendar else schemas.empty_frame(name) for name in schemas.TABLES}
    found = by_workers(lake, seed=0)
    for name, compute in COMPUTE.items():
        pd.testing.assert_frame_equal(found[name], compute(lake), check_exact=True, obj=name)
    assert len(found["circuit_profile"]) > 0
    assert len(found["driver_form"]) == len(found["grid"]) == len(found["trace"]) == 0


@given(
    st.lists(
        st.tuples(
            st.none() | st.text(max_size=5), st.none() | st.integers(-(2**62), 2**62), st.none() | st.floats(), st.booleans()
        )
    )
)
@settings(max_examples=50, deadline=None)
def test_a_parcel_keeps_values_and_types(rows: list[tuple[object, ...]]) -> None:
    frame = pd.DataFrame(rows, columns=["text", "whole", "real", "flag"]).astype(
        {"text": "object", "whole": "Int64", "real": "float64", "flag": "bool"}
    )
    frame["text"] = frame["text"].where(frame["text"].notna(), None)
    pd.testing.assert_frame_equal(parcels.unpack(parcels.pack(frame)), frame, check_exact=True)
