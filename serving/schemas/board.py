"""What the JSON API answers about models and the catalogue of features."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from serving.schemas.answers import Answer, shown


class ServingBody(Answer):
    """The model that answers now."""

    version: str
    role: str
    model: str


class LoadedBody(Answer):
    """A model in memory."""

    version: str
    model: str
    loaded_at: datetime


class GainBody(Answer):
    """Relative gain in exact places over the baseline, with its 95 % interval over races; null where it cannot be computed."""

    estimate: float | None
    low: float | None
    high: float | None
    limit: float | None
    bound: float | None = Field(description="One-sided lower bound at the level of this try: the gate asks that it is above 0.")


class CheckBody(Answer):
    """One condition of the gate, and whether it held."""

    name: str
    passed: bool
    message: str


class ControlBody(Answer):
    """The candidate's relative gain over a control, such as pictures of other races."""

    name: str
    estimate: float
    low: float | None
    high: float | None


class DecisionSummary(Answer):
    """What the board shows of a gate record."""

    promote: bool
    reasons: list[str]
    checks: list[CheckBody]
    gain: GainBody
    metrics: dict[str, dict[str, float | None]] = Field(description="Model -> metric -> value, over all test seasons.")
    slices: dict[str, dict[str, float]] = Field(description="Season -> model -> share of exact places.")
    controls: list[ControlBody]
    n_races: int


class VersionBody(Answer):
    """A registered version."""

    version: str
    model: str
    role: str
    aliases: list[str]
    verdict: str | None = Field(description="null while the gate has not decided.")
    registered_at: datetime | None
    decision: DecisionSummary | None


class MoveBody(Answer):
    """A move of the champion; a version is null where there was, or is, no champion."""

    version: str | None
    previous: str | None
    reason: str
    at: datetime


class ModelsResponse(Answer):
    """Versions, which of them answer, and what is wrong with those that should and do not."""

    model_config = shown("ModelsResponse")

    name: str
    serving: ServingBody | None = Field(description="null while no model answers.")
    loaded: dict[str, LoadedBody] = Field(description="Role -> model.")
    problems: dict[str, str] = Field(description="Role -> why its version is not loaded.")
    registry_problem: str | None = Field(
        description="Why the registry does not say what it holds; `versions`, `aliases` and `history` are empty then."
    )
    challenger_share: float
    challenger_shadow: bool
    aliases: dict[str, str]
    baseline: str | None = Field(description="Version of the tabular baseline.")
    versions: list[VersionBody] = Field(description="Newest first.")
    history: list[MoveBody] = Field(description="Moves of the champion, newest first.")
    can_roll_back: bool
    rollback_to: str | None = Field(description="What a rollback would make champion; null: none.")


class RecordedCheck(CheckBody):
    """A condition with what was compared."""

    value: float | None
    limit: float | None


class RecordedDecision(Answer):
    """A verdict as stored with its version."""

    promote: bool
    relative_gain: float | None
    gain_low: float | None
    gain_high: float | None
    reasons: list[str]
    checks: list[RecordedCheck]
    inputs_sha256: str


class DecisionBody(Answer):
    """A gate record: what was decided on, and the verdict."""

    version: str
    verdict: str
    inputs_sha256: str | None
    decision: RecordedDecision
    inputs: dict[str, Any] | None = Field(description="The evidence; only with `inputs=true`.")


class DecisionsResponse(Answer):
    """The gate records of a model, newest version first."""

    model_config = shown("DecisionsResponse")

    name: str
    decisions: list[DecisionBody]


class AfterMove(Answer):
    """What answers after a move; `version` and `role` are left out while no model answers."""

    version: str = ""
    role: str = ""
    problems: dict[str, str]


class MoveResponse(MoveBody):
    """A move of the champion, carried out; the service answers with the new one within seconds, or says why not."""

    model_config = shown("MoveResponse")

    serving: AfterMove


class EntityBody(Answer):
    """An entity of the catalogue."""

    name: str
    join_key: str
    description: str


class ServiceBody(Answer):
    """A feature service and how many features it has."""

    name: str
    description: str
    features: int


class DistributionBody(Answer):
    """How a feature is distributed over its table: `edges` and `counts` of numbers, `values` and `counts` of categories."""

    sampled: int = Field(description="Rows seen, at most 20,000.")
    missing: float = Field(description="Share of them without a value.")
    counts: list[int]
    edges: list[float] | None = None
    values: list[str] | None = None


class FeatureBody(Answer):
    """A feature of a view."""

    name: str
    dtype: str
    description: str
    distribution: DistributionBody | None = Field(description="null where the table does not exist.")


class ViewBody(Answer):
    """A feature view, and how fresh it is."""

    name: str
    description: str
    entities: list[str]
    is_online: bool
    ttl_s: float | None
    fresh_for_s: float | None
    tags: dict[str, str]
    services: list[str]
    rows: int
    newest_offline: datetime | None
    newest_online: datetime | None
    age_s: float | None = Field(description="Of the newest row that lookups read, seconds.")
    status: Literal["FRESH", "STALE", "MISSING", "UNKNOWN"] = Field(description="UNKNOWN: the online store does not answer.")
    features: list[FeatureBody]


class CatalogueResponse(Answer):
    """Entities, views, features and services, with freshness."""

    model_config = shown("CatalogueResponse")

    as_of: datetime
    online_problem: str | None = Field(description="Why the online store does not answer.")
    entities: list[EntityBody]
    services: list[ServiceBody]
    views: list[ViewBody]
