"""The newest row of every key in a feature table, found in one streamed pass over keys and times.

Memory does not grow with the rows of the table: a batch of rows, per key its serialised bytes and three numbers, and at most
`HASHES_AT_ONCE` row hashes of 8 bytes for the search for duplicates (a larger table is passed over more than once).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureView
from numpy.typing import NDArray

from feature_repo.errors import DamagedFileError, DuplicateRowsError
from feature_repo.stores.packed import KeyLayout
from feature_repo.visibility import CREATED, EVENT

BATCH_ROWS = 65_536
HASHES_AT_ONCE = 8_000_000

_US = pa.timestamp("us", tz="UTC")
_OLDEST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class NewestRows:
    """Which rows of a table go online, sorted by group, then by key: a database takes sorted keys about twice as fast.

    Attributes:
        keys: (K) serialised entity keys.
        rows: (K,) the number of each key's row in the table.
        groups: (K,) number of the key's group: of its race in the order of race ids, 0 where the key has no race.
        never_visible: rows of the table without created time.
    """

    keys: list[bytes]
    rows: NDArray[np.int64]
    groups: NDArray[np.int64]
    never_visible: int


class FeatureTable:
    """A feature table on disk: one Parquet file, or a folder of them read in the order of their paths."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """All rows in order, `BATCH_ROWS` at a time."""
        for file in self.files:
            with pq.ParquetFile(file) as source:
                for batch in source.iter_batches(BATCH_ROWS, columns=list(columns)):
                    yield pa.Table.from_batches([batch])

    def newest_event(self) -> int | None:
        """The newest event time, microseconds since 1970 UTC; None if there is no row."""
        newest = [pc.max(micros(batch, EVENT)).as_py() for batch in self.batches([EVENT])]
        return max((event for event in newest if event is not None), default=None)

    def take(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The rows with these numbers (ascending), in that order; row groups without any of them are not read."""
        parts, start = [], 0
        for file in self.files:
            with pq.ParquetFile(file) as source:
                for group in range(source.num_row_groups):
                    end = start + source.metadata.row_group(group).num_rows
                    if np.searchsorted(rows, start) < np.searchsorted(rows, end):
                        for batch in source.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(columns)):
                            first, last = np.searchsorted(rows, (start, start + batch.num_rows))
                            if first < last:
                                parts.append(pa.Table.from_batches([batch]).take(pa.array(rows[first:last] - start)))
                            start += batch.num_rows
                    start = end
        return pa.concat_tables(parts)

    def bytes_per_row(self) -> float:
        """Mean size of a row in memory, roughly: what Parquet says of its uncompressed columns."""
        metadata = [pq.read_metadata(file) for file in self.files]
        size = sum(one.row_group(group).total_byte_size for one in metadata for group in range(one.num_row_groups))
        return size / max(1, sum(one.num_rows for one in metadata))

    def n_rows(self) -> int:
        """How many rows there are, from the files' footers."""
        return sum(pq.read_metadata(file).num_rows for file in self.files)


def find_newest(table: FeatureTable, view: FeatureView, low: int, high: int) -> NewestRows:
    """The newest visible row of each key with low <= event <= high (microseconds); ties on event go to the newest created.

    Raises:
        DuplicateRowsError: two rows of the table, inside the window or not, share key, event and created time.
        DamagedFileError: the table changed while it was read.
    """
    scan = _Scan(table, view)
    held = _Held()
    races: dict[str, int] = {}
    passes = max(1, -(-table.n_rows() // HASHES_AT_ONCE))
    hashes = []
    for batch in scan.batches():
        hashes.append(_of_pass(batch.hashes(), 0, passes))
        held.take_over(batch.within(low, high), races)
    _refuse_duplicates(scan, np.concatenate(hashes) if hashes else np.empty(0, np.uint64))
    for number in range(1, passes):
        _refuse_duplicates(scan, np.concatenate([_of_pass(batch.hashes(), number, passes) for batch in scan.batches()]))
    chosen = np.flatnonzero(held.event != _OLDEST)
    order_of_race = np.empty(max(1, len(races)), np.int64)
    order_of_race[[races[race] for race in sorted(races)] or [0]] = np.arange(max(1, len(races)))
    keys = list(scan.slots)
    found = [keys[slot] for slot in chosen.tolist()]
    groups = order_of_race[held.race[chosen]]
    order = np.lexsort((np.array(found, np.bytes_), groups)) if found else chosen
    return NewestRows([found[place] for place in order.tolist()], held.row[chosen][order], groups[order], scan.never_visible)


def micros(table: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of times as microseconds since 1970 UTC; a naive time is UTC."""
    stamps = table[column]
    return (stamps if stamps.type == _US else stamps.cast(pa.timestamp("us", tz=stamps.type.tz), safe=False)).cast(pa.int64())


@dataclass(frozen=True)
class _Batch:
    """N visible rows: number of the key, times, number in the table, race (None without races)."""

    slot: NDArray[np.int64]
    event: NDArray[np.int64]
    created: NDArray[np.int64]
    row: NDArray[np.int64]
    race: pa.ChunkedArray | None

    def hashes(self) -> NDArray[np.uint64]:
        """(N,) a hash of key and times."""
        return _mixed(self.slot.view(np.uint64) + _mixed(self.event.view(np.uint64) + _mixed(self.created.view(np.uint64))))

    def within(self, low: int, high: int) -> "_Batch":
        """The rows with low <= event <= high."""
        inside = (self.event >= low) & (self.event <= high)
        return self if inside.all() else self.chosen(np.flatnonzero(inside))

    def chosen(self, where: NDArray[np.int64]) -> "_Batch":
        """The rows at these positions."""
        race = None if self.race is None else self.race.take(pa.array(where))
        return _Batch(self.slot[where], self.event[where], self.created[where], self.row[where], race)


class _Scan:
    """Passes over keys and times of a table; a key has the same number in each."""

    def __init__(self, table: FeatureTable, view: FeatureView) -> None:
        self.table = table
        self.keys = KeyLayout.of(view)
        self.names = [name for name in view.join_keys if name in pq.read_schema(table.files[0]).names] if table.files else []
        self.slots: dict[bytes, int] = {}
        self.never_visible = 0

    def batches(self) -> Iterator[_Batch]:
        """The visible rows, batch by batch; rows without created time are counted."""
        start, self.never_visible = 0, 0
        for batch in self.table.batches([*self.names, EVENT, CREATED]):
            event, created = micros(batch, EVENT), micros(batch, CREATED)
            self.never_visible += created.null_count
            row = np.arange(start, start + batch.num_rows)
            start += batch.num_rows
            if event.null_count or created.null_count:
                known = pc.and_(event.is_valid(), created.is_valid())
                batch, event, created, row = (*(part.filter(known) for part in (batch, event, created)), row[known.to_numpy()])
            number = self.slots.setdefault
            slots = [number(key, len(self.slots)) for key in self.keys.keys(batch)]
            race = batch["race_id"] if "race_id" in self.names else None
            yield _Batch(np.array(slots, np.int64), event.to_numpy(), created.to_numpy(), row, race)


class _Held:
    """The newest row seen so far of each key number."""

    def __init__(self) -> None:
        self.event = np.empty(0, np.int64)
        self.created = np.empty(0, np.int64)
        self.row = np.empty(0, np.int64)
        self.race = np.empty(0, np.int64)

    def take_over(self, batch: _Batch, races: dict[str, int]) -> None:
        """Replace what is older than a row of the batch."""
        if not len(batch.slot):
            return
        self._grow(int(batch.slot.max()) + 1)
        order = np.lexsort((batch.created, batch.event, batch.slot))
        slot = batch.slot[order]
        newest = batch.chosen(order[np.append(slot[1:] != slot[:-1], True)])
        event, created = self.event[newest.slot], self.created[newest.slot]
        newer = newest.chosen(
            np.flatnonzero((newest.event > event) | ((newest.event == event) & (newest.created > created)))
        )  # fmt: skip
        self.event[newer.slot], self.created[newer.slot], self.row[newer.slot] = newer.event, newer.created, newer.row
        if newer.race is None:
            self.race[newer.slot] = 0
        else:
            self.race[newer.slot] = [races.setdefault(race, len(races)) for race in newer.race.to_pylist()]

    def _grow(self, size: int) -> None:
        if size > len(self.event):
            more = max(size, 2 * len(self.event)) - len(self.event)
            self.event = np.append(self.event, np.full(more, _OLDEST))
            self.created = np.append(self.created, np.full(more, _OLDEST))
            self.row = np.append(self.row, np.zeros(more, np.int64))
            self.race = np.append(self.race, np.zeros(more, np.int64))


def _refuse_duplicates(scan: _Scan, hashes: NDArray[np.uint64]) -> None:
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(twice):
        return
    seen: dict[tuple[int, int, int], int] = {}
    for batch in scan.batches():  # two different rows may share a hash: look at the rows themselves
        suspects = batch.chosen(np.flatnonzero(np.isin(batch.hashes(), twice)))
        for same in zip(suspects.slot.tolist(), suspects.event.tolist(), suspects.created.tolist(), strict=True):
            seen[same] = seen.get(same, 0) + 1
    count = sum(n for n in seen.values() if n > 1)
    if count:
        slot, event, created = next(same for same, n in seen.items() if n > 1)
        first = scan.table.take(_row_of(scan, slot, event, created), [*scan.names, EVENT, CREATED]).to_pylist()[0]
        raise DuplicateRowsError(
            f"{scan.table.path}: {count} rows share key and times with another, the first "
            f"{', '.join(f'{name}={value}' for name, value in first.items())}; "
            "each (key, event, created) may occur once; rebuild the feature table"
        )


def _row_of(scan: _Scan, slot: int, event: int, created: int) -> NDArray[np.int64]:
    for batch in scan.batches():
        where = np.flatnonzero((batch.slot == slot) & (batch.event == event) & (batch.created == created))
        if len(where):
            return batch.row[where[:1]]
    raise DamagedFileError(
        f"{scan.table.path}: changed while it was read, expected it to stay as it was; wait for `pitwall features` to end, "
        "then run `pitwall materialize` again"
    )


def _of_pass(hashes: NDArray[np.uint64], number: int, passes: int) -> NDArray[np.uint64]:
    return hashes if passes == 1 else hashes[hashes % np.uint64(passes) == number]


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[Any]:
    """splitmix64's finalizer (Steele, Lea and Flood 2014): every bit of a number reaches every bit of the result."""
    numbers = (numbers + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(0xFFFFFFFFFFFFFFFF)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
