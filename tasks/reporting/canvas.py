"""How every static chart looks and how it leaves: one theme, SVG or PNG; equal figures give equal bytes.

Figures are made without pyplot, so there is no window, no global figure list and no display. Sizes are in points; a
page shows one point as about one pixel.
"""

import base64
import io
import re
import threading
from collections.abc import Sequence
from datetime import UTC

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.dates import DAILY, HOURLY, MINUTELY, MONTHLY, AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from storage.schema import DAY_MS, FloatArray, IntArray

WIDE, NARROW = 840, 400
"""Widths: a desktop's column; a phone, or half a column."""
MARKDOWN = 760
"""The widest that a Markdown view shows without shrinking it."""

INK, MUTED, GRID, AXIS, PAPER = "#1f2933", "#5f6b7a", "#e6e9ed", "#b8c0ca", "#ffffff"
MODEL, ACCENT, SECOND, NOTHING, PAST = "#1f5fa8", "#b5762a", "#3d8a84", "#8a95a3", "#b9c6d6"
PART_COLOURS = {"train": PAST, "validation": ACCENT, "test": MODEL}
THEME = {
    INK: "ink", MUTED: "muted", GRID: "grid", AXIS: "axis", PAPER: "paper",
    MODEL: "model", ACCENT: "accent", SECOND: "second", NOTHING: "nothing", PAST: "past",
}  # fmt: skip
"""Colour -> the variable of the page's style sheet that stands for it: a chart follows the page into the dark."""

DASHES = (0, (4, 3))
DOTS = (0, (1, 3))

_LINES, _DIGITS = re.compile(r' d="[^"]*"'), re.compile(r"(\.\d\d)\d+")  # a hundredth of a point is plenty
_SHEET = re.compile("<defs>\\s*<style.*?</style>\\s*</defs>", re.DOTALL)  # would style the whole page
_COLOUR = re.compile("|".join(THEME))
_IDS = re.compile(r'(\bid="|xlink:href="#|url\(#)')
_SVG_LOCK = threading.Lock()  # matplotlib reads the SVG writer's options from its global settings only


def svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element of a page, with real text and the page's colours.

    Every id within begins with `name`, a word that is unique in the page.
    """
    content = io.StringIO()
    options = {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",  # without it every id is random
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    }
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _SVG_LOCK, mpl.rc_context(options):  # type: ignore[arg-type]  # the stub wants literals
        figure.savefig(content, format="svg", metadata=nothing)
    drawn = content.getvalue()
    drawn = _SHEET.sub("", drawn[drawn.index("<svg") :], count=1)
    drawn = _IDS.sub(rf"\1{name}-", drawn)
    drawn = _COLOUR.sub(lambda colour: f"var(--{THEME[colour[0]]})", drawn)
    return _LINES.sub(lambda line: _DIGITS.sub(r"\1", line[0]), drawn)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=80, metadata={"Software": None})
    return content.getvalue()


def png_uri(figure: Figure) -> str:
    """Return a figure as an address that carries it, for a Markdown view."""
    return f"data:image/png;base64,{base64.b64encode(png(figure)).decode()}"


def new_figure(width: int, height: int, title: str, label: str) -> Figure:
    """Return an empty figure with its title, and its market and source below: charts get cut out and passed on."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor=PAPER)
    figure.text(8 / width, 1 - 8 / height, title, fontsize=12.5, fontweight="bold", color=INK, va="top")
    figure.text(8 / width, 1 - 27 / height, plain_text(label, 76), fontsize=9, color=MUTED, va="top")
    return figure


def add_axes(figure: Figure, box: tuple[float, float, float, float], grid: str = "both") -> Axes:
    """Add axes at left, bottom, width, height."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(AXIS)
    axes.tick_params(labelcolor=MUTED, labelsize=9.5, length=3, width=0.8, color=AXIS)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    return axes


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Name both axes, with their units."""
    axes.set_xlabel(x, fontsize=9.5, color=MUTED, labelpad=5)
    axes.set_ylabel(y, fontsize=9.5, color=MUTED, labelpad=5)


def add_legend(axes: Axes, *, order: Sequence[int] | None = None, columns: int = 3, lift: float = 4) -> None:
    """Put the legend above the axes, `lift` points up, so that it never covers a line."""
    handles, names = axes.get_legend_handles_labels()
    chosen = range(len(names)) if order is None else order
    artists: list[Artist] = [handles[place] for place in chosen]
    axes.legend(
        artists,
        [names[place] for place in chosen],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0 + lift / axes.get_window_extent().height),
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        borderaxespad=0.0,
        borderpad=0.0,
        handlelength=1.5,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def use_dates(axes: Axes, time_ms: IntArray, width: int) -> None:
    """Label the x axis with UTC dates, from the first time to the last."""
    locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=9 if width > NARROW else 5)  # type: ignore[no-untyped-call]
    # Without these it finds no step for 5 ticks in, say, 2.5 hours, 90 days or 30 months.
    for unit, step in ((MINUTELY, 60), (HOURLY, 24), (DAILY, 31), (MONTHLY, 12)):
        locator.intervald[unit] = [*locator.intervald[unit], step]
    axes.xaxis.set_major_locator(locator)
    dates = ConciseDateFormatter(locator, tz=UTC)  # type: ignore[no-untyped-call]
    # A day names its month, and the corner the year alone; or the day, below hours.
    dates.formats[2] = dates.zero_formats[2] = dates.zero_formats[3] = "%d %b"
    dates.offset_formats[1] = dates.offset_formats[2] = "%Y"
    dates.offset_formats[3] = dates.offset_formats[4] = "%d %b %Y"
    axes.xaxis.set_major_formatter(dates)
    axes.xaxis.get_offset_text().set(fontsize=9.5, color=MUTED)
    if len(time_ms) > 1:
        axes.set_xlim(time_ms[0] / DAY_MS, time_ms[-1] / DAY_MS)


def as_dates(time_ms: IntArray) -> FloatArray:
    """Return matplotlib's dates, days since 1970-01-01."""
    return time_ms / DAY_MS


def plain_text(text: str, most: int) -> str:
    """Return text that any figure can draw: one short line, letters that its font has, no mathematics."""
    plain = "".join(letter if letter.isprintable() and ord(letter) < 0x250 else "?" for letter in text)
    return (plain if len(plain) <= most else f"{plain[: most - 1]}…").replace("$", r"\$")
