"""Pieces of a page: text that cannot break out of it, numbers that are never NaN or infinite, tables, pictures."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence

from tasks.reporting.report_data import Cell, Measure, Row, Style

UNDEFINED = "undefined"

_UNPRINTABLE = re.compile(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")
_NAMES = {"sharpe_ratio": "Sharpe ratio", "sortino_ratio": "Sortino ratio", "macs": "MACs"}
_UNITS = {"_us": ", µs", "_bp": ", bp", "_ms": ", ms", "_usdt": ", USDT"}


def text(value: object) -> str:
    """Return text as markup shows it: escaped, without control characters and changes of writing direction."""
    return html.escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value)))


def written(value: float | None, style: Style) -> str:
    """Return a number with its unit; None, NaN and infinities are "undefined"."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    shown = {
        "count": f"{value:,.0f}",
        "ratio": f"{value:,.2f}",
        "share": f"{100 * value:,.1f} %",
        "signed share": f"{100 * value:+,.2f} %",
        "bp": f"{value:+,.2f} bp",
        "share as bp": f"{1e4 * value:,.2f} bp",
        "nat": f"{value:.5f} nat",
        "signed nat": f"{value:+.5f} nat",
        "us": f"{value:,.1f} µs",
        "money": f"{value:,.0f}",
    }[style]
    return shown.replace("-", "\N{MINUS SIGN}").replace(" ", "\N{NO-BREAK SPACE}")


def interval(measure: Measure) -> str:
    """Return a measure's 95 % interval, or nothing."""
    if measure.low is None or measure.high is None:
        return ""
    return f"95 %: {written(measure.low, measure.style)} to {written(measure.high, measure.style)}"


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


def heading(column: str) -> str:
    """Return a column's name for readers: p50_us -> p50, µs."""
    if column in _NAMES:
        return _NAMES[column]
    for suffix, unit in _UNITS.items():
        if column.endswith(suffix):
            return column.removesuffix(suffix).replace("_", " ") + unit
    return column.replace("_", " ")


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], *, marked: frozenset[int] = frozenset()) -> str:
    """Return a table that scrolls on its own where the screen is narrow; numbers stand to the right.

    Args:
        header: Column names.
        rows: Cells.
        marked: Rows to point out.
    """
    lines = [list(row) for row in rows]
    numeric = [
        all(
            isinstance(line[place], int | float) or line[place] is None or _NUMBER.match(str(line[place]))
            for line in lines
        )
        for place in range(len(header))
    ]

    def cells(tag: str, line: Sequence[Cell]) -> str:
        shown = []
        for value, right in zip(line, numeric, strict=True):
            words = cell_text(value)
            marks = {"n": right, "u": words == UNDEFINED, "d": bool(_DATE.match(words))}
            names = [name for name, on in marks.items() if on]
            kind = f' class="{" ".join(names)}"' if names else ""
            shown.append(f"<{tag}{kind}>{text(words)}</{tag}>")
        return "".join(shown)

    body = []
    for place, line in enumerate(lines):
        kind = ' class="marked"' if place in marked else ""
        body.append(f"<tr{kind}>{cells('td', line)}</tr>")
    head = f"<thead><tr>{cells('th', header)}</tr></thead>" if any(header) else ""
    return f'<div class="scroll"><table>{head}<tbody>{"".join(body)}</tbody></table></div>'


_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?[\d,.]+(\s(%|bp|nat|µs))?$|undefined$|\N{EN DASH}$")


def row_table(rows: Sequence[Row]) -> str:
    """Return a table of rows that name their columns."""
    columns = list(rows[0])
    return table([heading(column) for column in columns], [[row.get(column) for column in columns] for row in rows])


def pairs(values: Row) -> str:
    """Return parameters and their exact values as a table of two columns."""
    return table(["", ""], [[name, exact_text(value)] for name, value in values.items()])


def exact_text(value: Cell) -> str:
    """Return a parameter as it would be typed again; an infinite bound is no bound."""
    if value is None:
        return "not set"
    if isinstance(value, float) and math.isinf(value):
        return "unlimited" if value > 0 else UNDEFINED
    return cell_text(value) if isinstance(value, bool) or value != value else str(value)  # NaN is not itself


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes as an address that carries them."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def picture(wide: bytes, narrow: bytes | None, alt: str) -> str:
    """Return an SVG, and the one that replaces it on a narrow screen."""
    small = f'<source media="(max-width:700px)" srcset="{data_uri(narrow, "svg+xml")}"/>' if narrow else ""
    kind = "wide" if narrow else "half"
    image = f'<img src="{data_uri(wide, "svg+xml")}" alt="{text(alt)}"/>'
    return f'<figure class="{kind}"><picture>{small}{image}</picture></figure>'
