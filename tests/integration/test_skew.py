"""Skew replay on a tiny home: nothing differs by itself, every planted bug is found and named, and promotion listens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from loop_home import one_object
from loop_setup import Pitwall
from registry_home import write_trained
from skew_home import SERVED_AT, SERVICE, Answer, answer, log_answers
from tiny_home import DRIVERS, FORM_TTL, at, catalogue, form_row, rows, write_all, write_table

from feature_repo.errors import InvalidIdError, UnknownServiceError
from feature_repo.feature_log_files import column, log_folder, read_log
from feature_repo.files import read_json, write_json
from feature_repo.parquet_log import log_files, write_log_file
from feature_repo.settings import Settings
from feature_repo.store import apply, open_store
from pipelines.candidates import CANDIDATE
from pipelines.errors import NothingServedError
from pipelines.promotion import preview, promote, replay_decision
from pipelines.skew import skew
from pipelines.skew_report import ServiceSkew

LAPS = 12
MOMENTS = [at(90.5 * lap + 4) for lap in range(1, LAPS)]


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home")
    write_all(settings, n_laps=LAPS)
    form = [
        form_row(driver, -86_400 * days, place + 0.25 * days, 1500 + 10 * place + days)
        for days in (9, 5, 1)
        for place, driver in enumerate(DRIVERS, start=1)
    ]
    write_table(settings, "driver_form", rows(*form))
    apply(settings, catalogue(settings.home))
    write_json(settings.models_dir / CANDIDATE / "served_model.json", {"features": RANGES})
    return settings


RANGES = [
    {"name": "form_finish", "categories": None, "low": 1.0, "high": 6.0, "distinct": 9},
    {"name": "form_elo", "categories": None, "low": 1500.0, "high": 1600.0, "distinct": 9},
    {"name": "tyre_life_laps", "categories": None, "low": 1.0, "high": 40.0, "distinct": 40},
    {"name": "compound", "categories": ["HARD", "SOFT"], "distinct": 2},
]


def answers(settings: Settings, store: FeatureStore, **options: Any) -> list[Answer]:
    return [answer(settings, store, "2024_08", moment, **options) for moment in MOMENTS]


def found(settings: Settings, said: list[Answer], **options: Any) -> ServiceSkew:
    """The report about a fresh log of these answers."""
    for file in log_files(log_folder(settings, SERVICE)):
        file.path.unlink()
    log_answers(settings, open_store(settings), said)
    return skew(settings, since=SERVED_AT, **options).service(SERVICE)


def test_what_the_store_holds_is_what_history_gives(home: Settings) -> None:
    report = found(home, answers(home, open_store(home)))
    assert (report.vectors, report.requests, report.cells) == (33, 11, 132)
    assert (report.mismatches, report.wrong_keys, report.future_rows, report.problems) == (0, 0, 0, ())
    assert report.within_limit
    assert {line.name: line.inexact for line in report.features} == dict.fromkeys(
        ("form_finish", "form_elo", "tyre_life_laps", "compound"), 0
    )
    assert all((line.older, line.missing, line.newer, line.future) == (0, 0, 0, 0) for line in report.views)
    assert report.ranges_from == "trained candidate fusion_best"
    assert read_json(home.reports_dir / "skew.json")[SERVICE]["mismatches"] == 0


def test_a_changed_value_is_found_and_named(home: Settings) -> None:
    said = answers(home, open_store(home))
    said[3] = said[3].with_cells("form_elo", lambda elo: elo.where(elo.index != 1, elo + 0.5))
    report = found(home, said)
    line = report.feature("form_elo")
    assert (line.mismatches, report.mismatches, report.within_limit) == (1, 1, False)
    assert line.example is not None
    assert (line.example["driver_id"], line.example["request_id"]) == ("max_verstappen", "request-3")
    assert line.example["served"] == line.example["expected"] + 0.5
    assert report.problems[0].startswith("form_elo: 1 of 33 values differ from history")
    assert found(home, said, limit=0.1).within_limit, "the limit can be given"


def test_rounding_to_32_bits_is_inexact_and_no_mismatch(home: Settings) -> None:
    said = [one.with_cells("form_elo", lambda elo: elo * (1 + 2e-7)) for one in answers(home, open_store(home))]
    report = found(home, said)
    assert report.feature("form_elo").inexact > 0
    assert (report.mismatches, report.within_limit) == (0, True)


def test_nulls_and_values_where_history_has_the_other_are_found(home: Settings) -> None:
    said = answers(home, open_store(home))
    said[0] = said[0].with_cells("tyre_life_laps", lambda life: life * np.nan)
    said[1] = said[1].with_cells("compound", lambda compound: compound.fillna("SOFT"))
    report = found(home, said)
    assert (report.feature("tyre_life_laps").null_served, report.feature("compound").value_served) == (3, 1)
    assert report.mismatches == 4


def test_answers_shifted_by_an_hour_are_found_with_their_lag(home: Settings) -> None:
    """Values of one moment said to be of an hour later, in which a lap was driven: as a wrong time zone gives."""
    store = open_store(home)
    tyres = [
        {"race_id": "2024_08", "driver_id": driver, "tyre_life_laps": 30.0 + hour, "compound": "SOFT", "event": 3600.0 * hour}
        for driver in DRIVERS
        for hour in (3, 4, 5)
    ]
    write_table(home, "tire_state", rows(*tyres))
    shifted = [answer(home, store, "2024_08", at(3600.0 * hour)).about(at(3600.0 * (hour + 1))) for hour in (3, 4)]
    report = found(home, shifted)
    view = report.view("tire_state")
    assert (view.older, view.largest_lag_s, report.view("driver_form").older) == (6, 3600.0, 0)
    assert (report.feature("tyre_life_laps").mismatches, report.feature("tyre_life_laps").pattern) == (6, "plus -1")
    assert report.mismatches == 6
    assert report.problems[0].startswith("tyre_life_laps")
    assert "tire_state: 6 vectors from older rows than history uses, by up to 3600.0 s" in report.warnings


def test_a_stale_row_is_found_with_its_age(home: Settings) -> None:
    store = open_store(home)
    said, older = answers(home, store), answer(home, store, "2024_08", MOMENTS[4])
    stale = older.frame["tyre_life_laps"]
    event_us = said[6].event_us.copy()
    event_us[0, 1] = older.event_us[0, 1]
    said[6] = replace(said[6].with_cells("tyre_life_laps", lambda life: life.where(life.index != 0, stale)), event_us=event_us)
    report = found(home, said)
    view = report.view("tire_state")
    assert (view.older, view.largest_lag_s, view.examples["older"]["driver_id"]) == (1, 181.0, "alonso")
    assert (report.feature("tyre_life_laps").mismatches, report.mismatches, report.wrong_keys) == (1, 1, 0)


def test_a_future_row_fails_whatever_its_share(home: Settings) -> None:
    store = open_store(home)
    said = answers(home, store)
    said[2] = answer(home, store, "2024_08", MOMENTS[3]).about(MOMENTS[2])
    report = found(home, said, limit=1.0)
    assert (report.future_rows, report.view("tire_state").future, report.view("driver_form").future) == (3, 3, 0)
    assert not report.within_limit
    assert any(sentence.startswith("tire_state: 3 vectors from rows after their moment") for sentence in report.problems)
    assert report.feature("tyre_life_laps").mismatches == 3


def test_keys_swapped_before_the_lookup_are_found_by_key(home: Settings) -> None:
    said = answers(home, open_store(home))
    order = [1, 0, 2]
    cars = said[5].frame["driver_id"]
    said[5] = replace(
        said[5],
        frame=said[5].frame.iloc[order].reset_index(drop=True).assign(driver_id=cars),
        entity_rows=[said[5].entity_rows[at] for at in order],
        event_us=said[5].event_us[order],
    )
    report = found(home, said, limit=1.0)
    assert (report.wrong_keys, report.keys) == (2, {"driver_id": 2, "race_id": 0})
    assert report.key_example is not None
    assert (report.key_example["driver_id"], report.key_example["served"]) == ("alonso", "max_verstappen")
    assert not report.within_limit
    assert report.problems[0].startswith("driver_id: 2 vectors were looked up with another value than the entrant's")


def test_values_swapped_after_the_lookup_are_found_by_their_owner(home: Settings) -> None:
    """The logged keys are right; only the values tell."""
    said = answers(home, open_store(home))
    order = [1, 0, 2]
    event_us = said[5].event_us.copy()
    event_us[:, 1] = event_us[order, 1]
    swapped = {
        name: said[5].frame[name].iloc[order].to_numpy() for name in ("tyre_life_laps", "compound", "form_finish", "form_elo")
    }
    said[5] = replace(said[5], frame=said[5].frame.assign(**swapped), event_us=event_us)
    report = found(home, said, limit=1.0)
    assert report.keys == {"driver_id": 0, "race_id": 0}
    form = report.view("driver_form")
    assert (form.wrong_key, form.examples["wrong_key"]["driver_id"]) == (2, "alonso")
    assert form.examples["wrong_key"]["values_of"] == "max_verstappen"
    assert (report.wrong_keys, report.within_limit) == (2, False)
    assert any("driver_form: 2 vectors are those of another car (form_finish, form_elo)" in said for said in report.problems)


def test_a_wrong_unit_is_found_with_its_factor_and_out_of_range(home: Settings) -> None:
    said = [one.with_cells("form_elo", lambda elo: elo * 1000) for one in answers(home, open_store(home))]
    line = found(home, said).feature("form_elo")
    assert (line.mismatches, line.pattern, line.out_of_range) == (33, "times 1000", 33)


def test_infinity_is_reported(home: Settings) -> None:
    said = answers(home, open_store(home))
    said[2] = said[2].with_cells("form_elo", lambda elo: elo.where(elo.index != 0, np.inf))
    line = found(home, said).feature("form_elo")
    assert (line.mismatches, line.largest_difference, line.out_of_range) == (1, 1.0, 1)
    assert line.example is not None
    assert line.example["served"] == "inf"


def test_values_outside_training_are_said_and_do_not_count(home: Settings) -> None:
    ranges = [dict(line) for line in RANGES]
    ranges[0]["high"], ranges[3]["categories"] = 3.0, ["SOFT"]
    write_json(home.models_dir / CANDIDATE / "served_model.json", {"features": ranges})
    report = found(home, answers(home, open_store(home)))
    assert (report.feature("form_finish").out_of_range, report.feature("compound").out_of_range) == (11, 22)
    example = report.feature("compound").out_of_range_example
    assert example is not None
    assert example["served"] == "HARD"
    assert report.feature("tyre_life_laps").out_of_range == 0
    assert report.within_limit
    assert any(
        sentence.startswith("form_finish: 11 values outside what the model was trained on") for sentence in report.warnings
    )


def test_a_constant_is_found_where_training_had_several_values(home: Settings) -> None:
    said = [one.with_cells("tyre_life_laps", lambda life: life * 0 + 5) for one in answers(home, open_store(home))]
    report = found(home, said)
    line = report.feature("tyre_life_laps")
    assert (line.constant, line.constant_in_history) == (True, False)
    assert not report.feature("form_elo").constant
    assert not report.feature("compound").constant, "null and HARD are two values"
    assert "tyre_life_laps: served with one value only, in training it had several" in report.warnings
    few = found(home, said[:4]).feature("tyre_life_laps")
    assert not few.constant, "twelve rows say nothing yet"


def test_without_a_model_there_are_no_ranges(home: Settings) -> None:
    (home.models_dir / CANDIDATE / "served_model.json").unlink()
    report = found(home, answers(home, open_store(home)))
    assert (report.ranges_from, report.feature("form_elo").out_of_range) == (None, 0)


def test_a_model_from_before_ranges_has_none(home: Settings) -> None:
    old = [{"name": line["name"], "categories": line["categories"]} for line in RANGES]
    write_json(home.models_dir / CANDIDATE / "served_model.json", {"features": old})
    assert found(home, answers(home, open_store(home))).ranges_from is None


def test_lookups_serve_expired_values_and_are_compared_with_the_row_all_the_same(home: Settings) -> None:
    moment = at(0) + FORM_TTL
    store = open_store(home)
    said = answer(home, store, "2024_08", moment, withheld=False)
    assert said.frame["form_elo"].notna().all()
    report = found(home, [said])
    assert (report.mismatches, report.view("driver_form").expired_served, report.view("tire_state").expired_served) == (0, 3, 3)
    assert report.view("tire_state").aged == 3
    wrong = found(home, [said.with_cells("form_elo", lambda elo: elo + 1)])
    assert wrong.feature("form_elo").mismatches == 3, "old values are checked as well"
    withheld = found(home, [replace(said, withheld=True)])
    assert withheld.feature("form_elo").value_served == 3, "a prediction must not see them"


def test_a_correction_known_only_later_is_no_history_yet(home: Settings) -> None:
    """Served from a table in which a correction of the past has arrived meanwhile: as of its moment it was not known."""
    said = answers(home, open_store(home))
    path = home.features_dir / "driver_form.parquet"
    table = pd.read_parquet(path)
    late = table[table["driver_id"] == "norris"].assign(form_elo=np.float32(9), created_timestamp=MOMENTS[5])
    write_table(home, "driver_form", pd.concat([table, late], ignore_index=True))
    report = found(home, said)
    corrected = [moment for moment in MOMENTS if moment >= MOMENTS[5]]
    assert report.feature("form_elo").mismatches == len(corrected), "from then on history has the corrected value"
    assert found(home, answers(home, open_store(home))).mismatches == 0


def test_windows_services_and_files_that_cannot_be_compared(home: Settings) -> None:
    store = open_store(home)
    said = answers(home, store)
    assert found(home, said, until=SERVED_AT + pd.Timedelta(seconds=2)).vectors == 9
    with pytest.raises(NothingServedError, match="PITWALL_LOG_FEATURES=1"):
        skew(home, since=SERVED_AT + pd.Timedelta(days=1))
    with pytest.raises(NothingServedError, match="speed_trace_v1"):
        skew(home, since=SERVED_AT, service="speed_trace_v1")
    with pytest.raises(InvalidIdError):
        skew(home, since=SERVED_AT, service="../../etc")
    with pytest.raises(UnknownServiceError):
        skew(home, since=SERVED_AT, service="nobody_v1")
    folder = log_folder(home, SERVICE)
    _, table = next(read_log(home, SERVICE, since=SERVED_AT, until=SERVED_AT))
    assert table is not None
    write_log_file(folder, table.drop_columns([column("driver_form", "form_elo")]))
    (folder / f"{SERVED_AT.value // 1000}-{SERVED_AT.value // 1000}-3-abc.parquet").write_bytes(b"PAR1")
    write_json(folder / "dropped.json", {"files": 1, "rows": 7, "until_us": SERVED_AT.value // 1000})
    report = skew(home, since=SERVED_AT).service(SERVICE)
    assert report.vectors == 33
    notes = " ".join(report.warnings)
    assert "the service has changed since" in notes
    assert "3 vectors are unreadable" in notes
    assert "7 older vectors were dropped" in notes


def test_cars_that_never_entered_are_said(home: Settings) -> None:
    said = answer(home, open_store(home), "2024_08", MOMENTS[3])
    stranger = replace(
        said, frame=said.frame.assign(driver_id="nobody"), entity_rows=[{"race_id": "2024_08", "driver_id": "nobody"}] * 3
    )
    report = found(home, [stranger])
    assert report.feature("form_elo").value_served == 3
    assert any("no entrants of their race" in note for note in report.warnings)


def test_many_small_files_and_small_chunks_say_the_same(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    said = answers(home, open_store(home))
    said[3] = said[3].with_cells("form_elo", lambda elo: elo + 0.5)
    whole = found(home, said)
    monkeypatch.setattr("pipelines.skew.CHUNK_ROWS", 7)
    pieces = skew(home, since=SERVED_AT).service(SERVICE)
    again = {"made_at": whole.made_at, "until": whole.until}
    assert replace(pieces, **again) == whole


@settings_of(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    planted=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 2), st.sampled_from(["form_finish", "form_elo"])), unique=True)
)
def test_as_many_mismatches_are_found_as_were_planted(
    home: Settings, planted: list[tuple[int, int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = answers(home, open_store(home))
    for number, car, feature in planted:
        said[number] = said[number].with_cells(feature, lambda old, car=car: old.where(old.index != car, old * 1.5 + 7))
    report = found(home, said)
    assert report.mismatches == len(planted)
    for name in ("form_finish", "form_elo"):
        assert report.feature(name).mismatches == sum(feature == name for _, _, feature in planted)
    assert report.within_limit == (not planted)


def test_the_command_names_features_and_ends_with_one(home: Settings, pitwall: Pitwall) -> None:
    said = answers(home, open_store(home))
    log_answers(home, open_store(home), said)
    since = ("skew", "--since", "2026-03-01")
    fine = pitwall(*since, "--json", home=home.home)
    assert fine.code == 0, fine.err
    assert one_object(fine.out)["services"][SERVICE]["mismatches"] == 0
    shown = pitwall(*since, home=home.home)
    assert (shown.code, "within the limit 0.001" in shown.out) == (0, True)
    log_answers(home, open_store(home), [said[0].with_cells("form_elo", lambda elo: elo / 3.6)])
    bad = pitwall(*since, "--json", home=home.home)
    assert bad.code == 1
    assert "form_elo: 3 of 36 values differ" in " ".join(bad.err.split())
    assert one_object(bad.out)["within_limit"] is False
    assert pitwall(*since, "--limit", "0.5", home=home.home).code == 0
    assert pitwall("skew", "--since", "2026-03-01", "--until", "2026-02-01", home=home.home).code == 2
    assert pitwall("skew", "--since", "yesterday-ish", home=home.home).code == 2
    assert "nothing of any service was served" in pitwall("skew", "--since", "2031-01-01", home=home.home).err


def test_promotion_is_refused_above_the_limit_and_allowed_again_below(settings: Settings) -> None:
    write_all(settings, n_laps=LAPS)
    apply(settings, catalogue(settings.home))
    write_trained(settings)
    unasked = preview(settings)
    assert unasked.promote, unasked.reasons
    assert "no served vector was compared with history yet (run `pitwall skew`)" in unasked.checks[-1].message

    said = answers(settings, open_store(settings))
    assert not found(settings, [one.with_cells("form_elo", lambda elo: elo * 1.01) for one in said]).within_limit
    refused = promote(settings)
    assert (refused.decision.promote, refused.champion) == (False, None)
    assert [reason.split(":")[0] for reason in refused.decision.reasons] == [f"skew_of_{SERVICE}"]
    assert "33 of 132 served values differ from history (form_elo)" in refused.decision.reasons[0]
    assert promote(settings).already_decided, "nothing has changed"
    stored, again = replay_decision(settings, refused.version)
    assert stored == again == refused.decision

    assert found(settings, said).within_limit
    allowed = promote(settings)
    assert (allowed.decision.promote, allowed.champion, allowed.version) == (True, refused.version, refused.version)
    check = next(check for check in allowed.decision.checks if check.name == f"skew_of_{SERVICE}")
    assert (check.passed, check.value) == (True, 0.0)
    stored, again = replay_decision(settings, allowed.version)
    assert stored == again == allowed.decision
    assert not found(settings, [one.with_cells("form_elo", lambda elo: elo * 1.01) for one in said]).within_limit
    assert promote(settings).champion == allowed.champion, "what was promoted stays until it is rolled back"
