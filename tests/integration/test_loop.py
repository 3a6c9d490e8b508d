"""The whole loop on a few simulated races: what every step reports, and that a second run has nothing to do."""

import time

import pandas as pd
import pytest
from loop_home import one_object, online_rows, registry_state, tree
from loop_setup import MLFLOW_WARNS, RACES, RUN, SEASONS, Loop, Pitwall, loop_source

from feature_repo.files import read_json, read_parquet
from pipelines.candidates import BASELINE, CANDIDATE, TRAINED
from pipelines.dataset import load_training_set
from pipelines.evaluation import load_evidence
from pipelines.flows import STEPS, run_all
from pipelines.lake import Lake

pytestmark = pytest.mark.filterwarnings(MLFLOW_WARNS)

N_RACES, N_CARS = SEASONS * RACES, 20


def test_every_step_ran_in_order_and_within_its_means(loop: Loop) -> None:
    assert tuple(outcome["step"] for outcome in loop.steps) == STEPS
    assert all(outcome["seconds"] >= 0 for outcome in loop.steps)
    assert all(0 < outcome["peak_mib"] < 4096 for outcome in loop.steps)
    assert loop.seconds < 300


def test_ingest_accounts_for_every_row_and_says_that_races_are_simulated(loop: Loop) -> None:
    report = loop.report("ingest")
    assert report["is_simulated"]
    assert report["tables"]["races"]["rows_written"] == N_RACES
    assert report["tables"]["entries"]["rows_written"] == N_RACES * N_CARS
    for account in report["tables"].values():
        assert account["rows_read"] == account["rows_written"] + account["rows_quarantined"]
    assert Lake(loop.settings.lake_dir).is_simulated


def test_features_and_online_store_agree_on_their_keys(loop: Loop) -> None:
    rows = loop.report("features")["rows"]
    assert rows["entrants"] == N_RACES * N_CARS
    laps = Lake(loop.settings.lake_dir).counts()["laps"]
    assert rows["trace"] == rows["tire_state"] == rows["race_state"] == laps
    for view in loop.report("materialize")["views"]:
        table = read_parquet(loop.settings.features_dir / f"{view['view']}.parquet")
        keys = [name for name in ("race_id", "driver_id", "constructor_id", "circuit_id") if name in table]
        assert view["rows"] == len(table[keys].drop_duplicates()), view["view"]
        assert pd.Timestamp(view["newest"]) == table["event_timestamp"].max(), view["view"]


def test_traces_embeddings_and_training_rows_fit_together(loop: Loop) -> None:
    traces, embed, train = loop.report("traces"), loop.report("embed"), loop.report("train")
    assert traces["share"] >= 0.95
    assert traces["rendered"] + len(traces["missing"]) == N_RACES * N_CARS
    assert not traces["failed"]
    assert not traces["skipped"]
    assert embed["count"] == embed["new"] == traces["rendered"], "no two cars have one picture"
    assert embed["identity"]["kind"] == "random"
    assert set(train["trained"]) == set(train["models"]) == set(TRAINED)
    rows = load_training_set(loop.settings)
    assert len(rows) == train["rows"] + train["validation_rows"] == N_RACES * N_CARS
    assert int(rows.has_picture.sum()) == traces["rendered"]
    cache = read_json(loop.settings.multimodal_dir / "dataset_cache.json")
    assert set(cache) >= {"metadata", "feature_names", "generated_at"}
    assert [(row["race_id"], row["driver_id"]) for row in cache["metadata"]] == list(
        zip(rows.keys["race_id"], rows.keys["driver_id"], strict=True)
    )
    assert {len(row["tabular_features"]) for row in cache["metadata"]} == {len(cache["feature_names"])}


def test_the_test_season_was_never_trained_on(loop: Loop) -> None:
    for name, found in load_evidence(loop.settings.reports_dir).items():
        assert [fold.test_season for fold in found.folds] == [2024], name
        assert all(fold.last_race_seen < "2024" for fold in found.folds), name


def test_so_few_races_are_refused_with_the_reasons(loop: Loop) -> None:
    decision = loop.report("promote")["decision"]
    assert decision["promote"] is False
    assert any(reason.startswith("enough_races: 4 races, limit at least 12") for reason in decision["reasons"])
    assert {check["name"]: check["passed"] for check in decision["checks"]}["known_answer"], "it answered in a fresh process"
    assert loop.report("promote")["champion"] is None
    state = registry_state(loop.settings)
    assert [(model, role) for _, model, role, *_ in state["versions"]] == [(BASELINE, "baseline"), (CANDIDATE, "candidate")]
    assert state["aliases"] == {"baseline": "1", "challenger": "2"}
    assert state["history"] == []


def test_a_second_run_computes_nothing_and_changes_no_file(loop: Loop) -> None:
    before = tree(loop.settings.home), online_rows(loop.settings), registry_state(loop.settings)
    source = loop_source()
    started = time.perf_counter()
    again = {outcome.step: outcome.report for outcome in run_all(loop.settings, source, source.years)}
    assert time.perf_counter() - started < 60
    assert again["ingest"]["skipped_up_to_date"]
    assert again["features"]["skipped"]
    assert all(view["written"] == 0 and view["up_to_date"] for view in again["materialize"]["views"])
    assert again["traces"]["rendered"] == 0
    assert (again["embed"]["new"], again["embed"]["cached"]) == (0, loop.report("embed")["count"])
    assert again["train"]["trained"] == []
    assert again["evaluate"]["up_to_date"]
    assert (again["promote"]["moved"], again["promote"]["already_decided"]) == (False, True)
    assert (tree(loop.settings.home), online_rows(loop.settings), registry_state(loop.settings)) == before


def test_run_tells_people_what_it_did_and_exits_with_3_where_promotion_is_required(loop: Loop, pitwall: Pitwall) -> None:
    said = pitwall(*RUN, "--require-promotion", home=loop.settings.home)
    assert said.code == 3, said.err
    assert "SIMULATED" in said.out
    for step in STEPS:
        assert f"\n{step}" in said.out, step
    assert "enough_races: 4 races" in said.out
    assert "done in" in said.out


def test_run_reports_one_json_object_and_succeeds_though_the_gate_refuses(loop: Loop, pitwall: Pitwall) -> None:
    said = pitwall(*RUN, "--json", "--home", str(loop.settings.home))
    assert said.code == 0, said.err
    found = one_object(said.out)
    assert found["simulated"] is True
    assert found["home"] == str(loop.settings.home)
    assert [step["step"] for step in found["steps"]] == list(STEPS)
    assert found["decision"] == loop.report("promote")["decision"]
