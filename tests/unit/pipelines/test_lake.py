"""The lake replaces partitions whole, reads them back as declared, and never mixes simulated with real rows."""

from pathlib import Path

import pandas as pd
import pytest

from feature_repo.errors import InvalidIdError
from pipelines import schemas
from pipelines.errors import LakeSchemaError, MixedLakeError, UnknownTableError
from pipelines.lake import Lake


def weather(season: int = 2030, rows: int = 3, source: str = "files") -> pd.DataFrame:
    at = pd.Timestamp(f"{season}-03-10T13:00:00Z") + pd.to_timedelta(range(rows), unit="min")
    return pd.DataFrame(
        {
            "race_id": f"{season}_01",
            "season": season,
            "round": 1,
            "air_temp_c": 20.5,
            "track_temp_c": 30.0,
            "humidity_pct": 50.0,
            "pressure_mbar": 1000.0,
            "is_raining": False,
            "wind_direction_deg": 90.0,
            "wind_speed_mps": 1.5,
            "event_timestamp": at,
            "created_timestamp": at,
            "source": source,
        }
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_an_empty_lake_reads_as_empty_frames_of_the_declared_types(lake: Lake) -> None:
    for name, spec in schemas.TABLES.items():
        frame = lake.read(name)
        assert frame.columns.tolist() == spec.columns
        assert {column: str(frame[column].dtype) for column in frame} == {column: col.dtype for column, col in spec.cols.items()}
    assert lake.seasons("laps") == []
    assert set(lake.counts().values()) == {0}


def test_write_then_read_gives_the_rows_back_in_key_order(lake: Lake) -> None:
    frame = weather()
    lake.write("weather", 2030, frame.sample(frac=1, random_state=1))
    back = lake.read("weather")
    assert back["event_timestamp"].tolist() == frame["event_timestamp"].tolist()
    assert str(back["event_timestamp"].dtype) == "datetime64[us, UTC]"
    assert lake.counts()["weather"] == 3
    assert lake.path("weather", 2030).relative_to(lake.root).as_posix() == "weather/season=2030/part.parquet"


def test_seasons_and_columns_select(lake: Lake) -> None:
    for season in (2031, 2030):
        lake.write("weather", season, weather(season))
    assert lake.seasons("weather") == [2030, 2031]
    assert lake.read("weather", [2031, 2031, 1999])["season"].tolist() == [2031] * 3
    assert lake.read("weather", columns=["air_temp_c", "race_id"]).columns.tolist() == ["air_temp_c", "race_id"]
    assert lake.read("weather", [1999], ["round"]).dtypes.astype(str).to_dict() == {"round": "int64"}


def test_nullable_integers_and_booleans_survive_a_round_trip(lake: Lake) -> None:
    at = pd.Timestamp("2030-03-10T13:01:30Z")
    lap = {
        **dict.fromkeys(schemas.TABLES["laps"].columns),
        "race_id": "2030_01",
        "season": 2030,
        "round": 1,
        "driver_id": "anna_a",
        "lap": 1,
        "lap_start": at,
        "stint": 1,
        "track_status": "1",
        "is_accurate": True,
        "event_timestamp": at,
        "created_timestamp": at,
        "source": "files",
    }
    lake.write("laps", 2030, pd.DataFrame([lap]))
    back = lake.read("laps").iloc[0]
    assert pd.isna(back["position"])
    assert pd.isna(back["is_deleted"])
    assert back["compound"] is None
    assert pd.isna(back["pit_in"])
    assert {c: str(t) for c, t in lake.read("laps").dtypes.items()} == {
        c: col.dtype for c, col in schemas.TABLES["laps"].cols.items()
    }


def test_equal_rows_give_equal_bytes_whatever_their_order_or_time_unit(lake: Lake, tmp_path: Path) -> None:
    other = Lake(tmp_path / "other")
    frame = weather()
    lake.write("weather", 2030, frame)
    shuffled = frame.iloc[::-1].assign(event_timestamp=frame["event_timestamp"].dt.tz_convert("Asia/Tokyo"))
    other.write("weather", 2030, shuffled)
    assert lake.path("weather", 2030).read_bytes() == other.path("weather", 2030).read_bytes()
    assert lake.fingerprint() == other.fingerprint()


def test_the_fingerprint_changes_with_content_only(lake: Lake) -> None:
    lake.write("weather", 2030, weather())
    before = lake.fingerprint()
    lake.write("weather", 2030, weather())
    assert lake.fingerprint() == before
    lake.write("weather", 2030, weather(rows=4))
    assert lake.fingerprint() != before


def test_no_rows_remove_the_partition(lake: Lake) -> None:
    lake.write("weather", 2030, weather())
    lake.write("weather", 2030, weather().iloc[:0])
    assert lake.seasons("weather") == []
    assert lake.partitions() == []


def test_a_refused_write_leaves_the_old_partition_and_no_litter(lake: Lake) -> None:
    lake.write("weather", 2030, weather())
    before = lake.path("weather", 2030).read_bytes()
    with pytest.raises(LakeSchemaError):
        lake.write("weather", 2030, weather().assign(humidity_pct=140.0))
    assert lake.path("weather", 2030).read_bytes() == before
    assert [path.name for path in lake.root.rglob("*") if path.is_file()] == ["part.parquet"]


def test_unknown_tables_and_columns_are_refused(lake: Lake) -> None:
    with pytest.raises(UnknownTableError, match=r"'lap'.*laps"):
        lake.read("lap")
    with pytest.raises(UnknownTableError):
        lake.path("../../etc", 2030)
    with pytest.raises(LakeSchemaError, match="air_temp"):
        lake.read("weather", columns=["air_temp"])


class TestSimulated:
    def test_simulated_rows_mark_the_lake(self, lake: Lake) -> None:
        lake.write("weather", 2030, weather(source="simulator"))
        assert lake.is_simulated
        assert (lake.root / "SIMULATED").exists()

    def test_real_rows_do_not_enter_a_simulated_lake(self, lake: Lake) -> None:
        lake.write("weather", 2030, weather(source="simulator"))
        with pytest.raises(MixedLakeError, match="another home"):
            lake.write("weather", 2031, weather(2031))
        assert lake.seasons("weather") == [2030]

    def test_simulated_rows_do_not_enter_a_real_lake(self, lake: Lake) -> None:
        lake.write("weather", 2030, weather())
        with pytest.raises(MixedLakeError):
            lake.write("weather", 2031, weather(2031, source="simulator"))
        assert not lake.is_simulated

    def test_one_frame_may_not_mix(self, lake: Lake) -> None:
        mixed = weather().assign(source=["files", "simulator", "files"])
        with pytest.raises(MixedLakeError, match="1 simulated rows of 3"):
            lake.write("weather", 2030, mixed)
        with pytest.raises(MixedLakeError, match="together"):
            status = pd.DataFrame(
                {
                    "race_id": ["2030_01"],
                    "season": [2030],
                    "round": [1],
                    "status": ["1"],
                    "message": ["AllClear"],
                    "event_timestamp": [pd.Timestamp("2030-03-10T13:00:00Z")],
                    "created_timestamp": [pd.Timestamp("2030-03-10T13:00:00Z")],
                    "source": ["simulator"],
                }
            )
            lake.stage(2030, {"weather": weather(), "track_status": status})
        assert lake.partitions() == []

    def test_a_marker_left_by_a_killed_run_does_not_lock_an_empty_lake(self, lake: Lake) -> None:
        lake.admit(is_simulated=True)
        lake.write("weather", 2030, weather())
        assert not lake.is_simulated


class TestStaging:
    def test_what_is_staged_is_not_read_until_it_is_published(self, lake: Lake) -> None:
        lake.write("weather", 2030, weather())
        before = lake.hashes()
        staged = lake.stage(2030, {"weather": weather(rows=5)})
        assert lake.hashes() == before
        assert lake.counts()["weather"] == 3
        lake.publish(staged)
        assert lake.counts()["weather"] == 5
        assert not staged.folder.exists()
        assert lake.hashes(2030) == dict(staged.files)

    def test_publishing_removes_partitions_that_the_season_no_longer_has(self, lake: Lake) -> None:
        lake.write("weather", 2030, weather())
        lake.write("weather", 2031, weather(2031))
        lake.publish(lake.stage(2030, {}))
        assert lake.seasons("weather") == [2031]

    def test_quarantined_rows_are_kept_and_counted(self, lake: Lake) -> None:
        row = {"season": 2030, "reason": "impossible speed", "source_file": "laps.parquet", "row_number": 7, "row": "{}"}
        lake.publish(lake.stage(2030, {"weather": weather()}, {"laps": pd.DataFrame([row])}))
        assert lake.counts()["quarantined"] == 1
        assert lake.read_quarantine("laps").to_dict("records") == [row]
        assert lake.read_quarantine("laps", [2031]).empty
        assert lake.read_quarantine("weather").empty


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"race_id": "../../etc"}, InvalidIdError, "expected <season>_<round>"),
        ({"race_id": "2030_02"}, LakeSchemaError, "round 1"),
        ({"season": 2031}, LakeSchemaError, "only season 2030"),
        ({"air_temp_c": "hot"}, LakeSchemaError, "air_temp_c"),
        ({"air_temp_c": None}, LakeSchemaError, "air_temp_c"),
        ({"round": 1.5}, LakeSchemaError, "round"),
        ({"is_raining": None}, LakeSchemaError, "is_raining"),
        ({"event_timestamp": pd.Timestamp("2030-03-10")}, LakeSchemaError, "event_timestamp"),
        (
            dict.fromkeys(["event_timestamp", "created_timestamp"], pd.Timestamp("2030-03-10T13:00Z")),
            LakeSchemaError,
            "repeat a key",
        ),
        ({"created_timestamp": pd.Timestamp("2020-03-10T13:00Z")}, LakeSchemaError, "before they were true"),
        ({"source": 7}, LakeSchemaError, "source"),
        ({"extra": 1}, LakeSchemaError, "unexpected columns"),
    ],
)
def test_unfit_rows_are_refused_and_the_message_says_why(lake: Lake, change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lake.write("weather", 2030, weather().assign(**change))


def test_a_row_that_became_known_later_stays_beside_the_one_it_corrects(lake: Lake) -> None:
    first = weather()
    fixed = first.iloc[:1].assign(air_temp_c=31.5, created_timestamp=first["created_timestamp"].iloc[:1] + pd.Timedelta(days=2))
    lake.write("weather", 2030, pd.concat([first, fixed]))
    assert len(lake.read("weather")) == len(first) + 1
