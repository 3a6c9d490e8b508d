"""Merging sources: the order of precedence decides, and nothing else does."""

import functools
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from source_views import NAMES, Frames, Told, said_by, with_clock
from strategies import lake_number, small_lake

from feature_repo.settings import Settings
from feature_repo.visibility import CREATED, EVENT, latest_visible
from pipelines.ingest.base import SeasonTables
from pipelines.ingest.merging.history import with_history
from pipelines.ingest.merging.merge import SAME_VERSION, content_hash, merge
from pipelines.ingest.precedence import CORRECTED, PRECEDENCE
from pipelines.ingest.run import ingest
from pipelines.lake import Lake
from pipelines.schemas import TABLES, validate

QUICK = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
SEASON = 2022
HOUR = pd.Timedelta(hours=1)
HEARD = pd.Timestamp("2026-01-01T00:00:00Z")


def small(*, late: bool = False) -> st.SearchStrategy[Frames]:
    """A lake of one or two seasons out of a few: building one takes longer than merging it."""
    return st.builds(lake_number, st.integers(0, 5), st.just(late))


@st.composite
def told(draw: st.DrawFn, *, late: bool = False) -> dict[str, Frames]:
    """Two or more sources on the same season."""
    lake = draw(small(late=late))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    seeds = draw(st.lists(st.integers(0, 2**16), min_size=len(names), max_size=len(names)))
    return {name: said_by(name, lake, seed) for name, seed in zip(names, seeds, strict=True)}


class Recording(Told):
    """Live timing: it has no calendar and counts from the start that the home believes in when it is read."""

    def __init__(self, home: Settings, tables: Frames, calendar: pd.DataFrame) -> None:
        super().__init__("livetiming", tables)
        self.home = home
        self.starts = calendar.set_index("race_id")["race_start"]

    def offered(self, season: int) -> SeasonTables:
        found = Lake(self.home.lake_dir).read("races", [season])
        by = found.set_index("race_id")["race_start"] - self.starts
        tables = {
            table: rows.assign(**{stamp: rows[stamp] + rows["race_id"].map(by) for stamp in (EVENT, CREATED)})
            for table, rows in self.tables.items()
        }
        return SeasonTables(season, tables, calendar=found)


# command -> sets of commands of which one has to be complete before: a source corrects what it said, a recording needs its races
COMMANDS: dict[str, list[set[str]]] = {
    "round 1": [],
    "round 2": [],
    "round 1, corrected": [{"round 1"}],
    "files": [],
    "recording": [{"round 1", "round 2"}, {"files"}],
}
WORDS = ("races", "entries", "qualifying", "weather", "race_control")


def _lake_after(order: Sequence[str]) -> dict[str, str]:
    """The lake's partitions after these commands, in a home of its own."""
    told = {table: rows for table, rows in small_lake(1, seasons=(SEASON,), rounds=2, n_laps=1).items() if table in WORDS}
    jolpica = {table: rows.assign(source="jolpica") for table, rows in told.items() if table not in ("weather", "race_control")}
    corrected = {**jolpica, "entries": jolpica["entries"].assign(status="Disqualified")}
    # files, which are believed about times, have every race an hour later
    files = {**with_clock(said_by("files", told, 7), "files", HOUR), **with_clock({"races": told["races"]}, "files", HOUR)}
    feed = {table: told[table].assign(source="livetiming") for table in ("weather", "race_control")}
    with TemporaryDirectory() as folder:
        home = Settings(home=Path(folder))
        sources: dict[str, Told] = {
            "round 1": Told("jolpica", jolpica, rounds=[1]),
            "round 2": Told("jolpica", jolpica, rounds=[2]),
            "round 1, corrected": Told("jolpica", corrected, rounds=[1]),
            "files": Told("files", {table: rows for table, rows in files.items() if table not in feed}),
            "recording": Recording(home, feed, told["races"]),
        }
        for command in order:
            at = HEARD + pd.Timedelta(days=1) if command.endswith("corrected") else HEARD
            ingest(home, sources[command], [SEASON], observed_at=at)
        return Lake(home.lake_dir).hashes()


@functools.cache
def _lake_after_all() -> dict[str, str]:
    return _lake_after(list(COMMANDS))


@given(st.permutations(list(COMMANDS)))
@example(["round 2", "round 1", "recording", "round 1, corrected", "files"])
@settings(QUICK, max_examples=2)
def test_the_lake_does_not_depend_on_the_order_of_commands(wanted: list[str]) -> None:
    order: list[str] = []
    while len(order) < len(wanted):
        ready = (
            name
            for name in wanted
            if name not in order and (not COMMANDS[name] or any(before <= set(order) for before in COMMANDS[name]))
        )
        order.append(next(ready))
    assert _lake_after(order) == _lake_after_all()


@given(told())
@QUICK
def test_merged_rows_are_fit_for_the_lake_and_name_who_gave_them(said: dict[str, Frames]) -> None:
    for table, rows in merge(said).tables.items():
        checked = validate(table, rows, SEASON)
        for names in checked["source"].unique():
            assert set(names.split("+")) <= set(said)


@given(told())
@QUICK
def test_one_source_comes_out_as_it_is(said: dict[str, Frames]) -> None:
    for name, tables in said.items():
        merged = merge({name: tables})
        assert not merged.compared
        assert not merged.disagreements
        for table, rows in tables.items():
            pd.testing.assert_frame_equal(merged.tables[table], rows)


@given(told())
@QUICK
def test_every_value_is_the_first_known_one_in_the_order_of_its_column(said: dict[str, Frames]) -> None:
    """Against a search by hand, for the tables whose rows are joined by key."""
    merged = merge(said).tables
    for table in ("races", "entries", "qualifying", "laps"):
        rule, key = PRECEDENCE[table], list(TABLES[table].key)
        by_key = {name: frames[table].set_index(key) for name, frames in said.items() if table in frames}
        for row in merged[table].to_dict("records"):
            at = row[key[0]] if len(key) == 1 else tuple(row[part] for part in key)
            has = {name: frame.loc[at] for name, frame in by_key.items() if at in frame.index}
            if rule.rows == "race":
                races = {name for name, frame in by_key.items() if row["race_id"] in set(frame.reset_index()["race_id"])}
                giver = next(name for name in rule.order if name in races)
                assert giver in has
            for column in rule.tolerance:
                if column.endswith("_timestamp") or TABLES[table].cols[column].kind == "time":
                    continue
                known = [has[name][column] for name in rule.of(column) if name in has and pd.notna(has[name][column])]
                assert known[0] == row[column] if known else pd.isna(row[column])


@given(told())
@QUICK
def test_instants_of_laps_come_from_one_clock(said: dict[str, Frames]) -> None:
    laps = merge(said).tables["laps"]
    for race_id, rows in laps.groupby("race_id"):
        giver = next(
            name
            for name in PRECEDENCE["laps"].order
            if name in said and race_id in set(said[name].get("laps", laps[:0])["race_id"])
        )
        own = said[giver]["laps"].set_index(["race_id", "driver_id", "lap"])
        mine = rows.set_index(["race_id", "driver_id", "lap"])
        for column in ("lap_start", "pit_in", "pit_out"):
            pd.testing.assert_series_equal(mine[column], own[column].reindex(mine.index), check_names=False)


@given(told())
@QUICK
def test_every_difference_is_counted_and_listed_once(said: dict[str, Frames]) -> None:
    merged = merge(said)
    listed = pd.concat(merged.disagreements, ignore_index=True) if merged.disagreements else pd.DataFrame(columns=["table"])
    assert len(listed) == sum(found.differ for found in merged.compared.values())
    for (table, column, believed, other), found in merged.compared.items():
        assert found.differ <= found.compared
        order = PRECEDENCE[table].of(column)
        assert order.index(believed) < order.index(other)
        key = list(TABLES[table].key)
        both = said[believed][table].merge(said[other][table], on=key, suffixes=("", "_o"))
        both = both[both[column].notna() & both[f"{column}_o"].notna()]
        assert len(both) == found.compared


@given(told(late=True), st.data())
@QUICK
def test_the_merge_as_of_a_moment_is_the_merge_of_what_was_known_then(said: dict[str, Frames], data: st.DataObject) -> None:
    """Corrections: asking the merged table at a moment, and merging what each source showed at that moment, tell the same."""
    for table in CORRECTED:
        key = list(TABLES[table].key)
        frames = [tables[table] for tables in said.values() if table in tables]
        if len(frames) < 2:
            continue
        stamps = pd.concat([frame[CREATED] for frame in frames]).drop_duplicates().sort_values()
        # not within the hour in which sources that put the same decision at other seconds count as one
        moments = [stamp + SAME_VERSION + pd.Timedelta(minutes=1) for stamp in stamps]
        moments = [moment for moment in moments if not stamps.between(moment - SAME_VERSION, moment + SAME_VERSION).any()]
        if not moments:
            continue
        moment = data.draw(st.sampled_from(moments))
        merged = merge({name: {table: tables[table]} for name, tables in said.items() if table in tables}).tables[table]
        seen = {
            name: {table: latest_visible(tables[table], key, moment).reset_index(drop=True)}
            for name, tables in said.items()
            if table in tables
        }
        expected = merge({name: tables for name, tables in seen.items() if len(tables[table])}).tables[table]
        known = latest_visible(merged, key, moment)
        first, second = (frame.sort_values(key, ignore_index=True) for frame in (known, expected))
        content = [column for column in TABLES[table].cols if column not in (EVENT, CREATED, "source", "grid_timestamp")]
        pd.testing.assert_frame_equal(first[content], second[content])


@given(small(), st.lists(st.tuples(st.integers(0, 50), st.integers(1, 400)), min_size=1, max_size=4))
@QUICK
def test_whatever_a_source_says_next_what_it_said_stays_readable(lake: Frames, words: list[tuple[int, int]]) -> None:
    """After any number of changed answers, asking as of each answer's time gives that answer."""
    first = lake["entries"][lake["entries"]["season"] == SEASON].reset_index(drop=True)
    key = list(TABLES["entries"].key)
    rows, answers = first, [(first[CREATED].max(), first)]
    at = first[CREATED].max()
    for number, days in words:
        said = first.assign(points=(first["points"] + np.arange(len(first)) * number) % 60)
        at = at + pd.Timedelta(days=days)
        rows, _ = with_history("entries", rows, said, at)
        again, corrected = with_history("entries", rows, said, at + pd.Timedelta(days=1))
        assert corrected == 0
        pd.testing.assert_frame_equal(again, rows)
        answers.append((at, said))
    for moment, said in answers:
        known = latest_visible(rows, key, moment).sort_values(key, ignore_index=True)
        assert known["points"].tolist() == said.sort_values(key)["points"].tolist()
    validate("entries", rows, SEASON)


@given(small())
@QUICK
def test_a_new_recipe_is_not_taken_for_a_correction(lake: Frames) -> None:
    before = lake["entries"][lake["entries"]["season"] == SEASON].reset_index(drop=True)
    now = before.assign(points=before["points"] + 1)
    at = before[CREATED].max() + pd.Timedelta(days=9)
    rows, corrected = with_history("entries", before, now, at, ours=dict.fromkeys(before["round"], True))
    assert corrected == 0
    pd.testing.assert_frame_equal(rows, now)


@pytest.mark.parametrize("table", sorted(TABLES))
def test_what_a_row_says_leaves_out_who_said_it_and_when(table: str) -> None:
    columns = set(TABLES[table].columns)
    frame = pd.DataFrame({column: [1, 1] for column in columns})
    hashes = content_hash(table, frame.assign(source=["a", "b"], **{EVENT: [1, 2], CREATED: [3, 4]}))
    assert hashes[0] == hashes[1]
    for column in columns - {"source", EVENT, CREATED, "grid_timestamp"}:
        changed = content_hash(table, frame.assign(**{column: [1, 2]}))
        assert changed[0] != changed[1]
