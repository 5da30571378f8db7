import math
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from matplotlib.figure import Figure

from storage.schema import DAY_MS, HOUR_MS, FloatArray
from storage.written import Cell, Style, cell_text, written
from tasks.reporting.canvas import NARROW, WIDE, svg, use_dates
from tasks.reporting.figures import downsample, draw_equity, draw_step
from tasks.reporting.markup import exact_text
from tasks.reporting.report_data import Equity
from tasks.reporting.templating import printable
from tests.reporting.example_report import example, market_of, round_trips


@pytest.mark.parametrize(
    ("value", "style", "shown"),
    [
        (1234.5678, "ratio", "1,234.57"),
        (-0.0211, "signed share", "−2.11 %"),
        (0.0211, "signed share", "+2.11 %"),
        (0.3721, "share", "37.2 %"),
        (0.00083, "share as bp", "8.30 bp"),
        (-0.51, "bp", "−0.51 bp"),
        (1.0986123, "nat", "1.09861 nat"),
        (0.00891, "signed nat", "+0.00891 nat"),
        (1424.04, "us", "1,424.0 µs"),
        (0.0691, "loss", "0.069"),
        (0.0038, "signed loss", "+0.004"),
        (-0.0002, "signed loss", "−0.000"),
        (131040.0, "count", "131,040"),
        (7764.2, "money", "7,764"),
        (-0.4, "money", "0"),
        (None, "ratio", "undefined"),
        (math.nan, "share", "undefined"),
        (math.inf, "nat", "undefined"),
        (-math.inf, "us", "undefined"),
    ],
)
def test_number_is_written_with_its_unit(value: float | None, style: Style, shown: str) -> None:
    assert written(value, style).replace("\N{NO-BREAK SPACE}", " ") == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "yes"),
        (12_345, "12,345"),
        (-7, "−7"),
        (0.00012345, "0.0001234"),
        (51_234.567, "51,234.57"),
        (101.256, "101.26"),
        ("x", "x"),
        (None, "undefined"),
    ],
)
def test_cell_keeps_four_significant_digits(value: Cell, shown: str) -> None:
    assert cell_text(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.43072729929545756, "0.43072729929545756"),
        (20_260_104, "20260104"),
        (False, "no"),
        ("history", "history"),
    ],
)
def test_parameter_is_shown_exactly(value: Cell, shown: str) -> None:
    assert exact_text(value) == shown


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_any_text_can_stand_in_a_page(words: str) -> None:
    ElementTree.fromstring(Markup('<p title="{0}">{0}</p>').format(printable(words)))  # noqa: S314 - under test


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), max_size=300),
    st.integers(4, 50),
)
@settings(deadline=None, max_examples=200)
def test_downsampling_keeps_the_ends_and_the_extremes(series: list[float], most: int) -> None:
    values = np.array(series, np.float64)
    rows = downsample(values, most)
    assert len(rows) <= most
    assert (np.diff(rows) > 0).all()
    if len(values):
        assert (rows[0], rows[-1]) == (0, len(values) - 1)
    if np.isfinite(values).any():
        assert np.nanmin(values[rows]) == np.nanmin(values)
        assert np.nanmax(values[rows]) == np.nanmax(values)


@pytest.mark.parametrize("width", [0, NARROW, WIDE])
@pytest.mark.parametrize("first", ["2025-01-01T00:00", "2023-11-30T23:55"])
def test_dates_of_any_span_have_their_ticks(first: str, width: int) -> None:
    axes = Figure().add_subplot()
    first_ms = np.datetime64(first, "ms").astype(np.int64)
    for span_ms in np.geomspace(180_000, 15 * 365 * DAY_MS, 500).astype(np.int64):  # too few steps are a warning
        use_dates(axes, np.array([first_ms, first_ms + span_ms]), width)
        seen = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert 1 <= len(seen) <= 9


@pytest.mark.parametrize(
    ("hours", "ticks", "corner"),
    [
        (24 * 40, ["01 Jan", "08 Jan", "15 Jan", "22 Jan", "01 Feb", "08 Feb"], "2025"),
        (12, ["01 Jan", "02:00", "04:00", "06:00", "08:00", "10:00", "12:00"], "01 Jan 2025"),
        (3, ["01 Jan", "01:00", "02:00", "03:00"], "01 Jan 2025"),
    ],
)
def test_day_is_written_alike_on_ticks_and_in_the_corner(hours: int, ticks: list[str], corner: str) -> None:
    axes = Figure().add_subplot()
    first_ms = np.datetime64("2025-01-01T00:00", "ms").astype(np.int64)
    use_dates(axes, np.array([first_ms, first_ms + hours * HOUR_MS]), WIDE)
    formatter = axes.xaxis.get_major_formatter()
    shown = formatter.format_ticks([*axes.get_xticks()])
    assert (shown, formatter.get_offset()) == (ticks, corner)


def account(bars: int, model: FloatArray, held: FloatArray) -> Equity:
    candles = market_of([1.0] * bars)
    return Equity(candles=candles, interval_ms=300_000, model=model, buy_and_hold=held, trades=round_trips(candles, 0))


def test_equity_chart_draws_at_most_2000_points_and_the_extremes_on_a_logarithmic_axis() -> None:
    rng = np.random.default_rng(7)
    model, held = (100_000 * np.exp(np.cumsum(np.r_[0.0, rng.normal(0, 1e-3, 100_000)])) for _ in range(2))
    equity = account(100_000, model, held)
    value, below = draw_equity(equity, "BTCUSDT linear 5m · Bybit").axes
    assert value.get_yscale() == "log"
    for line, series in zip(value.lines[:2], (equity.buy_and_hold, equity.model), strict=True):
        drawn = np.asarray(line.get_ydata())
        assert len(drawn) <= 2_000
        assert (drawn.min(), drawn.max(), drawn[0], drawn[-1]) == (series.min(), series.max(), series[0], series[-1])
    deepest = 100.0 * (equity.model / np.maximum.accumulate(equity.model) - 1.0).min()
    assert np.asarray(below.lines[1].get_ydata()).min() == pytest.approx(deepest, rel=1e-12)
    first, last = value.get_xlim()
    assert (first, last) == (equity.time_ms[0] / 86_400_000, equity.time_ms[-1] / 86_400_000)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("reached", [2e5, 5e6, 5e9])
def test_name_of_the_equity_axis_stands_inside_the_chart_however_long_its_numbers(width: int, reached: float) -> None:
    grown = np.geomspace(1e5, reached, 1_001)
    equity = account(1_000, grown, grown)
    figure = draw_equity(equity, "BTCUSDT linear 5m · Bybit", width)
    svg(figure, "equity")  # lays it out
    assert figure.axes[0].yaxis.label.get_window_extent().x0 >= 0.0


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("calls", [(3, 9_000, 800, 0, 1), (0, 0, 5, 0, 0)])
def test_histogram_of_steps_shows_every_bin_and_names_both_percentiles(width: int, calls: tuple[int, ...]) -> None:
    measured = example(500).speed
    row = replace(measured.model, p50_us=1.4, p99_us=2.61)
    figure = draw_step(
        replace(measured, model=row, edges_us=tuple(np.geomspace(1, 100, 6)), calls=calls), "BTCUSDT 5m", width
    )

    (steps,) = figure.axes[0].patches
    np.testing.assert_array_equal(steps.get_data().values, calls)
    low, high = figure.axes[0].get_ylim()
    assert low < 1
    assert high > max(calls)
    drawn = svg(figure, "steps")
    assert "median 1.4 µs" in drawn
    assert "99th percentile 2.6 µs" in drawn
