"""What a backtest over a session's own candles, with its steps and capital, decides and fills alike."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from storage.schema import Instrument
from tasks.execution.accounting import Steps, price_of
from tasks.execution.backtest import BacktestResult, run_backtest
from tasks.execution.bars import Bars
from tasks.execution.decision import decide_series
from tasks.live.account_record import AccountRecord, Batch

NamedFill = tuple[int, str, str, str]
"""Bar, side, price on the tick, quantity: what makes two fills equal."""


class Met(NamedTuple):
    """What a backtest and a session have in common.

    Attributes:
        equal_fills: Fills that both have: same bar, side, price on the tick and quantity.
    """

    equal_decisions: int
    equal_fills: int
    backtest_fills: int


def compare_backtest(record: AccountRecord, batch: Batch) -> Met:
    """Return what a backtest over the session's bars decides and fills alike."""
    decisions = [one for one in record.decisions if one.version]
    if not decisions:
        return Met(0, 0, 0)
    rows = np.array([batch.row[one.start_ms] for one in decisions])
    names = sorted(batch.models)
    which = np.array([names.index(one.version) for one in decisions])
    candles, step_ms = record.candles[rows], record.market.interval_ms
    bars = Bars(
        start_ms=candles.start_ms,
        open=candles.open,
        close=candles.close,
        interval_ms=step_ms,
        funding_rate=np.array([record.rates.get(ms, 0.0) for ms in candles.start_ms.tolist()]),
    )
    probabilities = np.stack([batch.probabilities[names[k]][row] for k, row in zip(which, rows, strict=True)])
    params = np.stack([batch.params[name] for name in names])
    forecast, share = (np.array([of[one.start_ms] for one in decisions]) for of in (batch.forecast, batch.share))
    targets = decide_series(probabilities, batch.vol[rows], bars.contiguous, params, which, forecast)
    equal_decisions = int((targets == [one.target for one in decisions]).sum())
    # One recipe's costs and size for all bars, the last one's: a backtest has one account.
    recipe = batch.models[decisions[-1].version].recipe
    account = replace(recipe.backtest, initial_capital=record.capital, delay=0)
    steps = Steps.of(record.instrument)
    # What training saw is not asked: a session steps bars that did not exist then.
    backtest = run_backtest(
        bars, targets, recipe.costs, account, trained_until_ms=None, label_span_ms=0, steps=steps, share=share
    )
    there = _fills_of(backtest, record.instrument)
    booked = {
        _named(bar.start_ms, fill.change, fill.price, record.instrument)
        for bar in record.opens
        if (fill := bar.opened.fill) is not None
    }
    return Met(equal_decisions, len(booked & there), len(there))


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
