"""The training set's own rules: running order, pictures no later than their row, and at least one result."""

import numpy as np
import pandas as pd
import pytest

from feature_repo.settings import Settings
from ml.traces.store import ImageArtifactStore
from pipelines import dataset
from pipelines.dataset import running_order
from pipelines.errors import LeakError

MOMENT = pd.Timestamp("2024-05-26T14:00:00Z").as_unit("us")


def state(*cars: tuple[str, str, float | None, float | None]) -> pd.DataFrame:
    return pd.DataFrame(cars, columns=["race_id", "driver_id", "running_laps_completed", "running_elapsed_s"])


def test_running_order_is_laps_then_time_within_each_race() -> None:
    order = running_order(
        state(
            ("2024_01", "behind", 10, 900.5),
            ("2024_01", "leader", 10, 899.0),
            ("2024_01", "lapped", 9, 880.0),
            ("2024_02", "alone", 3, 270.0),
            ("2024_01", "never_started", None, None),
        )
    )
    assert order.tolist()[:4] == [2.0, 1.0, 3.0, 1.0]
    assert np.isnan(order.tolist()[4])


def test_running_order_does_not_depend_on_the_order_of_rows_and_settles_ties() -> None:
    cars = state(*[("2024_01", f"driver_{number}", 5, 400.0 + number // 2) for number in range(6)])
    order = running_order(cars)
    assert sorted(order) == [1, 2, 3, 4, 5, 6]
    turned = cars.sample(frac=1, random_state=3)
    pd.testing.assert_series_equal(running_order(turned).sort_index(), order)
    assert running_order(state()).empty


def joined(*drivers: str) -> pd.DataFrame:
    return pd.DataFrame({"race_id": "2024_08", "driver_id": list(drivers), "event_timestamp": MOMENT})


def with_picture(
    settings: Settings, driver_id: str, *, event: pd.Timestamp, created: pd.Timestamp, is_default: bool = True
) -> str:
    record = ImageArtifactStore(settings.multimodal_dir).put(
        "2024_08", driver_id, 39, _png(), last_lap=38, event_timestamp=event, created_timestamp=created,
        source_hash=f"hash of {driver_id}", renderer_version="1", is_default=is_default,
    )  # fmt: skip
    return record.sha256


def _png() -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (800, 600), "white").save(buffer, "PNG")
    return buffer.getvalue()


def test_each_row_gets_its_default_picture(settings: Settings) -> None:
    sha = with_picture(settings, "norris", event=MOMENT, created=MOMENT)
    with_picture(settings, "alonso", event=MOMENT, created=MOMENT, is_default=False)
    found = dataset._with_pictures(settings, joined("alonso", "norris", "russell"))
    assert found["driver_id"].tolist() == ["alonso", "norris", "russell"]
    assert found["picture_sha256"].tolist() == ["", sha, ""]
    assert found["picture_uri"].tolist() == ["", "speed_traces/2024_08/norris.png", ""]
    assert not {"picture_event", "picture_created"} & set(found)


@pytest.mark.parametrize("late", ["event", "created"])
def test_a_picture_of_later_laps_is_a_leak(settings: Settings, late: str) -> None:
    times = {"event": MOMENT, "created": MOMENT, late: MOMENT + pd.Timedelta(microseconds=1)}
    with_picture(settings, "norris", **times)
    with pytest.raises(LeakError, match=r"norris.png: shows laps known at .*, after the row's moment .* \(1 such pictures\)"):
        dataset._with_pictures(settings, joined("norris"))
