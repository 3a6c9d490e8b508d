"""A replay shows at each lap, bit for bit, what `predict --lap` says of it, and leaves the home's own store alone."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from loop_home import copy_of, one_object, online_rows, tree
from loop_setup import MLFLOW_WARNS, Loop, Pitwall, loop_environment

from feature_repo.errors import InvalidMomentError, UnknownEntityError
from feature_repo.files import read_parquet, write_parquet
from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_moments
from feature_repo.visibility import CREATED, EVENT
from serving.errors import ReplayRunningError
from serving.predictor import Predictor
from serving.replay import ReplayReport, replay
from serving.replay_file import ReplayReader, replay_path

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

RACE = "2024_02"
PICTURES = "2"
"""The version that looks at pictures."""


@pytest.fixture(scope="module")
def home(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A copy of the loop's home to replay in."""
    return copy_of(loop, tmp_path_factory.mktemp("replay") / "home")


@pytest.fixture(scope="module")
def corrected(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home in which what was known changed during the race: late rows, corrected rows, a renamed driver in another team."""
    settings = copy_of(loop, tmp_path_factory.mktemp("corrected") / "home")
    moments = load_moments(settings).query("race_id == @RACE").set_index("lap")["as_of"]

    def change(table: str, rows: Any, **changes: Any) -> None:
        path = settings.features_dir / f"{table}.parquet"
        frame = read_parquet(path)
        new = rows(frame[frame["race_id"] == RACE]).copy()
        assert len(new) == 1
        for name, value in changes.items():
            new[name] = pd.array([value], dtype=frame[name].dtype)
        write_parquet(path, pd.concat([frame, new], ignore_index=True))

    soon = pd.Timedelta(microseconds=1)
    one = read_parquet(settings.features_dir / "entrants.parquet").query("race_id == @RACE")["driver_id"].iloc[3]
    other_team = read_parquet(settings.features_dir / "entrants.parquet").query("race_id == @RACE")["constructor_id"].iloc[-1]
    # One instant after a lap of the leader: that lap must not know, the next one must.
    late = moments[10] + soon
    change("entrants_known", lambda frame: frame[frame["driver_id"] == one].tail(1), driver_name="A. Nother",
           constructor_id=other_team, **{EVENT: late, CREATED: late})  # fmt: skip
    change("tire_state", lambda frame: frame[frame[EVENT] <= moments[12]].tail(1), tire_life_laps=40.0, **{CREATED: moments[15]})
    change("race_weather", lambda frame: frame[frame[EVENT] > moments[18]].head(1), weather_air_temp_c=-5.0,
           **{EVENT: moments[18] - soon, CREATED: moments[20] + soon})  # fmt: skip
    change("race_weather", lambda frame: frame.tail(1), weather_air_temp_c=70.0, **{EVENT: moments[22], CREATED: pd.NaT})
    change("grid", lambda frame: frame[frame["driver_id"] == one].tail(1), grid_position=20.0, **{CREATED: moments[25]})
    return settings


def events_of(report: ReplayReport) -> list[dict[str, Any]]:
    return [json.loads(line) for line in report.record.read_text().splitlines()]


def check_same(settings: Settings, report: ReplayReport, *, version: str | None = None) -> dict[int, dict[str, Any]]:
    """Each lap of the record is exactly what the offline answer is; returns the laps."""
    offline = Predictor.open(settings, version=version)
    start, *laps, end = events_of(report)
    assert (start["event"], end["event"]) == ("start", "end")
    assert [event["lap"] for event in laps] == list(range(report.first_lap, report.last_lap + 1))
    for event in laps:
        said = json.loads(json.dumps(offline.predict(RACE, Moment.parse(f"lap:{event['lap']}")).to_json()))
        assert (said["source"], event["source"]) == ("offline", "online")
        assert said["moment"] | {"asked": "live"} == event["moment"]
        assert said["moment"]["as_of"] == event["as_of"]
        for part in ("drivers", "missing", "notes", "model", "simulated", "race_id"):
            assert event[part] == said[part], f"lap {event['lap']}: {part}"
    return {event["lap"]: event for event in laps}


def test_every_lap_of_a_race_is_what_predict_says_of_it(home: Settings) -> None:
    online, files = online_rows(home), tree(home.home, besides=["replay"])
    report = replay(home, RACE, speed=0)
    laps = check_same(home, report)
    last = int(load_moments(home).query("race_id == @RACE")["lap"].max())
    assert (report.first_lap, report.last_lap) == (0, last)
    assert len({json.dumps(event["drivers"]) for event in laps.values()}) > last // 2, "the answers follow the race"
    assert report.rows == sum(event["rows"] for event in laps.values()) > 20 * last
    assert online_rows(home) == online, "the home's own online store is not touched"
    assert tree(home.home, besides=["replay"]) == files
    assert sorted(path.name for path in report.record.parent.glob("[!.]*")) == [f"{RACE}.jsonl"], "its store is gone"


def test_pictures_drawn_lap_by_lap_are_those_drawn_for_a_past_moment(home: Settings) -> None:
    for first, last in ((0, 2), (30, 31)):
        laps = check_same(home, replay(home, RACE, speed=0, from_lap=first, to_lap=last, version=PICTURES), version=PICTURES)
        assert laps[last]["model"]["encoder"] is not None
    assert len(laps[30]["missing"]["pictures"]) < 5


def test_corrections_and_late_rows_count_from_when_they_became_known(corrected: Settings) -> None:
    report = replay(corrected, RACE, speed=0, to_lap=30)
    laps = check_same(corrected, report)
    assert laps[10]["drivers"] != laps[11]["drivers"]
    check_same(corrected, replay(corrected, RACE, speed=0, from_lap=10, to_lap=11, version=PICTURES), version=PICTURES)


def test_laps_come_at_the_races_own_pace(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    due: list[float] = []
    monkeypatch.setattr("serving.replay._wait_until", due.append)
    report = replay(home, RACE, speed=60, from_lap=3, to_lap=9)
    laps = [event for event in events_of(report) if event["event"] == "lap"]
    instants = [pd.Timestamp(event["as_of"]) for event in laps]
    for at, instant, event in zip(due, instants, laps, strict=True):
        assert at - due[0] == pytest.approx((instant - instants[0]).total_seconds() / 60, abs=1e-4)
        following = instants[min(event["lap"] - 3 + 1, len(instants) - 1)]
        assert event["next_in_s"] == pytest.approx((following - instant).total_seconds() / 60, abs=1e-4)


@pytest.mark.parametrize(("laps", "said"), [((5, 4), "laps 5 to 4"), ((0, 999), "to 999"), ((999, None), "laps 999")])
def test_laps_that_are_none_are_refused(home: Settings, laps: tuple[int, int | None], said: str) -> None:
    with pytest.raises(InvalidMomentError, match=said):
        replay(home, RACE, speed=0, from_lap=laps[0], to_lap=laps[1])
    with pytest.raises(InvalidMomentError, match="speed"):
        replay(home, RACE, speed=float("nan"))
    with pytest.raises(UnknownEntityError):
        replay(home, "2024_77", speed=0)


def test_a_replay_killed_half_way_is_done_again_from_the_start(home: Settings) -> None:
    environment = loop_environment(home.home)
    command = [str(Path(sys.executable).parent / "pitwall"), "replay", "--race", RACE, "--speed", "200"]
    reader = ReplayReader(replay_path(home, RACE))
    before = {event.run for event in reader.news()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            until = time.monotonic() + 120
            while reader.last is None or reader.last.run in before or reader.last.number < 3:
                reader.news()
                assert time.monotonic() < until, "no lap in two minutes"
                assert process.poll() is None, process.stdout.read() if process.stdout else ""
                time.sleep(0.05)
            with pytest.raises(ReplayRunningError, match="another process"):
                replay(home, RACE, speed=0)
        finally:
            process.send_signal(signal.SIGKILL)
    killed = reader.last.run
    assert (replay_path(home, RACE).with_suffix("") / "online_store.db").exists(), "what it left"
    report = replay(home, RACE, speed=0, to_lap=4)
    assert report.run != killed
    assert {event["run"] for event in events_of(report)} == {report.run}
    check_same(home, report)
    assert not replay_path(home, RACE).with_suffix("").exists()


def test_the_command_says_what_it_did(pitwall: Pitwall, home: Settings) -> None:
    said = pitwall("replay", "--race", RACE, "--speed", "0", "--to-lap", "2", "--json", home=home.home)
    assert said.code == 0, said.err
    report = one_object(said.out)
    assert (report["race_id"], report["first_lap"], report["last_lap"]) == (RACE, 0, 2)
    shown = pitwall("replay", "--race", RACE, "--speed", "0", "--from-lap", "1", "--to-lap", "2", home=home.home)
    assert [line.split()[:4] for line in shown.out.splitlines()[:2]] == [["lap", "1", "of", "2"], ["lap", "2", "of", "2"]]
    refused = pitwall("replay", "--race", RACE, "--from-lap", "900", home=home.home)
    assert refused.code != 0
    assert "expected 0 <= first <= last" in refused.err
