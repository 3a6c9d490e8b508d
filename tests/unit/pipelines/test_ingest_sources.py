"""Several sources in one home: what each said is kept, the lake is their merge, rounds and pauses do not lose anything."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from source_views import Frames, Still, Told, said_by
from strategies import small_lake

from feature_repo.files import read_json, write_json
from feature_repo.settings import Settings
from feature_repo.visibility import latest_visible
from pipelines.errors import (
    DifferentRacesError,
    SourceFormatError,
    SourceMissingError,
    SourcePausedError,
    SourceUnfinishedError,
)
from pipelines.ingest import run
from pipelines.ingest.base import SeasonTables
from pipelines.ingest.choose import choose_source
from pipelines.ingest.merging import differences
from pipelines.ingest.merging.kept import KeptSources
from pipelines.ingest.merging.merge import merge
from pipelines.ingest.run import ingest
from pipelines.lake import Lake, StagedSeason
from pipelines.schemas import TABLES

SEASON = 2022
AT = pd.Timestamp("2026-01-01T00:00:00Z")


@pytest.fixture(scope="module")
def lake_frames() -> Frames:
    return small_lake(3, seasons=(SEASON,), rounds=3)


@pytest.fixture
def files(lake_frames: Frames) -> Frames:
    return {table: rows.assign(source="files") for table, rows in lake_frames.items() if len(rows)}


@pytest.fixture
def jolpica(lake_frames: Frames) -> Frames:
    return said_by("jolpica", lake_frames, 11)


def _contents(lake: Lake) -> Frames:
    return {table: lake.read(table) for table in TABLES}


def test_the_lake_does_not_depend_on_which_source_came_first(
    files: Frames, jolpica: Frames, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hashes = []
    for order in ((Told("files", files), Told("jolpica", jolpica)), (Told("jolpica", jolpica), Told("files", files))):
        home = Settings(home=tmp_path_factory.mktemp("home"))
        for source in order:
            ingest(home, source, [SEASON], observed_at=AT)
        hashes.append(Lake(home.lake_dir).hashes())
    assert hashes[0] == hashes[1]
    assert set(Lake(home.lake_dir).read("laps")["source"]) >= {"files"}
    assert any("+" in names for names in Lake(home.lake_dir).read("entries")["source"])


def test_what_a_source_said_is_not_touched_by_another(settings: Settings, files: Frames, jolpica: Frames) -> None:
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    kept = KeptSources(settings)
    before = kept.of("files").hashes()
    ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    assert kept.of("files").hashes() == before
    assert kept.names(SEASON) == ["files", "jolpica"]


def test_rounds_are_added_to_what_the_source_said_before(settings: Settings, files: Frames) -> None:
    lake = Lake(settings.lake_dir)
    ingest(settings, Told("jolpica", files, rounds=[1]), [SEASON], observed_at=AT)
    assert set(lake.read("entries")["round"]) == {1}
    report = ingest(settings, Told("jolpica", files, rounds=[2, 3]), [SEASON], observed_at=AT)
    assert report.rounds == {SEASON: [2, 3]}
    in_parts = _contents(lake)
    ingest(settings, Told("jolpica", files), [SEASON], observed_at=AT)
    for table, whole in _contents(lake).items():
        pd.testing.assert_frame_equal(in_parts[table], whole)


def test_a_pause_keeps_the_rounds_that_are_complete_and_says_when_to_go_on(settings: Settings, files: Frames) -> None:
    later = pd.Timestamp("2026-01-01T01:00:00Z")
    pause = SourcePausedError("jolpica: got 500 requests in this hour; go on at 2026-01-01T01:00:00Z", later)
    with pytest.raises(
        SourcePausedError, match=r"go on at 2026-01-01T01:00:00Z; in the lake already: 2022 rounds 1, 2"
    ) as caught:
        ingest(settings, Told("jolpica", files, rounds=[1, 2], then=pause), [SEASON], observed_at=AT)
    assert caught.value.retry_at == later
    assert set(Lake(settings.lake_dir).read("laps")["round"]) == {1, 2}
    ingest(settings, Told("jolpica", files), [SEASON], observed_at=AT)
    assert set(Lake(settings.lake_dir).read("laps")["round"]) == {1, 2, 3}


def test_any_other_failure_leaves_everything_as_it_was(settings: Settings, files: Frames, jolpica: Frames) -> None:
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    before = Lake(settings.lake_dir).hashes()
    broken = SourceFormatError("https://service/2022/4.json", got="a page of HTML", expected="JSON")
    with pytest.raises(SourceFormatError):
        ingest(settings, Told("jolpica", jolpica, then=broken), [SEASON], observed_at=AT)
    assert Lake(settings.lake_dir).hashes() == before
    assert KeptSources(settings).names(SEASON) == ["files"]
    assert not list(settings.home.rglob(".tmp-*"))


def _as_before_sources_were_kept(settings: Settings) -> None:
    """The home as a version left it that wrote its one source straight into the lake."""
    shutil.rmtree(settings.sources_dir)
    record = settings.state_dir / "ingest.json"
    seasons = read_json(record)["seasons"]
    write_json(record, {"seasons": {season: {"partitions": known["partitions"]} for season, known in seasons.items()}})


def test_a_lake_written_before_sources_were_kept_is_taken_for_what_its_source_said(
    settings: Settings, files: Frames, jolpica: Frames, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    _as_before_sources_were_kept(settings)
    ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    other = Settings(home=tmp_path_factory.mktemp("other"))
    for source in (Told("files", files), Told("jolpica", jolpica)):
        ingest(other, source, [SEASON], observed_at=AT)
    assert Lake(settings.lake_dir).hashes() == Lake(other.lake_dir).hashes()


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code may take notice of it."""


def _killed_after(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, calls: int) -> None:
    """Let `owner.name` be called so many times, and no more."""
    real, left = getattr(owner, name), calls

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize("copied", [0, 1, 5])
def test_a_kill_while_an_earlier_lake_is_taken_over_loses_no_row(
    settings: Settings, files: Frames, jolpica: Frames, tmp_path_factory: pytest.TempPathFactory, copied: int
) -> None:
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    _as_before_sources_were_kept(settings)
    with pytest.MonkeyPatch.context() as patch:
        _killed_after(patch, shutil, "copyfile", copied)
        with pytest.raises(Killed):
            ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    other = Settings(home=tmp_path_factory.mktemp("other"))
    for source in (Told("files", files), Told("jolpica", jolpica)):
        ingest(other, source, [SEASON], observed_at=AT)
    assert Lake(settings.lake_dir).hashes() == Lake(other.lake_dir).hashes()


def _killed_between_renames(settings: Settings, source: Told, renamed: int) -> None:
    """An ingest that is killed when so many partitions of what the source said are in place."""

    def killed(lake: Lake, staged: StagedSeason) -> None:
        with pytest.MonkeyPatch.context() as patch:
            _killed_after(patch, Path, "replace", renamed)
            publish(lake, staged)

    publish = Lake.publish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lake, "publish", killed)
        with pytest.raises(Killed):
            ingest(settings, source, [SEASON], observed_at=AT)


@pytest.mark.parametrize("renamed", [1, 6])
def test_the_first_ingest_of_a_source_killed_half_way_is_not_merged_into_others(
    settings: Settings, files: Frames, jolpica: Frames, tmp_path_factory: pytest.TempPathFactory, renamed: int
) -> None:
    _killed_between_renames(settings, Told("jolpica", jolpica), renamed)
    assert any((settings.sources_dir / "jolpica").rglob("part.parquet"))
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    other = Settings(home=tmp_path_factory.mktemp("other"))
    ingest(other, Told("files", files), [SEASON], observed_at=AT)
    assert Lake(settings.lake_dir).hashes() == Lake(other.lake_dir).hashes()
    ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    ingest(other, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    assert Lake(settings.lake_dir).hashes() == Lake(other.lake_dir).hashes()


@pytest.mark.parametrize("rounds", [None, [2, 3]], ids=["season", "rounds"])
@pytest.mark.parametrize("renamed", [1, 4])
def test_a_source_that_a_kill_left_half_replaced_is_merged_with_no_other(
    settings: Settings, files: Frames, jolpica: Frames, renamed: int, rounds: list[int] | None
) -> None:
    ingest(settings, Told("jolpica", files), [SEASON], observed_at=AT)
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    again = {**jolpica, "laps": jolpica["laps"].assign(position=1)}
    _killed_between_renames(settings, Told("jolpica", again, rounds=rounds), renamed)
    before = Lake(settings.lake_dir).hashes()
    asked = " --rounds 2,3" if rounds else ""
    refused = pytest.raises(
        SourceUnfinishedError, match=rf"run `pitwall ingest --source jolpica --seasons {SEASON}{asked}` again"
    )
    with refused:
        ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    with refused:  # other rounds of the same source do not heal it
        ingest(settings, Told("jolpica", again, rounds=[1]), [SEASON], observed_at=AT)
    assert Lake(settings.lake_dir).hashes() == before
    ingest(settings, Told("jolpica", again, rounds=rounds), [SEASON], observed_at=AT)
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    healed = KeptSources(settings).read("jolpica", SEASON)["laps"]
    mine = again["laps"] if rounds is None else again["laps"][again["laps"]["round"].isin(rounds)]
    assert (healed["position"] == 1).sum() >= len(mine)
    assert Lake(settings.lake_dir).hashes() != before


def test_a_source_without_races_stays_in_the_lake_when_another_is_read_again(
    settings: Settings, files: Frames, lake_frames: Frames
) -> None:
    """Live timing tells what happened on track, and nothing of the calendar."""
    feed = {table: rows for table, rows in said_by("livetiming", lake_frames, 5).items() if table in ("weather", "race_control")}
    jolpica = {table: rows for table, rows in files.items() if table not in feed}
    ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    ingest(settings, Still("livetiming", feed), [SEASON], observed_at=AT)
    lake = Lake(settings.lake_dir)
    before = lake.hashes()
    assert len(lake.read("weather"))
    assert ingest(settings, Still("livetiming", feed), [SEASON], observed_at=AT).skipped_up_to_date
    ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    assert lake.hashes() == before
    assert ingest(settings, Still("livetiming", feed), [SEASON], observed_at=AT).skipped_up_to_date


@pytest.mark.parametrize("told", [["jolpica"], ["jolpica", "openf1"]], ids=["one", "two"])
def test_a_source_whose_folder_was_deleted_does_not_come_back_out_of_the_lake(
    settings: Settings, files: Frames, told: list[str]
) -> None:
    for name in told:
        ingest(settings, Told(name, {table: rows.assign(source=name) for table, rows in files.items()}), [SEASON], observed_at=AT)
    for name in told:
        shutil.rmtree(settings.sources_dir / name)
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    assert [path.name for path in settings.sources_dir.iterdir()] == ["files"]
    assert set(Lake(settings.lake_dir).read("entries")["source"]) == {"files"}


@pytest.mark.parametrize("source", ["jolpica+files", "elsewhere"])
def test_an_earlier_lake_is_taken_over_only_from_a_source_that_there_is(settings: Settings, files: Frames, source: str) -> None:
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    _as_before_sources_were_kept(settings)
    lake = Lake(settings.lake_dir)
    for table, rows in _contents(lake).items():
        lake.write(table, SEASON, rows.assign(source=source))
    ingest(settings, Told("openf1", {table: rows.assign(source="openf1") for table, rows in files.items()}), [SEASON])
    assert [path.name for path in settings.sources_dir.iterdir()] == ["openf1"]


def test_a_corrected_result_is_read_as_of_before_and_after(settings: Settings, files: Frames, jolpica: Frames) -> None:
    """One source corrects itself; the other never told of it."""
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    lake = Lake(settings.lake_dir)
    key = list(TABLES["entries"].key)
    before = latest_visible(lake.read("entries"), key, AT)
    again = {**jolpica, "entries": jolpica["entries"].copy()}
    last = again["entries"].index[-1]
    who = again["entries"].loc[last, key]
    again["entries"].loc[last, ["status", "is_classified", "position"]] = ["Disqualified", False, None]
    report = ingest(settings, Told("jolpica", again), [SEASON], observed_at=AT)
    assert report.corrected == {"entries": 1}
    versions = lake.read("entries")
    assert len(versions) == len(before) + 1
    mine = versions[(versions[key] == who).all(axis=1)]
    assert mine["status"].tolist()[-1] == "Disqualified"
    assert mine["created_timestamp"].tolist()[-1] == AT
    moment = AT - pd.Timedelta(microseconds=1)
    pd.testing.assert_frame_equal(
        latest_visible(versions, key, moment).reset_index(drop=True), latest_visible(before, key, moment).reset_index(drop=True)
    )
    assert ingest(settings, Told("jolpica", again), [SEASON], observed_at=AT).corrected == {}
    pd.testing.assert_frame_equal(lake.read("entries"), versions)


def test_a_correction_that_comes_with_new_code_is_told_from_what_the_code_changes(
    settings: Settings, files: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our code counts laps in another way from now on; of round 2, the source says something else as well."""
    told = {"entries": {1: "a", 2: "b", 3: "c"}}
    ingest(settings, Told("jolpica", files, told=told), [SEASON], observed_at=AT - pd.Timedelta(days=1))
    monkeypatch.setattr(run, "code_hash", lambda *_: "another")
    entries = files["entries"].assign(laps_completed=files["entries"]["laps_completed"] + 1)
    entries.loc[entries.index[entries["round"] == 2][0], ["status", "is_classified", "position"]] = ["Disqualified", False, None]
    new = Told("jolpica", {**files, "entries": entries}, told={"entries": {**told["entries"], 2: "other"}})
    of_round_2 = int((entries["round"] == 2).sum())
    assert ingest(settings, new, [SEASON], observed_at=AT).corrected == {"entries": of_round_2}
    rows = Lake(settings.lake_dir).read("entries")
    assert rows.groupby("round").size().to_dict() == {
        round_: len(part) * (2 if round_ == 2 else 1) for round_, part in entries.groupby("round")
    }
    key = list(TABLES["entries"].key)
    before, now = (latest_visible(rows, key, moment).sort_values(key) for moment in (AT - pd.Timedelta(seconds=1), AT))
    assert "Disqualified" not in set(before["status"])
    assert now["laps_completed"].tolist() == entries.sort_values(key)["laps_completed"].tolist()
    assert rows.loc[rows["status"] == "Disqualified", "created_timestamp"].tolist() == [AT]
    assert ingest(settings, new, [SEASON], observed_at=AT).corrected == {}


def test_code_of_rounds_that_were_read_at_another_time_is_not_taken_for_theirs(
    settings: Settings, files: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds 2 and 3 were read by the code of today, round 1 by that of yesterday: what differs in it is not a correction."""
    told = {"entries": {1: "a", 2: "b", 3: "c"}}
    ingest(settings, Told("jolpica", files, rounds=[1], told=told), [SEASON], observed_at=AT)
    monkeypatch.setattr(run, "code_hash", lambda *_: "another")
    new = {**files, "entries": files["entries"].assign(laps_completed=files["entries"]["laps_completed"] + 1)}
    ingest(settings, Told("jolpica", new, rounds=[2, 3], told=told), [SEASON], observed_at=AT)
    assert ingest(settings, Told("jolpica", new, told=told), [SEASON], observed_at=AT).corrected == {}
    assert len(Lake(settings.lake_dir).read("entries")) == len(new["entries"])


def test_a_correction_is_known_when_its_season_was_told_not_when_the_ingest_began(
    settings: Settings, files: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that allows few requests is asked for minutes, and may correct itself in between."""
    clock = [AT]

    class Slow(Told):
        def offered(self, season: int) -> SeasonTables:
            clock[0] += pd.Timedelta(minutes=8)
            return super().offered(season)

    later = {table: _a_year_later(rows) for table, rows in files.items()}
    both = {table: pd.concat([rows, later[table]], ignore_index=True) for table, rows in files.items()}
    seasons = [SEASON, SEASON + 1]
    ingest(settings, Told("jolpica", both), seasons, observed_at=AT - pd.Timedelta(days=1))
    monkeypatch.setattr(run, "_now", lambda: clock[0])
    corrected = {**both, "entries": both["entries"].assign(status="Disqualified")}
    ingest(settings, Slow("jolpica", corrected), seasons)
    rows = Lake(settings.lake_dir).read("entries")
    heard = rows[rows["status"] == "Disqualified"].groupby("season")["created_timestamp"].agg(["min", "max"])
    assert heard.to_numpy().tolist() == [[AT + pd.Timedelta(minutes=minutes)] * 2 for minutes in (8, 16)]


def _a_year_later(rows: pd.DataFrame) -> pd.DataFrame:
    year = pd.Timedelta(days=365)
    moved = rows.assign(**{column: rows[column] + year for column in rows.select_dtypes("datetimetz").columns})
    moved["season"] = SEASON + 1
    return moved.assign(race_id=moved["race_id"].str.replace(str(SEASON), str(SEASON + 1))) if "race_id" in moved else moved


def test_differences_are_reported_with_counts_and_rows(settings: Settings, files: Frames, jolpica: Frames) -> None:
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    with pytest.raises(SourceMissingError, match="no season that more than one source told of"):
        differences.read(settings)
    ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    found = differences.read(settings, [SEASON])
    assert found.seasons == {SEASON: ["files", "jolpica"]}
    grid = next(entry for entry in found.columns if (entry["table"], entry["column"]) == ("entries", "grid"))
    assert (grid["believed"], grid["other"]) == ("files", "jolpica")
    both = files["entries"].merge(jolpica["entries"], on=list(TABLES["entries"].key))
    assert grid["compared"] == len(both)
    assert grid["differ"] == int((both["grid_x"] != both["grid_y"]).sum()) > 0
    assert len(found.rows) == sum(entry["differ"] for entry in found.columns)
    row = found.rows[(found.rows["column"] == "grid")].iloc[0]
    assert int(row["other_value"]) == int(row["value"]) + 1
    with pytest.raises(SourceMissingError):
        differences.read(settings, [SEASON + 1])


def test_a_later_version_is_found_though_its_source_puts_the_flag_earlier(files: Frames) -> None:
    """One source tells the order on the road as well; the one believed more knows the result alone, at another second."""
    key = list(TABLES["entries"].key)
    official = files["entries"]
    second, hour = pd.Timedelta(seconds=1), pd.Timedelta(hours=1)
    on_the_road = official.assign(
        source="openf1",
        status="Finished",
        event_timestamp=official["event_timestamp"] + second,
        created_timestamp=official["event_timestamp"] + second,
    )
    later = official.assign(
        source="openf1",
        event_timestamp=official["event_timestamp"] + second,
        created_timestamp=official["created_timestamp"] + second,
    )
    told = {"files": {"entries": official}, "openf1": {"entries": pd.concat([on_the_road, later], ignore_index=True)}}
    rows = merge(told).tables["entries"]
    now = latest_visible(rows, key, official["created_timestamp"].max() + hour).sort_values(key)
    assert now["status"].tolist() == official.sort_values(key)["status"].tolist()
    assert not rows.empty
    assert (rows["status"] == "Finished").any()


def test_a_correction_that_moves_the_flag_back_is_found(settings: Settings, files: Frames) -> None:
    ingest(settings, Told("jolpica", files), [SEASON], observed_at=AT)
    entries = files["entries"]
    again = entries.assign(
        status="Disqualified",
        event_timestamp=entries["event_timestamp"] - pd.Timedelta(seconds=1),
        created_timestamp=entries["created_timestamp"] - pd.Timedelta(seconds=1),
    )
    ingest(settings, Told("jolpica", {**files, "entries": again}), [SEASON], observed_at=AT)
    known = latest_visible(Lake(settings.lake_dir).read("entries"), list(TABLES["entries"].key), AT)
    assert set(known["status"]) == {"Disqualified"}


@pytest.mark.parametrize("change", [{"circuit_id": "elsewhere"}, {"race_start": pd.Timedelta(days=7)}])
def test_sources_that_count_rounds_differently_are_not_merged(
    settings: Settings, files: Frames, jolpica: Frames, change: dict[str, object]
) -> None:
    ingest(settings, Told("files", files), [SEASON], observed_at=AT)
    before = Lake(settings.lake_dir).hashes()
    races = files["races"].assign(source="openf1")
    for column, value in change.items():
        races[column] = races[column] + value if isinstance(value, pd.Timedelta) else value
    with pytest.raises(
        DifferentRacesError, match=r"2022_01: got 'alpha' on .* from files and .* from openf1 .*rounds differently"
    ):
        ingest(settings, Told("openf1", {"races": races}), [SEASON], observed_at=AT)
    assert Lake(settings.lake_dir).hashes() == before
    assert KeptSources(settings).names(SEASON) == ["files"]


def test_a_source_that_did_not_change_is_not_read_again_after_another_was(
    settings: Settings, files: Frames, jolpica: Frames
) -> None:
    ingest(settings, Still("files", files), [SEASON], observed_at=AT)
    assert ingest(settings, Still("files", files), [SEASON], observed_at=AT).skipped_up_to_date
    ingest(settings, Told("jolpica", jolpica), [SEASON], observed_at=AT)
    assert ingest(settings, Still("files", files), [SEASON], observed_at=AT).skipped_up_to_date


@pytest.mark.parametrize("source", ["jolpica", "files", "livetiming"])
def test_a_path_that_is_not_there_is_said_whatever_the_source(settings: Settings, tmp_path: Path, source: str) -> None:
    with pytest.raises(
        SourceMissingError, match=rf"--path .*absent: got no such file or folder, expected one that --source {source}"
    ):
        choose_source(settings, source, "2024", paths=[tmp_path / "absent"])
