"""The declared tables agree with each other, with the schemas made from them and with the documentation."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import schemas
from pipelines.errors import LakeSchemaError, UnknownTableError

DOCS = Path(__file__).resolve().parents[3] / "docs" / "data-model.md"


@pytest.mark.parametrize("name", list(schemas.TABLES))
def test_schema_and_disk_types_follow_the_declaration(name: str) -> None:
    spec = schemas.TABLES[name]
    assert list(schemas.SCHEMAS[name].columns) == spec.columns
    assert schemas.arrow_schema(name).names == spec.columns
    assert set(spec.key) <= set(spec.columns)
    assert spec.columns[-3:] == ["event_timestamp", "created_timestamp", "source"]
    assert "season" in spec.columns
    stamps = [field for field in schemas.arrow_schema(name) if pa.types.is_timestamp(field.type)]
    assert all(field.type == pa.timestamp("us", tz="UTC") for field in stamps)


@pytest.mark.parametrize("name", list(schemas.TABLES))
def test_every_table_and_column_is_documented(name: str) -> None:
    section = DOCS.read_text(encoding="utf-8").split(f"### {name}\n")[1].split("\n### ")[0]
    missing = [column for column in schemas.TABLES[name].columns if f"`{column}`" not in section]
    assert missing == []


def test_columns_with_a_unit_say_it() -> None:
    units = {
        "_s": "seconds",
        "_kph": "km/h",
        "_km": "kilomet",
        "_m": "metres",
        "_c": "Celsius",
        "_pct": "percent",
        "_deg": "degrees",
    }
    for spec in schemas.TABLES.values():
        for column, col in spec.cols.items():
            for suffix, unit in units.items():
                if column.endswith(suffix) and col.kind == "float":
                    assert unit in col.description, f"{spec.name}.{column}"


def test_unknown_table() -> None:
    with pytest.raises(UnknownTableError, match="expected one of circuits"):
        schemas.table("results")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(LakeSchemaError, match=r"missing columns \['lap'\]"):
        schemas.conform("laps", schemas.empty_frame("laps").drop(columns="lap"))
