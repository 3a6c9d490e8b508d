"""The as-of offline store through a real Feast `FeatureStore`: every point of the rule, kind of source and thing it writes."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.repo_config import RepoConfig
from feast.types import Array, Bool, Float32, Float64, Int64, String, UnixTimestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from feature_repo.stores import offline_read, offline_source, offline_write
from feature_repo.stores.errors import EntityRowsError, KeyTypeError, SourceChangedError, SourceError
from feature_repo.stores.offline import AsOfOfflineStore, AsOfOfflineStoreConfig
from feature_repo.stores.offline_source import Source

STORE = "feature_repo.stores.offline.AsOfOfflineStore"
START = datetime(2024, 5, 26, 13, tzinfo=UTC)
DRIVER = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.STRING)
RACE = Entity(name="race", join_keys=["race_id"], value_type=ValueType.INT64)


def at(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(START) + pd.Timedelta(round(seconds * 1e6), unit="us")


def open_store(folder: Path, **options: Any) -> FeatureStore:
    config = RepoConfig(
        project="asof",
        provider="local",
        repo_path=folder,
        registry={"registry_type": "file", "path": str(folder / "registry.db")},
        offline_store={"type": STORE, **options},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
        data_quality_monitoring={"auto_baseline": False},
    )
    return FeatureStore(config=config)


def view(
    name: str, path: str | Path, fields: dict[str, Any], *, entities: Sequence[Entity] = (DRIVER,), **options: Any
) -> FeatureView:
    source = FileSource(
        name=f"{name}_source",
        path=str(path),
        timestamp_field=options.pop("event", "event_timestamp"),
        created_timestamp_column=options.pop("created", "created_timestamp"),
        field_mapping=options.pop("field_mapping", None),
    )
    schema = [Field(name=field, dtype=dtype) for field, dtype in fields.items()]
    return FeatureView(name=name, entities=list(entities), schema=schema, source=source, ttl=options.pop("ttl", timedelta(0)))


def rows(*records: tuple[Any, ...], columns: Sequence[str] = ("driver_id", "pace")) -> pd.DataFrame:
    """(key and features ..., event, created) with times in seconds after the start; created None: never known."""
    frame = pd.DataFrame.from_records([record[:-2] for record in records], columns=list(columns))
    for name, place in (("event_timestamp", -2), ("created_timestamp", -1)):
        frame[name] = pd.Series([None if r[place] is None else at(r[place]) for r in records], dtype="datetime64[us, UTC]")
    return frame


def asked(*pairs: tuple[Any, float]) -> pd.DataFrame:
    return pd.DataFrame({"driver_id": [key for key, _ in pairs], "event_timestamp": [at(seconds) for _, seconds in pairs]})


def answers(store: FeatureStore, entity_df: Any, features: Any = ("form:pace",), **options: Any) -> pd.DataFrame:
    job = store.get_historical_features(entity_df=entity_df, features=list(features), **options)
    frame, through_arrow = job.to_df(), job.to_arrow().to_pandas()
    given = [name for name in frame.columns if name in entity_df.columns]
    for name in given:  # entity columns keep their types
        pd.testing.assert_series_equal(
            pd.Series(pa.array(frame[name], from_pandas=True).to_pandas()), through_arrow[name], check_names=False
        )
    pd.testing.assert_frame_equal(frame.drop(columns=given), through_arrow.drop(columns=given))
    return frame


Home = Callable[..., FeatureStore]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """`home(frame, **options)`: a store with one view `form` of `pace` per driver over the rows of `frame`."""

    def build(
        frame: pd.DataFrame | pa.Table, *, fields: dict[str, Any] | None = None, config: Any = None, **options: Any
    ) -> FeatureStore:
        table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table, tmp_path / "form.parquet")
        store = open_store(tmp_path, **(config or {}))
        entities = options.get("entities", (DRIVER,))
        store.apply([*entities, view("form", "form.parquet", {"pace": Float64} if fields is None else fields, **options)])
        return store

    return build


# ---- the rule


def test_event_and_created_times_decide_together(home: Home) -> None:
    store = home(
        rows(
            ("norris", 1.0, 0, 0),
            ("norris", 2.0, 100, 100),
            ("norris", 3.0, 100, 500),  # a correction of the second event
            ("norris", 4.0, 200, 400),  # a newer event, known late
            ("norris", 9.0, 250, None),  # never known
        )
    )
    moments = (-1e-6, 0, 99.999999, 100, 300, 399.999999, 400, 600)
    got = answers(store, asked(*[("norris", moment) for moment in moments]))["pace"]
    np.testing.assert_array_equal(got, [np.nan, 1, 1, 2, 2, 2, 4, 4])


def test_a_tie_goes_to_the_newest_created_and_then_to_the_last_row(home: Home) -> None:
    store = home(rows(("norris", 3.0, 0, 9), ("norris", 1.0, 0, 1), ("norris", 2.0, 0, 5), ("norris", 2.5, 0, 5)))
    got = answers(store, asked(*[("norris", moment) for moment in (0.5, 1, 4.9, 5, 9)]))["pace"]
    np.testing.assert_array_equal(got, [np.nan, 1, 1, 2.5, 3])


def test_a_row_exactly_ttl_old_is_included(home: Home) -> None:
    store = home(rows(("norris", 1.0, 0, 0), ("norris", 2.0, 5, 90)), ttl=timedelta(seconds=60))
    got = answers(store, asked(("norris", 60), ("norris", 60.000001), ("norris", 64), ("norris", 95)))["pace"]
    np.testing.assert_array_equal(got, [1, np.nan, np.nan, np.nan])


def test_every_row_comes_back_in_its_place(home: Home) -> None:
    """Repeated, unsorted, unknown and null keys, other columns, an index of its own."""
    store = home(rows(("norris", 1.0, 0, 0), ("alonso", 2.0, 0, 0), (None, 5.0, 0, 0)))
    frame = asked(("norris", 9), ("nobody", 9), (None, 9), ("alonso", 1), ("norris", -1), ("norris", 9)).assign(
        note=list("abcdef")
    )
    frame.index = pd.Index([7, 7, 3, 1, 0, 2])
    before = frame.copy()
    got = answers(store, frame)
    pd.testing.assert_frame_equal(frame, before)
    np.testing.assert_array_equal(got["pace"], [1, np.nan, np.nan, 2, np.nan, 1])
    assert list(got["note"]) == list("abcdef")
    assert list(got.columns) == ["driver_id", "event_timestamp", "note", "pace"]
    assert list(got.index) == list(range(6))


def test_no_entity_rows_and_no_feature_rows(home: Home) -> None:
    store = home(rows(("norris", 1.0, 0, 0)).iloc[:0])
    assert np.isnan(answers(store, asked(("norris", 9)))["pace"].iloc[0])
    assert list(answers(store, asked(("norris", 9)).iloc[:0]).columns) == ["driver_id", "event_timestamp", "pace"]


_TIMES = st.integers(0, 5)
_RECORD = st.tuples(
    st.sampled_from(["a", "b", None]),
    st.sampled_from([1, 2]),
    _TIMES,
    st.sampled_from([0, 0, 1e-6, 1, 3, None]),
    st.sampled_from([0, 1e-6]),
)
_ASKED = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([1, 2, 3]), _TIMES, st.sampled_from([0, -1e-6, 1e-6])),
    min_size=1,
    max_size=25,
)


def oracle(records: list[tuple[Any, ...]], driver: Any, race: int, moment: float, ttl: float) -> float:
    best, value = None, np.nan
    for number, (driver_id, race_id, event, late, edge) in enumerate(records):
        if driver_id is None or (driver_id, race_id) != (driver, race) or late is None:
            continue
        event_at, created_at = at(event + edge), at(event + edge + late)
        if event_at > at(moment) or created_at > at(moment) or event_at < at(moment - ttl):
            continue
        if best is None or (event_at, created_at) >= best:
            best, value = (event_at, created_at), float(number)
    return value


@pytest.mark.parametrize("where", ["memory", "batches", "folder"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(_RECORD, min_size=1, max_size=30), questions=_ASKED)
def test_retrieval_is_the_rule(tmp_path: Path, where: str, records: list[Any], questions: list[Any]) -> None:
    """Two join keys, ttl, ties, late and missing created times, microseconds around every edge: from memory, in batches of a
    few rows, and from a folder partitioned by key."""
    store = open_store(tmp_path, memory_budget_gib=1e-7 if where == "batches" else 4.0)
    held = [
        (driver, race, float(number), event + edge, None if late is None else event + edge + late)
        for number, (driver, race, event, late, edge) in enumerate(records)
    ]
    frame = rows(*held, columns=("driver_id", "race_id", "pace"))
    name = f"form-{where}-{os.urandom(6).hex()}"
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if where == "folder":
        pq.write_to_dataset(table, tmp_path / name, partition_cols=["race_id"])
        # The order of exactly equal rows is that of the files.
        order = sorted(range(len(records)), key=lambda number: records[number][1])
    else:
        pq.write_table(table, tmp_path / name, row_group_size=3)
        order = list(range(len(records)))
    form = view("form", name, {"pace": Float64}, entities=(DRIVER, RACE), ttl=timedelta(seconds=2))
    store.apply([DRIVER, RACE, form])
    entity_df = pd.DataFrame(
        {
            "driver_id": [driver for driver, *_ in questions],
            "race_id": [race for _, race, *_ in questions],
            "event_timestamp": [at(moment + edge) for *_, moment, edge in questions],
        }
    )
    got = answers(store, entity_df)["pace"].to_numpy(dtype=float)
    ordered = [records[number] for number in order]
    expected = [oracle(ordered, driver, race, moment + edge, 2) for driver, race, moment, edge in questions]
    expected = [value if np.isnan(value) else float(order[int(value)]) for value in expected]
    np.testing.assert_array_equal(got, expected)


# ---- entity rows


def test_moments_of_any_zone_and_type(home: Home) -> None:
    store = home(rows(("norris", 1.0, 0, 0), ("norris", 2.0, 3600, 3600)))
    frame = pd.DataFrame({"driver_id": "norris", "event_timestamp": [at(0), at(3600)]})
    for times in (
        frame["event_timestamp"].dt.tz_localize(None),  # naive is UTC
        frame["event_timestamp"].dt.tz_convert("Asia/Tokyo"),
        frame["event_timestamp"].astype("datetime64[ns, UTC]"),
        frame["event_timestamp"].map(lambda moment: moment.isoformat()),
        frame["event_timestamp"].map(lambda moment: moment.to_pydatetime()).astype(object),
    ):
        got = answers(store, frame.assign(event_timestamp=times))
        np.testing.assert_array_equal(got["pace"], [1, 2])
        assert list(got["event_timestamp"]) == [at(0), at(3600)]
        assert str(got["event_timestamp"].dt.tz) == "UTC"


def test_the_time_column_is_found_as_feast_does(home: Home) -> None:
    store = home(rows(("norris", 1.0, 0, 0)))
    got = answers(store, asked(("norris", 1)).rename(columns={"event_timestamp": "lap_end"}))
    assert got["pace"].iloc[0] == 1
    with pytest.raises(Exception, match="event_timestamp"):
        answers(store, asked(("norris", 1)).assign(other=at(0)).rename(columns={"event_timestamp": "lap_end"}))


def test_an_empty_moment_knows_nothing(home: Home) -> None:
    store = home(rows(("norris", 1.0, 0, 0)))
    frame = asked(("norris", 1), ("norris", 1))
    frame.loc[0, "event_timestamp"] = pd.NaT
    np.testing.assert_array_equal(answers(store, frame)["pace"], [np.nan, 1])


@pytest.mark.parametrize(
    ("held", "keys", "expected"),
    [
        (pa.array([7, 8], pa.int32()), [8, 7, 9], [2, 1, np.nan]),
        (pa.array([7, 8], pa.int64()), [8.0, None, 7.5], [2, np.nan, np.nan]),
        (pa.array([b"a", b"b"]), [b"b", b"a", b""], [2, 1, np.nan]),
        (pa.array(["a", "b"]), pd.Series(["b", None, "a"], dtype="string"), [2, np.nan, 1]),
        (pa.array(["a", "b"]), pd.Categorical(["b", "z", "a"]), [2, np.nan, 1]),
        (pa.array([START, START + timedelta(1)], pa.timestamp("us", "UTC")), [at(86_400), at(0), pd.NaT], [2, 1, np.nan]),
    ],
)
def test_join_keys_of_any_type(home: Home, held: pa.Array, keys: Any, expected: list[float]) -> None:
    stamps = pa.array([START, START], pa.timestamp("us", "UTC"))
    table = pa.table({"driver_id": held, "pace": [1.0, 2.0], "event_timestamp": stamps, "created_timestamp": stamps})
    entity = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.UNKNOWN)
    store = home(table, entities=(entity,))
    got = answers(store, pd.DataFrame({"driver_id": keys, "event_timestamp": at(1)}))
    np.testing.assert_array_equal(got["pace"], expected)


def test_what_cannot_be_answered_is_refused(home: Home, tmp_path: Path) -> None:
    store = home(rows(("norris", 1.0, 0, 0)))
    with pytest.raises(EntityRowsError, match="got str, expected a pandas DataFrame"):
        store.get_historical_features(entity_df="SELECT 1", features=["form:pace"])
    with pytest.raises(EntityRowsError, match="lack join keys \\['driver_id'\\]"):
        answers(store, asked(("norris", 1)).drop(columns="driver_id"))
    with pytest.raises(EntityRowsError, match="\\['pace'\\] would name two columns"):
        answers(store, asked(("norris", 1)).assign(pace=1.0))
    with pytest.raises(KeyTypeError, match="join key driver_id: got int64, expected what the feature rows hold, string"):
        answers(store, asked((44, 1)))
    with pytest.raises(KeyTypeError, match="join key driver_id: the entity rows mix types"):
        answers(store, asked((44, 1), ("norris", 1)))
    with pytest.raises(TimeoutError, match="the timeout passed"):
        store.get_historical_features(entity_df=asked(("norris", 1)), features=["form:pace"]).to_df(timeout=-1)
    pq.write_table(pa.table({"driver_id": ["norris"]}), tmp_path / "form.parquet")
    with pytest.raises(SourceError, match="form_source: lacks \\['event_timestamp', 'created_timestamp', 'pace'\\]"):
        answers(store, asked(("norris", 1)))
    (tmp_path / "form.parquet").write_bytes(b"no Parquet")
    with pytest.raises(SourceError, match="no readable Parquet"):
        answers(store, asked(("norris", 1)))
    (tmp_path / "form.parquet").unlink()
    with pytest.raises(SourceError, match="no Parquet file at"):
        answers(store, asked(("norris", 1)))


# ---- views


def test_join_key_map_and_names_with_their_view(home: Home) -> None:
    store = home(rows(("norris", 1.0, 0, 0), ("alonso", 2.0, 0, 0)))
    form = store.get_feature_view("form")
    ahead = form.with_name("ahead").with_join_key_map({"driver_id": "ahead_id"})
    behind = form.with_name("behind").with_join_key_map({"driver_id": "behind_id"})
    store.apply([FeatureService(name="duel", features=[ahead, behind])])
    frame = asked(("norris", 1), ("alonso", 1)).assign(ahead_id=["alonso", "norris"], behind_id=["nobody", "alonso"])
    job = store.get_historical_features(entity_df=frame, features=store.get_feature_service("duel"), full_feature_names=True)
    got = job.to_df()
    assert list(got.columns) == [*frame.columns, "ahead__pace", "behind__pace"]
    np.testing.assert_array_equal(got[["ahead__pace", "behind__pace"]], [[2, np.nan], [1, 2]])


def test_field_mapping_and_other_names_of_times(home: Home) -> None:
    frame = rows(("norris", 1.0, 0, 5)).rename(
        columns={"pace": "p", "driver_id": "drv", "event_timestamp": "t", "created_timestamp": "known"}
    )
    mapping = {"p": "pace", "drv": "driver_id"}
    store = home(frame, field_mapping=mapping, event="t", created="known")
    np.testing.assert_array_equal(answers(store, asked(("norris", 4), ("norris", 5)))["pace"], [np.nan, 1])


def test_a_view_without_created_column_and_one_without_keys(home: Home, tmp_path: Path) -> None:
    store = home(rows(("norris", 1.0, 0, 50)), created="")
    pq.write_table(pa.Table.from_pandas(rows((0.5, 10, 20), columns=("grip",)), preserve_index=False), tmp_path / "track.parquet")
    store.apply([view("track", "track.parquet", {"grip": Float64}, entities=())])
    got = answers(store, asked(("norris", 0), ("norris", 20), (None, 30)), ["form:pace", "track:grip"])
    np.testing.assert_array_equal(got[["pace", "grip"]], [[1, np.nan], [1, 0.5], [np.nan, 0.5]])


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")
def test_on_demand_views_see_the_request_and_the_features(home: Home) -> None:
    store = home(rows(("norris", 1.0, 0, 0)))
    request = RequestSource(name="lap", schema=[Field(name="lap", dtype=Int64)])

    @on_demand_feature_view(sources=[store.get_feature_view("form"), request], schema=[Field(name="pace_sum", dtype=Float64)])
    def summed(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"pace_sum": inputs["pace"] + inputs["lap"]})

    store.apply([summed])
    got = answers(store, asked(("norris", 1), ("nobody", 1)).assign(lap=[3, 4]), ["form:pace", "summed:pace_sum"])
    np.testing.assert_array_equal(got["pace_sum"], [4, np.nan])


def test_types_are_those_of_arrow_in_pandas(home: Home) -> None:
    stamps = pa.array([START, START], pa.timestamp("us", "UTC"))
    held = {
        "f32": pa.array([0.1, None], pa.float32()),
        "i64": pa.array([(1 << 60) + 1, None], pa.int64()),
        "i8": pa.array([1, 2], pa.int8()),
        "flag": pa.array([True, None]),
        "text": pa.array(["x", None]),
        "raw": pa.array([b"x", None]),
        "when": pa.array([START, None], pa.timestamp("us", "UTC")),
        "vector": pa.array([[1.0, 2.0], None], pa.list_(pa.float32())),
        "words": pa.array([["a"], []], pa.list_(pa.string())),
    }
    table = pa.table({"driver_id": ["norris", "alonso"], **held, "event_timestamp": stamps, "created_timestamp": stamps})
    types = [Float32, Int64, Int64, Bool, String, String, UnixTimestamp, Array(Float32), Array(String)]
    store = home(table, fields=dict(zip(held, types, strict=True)))
    refs = [f"form:{name}" for name in held]
    known = answers(store, asked(("norris", 1), ("norris", 2)), refs)
    assert known["f32"].dtype == np.float32
    assert known["i64"].tolist() == [(1 << 60) + 1] * 2
    assert known["flag"].dtype == np.bool_
    assert known["text"].tolist() == ["x", "x"]
    assert known["when"].iloc[0] == at(0)
    assert known["vector"].iloc[1].tolist() == [1.0, 2.0]
    some = answers(store, asked(("norris", 1), ("alonso", 1), ("nobody", 1)), refs)
    assert some["i64"].dtype == some["i8"].dtype == np.float64
    assert some["flag"].tolist() == [True, None, None]
    assert some["text"].tolist() == ["x", None, None]
    assert some["words"].iloc[2] is None


@pytest.mark.parametrize(
    ("type_", "shown"),
    [
        (pa.timestamp("ns"), "ns"),
        (pa.timestamp("us"), "naive"),
        (pa.timestamp("ms", "Asia/Tokyo"), "zone"),
        (pa.date32(), "date"),
    ],
)
def test_sources_with_times_of_any_type(home: Home, type_: pa.DataType, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where pyarrow was told to forget zones, which some users of Spark do."""
    days = [datetime(2024, 5, day, tzinfo=UTC) for day in (26, 27)]
    values = [day.date() for day in days] if shown == "date" else days
    stamps = pa.array(values, type_)
    table = pa.table({"driver_id": ["norris"] * 2, "pace": [1.0, 2.0], "event_timestamp": stamps, "created_timestamp": stamps})
    store = home(table)
    monkeypatch.setenv("PYARROW_IGNORE_TIMEZONE", "1")
    frame = pd.DataFrame({"driver_id": "norris", "event_timestamp": [*days, days[1] - timedelta(microseconds=1)]})
    np.testing.assert_array_equal(answers(store, frame)["pace"], [1, 2, 1])
    np.testing.assert_array_equal(answers(store, frame.iloc[:1])["pace"], [1])


# ---- sources


def _season_rows() -> pd.DataFrame:
    records = [(f"driver_{n % 5}", float(n), 1000.0 * n, 1000.0 * n + (5000 if n % 7 == 0 else 0)) for n in range(200)]
    return rows(*records).assign(season=np.arange(200) // 50 + 2020)


def _season_questions() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    return asked(*[(f"driver_{rng.integers(6)}", float(rng.integers(-1000, 210_000))) for _ in range(300)])


@pytest.mark.parametrize("kind", ["folder", "hive", "groups", "batches", "relative"])
def test_sources_of_any_kind_answer_alike(home: Home, tmp_path: Path, kind: str) -> None:
    table = pa.Table.from_pandas(_season_rows(), preserve_index=False)
    expected = answers(home(table), _season_questions())
    assert expected["pace"].notna().sum() > 200
    path = tmp_path / "again"
    if kind == "folder":
        path.mkdir()
        for number in range(4):
            pq.write_table(table.slice(50 * number, 50), path / f"part-{number}.parquet")
        (path / "_SUCCESS").write_text("")
        (path / ".tmp-half.parquet").write_bytes(b"half")
    elif kind == "hive":
        pq.write_to_dataset(table, path, partition_cols=["season", "driver_id"])
    else:
        path = tmp_path / "again.parquet"
        pq.write_table(table, path, row_group_size=20)
    store = open_store(tmp_path, memory_budget_gib=5e-6 if kind == "batches" else 1.0)
    store.apply([DRIVER, view("form", "again.parquet" if kind == "relative" else path, {"pace": Float64})])
    pd.testing.assert_frame_equal(answers(store, _season_questions()), expected)


def test_only_columns_and_row_groups_that_can_matter_are_read(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = home(rows(("norris", 1.0, 0, 0)))
    pq.write_table(pa.Table.from_pandas(_season_rows(), preserve_index=False), tmp_path / "form.parquet", row_group_size=10)
    read: list[tuple[int, tuple[str, ...]]] = []
    original = Source.read

    def noting(self: Source, groups: Any, columns: Any) -> pa.Table:
        read.append((len(groups), tuple(columns)))
        return original(self, groups, columns)

    monkeypatch.setattr(Source, "read", noting)
    store.apply([view("form", "form.parquet", {"pace": Float64}, ttl=timedelta(seconds=10_000))])
    answers(store, asked(("driver_1", 101_500), ("driver_1", 103_000)))
    assert read == [(2, ("driver_id", "event_timestamp", "created_timestamp")), (2, ("pace",))]
    read.clear()
    answers(store, asked(("driver_1", 101_500), ("driver_1", 103_000)))
    assert read == []  # from memory
    answers(store, asked(("driver_1", 0), ("driver_1", 200_000)))
    assert [n for n, _ in read] == [20, 20]


def test_a_replaced_file_is_read_again(home: Home, tmp_path: Path) -> None:
    store = home(rows(("norris", 1.0, 0, 0)))
    assert answers(store, asked(("norris", 1)))["pace"].iloc[0] == 1
    for value in (2.0, 3.0):
        pq.write_table(pa.Table.from_pandas(rows(("norris", value, 0, 0)), preserve_index=False), tmp_path / "new")
        (tmp_path / "new").replace(tmp_path / "form.parquet")
        assert answers(store, asked(("norris", 1)))["pace"].iloc[0] == value


def test_a_file_that_is_replaced_while_it_is_read_is_never_mixed(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of times and that of features another table takes the file's place."""
    tables = [rows(("norris", 1.0, 0, 0), ("norris", 2.0, 5, 5)), rows(("norris", 4.0, 5, 5), ("norris", 3.0, 0, 0))]
    store = home(tables[0])
    original, left = offline_read._built, [1]

    def replacing(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            pq.write_table(pa.Table.from_pandas(tables[1], preserve_index=False), tmp_path / "new")
            (tmp_path / "new").replace(tmp_path / "form.parquet")
        return original(*arguments)

    monkeypatch.setattr(offline_read, "_built", replacing)
    assert answers(store, asked(("norris", 9)))["pace"].iloc[0] == 4
    offline_read.CACHE.clear()
    left[0] = 99
    with pytest.raises(SourceChangedError, match="changed 5 times"):
        answers(store, asked(("norris", 9)))


def test_many_threads_share_one_index(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = home(_season_rows())
    questions, built, original = _season_questions(), [], offline_read._built
    monkeypatch.setattr(offline_read, "_built", lambda *arguments: built.append(1) or original(*arguments))
    barrier = threading.Barrier(8)

    def ask(_: int) -> pd.DataFrame:
        barrier.wait()
        return store.get_historical_features(entity_df=questions, features=["form:pace"]).to_df()

    with ThreadPoolExecutor(8) as pool:
        frames = list(pool.map(ask, range(8)))
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])
    assert len(built) == 1


def test_long_lists_are_counted_for_what_they_are(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source whose lists do not fit the budget is read in batches, though its rows are few."""
    stamps = pa.array([START] * 300, pa.timestamp("us", "UTC"))
    vectors = np.random.default_rng(7).normal(size=(300, 512)).astype(np.float32)
    drivers = [f"driver_{number}" for number in range(300)]
    held = pa.array(list(vectors), pa.list_(pa.float32()))
    table = pa.table({"driver_id": drivers, "pace": held, "event_timestamp": stamps, "created_timestamp": stamps})
    store = home(table, fields={"pace": Array(Float32)}, config={"memory_budget_gib": 500_000 / (1 << 30)})
    monkeypatch.delattr(offline_read, "_columns")  # what would read a whole column
    pq.write_table(table, tmp_path / "form.parquet", row_group_size=50)
    got = store.get_historical_features(
        entity_df=asked(*[(driver, 1) for driver in drivers[::-1]]), features=["form:pace"]
    ).to_df()
    np.testing.assert_array_equal(np.stack(got["pace"].to_list()), vectors[::-1])


def test_the_cache_keeps_to_its_limit(home: Home) -> None:
    offline_read.CACHE.clear()
    store = home(_season_rows(), config={"cache_gib": 0.0})
    answers(store, _season_questions())
    assert offline_read.CACHE.nbytes == 0
    store.config.offline_store.cache_gib = 1.0
    answers(store, _season_questions())
    assert 0 < offline_read.CACHE.nbytes < 100_000


def test_a_source_in_a_bucket(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any pyarrow file system but the local one: listed, read and written through its own calls."""
    store = home(_season_rows())
    expected = answers(store, _season_questions())
    bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    for module in (offline_source, offline_write):
        monkeypatch.setattr(module, "locate", lambda source, _: (bucket, source.path))
    pd.testing.assert_frame_equal(answers(store, _season_questions()), expected)
    pq.write_to_dataset(
        pa.Table.from_pandas(_season_rows(), preserve_index=False), tmp_path / "folder", partition_cols=["season"]
    )
    store.apply([view("form", "folder", {"pace": Float64})])
    pd.testing.assert_frame_equal(answers(store, _season_questions()), expected)
    store.write_to_offline_store("form", rows(("driver_9", 2.0, 50, 50)).assign(season=2024))
    assert answers(store, asked(("driver_9", 60)))["pace"].tolist() == [2.0]
    job = store.get_historical_features(entity_df=asked(("driver_9", 60)), features=["form:pace"])
    for path in ("saved.parquet", "saved"):
        for _ in range(2):
            job.persist(SavedDatasetFileStorage(path=path), allow_overwrite=True)
        assert pq.read_table(tmp_path / path).num_rows == 1


# ---- without entity rows


def test_without_entity_rows_every_key_is_told_at_the_end(home: Home) -> None:
    store = home(
        rows(
            ("norris", 1.0, 0, 0),
            ("norris", 2.0, 50, 50),
            ("alonso", 3.0, 40, 90),
            ("piastri", 4.0, 10, 20),
            ("sainz", 5.0, -99, -99),
        )
    )
    job = store.get_historical_features(features=["form:pace"], start_date=at(0), end_date=at(60))
    got = job.to_df().sort_values("driver_id", ignore_index=True)
    assert got["driver_id"].tolist() == ["norris", "piastri"]  # alonso's row was not known yet, sainz had none since the start
    assert got["pace"].tolist() == [2.0, 4.0]
    assert set(got["event_timestamp"]) == {at(60)}


# ---- pull and write


def test_pull_latest_and_pull_all(home: Home) -> None:
    frame = rows(
        ("norris", 1.0, 0, 0),
        ("alonso", 5.0, 3, 3),
        ("norris", 3.0, 10, 90),
        ("norris", 2.0, 10, 20),
        (None, 7.0, 3, 3),
        ("norris", 9.0, 99, None),
    )
    store = home(frame)
    source = store.get_feature_view("form").batch_source
    for budget in (4.0, 1e-7):
        store.config.offline_store.memory_budget_gib = budget
        pull = [store.config, source, ["driver_id"], ["pace"], "event_timestamp", "created_timestamp"]
        latest = AsOfOfflineStore.pull_latest_from_table_or_query(*pull, at(0), at(100)).to_df()
        assert latest[["driver_id", "pace"]].to_numpy().tolist() == [["alonso", 5.0], ["norris", 3.0]]
        assert list(latest.columns) == ["driver_id", "pace", "event_timestamp", "created_timestamp"]
        earlier = AsOfOfflineStore.pull_latest_from_table_or_query(*pull, at(-1), at(9.999999)).to_df()
        assert earlier["pace"].tolist() == [1.0, 5.0]
        everything = AsOfOfflineStore.pull_all_from_table_or_query(*pull).to_arrow()
        assert everything.column("pace").to_pylist() == [1.0, 5.0, 3.0, 2.0, 7.0, 9.0]
        window = AsOfOfflineStore.pull_all_from_table_or_query(*pull, at(3), at(10)).to_df()
        assert window["pace"].tolist() == [5.0, 3.0, 2.0, 7.0]
    keyless = AsOfOfflineStore.pull_latest_from_table_or_query(
        store.config, source, [], ["pace"], "event_timestamp", None, at(0), at(50)
    ).to_df()
    assert keyless["pace"].tolist() == [2.0]
    assert keyless["__dummy_id"].tolist() == [""]


def test_feast_materializes_from_the_store(home: Home) -> None:
    store = home(rows(("norris", 1.0, 0, 0), ("norris", 2.0, 10, 20)))
    store.materialize(start_date=at(-10), end_date=at(60))
    online = store.get_online_features(features=["form:pace"], entity_rows=[{"driver_id": "norris"}]).to_dict()
    assert online["pace"] == [2.0]


@pytest.mark.parametrize("path", ["saved.parquet", "saved"])
@pytest.mark.filterwarnings("ignore:.*experimental feature:RuntimeWarning")
def test_saved_datasets(home: Home, tmp_path: Path, path: str) -> None:
    store = home(rows(("norris", 1.0, 0, 0), ("alonso", 2.0, 0, 0)))
    for entity_df, expected in ((asked(("norris", 1), ("norris", 5)), [1.0, 1.0]), (asked(("alonso", 1)), [2.0])):
        job = store.get_historical_features(entity_df=entity_df, features=["form:pace"])
        storage = SavedDatasetFileStorage(path=path)
        saved = store.create_saved_dataset(from_=job, name="training", storage=storage, allow_overwrite=True)
        assert saved.to_df()["pace"].tolist() == expected
        assert store.get_saved_dataset("training").to_df()["pace"].tolist() == expected
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        store.create_saved_dataset(from_=job, name="training", storage=SavedDatasetFileStorage(path=path))
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("kind", ["file", "folder", "hive"])
def test_rows_are_appended_to_a_source(home: Home, tmp_path: Path, kind: str) -> None:
    frame = rows(("norris", 1.0, 0, 0)).assign(season=2024)
    store = home(frame)
    if kind != "file":
        options: dict[str, Any] = {"partition_cols": ["season"]} if kind == "hive" else {}
        pq.write_to_dataset(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "folder", **options)
        store.apply([view("form", "folder", {"pace": Float64})])
    assert answers(store, asked(("norris", 60)))["pace"].tolist() == [1.0]
    store.write_to_offline_store("form", rows(("norris", 2.0, 50, 50), ("alonso", 3.0, 0, 0)).assign(season=[2024, 2025]))
    assert answers(store, asked(("norris", 60), ("norris", 40), ("alonso", 1)))["pace"].tolist() == [2.0, 1.0, 3.0]
    with pytest.raises(SourceError, match="expected in this order"):
        AsOfOfflineStore.offline_write_batch(store.config, store.get_feature_view("form"), pa.table({"pace": [1.0]}), None)


@pytest.mark.parametrize("partition_by", [None, ["race_id"]])
def test_logged_features_come_back(home: Home, tmp_path: Path, partition_by: list[str] | None) -> None:
    store = home(rows(("norris", 1.0, 0, 0)))
    destination = FileLoggingDestination(path="log", partition_by=partition_by)
    service = FeatureService(
        name="logged", features=[store.get_feature_view("form")], logging_config=LoggingConfig(destination=destination)
    )
    store.apply([service])
    logs = pa.table(
        {"driver_id": ["norris"], "race_id": [8], "pace": [1.5], "event_timestamp": pa.array([START], pa.timestamp("us", "UTC"))}
    )
    pq.write_table(logs, tmp_path / "spill.parquet")
    for data in (logs, tmp_path / "spill.parquet"):
        AsOfOfflineStore.write_logged_features(store.config, data, None, service.logging_config, store.registry)
    pulled = AsOfOfflineStore.pull_all_from_table_or_query(
        store.config, destination.to_data_source(), ["driver_id"], ["pace", "race_id"], "event_timestamp", None, at(-1), at(1)
    ).to_df()
    assert pulled[["driver_id", "pace", "race_id"]].to_numpy().tolist() == [["norris", 1.5, 8]] * 2


def test_settings_come_from_the_yaml(tmp_path: Path) -> None:
    text = (
        f"project: a\nprovider: local\nregistry: {tmp_path}/registry.db\nentity_key_serialization_version: 3\n"
        f"offline_store: {{type: {STORE}, cache_gib: 0.5}}\nonline_store: null\n"
    )
    (tmp_path / "feature_store.yaml").write_text(text)
    offline = FeatureStore(repo_path=str(tmp_path)).config.offline_store
    assert offline == AsOfOfflineStoreConfig(cache_gib=0.5)


def test_a_date_is_a_midnight(home: Home) -> None:
    """Entity rows whose moments are dates."""
    store = home(rows(("norris", 1.0, -13 * 3600, -13 * 3600)))
    frame = pd.DataFrame({"driver_id": ["norris"] * 2, "event_timestamp": [date(2024, 5, 26), date(2024, 5, 25)]})
    np.testing.assert_array_equal(answers(store, frame)["pace"], [1, np.nan])
