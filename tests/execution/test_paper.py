"""Paper fills by hand, in exact decimals, and against the backtest's account."""

from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.schema import Instrument
from tasks.execution.accounting import Costs, Steps, account_rules, sized
from tasks.execution.backtest import BacktestConfig, run_backtest
from tasks.execution.decision import DecisionConfig, decide, decide_series, packed, share_of, shares_of
from tasks.execution.paper import Ledger, Quote, open_bar

BITCOIN = Instrument(
    symbol="BTCUSDT", category="linear", status="Trading", launch_ms=0, tick_size="0.10", qty_step="0.001",
    min_qty="0.001", min_notional="5", funding_interval_min=480,
)  # fmt: skip
SHARE = 0.95
COSTS = Costs(commission=0.001, slippage=0.0001)
RULES = account_rules(0.95, None, COSTS, Steps.of(BITCOIN))


def test_purchase_is_whole_steps_on_the_tick_above():
    """0.95 * 100,000 / 63,000.1 = 1.50793... coins; 63,000.1 * 1.0001 = 63,006.40001 -> 63,006.5; fee 0.1 %."""
    opened = open_bar(Ledger(100_000.0), 1, Quote(63_000.1), 0.0, RULES)
    fill = opened.fill
    assert fill is not None
    assert (fill.side, BITCOIN.quantity_text(fill.change), BITCOIN.price_text(fill.price)) == (
        "Buy",
        "1.507",
        "63006.50",
    )
    assert fill.fee == pytest.approx(0.001 * 1.507 * 63_006.5, rel=1e-12)
    assert fill.slippage == pytest.approx(1.507 * 6.4, rel=1e-9)
    assert opened.ledger.cash == pytest.approx(100_000 - 1.001 * 1.507 * 63_006.5, rel=1e-12)
    assert opened.ledger[1:] == (fill.change, 1, 1)
    assert opened.entry_costs == fill.fee + fill.slippage


def test_flip_is_one_order_and_restarts_the_bars_held():
    """Short 0.5 coins from long 0.25: equity 100 * 0.25 + 75 = 100 buys one coin at 100; 0.95 in steps."""
    opened = open_bar(Ledger(75.0, 0.25, 1, 9), -1, Quote(100.0), 0.0, RULES)
    assert opened.fill is not None
    assert opened.fill.side == "Sell"
    assert BITCOIN.quantity_text(opened.fill.change) == "1.200"
    assert BITCOIN.price_text(opened.fill.price) == "99.90"  # 99.99, a tick of 0.1 below
    assert (round(opened.ledger.quantity, 9), opened.ledger.side, opened.ledger.bars_held) == (-0.95, -1, 1)
    assert opened.entry_costs == pytest.approx(0.95 * (0.0999 + 0.1), rel=1e-9)  # of 1.2 coins traded
    assert open_bar(opened.ledger, 0, Quote(100.0), 0.0, RULES).entry_costs == 0.0


@pytest.mark.parametrize(
    ("wanted", "book", "price"),
    [
        (1, {"ask": 100.5}, "100.50"),
        (1, {"ask": 100.0}, "100.10"),
        (-1, {"bid": 99.2}, "99.20"),
        (-1, {"bid": 100.0}, "99.90"),
    ],
)
def test_fill_is_never_better_than_the_book(wanted, book, price):
    opened = open_bar(Ledger(1_000.0), wanted, Quote(100.0, **book), 0.0, RULES)
    assert opened.fill is not None
    assert BITCOIN.price_text(opened.fill.price) == price


@pytest.mark.parametrize("capital", [5.2, 0.05])  # 4.94 USDT are below the minimum of 5; 0.0475 below a step of coins
def test_position_below_the_minimum_is_not_opened_and_costs_nothing(capital):
    opened = open_bar(Ledger(capital, 0.0, 0, 3), 1, Quote(100.0), 0.0, RULES)
    assert opened == (Ledger(capital, 0.0, 0, 4), None, 0.0)


def test_position_is_closed_whole_even_where_its_worth_is_below_the_minimum():
    opened = open_bar(Ledger(0.0, 0.02, 1, 3), 0, Quote(100.0), 0.0, RULES)
    assert opened.ledger[1:] == (0.0, 0, 1)


def test_funding_is_paid_before_the_fill_by_what_was_held():
    opened = open_bar(Ledger(100.0, -2.0, -1, 5), -1, Quote(10.0), 0.01, RULES)
    assert opened == (Ledger(100.2, -2.0, -1, 6), None, -0.2)


@given(
    capital=st.floats(1.0, 1e5),
    price=st.floats(1.0, 1e5),
    wanted=st.sampled_from([-1, 1]),
    step=st.sampled_from(["0.001", "0.01", "0.1", "1"]),
    tick=st.sampled_from(["0.1", "0.01", "0.0001", "0.5"]),
)
def test_sizes_and_prices_are_what_exact_decimals_give(capital, price, wanted, step, tick):
    """Floats may only decide otherwise where the exact quotient is a whole number but for 1e-6."""
    exchange = Steps(quantity=float(step), tick=float(tick))
    opened = open_bar(Ledger(capital), wanted, Quote(price), 0.0, account_rules(SHARE, None, COSTS, exchange))
    exact = Decimal(SHARE) * Decimal(capital) / Decimal(price) / Decimal(step)
    steps = exact.quantize(Decimal(1), ROUND_DOWN)
    rounded = Decimal(abs(opened.ledger.quantity)) / Decimal(step)
    assert abs(rounded - steps) < Decimal("1e-6") or abs(exact - exact.quantize(Decimal(1))) < Decimal("1e-6")
    if opened.fill is not None:
        worse = Decimal(price) * (1 + wanted * Decimal(COSTS.slippage)) / Decimal(tick)
        ticks = worse.quantize(Decimal(1), ROUND_CEILING if wanted > 0 else ROUND_FLOOR)
        found = Decimal(opened.fill.price) / Decimal(tick)
        assert abs(found - ticks) < Decimal("1e-6") or abs(worse - worse.quantize(Decimal(1))) < Decimal("1e-6")


@pytest.mark.promise(10)
@pytest.mark.parametrize(("allow_short", "sizing"), [(True, "fixed"), (False, "fixed"), (True, "volatility")])
def test_bar_by_bar_paper_account_equals_the_backtest_with_the_same_steps(make_bars, allow_short, sizing):
    rng = np.random.default_rng(3)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 2e-3, 600))), 2)
    open_ = np.round(np.append(100.0, close[:-1]) * np.exp(rng.normal(0, 2e-4, 600)), 2)
    bars = make_bars(open_, close, funding_rate=np.where(np.arange(600) % 96 == 0, 1e-4, 0.0))
    probabilities, vol = rng.dirichlet([1.0, 1.0, 1.0], 600), np.full(600, 0.004)
    forecast = 0.004 * np.exp(rng.normal(0.0, 1.0, 600))
    forecast[rng.random(600) < 0.1] = np.nan
    rule = DecisionConfig(min_hold=3, allow_short=allow_short, sizing=sizing, target_vol=0.4)
    params = packed(rule, COSTS, np.array([-1.0, 0.0, 1.0]), 4, bars_per_year=10_000)
    targets, share = (
        decide_series(probabilities, vol, bars.contiguous, params, None, forecast),
        shares_of(forecast, params),
    )
    config, steps = BacktestConfig(initial_capital=777.0), Steps(quantity=0.01, tick=0.01, least_notional=5.0)
    result = run_backtest(
        bars, targets, COSTS, config, trained_until_ms=None, label_span_ms=0, steps=steps, share=share
    )

    rules = account_rules(SHARE, None, COSTS, steps)
    ledger, wanted, found = Ledger(777.0), 0, []
    for t in range(600):
        by = sized(rules, share_of(forecast[t - 1], params)) if t else rules
        ledger, fill, funding = open_bar(ledger, wanted, Quote(open_[t]), bars.funding_rate[t], by)
        found.append((ledger.quantity, ledger.equity(close[t]), fill.fee if fill else 0.0, funding))
        wanted = decide(*probabilities[t], vol[t], forecast[t], ledger.side, ledger.bars_held, params)
        assert wanted == targets[t]
    books = np.column_stack([result.quantity, result.equity[1:], result.fees, result.funding])
    np.testing.assert_array_equal(found[:-1], books[:-1])  # at the last close the backtest closes what is held
    assert (np.diff(result.quantity) != 0).sum() > 40
