"""Nothing that became known after a moment changes what is said about it, from the lake to the answer; and a leak is found.

The probe takes the future away, computes every table, picture, embedding and prediction again, and compares bits. Its own
sharpness is tested by homes whose builders peek, and by later moments, about which the two homes must disagree.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from leak_home import NEXT_RACE, RACE, corrected_result, leak_home
from loop_home import one_object, tree
from loop_setup import MLFLOW_WARNS, Pitwall
from strategies import small_lake

from feature_repo.errors import MissingInputError
from feature_repo.files import read_parquet
from feature_repo.settings import Settings
from feature_repo.spine import Moment, entity_frame
from feature_repo.store import apply
from feature_repo.visibility import CREATED, EVENT, visible
from pipelines import traces
from pipelines.features import tables
from pipelines.features.build import build_features
from pipelines.lake import Lake
from pipelines.leak import probe as probe_module
from pipelines.leak.answer import Answer, ask
from pipelines.leak.compare import Leak, compare
from pipelines.leak.lake_at import Frames
from pipelines.leak.probe import VARIANTS, LeakReport, choose_moments, probe

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

LAP_3 = Moment.parse("lap:3")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home of four small races; no test changes it."""
    return leak_home(tmp_path_factory.mktemp("tiny") / "home")


def test_an_honest_home_has_no_leak_before_the_grid_within_a_lap_and_after_the_result(tiny: Settings) -> None:
    laps = read_parquet(tiny.features_dir / "race_state.parquet").query("race_id == @RACE")[EVENT]
    grid = read_parquet(tiny.features_dir / "grid.parquet").query("race_id == @RACE")[CREATED]
    result = read_parquet(tiny.features_dir / "race_result.parquet").query("race_id == @RACE")[CREATED].max()
    middle_of_a_lap = laps.median() + pd.Timedelta(seconds=20)
    asked = [(RACE, Moment.at(instant)) for instant in (grid.max() - pd.Timedelta(microseconds=1), middle_of_a_lap, result)]
    found = probe(tiny, asked, variants=["scrambled"])
    assert [str(leak) for leak in found.leaks] == []
    assert [moment.lap > 0 for moment in found.moments] == [False, True, True]
    assert found.counts.pictures > 0


def test_moments_are_chosen_by_the_seed_between_laps_too(tiny: Settings) -> None:
    one, two, three = (choose_moments(tiny, 9, seed=seed) for seed in (1, 1, 2))
    assert one == two != three
    assert {moment.kind for _, moment in one} >= {"lap", "at"}
    assert {race for race, _ in choose_moments(tiny, 5, seed=1, race_id=RACE)} == {RACE}
    with pytest.raises(MissingInputError, match="no laps of 2030_01"):
        choose_moments(tiny, 1, seed=1, race_id="2030_01")


# Builders as they are, before any test puts a peeking one in their place.
HONEST = dict(tables.COMPUTE)


def leak_of_the_result(lake: Frames) -> pd.DataFrame:
    """The grid view, with the place that each car will finish in, stamped as if it were known with the grid."""
    honest = HONEST["grid"](lake)
    place = lake["entries"].drop_duplicates(["race_id", "driver_id"]).set_index(["race_id", "driver_id"])["position_order"]
    keys = pd.MultiIndex.from_frame(honest[["race_id", "driver_id"]])
    return honest.assign(grid_position=place.reindex(keys).to_numpy(dtype="float32"))


def leak_of_the_next_lap(lake: Frames) -> pd.DataFrame:
    """The trace view, in which every row holds the laps of the row after it."""
    honest = HONEST["trace"](lake).sort_values(["race_id", "driver_id", EVENT], ignore_index=True)
    following = honest.groupby(["race_id", "driver_id"])[["lap_numbers", "lap_speeds_kph"]].shift(-1)
    return honest.assign(**{name: following[name].where(following[name].notna(), honest[name]) for name in following})


def leak_of_the_mean(lake: Frames) -> pd.DataFrame:
    """The tyre view, with the mean of the whole race in every row: what `transform("mean")` does when nobody thinks."""
    honest = HONEST["tire_state"](lake)
    mean = honest.groupby(["race_id", "driver_id"])["tire_laps_since_stop"].transform("mean")
    return honest.assign(tire_laps_since_stop=mean.astype("float32"))


def leak_of_a_correction(lake: Frames) -> pd.DataFrame:
    """The form view, from results as they stand now: the newest version takes the stamps of the first."""
    entries = lake["entries"]
    first = entries.sort_values(CREATED).groupby(["race_id", "driver_id"])[CREATED].transform("first")
    newest = entries.assign(**{CREATED: first}).drop_duplicates(["race_id", "driver_id"], keep="last")
    return HONEST["driver_form"]({**lake, "entries": newest})


def leak_of_the_flag(lake: Frames) -> pd.DataFrame:
    """The weather view, with the minutes that the race still has to run."""
    honest = HONEST["race_weather"](lake)
    end = honest["race_id"].map(lake["races"].set_index("race_id")["race_end"])
    return honest.assign(weather_humidity_pct=((end - honest[EVENT]).dt.total_seconds() / 60).astype("float32"))


PEEKING: dict[str, tuple[Callable[[Frames], pd.DataFrame], str]] = {
    "grid": (leak_of_the_result, "grid_position"),
    "trace": (leak_of_the_next_lap, "lap_speeds_kph"),
    "tire_state": (leak_of_the_mean, "tire_laps_since_stop"),
    "race_weather": (leak_of_the_flag, "weather_humidity_pct"),
    "driver_form": (leak_of_a_correction, "driver_finish_mean_3"),
}
"""View -> a builder that looks ahead, each in another way, and the feature that it spoils."""


@pytest.fixture(scope="module")
def peeked(tmp_path_factory: pytest.TempPathFactory) -> LeakReport:
    """What the probe finds in a home of which five views look ahead; a result is corrected years after the moment."""
    frames = corrected_result(small_lake(3), "2022_02", "driver_1", after=pd.Timedelta(days=900))
    with pytest.MonkeyPatch.context() as patch:
        for view, (leak, _) in PEEKING.items():
            patch.setitem(tables.COMPUTE, view, leak)
        settings = leak_home(tmp_path_factory.mktemp("peeking") / "home", frames)
        return probe(settings, [(RACE, LAP_3)], variants=["deleted"])


@pytest.mark.parametrize("view", PEEKING)
def test_a_view_that_peeks_is_found_and_named(peeked: LeakReport, view: str) -> None:
    feature = PEEKING[view][1]
    named = [leak for leak in peeked.leaks if leak.kind == "feature" and leak.name.endswith(f".{feature}")]
    assert named
    assert all((leak.race_id, leak.variant) == (RACE, "deleted") and leak.got != leak.expected for leak in named)
    assert {leak.driver_id for leak in named} <= {f"driver_{car}" for car in range(4)}
    assert any(leak.kind == "row" and leak.name == f"{view}.{feature}" for leak in peeked.leaks)


def test_only_what_peeks_is_named_and_what_is_drawn_from_it(peeked: LeakReport) -> None:
    assert {leak.name.split(".")[0] for leak in peeked.leaks if leak.kind == "row"} == set(PEEKING)
    assert {leak.kind for leak in peeked.leaks} == {"row", "feature", "picture"}


def test_pictures_of_later_laps_are_found(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is honest; it is drawn from the row after the one that was known."""

    def newest(frame: pd.DataFrame, keys: list[str], as_of: pd.Timestamp) -> pd.DataFrame:
        rows = frame if "driver_id" in keys else frame[visible(frame, as_of)]
        return rows.sort_values([*keys, EVENT, CREATED]).drop_duplicates(keys, keep="last")

    monkeypatch.setattr(traces, "latest_visible", newest)
    found = probe(tiny, [(RACE, LAP_3)], variants=["deleted"])
    assert {leak.kind for leak in found.leaks} == {"picture"}


def test_the_two_homes_disagree_about_later_moments(tiny: Settings, tmp_path: Path) -> None:
    """The experiment has power: another future is another one, in every kind of answer."""
    as_of = entity_frame(tiny, LAP_3, [RACE])[EVENT].iloc[0]
    other = Settings(home=tmp_path / "other", threads=1)
    apply(other)
    probe_module.compute_without_future(tiny, other, VARIANTS["scrambled"], as_of)
    assert differ(tiny, other, RACE, as_of, tmp_path) == []
    later = entity_frame(tiny, Moment.parse("lap:7"), [RACE])[EVENT].iloc[0] + pd.Timedelta(hours=2)
    found = differ(tiny, other, RACE, later, tmp_path)
    assert {leak.kind for leak in found} >= {"row", "feature", "picture"}
    assert {leak.name.split(".")[0] for leak in found if leak.kind == "row"} >= {
        "tire_state",
        "race_state",
        "trace",
        "race_weather",
    }
    next_race = entity_frame(tiny, LAP_3, [NEXT_RACE])[EVENT].iloc[0]
    assert {leak.name.split(".")[0] for leak in differ(tiny, other, NEXT_RACE, next_race, tmp_path)} >= {"driver_form", "grid"}


def differ(one: Settings, two: Settings, race_id: str, as_of: pd.Timestamp, tmp_path: Path) -> list[Leak]:
    answers: list[Answer] = []
    for number, settings in enumerate((one, two)):
        copy = probe_module.linked_home(settings, Path(tempfile.mkdtemp(dir=tmp_path)) / str(number))
        answers.append(ask(copy, race_id, as_of, []))
    return compare(*answers, race_id=race_id, as_of=as_of, variant="scrambled")[0]


def test_the_scratch_folder_is_removed_when_the_probe_fails(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("no more disk")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(probe_module, "build_features", breaks)
    before = tree(tiny.home)
    with pytest.raises(RuntimeError, match="no more disk"):
        probe(tiny, [(RACE, LAP_3)])
    assert list(tmp_path.iterdir()) == []
    assert tree(tiny.home) == before


def test_a_home_whose_features_are_not_those_of_its_lake_is_refused(tmp_path: Path) -> None:
    settings = leak_home(tmp_path / "home")
    lake = Lake(settings.lake_dir)
    lake.write("weather", 2023, lake.read("weather", [2023]).iloc[1:])
    with pytest.raises(MissingInputError, match="run `pitwall features` first"):
        probe(settings, [(RACE, LAP_3)])


def test_the_command_names_what_leaked_and_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pitwall: Pitwall) -> None:
    home = leak_home(tmp_path / "honest").home
    clean = pitwall("leak-probe", "--race", RACE, "--lap", "3", "--json", home=home)
    assert clean.code == 0, clean.err
    found = one_object(clean.out)
    assert (found["clean"], found["n_leaks"], found["moments"][0]["lap"], found["models"]) == (True, 0, 3, [])
    assert found["compared"]["cells"] > 1000
    monkeypatch.setitem(tables.COMPUTE, "tire_state", leak_of_the_mean)
    (home / "state" / "features.json").unlink()
    build_features(Settings(home=home, threads=1))
    leaky = pitwall("leak-probe", "--race", RACE, "--lap", "3", home=home)
    assert leaky.code == 1
    said = " ".join(leaky.err.split())
    assert "tire_state.tire_laps_since_stop" in said
    assert "got" in said
    assert "what leaked" in leaky.out
    for arguments in (("--lap", "3"), ("--race", RACE, "--lap", "3", "--moments", "2")):
        assert pitwall("leak-probe", *arguments, home=home).code == 2
    assert pitwall("leak-probe", "--race", "2031_01", home=home).code == 1
