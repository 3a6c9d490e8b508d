"""What a case of the conformance kit is: feature tables, entity rows, and the one right answer.

A case is data, not code, so that the same case runs on any offline store, in another process and another time zone, and can be
printed when a store gets it wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.conformance.oracle import Row, visible_row

DAY = datetime(2024, 5, 26, tzinfo=UTC)


def at(text: str) -> datetime:
    """`12:30`, `12:30:00.000001` (on the day of all cases) or a full ISO time, as UTC; a full time may carry its own offset."""
    full = text if "-" in text[:5] else f"{DAY:%Y-%m-%d}T{text}"
    stamp = datetime.fromisoformat(full)
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def row(event: str, created: str | None = "=", **values: Any) -> dict[str, Any]:
    """A feature row: when it became true, when it became known (`=`: at once, None: not recorded), keys and features."""
    known = event if created == "=" else created
    return {"event": at(event), "created": None if known is None else at(known), **values}


def ask(moment: str, **keys: Any) -> dict[str, Any]:
    """An entity row: what is asked for, and as of when."""
    return {"moment": at(moment), **keys}


@dataclass(frozen=True)
class View:
    """One feature table with its declaration.

    Attributes:
        name: of the feature view.
        keys: join key -> type; types are `string`, `int64`, `int32`, `bytes`. None: a view without entities.
        features: feature -> type; types are `float64`, `int64`, `bool`, `string`, `bytes`, `float32[]`, `string[]`.
        rows: feature rows, as `row` makes them.
        ttl: None is for ever.
        unit: of the stored timestamps: `us`, `ns` or `ms`.
        zone: of the stored timestamps; None stores naive times, which are UTC.
        asked_by: join key -> column of the entity rows, where they differ (`FeatureView.with_join_key_map`).
        alias: the view is asked for under this name (`FeatureView.with_name`).
        stored_as: feature -> column of the table, where they differ (the source's field mapping).
        event_column, created_column: names of the time columns in the table; without a created column a row is known at once.
    """

    name: str
    keys: Mapping[str, str]
    features: Mapping[str, str]
    rows: Sequence[Row]
    ttl: timedelta | None = None
    unit: str = "us"
    zone: str | None = "UTC"
    asked_by: Mapping[str, str] = field(default_factory=dict)
    alias: str | None = None
    stored_as: Mapping[str, str] = field(default_factory=dict)
    event_column: str = "event_timestamp"
    created_column: str | None = "created_timestamp"

    @property
    def asked_name(self) -> str:
        """The name under which the view's features are asked for and prefixed."""
        return self.alias or self.name


@dataclass(frozen=True)
class Case:
    """A question with its one right answer.

    Attributes:
        name: what is tested, in snake case.
        why: why the answer is right, in a sentence.
        views: the feature tables asked.
        asked: entity rows, as `ask` makes them; other columns are passed through.
        expected: for each entity row, the features; None is null.
        moment_column: name of the moment in the entity frame.
        moment_unit, moment_zone: of the moments; None asks with naive times, which are UTC.
        full_names: prefix features with the view's name.
        row_ids: carry an id column, so that answers are matched by it and lost rows are named; without it, as a multiset.
        ordered: the answer must come in the order of the question.
        through_arrow: read the answer as an Arrow table, where integers beside nulls keep all their digits.
        process_zone: TZ of the process that asks.
        after_pyspark: ask as a process that imported pyspark.pandas, which makes pyarrow forget zones on conversion.
        unflagged: what Feast answers by default, without the created cutoff, is worth showing too.
    """

    name: str
    why: str
    views: Sequence[View]
    asked: Sequence[Row]
    expected: Sequence[Row]
    moment_column: str = "event_timestamp"
    moment_unit: str = "us"
    moment_zone: str | None = "UTC"
    full_names: bool = False
    row_ids: bool = True
    ordered: bool = False
    through_arrow: bool = False
    process_zone: str = "UTC"
    after_pyspark: bool = False
    unflagged: bool = False

    def derived(self) -> list[dict[str, Any]]:
        """The answer by the oracle; equals `expected` in every case (a test checks it)."""
        return [answer(self.views, question, full_names=self.full_names) for question in self.asked]


def answer(views: Sequence[View], question: Row, *, full_names: bool = False) -> dict[str, Any]:
    """What the oracle answers to one entity row, feature by feature."""
    found: dict[str, Any] = {}
    for view in views:
        key = {column: question[view.asked_by.get(column, column)] for column in view.keys}
        # A table that does not say when a row became known is believed from the row's event on.
        rows = view.rows if view.created_column else [{**row, "created": row["event"]} for row in view.rows]
        known = visible_row(rows, key, question["moment"], view.ttl)
        for name in view.features:
            found[f"{view.asked_name}__{name}" if full_names else name] = None if known is None else known[name]
    return found
