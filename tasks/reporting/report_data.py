"""What a report shows: a version's manifest, and results as their own rooms left them; what is undefined is None."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from storage.schema import Candles, ConfigError, FloatArray, IntArray, VersionRef, parse_source
from storage.written import Row, Style
from tasks.champion.manifest import Manifest
from tasks.execution.importance import Importance
from tasks.execution.metrics import Metrics
from tasks.execution.skill import Skill
from tasks.execution.slices import Slice
from tasks.execution.track_record import TrackRecord
from tasks.execution.trades import Trades
from tasks.reporting.source_names import ribbon, source_label
from tasks.runs.cost import Cost
from tasks.strategy.baseline_comparison import BaselineComparison
from tasks.strategy.folds import FoldResult
from tasks.strategy.speed import Speed
from tasks.strategy.vol_forecast import VolForecastRecord


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number with its interval.

    Attributes:
        value: None where undefined.
        low, high: 95 % interval; both None where there is none.
        note: What it is compared with, or why it is undefined.
        doubtful: Whether too little stands behind it, as the note says: shown in grey.
    """

    name: str
    value: float | None
    style: Style = "ratio"
    low: float | None = None
    high: float | None = None
    note: str = ""
    doubtful: bool = False

    @classmethod
    def around(cls, name: str, value: float | None, error: float | None, style: Style, note: str) -> Self:
        """Return a number with the interval that its standard error makes; without one where either is undefined."""
        spread = None if value is None or error is None else 1.96 * error
        low, high = (None, None) if value is None or spread is None else (value - spread, value + spread)
        return cls(name=name, value=value, style=style, low=low, high=high, note=note)


@dataclass(frozen=True, kw_only=True, eq=False)
class Equity:
    """What became of the account on bars that no training saw, net of costs.

    Attributes:
        candles: (T,) those bars.
        model, buy_and_hold: (T + 1,) quote currency, at the start, then at each close.
        trades: The model's round trips; bars count from the first of `candles`.
        baselines: Name -> the same of a baseline that trades by the model's rule.
        block_starts_ms: Start of each fold's test block, UTC milliseconds: another model decides from there on.
    """

    candles: Candles
    interval_ms: int
    model: FloatArray
    buy_and_hold: FloatArray
    trades: Trades
    baselines: Mapping[str, FloatArray] = field(default_factory=dict)
    block_starts_ms: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.series.items()}
        if set(lengths.values()) != {len(self.candles) + 1} or not len(self.candles):
            raise ConfigError(
                f"equity of {len(self.candles)} bars must have one value more in every series, had {lengths}"
            )
        endless = [name for name, values in self.series.items() if not np.isfinite(values).all()]
        if endless:
            raise ConfigError(f"equity must be finite in every bar, was not in that of {', '.join(endless)}")

    @property
    def series(self) -> dict[str, FloatArray]:
        """Every account by its name, the model first."""
        return {"this model": self.model, **self.baselines, "buy and hold": self.buy_and_hold}

    @property
    def initial(self) -> float:
        """What each started with; also the value of doing nothing."""
        return float(self.model[0])

    @property
    def time_ms(self) -> IntArray:
        """(T + 1,) UTC milliseconds at which the values hold: the first open, then each close."""
        start_ms = self.candles.start_ms
        return np.concatenate([start_ms[:1], start_ms + self.interval_ms])


class CostPoint(NamedTuple):
    """The model at another cost per side, a share of the notional, and whether that is the assumed one."""

    per_side: float
    decided: Metrics  # again, by a rule that reckons with it
    repriced: Metrics  # the positions of the assumed costs
    assumed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """Everything that the page of one version shows.

    Attributes:
        created: When it was made, UTC text.
        manifest: What it says of itself, the verdict on it included.
        equity: On unseen bars.
        metrics: Who -> the account in numbers: the model first, then buy and hold and flat.
        costs: The cost sweep, cheapest first.
        delays: The same decisions filled at the next open, one bar later, two bars later.
        vol_record: What was forecast of volatility, and what came.
        slices: The result by year and by state of the market.
        fold_scores: Skill and money of each fold's test block.
        beside: This version and the champion or the one before, line by line; nothing where there is none.
        class_mix: Part of the data -> labels of each class.
        spent: What making the version took, but for its publication.
        paper: The newest sessions of the market on paper, beside the backtest's of the same candles; none, no section.
    """

    ref: VersionRef
    created: str
    manifest: Manifest
    equity: Equity
    metrics: Mapping[str, Metrics]
    costs: tuple[CostPoint, ...]
    delays: tuple[Metrics, ...]
    comparison: BaselineComparison
    vol_record: VolForecastRecord
    record: TrackRecord
    slices: tuple[Slice, ...]
    skill: Skill
    fold_scores: tuple[Row, ...]
    importance: tuple[Importance, ...]
    beside: tuple[Row, ...]
    class_mix: Mapping[str, tuple[int, ...]]
    speed: Speed
    data_quality: tuple[Row, ...]
    folds: tuple[Row, ...]
    training: tuple[FoldResult, ...]
    spent: Cost
    paper: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        source, origin = parse_source(self.ref.source), self.manifest.origin
        if (origin == "exchange") == source.startswith("sandbox:"):
            raise ConfigError(f"origin must be replayed or synthetic for a sandbox only, was {origin!r} of {source}")

    @property
    def source_label(self) -> str:
        """The source as every title names it: nobody takes a replay or a synthetic market for an exchange."""
        return source_label(self.ref.source, self.manifest.origin)

    @property
    def ribbon(self) -> tuple[str, str]:
        """The source in one loud word, and what it means."""
        return ribbon(self.ref.source, self.manifest.origin)

    @property
    def title_label(self) -> str:
        """Market and source, as every title carries them."""
        return f"{self.manifest.market} · {self.source_label}"
