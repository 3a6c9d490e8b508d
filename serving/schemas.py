"""What requests and answers of the JSON API look like; examples are shown by the OpenAPI page.

Requests are checked against these. Answers are built in this form and not checked again: that took as long as the answer.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from feature_repo.spine import Moment
from feature_repo.visibility import parse_instant
from serving.online_lookup import MAX_ROWS

RaceId = Annotated[
    str,
    Field(pattern=r"^(19[5-9][0-9]|20[0-9][0-9])_(0[1-9]|[1-9][0-9])$", description="Season and round.", examples=["2024_08"]),
]
DriverId = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$", examples=["max_verstappen"])]
EntityId = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$", description="Value of a join key.")]
EntityKey = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$", description="Name of a join key.")]
ServiceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,100}$", examples=["finish_position_v1"])]
VersionNumber = Annotated[str, Field(pattern=r"^[0-9]{1,9}$", examples=["3"])]
Status = Literal["FRESH", "STALE", "MISSING"]


def _is_instant(text: str) -> str:
    parse_instant(text)
    return text


InstantText = Annotated[
    str,
    Field(max_length=40, description="A past instant, UTC or with an offset.", examples=["2024-05-26T14:00:00Z"]),
    AfterValidator(_is_instant),
]


def instant_of(text: str | None) -> pd.Timestamp | None:
    """An instant given as text that was checked, UTC; None for none."""
    return None if text is None else parse_instant(text)


class ErrorDetail(BaseModel):
    """What went wrong, where, and what to do next."""

    type: str = Field(examples=["UnknownEntityError"])
    message: str = Field(examples=["race_id: got '2024_99', not among the 149 known; did you mean 2024_19, 2024_09, 2024_24?"])
    hint: str = Field(default="", examples=["see /v1/races"])


class ErrorBody(BaseModel):
    """Every answer that is no success."""

    error: ErrorDetail


class FeaturesRequest(BaseModel):
    """Which features, of whom, and when."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"service": "finish_position_v1", "entity_rows": [{"race_id": "2024_08", "driver_id": "max_verstappen"}]},
                {
                    "service": "race_state_v1",
                    "entity_rows": [{"race_id": "2024_08", "driver_id": "leclerc"}],
                    "as_of": "2024-05-26T14:00:00Z",
                },
            ]
        },
    )

    service: ServiceName = "finish_position_v1"
    entity_rows: Annotated[
        list[Annotated[dict[EntityKey, EntityId], Field(min_length=1, max_length=16)]], Field(min_length=1, max_length=MAX_ROWS)
    ] = Field(
        description=f"Join keys of each row, at most {MAX_ROWS} rows. `race_id` and `driver_id` are enough: team and circuit are "
        "then those the driver entered the race with."
    )
    as_of: InstantText | None = Field(default=None, description="Leave it out for what is online now.")


class FeatureColumn(BaseModel):
    """One feature of all entity rows; every list is in their order."""

    view: str = Field(examples=["driver_form"])
    value: list[Any] = Field(examples=[[1832.4]])
    event_timestamp: list[datetime | None] = Field(description="When the value became true; null where no row is known.")
    age_s: list[float | None] = Field(description="Seconds from the event to `as_of`.")
    status: list[Status] = Field(
        description="STALE: older than the view allows. MISSING: no row, or no value in it.", examples=[["FRESH"]]
    )


class FeaturesResponse(BaseModel):
    """The features of a service for some entity rows."""

    service: str
    source: Literal["online", "offline"] = Field(description="offline: point in time, as a training row of `as_of` has it.")
    as_of: datetime = Field(description="The moment that ages are counted to.")
    entity_rows: list[dict[str, str]]
    features: dict[str, FeatureColumn]


class PredictRequest(BaseModel):
    """Which race, at which moment; at most one of lap, fraction, pre_race, as_of and live (none: the home's default moment)."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"race_id": "2024_08", "lap": 39},
                {"race_id": "2024_08", "fraction": 0.5, "drivers": ["leclerc", "piastri"]},
                {"race_id": "2024_08", "as_of": "2024-05-26T14:00:00Z"},
            ]
        },
    )

    race_id: RaceId
    lap: Annotated[int, Field(ge=0, le=200)] | None = Field(default=None, description="When the leader completes it; 0 = start.")
    fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Share of the scheduled distance."
    )
    pre_race: bool = Field(default=False, description="At lights out.")
    as_of: InstantText | None = None
    live: bool = Field(default=False, description="From the online store's newest values.")
    drivers: Annotated[list[DriverId], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Only these; the race is predicted as a whole either way."
    )

    @model_validator(mode="after")
    def _one_moment(self) -> Self:
        given = [self.lap is not None, self.fraction is not None, self.pre_race, self.as_of is not None, self.live]
        if sum(given) > 1:
            raise ValueError("give at most one of lap, fraction, pre_race, as_of and live")
        return self

    def moment(self) -> Moment | None:
        """The moment asked about; None = the home's default moment, or now for `live`."""
        if self.lap is not None:
            return Moment("lap", lap=self.lap)
        if self.fraction is not None:
            return Moment.parse(f"fraction:{self.fraction!r}")
        instant = instant_of(self.as_of)
        if instant is not None:
            return Moment.at(instant)
        return Moment("pre_race") if self.pre_race else None


class MomentBody(BaseModel):
    """The moment an answer is about."""

    asked: str = Field(examples=["lap:39"])
    lap: int | None = Field(description="Completed by the leader; null for live answers.")
    as_of: datetime = Field(description="Nothing that became known later was read.")
    truncated: bool = Field(description="The race ended before the lap asked for.")


class ModelBody(BaseModel):
    """The model that answered."""

    name: str = Field(examples=["fusion_best"])
    version: str = Field(examples=["2"])
    role: str = Field(examples=["champion"])
    feature_service: str = Field(examples=["finish_position_v1"])
    encoder: dict[str, Any] | None
    note: str
    registered_at: datetime | None
    saw_this_race: Literal["no", "training", "validation"]


class MissingBody(BaseModel):
    """What the model had to do without."""

    features: dict[str, list[str]] = Field(description="Feature -> drivers without a value.")
    pictures: list[str] = Field(description="Drivers without a speed trace.")


class DriverBody(BaseModel):
    """What is said about one driver."""

    driver_id: str
    position: int = Field(description="Place assigned; each place goes to one driver.")
    expected_position: float
    p_win: float
    p_podium: float
    p_points: float
    probabilities: list[float] = Field(description="Of finishing 1st, 2nd, ... 20th; sums to 1.")


class PredictResponse(BaseModel):
    """A finishing order at one moment, and how it came about."""

    race_id: str
    simulated: bool
    moment: MomentBody
    source: Literal["online", "offline"]
    model: ModelBody
    notes: list[str]
    missing: MissingBody
    drivers: list[DriverBody] = Field(description="In the order of their places.")
    fallbacks: list[Literal["stale_values", "missing_values", "no_pictures", "baseline"]] = Field(
        description="What was done instead of what was wanted, in this order: old values were used; missing ones were filled in "
        "by the model's rule; pictures could not be made and were left out; the model failed and the tabular baseline answered."
    )
    stale: dict[str, list[str]] = Field(description="Feature -> drivers whose value is older than its view allows.")
    latency_ms: float


class Entrant(BaseModel):
    """A car of a race."""

    driver_id: str
    driver_name: str
    constructor_id: str
    code: str


class LapBody(BaseModel):
    """A lap of the leader."""

    lap: int
    as_of: datetime


class ResultRow(BaseModel):
    """Where a car finished."""

    driver_id: str
    position: int
    is_classified: bool
    status: str


class RaceResponse(BaseModel):
    """A race as it was known at an instant."""

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


class RaceSummary(BaseModel):
    """A race in the list."""

    model_config = ConfigDict(extra="allow")

    season: int
    round: int
    race_id: str
    name: str
    circuit_id: str
    race_start: datetime
    scheduled_laps: int
    laps: int
    is_simulated: bool
    winner: dict[str, Any] | None


class RacesResponse(BaseModel):
    """The races of a home, newest season first."""

    races: list[RaceSummary]


class ModelsResponse(BaseModel):
    """Versions, which of them answer, and what is wrong with those that should and do not."""

    model_config = ConfigDict(extra="allow")

    name: str
    serving: dict[str, Any]
    loaded: dict[str, dict[str, Any]] = Field(description="Role -> version and when it was loaded.")
    problems: dict[str, str] = Field(description="Role -> why its version is not loaded.")
    challenger_share: float
    challenger_shadow: bool
    aliases: dict[str, str]
    versions: list[dict[str, Any]]
    history: list[dict[str, Any]]


class DecisionBody(BaseModel):
    """A gate record: what was decided on, and the verdict."""

    version: str
    verdict: str
    inputs_sha256: str | None
    decision: dict[str, Any]
    inputs: dict[str, Any] | None = Field(description="The evidence; only with `inputs=true`.")


class DecisionsResponse(BaseModel):
    """The gate records of a model, newest version first."""

    name: str
    decisions: list[DecisionBody]


class PromoteRequest(BaseModel):
    """Which version becomes champion."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"version": "3"}]})

    version: VersionNumber


class MoveResponse(BaseModel):
    """A move of the champion, carried out; the service answers with the new one within seconds, or says why not."""

    version: str | None
    previous: str | None
    reason: str
    at: datetime
    serving: dict[str, Any]


class CatalogueResponse(BaseModel):
    """Entities, views, features and services, with freshness."""

    model_config = ConfigDict(extra="allow")

    as_of: datetime
    entities: list[dict[str, Any]]
    services: list[dict[str, Any]]
    views: list[dict[str, Any]]


class PartBody(BaseModel):
    """One part that answers need."""

    ok: bool
    detail: str


class ReadyResponse(BaseModel):
    """Whether every part that answers need is there."""

    status: Literal["ready", "not ready"]
    parts: dict[str, PartBody]
