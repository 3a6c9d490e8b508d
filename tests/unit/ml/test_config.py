"""A configuration is typed, complete and says what is wrong with it."""

from pathlib import Path

import pytest

from ml.config import FusionConfig, config_names, load_config
from ml.errors import ModelConfigError


def test_every_configuration_that_comes_with_pitwall_loads_under_its_own_name() -> None:
    assert {"fusion_reference", "fusion_best", "listwise_net"} <= set(config_names())
    for name in config_names():
        assert load_config(name).name == name


def test_reference_is_the_design_as_written() -> None:
    config = load_config("fusion_reference")
    assert (config.tabular_dim, config.fusion_hidden, config.dropout) == (128, (256, 128), 0.3)
    assert (config.loss, config.learning_rate, config.batch_size, config.epochs) == ("cross_entropy", 1e-3, 32, 20)
    assert config.keep_absolute_embedding
    assert not config.race_relative_embedding
    assert config.weight_decay == 0
    assert config.embedding_pca is None


def test_tabular_twin_differs_from_the_best_only_in_its_pictures() -> None:
    best, twin = load_config("fusion_best"), load_config("fusion_best").twin()
    changed = {name for name, value in best.model_dump().items() if twin.model_dump()[name] != value}
    assert changed == {"name", "use_pictures"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nlearning_rat: 0.1\n", "learning_rat"),
        ("name: x\nloss: hinge\n", "loss"),
        ("name: x\ndropout: 1.5\n", "dropout"),
        ("name: ../x\n", "name"),
        ("- a\n- b\n", "mapping"),
        ("name: [x\n", "not YAML"),
        ("name: x\nkeep_absolute_tabular: false\n", "no tabular input"),
        ("name: x\nkeep_absolute_embedding: false\n", "use_pictures"),
        ("name: x\nloss: mse\nlabel_smoothing_places: 1.0\n", "label_smoothing_places"),
        ("name: x\nrank_retired: false\n", "rank_retired"),
        ("name: x\nfusion_hidden: [0]\n", "widths"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelConfigError, match=message) as raised:
        load_config(path)
    assert "wrong.yaml" in str(raised.value)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ModelConfigError, match="fusion_reference"):
        load_config("fusion_wrost")


def test_hash_changes_with_any_option() -> None:
    config = FusionConfig(name="x")
    assert config.hash() == FusionConfig(name="x").hash()
    assert config.hash() != config.model_copy(update={"seed": 1}).hash()
