"""What the gate decides on: frozen records of what models did, that go to JSON and come back equal."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from feature_repo.files import sha256_json
from feature_repo.ids import split_race_id
from ml.errors import EvidenceError
from ml.statistics import N_RESAMPLES, SEED

_CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


@dataclass(frozen=True)
class RaceEvidence:
    """What one model did on one race.

    Attributes:
        race_id: the race.
        n_rows: cars scored.
        hits: cars whose assigned position was their finishing position.
        absolute_error: sum over the cars of |assigned - finishing| position, places.
        rows_sha256: hash of the rows scored: drivers, moment asked about and finishing positions.
    """

    __pydantic_config__ = _CONFIG

    race_id: str
    n_rows: int
    hits: int
    absolute_error: int
    rows_sha256: str

    def __post_init__(self) -> None:
        split_race_id(self.race_id)
        for name in ("n_rows", "hits", "absolute_error"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise EvidenceError(f"{self.race_id}: {name}: got {value!r}, expected a count")
        if self.n_rows == 0 or self.hits > self.n_rows:
            raise EvidenceError(
                f"{self.race_id}: got {self.hits} hits on {self.n_rows} rows, expected at least one row and no more hits"
            )


@dataclass(frozen=True)
class FoldEvidence:
    """What a model had seen when it was scored on a season.

    Attributes:
        test_season: the season scored.
        last_race_seen: newest race of the training and validation rows.
        n_train: rows fitted on.
        n_validation: rows used to stop early or to weight members.
    """

    __pydantic_config__ = _CONFIG

    test_season: int
    last_race_seen: str
    n_train: int
    n_validation: int


@dataclass(frozen=True)
class Evidence:
    """How one model did in the rolling-origin evaluation.

    Attributes:
        name: the model (`fusion_best`, `ensemble`, `grid_order`).
        races: per race, sorted by race id, each race once.
        folds: one per test season.
        metrics: `accuracy, top3, mae, rps, log_loss`; NaN or infinite if the model broke.
        services: feature services the model reads.
        version: its version in the model registry, "" if it has none yet.
    """

    __pydantic_config__ = _CONFIG

    name: str
    races: tuple[RaceEvidence, ...]
    folds: tuple[FoldEvidence, ...]
    metrics: dict[str, float]
    services: tuple[str, ...] = ()
    version: str = ""

    def __post_init__(self) -> None:
        ids = [race.race_id for race in self.races]
        if ids != sorted(set(ids)):
            raise EvidenceError(f"{self.name}: races must be sorted by race id and appear once each")

    @property
    def hits(self) -> int:
        """Exact hits over all races."""
        return sum(race.hits for race in self.races)

    @property
    def n_rows(self) -> int:
        """Rows over all races."""
        return sum(race.n_rows for race in self.races)

    @property
    def test_seasons(self) -> frozenset[int]:
        """Seasons scored."""
        return frozenset(split_race_id(race.race_id)[0] for race in self.races)

    @property
    def fingerprint(self) -> str:
        """Hash of what the model did on each race: a candidate that does the same again is not a new try."""
        return sha256_json([asdict(race) for race in self.races])


@dataclass(frozen=True)
class EarlierTry:
    """A decision that was already taken, whatever its verdict.

    Attributes:
        fingerprint: `Evidence.fingerprint` of its candidate.
        test_seasons: seasons it was scored on.
    """

    __pydantic_config__ = _CONFIG

    fingerprint: str
    test_seasons: tuple[int, ...]


@dataclass(frozen=True)
class KnownAnswer:
    """What happened when the logged model was loaded in a fresh process and asked a question with a known answer.

    Attributes:
        loaded: it loaded.
        answered: it returned an answer of the right shape.
        largest_difference: largest |answer - known answer| over the probabilities; NaN if it did not answer.
        detail: the error, if any.
    """

    __pydantic_config__ = _CONFIG

    loaded: bool
    answered: bool
    largest_difference: float
    detail: str = ""


@dataclass(frozen=True)
class SkewEvidence:
    """What the newest skew report says about one feature service: how far what was served was from what training would have seen.

    Attributes:
        service: the feature service.
        vectors: served vectors compared; 0 = there is no report, which refuses nothing.
        cells: values compared.
        mismatches: of these, values that differ.
        wrong_keys: vectors that were looked up with another car's keys, or carry another car's values.
        future_rows: vectors with a row from after their moment.
        limit: largest share of mismatches.
        features: those that differ most, the worst first.
        report_sha256: hash of the report; "" without one.
    """

    __pydantic_config__ = _CONFIG

    service: str
    vectors: int
    cells: int
    mismatches: int
    wrong_keys: int
    future_rows: int
    limit: float
    features: tuple[str, ...]
    report_sha256: str

    @property
    def share(self) -> float:
        """Mismatches over cells."""
        return self.mismatches / self.cells if self.cells else 0.0

    @property
    def within_limit(self) -> bool:
        """Nothing speaks against serving a model from this service."""
        return self.share <= self.limit and not self.wrong_keys and not self.future_rows


@dataclass(frozen=True)
class Limits:
    """The numbers the conditions compare with; stored with every decision.

    Attributes:
        min_gain: relative gain in exact hits over the baseline that must be exceeded, as numerator and denominator.
        alpha: chance, over any number of tries, that a candidate no better than the baseline passes the bound.
        first_try_share: part of `alpha` spent on the first try (see `level_of_try`).
        min_races: races below which no bound is trusted.
        max_answer_difference: largest |answer - known answer|.
        n_resamples: bootstrap draws.
        seed: of the draws.
    """

    __pydantic_config__ = _CONFIG

    min_gain: tuple[int, int] = (1, 20)
    alpha: float = 0.05
    first_try_share: float = 0.8
    min_races: int = 12
    max_answer_difference: float = 1e-4
    n_resamples: int = N_RESAMPLES
    seed: int = SEED


@dataclass(frozen=True)
class GateInputs:
    """Everything a decision is made from.

    Attributes:
        candidate: the model that wants to be champion.
        baseline: the tabular baseline on the same rows.
        champion: the present champion's evidence; None when nothing is promoted yet.
        current_champion: registry version that is champion at the instant of the decision; "" when none is.
        history: earlier decisions.
        trivial: trivial predictors on the same rows (`grid_order`, `order_at_moment`).
        known_answer: the load test of the candidate.
        limits: what to compare with.
        skew: per feature service of the candidate, what the newest skew report says; None in decisions from before it was asked.
    """

    __pydantic_config__ = _CONFIG

    candidate: Evidence
    baseline: Evidence
    champion: Evidence | None
    current_champion: str
    history: tuple[EarlierTry, ...]
    trivial: tuple[Evidence, ...]
    known_answer: KnownAnswer
    limits: Limits = field(default_factory=Limits)
    skew: tuple[SkewEvidence, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form; NaN and infinity become the strings "NaN" and "Infinity", so that they survive."""
        stored = json.loads(_INPUTS.dump_json(self))
        if self.skew is None:  # so that the hash of an older decision stays what it was
            del stored["skew"]
        return stored

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "GateInputs":
        """The inputs `to_dict` wrote.

        Raises:
            EvidenceError: a field is missing, unknown, or of the wrong type; the message names the first.
        """
        try:
            return _INPUTS.validate_json(json.dumps(stored))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise EvidenceError(f"gate inputs: {where}: {first['msg']} ({error.error_count()} problems in all)") from error

    @property
    def sha256(self) -> str:
        """Hash of the JSON form."""
        return sha256_json(self.to_dict())


_INPUTS = TypeAdapter(GateInputs)
