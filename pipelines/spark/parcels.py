"""Frames on their way between Spark workers: (table, key, rows as Arrow IPC with pandas' own types).

Spark's types know neither pandas' nullable integers nor which object column holds text and which holds arrays. A parcel does, so
that a pure function gets on a worker exactly the frame that it gets in the embedded engine, and Spark only ever moves bytes.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SCHEMA = "name string, key string, part string, rows binary"
"""Of a parcel in Spark: the table, the key that it belongs to, where it stands among the parcels of that key, the rows."""

Parcel = tuple[str, str, str, pd.DataFrame]


def pack(frame: pd.DataFrame) -> bytes:
    """The rows of a frame; `unpack` gives them back with equal types and values, its index replaced by 0..n-1."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def unpack(rows: bytes) -> pd.DataFrame:
    """The frame that was packed."""
    return pa.ipc.open_stream(rows).read_all().to_pandas()


def to_frame(parcels: Iterable[Parcel]) -> pd.DataFrame:
    """Parcels as a frame of `SCHEMA`: what a worker gives back to Spark."""
    packed = [(name, key, part, pack(frame)) for name, key, part, frame in parcels]
    return pd.DataFrame(packed, columns=["name", "key", "part", "rows"])


def merged(parcels: pd.DataFrame, name: str) -> pd.DataFrame | None:
    """All rows of table `name` among `parcels`, in order of key and part; None if there is no parcel of it.

    A parcel without rows only says which columns there are: it has no say in their types.
    """
    chosen = parcels[parcels["name"] == name].sort_values(["key", "part"], kind="stable")
    return joined(unpack(rows) for rows in chosen["rows"])


def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame | None:
    """Frames of one table one below the other; None if there are none."""
    every = list(frames)
    filled = [frame for frame in every if len(frame)]
    if not filled:
        return every[0] if every else None
    return pd.concat(filled, ignore_index=True)


def collected(parcels: "DataFrame", name: str) -> pd.DataFrame | None:
    """`merged` over all workers, one partition at a time, so that the driver's JVM holds little."""
    found: Iterator[tuple[str, str, bytes]] = (
        (row.key, row.part, bytes(row.rows)) for row in parcels.where(parcels["name"] == name).toLocalIterator()
    )
    return joined(unpack(rows) for _, _, rows in sorted(found, key=lambda row: row[:2]))
