"""What Pitwall's online stores have in common: one packed value a key and view, and the rule that they never go back in time.

A store keeps, per view, entity key -> packed row (`packed.py`). A subclass says how rows are written, read and counted; Feast's
own interface (apply, materialize, push, `get_online_features`) is answered here on top of that, so every Feast client obeys the
rule and reads what it would read from Feast's own stores, with microseconds.

The rule: a row whose (event, created) is older than what its key holds is not written, whoever writes it and in whatever order;
one with equal times replaces. It has to be one step inside the database, or two writers could both see an older row and the older
of them write last.
"""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
from feast import FeatureStore, FeatureView, RepoConfig, utils
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto

from feature_repo.stores.errors import UnsupportedStoreError
from feature_repo.stores.packed import STAMP_LENGTH, STAMP_OFFSET, Layout, rows_from_protos, rows_to_protos, stamps

logger = logging.getLogger(__name__)

WriteRow = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]
"""Feast's row: entity key, values by feature, event time, created time."""
ReadRow = tuple[datetime | None, dict[str, ValueProto] | None]
"""Feast's answer for a key: event time and values; two Nones if nothing is held."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STAMP = slice(STAMP_OFFSET, STAMP_OFFSET + STAMP_LENGTH)


@dataclass(frozen=True)
class WriteCounts:
    """What became of the rows that were to be written.

    Attributes:
        written: new, newer, or other values with the same times.
        unchanged: held already, byte for byte.
        held_back: older than what their key holds, so not written.
    """

    written: int = 0
    unchanged: int = 0
    held_back: int = 0

    def __add__(self, other: "WriteCounts") -> "WriteCounts":
        return WriteCounts(
            self.written + other.written, self.unchanged + other.unchanged, self.held_back + other.held_back
        )  # fmt: skip


class PackedOnlineStore(OnlineStore):
    """Base of the online stores that hold packed rows. Threads may share one object."""

    @abstractmethod
    def write_rows(
        self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes], values: Sequence[bytes]
    ) -> WriteCounts:  # fmt: skip
        """Write packed rows, each by the rule, all of one call together where the database can.

        Args:
            config: of the feature store.
            view: whose rows.
            keys: serialised entity keys, each at most once (see `newest_per_key`).
            values: a packed row per key.
        """

    @abstractmethod
    def read_rows(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> list[bytes | None]:
        """The packed row of each key, in the order of `keys`; None where nothing is held."""

    def read_many(
        self, config: RepoConfig, requests: Sequence[tuple[FeatureView, Sequence[bytes]]]
    ) -> list[list[bytes | None]]:  # fmt: skip
        """`read_rows` of several views, in one round trip where the database can."""
        return [self.read_rows(config, view, keys) for view, keys in requests]

    @abstractmethod
    def count_rows(self, config: RepoConfig, view: FeatureView) -> int:
        """How many keys the view holds, rows of other definitions included."""

    @abstractmethod
    def newest_event(self, config: RepoConfig, view: FeatureView) -> int | None:
        """The newest event time the view holds, microseconds since 1970 UTC; None if it holds nothing."""

    @abstractmethod
    def clear(self, config: RepoConfig, view: FeatureView) -> None:
        """Delete the rows and notes of a view."""

    @abstractmethod
    def get_notes(self, config: RepoConfig, view: FeatureView) -> dict[str, str]:
        """What was noted about a view beside its rows, by name. Notes are lost when the rows are."""

    @abstractmethod
    def set_note(self, config: RepoConfig, view: FeatureView, name: str, value: str) -> None:
        """Keep a note beside the rows of a view, in place of an earlier one of that name."""

    def is_ready_for(self, config: RepoConfig, view: FeatureView) -> bool:  # noqa: ARG002  (stores with tables look)
        """Whether `apply` has made what the view's rows need."""
        return True

    def disconnect(self) -> None:
        """Close what is open; the next call opens it again."""

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[WriteRow], progress: Callable[[int], Any] | None
    ) -> None:  # fmt: skip
        """Feast's writer: rows of value messages, of any client. Rows without created time are known from their event on; where
        the view's source has a created column, such a row was never known, and is left out.
        """
        known = [row for row in data if not _never_known(table, row[3])]
        if len(known) < len(data):
            logger.warning("rows_without_created_time_left_out view=%s rows=%d", table.name, len(data) - len(known))
        if known:
            version = config.entity_key_serialization_version
            keys = [serialize_entity_key(key, entity_key_serialization_version=version) for key, *_ in known]
            values = rows_from_protos(
                Layout.of(table), [(row, event, None if pd.isna(created) else created) for _, row, event, created in known]
            )
            counts = self.write_rows(config, table, *newest_per_key(keys, values))
            if counts.held_back:
                logger.info("older_rows_held_back view=%s rows=%d", table.name, counts.held_back)
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """Feast's reader: (event time, values) per key; (None, None) where nothing is held."""
        held = self.read_rows(config, table, _serialized(config, entity_keys))
        return _answer(Layout.of(table), held, requested_features)

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[WriteRow], progress: Callable[[int], Any] | None
    ) -> None:  # fmt: skip
        """`online_write_batch` in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """`online_read` in a thread."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Feast's asynchronous calls work."""
        return SupportedAsyncMethods(read=True, write=True)

    async def close(self) -> None:
        """Feast's way to say `disconnect`."""
        await asyncio.to_thread(self.disconnect)

    def _is_versioned_read_supported(self) -> bool:
        return True  # versions are part of `table_id`

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[Any],
        join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """What `get_online_features` calls to read: all views of a request at once, instead of one after the other."""
        asked = []
        for view, features in grouped_refs:
            entities, places, n_rows = utils._get_unique_entities(view, join_key_values, entity_name_to_join_key_map)
            asked.append((view, features, _serialized(config, utils._get_entity_key_protos(entities)), places, n_rows))
        found = self.read_many(config, [(view, keys) for view, _, keys, _, _ in asked])
        for (view, features, _, places, n_rows), held in zip(asked, found, strict=True):
            utils._populate_response_from_feature_data(
                features, _answer(Layout.of(view), held, features), places, online_features_response,
                full_feature_names, view, n_rows, include_feature_view_version_metadata,
            )  # fmt: skip


def packed_store(store: FeatureStore) -> PackedOnlineStore:
    """The online store behind an open feature store.

    Raises:
        UnsupportedStoreError: it is not one that holds packed rows.
    """
    online = store._get_provider().online_store
    if not isinstance(online, PackedOnlineStore):
        raise UnsupportedStoreError(
            f"online_store.type: got {type(online).__name__}, expected one of Pitwall's packed stores; "
            "run `pitwall apply`, which writes the configuration"
        )
    return online


def table_id(config: RepoConfig, view: FeatureView | str) -> str:
    """Under which name the store keeps a view's rows; a name is passed through."""
    if isinstance(view, str):
        return view
    return str(compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning))


def newest_per_key(keys: Sequence[bytes], values: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Each key once, with its newest row; of rows with equal times the last."""
    newest: dict[bytes, bytes] = {}
    for key, value in zip(keys, values, strict=True):
        held = newest.get(key)
        if held is None or value[_STAMP] >= held[_STAMP]:
            newest[key] = value
    return list(newest), list(newest.values())


def _never_known(view: FeatureView, created: datetime | None) -> bool:
    """Whether the rule says that a row is never visible: its source tells when rows became known, but not for this one."""
    source = view.batch_source
    return bool(pd.isna(created)) and source is not None and bool(source.created_timestamp_column)


def _serialized(config: RepoConfig, entity_keys: Iterable[EntityKeyProto]) -> list[bytes]:
    version = config.entity_key_serialization_version
    return [serialize_entity_key(key, entity_key_serialization_version=version) for key in entity_keys]


def _answer(layout: Layout, held: list[bytes | None], features: list[str] | None) -> list[ReadRow]:
    rows = rows_to_protos(layout, held, features)
    events = iter(
        stamps([value for value, row in zip(held, rows, strict=True) if value is not None and row is not None])[:, 0].tolist()
    )
    return [(None, None) if row is None else (_EPOCH + timedelta(microseconds=next(events)), row) for row in rows]
