"""What the JSON API answers about features, predictions, races and itself: every field with its type, unit and time.

Answers are built in this form and not checked again: that took as long as the answer. Tests check real ones against it.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.schemas.values import Status

_EXAMPLES: dict[str, Any] = json.loads((Path(__file__).parent / "examples.json").read_text(encoding="utf-8"))


class Answer(BaseModel):
    """An answer or a part of one: it has the fields it declares and no others."""

    model_config = ConfigDict(extra="forbid")


def shown(name: str) -> ConfigDict:
    """Settings of a whole answer: its example, which `tests/support/api_examples.py` takes from the home of `make demo`."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLES[name]]})


class ErrorDetail(Answer):
    """What went wrong, where, and what to do next."""

    type: str
    message: str
    hint: str


class ErrorBody(Answer):
    """Every answer that is no success."""

    model_config = shown("ErrorBody")

    error: ErrorDetail


class FeatureColumn(Answer):
    """One feature of all entity rows; every list is in their order."""

    view: str
    value: list[Any]
    event_timestamp: list[datetime | None] = Field(description="When the value became true; null where no row is known.")
    age_s: list[float | None] = Field(description="Seconds from the event to `as_of`.")
    status: list[Status] = Field(
        description="MISSING: no value (null), which is also what one expired by `as_of` is, as in training. STALE: older than "
        "the view allows; without `as_of` of any age, as Feast serves it, though live predictions take an expired one as missing."
    )


class FeaturesResponse(Answer):
    """The features of a service for some entity rows."""

    model_config = shown("FeaturesResponse")

    service: str
    source: Literal["online", "offline"] = Field(description="offline: point in time, as a training row of `as_of` has it.")
    as_of: datetime = Field(description="The moment that ages are counted to.")
    entity_rows: list[dict[str, str]]
    features: dict[str, FeatureColumn]


class MomentBody(Answer):
    """The moment an answer is about."""

    asked: str = Field(description="As asked for, such as `lap:39` or `fraction:0.5`.")
    lap: int | None = Field(description="Completed by the leader; null for live answers.")
    as_of: datetime = Field(description="Nothing that became known later was read.")
    truncated: bool = Field(description="The race ended before the lap asked for.")


class EncoderBody(Answer):
    """What an embedding depends on besides the picture."""

    kind: str
    weights_sha256: str
    transform: str


class ModelBody(Answer):
    """A model as answers name it."""

    name: str
    version: str
    role: str
    feature_service: str
    encoder: EncoderBody | None = Field(description="What made the embeddings of the pictures; null for a tabular model.")
    note: str
    registered_at: datetime | None


class AnsweringModel(ModelBody):
    """The model that answered."""

    saw_this_race: Literal["no", "training", "validation"]


class MissingBody(Answer):
    """What the model had to do without."""

    features: dict[str, list[str]] = Field(description="Feature -> drivers without a value.")
    pictures: list[str] = Field(description="Drivers without a speed trace.")


class DriverBody(Answer):
    """What is said about one driver."""

    driver_id: str
    position: int = Field(description="Place assigned; each place goes to one driver.")
    expected_position: float
    p_win: float
    p_podium: float
    p_points: float
    probabilities: list[float] = Field(description="Of finishing 1st, 2nd, ... 20th; sums to 1.")


class Provenance(Answer):
    """How a prediction came about, and what a reader needs to judge it."""

    source: Literal["online", "offline"]
    model: AnsweringModel
    notes: list[str]
    missing: MissingBody
    fallbacks: list[Literal["behind_clock", "stale_values", "missing_values", "no_pictures", "champion", "baseline"]] = Field(
        description="What was done instead of what was wanted, in this order: a live race was answered about as it was minutes "
        "ago; old values were used; missing ones were filled in by the model's rule; pictures could not be made and were left "
        "out; the challenger failed and the champion was asked; a model failed or could not be loaded and the tabular baseline "
        "was asked."
    )
    stale: dict[str, list[str]] = Field(description="Feature -> drivers whose value is older than its view allows.")


class PredictionBody(Provenance):
    """A finishing order at one moment, and how it came about."""

    race_id: str
    simulated: bool
    moment: MomentBody
    drivers: list[DriverBody] = Field(description="In the order of their places.")


class PredictResponse(PredictionBody):
    """A prediction, and how long it took."""

    model_config = shown("PredictResponse")

    latency_ms: float


class Entrant(Answer):
    """A car of a race."""

    driver_id: str
    driver_name: str
    constructor_id: str
    code: str


class LapBody(Answer):
    """A lap of the leader."""

    lap: int
    as_of: datetime


class ResultRow(Answer):
    """Where a car finished."""

    driver_id: str
    position: int
    is_classified: bool
    status: str


class RaceResponse(Answer):
    """A race as it was known at an instant."""

    model_config = shown("RaceResponse")

    race_id: str
    season: int
    round: int
    name: str
    circuit_id: str
    race_start: datetime
    scheduled_laps: int
    simulated: bool
    as_of: datetime
    entrants: list[Entrant]
    laps: list[LapBody] = Field(description="Laps that the leader had completed, as was known by `as_of`; lap 0 is lights out.")
    result: list[ResultRow] | None = Field(description="null while no result was known.")


class Winner(Answer):
    """Who won a race."""

    driver_id: str
    name: str
    code: str


class RaceSummary(Answer):
    """A race in the list."""

    season: int
    round: int
    race_id: str
    name: str
    circuit_id: str
    race_start: datetime
    scheduled_laps: int
    laps: int = Field(description="Completed by the leader so far.")
    is_simulated: bool
    winner: Winner | None = Field(description="null while no result is known.")


class RacesResponse(Answer):
    """The races of a home, newest season first."""

    model_config = shown("RacesResponse")

    races: list[RaceSummary]


class HealthResponse(Answer):
    """The process answers."""

    model_config = shown("HealthResponse")

    status: Literal["ok"]


class PartBody(Answer):
    """One part that answers need."""

    ok: bool
    detail: str


class ReadyResponse(Answer):
    """Whether every part that answers need is there."""

    model_config = shown("ReadyResponse")

    status: Literal["ready", "not ready"]
    parts: dict[str, PartBody]
