"""Teaching: repeatable, from simulated races only, with targets that are what the pictures show."""

import builtins
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml.encoders import pretrain, transforms
from ml.traces.axes import RaceAxes
from ml.traces.laps import lap_trace

TINY = pretrain.Recipe(
    races=2,
    cars=4,
    coarse_steps=2,
    fine_steps=1,
    settled_steps=1,
    races_a_step=2,
    cars_a_step=3,
    held_out_races=1,
    coarse_lr=1e-3,
)


@pytest.fixture(scope="module")
def taught():
    return pretrain.teach(seed=3, recipe=TINY)


def test_same_seed_same_weights_whatever_else_the_process_does(taught):
    torch.manual_seed(999)
    state = torch.get_rng_state()
    again = pretrain.teach(seed=3, recipe=TINY)
    assert all(torch.equal(taught.state_dict[name], again.state_dict[name]) for name in taught.state_dict)
    assert again.metrics == taught.metrics
    assert taught.drawings == 8
    assert torch.equal(torch.get_rng_state(), state), "teaching must not touch the process's random state"


def test_another_seed_gives_other_weights_and_another_recipe_hash(taught):
    other = pretrain.teach(seed=4, recipe=TINY)
    assert not torch.equal(taught.state_dict["conv1.weight"], other.state_dict["conv1.weight"])
    hashes = {pretrain.recipe_sha256(3, TINY), pretrain.recipe_sha256(4, TINY), pretrain.recipe_sha256(3, replace(TINY, races=3))}
    assert len(hashes) == 3
    assert pretrain.recipe_sha256(3, TINY) in hashes


def test_teaching_opens_no_data_file(monkeypatch):
    """No real race can be seen, because nothing but code and fonts is read."""
    opened: list[str] = []
    real_open = builtins.open

    def spy(file, *args, **kwargs):
        opened.append(os.fspath(file) if not isinstance(file, int) else "")
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", spy)
    pretrain.teach(seed=3, recipe=TINY)
    assert not [name for name in opened if Path(name).suffix in {".parquet", ".csv", ".json", ".db", ".png"}]


def test_the_loss_falls():
    recipe = replace(TINY, coarse_steps=16, fine_steps=0, settled_steps=0, coarse_lr=2e-3)
    races = [pretrain.draw_race(np.random.default_rng([1, number]), cars=4) for number in range(2)]
    torch.manual_seed(0)
    network, head = pretrain._fresh()
    costs = []

    def remember(_name, done, _total):
        if 1 < done < 14:
            return
        with torch.no_grad():
            read = head(pretrain._features(network, races[0].pictures))
            costs.append(float((read - races[0].targets).mul(races[0].mask).abs().mean()))

    pretrain._fit(network, head, races, recipe=recipe, rng=np.random.default_rng(0), progress=remember)
    assert min(costs[1:]) < 0.7 * costs[0]


def test_targets_are_pixels_of_what_is_drawn():
    axes = RaceAxes(max_lap=40, speed_low_kph=200.0, speed_high_kph=220.0)
    trace = lap_trace(np.arange(1, 11), [150.0, 210, 210, 210, 210, 215, 215, 215, 215, 215])
    values, mask = pretrain.targets(trace, axes)
    read = dict(zip(pretrain.STATISTICS, values / pretrain.AXIS_PX, strict=False))
    assert read["mean"] == pytest.approx((206.5 - 200) / 20)
    assert read["last5"] == pytest.approx(0.75)
    assert read["last"] == pytest.approx(0.75)
    assert (read["lowest"], read["highest"], read["drawn"]) == pytest.approx((0.0, 0.75, 0.25))
    assert read["clipped_share"] == pytest.approx(0.1), "one lap of ten lies below the axis"
    n = len(pretrain.STATISTICS)
    assert mask[:n].all()
    assert mask[n:].sum() == pytest.approx(0.225 * pretrain.N_HEIGHTS, abs=1)
    assert not mask[-30:].any(), "nothing is drawn there yet"
    assert np.isfinite(values).all()


def test_one_lap_has_targets_too():
    values, mask = pretrain.targets(lap_trace([1], [190.0]), RaceAxes(50, 200.0, 220.0))
    assert np.isfinite(values).all()
    assert mask[: len(pretrain.STATISTICS)].all()


def test_drawn_races_differ_within_and_between():
    race = pretrain.draw_race(np.random.default_rng(8), cars=4)
    again = pretrain.draw_race(np.random.default_rng(8), cars=4)
    assert race.pictures.shape == (4, 3, 224, 224)
    assert race.pictures.dtype == torch.uint8
    assert torch.equal(race.pictures, again.pictures)
    assert torch.equal(race.targets, again.targets)
    assert len({picture.numpy().tobytes() for picture in race.pictures}) == 4


def test_random_weights_are_calibrated_on_the_pictures_given():
    images = pretrain.draw_race(np.random.default_rng(8), cars=4).pictures
    state = pretrain.random_state(7, images, transform=transforms.IMAGENET)
    again = pretrain.random_state(7, images, transform=transforms.IMAGENET)
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not torch.equal(state["bn1.running_var"], torch.ones(64)), "the statistics of a fresh network"
    other = pretrain.random_state(7, 255 - images, transform=transforms.IMAGENET)
    assert not torch.equal(state["bn1.running_mean"], other["bn1.running_mean"])
    assert torch.equal(state["conv1.weight"], other["conv1.weight"])
