"""What the online stores behind a server have in common: batches of a bounded size, and connection strings without secrets."""

import os
import re
from collections.abc import Iterator, Sequence

from feature_repo.stores.errors import OnlineUrlError


def batches(
    keys: Sequence[bytes], values: Sequence[bytes], *, max_rows: int, max_bytes: int
) -> Iterator[tuple[Sequence[bytes], Sequence[bytes]]]:
    """The rows in their order, in batches of at most `max_rows` rows and `max_bytes` of values, with distinct keys.

    Written one batch after the other, rows that share a key meet in the order in which they were given. A value larger than
    `max_bytes` is a batch of its own.

    Args:
        keys: (N,) entity keys; may repeat.
        values: (N,) packed values, row by row.
        max_rows: at least 1.
        max_bytes: of the values; keys are short.
    Raises:
        ValueError: not as many values as keys.
    """
    if len(keys) != len(values):
        raise ValueError(f"online write: got {len(keys)} keys and {len(values)} values, expected as many")
    for start in range(0, len(keys), max_rows):
        yield from _halved(keys[start : start + max_rows], values[start : start + max_rows], max_bytes)


def _halved(keys: Sequence[bytes], values: Sequence[bytes], max_bytes: int) -> Iterator[tuple[Sequence[bytes], Sequence[bytes]]]:
    # Almost every batch passes at once, in C; halving is for the few with long values or a repeated key.
    if len(keys) == 1 or (len(set(keys)) == len(keys) and sum(map(len, values)) <= max_bytes):
        yield keys, values
        return
    middle = len(keys) // 2
    yield from _halved(keys[:middle], values[:middle], max_bytes)
    yield from _halved(keys[middle:], values[middle:], max_bytes)


def expanded(connection_string: str) -> str:
    """The connection string with `${NAME}` taken from the environment, so that files need not hold a password.

    Raises:
        OnlineUrlError: a variable is not set.
    """
    text = os.path.expandvars(connection_string)
    unset = re.search(r"\$\{(\w+)\}", text)
    if unset:
        raise OnlineUrlError(f"online store: environment variable {unset.group(1)} is not set; it has to hold the store's URL")
    return text
