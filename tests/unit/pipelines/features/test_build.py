"""The features step: what it writes, that it skips, that its bytes repeat, that damage is repaired."""

from pathlib import Path

import pandas as pd
import pytest
from strategies import Lake as Frames
from strategies import small_lake

from feature_repo.errors import MissingInputError
from feature_repo.files import TMP_PREFIX
from feature_repo.settings import Settings
from pipelines.features.build import build_features, table_path
from pipelines.features.tables import COMPUTE
from pipelines.lake import Lake


def fill(settings: Settings, frames: Frames) -> None:
    lake = Lake(settings.lake_dir)
    for name, frame in frames.items():
        for season, rows in frame.groupby("season"):
            lake.write(name, int(season), rows.reset_index(drop=True))


@pytest.fixture(scope="module")
def frames() -> Frames:
    return small_lake(4, rounds=2, n_drivers=4, n_laps=8)


def test_every_table_is_written_and_counted(settings: Settings, frames: Frames) -> None:
    fill(settings, frames)
    seen: list[tuple[str, int, int]] = []
    report = build_features(settings, progress=lambda name, done, total: seen.append((name, done, total)))
    assert not report.skipped
    assert [name for name, _, _ in seen] == list(COMPUTE)
    assert seen[-1][1:] == (len(COMPUTE), len(COMPUTE))
    for name, compute in COMPUTE.items():
        stored = pd.read_parquet(table_path(settings, name))
        assert len(stored) == report.rows[name] == len(compute(frames))
    assert report.n_rows == sum(report.rows.values())


def test_nothing_changed_nothing_done_and_equal_lakes_give_equal_bytes(
    settings: Settings, frames: Frames, tmp_path: Path
) -> None:
    fill(settings, frames)
    first = build_features(settings)
    again = build_features(settings)
    assert again.skipped
    assert again.rows == first.rows
    other = Settings(home=tmp_path / "other")
    fill(other, frames)
    assert build_features(other).sha256 == first.sha256


def test_a_changed_lake_or_a_damaged_file_is_computed_again(settings: Settings, frames: Frames) -> None:
    fill(settings, frames)
    first = build_features(settings)
    table_path(settings, "grid").write_bytes(b"damaged")
    repaired = build_features(settings)
    assert not repaired.skipped
    assert repaired.sha256 == first.sha256
    hotter = frames["weather"].assign(track_temp_c=frames["weather"]["track_temp_c"] + 1)
    fill(settings, {"weather": hotter})
    changed = build_features(settings)
    assert {name for name in COMPUTE if changed.sha256[name] != first.sha256[name]} == {"race_weather"}


def test_what_a_killed_run_left_behind_is_cleared_away(settings: Settings, frames: Frames) -> None:
    fill(settings, frames)
    settings.features_dir.mkdir(parents=True)
    leftover = settings.features_dir / f"{TMP_PREFIX}half.parquet"
    leftover.write_bytes(b"half a file")
    build_features(settings)
    assert not leftover.exists()


def test_an_empty_lake_is_an_error_that_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(MissingInputError, match="pitwall ingest"):
        build_features(settings)
