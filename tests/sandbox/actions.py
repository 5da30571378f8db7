"""The things that go wrong with a read, each as an `Action` for a fault plan."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal

from storage.schema import INTERVAL_MS
from tasks.sandbox.faults import RESET_HEADER, Action, Reply

Rows = list[Any]
"""A page's rows, newest first, as they stand in the JSON."""


def rate_limit(reset_in_ms: int | None = None) -> Action:
    """Refuse with 10006; the reset header lies so far ahead of the clock (behind it if negative), or is absent."""

    def spoil(reply: Reply) -> None:
        reply.refuse(10006, "Too many visits. Exceeded the API Rate Limit.")
        reply.headers.pop(RESET_HEADER, None)
        if reset_in_ms is not None:
            reply.headers[RESET_HEADER] = str(reply.now_ms + reset_in_ms)

    return Action(f"10006 with reset {reset_in_ms}", spoil)


def http_status(status: int) -> Action:
    """Answer with a status and a page of HTML: 403, 429, 500, 502, 503, 504."""
    return Action(f"HTTP {status}", lambda reply: reply.html(status, "not today"))


def with_status(status: int, action: Action) -> Action:
    """Answer as an action does, under a status."""

    def spoil(reply: Reply) -> None:
        action.spoil(reply)
        reply.status = status

    return Action(f"{action.name} under HTTP {status}", spoil)


def ret_code(code: int | str, message: str | None = "refused") -> Action:
    """Refuse with a retCode, which may be text; `message=None` leaves retMsg out."""
    return Action(f"retCode {code!r}", lambda reply: reply.refuse(code, message))


def body(text: bytes) -> Action:
    """Send exactly these bytes: {}, [], null, or anything else."""

    def spoil(reply: Reply) -> None:
        reply.text = text

    return Action(f"body {text[:20]!r}", spoil)


def truncated() -> Action:
    """Cut the JSON in half, under the right Content-Length."""

    def spoil(reply: Reply) -> None:
        whole = reply.body()
        reply.text = whole[: len(whole) // 2]

    return Action("truncated JSON", spoil)


def delivery(how: Literal["short", "chunk", "reset", "never"]) -> Action:
    """Lose the answer on the wire."""

    def spoil(reply: Reply) -> None:
        reply.delivery = how

    return Action(f"delivery {how}", spoil)


def gzipped() -> Action:
    """Compress the body, as a proxy may."""

    def spoil(reply: Reply) -> None:
        reply.text = gzip.compress(reply.body())
        reply.headers["Content-Encoding"] = "gzip"

    return Action("gzip", spoil)


def clock_skew(ahead_ms: int) -> Action:
    """Tell a time that is ahead of the exchange's own clock, behind it if negative."""

    def spoil(reply: Reply) -> None:
        told = reply.now_ms + ahead_ms
        reply.envelope["time"] = told
        if "timeNano" in reply.envelope["result"]:
            reply.envelope["result"] = {"timeSecond": str(told // 1000), "timeNano": str(told * 1_000_000)}

    return Action(f"clock {ahead_ms} ms ahead", spoil)


def envelope_fields(changes: Mapping[str, Any]) -> Action:
    """Overwrite or add fields of the envelope; None removes one."""
    return Action(f"envelope {dict(changes)}", lambda reply: _overwrite(reply.envelope, changes))


def result_fields(changes: Mapping[str, Any]) -> Action:
    """Overwrite or add fields of the result, such as a wrong symbol; None removes one."""
    return Action(f"result {dict(changes)}", lambda reply: _overwrite(reply.envelope["result"], changes))


def shifted_range(start_bars: int, end_bars: int) -> Action:
    """Answer for a range whose bounds are moved by whole bars: an overlapping page, or rows from outside the window."""

    def rewrite(params: dict[str, str]) -> dict[str, str]:
        step = INTERVAL_MS[params["interval"]]
        start, end = int(params["start"]) + start_bars * step, int(params["end"]) + end_bars * step
        return params | {"start": str(start), "end": str(end)}

    return Action(f"range moved by {start_bars} and {end_bars} bars", rewrite=rewrite)


def ignored_range() -> Action:
    """Answer with the newest rows whatever was asked, as Bybit does when a parameter's name is wrong."""

    def rewrite(params: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in params.items() if name not in ("start", "end")}

    return Action("range ignored", rewrite=rewrite)


def no_rows() -> Action:
    """An empty list, as if there were nothing in the window."""
    return _rows("no rows", lambda rows: [])


def repeated_rows(count: int) -> Action:
    """The newest rows twice."""
    return _rows(f"{count} rows repeated", lambda rows: rows[:count] + rows)


def contradicting_rows(count: int) -> Action:
    """The newest rows twice, the first time without a trade."""
    return _rows(
        f"{count} rows contradicted", lambda rows: [[row[0], *[row[1]] * 4, "0", "0"] for row in rows[:count]] + rows
    )


def missing_rows(first: int, count: int) -> Action:
    """Rows left out, counted from the newest."""
    return _rows(f"{count} rows missing after {first}", lambda rows: rows[:first] + rows[first + count :])


def shuffled_rows(seed: int) -> Action:
    """The rows in any order."""
    return _rows(f"rows shuffled by {seed}", lambda rows: random.Random(seed).sample(rows, len(rows)))


def set_cell(row: int, column: int, value: Any) -> Action:
    """One field replaced: "NaN", "", "null", None, "-1", "0", "1e309" …; rows count from the newest and wrap around."""
    return _one_row(f"{value!r} in column {column}", row, lambda r: [*r[:column], value, *r[column + 1 :]])


def high_below_low(row: int) -> Action:
    """High and low of one row swapped."""
    return _one_row("high and low swapped", row, lambda r: [r[0], r[1], r[3], r[2], *r[4:]])


def cut_row(row: int, fields: int) -> Action:
    """One row with only its first fields."""
    return _one_row(f"row of {fields} fields", row, lambda r: r[:fields])


def _overwrite(target: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = value


def _rows(name: str, change: Callable[[Rows], Rows]) -> Action:
    def spoil(reply: Reply) -> None:
        reply.envelope["result"]["list"] = change(reply.envelope["result"]["list"])

    return Action(name, spoil)


def _one_row(name: str, index: int, change: Callable[[list[Any]], list[Any]]) -> Action:
    def changed(rows: Rows) -> Rows:
        at = index % len(rows) if rows else 0
        return [*rows[:at], *[change(row) for row in rows[at : at + 1]], *rows[at + 1 :]]

    return _rows(name, changed)
