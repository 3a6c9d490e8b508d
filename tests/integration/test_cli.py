"""The command line: what each command reports, one JSON object on stdout, exit codes, and where a home is."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from loop_home import one_object, tree
from loop_setup import MLFLOW_WARNS, Loop, Pitwall, loop_environment

from pipelines import cli, flows
from pipelines.errors import SourcePausedError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.simulator import SimulatorSource

SCORES = ("accuracy", "top3", "mae", "rps", "log_loss")
RACE, DRIVER = "2024_03", "bea_rowe"
VIEWS = {
    "driver_form", "constructor_form", "driver_circuit", "circuit_profile", "grid", "race_weather", "tire_state", "race_state",
    "trace", "race_result",
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)


@pytest.fixture
def said(loop: Loop, pitwall: Pitwall) -> Any:
    """`said("status")`: the JSON of a command about the loop's home."""

    def call(*arguments: str) -> dict[str, Any]:
        ended = pitwall(*arguments, "--json", home=loop.settings.home)
        assert ended.code == 0, ended.err
        return one_object(ended.out)

    return call


def test_status_says_what_the_home_holds(said: Any, loop: Loop) -> None:
    found = said("status")
    assert found["simulated"] is True
    lake = found["lake"]
    assert (lake["races"], lake["entries"], lake["quarantined"]) == (12, 240, 0)
    assert lake["laps"] == loop.report("ingest")["tables"]["laps"]["rows_written"]
    assert set(found["features"]) == VIEWS
    assert all(view["rows"] > 0 for view in found["features"].values())
    traces = found["traces"]
    assert traces["count"] + traces["missing"] == 240
    assert found["embeddings"]["count"] == traces["count"]
    assert set(found["online"]) == VIEWS - {"race_result"}
    for view in found["online"].values():
        assert view["rows"] > 0
        assert view["newest"].startswith("2024-")
        assert view["age_s"] > 0
    assert [(model["version"], model["model"], model["role"]) for model in found["models"]] == [
        ("1", "ensemble", "baseline"),
        ("2", "fusion_best", "candidate"),
    ]
    assert found["models"][1]["verdict"] == "refuse"
    assert found["champion"] is None


def test_evaluate_reports_every_model_and_the_verdict(said: Any) -> None:
    found = said("evaluate")
    groups = [found["baseline"], found["candidate"], found["twin"], found["reference"]]
    groups += [*found["trivial"].values(), *found["controls"].values()]
    assert set(found["trivial"]) == {"grid_order", "order_at_moment"}
    assert set(found["controls"]) == {"shuffled_pictures", "blank_pictures"}
    for scores in groups:
        assert all(isinstance(scores[name], float) for name in SCORES), scores["name"]
        assert 0 <= scores["accuracy"] <= scores["top3"] <= 1
        assert 0 <= scores["rps"] <= 1
    assert (found["n_races"], found["n_rows"], found["test_seasons"]) == (4, 80, [2024])
    decision = found["decision"]
    assert decision["promote"] is False
    assert decision.keys() >= {"relative_gain", "gain_low", "gain_high", "reasons"}
    assert any(reason.startswith("enough_races") for reason in decision["reasons"])
    assert found["up_to_date"] is True


def test_predict_is_a_whole_finishing_order(said: Any) -> None:
    found = said("predict", "--race", RACE)
    assert found["race_id"] == RACE
    assert found["moment"]["asked"] == "fraction:0.5"
    assert found["model"]["role"] == "baseline"
    assert "tabular baseline" in found["model"]["note"]
    drivers = found["drivers"]
    assert [driver["position"] for driver in drivers] == list(range(1, 21))
    for driver in drivers:
        assert len(driver["probabilities"]) == 20
        assert sum(driver["probabilities"]) == pytest.approx(1, abs=1e-6)
        assert driver["p_win"] <= driver["p_podium"] <= driver["p_points"] <= 1 + 1e-9
        assert 1 <= driver["expected_position"] <= 20


@pytest.mark.parametrize(
    ("arguments", "lap"), [(("--lap", "0"), 0), (("--lap", "7"), 7), (("--fraction", "0.25"), None), (("--fraction", "0"), 0)]
)
def test_predict_at_a_chosen_moment(said: Any, arguments: tuple[str, ...], lap: int | None) -> None:
    moment = said("predict", "--race", RACE, *arguments)["moment"]
    assert moment["as_of"].startswith("2024-")
    if lap is not None:
        assert moment["lap"] == lap
    else:
        assert 7 < moment["lap"] < 30


def test_latest_is_the_newest_race(said: Any) -> None:
    assert said("predict", "--race", "latest")["race_id"] == "2024_04"


def test_lookup_says_how_old_every_value_is(said: Any) -> None:
    online = said("lookup", "--race", RACE, "--driver", DRIVER)
    assert (online["race_id"], online["driver_id"], online["service"]) == (RACE, DRIVER, "finish_position_v1")
    assert online["source"] == "online"
    assert len(online["features"]) > 40
    for feature in online["features"].values():
        assert set(feature) == {"value", "event_timestamp", "age_s", "status"}
        assert feature["status"] in {"FRESH", "STALE", "MISSING"}
        assert (feature["value"] is None) == (feature["status"] == "MISSING")
    past = said("lookup", "--race", RACE, "--driver", DRIVER, "--service", "race_state_v1", "--as-of", "2024-03-24T13:40:00Z")
    assert past["source"] == "offline"
    assert all(feature["event_timestamp"] <= "2024-03-24T13:40:00" for feature in past["features"].values())


def test_each_step_can_be_run_alone_and_reports_json(said: Any, loop: Loop) -> None:
    before = tree(loop.settings.home)
    assert said("features")["skipped"] is True
    assert set(said("apply")["views"]) == VIEWS
    assert all(view["written"] == 0 for view in said("materialize")["views"])
    assert said("materialize", "--since", "2024-01-01T00:00:00Z", "--until", "2024-02-01T00:00:00Z")["until"].startswith(
        "2024-02"
    )
    assert said("train")["trained"] == []
    promoted = said("promote")
    assert (promoted["already_decided"], promoted["decision"]["promote"]) == (True, False)
    assert tree(loop.settings.home) == before


def test_a_verdict_is_replayed(said: Any, pitwall: Pitwall, loop: Loop) -> None:
    found = said("promote", "--replay", "2")
    assert found["same"] is True
    assert found["stored"] == found["replayed"]
    ended = pitwall("promote", "--replay", "7", home=loop.settings.home)
    assert (ended.code, "expected one of finish_position: 1, 2" in ended.err) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("promote",), ("promote", "--replay", "2"), ("features",), ("apply",), ("materialize",),
     ("train",),
     ("predict", "--race", RACE), ("predict", "--race", RACE, "--lap", "0"), ("lookup", "--race", RACE, "--driver", DRIVER)],
)  # fmt: skip
def test_every_report_has_a_form_for_people(loop: Loop, pitwall: Pitwall, arguments: tuple[str, ...]) -> None:
    ended = pitwall(*arguments, home=loop.settings.home)
    assert ended.code == 0, ended.err
    assert len(ended.out.splitlines()) >= 1
    assert "Traceback" not in ended.out + ended.err
    assert not ended.out.startswith("{")


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("predict", "--race", "2031_01"), "not among the 12 known", 1),
        (("predict", "--race", "../../etc"), "expected <season>_<round>", 2),
        (("predict", "--race", "2024_03; rm -rf"), "expected <season>_<round>", 2),
        (("predict", "--race", RACE, "--lap", "999"), "scheduled over", 2),
        (("predict", "--race", "2024_04", "--live"), "its result is known", 1),
        (("lookup", "--race", RACE, "--driver", "nobody"), "not among the 20 known in race 2024_03", 1),
        (("lookup", "--race", RACE, "--driver", "../passwd"), "expected lower-case letters", 2),
        (("lookup", "--race", RACE, "--driver", DRIVER, "--service", "none_v9"), "expected one of finish_position_v1", 1),
        (("traces", "--race", "../../etc"), "expected <season>_<round>", 2),
        (("evaluate", "--test-seasons", "2024-2020"), "2024-2020", 2),
        (("rollback",), "no champion to roll back", 1),
    ],
)
def test_what_cannot_be_answered_is_a_named_error(
    loop: Loop, pitwall: Pitwall, arguments: tuple[str, ...], said: str, code: int
) -> None:
    before = tree(loop.settings.home)
    ended = pitwall(*arguments, "--json", home=loop.settings.home)
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert said in " ".join(ended.err.split())
    assert "Traceback" not in ended.err
    assert tree(loop.settings.home) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bake",), "No such command"),
        (("predict",), "--race"),
        (("predict", "--race", RACE, "--lap", "-1"), "greater than or equal to 0"),
        (("predict", "--race", RACE, "--fraction", "1.5"), "less than or equal to 1"),
        (("lookup", "--race", RACE, "--driver", DRIVER, "--as-of", "yesterday-ish"), "'yesterday-ish', expected a UTC instant"),
        (("materialize", "--since", "soon"), "got 'soon', expected a UTC instant"),
        (("materialize", "--since", "2024-02-01", "--until", "2024-01-01"), "is after --until 2024-01-01"),
        (("predict", "--race", RACE, "--lap", "3", "--fraction", "0.5"), "one of --lap, --fraction and --live"),
        (("traces", "--lap", "3", "--fraction", "0.5"), "not both"),
        (("ingest", "--source", "radio", "--seasons", "3"), "expected one of "),
        (("ingest", "--source", "files", "--seasons", "2024"), "needs at least one --path"),
        (("ingest", "--source", "simulator", "--seasons", "2022-2024"), "how many seasons"),
        (("ingest", "--source", "simulator", "--seasons", "1", "--path", "."), "reads nothing"),
        (("ingest", "--source", "simulator", "--seasons", "1", "--races", "0"), "greater than or equal to 1"),
        (("ingest", "--source", "files", "--path", ".", "--seasons", "2024", "--seed", "3"), "are for the simulator"),
        (("ingest", "--report", "--rounds", "3"), "give --source NAME too"),
        (("run", "--source", "jolpica", "--seasons", "2024", "--races", "3"), "are for the simulator"),
        (("run", "--source", "simulator"), "--seasons"),
    ],
)
def test_bad_usage_exits_with_2_and_writes_nothing(
    pitwall: Pitwall, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ended = pitwall(*arguments, home=tmp_path / "home")
    assert ended.code == 2, ended.err
    assert ended.out == ""
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(("text", "said"), [("colour: red", "colour"), ("seed: [1", "pitwall.yaml"), ("moment: 3", "moment")])
def test_a_wrong_setting_is_bad_usage(pitwall: Pitwall, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pitwall.yaml").write_text(text, encoding="utf-8")
    ended = pitwall("status", home=tmp_path / "home")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("features",), "ingest"),
        (("materialize",), "run `pitwall apply` first"),
        (("traces",), "run the step that writes it first"),
        (("train",), "run `pitwall"),
        (("evaluate",), "run `pitwall"),
        (("promote",), "run `pitwall train` first"),
        (("predict", "--race", "2024_01"), "run `pitwall"),
        (("predict", "--race", "latest"), "run the step that writes it first"),
        (("lookup", "--race", "2024_01", "--driver", "x"), "run the step that writes it first"),
        (("rollback",), "no champion"),
    ],
)
def test_a_step_before_its_time_says_which_step_comes_first(
    pitwall: Pitwall, tmp_path: Path, command: tuple[str, ...], said: str
) -> None:
    ended = pitwall(*command, home=tmp_path / "home")
    assert ended.code == 1, ended.out
    assert said in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


def test_an_empty_home_has_a_status(pitwall: Pitwall, tmp_path: Path) -> None:
    ended = pitwall("status", "--json", home=tmp_path / "home")
    assert ended.code == 0, ended.err
    found = one_object(ended.out)
    assert (found["lake"]["races"], found["features"], found["online"], found["models"]) == (0, {}, {}, [])
    assert found["champion"] is None
    assert pitwall("status", home=tmp_path / "home").code == 0
    assert not (tmp_path / "home").exists(), "asking writes nothing"


class PausesOnce(SimulatorSource):
    """A source whose service has no room for another request when it is asked first."""

    paused = False

    def fingerprint(self) -> None:
        """Not known before the service is asked."""

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Pause, or the races."""
        if not PausesOnce.paused:
            PausesOnce.paused = True
            raise SourcePausedError("web: got its limit used up; run the same command again from 12:00:00 UTC on")
        yield from super().read(seasons, report)


def test_a_run_whose_source_pauses_says_so_and_goes_on_with_the_same_command(
    pitwall: Pitwall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def run_step(step: str, *_: object) -> dict[str, Any]:
        done.append(step)
        return {"decision": {"promote": True}}

    monkeypatch.setattr(PausesOnce, "paused", False)
    monkeypatch.setattr(cli, "choose_source", lambda *_, **__: (PausesOnce(seasons=1, races=1, seed=3), [2024]))
    monkeypatch.setattr(flows, "run_step", run_step)
    command = ("run", "--source", "fastf1", "--seasons", "2024", "--json")
    first = pitwall(*command, home=tmp_path / "home")
    assert (first.code, first.out, done) == (1, "", [])
    assert "run the same command again from 12:00:00 UTC on; no race was complete" in " ".join(first.err.split())
    second = pitwall(*command, home=tmp_path / "home")
    assert second.code == 0, second.err
    assert one_object(second.out)["steps"][0]["report"]["seasons"] == [2024]
    assert tuple(done) == flows.STEPS[1:]


def test_two_homes_never_touch_each_other(pitwall: Pitwall, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    ingest = ("ingest", "--source", "simulator", "--seasons", "1", "--races", "1", "--seed", "3")
    assert pitwall(*ingest, "--json", home=one).code == 0
    before = tree(one)
    ended = pitwall(*ingest[:-1], "4", "--home", str(two), home=one)  # the option wins over the variable
    assert ended.code == 0, ended.err
    assert "SIMULATED" in ended.out
    assert tree(one) == before
    assert {name for name in tree(two) if name.startswith("lake/")} == {name for name in before if name.startswith("lake/")}
    assert tree(two)["lake/laps/season=2024/part.parquet"] != before["lake/laps/season=2024/part.parquet"]
    assert pitwall("features", home=two).code == 0
    assert tree(one) == before
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_the_console_script_keeps_stdout_clean_and_knows_the_commands_of_serving(loop: Loop, tmp_path: Path) -> None:
    """A process of its own: what libraries print while they are loaded, and at exit, must not reach stdout."""
    script = Path(sys.executable).with_name("pitwall")
    environment = loop_environment(loop.settings.home)
    run = subprocess.run(
        [script, "predict", "--race", RACE, "--json"], capture_output=True, text=True, check=False, timeout=300,
        env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert one_object(run.stdout)["race_id"] == RACE
    assert run.stderr == "", "nothing to report"
    assert list(tmp_path.iterdir()) == []
