"""The tabular baseline: boosted trees, a forest, a logistic regression and a listwise net, weighted on validation races.

It reads the tabular features only, never the picture. Its members get what the candidate gets: values and values relative to
the race, medians and categories of the training part only, early stopping on the validation races, several seeds. The weights
are those of the mixture that scores best on the validation races, drawn a little towards equal shares because they are few.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from feature_repo.errors import DamagedFileError
from feature_repo.files import read_json, sha256_file, write_json
from ml.config import FusionConfig, load_config, parse_config
from ml.ensemble_members import BoostedTrees, Labelled, Logistic, Member, Prepared, RandomForest
from ml.errors import NotFittedError
from ml.fusion_model import FusionPredictor
from ml.metrics import log_loss, ranked_probability_score
from ml.placing import sharpen
from ml.preprocessing import TabularPreprocessor
from ml.rows import N_POSITIONS, OneRace, Rows

logger = logging.getLogger(__name__)

FORMAT = 1
MODEL_JSON = "model.json"
NET = "net"
_PULL = 0.05  # validation races are few: shares of 0 and 1 need more than noise behind them
NET_CONFIG = "listwise_net"
# A weighted mean of distributions is less sure than its members deserve (Ranjan and Gneiting, 2010). One fixed power, chosen on
# folds inside 2018-2020: fitted per fold on the few validation races it varied from 0.95 to 1.6 and did worse.
_SHARPNESS = 1.15
_INPUTS = {"name": "ensemble_inputs", "use_pictures": False, "race_relative_tabular": True}


def mixture_weights(
    probabilities: Sequence[NDArray[np.float64]], position: NDArray[np.int64], *, pull: float = _PULL
) -> NDArray[np.float64]:
    """Shares (>= 0, summing to 1) of the mixture with the least log loss + 20 x ranked probability score.

    Both scores count about equally in size: the first rewards the exact place, the second nearness. The sum is convex in the
    shares, so the start does not matter.

    Args:
        probabilities: per member (N, 20).
        position: (N,) finishing positions of validation rows.
        pull: towards equal shares, times the squared distance from them.
    """
    members = np.stack(probabilities)
    n_members = len(members)
    equal = np.full(n_members, 1.0 / n_members)

    def loss(shares: NDArray[np.float64]) -> float:
        mixed = np.tensordot(shares, members, axes=1)
        scores = log_loss(mixed, position) + N_POSITIONS * ranked_probability_score(mixed, position)
        return scores + pull * float(np.sum((shares - equal) ** 2))

    found = minimize(
        loss,
        equal,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * n_members,
        constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1.0},
        options={"ftol": 1e-8, "maxiter": 200},
    )
    shares = np.clip(found.x, 0.0, None)
    return np.asarray(shares / shares.sum(), dtype=np.float64)


class EnsemblePredictor:
    """Weighted tabular members; a `PositionModel`.

    Args:
        net: configuration of the listwise net, or its name; None leaves it out.
        seed: of the trees and the net; each uses several from here on.
        threads: CPU threads of the trees.
        name: in reports.

    Attributes:
        weights: share of each member, by name; empty before `fit`.
    """

    def __init__(
        self, *, net: FusionConfig | str | None = NET_CONFIG, seed: int = 0, threads: int = 2, name: str = "ensemble"
    ) -> None:
        self.name = name
        self.weights: dict[str, float] = {}
        self._members: tuple[Member, ...] = (
            BoostedTrees(seed=seed, threads=threads),
            RandomForest(seed=seed, threads=threads),
            Logistic(),
        )
        config = load_config(net) if isinstance(net, str) else net
        self._net = (
            FusionPredictor(config.model_copy(update={"seed": config.seed + seed}), name=NET) if config is not None else None
        )
        self._preprocessor: TabularPreprocessor | None = None

    def fit(self, train: Rows, validation: Rows) -> None:
        """Fit every member on `train`, then their weights on `validation`."""
        self._preprocessor = TabularPreprocessor.fit(train.features, train.race_code, parse_config(_INPUTS, origin=self.name))
        prepared, held_out = (
            Labelled(self._matrix(rows, rows.race_code), rows.race_code, rows.position, rows.finished)
            for rows in (train, validation)
        )
        for member in self._members:
            member.fit(prepared, held_out)
        if self._net is not None:
            self._net.fit(train, validation)
        said = self.member_probabilities(validation)
        shares = mixture_weights(list(said.values()), validation.position)
        self.weights = {name: float(share) for name, share in zip(said, shares, strict=True)}
        logger.info("ensemble_fitted rows=%d validation=%d weights=%s", len(train), len(validation), self.weights)

    def predict_proba(self, rows: Rows | OneRace) -> NDArray[np.float64]:
        """(N, 20) sharpened weighted mean of the members. A race's rows must be given together; labels are not read.

        Raises:
            NotFittedError: before `fit` or `load`.
        """
        mean = np.sum([self.weights[name] * said for name, said in self.member_probabilities(rows).items()], axis=0)
        return sharpen(mean, rows.race_code, _SHARPNESS)

    def member_probabilities(self, rows: Rows | OneRace) -> dict[str, NDArray[np.float64]]:
        """Per member (N, 20), before weighting.

        Raises:
            NotFittedError: before `fit` or `load`.
        """
        race = rows.race_code
        prepared = Prepared(self._matrix(rows, race), race)
        said = {member.name: member.predict_proba(prepared) for member in self._members}
        if self._net is not None:
            said[NET] = self._net.predict_proba(rows)
        return said

    def _matrix(self, rows: Rows | OneRace, race: NDArray[np.int64]) -> NDArray[np.float32]:
        if self._preprocessor is None:
            raise NotFittedError(f"{self.name}: not fitted; call fit or load first")
        return self._preprocessor.transform(rows.features, race)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns a frame must have for prediction.

        Raises:
            NotFittedError: before `fit` or `load`.
        """
        if self._preprocessor is None:
            raise NotFittedError(f"{self.name}: not fitted; call fit or load first")
        return self._preprocessor.feature_names

    def save(self, folder: Path) -> None:
        """Write `model.json`, the members' text and arrays, and the net's folder; no pickle. `model.json` is written last.

        Raises:
            NotFittedError: before `fit` or `load`.
        """
        if self._preprocessor is None or not self.weights:
            raise NotFittedError(f"{self.name}: not fitted, nothing to save; call fit first")
        folder.mkdir(parents=True, exist_ok=True)
        for member in self._members:
            member.save(folder)
        if self._net is not None:
            self._net.save(folder / NET)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MODEL_JSON)
        write_json(
            folder / MODEL_JSON,
            {
                "format": FORMAT,
                "kind": "ensemble",
                "name": self.name,
                "weights": self.weights,
                "preprocessing": self._preprocessor.to_dict(),
                "files_sha256": {path.relative_to(folder).as_posix(): sha256_file(path) for path in files},
            },
        )

    @classmethod
    def load(cls, folder: Path, *, threads: int = 2) -> Self:
        """Read what `save` wrote; the loaded ensemble gives the same probabilities.

        Raises:
            MissingInputError: there is no `model.json`.
            DamagedFileError: another format, or a file that is missing or not the one that was saved.
        """
        state = read_json(folder / MODEL_JSON)
        if (state.get("format"), state.get("kind")) != (FORMAT, "ensemble"):
            raise DamagedFileError(
                f"{folder / MODEL_JSON}: got format {state.get('format')} of {state.get('kind')}, expected an ensemble"
            )
        for name, expected in state["files_sha256"].items():
            path = folder / name
            if not path.is_file() or sha256_file(path) != expected:
                raise DamagedFileError(f"{path}: missing, or not the file that was saved; fit and save the ensemble again")
        ensemble = cls(net=None, threads=threads, name=state["name"])
        ensemble._preprocessor = TabularPreprocessor.from_dict(state["preprocessing"])
        ensemble.weights = dict(state["weights"])
        for member in ensemble._members:
            member.load(folder)
        if NET in ensemble.weights:
            ensemble._net = FusionPredictor.load(folder / NET)
        return ensemble
