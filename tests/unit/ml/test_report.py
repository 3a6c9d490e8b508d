"""The report is a readable picture of whatever was evaluated, broken models included."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_gate_inputs, make_probabilities, make_rows
from PIL import Image

from ml.assignment import assign_positions
from ml.evaluation import BLANK, SHUFFLED, Predictions, control_name
from ml.evidence import FoldEvidence
from ml.gate import decide_from
from ml.report import write_report
from ml.results import evaluate


def make_result(*, broken: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    rows = make_rows(rng, 12)
    truth = np.eye(20)[rows.position - 1]
    shares = {"best": 0.5, "ensemble": 0.3, "twin": 0.35, "reference": 0.25, "grid_order": 0.1, "order_at_moment": 0.4}
    shares |= {control_name("best", SHUFFLED): 0.1, control_name("best", BLANK): 0.2}
    probabilities = {
        name: 0.1 * share * truth + (1 - 0.1 * share) * make_probabilities(rng, len(rows), 1.0) for name, share in shares.items()
    }
    assigned = {name: assign_positions(said, rows.race_code) for name, said in probabilities.items()}
    if broken:
        probabilities["best"] = np.full((len(rows), 20), np.nan)
        assigned["best"] = np.zeros(len(rows), dtype=np.int64)
    folds = tuple(FoldEvidence(season, f"{season - 1}_06", 100, 20) for season in (2018, 2019))
    predictions = Predictions(rows.keys, rows.position, probabilities, assigned, folds)
    return evaluate(predictions, candidate="best", baseline="ensemble", twin="twin", reference="reference")


@pytest.mark.parametrize("broken", [False, True])
def test_report_is_a_picture_with_ink_in_every_quarter(tmp_path: Path, broken: bool) -> None:
    losses = ((3.0, 3.1), (2.5, 2.7), (2.2, 2.6))
    curves = {
        "best": [
            {"season": season, "epoch": epoch, "train": train, "validation": validation}
            for season in (2018, 2019)
            for epoch, (train, validation) in enumerate(losses, start=1)
        ]
    }
    write_report(make_result(broken=broken), tmp_path / "report.png", curves=curves, title="Test", decision=None)
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.size == (1500, 1100)
        ink = np.asarray(picture.convert("L")) < 200
    for quarter in (ink[120:550, :750], ink[120:550, 750:], ink[550:, :750], ink[550:, 750:]):
        assert quarter.mean() > 0.005
    assert list(tmp_path.iterdir()) == [tmp_path / "report.png"]


def test_report_shows_the_verdict_and_needs_no_training(tmp_path: Path) -> None:
    refused = decide_from(make_gate_inputs(5)).to_dict()
    assert not refused["promote"]
    write_report(make_result(), tmp_path / "refused.png", decision=refused)
    promoted = decide_from(make_gate_inputs()).to_dict()
    write_report(make_result(), tmp_path / "promoted.png", decision=promoted)
    pictures = [np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("refused.png", "promoted.png")]
    assert (pictures[0][:110] != pictures[1][:110]).any()
