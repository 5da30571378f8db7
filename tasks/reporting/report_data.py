"""What a report shows: plain values, already measured. Whatever is undefined is None, and is shown as "undefined"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from storage.schema import Candles, ConfigError, FloatArray, IntArray, Market, Source, VersionRef, parse_source
from tasks.champion.promotion import Check
from tasks.execution.contenders import Contender
from tasks.execution.importance import Importance
from tasks.execution.skill import Skill
from tasks.execution.trades import Trades

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]
"""A line of a table: column name -> value. All rows of one table have the same columns."""

Style = Literal[
    "count", "ratio", "chance", "p", "share", "signed share", "share as bp", "bp", "nat", "signed nat", "us", "money"
]
"""How a number is written; the report's `written` shows each."""

Origin = Literal["exchange", "replayed", "synthetic"]
"""Where the sandbox's candles came from; "exchange" for everything that Bybit itself sent."""

_SOURCE_LABELS = {"bybit": "Bybit", "testnet": "Bybit testnet", "demo": "Bybit demo"}
_RIBBONS = {
    "bybit": ("BYBIT", "candles of the exchange itself"),
    "testnet": ("TESTNET", "Bybit's test exchange: its prices are not the market's"),
    "demo": ("DEMO", "Bybit's demo exchange"),
    "replayed": ("REPLAY", "recorded candles, played back by the sandbox"),
    "synthetic": ("SYNTHETIC", "a made-up market: says nothing about a real one"),
}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided about this version.

    Attributes:
        decision: promoted, kept (the champion stays), or measured (nothing was to be decided).
        champion: Version in force before the decision, or "flat".
        conditions: The promotion rule, line by line.
        notes: Further reasons, one sentence each.
    """

    decision: Literal["promoted", "kept", "measured"]
    champion: str = "flat"
    conditions: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number with its interval.

    Attributes:
        name: What it is.
        value: None where undefined.
        style: How it is written.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Equity:
    """What became of the account on bars that no training saw, net of costs.

    Attributes:
        candles: (T,) those bars.
        interval_ms: Milliseconds per bar.
        model, buy_and_hold: (T + 1,) quote currency, at the start, then at each close.
        baselines: Name -> the same of a baseline that trades by the model's rule.
        trades: The model's round trips; bars count from the first of `candles`.
        block_starts_ms: Start of each fold's test block, UTC milliseconds: another model decides from there on.
    """

    candles: Candles
    interval_ms: int
    model: FloatArray
    buy_and_hold: FloatArray
    baselines: Mapping[str, FloatArray] = field(default_factory=dict)
    trades: Trades | None = None
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


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCurve:
    """How the training of one fold's network, or of one of its members, went.

    Attributes:
        fold: Its number; members have the same.
        step: (n,) optimiser steps so far, at each validation.
        train_loss: (n,) mean since the validation before, nat; with label smoothing where that was on.
        validation_loss: (n,) plain cross-entropy, nat.
        best_step: The step whose weights were kept.
        prior_loss: Validation cross-entropy of the training classes' shares, nat; None where unknown.
    """

    fold: int
    step: IntArray
    train_loss: FloatArray
    validation_loss: FloatArray
    best_step: int
    prior_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What one prediction costs.

    Attributes:
        name: The network, such as "separable, K=3".
        runtime: What ran it.
        parameters, macs: Counts; None where they do not apply.
        p50_us, p95_us, p99_us: Microseconds per bar, one thread.
    """

    name: str
    runtime: str
    parameters: int | None
    macs: int | None
    p50_us: float | None
    p95_us: float | None
    p99_us: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class StepTimes:
    """How long single predictions of this model took.

    Attributes:
        edges_us: (bins + 1,) increasing, > 0, microseconds.
        calls: (bins,) predictions between two edges.
        p50_us, p99_us: Percentiles of the same calls.
    """

    edges_us: FloatArray
    calls: IntArray
    p50_us: float
    p99_us: float


@dataclass(frozen=True, kw_only=True)
class CostPoint:
    """The model at other costs, decided again by a rule that reckons with them.

    Attributes:
        cost_bp: Fee and slippage per side, basis points of the notional.
        total_return: Net, share of the capital.
        sharpe_ratio: From UTC days; None where undefined.
        num_trades: Round trips.
        repriced_return: What the positions of the assumed costs leave at these, net, share of the capital.
        assumed: Whether these are the costs that the verdict rests on.
    """

    cost_bp: float
    total_return: float | None
    sharpe_ratio: float | None
    num_trades: int | None = None
    repriced_return: float | None = None
    assumed: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """Everything that a report on one version shows; an empty part is left out of the page.

    Attributes:
        market: The market.
        source: Where its candles came from.
        origin: Whether the exchange sent them, or a recording or a synthetic market stood in.
        origin_detail: The replayed file, or the synthetic market's kind and seed.
        version: Name of the version.
        created: When it was made, UTC text.
        verdict: What was decided, and why.
        warnings: What a reader must know first, such as a cost that is zero; shown loudly.
        highlights: The few numbers of the head line.
        equity: On unseen bars; None where nothing was traded.
        metrics: Side ("model", "buy and hold", "flat") -> metric key -> value.
        costs: The cost sweep.
        break_even_bp: Cost per side that would leave nothing, basis points; None where undefined.
        stress: Further what-ifs, such as later fills.
        contenders: The model and what it had to beat, the model first.
        random_note: What random timings say, one sentence.
        headline: The source text's claims beside what was measured.
        record: What the daily returns prove.
        slices: The result by year and by state of the market.
        skill: How good the predictions were.
        forecast: The same as arrays: confusion, calibration, accuracy by confidence.
        fold_scores: Skill and money of each fold's test block.
        importance: What each input is worth to the forecast.
        beside: This version and the one before, line by line.
        class_mix: Part of the data -> labels of each class.
        latency: Per network and runtime.
        step_times: Of this model alone.
        data_quality: What was found in the candles.
        folds: The table of dates.
        training: One curve per fold.
        config: Section -> parameter -> value.
        versions: Library -> version.
        provenance: Dataset id, code hash, seed, machine ...
    """

    market: Market
    source: Source
    origin: Origin
    origin_detail: str = ""
    version: str
    created: str
    verdict: Decision
    warnings: tuple[str, ...] = ()
    highlights: tuple[Measure, ...] = ()
    equity: Equity | None = None
    metrics: Mapping[str, Row] = field(default_factory=dict)
    costs: tuple[CostPoint, ...] = ()
    break_even_bp: float | None = None
    stress: tuple[Row, ...] = ()
    contenders: tuple[Contender, ...] = ()
    random_note: str = ""
    headline: tuple[Row, ...] = ()
    record: tuple[Measure, ...] = ()
    slices: tuple[Row, ...] = ()
    skill: tuple[Measure, ...] = ()
    fold_scores: tuple[Row, ...] = ()
    importance: tuple[Importance, ...] = ()
    beside: tuple[Row, ...] = ()
    forecast: Skill | None = None
    class_mix: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    latency: tuple[Latency, ...] = ()
    step_times: StepTimes | None = None
    data_quality: tuple[Row, ...] = ()
    folds: tuple[Row, ...] = ()
    training: tuple[TrainingCurve, ...] = ()
    config: Mapping[str, Row] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    provenance: Row = field(default_factory=dict)

    def __post_init__(self) -> None:
        parse_source(self.source)
        if (self.origin == "exchange") == self.source.startswith("sandbox:"):
            raise ConfigError(
                f"origin must be replayed or synthetic for a sandbox only, was {self.origin!r} of {self.source}"
            )

    @property
    def source_label(self) -> str:
        """The source as every title names it: nobody takes a replay or a synthetic market for an exchange."""
        if self.origin == "exchange":
            return _SOURCE_LABELS[self.source]
        return f"{'replayed candles' if self.origin == 'replayed' else 'synthetic market'}, {self.source}"

    @property
    def ribbon(self) -> tuple[str, str]:
        """The source in one loud word, and what it means."""
        return _RIBBONS[self.source if self.origin == "exchange" else self.origin]

    @property
    def reference(self) -> VersionRef:
        """What the version is called wherever one is asked for."""
        return VersionRef(source=self.source, name=self.market.slug, version=self.version)

    @property
    def title_label(self) -> str:
        """Market and source, as every title carries them."""
        return f"{self.market} · {self.source_label}"
