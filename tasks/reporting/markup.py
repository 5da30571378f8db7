"""How a page is laid out: tables, names of columns, text that shows what it holds."""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from storage.written import UNDEFINED, Cell, Row, cell_text, written
from tasks.reporting.report_data import Measure
from tasks.reporting.templating import printable

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_NUMBER = re.compile(r"(<\s)?[-+\N{MINUS SIGN}]?[\d,.]+(\s(%|bp|nat|µs))?$|undefined$|\N{EN DASH}$")


def interval(measure: Measure) -> str:
    """Return a measure's 95 % interval, or nothing."""
    if measure.low is None or measure.high is None:
        return ""
    return f"95 %: {written(measure.low, measure.style)} to {written(measure.high, measure.style)}"


def exact_text(value: Cell) -> str:
    """Return a parameter as it would be typed again."""
    return cell_text(value) if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Grid:
    """A table as its template lays it out.

    Attributes:
        lines: Cells as text, and the class of each: n for a number, u for undefined, d for a date.
    """

    header: tuple[str, ...]
    lines: tuple[tuple[tuple[str, str], ...], ...]


def grid(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Grid:
    """Return a table; a column of numbers stands to the right."""
    lines = [list(row) for row in rows]
    numeric = [
        all(isinstance(line[place], int | float | None) or _NUMBER.match(str(line[place])) for line in lines)
        for place in range(len(header))
    ]

    def cell(value: Cell, right: bool) -> tuple[str, str]:
        words = cell_text(value)
        marks = {"n": right, "u": words == UNDEFINED, "d": bool(_DATE.match(words))}
        return words, " ".join(name for name, on in marks.items() if on)

    shown = tuple(tuple(cell(*one) for one in zip(line, numeric, strict=True)) for line in lines)
    return Grid(header=tuple(header), lines=shown)


def row_grid(rows: Sequence[Row]) -> Grid:
    """Return a table of rows that name their columns."""
    columns = list(rows[0])
    return grid(columns, [[row.get(column) for column in columns] for row in rows])


def pair_grid(values: Row) -> Grid:
    """Return parameters and their exact values as a table of two columns."""
    return grid(["what", "value"], [[name, exact_text(value)] for name, value in values.items()])


def markdown_text(value: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    line = " ".join(html.escape(printable(value), quote=False).split())
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+!|~$" else letter for letter in line)
