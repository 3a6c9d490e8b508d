"""What is sent to the JSON API. Extra fields and values of another type are refused; examples are those of `make demo`."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_repo.spine import Moment
from serving.online_lookup import MAX_ROWS
from serving.schemas.values import DriverId, EntityId, EntityKey, InstantText, RaceId, ServiceName, VersionNumber, instant_of


class FeaturesRequest(BaseModel):
    """Which features, of whom, and when."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"service": "finish_position_v1", "entity_rows": [{"race_id": "2024_16", "driver_id": "ines_dubois"}]},
                {
                    "service": "race_state_v1",
                    "entity_rows": [{"race_id": "2024_16", "driver_id": "ines_dubois"}],
                    "as_of": "2024-08-18T13:30:00Z",
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


class PredictRequest(BaseModel):
    """Which race, at which moment; at most one of lap, fraction, pre_race, as_of and live (none: the home's default moment)."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"race_id": "2024_16", "lap": 20},
                {"race_id": "2024_16", "fraction": 0.5, "drivers": ["ines_dubois"]},
                {"race_id": "2024_16", "as_of": "2024-08-18T13:30:00Z"},
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


class RollbackRequest(BaseModel):
    """Which version loses the champion's place; left out, the one that has it."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"version": "3"}]})

    version: VersionNumber | None = Field(default=None, description="The champion as far as you know; another one: 409.")


class PromoteRequest(BaseModel):
    """Which version becomes champion."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"version": "3"}]})

    version: VersionNumber
