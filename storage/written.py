"""Formatting of values in reports, on pages and in terminals: with their unit, and never as NaN or infinity."""

import math
from collections.abc import Mapping
from typing import Literal

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]
"""A row of a table: column name -> value. All rows of a table have the same columns."""

Style = Literal[
    "count", "ratio", "chance", "signed chance", "p", "share", "signed share", "share as bp", "bp", "nat", "signed nat",
    "loss", "signed loss", "us", "money",
]  # fmt: skip
"""Format of a number; `written` defines each."""

UNDEFINED = "undefined"
DASH = "\N{EN DASH}"
"""Shown where a number does not apply, such as the log-loss of a baseline without probabilities."""


def written(value: float | None, style: Style) -> str:
    """Return a number with its unit; None, NaN and infinities are "undefined"."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    shown = {
        "count": f"{value:,.0f}",
        "ratio": f"{value:,.2f}",
        "chance": f"{value:.3f}",
        "signed chance": f"{value:+.4f}",
        "p": f"{value:.3f}" if value >= 0.0005 else "< 0.001",  # a p-value is never exactly 0
        "share": f"{100 * value:,.1f} %",
        "signed share": f"{100 * value:+,.2f} %",
        "bp": f"{value:+,.2f} bp",
        "share as bp": f"{1e4 * value:,.2f} bp",
        "nat": f"{value:.5f} nat",
        "signed nat": f"{value:+.5f} nat",
        "loss": f"{value:.3f}",
        "signed loss": f"{value:+.3f}",
        "us": f"{value:,.1f} µs",
        "money": f"{round(value):,}",
    }[style]
    return shown.replace("-", "\N{MINUS SIGN}").replace(" ", "\N{NO-BREAK SPACE}")


def or_dash(value: float | None, style: Style) -> str:
    """Return a number with its unit, or a dash where it does not apply."""
    return DASH if value is None else written(value, style)


def cell_text(value: Cell) -> str:
    """Return a table cell's text; floats keep four significant digits, or cents."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "\N{MINUS SIGN}")
    if isinstance(value, float):
        return (f"{value:,.2f}" if abs(value) >= 100 else f"{value:.4g}").replace("-", "\N{MINUS SIGN}")
    return str(value)
