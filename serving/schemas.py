"""What requests and answers of the JSON API look like; examples are shown by the OpenAPI page."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_repo.spine import Moment
from feature_repo.visibility import parse_instant

RaceId = Annotated[
    str,
    Field(pattern=r"^(19[5-9][0-9]|20[0-9][0-9])_(0[1-9]|[1-9][0-9])$", description="Season and round.", examples=["2024_08"]),
]
DriverId = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$", examples=["max_verstappen"])]


class ErrorDetail(BaseModel):
    """What went wrong, where, and what to do next."""

    type: str = Field(examples=["UnknownEntityError"])
    message: str = Field(examples=["race_id: got '2024_99', not among the 149 known; known are 2018_01 ... 2024_24"])
    hint: str = Field(default="", examples=["see /v1/races"])


class ErrorBody(BaseModel):
    """Every answer that is no success."""

    error: ErrorDetail


class PredictRequest(BaseModel):
    """Which race, at which moment; at most one of lap, fraction, pre_race, as_of and live (none: the home's default moment)."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"race_id": "2024_08", "lap": 39}, {"race_id": "2024_08", "fraction": 0.5}]},
    )

    race_id: RaceId
    lap: Annotated[int, Field(ge=0, le=200)] | None = Field(default=None, description="When the leader completes it; 0 = start.")
    fraction: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Share of the scheduled distance."
    )
    pre_race: bool = Field(default=False, description="At lights out.")
    as_of: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="A past instant, UTC or with an offset.", examples=["2024-05-26T14:00:00Z"]
    )
    live: bool = Field(default=False, description="From the online store's newest values.")
    drivers: Annotated[list[DriverId], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Only these; the race is predicted as a whole either way."
    )

    @model_validator(mode="after")
    def _one_moment(self) -> "PredictRequest":
        given = [self.lap is not None, self.fraction is not None, self.pre_race, self.as_of is not None, self.live]
        if sum(given) > 1:
            raise ValueError("give at most one of lap, fraction, pre_race, as_of and live")
        return self

    def moment(self) -> Moment | None:
        """The moment asked about; None = the home's default moment, or now for `live`.

        Raises:
            InvalidMomentError: `as_of` is no instant.
        """
        if self.lap is not None:
            return Moment.parse(f"lap:{self.lap}")
        if self.fraction is not None:
            return Moment.parse(f"fraction:{self.fraction}")
        if self.as_of is not None:
            return Moment.at(parse_instant(self.as_of))
        return Moment("pre_race") if self.pre_race else None


class PredictResponse(BaseModel):
    """A finishing order at one moment, and how it came about."""

    race_id: str
    simulated: bool
    moment: dict[str, Any]
    source: str
    model: dict[str, Any]
    notes: list[str]
    missing: dict[str, Any]
    drivers: list[dict[str, Any]]
    fallbacks: list[str]
    stale: dict[str, list[str]]
    latency_ms: float
