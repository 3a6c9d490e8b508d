"""Charts are well-formed SVG that says in words what it shows, escapes what it is given, and uses no inline style."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.dashboard import charts
from serving.dashboard.charts import Interval, Stint

SHARES = st.floats(0, 1, allow_nan=False)


def parsed(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    assert root.tag == "svg"
    assert all("style" not in element.attrib for element in root.iter()), "the pages' policy allows no inline style"
    return root


def title(svg: str) -> str:
    found = parsed(svg).find("title")
    assert found is not None
    assert found.text
    return found.text


def widths(svg: str, name: str) -> list[float]:
    return [float(element.attrib["width"].rstrip("%")) for element in parsed(svg).iter("rect") if name in element.attrib["class"]]


def test_a_probability_bar_holds_the_win_inside_the_podium_inside_the_points() -> None:
    svg = charts.probability_bar(0.25, 0.5, 0.875)
    assert (widths(svg, "b-win"), widths(svg, "b-podium"), widths(svg, "b-points")) == ([25.0], [50.0], [87.5])
    assert title(svg) == "Probabilities: Win 25 %, podium 50 %, points 88 %"


@given(SHARES, SHARES, SHARES)
def test_a_probability_bar_never_leaves_its_frame(win: float, podium: float, points: float) -> None:
    svg = charts.probability_bar(win, podium, points)
    assert all(0 <= width <= 100 for name in ("b-win", "b-podium", "b-points") for width in widths(svg, name))


def test_a_distribution_marks_the_assigned_place_and_the_result() -> None:
    svg = charts.distribution([0.1, 0.6, 0.3], place=2, actual=3)
    assert len(widths(svg, "d-col")) == 2
    assert len(widths(svg, "d-place")) == 1
    assert len(widths(svg, "d-actual")) == 1
    assert title(svg) == "Probability of each finishing place: Likeliest place 2 (60 %); assigned place 2; finished 3 (30 %)"


def test_a_distribution_without_a_result_marks_none() -> None:
    assert widths(charts.distribution([0.5, 0.5], place=1), "d-actual") == []


@given(st.lists(SHARES, min_size=1, max_size=22), st.data())
def test_columns_of_a_distribution_stay_inside(probabilities: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(probabilities)))
    actual = data.draw(st.none() | st.integers(1, 25))
    root = parsed(charts.distribution(probabilities, place=place, actual=actual))
    for column in root.iter("rect"):
        x, width = (float(column.attrib[key].rstrip("%")) for key in ("x", "width"))
        assert x >= 0
        assert x + width <= 100.01
        assert float(column.attrib["y"]) >= 0


def test_a_tyre_strip_draws_each_stint_over_its_laps() -> None:
    svg = charts.tyre_strip([Stint(1, 10, "SOFT"), Stint(11, 40, "HARD")], lap=40, scheduled_laps=50, who="A & B")
    assert widths(svg, "c-soft") == [20.0]
    assert widths(svg, "c-hard") == [60.0]
    assert title(svg) == "Tyres of A & B: soft laps 1 to 10; hard laps 11 to 40"
    assert [text.text for text in parsed(svg).iter("text")] == ["S", "H"]


def test_a_stint_too_short_for_its_letter_has_none_and_unknown_compounds_have_a_sign() -> None:
    svg = charts.tyre_strip([Stint(1, 1, "SOFT"), Stint(2, 30, None)], lap=30, scheduled_laps=60, who="A")
    assert [text.text for text in parsed(svg).iter("text")] == ["?"]


def test_rain_is_drawn_where_it_fell() -> None:
    svg = charts.rain_band([(0.0, 5.0), (20.0, 30.0)], lap=30, scheduled_laps=50)
    assert widths(svg, "r-rain") == [10.0, 20.0]
    assert "no rain" in title(charts.rain_band([], lap=3, scheduled_laps=50))


def test_an_interval_that_excludes_zero_is_told_from_one_that_does_not() -> None:
    rows = [Interval("good", 0.3, 0.1, 0.5), Interval("open", 0.1, -0.2, 0.4), Interval("bad", -0.3, -0.5, -0.1)]
    svg = charts.interval_plot(rows, limit=0.05, title="Gains")
    points = [element.attrib["class"].split()[-1] for element in parsed(svg).iter("circle")]
    assert points == ["i-good", "i-open", "i-bad"]
    assert (
        title(svg) == "Gains: good: +30.0 % [+10.0 %, +50.0 %]; open: +10.0 % [-20.0 %, +40.0 %]; bad: -30.0 % [-50.0 %, -10.0 %]"
    )
    assert sum(element.attrib["class"] == "i-limit" for element in parsed(svg).iter("line")) == len(rows)


def test_a_gain_without_an_interval_is_a_point_alone() -> None:
    svg = charts.interval_plot([Interval("gain", 0.2, None, None)], limit=None, title="Gain")
    assert title(svg) == "Gain: gain: +20.0 %"
    assert not [element for element in parsed(svg).iter("line") if "i-span" in element.attrib["class"]]


@given(st.lists(st.tuples(st.floats(-0.9, 50), st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=6))
def test_everything_in_an_interval_plot_lies_on_its_axis(gains: list[tuple[float, float, float]]) -> None:
    rows = [Interval("x", estimate, estimate - below, estimate + above) for estimate, below, above in gains]
    for element in parsed(charts.interval_plot(rows, limit=0.05, title="x")).iter():
        for key in ("x", "x1", "x2", "cx"):
            if element.attrib.get(key, "").endswith("%"):
                assert 0 <= float(element.attrib[key].rstrip("%")) <= 100


def test_a_histogram_says_its_range_and_its_fullest_bin() -> None:
    svg = charts.histogram([1, 4, 0], [0.0, 1.0, 2.0, 3.0], name="pace")
    assert title(svg) == "Distribution of pace: from 0 to 3, most often 1 to 2"
    heights = [float(element.attrib["height"]) for element in parsed(svg).iter("rect")]
    assert heights == [14.0, 56.0], "an empty bin has no column"


def test_categories_are_escaped_and_counted() -> None:
    svg = charts.category_bars(["<b>", "other"], [3, 1], name="x")
    assert [text.text for text in parsed(svg).iter("text")] == ["<b>", "75 %", "other", "25 %"]


@pytest.mark.parametrize("hostile", ["</title><script>alert(1)</script>", '"&<>'])
def test_text_from_outside_stays_text(hostile: str) -> None:
    strip = charts.tyre_strip([], lap=0, scheduled_laps=50, who=hostile)
    plot = charts.interval_plot([Interval(hostile, 0.1, None, None)], limit=None, title=hostile)
    for svg in (strip, plot, charts.histogram([1], [0, 1], name=hostile)):
        assert hostile in title(svg)
        assert not list(parsed(svg).iter("script"))
