"""What counts as lap data, and that everything else is refused with a message that says where."""

import numpy as np
import pandas as pd
import pytest

from ml.errors import InvalidLapDataError
from ml.traces.laps import lap_trace, parse_lap_data


@pytest.mark.parametrize(
    "lap_data",
    [
        {3: 180.0, 1: 200.0},
        pd.DataFrame({"lap": [3, 1], "speed_kph": [180.0, 200.0]}),
        lap_trace([1, 3], [200.0, 180.0]),
    ],
)
def test_every_shape_gives_the_same_sorted_laps(lap_data: object) -> None:
    trace = parse_lap_data(lap_data)
    assert trace.lap_numbers.tolist() == [1, 3]
    assert trace.speeds_kph.tolist() == [200.0, 180.0]
    assert trace.mean_kph == 190.0


@pytest.mark.parametrize("speeds", [[200.0, 0.0, 180], np.array([200.0, 0.0, 180.0], dtype=np.float32), pd.Series([200, 0, 180])])
def test_a_sequence_is_laps_from_one(speeds: object) -> None:
    trace = parse_lap_data(speeds)
    assert trace.lap_numbers.tolist() == [1, 2, 3]
    assert trace.speeds_kph.tolist() == [200.0, 0.0, 180.0]


@pytest.mark.parametrize("count", [1, 100])
def test_one_lap_and_a_hundred(count: int) -> None:
    assert len(parse_lap_data([200.0] * count).lap_numbers) == count


@pytest.mark.parametrize(
    ("lap_data", "message"),
    [
        ([], "no laps"),
        ({}, "no laps"),
        (pd.DataFrame({"lap": [], "speed_kph": []}), "no laps"),
        (None, "NoneType"),
        (200.0, "float"),
        ("200", "str"),
        ([200.0, None], "None"),
        ([200.0, "fast"], "'fast'"),
        ([200.0, True], "True"),
        ([200.0, float("nan")], "nan"),
        (np.array([200.0, np.inf]), "inf"),
        ([200.0, -1.0], "-1 km/h"),
        ({0: 200.0}, "lap number 0"),
        ({1.5: 200.0}, "lap number 1.5"),
        ({1000: 200.0}, "lap number 1000"),
        (np.ones((2, 2)), "shape"),
        (pd.DataFrame({"lap": [1, 1], "speed_kph": [1.0, 2.0]}), "lap 1 twice"),
        (pd.DataFrame({"lap": [1], "speed": [1.0]}), "speed_kph"),
        (pd.DataFrame({"lap": [1], "speed_kph": ["x"]}), "'x'"),
    ],
)
def test_refusals_name_where_and_what(lap_data: object, message: str) -> None:
    with pytest.raises(InvalidLapDataError, match="2024_08 norris") as caught:
        parse_lap_data(lap_data, where="2024_08 norris")
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_lengths_must_agree() -> None:
    with pytest.raises(InvalidLapDataError, match="2 lap numbers and 1 speeds"):
        lap_trace([1, 2], [200.0])
