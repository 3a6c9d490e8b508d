"""A killed ingest leaves whole partitions, and running it again ends in the same bytes as a run that was never killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from tiny_sources import SEASON, tiny_frames, write_sources

from feature_repo.settings import Settings
from feature_repo.visibility import latest_visible
from pipelines import lake as lake_module
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.run import ingest
from pipelines.lake import Lake

OBSERVED = pd.Timestamp("2026-01-01T00:00:00Z")  # when the new version is read


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two versions of one season that differ in every table that has numbers, and in which tables there are."""
    old, new = tiny_frames(), tiny_frames()
    new["ergast/results.csv"]["points"] += 1
    new[f"fastf1/laps_{SEASON}.parquet"]["SpeedST"] += 1
    new[f"fastf1_undercut/weather_{SEASON}.parquet"]["AirTemp"] += 1
    new["f1db/races.csv"]["turns"] += 1
    del new[f"fastf1_undercut/track_status_{SEASON}.parquet"]
    folder = tmp_path_factory.mktemp("sources")
    return {"old": write_sources(folder / "old", old), "new": write_sources(folder / "new", new)}


@pytest.fixture(scope="module")
def clean(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Version -> partition hashes of runs that nobody killed: the old one, and the new one after it."""
    hashes = {}
    home = Settings(home=tmp_path_factory.mktemp("clean"))
    for version, folder in sources.items():
        ingest(home, FilesSource([folder]), [SEASON], observed_at=OBSERVED)
        hashes[version] = Lake(home.lake_dir).hashes()
    assert hashes["old"] != hashes["new"]
    return hashes


def _kill_at(call: int) -> Callable[[], None]:
    """A function that ends the process with SIGKILL when it is called for the `call`-th time."""
    calls = iter(range(1, call))

    def tick() -> None:
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    return tick


def _ingest_until(settings: Settings, folder: Path, where: str, call: int) -> None:
    tick = _kill_at(call)
    if where == "rename":
        replace = Path.replace

        def counted_replace(self: Path, target: Path) -> Path:
            tick()
            return replace(self, target)

        Path.replace = counted_replace  # type: ignore[method-assign, assignment]
    else:
        write_part = lake_module._write_part

        def half_written(target: Path, part: object) -> None:
            target.write_bytes(b"PAR1 half of a file")
            tick()
            write_part(target, part)

        lake_module._write_part = half_written
    ingest(settings, FilesSource([folder]), [SEASON], observed_at=OBSERVED)


def killed_ingest(settings: Settings, folder: Path, where: str, call: int) -> None:
    """Run an ingest in a process of its own, which is killed at the `call`-th rename or write."""
    child = multiprocessing.get_context("fork").Process(target=_ingest_until, args=(settings, folder, where, call))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL, "the ingest ended before it could be killed"


# renames: 1 withdraws the record, 2 marks the source as unfinished, 3-13 are what it said, 14-23 the lake, 24 writes the record
FIRST_OF_LAKE = 14
RENAMES = (1, 2, 3, 6, 10, 13, 14, 18, 23, 24)
KILLS = [("write", 1), ("write", 6), ("write", 15), *[("rename", number) for number in RENAMES]]


@pytest.mark.parametrize(("where", "call"), KILLS)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_re_run_after_sigkill_equals_a_clean_run(
    settings: Settings, sources: dict[str, Path], clean: dict[str, dict[str, str]], where: str, call: int
) -> None:
    ingest(settings, FilesSource([sources["old"]]), [SEASON])
    lake = Lake(settings.lake_dir)
    killed_ingest(settings, sources["new"], where, call)

    left = lake.hashes()
    assert all(digest in (clean["old"].get(name), clean["new"].get(name)) for name, digest in left.items())
    for name in left:
        pq.read_table(lake.root / name)  # whole: footer and all row groups
    if where == "write" or call <= FIRST_OF_LAKE:
        assert left == clean["old"]

    report = ingest(settings, FilesSource([sources["new"]]), [SEASON], observed_at=OBSERVED)
    assert not report.skipped_up_to_date
    assert lake.hashes() == clean["new"]
    assert not list(lake.root.glob(".tmp-*"))
    assert ingest(settings, FilesSource([sources["new"]]), [SEASON]).skipped_up_to_date


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_going_back_to_the_old_source_after_a_kill_is_not_taken_for_up_to_date(
    settings: Settings, sources: dict[str, Path], clean: dict[str, dict[str, str]]
) -> None:
    """The record of the old version must not vouch for a lake that is half new."""
    ingest(settings, FilesSource([sources["old"]]), [SEASON])
    lake = Lake(settings.lake_dir)
    before = lake.read("entries")
    killed_ingest(settings, sources["new"], "rename", 7)
    ingest(settings, FilesSource([sources["old"]]), [SEASON], observed_at=OBSERVED + pd.Timedelta(days=1))
    entries = {name for name in clean["old"] if name.startswith("entries/")}
    assert {name: digest for name, digest in lake.hashes().items() if name not in entries} == {
        name: digest for name, digest in clean["old"].items() if name not in entries
    }
    # the other word had been heard: it stays, between the first one and its return
    versions = lake.read("entries")
    assert len(versions) == 3 * len(before)
    now = latest_visible(versions, ["race_id", "driver_id"], "2100-01-01T00:00:00Z")  # the season is after this test
    pd.testing.assert_frame_equal(
        now.drop(columns="created_timestamp").reset_index(drop=True), before.drop(columns="created_timestamp")
    )


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_first_run_killed_half_way_heals(
    settings: Settings, sources: dict[str, Path], clean: dict[str, dict[str, str]]
) -> None:
    killed_ingest(settings, sources["old"], "rename", 4)
    ingest(settings, FilesSource([sources["old"]]), [SEASON])
    assert Lake(settings.lake_dir).hashes() == clean["old"]


def test_a_failing_season_keeps_the_good_one_out_too(settings: Settings, sources: dict[str, Path], tmp_path: Path) -> None:
    """Seasons are staged before any is published: a run either replaces all it was asked for or nothing."""
    bad = tiny_frames(SEASON + 1)
    bad[f"fastf1/laps_{SEASON + 1}.parquet"]["SpeedST"] = 900.0
    folder = write_sources(tmp_path / "bad", bad)
    with pytest.raises(ValueError, match="expected at most 2%"):
        ingest(settings, FilesSource([sources["old"], folder]), [SEASON, SEASON + 1])
    lake = Lake(settings.lake_dir)
    assert lake.partitions() == []
    assert not list(lake.root.glob(".tmp-*"))
    assert pd.isna(lake.read("laps")["lap"].max())
