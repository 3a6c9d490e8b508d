"""What the JSON API answers about one lap of a race: everything that its page shows."""

from datetime import datetime

from pydantic import Field

from serving.schemas.answers import Answer, DriverBody, Provenance, shown


class StintBody(Answer):
    """Laps on one set of tyres."""

    start: int = Field(description="First lap driven on it; 1 is the first of the race.")
    end: int = Field(description="Last lap driven on it so far.")
    compound: str | None = Field(description="Such as `SOFT`; null where unknown.")


class WeatherBody(Answer):
    """The newest reading known at the moment; null where not measured."""

    air_c: float | None = Field(description="Degrees Celsius.")
    track_c: float | None = Field(description="Degrees Celsius.")
    wind_mps: float | None = Field(description="Metres a second.")
    is_raining: bool | None


class ShowerBody(Answer):
    """Rain, in laps of the leader with fractions; lap 0 is lights out."""

    from_lap: float
    to_lap: float


class FinishBody(Answer):
    """Where a car finished, and how far from the prediction."""

    position: int
    is_classified: bool
    status: str
    off_by: int = Field(description="Result less predicted place: above 0, it finished further back than predicted.")


class CarBody(DriverBody):
    """One car: what is predicted, what was known at the moment, and the result as known now."""

    code: str
    driver_name: str
    constructor_id: str
    likeliest_position: int = Field(description="The place with the highest probability; `position` may differ from it.")
    running_position: int | None = Field(description="In the running order of the moment; null before the first lap.")
    stints: list[StintBody]
    result: FinishBody | None = Field(description="As known now; null while there is none.")


class MomentResponse(Provenance):
    """One lap of a race, as its page shows it: nothing but the result became known after `as_of`."""

    model_config = shown("MomentResponse")

    race_id: str
    season: int
    round: int
    name: str
    circuit_id: str
    race_start: datetime = Field(description="Lights out.")
    scheduled_laps: int
    last_lap: int = Field(description="The last lap that the leader has completed, as known now.")
    simulated: bool
    lap: int = Field(description="Completed by the leader at the moment; 0 is lights out.")
    as_of: datetime
    replay: str | None = Field(description="The run of the replay that predicted this; null where the service did.")
    weather: WeatherBody | None = Field(description="null before the first reading.")
    rain: list[ShowerBody] | None = Field(description="Showers up to the moment; null where rain was not measured.")
    cars: list[CarBody] = Field(description="In predicted order.")
    result_known_at: datetime | None
    exact_places: int | None = Field(description="Cars that finished where they were predicted; null without a result.")
    mean_error_places: float | None = Field(description="Mean distance between prediction and result; null without a result.")
