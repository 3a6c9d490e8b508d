"""Stores that fail in the ways a conformance kit has to survive, each in a class of its own."""

import os
import time
from typing import Any

from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import OfflineStore


class TroubledOfflineStore(DuckDBOfflineStore):
    """Ends its process when asked for no rows, says that it cannot answer two rows, and answers all other questions."""

    @staticmethod
    def get_historical_features(*args: Any, **kwargs: Any) -> Any:
        entity_df = args[3] if len(args) > 3 else kwargs["entity_df"]
        if len(entity_df) == 0:
            os._exit(9)
        if len(entity_df) == 2:
            raise NotImplementedError("no pairs here")
        return DuckDBOfflineStore.get_historical_features(*args, **kwargs)


class TroubledOfflineStoreConfig(DuckDBOfflineStoreConfig):
    type: str = "broken_stores.TroubledOfflineStore"


class HangingOfflineStore(OfflineStore):
    """Never answers."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(*_: Any, **__: Any) -> Any:
        time.sleep(3600)


class HangingOfflineStoreConfig(DuckDBOfflineStoreConfig):
    type: str = "broken_stores.HangingOfflineStore"


class NotAStore:
    """No store at all."""
