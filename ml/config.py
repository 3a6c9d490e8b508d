"""One experiment's configuration: everything that makes one fusion model differ from another, and nothing about where it runs.

The YAML files of `ml/configs` are read into `FusionConfig`; an unknown key is an error, defaults live here and nowhere else. The
configuration travels inside every checkpoint and saved model.
"""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from feature_repo.files import sha256_json
from ml.errors import ModelConfigError
from ml.rows import EMBEDDING_DIM

CONFIG_DIR = Path(__file__).parent / "configs"

Loss = Literal["cross_entropy", "mse", "listwise"]


class FusionConfig(BaseModel):
    """Inputs, net, loss and optimiser of one fusion model (or, with `use_pictures` false, of its tabular twin).

    The defaults are the reference design: values as they are, 512 + 128 -> 256 -> 128 -> 20, cross-entropy, Adam 1e-3.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_]{1,64}$", description="Names the model in reports and its checkpoint folder.")
    feature_service: str = Field(
        default="finish_position_v1", description="The Feast service whose columns are the tabular inputs."
    )

    # inputs
    use_pictures: bool = Field(default=True, description="False: the same net without its picture branch (the tabular twin).")
    keep_absolute_tabular: bool = Field(default=True, description="Numeric features as they are.")
    race_relative_tabular: bool = Field(default=False, description="Numeric features minus their mean over the race's cars.")
    keep_absolute_embedding: bool = Field(default=True, description="The picture embedding as it is.")
    race_relative_embedding: bool = Field(default=False, description="The embedding minus its mean over the race's pictures.")
    embedding_pca: int | None = Field(
        default=None,
        ge=1,
        le=EMBEDDING_DIM,
        description="Principal components kept of each embedding block, fitted on the training part.",
    )
    embedding_scaling: Literal["none", "feature", "common"] = Field(
        default="none",
        description="Divide an embedding block by nothing, by each column's spread, or by one spread common to the block.",
    )
    exclude_features: tuple[str, ...] = Field(default=(), description="Shell patterns of feature names that are not inputs.")
    clip_sd: float = Field(default=5.0, gt=0, description="Standardised numeric inputs are clipped here, in standard deviations.")

    # net
    tabular_hidden: tuple[int, ...] = Field(default=(128,), description="Widths inside the tabular encoder.")
    tabular_dim: int = Field(default=128, ge=1, description="Width of the tabular encoder's output.")
    fusion_hidden: tuple[int, ...] = Field(default=(256, 128), description="Widths after the two encoders are put side by side.")
    dropout: float = Field(default=0.3, ge=0, lt=1)
    picture_dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of pictures hidden at random while training.")

    # labels and loss
    loss: Loss = "cross_entropy"
    label_smoothing_places: float = Field(
        default=0.0,
        ge=0,
        description="cross_entropy: spread of the target over neighbouring places (Gaussian, in places; 0 = none).",
    )
    rank_retired: bool = Field(
        default=True,
        description="listwise: the official order among cars that were not classified counts; False: only that they are last.",
    )
    model_retirements: bool = Field(
        default=False,
        description="listwise: mix the order with where retired cars end up; share and scale fitted on the validation races.",
    )

    # optimiser
    learning_rate: float = Field(default=1e-3, gt=0)
    retry_learning_rate: float = Field(default=5e-4, gt=0, description="Used once, from the start, when the loss did not fall.")
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled (AdamW); 0 is plain Adam.")
    gradient_clip: float | None = Field(default=None, gt=0, description="Largest norm of the whole gradient.")
    batch_size: int = Field(default=32, ge=1, description="Rows a step (cross_entropy, mse).")
    races_per_batch: int = Field(default=8, ge=1, description="Whole races a step (listwise).")
    epochs: int = Field(default=20, ge=1)
    patience: int = Field(default=5, ge=1, description="Epochs without a better validation loss before stopping.")
    checkpoint_every: int = Field(default=10, ge=1, description="Epochs between epoch_NNN.pt checkpoints.")

    # randomness
    seed: int = Field(default=0, ge=0)
    n_seeds: int = Field(default=1, ge=1, description="Nets trained with seeds seed, seed+1, ...; their outputs are averaged.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.keep_absolute_tabular or self.race_relative_tabular):
            raise ValueError("keep_absolute_tabular and race_relative_tabular are both false: there would be no tabular input")
        if self.use_pictures and not (self.keep_absolute_embedding or self.race_relative_embedding):
            raise ValueError("use_pictures is true, but keep_absolute_embedding and race_relative_embedding are both false")
        if self.label_smoothing_places > 0 and self.loss != "cross_entropy":
            raise ValueError(f"label_smoothing_places is for loss cross_entropy, got loss {self.loss}")
        if not self.rank_retired and self.loss != "listwise":
            raise ValueError(f"rank_retired: false is for loss listwise, got loss {self.loss}")
        if self.model_retirements and self.loss != "listwise":
            raise ValueError(f"model_retirements is for loss listwise, got loss {self.loss}")
        if any(width < 1 for width in (*self.tabular_hidden, *self.fusion_hidden)):
            raise ValueError(
                f"tabular_hidden, fusion_hidden: got {self.tabular_hidden}, {self.fusion_hidden}, expected widths >= 1"
            )
        return self

    @property
    def whole_races(self) -> bool:
        """Training steps take whole races (the listwise loss compares cars of a race)."""
        return self.loss == "listwise"

    def twin(self, name: str = "tabular_twin") -> "FusionConfig":
        """The same net without pictures: what the pictures add is the difference to this."""
        return self.model_copy(update={"name": name, "use_pictures": False})

    def hash(self) -> str:
        """SHA-256 of the configuration, hexadecimal."""
        return sha256_json(self.model_dump(mode="json"))


def config_names() -> list[str]:
    """The configurations that come with Pitwall."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def load_config(source: str | Path) -> FusionConfig:
    """Read a configuration by name (`fusion_best`) or from a YAML file.

    Raises:
        ModelConfigError: no such configuration, not a YAML mapping, an unknown key or a value out of range.
    """
    path = CONFIG_DIR / f"{source}.yaml" if isinstance(source, str) and not source.endswith((".yaml", ".yml")) else Path(source)
    if not path.is_file():
        raise ModelConfigError(
            f"{source}: no such configuration; known: {', '.join(config_names())}, or give the path of a YAML file"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ModelConfigError(f"{path.name}: not YAML: {error}") from error
    return parse_config(content, origin=path.name)


def parse_config(content: Any, *, origin: str) -> FusionConfig:
    """Check a mapping read from YAML or JSON.

    Args:
        content: the mapping.
        origin: where it came from, named in the error.
    Raises:
        ModelConfigError: as in `load_config`.
    """
    if not isinstance(content, dict):
        raise ModelConfigError(f"{origin}: got {type(content).__name__}, expected a mapping of option to value")
    try:
        return FusionConfig.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']} (got {e['input']!r})"[:300] for e in error.errors()
        )
        raise ModelConfigError(f"{origin}: {problems}") from error
