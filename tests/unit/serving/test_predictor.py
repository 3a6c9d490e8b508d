"""What is said about one driver follows from its distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.prediction import ModelInUse, Prediction, said_about


@given(hnp.arrays(np.float64, 20, elements=st.floats(0.001, 1)))
def test_chances_are_sums_of_the_distribution(weights: np.ndarray) -> None:
    chances = weights / weights.sum()
    said = said_about("norris", 3, chances)
    assert (said.driver_id, said.position) == ("norris", 3)
    assert said.p_win == chances[0]
    assert said.p_win <= said.p_podium <= said.p_points <= 1 + 1e-9
    assert said.p_points == pytest.approx(1 - chances[10:].sum())
    assert 1 <= said.expected_position <= 20
    assert len(said.probabilities) == 20


def test_a_sure_winner() -> None:
    said = said_about("norris", 1, np.eye(20)[0])
    assert (said.expected_position, said.p_win, said.p_podium, said.p_points) == (1, 1, 1, 1)


def test_a_prediction_is_json_with_its_model() -> None:
    model = ModelInUse("ensemble", "1", "baseline", "finish_position_v1", None, "a note")
    said = Prediction(
        race_id="2024_08",
        simulated=False,
        moment={"lap": 39},
        source="offline",
        model=model,
        saw_this_race="training",
        notes=["a note"],
        missing={"features": {}, "pictures": []},
        drivers=[said_about("x", 1, np.eye(20)[0])],
    )
    found = said.to_json()
    assert (found["model"]["note"], found["notes"], found["model"]["saw_this_race"]) == ("a note", ["a note"], "training")
    assert found["drivers"][0]["p_win"] == 1
