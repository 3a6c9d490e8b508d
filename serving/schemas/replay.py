"""What the JSON API answers about replays: the same events that its stream sends."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from serving.replay_file import State
from serving.schemas.answers import Answer, ModelBody, PredictionBody, shown


class Written(Answer):
    """What every event says of its place in the record."""

    id: int = Field(description="From 0; with `run` it makes the stream's event id, `run-id`.")
    run: str = Field(description="Names the replay.")
    written_at: float = Field(description="Seconds since 1970 UTC.")


class StartEvent(Written):
    """A replay has begun."""

    event: Literal["start"]
    race_id: str
    name: str
    simulated: bool
    speed: float = Field(description="Race seconds a second; 0: as fast as it goes.")
    from_lap: int
    to_lap: int
    scheduled_laps: int
    model: ModelBody


class LapEvent(Written, PredictionBody):
    """A lap of the leader: what was predicted when he had completed it."""

    event: Literal["lap"]
    lap: int
    as_of: datetime
    to_lap: int
    rows: int = Field(description="Written to the online store for this lap.")
    seconds: float = Field(description="That and the prediction took.")
    next_in_s: float = Field(description="Until the next lap; 0 at the last.")


class EndEvent(Written):
    """The replay is over."""

    event: Literal["end"]
    race_id: str
    lap: int


class InterruptedEvent(Written):
    """The replay stopped before its end."""

    event: Literal["interrupted"]


class ReplayResponse(Answer):
    """A replay so far."""

    model_config = shown("ReplayResponse")

    race_id: str
    state: State = Field(description="interrupted: its next lap is a minute late.")
    last_event_id: str | None = Field(description="Of its newest event, for `Last-Event-ID`; null without a replay.")
    events: list[Annotated[StartEvent | LapEvent | EndEvent | InterruptedEvent, Field(discriminator="event")]]
