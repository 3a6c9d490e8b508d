"""What counts as the same answer: equal bits, missing in the same places; and what is said of a difference."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tiny_home import at

from pipelines.leak.answer import Answer
from pipelines.leak.compare import Counts, compare

DRIVERS = ["alonso", "norris"]


def answer() -> Answer:
    """Two cars, one without a picture."""
    features = pd.DataFrame(
        {
            "driver_id": DRIVERS,
            "form": np.array([1.5, np.nan]),
            "compound": np.array(["SOFT", None], dtype=object),
            "lap_numbers": pd.Series([np.array([1, 2]), None], dtype=object),
        }
    )
    table = pa.table(
        {
            "race_id": ["2024_08"] * 2,
            "driver_id": DRIVERS,
            "form": pa.array([1.5, None], pa.float32()),
            "lap_speeds_kph": pa.array([[200.0, 201.0], []], pa.list_(pa.float32())),
            "event_timestamp": pa.array([at(1), at(2)], pa.timestamp("us", tz="UTC")),
            "created_timestamp": pa.array([at(1), at(2)], pa.timestamp("us", tz="UTC")),
        }
    )
    return Answer(
        tables={"form": table},
        spine=pd.DataFrame({"driver_id": DRIVERS, "constructor_id": ["aston_martin", "mclaren"]}),
        features={"finish_position_v1": features},
        pictures={"alonso": b"png"},
        embeddings={"fusion": {"alonso": np.ones(512, dtype=np.float32)}},
        probabilities={"fusion": {driver: np.full(20, 0.05) for driver in DRIVERS}},
    )


def differences(one: Answer, two: Answer) -> list[tuple[str, str, str]]:
    leaks, _ = compare(one, two, race_id="2024_08", as_of=at(0), variant="deleted")
    return [(leak.kind, leak.name, leak.driver_id) for leak in leaks]


def test_equal_answers_are_equal_and_counted() -> None:
    leaks, counts = compare(answer(), answer(), race_id="2024_08", as_of=at(0), variant="deleted")
    assert leaks == []
    assert counts == Counts(cells=4 + 12 + 8, pictures=1, embeddings=1, predictions=2)
    assert counts + counts == Counts(48, 2, 2, 4)


@pytest.mark.parametrize(
    ("column", "row", "value", "driver"),
    [("form", 0, np.nextafter(1.5, 2), "alonso"), ("form", 1, 0.0, "norris"), ("form", 0, np.nan, "alonso"),
     ("compound", 1, "HARD", "norris"), ("lap_numbers", 0, np.array([1, 3]), "alonso"),
     ("lap_numbers", 1, np.array([1]), "norris")],
)  # fmt: skip
def test_one_bit_of_one_feature_is_found_and_named(column: str, row: int, value: object, driver: str) -> None:
    changed = answer()
    cells = list(changed.features["finish_position_v1"][column])
    cells[row] = value
    changed.features["finish_position_v1"][column] = pd.Series(cells, dtype=changed.features["finish_position_v1"][column].dtype)
    assert differences(answer(), changed) == [("feature", f"finish_position_v1.{column}", driver)]


def test_minus_zero_is_another_bit() -> None:
    one, two = answer(), answer()
    one.features["finish_position_v1"]["form"] = [0.0, 1.0]
    two.features["finish_position_v1"]["form"] = [-0.0, 1.0]
    assert differences(one, two) == [("feature", "finish_position_v1.form", "alonso")]


def test_rows_of_tables_are_found_by_key_and_column() -> None:
    one = answer()
    table = one.tables["form"]
    longer = table.set_column(3, "lap_speeds_kph", pa.array([[200.0, 202.0], []], pa.list_(pa.float32())))
    assert differences(replace(one, tables={"form": longer}), one) == [("row", "form.lap_speeds_kph", "alonso")]
    assert differences(replace(one, tables={"form": table.slice(0, 1)}), one) == [("row", "form.row", "norris")]
    assert differences(one, replace(one, tables={"form": table.slice(0, 1)})) == [("row", "form.row", "norris")]
    null = table.set_column(2, "form", pa.array([1.5, 0.0], pa.float32()))
    assert differences(replace(one, tables={"form": null}), one) == [("row", "form.form", "norris")]


def test_pictures_embeddings_predictions_and_entrants_are_found() -> None:
    one = answer()
    assert differences(replace(one, pictures={"alonso": b"pnh"}), one) == [("picture", "speed trace", "alonso")]
    assert differences(replace(one, pictures={}), one) == [("picture", "speed trace", "alonso")]
    other = {"fusion": {"alonso": np.nextafter(np.ones(512, dtype=np.float32), np.float32(2))}}
    assert differences(replace(one, embeddings=other), one) == [("embedding", "fusion", "alonso")]
    chances = {"fusion": {**one.probabilities["fusion"], "norris": np.full(20, 0.050001)}}
    assert differences(replace(one, probabilities=chances), one) == [("prediction", "fusion", "norris")]
    assert ("entrant", "entrants of 2024_08", "norris") in differences(replace(one, spine=one.spine.iloc[:1]), one)


def test_a_leak_says_what_where_got_and_expected() -> None:
    one, two = answer(), answer()
    two.features["finish_position_v1"]["form"] = [2.5, np.nan]
    leaks, _ = compare(one, two, race_id="2024_08", as_of=at(0), variant="scrambled")
    assert str(leaks[0]) == (
        "feature finish_position_v1.form of alonso (2024_08 as of 2024-05-26T13:00:00+00:00, future scrambled): "
        "got 1.5, expected 2.5"
    )
    assert leaks[0].to_json()["variant"] == "scrambled"
