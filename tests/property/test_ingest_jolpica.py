"""Paging loses, repeats and reorders nothing; a lap chart is a sum whose past no later lap changes."""

from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from jolpica_pages import page as cut

from pipelines.ingest.base import IngestReport
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.jolpica import lap_chart
from pipelines.ingest.jolpica import tables as jolpica_tables
from pipelines.ingest.jolpica.pages import Page, read_pages

PAGINGS = settings(max_examples=30, deadline=None)
CHARTS = settings(max_examples=12, deadline=None)
LIMITS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def document(endpoint: str, races: list[dict[str, Any]], total: int) -> dict[str, Any]:
    table = "StandingsTable" if "standings" in endpoint else "RaceTable"
    parents = "StandingsLists" if "standings" in endpoint else "Races"
    return {"MRData": {"limit": "", "offset": "", "total": str(total), table: {"season": "2030", parents: races}}}


@st.composite
def lap_documents(draw: st.DrawFn) -> dict[str, Any]:
    """One race: each lap's cars in any order, some laps with one car."""
    cars = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    laps = []
    for number in range(1, draw(st.integers(0, 7)) + 1):
        order = draw(st.permutations(cars))[: draw(st.integers(1, len(cars)))]
        times = draw(st.lists(st.integers(60_000, 4_000_000), min_size=len(order), max_size=len(order)))
        timings = [
            {"driverId": car, "position": str(place), "time": clock(time)}
            for place, (car, time) in enumerate(zip(order, times, strict=True), start=1)
        ]
        laps.append({"number": str(number), "Timings": timings})
    races = [{"season": "2030", "round": "1", "Laps": laps}] if laps else []
    return document("laps", races, sum(len(lap["Timings"]) for lap in laps))


@st.composite
def stop_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Some races of a season with any number of stops each; equal stops of two races happen."""
    sizes = draw(st.lists(st.integers(1, 8), max_size=5))
    races = []
    for round_, size in enumerate(sizes, start=1):
        stops = [
            {"driverId": f"car_{number}", "lap": str(draw(st.integers(1, 3))), "time": "14:00:01", "duration": "22.1"}
            for number in range(size)
        ]
        races.append({"season": "2030", "round": str(round_), "PitStops": stops})
    return document("pitstops", races, sum(sizes))


def clock(milliseconds: int) -> str:
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}:{rest // 1000:02d}.{rest % 1000:03d}"


def paged(whole: dict[str, Any], limits: list[int], endpoint: str) -> list[Page]:
    """All pages of `whole`; the service applies the limits in turn."""
    asked: list[int] = []

    def ask(offset: int, _: object) -> Page:
        asked.append(offset)
        return Page(f"?offset={offset}", f"offset={offset}", cut(whole, limits[(len(asked) - 1) % len(limits)], offset))

    pages = read_pages(ask, endpoint)
    assert len(asked) <= int(whole["MRData"]["total"]) + 1
    return pages


@PAGINGS
@given(whole=lap_documents(), limits=LIMITS)
def test_any_paging_of_laps_gives_the_same_frame(whole: dict[str, Any], limits: list[int]) -> None:
    total = int(whole["MRData"]["total"])
    expected = jolpica_tables.laps(paged(whole, [100], "laps"))
    found = jolpica_tables.laps(paged(whole, limits, "laps"))
    assert len(found) == total
    pd.testing.assert_frame_equal(found.drop(columns=[FILE, ROW]), expected.drop(columns=[FILE, ROW]))
    # every row can be found again: its number in its page
    for name, rows in found.groupby(FILE):
        assert rows[ROW].tolist() == list(range(1, len(rows) + 1)), name


@PAGINGS
@given(whole=stop_documents(), limits=LIMITS)
def test_races_split_over_pages_anywhere_are_whole_again(whole: dict[str, Any], limits: list[int]) -> None:
    expected = jolpica_tables.pit_stops(paged(whole, [100], "pitstops"))
    found = jolpica_tables.pit_stops(paged(whole, limits, "pitstops"))
    pd.testing.assert_frame_equal(found.drop(columns=[FILE, ROW]), expected.drop(columns=[FILE, ROW]))


@st.composite
def charts(draw: st.DrawFn) -> pd.DataFrame:
    """Laps of a few cars without gaps, in any order."""
    rows = [
        (2030.0, 1.0, car, float(lap), draw(st.integers(60_000, 400_000)) / 1000, 1.0)
        for car in "abc"[: draw(st.integers(1, 3))]
        for lap in range(1, draw(st.integers(1, 8)) + 1)
    ]
    frame = pd.DataFrame(draw(st.permutations(rows)), columns=lap_chart.LAP_CONTENT)
    return frame.assign(**{FILE: "x", ROW: range(1, len(rows) + 1)})


def placed(chart: pd.DataFrame) -> pd.DataFrame:
    stops = pd.DataFrame({column: pd.Series(dtype="float64") for column in lap_chart.STOP_CONTENT}).astype({"driver_id": object})
    people = pd.DataFrame({"round": 1.0, "driver_id": list("abc"), "code": ["AAA", "BBB", "CCC"]})
    sieve = Sieve(IngestReport(source="jolpica", is_simulated=False, seasons=[2030]), [2030])
    laps, _ = lap_chart.read_chart(chart, stops.assign(**{FILE: "x", ROW: 1}), people, sieve)
    assert sieve.report.quarantine_reasons == {}
    return laps.sort_values(["code", "lap"], ignore_index=True)


@CHARTS
@given(chart=charts(), until=st.integers(1, 8))
def test_later_laps_never_change_when_earlier_ones_ended(chart: pd.DataFrame, until: int) -> None:
    laps = placed(chart)
    assert (laps["end"] - laps["start"] - laps["lap_time_s"]).abs().max() < 1e-9
    sums = laps.groupby("code")["lap_time_s"].cumsum()
    assert (laps["end"] - sums).abs().max() < 1e-3
    before = laps.groupby("code")["end"].shift().fillna(0.0)
    assert (laps["start"] - before).abs().max() < 1e-9
    early = placed(chart[chart["lap"] <= until].reset_index(drop=True))
    columns = ["code", "lap", "start", "end", "lap_time_s", "stint"]
    pd.testing.assert_frame_equal(early[columns], laps.loc[laps["lap"] <= until, columns].reset_index(drop=True))
