"""Ids, atomic files, the visibility rule and settings."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import files, ids
from feature_repo.errors import DamagedFileError, InvalidIdError, MissingInputError
from feature_repo.settings import Settings
from feature_repo.visibility import as_utc, latest_visible, visible


@pytest.mark.parametrize("race_id", ["2024_08", "1950_01", "2099_99"])
def test_race_ids_of_the_right_form_pass(race_id: str) -> None:
    assert ids.validate_race_id(race_id) == race_id
    assert ids.make_race_id(*ids.split_race_id(race_id)) == race_id


@pytest.mark.parametrize("race_id", ["2024_8", "2024_00", "../../etc", "2024_08\n", "1949_01", "", "2024-08", "٢٠٢٤_08", None, 8])
def test_other_race_ids_are_refused(race_id: object) -> None:
    with pytest.raises(InvalidIdError, match="race_id"):
        ids.validate_race_id(race_id)  # type: ignore[arg-type]


@given(st.text())
def test_no_accepted_reference_can_leave_its_folder(text: str) -> None:
    try:
        ref = ids.validate_driver_id(text)
    except InvalidIdError as refusal:
        assert len(str(refusal)) < 250
    else:
        assert ref == text
        assert Path("/root_dir", ref).parent == Path("/root_dir")
        assert ref.isascii()


def test_a_failed_write_leaves_the_old_file_and_no_leftover(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    files.write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(target, {"a": float("nan")})
    with pytest.raises(RuntimeError, match="killed"), files.atomic_path(target) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError("killed")
    assert json.loads(target.read_text(encoding="utf-8")) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / ".tmp-abc.parquet").write_bytes(b"half")
    (tmp_path / ".tmp-dir").mkdir()
    assert files.remove_leftovers(tmp_path) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["lake"]


def test_leftovers_that_may_be_of_a_running_process_stay(tmp_path: Path) -> None:
    for name, age_s in (("old", 3700), ("new", 3500)):
        (tmp_path / f".tmp-{name}").write_bytes(b"half")
        os.utime(tmp_path / f".tmp-{name}", (time.time() - age_s,) * 2)
    assert files.remove_leftovers(tmp_path, older_than_s=3600) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-new"]


def test_parquet_is_written_in_microseconds_with_its_zone(tmp_path: Path) -> None:
    frame = pd.DataFrame({"event_timestamp": pd.to_datetime(["2024-01-01T00:00:00.123456789Z"])})
    files.write_parquet(tmp_path / "t.parquet", frame)
    back = files.read_parquet(tmp_path / "t.parquet")
    assert str(back["event_timestamp"].dtype) == "datetime64[us, UTC]"
    first = (tmp_path / "t.parquet").read_bytes()
    files.write_parquet(tmp_path / "t.parquet", frame)
    assert (tmp_path / "t.parquet").read_bytes() == first


def test_a_missing_input_names_the_file_and_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"absent\.parquet.*run the step"):
        files.read_parquet(tmp_path / "absent.parquet")
    with pytest.raises(MissingInputError, match=r"absent\.json"):
        files.read_json(tmp_path / "absent.json")


def test_a_damaged_table_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DamagedFileError, match=r"t\.parquet: got no readable Parquet .*run `pitwall run` again"):
        files.read_parquet(tmp_path / "t.parquet")


def test_an_empty_variable_is_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PITWALL_HOME", "")
    assert Settings().home == tmp_path / "data"


def test_visibility_needs_both_instants_and_includes_equal_ones() -> None:
    moment = datetime(2024, 5, 26, 14, tzinfo=UTC)
    later = datetime(2024, 5, 26, 14, 0, 1, tzinfo=UTC)
    frame = pd.DataFrame(
        {
            "driver_id": ["a", "b", "c", "d"],
            "event_timestamp": pd.to_datetime([moment, moment, later, moment]),
            "created_timestamp": pd.to_datetime([moment, later, later, pd.NaT]),
        }
    )
    assert visible(frame, moment).tolist() == [True, False, False, False]
    assert visible(frame, "2024-05-26T16:00:01+02:00").tolist() == [True, True, True, False]


def test_latest_visible_prefers_the_correction_only_once_it_is_known() -> None:
    event = pd.Timestamp("2024-05-26T14:00Z")
    frame = pd.DataFrame(
        {
            "k": ["a", "a"],
            "value": [1, 2],
            "event_timestamp": [event, event],
            "created_timestamp": [event, event + pd.Timedelta("1h")],
        }
    )
    assert latest_visible(frame, ["k"], event)["value"].tolist() == [1]
    assert latest_visible(frame, ["k"], event + pd.Timedelta("1h"))["value"].tolist() == [2]


def test_naive_times_are_utc_and_nat_is_refused() -> None:
    assert as_utc("2024-01-01 10:00") == pd.Timestamp("2024-01-01T10:00Z")
    with pytest.raises(ValueError, match="moment"):
        as_utc(pd.NaT)


def test_settings_precedence_and_separate_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pitwall.yaml").write_text("seed: 11\nhome: from_yaml\n", encoding="utf-8")
    assert Settings().seed == 11
    monkeypatch.setenv("PITWALL_SEED", "12")
    assert Settings().seed == 12
    assert Settings(seed=13).seed == 13
    one, two = Settings(home=tmp_path / "one"), Settings(home=tmp_path / "two")
    for name in ("lake_dir", "features_dir", "multimodal_dir", "embeddings_dir", "checkpoints_dir", "mlflow_artifacts"):
        assert getattr(one, name).is_relative_to(one.home)
        assert not getattr(one, name).is_relative_to(two.home)
    assert one.registry_path != two.registry_path
    assert one.mlflow_uri != two.mlflow_uri
