"""What a report shows: plain values, already measured. Whatever is undefined is None, and is shown as "undefined"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from storage.schema import ConfigError, FloatArray, IntArray, Market, Source, parse_source

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]
"""A line of a table: column name -> value. All rows of one table have the same columns."""

Style = Literal[
    "count", "ratio", "chance", "share", "signed share", "share as bp", "bp", "nat", "signed nat", "us", "money"
]
"""How a number is written; the report's `written` shows each."""

Origin = Literal["exchange", "replayed", "synthetic"]
"""Where the sandbox's candles came from; "exchange" for everything that Bybit itself sent."""

_SOURCE_LABELS = {"bybit": "Bybit", "testnet": "Bybit testnet", "demo": "Bybit demo"}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One line of the promotion rule.

    Attributes:
        name: What is asked.
        passed: Whether it holds; None where it was not judged.
        found: The number found, with its unit.
        wanted: The bound, with its unit.
    """

    name: str
    passed: bool | None
    found: str
    wanted: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was decided about this version.

    Attributes:
        decision: promoted, kept (the champion stays), or measured (nothing was to be decided).
        champion: Version in force before the decision, or "flat".
        conditions: The promotion rule, line by line.
        notes: Further reasons, one sentence each.
    """

    decision: Literal["promoted", "kept", "measured"]
    champion: str = "flat"
    conditions: tuple[Condition, ...] = ()
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
    """

    name: str
    value: float | None
    style: Style = "ratio"
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Equity:
    """Account values on bars that no training saw, net of costs.

    Attributes:
        time_ms: (T,) UTC milliseconds, increasing.
        model, buy_and_hold: (T,) quote currency.
        initial: What both started with; also the value of doing nothing.
        block_starts_ms: Start of each fold's test block, UTC milliseconds: another model decides from there on.
    """

    time_ms: IntArray
    model: FloatArray
    buy_and_hold: FloatArray
    initial: float
    block_starts_ms: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("time_ms", "model", "buy_and_hold")}
        if len(set(lengths.values())) != 1 or len(self.time_ms) < 2:
            raise ConfigError(f"equity series must have one length, at least 2, were {lengths}")


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
class ClassMix:
    """How many labels of each class a part of the data has.

    Attributes:
        part: Such as "train", "test", "predicted".
        counts: Sell, hold, buy.
    """

    part: str
    counts: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """Confidence against the share that was right, per bin.

    Attributes:
        confidence, accuracy: (bins,) means, shares of 1.
        count: (bins,) labels.
        ece: Expected calibration error, share of 1.
        ece_perfect: What a perfectly calibrated model would show on as many labels, share of 1.
    """

    confidence: FloatArray
    accuracy: FloatArray
    count: IntArray
    ece: float | None
    ece_perfect: float | None = None


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


@dataclass(frozen=True, kw_only=True)
class RivalLine:
    """The model or something that it must beat; None where a number does not apply.

    Attributes:
        name: Who; the first line of a table is the model.
        log_loss: Nat.
        accuracy: Share of labels.
        lead: Log-loss less the model's, nat: positive where the model is better.
        lead_error: Standard error of the lead.
        p_value: One-sided, of a model no better.
        total_return: Net, share of the capital.
        sharpe_ratio: From UTC days.
        num_trades: Round trips.
    """

    name: str
    log_loss: float | None
    accuracy: float | None
    lead: float | None
    lead_error: float | None
    p_value: float | None
    total_return: float | None
    sharpe_ratio: float | None
    num_trades: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Coverage:
    """Accuracy by how many labels one speaks on, the most confident first.

    Attributes:
        share: (n,) share of the labels.
        accuracy: (n,) on them.
        error: (n,) standard error, from labels that do not overlap.
    """

    share: FloatArray
    accuracy: FloatArray
    error: FloatArray


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
        trades: Some of the trades.
        trades_total: How many there were.
        rivals: The model and what it had to beat, the model first.
        rivals_note: What random timings say, one sentence.
        headline: The source text's claims beside what was measured.
        record: What the daily returns prove.
        slices: The result by year and by state of the market.
        skill: How good the predictions were.
        coverage: Accuracy by confidence.
        class_mix: Per part of the data.
        confusion: (3, 3) labels by true class (row) and predicted class (column).
        reliability: Calibration on unseen bars.
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
    verdict: Verdict
    warnings: tuple[str, ...] = ()
    highlights: tuple[Measure, ...] = ()
    equity: Equity | None = None
    metrics: Mapping[str, Row] = field(default_factory=dict)
    costs: tuple[CostPoint, ...] = ()
    break_even_bp: float | None = None
    stress: tuple[Row, ...] = ()
    trades: tuple[Row, ...] = ()
    trades_total: int = 0
    rivals: tuple[RivalLine, ...] = ()
    rivals_note: str = ""
    headline: tuple[Row, ...] = ()
    record: tuple[Measure, ...] = ()
    slices: tuple[Row, ...] = ()
    coverage: Coverage | None = None
    skill: tuple[Measure, ...] = ()
    class_mix: tuple[ClassMix, ...] = ()
    confusion: IntArray | None = None
    reliability: Reliability | None = None
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
    def title_label(self) -> str:
        """Market and source, as every title carries them."""
        return f"{self.market} · {self.source_label}"
