"""Retrieval jobs: what a view is asked for, the entity rows that ask, and the answer as a frame or an Arrow table."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import metrics
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from feature_repo.stores import offline_write
from feature_repo.stores.asof import NULL_US, Factorized, Ints, factorize, to_us
from feature_repo.stores.errors import EntityRowsError, KeyTypeError, SourceError
from feature_repo.stores.offline_read import Answer, Limits, Wanted
from feature_repo.stores.offline_source import Source

_GIB = 1 << 30


def limits_of(config: RepoConfig, timeout: int | None) -> Limits:
    """What a retrieval may use, by the store's settings and the seconds it was given."""
    settings = config.offline_store
    deadline = None if timeout is None else time.monotonic() + timeout
    return Limits(int(settings.memory_budget_gib * _GIB), int(settings.cache_gib * _GIB), deadline)


@dataclass(frozen=True)
class ViewRequest:
    """What one view is asked for.

    Attributes:
        opened: opens its source.
        wanted: columns of the source.
        join_keys: columns of the entity rows, in the order of `wanted.keys`.
        names: names of the features in the answer, in the order of `wanted.features`.
    """

    opened: Callable[[], Source]
    wanted: Wanted
    join_keys: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, view: FeatureView, refs: Sequence[str], config: RepoConfig, *, full_feature_names: bool) -> "ViewRequest":
        """The request for those of `refs` (`view:feature`) that are of this view."""
        source = view.batch_source
        if source is None:
            raise SourceError(f"feature view {view.name}: has no batch source, so there is nothing to retrieve")
        prefix = f"{view.projection.name_to_use()}:"
        features = list(dict.fromkeys(ref.removeprefix(prefix) for ref in refs if ref.startswith(prefix)))
        shown = view.projection.name_alias or view.name
        entities = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
        inside = {outside: name for name, outside in source.field_mapping.items()}
        return cls(
            opened=partial(Source.open, source, config.repo_path),
            wanted=Wanted(
                keys=tuple(inside.get(name, name) for name in entities),
                event=inside.get(source.timestamp_field, source.timestamp_field),
                created=inside.get(source.created_timestamp_column, source.created_timestamp_column) or None,
                features=tuple(inside.get(name, name) for name in features),
                ttl_us=round(view.ttl.total_seconds() * 1e6) if view.ttl else None,
            ),
            join_keys=tuple(view.projection.join_key_map.get(name, name) for name in entities),
            names=tuple(f"{shown}__{name}" if full_feature_names else name for name in features),
        )


@dataclass(frozen=True)
class EntityRows:
    """The entity rows of a retrieval: a frame with a fresh index and UTC moments, its moments and its key columns."""

    frame: pd.DataFrame
    event_column: str
    moments: Ints
    _keys: dict[str, Factorized] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, frame: pd.DataFrame, requests: Sequence[ViewRequest]) -> "EntityRows":
        """Check entity rows and put their moments into UTC; a naive time is UTC.

        Raises:
            EntityRowsError: a join key is missing, or a column has the name of a feature.
        """
        event = infer_event_timestamp_from_entity_df(dict(frame.dtypes))
        keys = list(dict.fromkeys(key for request in requests for key in request.join_keys))
        names = [name for request in requests for name in request.names]
        missing = [key for key in keys if key not in frame.columns]
        if missing:
            raise EntityRowsError(f"entity rows: lack join keys {missing}; expected {keys}, got {list(frame.columns)}")
        taken = sorted({str(name) for name in frame.columns if name in names} | {name for name in names if names.count(name) > 1})
        if taken:
            raise EntityRowsError(f"entity rows: {taken} would name two columns; rename, or ask with full_feature_names=True")
        frame = frame.reset_index(drop=True)
        frame = frame.assign(**{event: _in_utc(frame[event])})
        return cls(frame, event, to_us(pa.array(frame[event])))

    def keys(self, names: Sequence[str]) -> list[Factorized]:
        """Key columns; each is factorized once however many views ask for it."""
        for name in names:
            if name not in self._keys:
                try:
                    column = pa.array(self.frame[name], from_pandas=True)
                except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                    raise KeyTypeError(f"join key {name}: the entity rows mix types: {error}") from error
                self._keys[name] = factorize(column, name)
        return [self._keys[name] for name in names]

    @property
    def bounds(self) -> tuple[datetime | None, datetime | None]:
        """First and last moment; None without any."""
        known = self.moments[self.moments != NULL_US]
        if not len(known):
            return None, None
        ends = pd.to_datetime([int(known.min()), int(known.max())], unit="us", utc=True)
        return ends[0].to_pydatetime(), ends[1].to_pydatetime()


class AsOfRetrievalJob(RetrievalJob):
    """A retrieval that reads nothing before it is asked for its result."""

    def __init__(
        self,
        config: RepoConfig,
        evaluate: Callable[[Limits], tuple[pd.DataFrame, Iterable[tuple[ViewRequest, Answer]]]],
        *,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._config = config
        self._evaluate = evaluate
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """The result as a frame with the columns and types that `to_arrow().to_pandas()` has, made without a way through Arrow.

        Integers and booleans with nulls become floats and objects, as everywhere in Feast.
        """
        if self._on_demand_feature_views or validation_reference or _is_observed():
            return super().to_df(validation_reference, timeout)
        return self._to_df_internal(timeout)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame, answers = self._evaluate(limits_of(self._config, timeout))
        columns = {name: frame[name] for name in frame.columns}
        for request, answer in answers:
            missing = np.flatnonzero(answer.rows < 0)
            for name, column in zip(request.names, request.wanted.features, strict=True):
                columns[name] = answer.columns[column].pandas(answer.rows, missing)
        return pd.DataFrame(columns, index=frame.index, copy=False)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        frame, answers = self._evaluate(limits_of(self._config, timeout))
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        for request, answer in answers:
            for name, column in zip(request.names, request.wanted.features, strict=True):
                table = table.append_column(name, answer.columns[column].arrow(answer.rows))
        return table

    @property
    def full_feature_names(self) -> bool:
        """Whether features carry the name of their view."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """On-demand views that Feast applies to the result."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features, keys and moments of the retrieval."""
        return self._metadata

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result to a `SavedDatasetFileStorage`, whole or not at all."""
        offline_write.persist(self._config, storage, partial(self.to_arrow, timeout=timeout), allow_overwrite=allow_overwrite)


class AsOfTableJob(AsOfRetrievalJob):
    """A job whose result is a table as it was read."""

    def __init__(self, config: RepoConfig, read: Callable[[Limits], pa.Table]) -> None:
        super().__init__(config, lambda limits: (read(limits).to_pandas(), []))
        self._read = read

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._read(limits_of(self._config, timeout))


def _in_utc(times: pd.Series) -> pd.Series:
    """Times in UTC; naive ones are UTC. `pd.to_datetime` only for what is not of a time's type: it looks at every value."""
    if isinstance(times.dtype, pd.DatetimeTZDtype):
        return times.dt.tz_convert("UTC")
    if pd.api.types.is_datetime64_dtype(times.dtype):
        return times.dt.tz_localize("UTC")
    return pd.to_datetime(times, utc=True)


def _is_observed() -> bool:
    """Whether Feast counts retrievals or writes an audit log of them, which it does on the way through Arrow."""
    flags = metrics._config
    return bool(flags.offline_features or flags.audit_logging)
