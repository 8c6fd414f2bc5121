"""Charts: every curve where its numbers say, and axes that a reader can read."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.charts import bar_chart, labelled_ticks, line_chart, log_ticks, ticks
from lungseg.draw import (
    SERIES,
)


def has(picture, colour):
    """Does any pixel have this colour (or nearly: charts are smoothed)?"""
    return (np.abs(np.asarray(picture).astype(int) - colour).max(axis=-1) < 12).any()


def test_each_curve_has_its_colour_and_shows_in_the_legend():
    chart = line_chart(
        {"loss": [(0, 1.0), (9, 0.0)], "dice": [(0, 0.0), (9, 1.0)]}, title="t", x_label="x", y_label="y"
    )
    assert chart.size == (640, 400)
    right = chart.crop((560, 0, 640, 400))
    assert all(has(chart, SERIES[i]) and has(right, SERIES[i]) for i in (0, 1)) and not has(chart, SERIES[2])


def test_a_curve_goes_where_its_numbers_say():
    chart = np.asarray(line_chart({"up": [(0, 0.0), (10, 10.0)]})).astype(int)
    on_line = np.abs(chart[:, :520] - SERIES[0]).max(-1) < 30
    ys, xs = np.nonzero(on_line)
    assert np.corrcoef(xs, ys)[0, 1] < -0.99  # rows count downwards


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(1, float("nan"))],
        [(1, 0.5)],
        [(1, 0.5), (2, float("inf")), (3, 0.5)],
        [(1, 0.0), (2, 0.0)],
        [(5, -1e-9)],
    ],
)
def test_hard_curves_give_a_picture(points):
    assert line_chart({"a": points}).size == (640, 400)


def test_nan_leaves_a_gap():
    whole = line_chart({"a": [(i, 0.5) for i in range(11)]})
    gap = line_chart({"a": [(i, float("nan") if 3 < i < 8 else 0.5) for i in range(11)]})
    blue = [int((np.abs(np.asarray(p).astype(int) - SERIES[0]).max(-1) < 120).sum()) for p in (whole, gap)]
    assert blue[1] < 0.9 * blue[0]


def test_values_beyond_the_given_range_stay_inside_the_axes():
    chart = line_chart({"a": [(0, 0.5), (1, 100.0)]}, y_range=(0.0, 1.0))
    assert not has(chart.crop((0, 0, 640, 30)), SERIES[0])


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_are_few_and_enclose_the_data(low, span):
    values = ticks(low, low + span)
    assert 3 <= len(values) <= 13
    assert values[0] <= low + 1e-6 * span and values[-1] >= low + span - 1e-6 * span


def test_ticks_are_round():
    assert [words for _, words in labelled_ticks(0.0, 1.0)] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [words for _, words in labelled_ticks(0, 99)] == ["0", "20", "40", "60", "80"]


# ---- bars -------------------------------------------------------------------------------------------------------


def columns_of(picture, colour):
    """The columns of pixels that hold a colour, below the legend."""
    close = np.abs(np.asarray(picture)[66:].astype(int) - colour).max(axis=-1) < 12
    return np.flatnonzero(close.any(axis=0))


@pytest.mark.parametrize("value", [0.05, 0.3, 0.9])
def test_a_bar_is_as_long_as_its_value(value):
    none = math.nan
    chart = bar_chart({"a": {"one": (value, none, none), "other": (1.0, none, none)}})
    assert chart.size == (800, 400)
    one, other = (columns_of(chart, SERIES[i]) for i in (0, 1))
    assert abs(one.min() - other.min()) <= 1  # charts are smoothed
    assert other.max() == pytest.approx(800 - 64, abs=2)  # 1.0 is the right end of the axis
    assert len(one) == pytest.approx(value * len(other), abs=3)


def test_an_interval_is_drawn_over_its_bar_and_nan_draws_none():
    """A line of 0.8 of the axis in the middle of the chart, or only the value beside the bar."""
    drawn = {
        low: np.asarray(bar_chart({"a": {"one": (0.2, low, 0.9)}}).crop((100, 150, 620, 250)))
        for low in (0.1, math.nan)
    }
    dark = {low: (pixels.max(axis=-1) < 90).sum(axis=1).max() for low, pixels in drawn.items()}  # in one row of pixels
    assert dark[0.1] > 400 and dark[math.nan] < 60


@pytest.mark.parametrize("groups", [{}, {"a": {}}, {"a\nb": {"x": (float("nan"),) * 3}}, {"a": {"x": (0.0, 0.0, 2.0)}}])
def test_hard_bars_give_a_picture(groups):
    assert bar_chart(groups, title="t", x_label="x").size == (800, 400)


def test_scale_enlarges_everything():
    series = {"a": [(0, 0.1), (5, 0.9)]}
    once, twice = line_chart(series, title="t"), line_chart(series, title="t", scale=2)
    assert twice.size == (1280, 800)
    shrunk = np.asarray(twice.resize(once.size)).astype(int)
    assert np.abs(shrunk - np.asarray(once)).mean() < 1
    assert bar_chart({"g": {"a": (0.5, 0.4, 0.6)}}, scale=2).size == (1600, 800)


def test_on_logarithmic_axes_a_power_is_a_straight_line():
    points = [(x, x**3) for x in (1.0, 2.0, 5.0, 10.0, 50.0, 100.0)]
    chart = np.asarray(line_chart({"cube": points}, log="xy")).astype(int)
    ys, xs = np.nonzero(np.abs(chart[40:350, :550] - SERIES[0]).max(-1) < 30)
    assert np.corrcoef(xs, ys)[0, 1] < -0.9999


@given(st.floats(-12, 12), st.floats(0.8, 9))
def test_logarithmic_ticks_say_where_they_stand(low, span):
    found = log_ticks(low, low + span)
    assert found and all(low - 1e-6 <= position <= low + span + 1e-6 for position, _ in found)
    assert all(float(words) == pytest.approx(10**position, rel=1e-6) for position, words in found)


def test_what_has_no_logarithm_leaves_a_gap():
    chart = line_chart({"a": [(0, 1.0), (1, 0.0), (2, -1.0), (3, 10.0)]}, log="y")
    assert chart.size == (640, 400) and line_chart({"a": [(0, 0.0)]}, log="xy").size == (640, 400)
