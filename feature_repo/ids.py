"""The form of ids, checked before an id becomes part of a path or a query.

`race_id` is `<season>_<round, two digits>` (`2024_08`); `driver_id`, `constructor_id` and `circuit_id` are Ergast/Jolpica
references (`max_verstappen`, `red_bull`, `monaco`): lower-case ASCII letters, digits and underscores.
"""

import re

from feature_repo.errors import InvalidIdError

_RACE_ID = re.compile(r"(19[5-9]\d|20\d\d)_(0[1-9]|[1-9]\d)", re.ASCII)
_REF = re.compile(r"[a-z0-9_]{1,64}", re.ASCII)


def validate_race_id(race_id: str) -> str:
    """Return `race_id` unchanged if it has the form `2024_08`.

    Raises:
        InvalidIdError: it has any other form (a path, a number, spaces, a season before 1950, round 0).
    """
    if not isinstance(race_id, str) or _RACE_ID.fullmatch(race_id) is None:
        raise InvalidIdError(f"race_id: got {_shown(race_id)}, expected <season>_<round> such as '2024_08'")
    return race_id


def validate_ref(kind: str, ref: str) -> str:
    """Return the driver, constructor or circuit reference unchanged if it is `[a-z0-9_]+`, at most 64 characters.

    Args:
        kind: the column the id came from (`driver_id`), named in the error.
        ref: the id.
    Raises:
        InvalidIdError: it contains anything else, or is empty, or too long.
    """
    if not isinstance(ref, str) or _REF.fullmatch(ref) is None:
        raise InvalidIdError(f"{kind}: got {_shown(ref)}, expected lower-case letters, digits and '_' such as 'max_verstappen'")
    return ref


def validate_driver_id(driver_id: str) -> str:
    """`validate_ref` for a driver."""
    return validate_ref("driver_id", driver_id)


def make_race_id(season: int, round_: int) -> str:
    """`2024, 8` -> `2024_08`.

    Raises:
        InvalidIdError: season outside 1950-2099 or round outside 1-99.
    """
    return validate_race_id(f"{season}_{round_:02d}")


def split_race_id(race_id: str) -> tuple[int, int]:
    """`2024_08` -> `(2024, 8)`: season and round."""
    season, round_ = validate_race_id(race_id).split("_")
    return int(season), int(round_)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
