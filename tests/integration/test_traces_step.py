"""The traces step on whole homes: what it draws, that it repeats, repairs and resumes, and on real races."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trace_home import START, Lap, even_race, pictures, write_home

from feature_repo.errors import InvalidMomentError, MissingInputError, UnknownEntityError
from feature_repo.settings import Settings
from ml.traces.axes import race_axes
from ml.traces.laps import lap_trace
from ml.traces.store import ImageArtifactStore
from pipelines.traces import render_traces

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEDULED = 12


@pytest.fixture
def home(settings: Settings) -> Settings:
    """Two races of four cars; one more entrant never ended a lap."""
    races = {f"2024_{n:02d}": {**even_race(4, SCHEDULED, seed=n), "bottas": []} for n in (8, 9)}
    write_home(settings, races, scheduled_laps=SCHEDULED)
    return settings


def test_default_moment_and_another_lap(home: Settings) -> None:
    seen: list[tuple[str, int, int]] = []
    report = render_traces(home, progress=lambda *step: seen.append(step))
    assert (report.rendered, report.up_to_date, report.share) == (8, 0, 1.0)
    assert report.missing == ["2024_08/bottas", "2024_09/bottas"]
    assert not report.failed
    assert not report.skipped
    assert seen[-1] == ("traces", 8, 8)
    assert render_traces(home, moment="lap:3").rendered == 8
    names = set(pictures(home))
    assert {
        "speed_traces/2024_08/driver_00.png",
        "speed_traces/2024_09/lap_003/driver_03.png",
        "speed_traces/manifest.parquet",
    } <= names
    assert json.loads((home.multimodal_dir / "skipped_races.json").read_text()) == {}

    manifest = ImageArtifactStore(home.multimodal_dir).manifest()
    assert len(manifest) == 16
    default = manifest[manifest["is_default"]]
    assert (default["lap"] == 6).all()
    default = default[default["race_id"] == "2024_08"].set_index("driver_id")
    sixth = {name: laps[5].end_s for name, laps in even_race(4, SCHEDULED, seed=8).items()}
    leader = min(sixth, key=sixth.__getitem__)
    assert default.loc[leader, "event_timestamp"] == START + pd.Timedelta(microseconds=round(sixth[leader] * 1e6))
    assert default.loc[leader, "created_timestamp"] == default.loc[leader, "event_timestamp"]
    # Cars behind the leader have not ended lap 6 when the leader does.
    assert default["last_lap"].to_dict() == {name: 6 if name == leader else 5 for name in sixth}


def test_again_draws_nothing_and_changes_nothing(home: Settings) -> None:
    render_traces(home)
    before = pictures(home)
    report = render_traces(home)
    assert (report.rendered, report.up_to_date) == (0, 8)
    assert pictures(home) == before


def test_a_damaged_a_swapped_and_a_lost_picture_are_drawn_again(home: Settings) -> None:
    render_traces(home)
    before = pictures(home)
    folder = home.multimodal_dir / "speed_traces" / "2024_08"
    (folder / "driver_00.png").write_bytes((folder / "driver_01.png").read_bytes())
    (folder / "driver_02.png").write_bytes(b"")
    (folder / "driver_03.png").unlink()
    report = render_traces(home)
    assert (report.rendered, report.repaired) == (3, 3)
    assert pictures(home) == before


def test_two_processes_draw_the_same(home: Settings, tmp_path: Path) -> None:
    render_traces(home)
    other = Settings(home=tmp_path / "other")
    races = {f"2024_{n:02d}": {**even_race(4, SCHEDULED, seed=n), "bottas": []} for n in (8, 9)}
    write_home(other, races, scheduled_laps=SCHEDULED)
    render_traces(other, processes=2)
    assert pictures(other) == pictures(home)


def test_changed_laps_replace_their_race_only_and_lost_drivers_go(home: Settings) -> None:
    render_traces(home)
    before = pictures(home)
    races = {f"2024_{n:02d}": {**even_race(4, SCHEDULED, seed=n), "bottas": []} for n in (8, 9)}
    races["2024_09"] = {name: laps for name, laps in even_race(4, SCHEDULED, seed=10).items() if name != "driver_03"}
    write_home(home, races, scheduled_laps=SCHEDULED)
    report = render_traces(home)
    assert (report.rendered, report.up_to_date, report.discarded) == (3, 4, 1)
    after = pictures(home)
    assert {name for name in before if "2024_08" in name and before[name] != after[name]} == set()
    assert "speed_traces/2024_09/driver_03.png" not in after
    assert set(ImageArtifactStore(home.multimodal_dir).manifest().query("race_id == '2024_09'")["revision"]) == {2}


def test_one_bad_car_and_one_race_without_the_lap_do_not_stop_the_rest(settings: Settings) -> None:
    races = {f"2024_{n:02d}": even_race(4, SCHEDULED, seed=n) for n in (8, 9)}
    races["2024_08"]["driver_02"][2] = Lap(3, float("nan"), races["2024_08"]["driver_02"][2].end_s)
    write_home(settings, races, scheduled_laps=SCHEDULED)
    moments = pd.read_parquet(settings.features_dir / "moments.parquet")
    moments.loc[moments["race_id"] == "2024_09", "scheduled_laps"] = 4
    moments[(moments["race_id"] == "2024_08") | (moments["lap"] <= 4)].to_parquet(settings.features_dir / "moments.parquet")
    report = render_traces(settings, moment="lap:6")
    assert report.failed == ["2024_08/driver_02"]
    assert report.skipped == ["2024_09"]
    assert (report.rendered, report.share) == (3, 3 / 8), "a bad car and four cars of the race left out"
    assert "2024_09" in json.loads((settings.multimodal_dir / "skipped_races.json").read_text())
    log = (settings.multimodal_dir / "generation_errors.log").read_text().splitlines()
    assert {(json.loads(line)["race_id"], json.loads(line)["driver_id"]) for line in log} == {
        ("2024_08", "driver_02"),
        ("2024_09", None),
    }


def test_what_cannot_be_asked(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(UnknownEntityError, match="2024_20"):
        render_traces(home, race_ids=["2024_20"])
    with pytest.raises(InvalidMomentError):
        render_traces(home, moment="soon")
    with pytest.raises(InvalidMomentError, match="none of the 2 races asked for has this moment"):
        render_traces(home, moment="lap:500")
    with pytest.raises(MissingInputError):
        render_traces(Settings(home=tmp_path / "empty"))
    report = render_traces(home, moment="pre_race")
    assert (report.rendered, len(report.missing), report.share) == (0, 10, 1.0)


def test_some_races_leave_the_others_alone(home: Settings) -> None:
    assert render_traces(home, race_ids=["2024_09"]).rendered == 4
    assert render_traces(home, race_ids=["2024_08"]).discarded == 0
    assert render_traces(home).up_to_date == 8


def test_killed_in_the_middle_then_run_again_equals_a_clean_run(settings: Settings, tmp_path: Path) -> None:
    races = {f"2024_{n:02d}": even_race(20, 40, seed=n) for n in range(1, 11)}
    clean = Settings(home=tmp_path / "clean")
    for home in (settings, clean):
        write_home(home, races, scheduled_laps=40)
    render_traces(clean)
    script = (
        "import sys\nfrom feature_repo.settings import Settings\nfrom pipelines.traces import render_traces\n"
        "render_traces(Settings(home=sys.argv[1]))\n"
    )
    folder = settings.multimodal_dir / "speed_traces"
    rounds = []
    for more in (7, 60):  # killed twice: also while resuming
        there = len(list(folder.rglob("*.png")))
        process = subprocess.Popen([sys.executable, "-c", script, str(settings.home)], cwd=REPOSITORY)
        deadline = time.monotonic() + 120
        while len(list(folder.rglob("*.png"))) < there + more and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        rounds.append(len(list(folder.rglob("*.png"))))
    assert 0 < rounds[0] < rounds[1] < 200
    report = render_traces(settings)
    assert report.rendered + report.up_to_date == 200
    assert report.up_to_date >= rounds[1] - 2  # at most the picture in flight of each kill is drawn again
    assert pictures(settings) == pictures(clean)


@pytest.mark.parametrize("season", [2020, 2021])
def test_real_races_put_nearly_all_means_inside_the_axis(real_data: Path, season: int) -> None:
    """Safety cars, red flags, rain and timing errors of a real season at half distance; 2021 has the three laps of Spa."""
    laps = pd.read_parquet(
        real_data / "fastf1" / f"laps_{season}.parquet",
        columns=["RoundNumber", "Driver", "LapNumber", "LapTime", "Time", "LapStartTime"],
    )
    laps["seconds"] = laps["LapTime"].fillna(laps["Time"] - laps["LapStartTime"]).dt.total_seconds()
    inside = cars = 0
    for _, race in laps[laps["seconds"] > 0].groupby("RoundNumber"):
        half = race[race["LapNumber"] <= max(1, race["LapNumber"].max() // 2)]
        traces = {
            driver: lap_trace(own["LapNumber"].to_numpy(), (3.6 * 5200.0 / own["seconds"]).to_numpy())
            for driver, own in half.groupby("Driver")
        }
        shared = race_axes(traces, int(race["LapNumber"].max()))
        means = np.array([trace.mean_kph for trace in traces.values() if len(trace.lap_numbers) * 2 >= shared.max_lap // 2])
        inside += int(((means > shared.speed_low_kph) & (means < shared.speed_high_kph)).sum())
        cars += len(means)
        assert shared.speed_high_kph < 420
    assert cars > 250
    assert inside / cars > 0.98
