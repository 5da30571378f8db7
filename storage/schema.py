"""Shared types: names, units, references and errors. Uses the standard library and NumPy only.

The errors, by what to do about them:

    PipelineError
    ├── TemporaryError          the same call may succeed later: retried within a budget
    │   ├── RateLimited         Bybit 10006: too many requests; has the time at which the limit resets
    │   ├── Banned              HTTP 403: this address sent too much, or may not use Bybit; minutes, not seconds
    │   ├── Ambiguous           time-out, 5xx, broken body: unknown whether the request took effect
    │   ├── StoreBusyError      another process holds the database
    │   └── ClusterError        the Dask cluster is out of reach, without a worker, or runs other code
    ├── Rejected                Bybit understood the request and refused it (retCode)
    ├── AuthError               key, signature or permission
    ├── ClockError              this machine's clock is off
    ├── ConfigError             a parameter or setting breaks a rule
    ├── DamagedError            untrusted data is malformed
    ├── CandleError             candles that cannot be used
    │   ├── CandleGapError      bars are missing
    │   └── QuarantineError     too large a share of rows broke the contract
    ├── StoreError              the database or a file under DSC_HOME is unreadable, unwritable or of a newer schema
    ├── DatasetError            a dataset is missing, corrupt, or too short
    ├── TrainingError           a loss or a weight is not finite
    ├── LeakError               bars that the model was trained on were about to be used as a test
    ├── ArtifactError           a version is missing, corrupt, or does not fit
    │   └── UnreachableError    the store does not answer or refuses: what it holds is unknown
    ├── OperationError          the server, a worker or a deployment could not be started, or ended, or its code changed
    └── MarketsError            some markets of a run failed; the others are done
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal, NewType, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Title(str):
    """What a form calls a field: a mark of its type, where the field's name alone is no plain words."""

    __slots__ = ()


class Hidden:
    """Marks a field that a form leaves out, since only an expert sets it, by JSON or on a command line."""


Category = Literal["linear", "spot"]
"""Bybit's inverse markets pay in coin, and the accounting is in quote currency."""
Interval = Literal["1", "3", "5", "15", "30", "60", "120", "240", "360", "720", "D", "W"]
"""Bybit's codes of bars with a fixed step: minutes, days and weeks; "M", a calendar month, has none."""
SYMBOL = re.compile(r"[A-Z0-9-]{2,40}")
Symbol = Annotated[str, SYMBOL]
"""A market's name on Bybit."""
Source = NewType("Source", str)
"""Source of candles: "bybit", "testnet", "demo", or "sandbox:<hash8>" of a replayed file or a synthetic market."""

_USER = re.compile(r"//[^/\s@]*@")
_QUERY = re.compile(r"(\w://[^\s?#]*)[?#][^\s'\")]*")
_SOURCE = re.compile(r"bybit|testnet|demo|sandbox:[0-9a-f]{8}")

CANDLE_COLUMNS = ("open", "high", "low", "close", "volume", "turnover")
"""Prices in USDT per coin, volume in coins, turnover in USDT, NaN where unknown."""

FEATURES = (
    "return_1",
    "return_12",
    "volatility",
    "volume_ratio",
    "rsi",
    "macd",
    "macd_signal",
    "range",
    "vwap_deviation",
    "log_volume",
    "vol_level",
    "range_vol_12",
    "range_vol_100",
    "vol_2000",
    "volume_level",
    *(f"week_{wave}_{k}" for k in range(1, 7) for wave in ("sin", "cos")),
    *(f"day_{wave}_{k}" for k in range(1, 5) for wave in ("sin", "cos")),
)
"""The model's inputs, in channel order, the source text's ten first. `tasks/market/features.py` defines each."""

ODD_FEATURES = frozenset({"return_1", "return_12", "rsi", "macd", "macd_signal", "vwap_deviation"})
"""Features that change sign if the price is inverted (1 / price); all others stay about the same."""

CLASSES = ("sell", "hold", "buy")
SELL, HOLD, BUY = 0, 1, 2
"""Class of a label and index of a probability."""

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
INTERVAL_MS = {
    **{str(minutes): minutes * MINUTE_MS for minutes in (1, 3, 5, 15, 30, 60, 120, 240, 360, 720)},
    "D": DAY_MS,
    "W": 7 * DAY_MS,
}
"""Milliseconds per bar of each `Interval`."""

END_OF_TIME_MS = 253_402_300_799_000
"""The last second of the year 9999; later times are treated as invalid."""

MONDAY_MS = 4 * DAY_MS  # weeks open on Mondays; 1970-01-01 was a Thursday
FUNDING_STEP_MS = DAY_MS // 3
"""Longest time between two funding stamps of a market; many pay more often, and change."""

WINDOW_BARS = 1_000
"""Candles per request, the most that Bybit returns."""

_MS_PER_YEAR = 365 * DAY_MS


class PipelineError(Exception):
    """Base of all errors of this project."""


class TemporaryError(PipelineError):
    """The same call may succeed later."""


class RateLimited(TemporaryError):
    """Bybit 10006: too many requests.

    Args:
        message: The rule and what was found.
        reset_ms: Server time at which the limit resets, UTC milliseconds; None if Bybit did not send it.
    """

    def __init__(self, message: str, reset_ms: int | None = None) -> None:
        super().__init__(message)
        self.reset_ms = reset_ms


class Banned(TemporaryError):
    """HTTP 403: over the limit of this address, or an address that Bybit does not serve."""


class Ambiguous(TemporaryError):
    """It is unknown whether the request took effect: a read may be repeated, an order must be looked up."""


class StoreBusyError(TemporaryError):
    """Another process holds the database."""


class ClusterError(TemporaryError):
    """The Dask cluster is out of reach, without a worker, or runs other code."""


class Rejected(PipelineError):
    """Bybit understood the request and refused it; `code` is its retCode."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class AuthError(PipelineError):
    """Key, signature or permission."""


class ClockError(PipelineError):
    """This machine's clock is off."""


class ConfigError(PipelineError, ValueError):
    """A parameter or a setting breaks a rule."""


class DamagedError(PipelineError, ValueError):
    """Untrusted data is malformed."""


class CandleError(PipelineError):
    """Candles that cannot be used."""


class CandleGapError(CandleError):
    """Bars are missing."""


class QuarantineError(CandleError):
    """Too large a share of the rows broke the contract."""


class StoreError(PipelineError):
    """The database or a file under DSC_HOME is unreadable, unwritable or of a newer schema."""


class DatasetError(PipelineError):
    """A dataset is missing, corrupt, or too short."""


class TrainingError(PipelineError):
    """A loss or a weight is not finite."""


class LeakError(PipelineError):
    """Bars that the model was trained on were about to be used as a test."""


class ArtifactError(PipelineError):
    """A version is missing, corrupt, or does not fit."""


class UnreachableError(ArtifactError):
    """The store of the versions does not answer or refuses: what it holds is unknown."""


class OperationError(PipelineError):
    """The server, a worker or a deployment could not be started, or ended, or its code changed."""


class MarketsError(PipelineError):
    """Some markets of a run failed; the others are done."""


def parse_source(text: str) -> Source:
    """Return `text` as a source, or refuse it.

    Raises:
        ConfigError: `text` is none of bybit, testnet, demo, sandbox:<8 hex digits>.
    """
    if not _SOURCE.fullmatch(text):
        raise ConfigError(f"source must be bybit, testnet, demo or sandbox:<8 hex digits>, was {text[:60]!r}")
    return Source(text)


def source_slug(source: Source) -> str:
    """Return a source as part of a file name."""
    return source.replace(":", "-")


def sandbox_source(content: bytes) -> Source:
    """Return the source of a sandbox; `content` is the replayed data or the synthetic market's description."""
    return Source(f"sandbox:{content_hash([content])[:8]}")


def content_hash(parts: Iterable[bytes | memoryview]) -> str:
    """Return the SHA-256 of the parts in hexadecimal; lengths are hashed too, so that the split matters."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def one_line(text: object, most: int = 200) -> str:
    """Return untrusted text safe for one line: without control characters, and without users and queries of URLs."""
    seen = "".join(char if char.isprintable() else " " for char in str(text)[: 10 * most])
    seen = _QUERY.sub(r"\1?...", _USER.sub("//...@", seen))
    return " ".join(seen.split())[:most]


def utc_text(ms: int) -> str:
    """Return UTC milliseconds as 2026-01-04T10:00Z; a bar that opens after the calendar's end, as its last minute."""
    return datetime.fromtimestamp(min(ms, END_OF_TIME_MS) / 1000, UTC).strftime("%Y-%m-%dT%H:%MZ")


@dataclass(frozen=True, kw_only=True)
class Market:
    """A market and its bar length.

    Attributes:
        symbol: Bybit's symbol, upper case, such as BTCUSDT.
        category: linear (perpetuals margined in USDT or USDC) or spot.
        interval: Bybit's interval code: 1 3 5 15 30 60 120 240 360 720 (minutes), D or W.
    """

    symbol: Symbol = "SYNTHUSDT"
    category: Annotated[Category, Title("Kind of market")] = "linear"
    interval: Annotated[Interval, Title("Bar length")] = "5"

    def __post_init__(self) -> None:
        if not SYMBOL.fullmatch(self.symbol):
            raise ConfigError(
                f"symbol must be upper-case letters, digits and dashes such as BTCUSDT, was {self.symbol[:60]!r}"
            )
        if self.category not in ("linear", "spot"):
            raise ConfigError(f"category must be linear or spot, which pay in quote currency, was {self.category!r}")
        if self.interval not in INTERVAL_MS:
            raise ConfigError(f"interval must be one of {' '.join(INTERVAL_MS)}, was {self.interval!r}")

    def __str__(self) -> str:
        unit = "" if self.interval in "DW" else "m"
        return f"{self.symbol} {self.category} {self.interval}{unit}"

    @property
    def slug(self) -> str:
        """The market as a file name: linear-BTCUSDT-5."""
        return f"{self.category}-{self.symbol}-{self.interval}"

    @classmethod
    def of_slug(cls, slug: str) -> Self:
        """Return the market that `slug` names.

        Raises:
            ConfigError: It is not a valid slug.
        """
        category, _, rest = slug.partition("-")
        symbol, _, interval = rest.rpartition("-")
        return cls(symbol=symbol, category=category, interval=interval)  # type: ignore[arg-type]  # checked there

    @property
    def interval_ms(self) -> int:
        """Milliseconds per bar."""
        return INTERVAL_MS[self.interval]

    @property
    def bars_per_year(self) -> float:
        """Bars in 365 days: crypto trades around the clock."""
        return _MS_PER_YEAR / self.interval_ms

    @property
    def bars_per_day(self) -> float:
        """Bars in 24 hours."""
        return DAY_MS / self.interval_ms

    def floor(self, ms: int) -> int:
        """Return the open time of the bar that contains `ms`, UTC milliseconds."""
        offset = MONDAY_MS if self.interval == "W" else 0
        return (ms - offset) // self.interval_ms * self.interval_ms + offset

    def ceil(self, ms: int) -> int:
        """Return the open time of the first bar that opens at or after `ms`, UTC milliseconds."""
        return self.floor(ms + self.interval_ms - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Candles:
    """Closed candles as columns, oldest first.

    Attributes:
        start_ms: (T,) open time of each bar, UTC milliseconds, strictly increasing.
        open, high, low, close: (T,) quote currency per coin.
        volume: (T,) base currency.
        turnover: (T,) quote currency; NaN where unknown.
    """

    start_ms: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    turnover: FloatArray

    def __post_init__(self) -> None:
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"candle columns must have one length, were {lengths}")

    def __len__(self) -> int:
        return len(self.start_ms)

    def __getitem__(self, rows: slice | IntArray | BoolArray) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def empty(cls) -> Self:
        """Return no candles."""
        return cls(start_ms=np.empty(0, np.int64), **{name: np.empty(0) for name in CANDLE_COLUMNS})

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Return the parts one after the other, in the order given."""
        if not parts:
            return cls.empty()
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def matrix(self) -> FloatArray:
        """Return (T, 6): start_ms, open, high, low, close, volume; the input of the features."""
        return np.column_stack(
            [self.start_ms.astype(np.float64), self.open, self.high, self.low, self.close, self.volume]
        )


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """A row that was rejected, with the reason.

    Attributes:
        start_ms: Open time, UTC milliseconds; None if it was unreadable.
        raw: The row as received, cut to 500 characters.
        reason: The failed check.
    """

    start_ms: int | None
    raw: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Window:
    """A run of bars: first and last open time, both inclusive, UTC milliseconds."""

    first_ms: int
    last_ms: int

    @classmethod
    def cover(cls, market: Market, first_ms: int, last_ms: int, bars: int = WINDOW_BARS) -> list[Self]:
        """Return the windows that cover a range, oldest first; empty if it contains no bar.

        They begin at multiples of `bars` on the interval grid, so overlapping ranges share the same windows; the first
        and the last are cut to the range.

        Args:
            market: Gives the interval grid.
            first_ms: Earliest open time, UTC milliseconds; need not lie on the grid.
            last_ms: Latest open time, inclusive; need not lie on the grid.
            bars: Most bars of a window.

        Raises:
            ConfigError: `bars` < 1.
        """
        if bars < 1:
            raise ConfigError(f"bars must be >= 1, was {bars!r}")
        first, last, step, origin = market.ceil(first_ms), market.floor(last_ms), market.interval_ms, market.floor(0)
        if first > last:
            return []
        length = bars * step
        opens = range((first - origin) // length * length + origin, last + 1, length)
        return [cls(first_ms=max(first, ms), last_ms=min(last, ms + length - step)) for ms in opens]

    def bars(self, interval_ms: int) -> int:
        """Return the number of bars in the window."""
        return (self.last_ms - self.first_ms) // interval_ms + 1

    def closed(self, market: Market, now_ms: int) -> IntArray:
        """Return the open times (n,) of the window's bars that have closed by `now_ms`."""
        step = market.interval_ms
        return np.arange(self.first_ms, min(self.last_ms, market.floor(now_ms) - step) + 1, step, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """Trading rules of a market, from Bybit.

    Attributes:
        launch_ms: Start of trading, UTC milliseconds; 0 if Bybit does not report it (spot).
        tick_size, qty_step, min_qty, min_notional: Decimal text, as Bybit sends it.
        max_market_qty: Largest market order, coins, as decimal text.
        funding_interval_min: Minutes between funding stamps; 0 if there is no funding.
        status: Trading, PreLaunch, Delivering, Closed …
    """

    symbol: str
    category: Category
    status: str
    launch_ms: int
    tick_size: str
    qty_step: str
    min_qty: str
    min_notional: str
    funding_interval_min: int
    max_market_qty: str = "100000000"

    def quantity_text(self, coins: float) -> str:
        """Return a quantity as order text: the nearest multiple of the step, without a sign."""
        return _on_grid(abs(coins), self.qty_step)

    def price_text(self, price: float) -> str:
        """Return a price as order text: the nearest multiple of the tick."""
        return _on_grid(price, self.tick_size)


def _on_grid(value: float, step: str) -> str:
    # Through Decimal: str() of a float may say 1e-05 or 0.30000000000000004, which Bybit refuses.
    grid = Decimal(step)
    return format((Decimal(repr(float(value))) / grid).quantize(Decimal(1), ROUND_HALF_EVEN) * grid, "f")


@dataclass(frozen=True, kw_only=True)
class DatasetRef:
    """Reference to a dataset; tasks pass it on instead of the data."""

    id: str
    source: Source
    market: Market


@dataclass(frozen=True, kw_only=True)
class VersionRef:
    """Reference to a stored model version.

    Attributes:
        name: The market's slug.
        version: <UTC>-<hash8>.
    """

    source: Source
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.source}/{self.name}/{self.version}"

    @property
    def made(self) -> str:
        """Time at which it was stored, UTC, as 20260131T235959Z; sorts by time."""
        return self.version.rpartition("-")[0]

    @property
    def made_at(self) -> datetime:
        """Time at which it was stored, UTC."""
        return datetime.fromisoformat(self.made)

    @property
    def hash8(self) -> str:
        """First 8 hex digits of the hash of its inputs."""
        return self.version.rpartition("-")[2]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the reference from its `str` text.

        Raises:
            ConfigError: `text` is not <source>/<market>/<version>.
        """
        parts = text.split("/")
        if len(parts) != 3 or not all(parts):
            raise ConfigError(
                f"a version is named <source>/<market>/<version>, as a retrain prints it; was {text[:100]!r}"
            )
        return cls(source=parse_source(parts[0]), name=parts[1], version=parts[2])
