"""Layouts of published candle dumps: where their rows begin and which columns they have.

A layout is assumed only if it is unambiguous, and the reader reports which one it assumed:

    Binance              no header: open time, open, high, low, close, volume, close time, turnover and four more
    Binance futures      open_time, open, high, low, close, volume, close_time, quote_volume ...
    Kraken               no header: time, open, high, low, close, volume, trades
    Bitstamp             timestamp, open, high, low, close, volume
    Bitfinex             Date, Symbol, Open, High, Low, Close, Volume
    CryptoDataDownload   a title, then Unix, Date, Symbol, Open, High, Low, Close, Volume BTC, Volume USDT, tradecount
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.schema import CandleError, one_line

PRICES = ("open", "high", "low", "close")
NEEDED = ("start_ms", *PRICES, "volume")

_TIMES = (  # the surest first: of a file that has several, the others are left alone
    "start_ms", "open_time", "open_time_ms", "start_time", "unix", "unix_timestamp", "timestamp", "time", "ts",
    "datetime", "date", "index_level_0",
)  # fmt: skip
_TURNOVER = ("turnover", "quote_volume", "quote_asset_volume", "volume_quote", "quotevolume")
_BARE = {  # without a header: columns by how many there are
    6: NEEDED,
    7: (*NEEDED, "trades"),
    12: (*NEEDED, "close_time", "turnover", "trades", "taker_volume", "taker_turnover", "ignored"),
}
_TITLES = 4  # lines above a header
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.{0,40}")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of a file.

    Attributes:
        skip: Lines above the header, or above the first row if there is no header.
        names: Names of the columns if there is no header; else empty.
        columns: Our name -> the file's name, for start_ms, prices and volume, and turnover if there is one.
        volumes: Two columns of which one is volume and the other turnover; empty if volume is known.
    """

    skip: int = 0
    names: tuple[str, ...] = ()
    columns: Mapping[str, str]
    volumes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def layout_of_text(lines: Sequence[str], file: str) -> Layout:
    """Return the layout of a CSV file by its first lines; `file` is its name, for errors.

    Raises:
        CandleError: It has columns that no candle file has, or no header and another number of columns.
    """
    rows = list(csv.reader(lines))
    for skip, names in enumerate(rows[: _TITLES + 1]):
        if {_plain(name) for name in names}.issuperset(PRICES):
            title = (f"line 1 is no header but a title, {one_line(lines[0], 40)!r}",) if skip else ()
            return layout_of_names(names, file, skip=skip, notes=title)
    first = rows[0] if rows else []
    if not (len(first) > 1 and all(map(_is_value, first))):
        return layout_of_names(first, file)
    bare = _BARE.get(len(first))
    if bare is None:
        raise CandleError(
            f"{file} has no header, and {len(first)} columns may be anything; give it a first line that names them: "
            f"{','.join(NEEDED)} and whatever else there is"
        )
    known = {name: name for name in (*NEEDED, "turnover") if name in bare}
    return Layout(names=bare, columns=known, notes=(f"it has no header, columns are {', '.join(known)}",))


def layout_of_names(names: Sequence[str], file: str, skip: int = 0, notes: tuple[str, ...] = ()) -> Layout:
    """Return the layout of columns of these names.

    `skip` counts the lines above the names, `notes` say what is known already.

    Raises:
        CandleError: A column is missing, or there twice.
    """
    plain = [_plain(name) for name in names]
    columns = {name: names[plain.index(name)] for name in (*PRICES, "volume") if name in plain}
    for ours, others in (("start_ms", _TIMES), ("turnover", _TURNOVER)):
        if found := next((name for name in others if name in plain), None):
            columns[ours] = names[plain.index(found)]
    volumes = tuple(name for name, short in zip(names, plain, strict=True) if short.startswith("volume_"))
    if "volume" in columns or len(volumes) != 2:
        volumes = ()
    missing = [name for name in NEEDED if name not in columns and not (name == "volume" and volumes)]
    if missing:
        raise CandleError(
            f"a candle file must have the columns {', '.join(NEEDED)} and may have turnover, "
            f"{file} lacks {', '.join(missing)}; it has {one_line(', '.join(names))}"
        )
    twice = [ours for ours, theirs in columns.items() if plain.count(_plain(theirs)) > 1]
    if twice:
        raise CandleError(f"a candle file must have each column once, {file} has {' and '.join(twice)} twice")
    called = [f"{ours} is {one_line(theirs, 40)!r}" for ours, theirs in columns.items() if _plain(theirs) != ours]
    return Layout(skip=skip, columns=columns, volumes=volumes, notes=(*notes, *called))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _is_value(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return _DATE.fullmatch(cell.strip()) is not None
    return True
