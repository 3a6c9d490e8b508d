"""Hashes of what a source itself said: one a race, of what was said and of nothing else."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tiny_sources import SEASON, Frames, tiny_frames, write_sources

from feature_repo.settings import Settings
from feature_repo.visibility import latest_visible
from pipelines.ingest import run
from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical.told import told_of_races
from pipelines.ingest.files.source import FilesSource
from pipelines.ingest.run import ingest
from pipelines.lake import Lake
from pipelines.schemas import TABLES

COLUMNS = ["driver_id", "points"]
SAID = pd.DataFrame({"round": [1, 1, 2], "driver_id": ["a", "b", "a"], "points": [25.0, None, 18.0], "row": [1, 2, 3]})
AT = pd.Timestamp("2100-01-01T00:00:00Z")  # the season is after this test


def _told(frame: pd.DataFrame) -> dict[int, str]:
    return told_of_races({"entries": [(frame, COLUMNS)]})["entries"]


@pytest.mark.parametrize(
    "same",
    [
        SAID.iloc[::-1],
        SAID.assign(row=[7, 8, 9]),
        SAID.astype({"round": "float64", "points": object}),
        SAID.assign(points=SAID["points"].astype("Int64")),
        pd.concat([SAID, SAID.assign(round=3)]),
    ],
    ids=["order", "origin", "objects", "integers", "another race"],
)
def test_the_same_words_have_the_same_hash(same: pd.DataFrame) -> None:
    told = _told(same)
    assert {round_: told[round_] for round_ in (1, 2)} == _told(SAID)


@pytest.mark.parametrize(
    "other",
    [SAID.assign(points=[25.0, 0.0, 18.0]), SAID.assign(driver_id=["a", "c", "a"]), SAID.iloc[[0, 2]]],
    ids=["a value for a null", "another driver", "a row less"],
)
def test_other_words_change_the_hash_of_their_race_alone(other: pd.DataFrame) -> None:
    before, now = _told(SAID), _told(other)
    assert now[1] != before[1]
    assert now[2] == before[2]


def test_frames_of_one_table_are_not_mixed_up() -> None:
    first = told_of_races({"entries": [(SAID, COLUMNS), (pd.DataFrame(), COLUMNS)]})
    second = told_of_races({"entries": [(pd.DataFrame(), COLUMNS), (SAID, COLUMNS)]})
    assert first["entries"][1] != second["entries"][1]


def _disqualified(frames: Frames) -> None:
    results = frames["ergast/results.csv"]
    last = results.index[-1]
    results.loc[last, "positionText"] = "D"
    results.loc[last, "position"] = None


def _points(frames: Frames) -> None:
    frames["ergast/results.csv"].loc[frames["ergast/results.csv"].index[-1], "points"] = 1


def _qualified(frames: Frames) -> None:
    qualifying = frames["ergast/qualifying.csv"]
    qualifying.loc[qualifying.index[-2:], "position"] = [4, 3]


@pytest.mark.parametrize("change", [_disqualified, _points, _qualified])
def test_files_tell_which_race_they_changed(tmp_path: Path, change: Callable[[Frames], None]) -> None:
    told = []
    for name in ("old", "new"):
        frames = tiny_frames()
        if name == "new":
            change(frames)
        report = IngestReport("files", is_simulated=False, seasons=[SEASON])
        (season,) = FilesSource([write_sources(tmp_path / name, frames)]).read([SEASON], report)
        told.append(season.told["entries"])
    before, now = told
    assert set(before) == set(now) == {1, 2, 3}
    assert [round_ for round_ in before if before[round_] != now[round_]] == [3]


def test_a_disqualification_that_is_read_by_new_code_is_not_known_before_it_was_said(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = tiny_frames()
    ingest(settings, FilesSource([write_sources(tmp_path / "old", frames)]), [SEASON], observed_at=AT)
    _disqualified(frames)
    monkeypatch.setattr(run, "code_hash", lambda *_: "another")
    later = AT + pd.Timedelta(days=1)
    report = ingest(settings, FilesSource([write_sources(tmp_path / "new", frames)]), [SEASON], observed_at=later)
    assert report.corrected["entries"] >= 1
    rows, key = Lake(settings.lake_dir).read("entries"), list(TABLES["entries"].key)
    out = [int((~latest_visible(rows, key, moment)["is_classified"]).sum()) for moment in (AT, later)]
    assert out[1] == out[0] + 1
