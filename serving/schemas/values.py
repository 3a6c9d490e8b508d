"""Ids, instants and other values that requests are made of, checked before they reach a path or a query."""

from typing import Annotated, Literal

import pandas as pd
from pydantic import AfterValidator, Field

from feature_repo.visibility import parse_instant

RaceId = Annotated[
    str,
    Field(pattern=r"^(19[5-9][0-9]|20[0-9][0-9])_(0[1-9]|[1-9][0-9])$", description="Season and round.", examples=["2024_16"]),
]
DriverId = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$", examples=["ines_dubois"])]
EntityId = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$", description="Value of a join key.")]
EntityKey = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$", description="Name of a join key.")]
ServiceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,100}$", examples=["finish_position_v1"])]
VersionNumber = Annotated[str, Field(pattern=r"^[0-9]{1,9}$", examples=["3"])]
LapNumber = Annotated[int, Field(ge=0, le=200, description="Completed by the leader; default the home's default moment.")]
ReplayRun = Annotated[
    str,
    Field(pattern=r"^[0-9a-f]{12}$", description="As this replay predicted it: its events' `run`. Default as the service does."),
]
Status = Literal["FRESH", "STALE", "MISSING"]


def _is_instant(text: str) -> str:
    parse_instant(text)
    return text


InstantText = Annotated[
    str,
    Field(max_length=40, description="A past instant, UTC or with an offset.", examples=["2024-08-18T13:30:00Z"]),
    AfterValidator(_is_instant),
]


def instant_of(text: str | None) -> pd.Timestamp | None:
    """An instant given as text that was checked, UTC; None for none."""
    return None if text is None else parse_instant(text)
