"""Typed reading of source files: a frame whose columns are what was declared, or an error naming file, row and column.

Every frame read here carries two more columns: `FILE` (name of the file below its path) and `ROW` (1-based data row), so that a
row can be traced back from the quarantine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import SourceFormatError

FILE, ROW = "_file", "_row"
Kind = Literal["str", "int", "float", "bool", "duration", "time"]
_NULL_TEXT = ["\\N", ""]
_NULL_STRINGS = ("nan", "None", "NaN", "NaT", "<NA>", "")


def read_csv(root: Path, file: Path, columns: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> pd.DataFrame:
    r"""The declared columns of a CSV file in which `\N` and empty mean null.

    Args:
        root: path the file was found below; `FILE` is relative to it.
        file: the file.
        columns: column -> kind; a missing one is an error.
        optional: column -> kind; a missing one is all null.
    Raises:
        SourceFormatError: unreadable, not CSV, a column is missing, or a value is not of its kind.
    """
    try:
        raw = pd.read_csv(file, dtype=str, na_values=_NULL_TEXT, keep_default_na=False, encoding="utf-8")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise SourceFormatError(
            file, got=f"{type(error).__name__}: {error}", expected="a CSV file in UTF-8 with a header"
        ) from error
    wanted = _declared(file, list(raw.columns), columns, optional)
    typed = {
        name: _from_text(file, name, raw[name], kind) if name in raw else _nulls(len(raw), kind) for name, kind in wanted.items()
    }
    return _traced(pd.DataFrame(typed), root, file)


def read_parquet(root: Path, file: Path, columns: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> pd.DataFrame:
    """The declared columns of a Parquet file; arguments and errors as `read_csv`.

    `duration` columns come as float seconds (session clock), `str` columns with the texts `nan` and `None` as nulls.
    """
    try:
        handle = pq.ParquetFile(file)
        wanted = _declared(file, handle.schema_arrow.names, columns, optional)
        present = [name for name in wanted if name in handle.schema_arrow.names]
        raw = handle.read(columns=present)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise SourceFormatError(file, got=f"{type(error).__name__}: {error}", expected="a Parquet file") from error
    typed = {
        name: _from_arrow(file, name, raw.column(name), kind) if name in present else _nulls(raw.num_rows, kind)
        for name, kind in wanted.items()
    }
    return _traced(pd.DataFrame(typed), root, file)


def no_rows(numbers: list[str], others: list[str]) -> pd.DataFrame:
    """An empty frame of float columns `numbers` and object columns `others`, fit for joins with frames read here."""
    return pd.DataFrame(
        {**{name: pd.Series(dtype="float64") for name in numbers}, **{name: pd.Series(dtype=object) for name in others}}
    )


def season_counts(file: Path, column: str) -> dict[int, int]:
    """Season -> number of rows (0 stands for rows without one), from one column of a Parquet file.

    Raises:
        SourceFormatError: as `read_parquet`.
    """
    seasons = read_parquet(file.parent, file, {column: "int"})[column]
    return {int(season): int(count) for season, count in seasons.fillna(0).value_counts().items()}


def parse_clock(file: str, column: str, texts: "pd.Series[Any]", rows: "pd.Series[int]") -> "pd.Series[float]":
    """`1:29.179` -> 89.179 seconds; null stays null.

    Raises:
        SourceFormatError: a text has another form.
    """
    parts = texts.str.extract(r"^(?:(?P<h>\d+):)?(?:(?P<m>\d+):)?(?P<s>\d+(?:\.\d+)?)$")
    # with one colon the only leading group that matched is minutes
    hours = parts["h"].where(parts["m"].notna())
    minutes = parts["m"].fillna(parts["h"])
    seconds = hours.astype(float).fillna(0) * 3600 + minutes.astype(float).fillna(0) * 60 + parts["s"].astype(float)
    wrong = texts.notna() & seconds.isna()
    if wrong.any():
        first = wrong.idxmax()
        raise SourceFormatError(
            file, row=int(rows[first]), column=column, got=repr(texts[first]), expected="a time such as '1:29.179'"
        )
    return seconds


def _declared(file: Path, found: list[str], columns: Mapping[str, Kind], optional: Mapping[str, Kind] | None) -> dict[str, Kind]:
    missing = [name for name in columns if name not in found]
    if missing:
        raise SourceFormatError(
            file,
            column=missing[0],
            got=f"no such column (found {', '.join(map(str, found))})",
            expected=f"columns {', '.join(columns)}",
        )
    return {**columns, **(optional or {})}


def _traced(frame: pd.DataFrame, root: Path, file: Path) -> pd.DataFrame:
    frame[FILE] = file.relative_to(root).as_posix()
    frame[ROW] = pd.RangeIndex(1, len(frame) + 1)
    return frame


def _nulls(n: int, kind: Kind) -> "pd.Series[Any]":
    dtypes = {"str": "object", "int": "float64", "float": "float64", "duration": "float64", "bool": "boolean"}
    if kind == "time":
        return pd.Series(pd.NaT, index=range(n), dtype="datetime64[us, UTC]")
    return pd.Series(None, index=range(n), dtype=dtypes[kind])


def _from_text(file: Path, name: str, texts: "pd.Series[Any]", kind: Kind) -> "pd.Series[Any]":
    if kind == "str":
        return texts.astype(object).where(texts.notna(), None)
    if kind == "time":
        values = pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601").dt.as_unit("us")
    elif kind == "bool":
        values = texts.str.lower().map({"true": True, "false": False}).astype("boolean")
    else:
        values = pd.to_numeric(texts, errors="coerce").astype("float64")
    wrong = texts.notna() & values.isna()
    if kind == "int":
        wrong |= values.notna() & (values % 1 != 0)
    _refuse(file, name, texts, wrong, kind)
    return values


def _from_arrow(file: Path, name: str, column: pa.ChunkedArray, kind: Kind) -> "pd.Series[Any]":
    type_ = column.type
    number = pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_null(type_)
    fits = {
        "str": pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_null(type_),
        "int": number,
        "float": number,
        "bool": pa.types.is_boolean(type_) or pa.types.is_null(type_),
        "duration": pa.types.is_duration(type_),
        "time": pa.types.is_timestamp(type_),
    }[kind]
    if pa.types.is_dictionary(type_):
        return _from_arrow(file, name, column.dictionary_decode(), kind)
    if kind in ("int", "float") and pa.types.is_string(type_):
        texts = column.to_pandas().astype(object)
        return _from_text(file, name, texts.where(texts.notna() & ~texts.isin(_NULL_STRINGS), None), kind)
    if not fits:
        example = next((value.as_py() for value in column if value.is_valid), None)
        raise SourceFormatError(file, row=1, column=name, got=f"{type_} ({example!r})", expected=f"{kind} values")
    if kind == "duration":
        # Seconds as float64 hold microseconds exactly enough for a day, and arithmetic on them is plain.
        return column.cast(pa.duration("us"), safe=False).cast(pa.int64()).to_pandas() / 1e6
    if kind == "time":
        values = column.cast(pa.timestamp("us", tz=type_.tz), safe=False).to_pandas()
        return values.dt.tz_localize("UTC") if values.dt.tz is None else values.dt.tz_convert("UTC")
    if kind == "bool":
        return column.to_pandas().astype("boolean")
    if kind == "str":
        texts = column.to_pandas().astype(object)
        return texts.where(texts.notna() & ~texts.isin(_NULL_STRINGS), None)
    values = column.to_pandas().astype("float64")
    if kind == "int":
        _refuse(file, name, values, values.notna() & (values % 1 != 0), kind)
    return values


def _refuse(file: Path, name: str, values: "pd.Series[Any]", wrong: "pd.Series[bool]", kind: Kind) -> None:
    if wrong.any():
        first = int(wrong.to_numpy().argmax())
        expected = {"int": "a whole number", "float": "a number", "bool": "true or false", "time": "an ISO-8601 time"}[kind]
        raise SourceFormatError(file, row=first + 1, column=name, got=repr(values.iloc[first]), expected=expected)
