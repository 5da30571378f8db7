"""A session computed again from its journal: the backtest's decisions and fills on its candles, and every cause.

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
from dataclasses import dataclass, field, replace

import numpy as np

from storage.schema import MINUTE_MS, Candles, FloatArray, Instrument, IntArray, Market
from tasks.champion.serving import ServedModel
from tasks.execution.accounting import Bars, Steps, funding_by_bar, price_of
from tasks.execution.backtest import BacktestResult, run_backtest
from tasks.execution.decision import decide, decide_series
from tasks.execution.paper import Ledger, Opened, Quote
from tasks.live.account import BROKERS, RULES, Broker, nothing_new
from tasks.live.journal import BarOpen, Decision, JournalReader
from tasks.live.session_config import session_rules
from tasks.market.features import build_features

FEATURE_BOUND, PROBABILITY_BOUND = 1e-9, 1e-5
"""How far features and probabilities of the session may lie from the batch's."""

_CENT = 1e-6  # USDT; ledgers are sums of the same numbers in the same order

NamedFill = tuple[int, str, str, str]
"""Bar, side, price on the tick, quantity: what makes two fills equal."""

Predict = Callable[[ServedModel, FloatArray, IntArray], FloatArray]
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

    def add(self, start_ms: int, what: str, cause: str, said: str) -> None:
        """Note a difference."""
        self.differences.append(Difference(start_ms, what, cause, said))

    @property
    def unexplained(self) -> int:
        """How many differences have no cause."""
        return sum(not one.cause for one in self.differences)

    @property
    def causes(self) -> dict[str, int]:
        """How often each cause was found."""
        found = [one.cause for one in self.differences if one.cause]
        return {cause: found.count(cause) for cause in sorted(set(found))}


def replay(
    reader: JournalReader,
    market: Market,
    models: Mapping[str, ServedModel],
    instrument: Instrument,
    predict: Predict,
    *,
    account: str = "",
    reference: Candles | None = None,
    funding: list[tuple[int, float]] | None = None,
) -> Replayed:
    """Compute what an account did in a market again, and compare.

    Args:
        reader: The journal.
        market: Which market.
        models: Every version that decided, by name.
        instrument: The exchange's rules.
        predict: Predicts history.
        account: Which account; empty for the session's own.
        reference: The same candles as the exchange shows them today; None: not compared.
        funding: Stamps and rates as the exchange shows them today; None: as the journal has them.
    """
    facts, account = reader.facts(), account or market.slug
    candles, origins = reader.candles(market.slug)
    decisions, opens = reader.decisions(account), reader.opens(account)
    result = Replayed(bars=len(decisions), fills=sum(bar.opened.fill is not None for bar in opens))
    _compare_candles(candles, reference, result)
    there, decided = set(candles.start_ms.tolist()), {one.start_ms for one in decisions}
    for start_ms, origin in zip(candles.start_ms.tolist(), origins, strict=True):
        if origin != "warm-up" and start_ms not in decided:
            result.add(start_ms, "decision", "", "the journal lacks the decision of a candle")
    for one in decisions:
        if one.start_ms not in there:
            result.add(one.start_ms, "candle", "", "the journal lacks the candle of a decision")
    decisions = [one for one in decisions if one.start_ms in there]
    if decisions:
        told = _Told(
            market=market,
            candles=candles,
            origins=dict(zip(candles.start_ms.tolist(), origins, strict=True)),
            decisions=decisions,
            opens=opens,
            broker=BROKERS[facts["mode"]],
            notes=[(at_ms, kind) for at_ms, slug, kind, _ in reader.notes() if slug == market.slug],
            rates=_rates(candles, market, opens, funding),
            capital=float(facts["capital"][account]),
            deadline_ms=float(facts["deadline_ms"][market.slug]),
            instrument=instrument,
        )
        batch = _Batch(told, models, predict)
        _check_steps(told, batch, result)
        _compare_backtest(told, batch, result)
    return result


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What the journal says of an account; `rates` are due at each open, `notes` are time and kind."""

    market: Market
    candles: Candles
    origins: dict[int, str]
    decisions: list[Decision]
    opens: list[BarOpen]
    notes: list[tuple[int, str]]
    broker: Broker
    rates: dict[int, float]
    capital: float
    deadline_ms: float
    instrument: Instrument


class _Batch:
    """Features and probabilities of all candles at once, and where each bar lies among them."""

    def __init__(self, told: _Told, models: Mapping[str, ServedModel], predict: Predict) -> None:
        built = build_features(told.candles.matrix(), told.market.interval_ms)
        self.values, self.vol = built.values, built.vol
        self.row = {int(ms): row for row, ms in enumerate(told.candles.start_ms)}
        self.models = {one.version: models[one.version] for one in told.decisions if one.version}
        self.probabilities = {name: predict(model, built.values, built.segment) for name, model in self.models.items()}
        self.params = {name: model.params for name, model in self.models.items()}
        # Where there is no version, what is held is closed by the rules of the one before; at first nothing is held.
        self.rules: dict[int, FloatArray] = {}
        rules = np.zeros(RULES)
        for one in told.decisions:
            if one.version:
                rules = session_rules(self.models[one.version].recipe, told.instrument)
            self.rules[one.start_ms] = rules


def _compare_candles(candles: Candles, reference: Candles | None, result: Replayed) -> None:
    if reference is None:
        return
    there = np.isin(candles.start_ms, reference.start_ms)
    other = reference[np.isin(reference.start_ms, candles.start_ms)].matrix()
    differs = (candles[there].matrix() != other).any(axis=1)
    for ms in candles.start_ms[there][differs].tolist():
        result.add(ms, "candle", "revised", "the exchange shows another candle today")


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


def _check_steps(told: _Told, batch: _Batch, result: Replayed) -> None:
    """Compute each open and each decision again from the account's own ledger before it."""
    step_ms = told.market.interval_ms
    ledger, before, opens = Ledger(told.capital), None, list(told.opens[::-1])
    for one in (*told.decisions, None):
        booked_ms = -1
        while opens and (one is None or opens[-1].start_ms < one.start_ms + step_ms):
            bar = opens.pop()
            _open_again(told, batch, bar, ledger, before, result)
            ledger = bar.opened.ledger  # so that one difference is counted once
            booked_ms = told.market.floor(bar.start_ms)
        if one is None:
            return
        if booked_ms != one.start_ms:
            result.add(one.start_ms, "fill", "", "the journal lacks what the account did at the open")
        elif (one.position, one.bars_held) != (ledger.weight, ledger.bars_held):
            said = f"held {one.position} for {one.bars_held}, was {ledger.weight} for {ledger.bars_held}"
            result.add(one.start_ms, "decision", "", said)
        _decide_again(told, batch, one, result)
        if before is not None:
            result.missing += (one.start_ms - before.start_ms) // step_ms - 1
        before = one


def _open_again(
    told: _Told, batch: _Batch, bar: BarOpen, ledger: Ledger, before: Decision | None, result: Replayed
) -> None:
    """Say what the journal has otherwise than the core at an open."""
    rules = batch.rules[before.start_ms] if before is not None else np.zeros(RULES)
    met = told.broker(ledger, bar.wanted, bar.quote, bar.rate, rules)
    if told.market.floor(bar.start_ms) != bar.start_ms:
        cause = "stop" if (bar.wanted, bar.cause, bar.rate) == (0, "stop", 0.0) and _same(met, bar.opened) else ""
        result.add(bar.start_ms, "fill", cause, f"booked {bar.opened} amid the bar")
        return
    decided = before.wanted if before is not None else 0
    if bar.wanted != decided:
        before_ms = bar.start_ms - told.market.interval_ms
        true = {
            "stale": not bar.late_ms <= told.deadline_ms,
            "restart": (before_ms, "resumed") in told.notes,
            "stop": (before_ms, "stopped") in told.notes,
        }
        held = bar.wanted == ledger.weight and true.get(bar.cause, False)
        result.add(bar.start_ms, "fill", bar.cause if held else "", f"traded to {bar.wanted}, decided was {decided}")
    row = batch.row.get(bar.start_ms)  # None where the bar has not closed
    first = Quote(float(told.candles.open[row])) if row is not None else Quote(bar.quote.first)
    rate = told.rates.get(bar.start_ms, 0.0) if ledger.weight and row is not None else bar.rate
    if _same(told.broker(ledger, bar.wanted, first, rate, rules), bar.opened):
        return
    # What the session met at the open explains a difference only if exactly this comes out of it.
    if not _same(met, bar.opened):
        result.add(bar.start_ms, "fill", "", f"booked {bar.opened}, comes out as {met}")
    elif bar.rate != rate:
        result.add(bar.start_ms, "funding", "funding", f"rate {bar.rate}, the exchange's history says {rate}")
    else:
        result.add(bar.start_ms, "fill", "price", f"met {bar.quote}, the candle opened at {first.first}")


def _same(one: Opened, other: Opened) -> bool:
    if (one.fill is None) != (other.fill is None):
        return False
    numbers = np.array([(*x.ledger, x.funding, *(x.fill or ())) for x in (one, other)])
    return bool((np.abs(numbers[0] - numbers[1]) <= _CENT).all())


def _decide_again(told: _Told, batch: _Batch, one: Decision, result: Replayed) -> None:
    if not one.version:
        if one.wanted != 0:
            result.add(one.start_ms, "decision", "", f"wanted {one.wanted} without a version")
        return
    row = batch.row[one.start_ms]
    probabilities, vol = batch.probabilities[one.version][row], float(batch.vol[row])
    again = np.concatenate([batch.values[row], [vol]])
    apart = _apart(one.values[: len(again)], again)
    result.feature_diff = max(result.feature_diff, apart)
    if apart > FEATURE_BOUND:
        result.add(one.start_ms, "features", "", f"differ by {apart:.1e}")
    apart = _apart(one.values[len(again) :], probabilities)
    result.probability_diff = max(result.probability_diff, apart)
    if apart > PROBABILITY_BOUND:
        result.add(one.start_ms, "probabilities", "", f"differ by {apart:.1e}")
    p_sell, p_hold, p_buy = probabilities.tolist()
    target = decide(p_sell, p_hold, p_buy, vol, one.position, one.bars_held, batch.params[one.version])
    if target != one.target:
        result.add(one.start_ms, "decision", "", f"target {one.target}, comes out as {target}")
    if one.wanted != one.target:
        clock = [kind for at_ms, kind in told.notes if kind.startswith("clock") and at_ms < one.start_ms]
        true = {
            "deadline": one.late_ms > told.deadline_ms,
            "missed bars": told.origins[one.start_ms] == "rest",
            "clock": clock[-1:] == ["clock off"],
        }
        restrained = nothing_new(one.position, one.target) if one.cause == "clock" else one.position
        holds = one.wanted == restrained and true.get(one.cause, False)
        result.add(one.start_ms, "decision", one.cause if holds else "", f"target {one.target} was not traded")


def _apart(one: FloatArray, other: FloatArray) -> float:
    if one.shape != other.shape or not np.array_equal(np.isnan(one), np.isnan(other)):
        return float("inf")
    return float(np.abs(np.nan_to_num(one - other)).max())


def _compare_backtest(told: _Told, batch: _Batch, result: Replayed) -> None:
    """Count what a backtest over the session's bars decides and fills alike."""
    decisions = [one for one in told.decisions if one.version]
    if not decisions:
        return
    rows = np.array([batch.row[one.start_ms] for one in decisions])
    names = sorted(batch.models)
    which = np.array([names.index(one.version) for one in decisions])
    candles, step_ms = told.candles[rows], told.market.interval_ms
    bars = Bars(
        start_ms=candles.start_ms,
        open=candles.open,
        close=candles.close,
        interval_ms=step_ms,
        funding_rate=np.array([told.rates.get(ms, 0.0) for ms in candles.start_ms.tolist()]),
    )
    probabilities = np.stack([batch.probabilities[names[k]][row] for k, row in zip(which, rows, strict=True)])
    params = np.stack([batch.params[name] for name in names])
    targets = decide_series(probabilities, batch.vol[rows], bars.contiguous, params, which)
    result.equal_decisions = int((targets == [one.target for one in decisions]).sum())
    # One recipe's costs and size for all bars, the last one's: a backtest has one account.
    recipe = batch.models[decisions[-1].version].recipe
    account = replace(recipe.backtest, initial_capital=told.capital, delay=0)
    steps = Steps.of(told.instrument)
    # What training saw is not asked: a session steps bars that did not exist then.
    backtest = run_backtest(bars, targets, recipe.costs, account, trained_until_ms=None, label_span_ms=0, steps=steps)
    there = _fills_of(backtest, told.instrument)
    booked = {
        _named(bar.start_ms, fill.change, fill.price, told.instrument)
        for bar in told.opens
        if (fill := bar.opened.fill) is not None
    }
    result.backtest_fills, result.equal_fills = len(there), len(booked & there)


def _fills_of(backtest: BacktestResult, instrument: Instrument) -> set[NamedFill]:
    """Return each fill at an open; the one at the last close is the backtest's own."""
    changes = np.diff(backtest.quantity, prepend=0.0)
    tick, slippage = float(instrument.tick_size), backtest.costs.slippage
    found = set()
    for bar in np.flatnonzero(changes):
        price = price_of(changes[bar], backtest.bars.open[bar], slippage, tick, np.inf, 0.0)
        found.add(_named(int(backtest.bars.start_ms[bar]), changes[bar], price, instrument))
    return found


def _named(start_ms: int, change: float, price: float, instrument: Instrument) -> NamedFill:
    side = "Buy" if change > 0 else "Sell"
    return start_ms, side, instrument.price_text(price), instrument.quantity_text(change)
