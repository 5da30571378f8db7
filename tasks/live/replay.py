"""A session computed again from its journal: the backtest's decisions and fills on the journal's candles, and the causes.

Two questions are asked, and both must be answered.

    Is each step what the core says?   From the session's own position and ledger, bar by bar: features, probabilities,
                                       decision and open are computed again. What differs needs a cause on record, and
                                       the cause must hold; else it is `unexplained`.
    Is the whole what a backtest says? `decide_series` and `run_account` over the same candles, with the session's steps
                                       and capital; so many decisions and fills are equal. One that was not traded makes
                                       later ones differ too, and all of them have its cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storage.schema import MINUTE_MS, Candles, FloatArray, Instrument, IntArray, Market
from tasks.execution.accounting import Bars, Steps, account_rules, funding_by_bar
from tasks.execution.backtest import BacktestConfig, BacktestResult, run_backtest
from tasks.execution.decision import decide, decide_series
from tasks.execution.paper import Ledger, Opened, Quote, open_bar
from tasks.live.journal import BarOpen, Decision, JournalReader
from tasks.live.live_model import LiveModel
from tasks.market.features import build_features

FEATURE_BOUND, PROBABILITY_BOUND = 1e-9, 1e-5
"""How far features and probabilities of the session may lie from the batch's."""

_CENT = 1e-6  # USDT; ledgers are sums of the same numbers in the same order

Predict = Callable[[LiveModel, FloatArray, IntArray], FloatArray]
"""A version, (T, F) features and (T,) segments to (T, 3) probabilities: the way that history is predicted."""


@dataclass(frozen=True)
class Difference:
    """Something that a backtest would have done otherwise.

    Attributes:
        start_ms: Bar.
        what: candle, features, probabilities, decision, fill or funding.
        cause: late, stale, deadline, rounding, price, funding, revised, restart, missed bars, stop, clock; empty where
            nobody knows.
        said: What the journal says, and what came out.
    """

    start_ms: int
    what: str
    cause: str
    said: str


@dataclass(kw_only=True)
class Replayed:
    """What came of replaying one market.

    Attributes:
        bars: Decisions in the journal.
        fills: Fills in the journal.
        missing: Bars that lie between its decisions and are not there.
        equal_decisions: Decisions that a backtest over the same candles takes too.
        equal_fills: Fills that it has too: same bar, side, price on the tick and quantity.
        backtest_fills: Fills that it has.
        feature_diff: Largest difference of a feature or vol from the batch's.
        probability_diff: Largest difference of a probability.
        differences: Every one, oldest first.
    """

    bars: int = 0
    fills: int = 0
    missing: int = 0
    equal_decisions: int = 0
    equal_fills: int = 0
    backtest_fills: int = 0
    feature_diff: float = 0.0
    probability_diff: float = 0.0
    differences: list[Difference] = field(default_factory=list)

    @property
    def unexplained(self) -> int:
        """How many differences have no cause."""
        return sum(not one.cause for one in self.differences)

    def numbers(self) -> dict[str, Any]:
        """Return the counts, and how often each cause was found."""
        names = ("bars", "fills", "missing", "equal_decisions", "equal_fills", "backtest_fills")
        causes = sorted({one.cause for one in self.differences if one.cause})
        return {
            **{name: getattr(self, name) for name in names},
            "feature_diff": self.feature_diff,
            "probability_diff": self.probability_diff,
            "unexplained": self.unexplained,
            "causes": {cause: sum(one.cause == cause for one in self.differences) for cause in causes},
        }


def replay(
    reader: JournalReader,
    market: Market,
    models: Mapping[str, LiveModel],
    instrument: Instrument,
    predict: Predict,
    *,
    reference: Candles | None = None,
    funding: list[tuple[int, float]] | None = None,
) -> Replayed:
    """Compute a market's session again and compare.

    Args:
        reader: The journal.
        market: Which market.
        models: Every version that decided, by name.
        instrument: The exchange's rules.
        predict: Predicts history.
        reference: The same candles as the exchange shows them today; None: not compared.
        funding: Stamps and rates as the exchange shows them today; None: as the journal has them.
    """
    slug = market.slug
    candles, origins = reader.candles(slug)
    decisions, opens = reader.decisions(slug), reader.opens(slug)
    result = Replayed(bars=len(decisions), fills=sum(bar.opened.fill is not None for bar in opens))
    if not decisions:
        return result
    known = np.isin([one.start_ms for one in decisions], candles.start_ms)
    for one in (d for d, there in zip(decisions, known, strict=True) if not there):
        result.differences.append(Difference(one.start_ms, "candle", "", "the journal lacks the candle of a decision"))
    _compare_candles(candles, reference, result)
    batch = _Batch(candles, market, models, predict, decisions)
    deadline_ms = float(reader.facts()["deadline_ms"][slug])
    rules = _rules(models[decisions[0].version], instrument) if decisions[0].version else None
    rates = _rates(candles, market, opens, funding)
    if rules is not None:
        _check_steps(
            decisions, opens, candles, origins, batch, rules, rates, deadline_ms, _capital(reader, slug), result
        )
        _compare_backtest(
            decisions, opens, candles, batch, models, instrument, rates, market, _capital(reader, slug), result
        )
    return result


def _capital(reader: JournalReader, slug: str) -> float:
    return float(reader.facts()["capital"][slug])


def _rules(model: LiveModel, instrument: Instrument) -> FloatArray:
    account = model.recipe.backtest
    return account_rules(account.position_fraction, account.fixed_coins, model.recipe.costs, Steps.of(instrument))


class _Batch:
    """Features and probabilities of all candles at once, and where each decision's bar lies among them."""

    def __init__(
        self,
        candles: Candles,
        market: Market,
        models: Mapping[str, LiveModel],
        predict: Predict,
        decisions: list[Decision],
    ) -> None:
        built = build_features(candles.matrix(), market.interval_ms)
        self.values, self.vol, self.segment = built.values, built.vol, built.segment
        self.row = {int(ms): row for row, ms in enumerate(candles.start_ms)}
        versions = {one.version for one in decisions if one.version}
        self.probabilities = {name: predict(models[name], built.values, built.segment) for name in versions}
        self.params = {name: models[name].params for name in versions}


def _compare_candles(candles: Candles, reference: Candles | None, result: Replayed) -> None:
    if reference is None:
        return
    there = np.isin(candles.start_ms, reference.start_ms)
    other = reference[np.isin(reference.start_ms, candles.start_ms)].matrix()
    differs = (candles[there].matrix() != other).any(axis=1)
    for ms in candles.start_ms[there][differs].tolist():
        result.differences.append(Difference(ms, "candle", "revised", "the exchange shows another candle today"))


def _rates(
    candles: Candles, market: Market, opens: list[BarOpen], funding: list[tuple[int, float]] | None
) -> dict[int, float]:
    """Return the funding rate due at each open."""
    if funding is None:
        return {bar.start_ms: bar.rate for bar in opens}
    stamps = np.array([stamp for stamp, _ in funding], np.int64)
    values = np.array([rate for _, rate in funding], np.float64)
    if not len(candles):
        return {}
    by_bar = funding_by_bar(stamps // MINUTE_MS * MINUTE_MS, values, candles.start_ms, market.interval_ms)
    return dict(zip(candles.start_ms.tolist(), by_bar.tolist(), strict=True))


def _check_steps(
    decisions: list[Decision],
    opens: list[BarOpen],
    candles: Candles,
    origins: list[str],
    batch: _Batch,
    rules: FloatArray,
    rates: dict[int, float],
    deadline_ms: float,
    capital: float,
    result: Replayed,
) -> None:
    """Compute each open and each decision again from the session's own ledger before it."""
    add = result.differences.append
    open_at = {bar.start_ms: bar for bar in opens}
    origin_of = dict(zip(candles.start_ms.tolist(), origins, strict=True))
    ledger, before, step_ms = Ledger(capital), None, 0
    for one in decisions:
        row = batch.row.get(one.start_ms)
        if row is None:
            continue
        bar = open_at.get(one.start_ms)
        if bar is None:
            add(Difference(one.start_ms, "fill", "", "the journal lacks what the account did at the open"))
            continue
        again = _open_again(bar, ledger, before, float(candles.open[row]), rates.get(one.start_ms, 0.0), rules, add)
        if (one.position, one.bars_held) != (again.ledger.weight, again.ledger.bars_held):
            said = f"held {one.position} for {one.bars_held}, was {again.ledger.weight} for {again.ledger.bars_held}"
            add(Difference(one.start_ms, "decision", "", said))
        ledger = bar.opened.ledger
        _decide_again(one, row, batch, origin_of[one.start_ms], deadline_ms, result)
        if before is not None:
            step_ms = step_ms or one.start_ms - before.start_ms
            step_ms = min(step_ms, one.start_ms - before.start_ms)
            result.missing += (one.start_ms - before.start_ms) // step_ms - 1
        before = one


def _open_again(
    bar: BarOpen,
    ledger: Ledger,
    before: Decision | None,
    open_: float,
    rate: float,
    rules: FloatArray,
    add: Callable[[Difference], None],
) -> Opened:
    """Return what the core does at an open, and say what the journal has otherwise."""
    decided = before.wanted if before is not None else 0
    wanted = bar.wanted
    if wanted != decided:
        held = wanted == ledger.weight and bar.cause in ("stale", "restart", "clock", "stop")
        add(Difference(bar.start_ms, "fill", bar.cause if held else "", f"traded to {wanted}, decided was {decided}"))
    expected = open_bar(ledger, wanted, Quote(open_), rate if ledger.weight else bar.rate, rules)
    if _same(expected, bar.opened):
        return expected
    # What the session met at the open explains a difference only if exactly this comes out of it.
    met = open_bar(ledger, wanted, bar.quote, bar.rate, rules)
    if not _same(met, bar.opened):
        add(Difference(bar.start_ms, "fill", "", f"booked {bar.opened}, comes out as {met}"))
        return met
    if bar.rate != rate and ledger.weight:
        add(Difference(bar.start_ms, "funding", "funding", f"rate {bar.rate}, the exchange's history says {rate}"))
    if bar.quote != Quote(open_) and met.fill is not None:
        add(Difference(bar.start_ms, "fill", "price", f"met {bar.quote}, the candle opened at {open_}"))
    return met


def _same(one: Opened, other: Opened) -> bool:
    if (one.fill is None) != (other.fill is None):
        return False
    close = np.isclose(one.ledger, other.ledger, rtol=0, atol=_CENT).all() and abs(one.funding - other.funding) <= _CENT
    fills = one.fill is None or other.fill is None or np.isclose(one.fill, other.fill, rtol=0, atol=_CENT).all()
    return bool(close and fills)


def _decide_again(one: Decision, row: int, batch: _Batch, origin: str, deadline_ms: float, result: Replayed) -> None:
    add = result.differences.append
    if not one.version:
        if one.target != 0:
            add(Difference(one.start_ms, "decision", "", f"target {one.target} without a version"))
        return
    features, vol = batch.values[row], batch.vol[row]
    probabilities = batch.probabilities[one.version][row]
    found = np.concatenate([features, [vol], probabilities])
    size = len(features) + 1
    for name, part, bound in (
        ("features", slice(0, size), FEATURE_BOUND),
        ("probabilities", slice(size, None), PROBABILITY_BOUND),
    ):
        said, again = one.values[part], found[part]
        apart = np.abs(np.nan_to_num(said) - np.nan_to_num(again)).max() if said.shape == again.shape else np.inf
        if not np.array_equal(np.isnan(said), np.isnan(again)):
            apart = np.inf
        attribute = "feature_diff" if name == "features" else "probability_diff"
        setattr(result, attribute, max(getattr(result, attribute), float(apart)))
        if apart > bound:
            add(Difference(one.start_ms, name, "", f"differ by {apart:.1e}"))
    p_sell, p_hold, p_buy = probabilities.tolist()
    target = decide(p_sell, p_hold, p_buy, float(vol), one.position, one.bars_held, batch.params[one.version])
    if target != one.target:
        add(Difference(one.start_ms, "decision", "", f"target {one.target}, comes out as {target}"))
    if one.wanted == one.target:
        return
    holds = one.wanted == one.position and {
        "deadline": one.late_ms > deadline_ms,
        "missed bars": origin == "rest",
        "clock": True,
        "stop": True,
    }.get(one.cause, False)
    add(Difference(one.start_ms, "decision", one.cause if holds else "", f"target {one.target} was not traded"))


def _compare_backtest(
    decisions: list[Decision],
    opens: list[BarOpen],
    candles: Candles,
    batch: _Batch,
    models: Mapping[str, LiveModel],
    instrument: Instrument,
    rates: dict[int, float],
    market: Market,
    capital: float,
    result: Replayed,
) -> None:
    """Count what a backtest over the session's candles decides and fills alike."""
    decisions = [one for one in decisions if one.version and one.start_ms in batch.row]
    rows = np.array([batch.row[one.start_ms] for one in decisions])
    versions = sorted(batch.params)
    which = np.array([versions.index(one.version) for one in decisions])
    starts = candles.start_ms[rows]
    contiguous = np.concatenate([[False], np.diff(starts) == market.interval_ms])
    probabilities = np.array([batch.probabilities[one.version][row] for one, row in zip(decisions, rows, strict=True)])
    params = np.array([batch.params[name] for name in versions])
    targets = decide_series(probabilities, batch.vol[rows], contiguous, params, which)
    result.equal_decisions = int((targets == [one.target for one in decisions]).sum())
    backtest = _backtest(candles[rows], targets, models[versions[-1]], instrument, rates, market, capital)
    there = _backtest_fills(backtest, instrument)
    result.backtest_fills = len(there)
    booked = {
        (bar.start_ms, fill.side, instrument.price_text(fill.price), instrument.quantity_text(fill.change))
        for bar in opens
        if (fill := bar.opened.fill) is not None
    }
    result.equal_fills = len(booked & there)


def _backtest(
    candles: Candles,
    targets: Any,
    model: LiveModel,
    instrument: Instrument,
    rates: dict[int, float],
    market: Market,
    capital: float,
) -> BacktestResult:
    bars = Bars(
        start_ms=candles.start_ms,
        open=candles.open,
        close=candles.close,
        interval_ms=market.interval_ms,
        funding_rate=np.array([rates.get(ms, 0.0) for ms in candles.start_ms.tolist()]),
    )
    account = model.recipe.backtest
    config = BacktestConfig(
        initial_capital=capital, position_fraction=account.position_fraction, fixed_coins=account.fixed_coins
    )
    # What training saw is the session's affair: it steps bars that were not there yet.
    return run_backtest(
        bars, targets, model.recipe.costs, config, trained_until_ms=None, label_span_ms=0, steps=Steps.of(instrument)
    )


def _backtest_fills(result: BacktestResult, instrument: Instrument) -> set[tuple[int, str, str, str]]:
    """Return bar, side, price and quantity of each fill at an open; the last close is no order of a session."""
    quantity = result.quantity.copy()
    before = np.concatenate([[0.0], quantity[:-1]])
    fills = set()
    for bar in np.flatnonzero(quantity != before):
        change = quantity[bar] - before[bar]
        quote = Quote(float(result.bars.open[bar]))
        rules = account_rules(0.0, None, result.costs, Steps.of(instrument))
        price = _price(change, quote, rules)
        side = "Buy" if change > 0 else "Sell"
        fills.add(
            (int(result.bars.start_ms[bar]), side, instrument.price_text(price), instrument.quantity_text(change))
        )
    return fills


def _price(change: float, quote: Quote, rules: FloatArray) -> float:
    from tasks.execution.accounting import price_of

    return price_of(change, quote.first, rules[3], rules[5], quote.bid, quote.ask)
