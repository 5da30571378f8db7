"""Tables of bars, every number worked out by hand, and the properties that no market may break."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.schema import MINUTE_MS, Candles, ConfigError, LeakError
from tasks.execution.accounting import Costs, Steps, account_rules, fill, trade_open
from tasks.execution.backtest import BacktestConfig, buy_and_hold, flat, run_backtest
from tasks.execution.bars import Bars, funding_by_bar
from tasks.execution.decision import DecisionConfig, decide, decide_series, packed
from tasks.execution.trades import EXITS

FREE = Costs(commission=0.0, slippage=0.0)
STEP_MS = 5 * MINUTE_MS
ONE_COIN = BacktestConfig(initial_capital=1_000.0, fixed_coins=1.0)
EXACT = {"rel": 1e-12, "abs": 1e-9}  # hand calculations; only the last digits of float64 may differ


def run(bars, target, costs=FREE, config=ONE_COIN, **options):
    return run_backtest(bars, np.asarray(target), costs, config, trained_until_ms=None, label_span_ms=0, **options)


# --- tables of bars ---------------------------------------------------------------------------------------------------


@pytest.mark.promise(10)
def test_target_is_filled_at_the_next_open(make_bars):
    """Decided at the close of 100: neither that close (100), nor the open before (90), but the next open, 104."""
    result = run(make_bars([90, 104, 106], [100, 105, 107]), [1, 1, 1])
    assert result.quantity.tolist() == [0, 1, 1]
    assert result.equity.tolist() == [1_000, 1_000, 1_001, 1_003]
    assert result.trades.entry_price.tolist() == [104]


@pytest.mark.promise(11)
def test_table_of_a_long_flipped_to_a_short_is_booked_fill_by_fill(make_bars):
    """One coin, commission 0.1 %, slippage 1 %.

    bar  open  close  order   at      fee     cash       coins  equity
    0    100   100    -       -       -       1000       0      1000
    1    100   110    buy 1   101     0.101   898.899    1      1008.899
    2    110   120    -       -       -       898.899    1      1018.899
    3    120   90     sell 2  118.8   0.2376  1136.2614  -1     1046.2614
    4    90    80     buy 1   90.9    0.0909  1045.2705  0      1045.2705
    """
    bars = make_bars([100, 100, 110, 120, 90], [100, 110, 120, 90, 80])
    result = run(bars, [1, 1, -1, 0, 1], Costs(commission=0.001, slippage=0.01))
    assert result.equity == pytest.approx([1000, 1000, 1008.899, 1018.899, 1046.2614, 1045.2705], **EXACT)
    assert result.quantity.tolist() == [0, 1, 1, -1, 0]
    assert result.traded.tolist() == [0, 100, 0, 240, 90]
    assert result.fees == pytest.approx([0, 0.101, 0, 0.2376, 0.0909], **EXACT)
    assert result.slippage == pytest.approx([0, 1.0, 0, 2.4, 0.9], **EXACT)

    trades = result.trades
    assert trades.side.tolist() == [1, -1]
    assert trades.entry_bar.tolist() == [1, 3]
    assert trades.exit_bar.tolist() == [3, 4]
    assert trades.bars.tolist() == [2, 1]
    assert trades.entry_price == pytest.approx([101, 118.8], **EXACT)
    assert trades.exit_price == pytest.approx([118.8, 90.9], **EXACT)
    assert trades.gross.tolist() == [20, 30]
    assert trades.fees == pytest.approx([0.101 + 0.1188, 0.1188 + 0.0909], **EXACT)
    assert trades.slippage == pytest.approx([2.2, 2.1], **EXACT)
    assert trades.net == pytest.approx([17.5802, 27.6903], **EXACT)
    assert [EXITS[code] for code in trades.exit] == ["signal", "signal"]
    assert set(trades.columns()) >= {"entry_bar", "exit_fee", "funding", "net"}


def test_table_of_a_share_of_equity_is_sized_before_fees_and_only_on_a_change(make_bars):
    """Half of the equity, commission 1 %.

    bar 1: 0.5 * 1000 / 100 = 5 coins, fee 5, cash 495; close 120: 1095
    bar 2: still long, still 5 coins, although half of 1095 would be fewer; close 120
    bar 3: equity at the open 120 is 1095, so short 0.5 * 1095 / 120 = 4.5625; fee 0.01 * 9.5625 * 120 = 11.475;
           cash 495 + 1147.5 - 11.475 = 1631.025; close 100: 1631.025 - 456.25 = 1174.775
    end:   buy 4.5625 at 100, fee 4.5625: 1170.2125
    """
    bars = make_bars([100, 100, 120, 120], [100, 120, 120, 100])
    config = BacktestConfig(initial_capital=1_000.0, position_fraction=0.5)
    result = run(bars, [1, 1, -1, -1], Costs(commission=0.01, slippage=0.0), config)
    assert result.quantity == pytest.approx([0, 5, 5, -4.5625], **EXACT)
    assert result.equity == pytest.approx([1000, 1000, 1095, 1095, 1170.2125], **EXACT)


def test_last_position_is_closed_at_the_last_close_and_pays_for_it(make_bars):
    result = run(make_bars([100, 100], [100, 110]), [1, 1], Costs(commission=0.01, slippage=0.0))
    assert result.equity == pytest.approx([1000, 1000, 1000 + 10 - 1.0 - 1.1], **EXACT)
    assert result.quantity.tolist() == [0, 1]
    assert [EXITS[code] for code in result.trades.exit] == ["end"]
    assert result.trades.bars.tolist() == [1]
    assert "the last position was closed at the last close, its costs paid" in result.flags


@pytest.mark.promise(11)
def test_funding_is_paid_at_its_stamp_by_the_position_held_until_then(make_bars):
    """Rate 1 % at the opens of bars 1, 2 and 4, price 100, 200, 400; long from bar 1, short from bar 2, flat in bar 4.

    bar 1: flat until the stamp, pays nothing; bar 2: the long pays 2, and the short that opens there nothing;
    bar 4: the short receives 4, and leaves after it.
    """
    bars = make_bars([100, 100, 200, 400, 400], funding_rate=[0.5, 0.01, 0.01, 0, 0.01])
    result = run(bars, [1, -1, -1, 0, 0])
    assert result.funding == pytest.approx([0, 0, 2, 0, -4], **EXACT)
    assert result.trades.funding == pytest.approx([2, -4], **EXACT)
    assert result.equity[-1] == pytest.approx(1000 + 100 - 2 - 200 + 4, **EXACT)
    unfunded = run(bars, [1, -1, -1, 0, 0], Costs(commission=0.0, slippage=0.0, funding=False))
    assert unfunded.funding_paid == 0.0
    assert unfunded.equity[-1] == pytest.approx(1000 + 100 - 200, **EXACT)


def test_nothing_is_filled_behind_a_gap_and_what_is_held_is_closed(make_bars):
    """A bar is missing before bar 3: its decision to stay long is void, the long is closed at its open, 130.

    The short decided at the close of bar 3 is filled at the open of bar 4, 140.
    """
    bars = make_bars([100, 100, 120, 130, 140, 150], gap_before=[3])
    result = run(bars, [1, 1, 1, -1, 0, 0])
    assert result.quantity.tolist() == [0, 1, 1, 0, -1, 0]
    assert result.equity[-1] == 1000 + 30 - 10
    assert [EXITS[code] for code in result.trades.exit] == ["gap", "signal"]
    assert "1 position closed at the first open after a gap" in result.flags


def test_no_position_is_opened_behind_a_gap(make_bars):
    assert run(make_bars([100, 100, 120, 130], gap_before=[2]), [0, 1, 0, 0]).quantity.tolist() == [0, 0, 0, 0]


def test_fills_come_later_when_a_delay_is_set(make_bars):
    bars = make_bars([100, 101, 102, 103, 104, 105])
    delayed = run(bars, [1, 1, -1, 0, 0, 0], config=BacktestConfig(initial_capital=1_000.0, fixed_coins=1.0, delay=1))
    assert delayed.quantity.tolist() == [0, 0, 1, 1, -1, 0]
    gapped = make_bars([100, 101, 102, 103, 104, 105], gap_before=[2])
    late = BacktestConfig(initial_capital=1_000.0, fixed_coins=1.0, delay=1)
    assert run(gapped, [1, 1, 1, 1, 1, 1], config=late).quantity.tolist() == [0, 0, 0, 0, 1, 1]


def test_account_is_closed_for_good_when_a_close_leaves_nothing(make_bars):
    """Short 9.5 coins at 100 from 1,000: at 210 the equity is 1950 - 1995 = -45, and no more bar is traded."""
    bars = make_bars([100, 100, 50, 50], [100, 210, 50, 50])
    config = BacktestConfig(initial_capital=1_000.0)
    result = run(bars, [-1, 1, 1, 1], config=config)
    assert result.ruined_at == 1
    assert result.shortfall == pytest.approx(45.0, **EXACT)
    assert result.equity.tolist() == [1000, 1000, 0, 0, 0]
    assert result.quantity == pytest.approx([0, -9.5, 0, 0], **EXACT)
    assert [EXITS[code] for code in result.trades.exit] == ["ruin"]
    assert result.trades.net == pytest.approx([-1045.0], **EXACT)
    assert result.gross_profit == pytest.approx(-1045.0, **EXACT)
    assert result.flags[0] == "ruined in the bar of 1970-01-01T00:05Z; nothing traded after it"


def test_account_is_closed_at_an_open_that_leaves_nothing(make_bars):
    """The short wants to stay, but at the open of 300 it is worth 1950 - 2850."""
    result = run(
        make_bars([100, 100, 300, 50], [100, 100, 40, 50]), [-1, -1, -1, -1], config=BacktestConfig(initial_capital=1e3)
    )
    assert result.ruined_at == 2
    assert result.shortfall == pytest.approx(900.0, **EXACT)
    assert result.equity.tolist() == [1000, 1000, 1000, 0, 0]
    assert [EXITS[code] for code in result.trades.exit] == ["ruin"]
    assert result.trades.bars.tolist() == [1]


def test_buy_and_hold_buys_once_and_holds_through_gaps(make_bars):
    bars = make_bars([100, 100, 120, 130], [100, 120, 130, 150], gap_before=[2])
    config = BacktestConfig(initial_capital=1_000.0)
    result = buy_and_hold(bars, FREE, config)
    assert result.equity[-1] == pytest.approx(1_000 * (1 + 0.95 * 0.5), **EXACT)
    assert len(result.trades) == 1


def test_flat_keeps_its_capital(make_bars):
    result = flat(make_bars([100, 120, 80]), Costs(), BacktestConfig())
    assert result.equity.tolist() == [100_000.0] * 4
    assert len(result.trades) == 0
    assert result.flags == ()


def test_report_is_told_which_costs_are_left_out(make_bars):
    assert Costs(slippage=0.0, funding=False).free_costs() == ("slippage", "funding")
    assert Costs().free_costs() == ()
    assert "left out of the costs: commission, slippage" in flat(make_bars([1, 2]), FREE, ONE_COIN).flags


def test_costs_are_scaled_without_the_funding():
    costs = Costs(commission=0.001, slippage=0.0002, funding=True)
    assert costs.per_side == pytest.approx(0.0012, rel=1e-12)
    assert costs.round_trip == pytest.approx(0.0024, rel=1e-12)
    doubled = costs.scaled(2.0)
    assert (doubled.commission, doubled.slippage, doubled.funding) == (0.002, 0.0004, True)


def test_funding_stamp_belongs_to_the_first_bar_that_opens_at_or_after_it():
    start_ms = STEP_MS * np.array([0, 1, 2, 4])  # a bar is missing at 3
    stamps = STEP_MS * np.array([-1, 0, 1, 2.5, 4, 4.5])  # the first was due before the account began
    rates = funding_by_bar(stamps.astype(np.int64), np.array([9.0, 0.1, 0.2, 0.3, 0.4, 0.5]), start_ms, STEP_MS)
    assert rates == pytest.approx([0.1, 0.2, 0.0, 0.7], **EXACT)
    assert funding_by_bar(np.empty(0, np.int64), np.empty(0), start_ms, STEP_MS).tolist() == [0, 0, 0, 0]


@pytest.mark.promise(11)
@pytest.mark.parametrize("late_ms", [0, 3, 997, 59_999])
def test_long_that_is_closed_at_a_funding_stamp_pays_it_when_the_stamp_comes_late(late_ms):
    prices = {name: np.full(4, 100.0) for name in ("open", "high", "low", "close", "volume", "turnover")}
    candles = Candles(start_ms=STEP_MS * np.arange(4), **prices)
    stamps = STEP_MS * np.array([-1, 2]) + late_ms  # before the account, and at the open that closes the long
    bars = Bars.of(candles, STEP_MS, (stamps, np.array([9.0, 0.01])))
    result = run(bars, [1, 0, 0, 0])
    assert result.funding == pytest.approx([0, 0, 1, 0], **EXACT)  # one coin of 100 USDT at 1 %


def test_bars_of_candles_carry_their_funding():
    prices = {name: np.array([1.0, 2.0]) for name in ("open", "high", "low", "close", "volume", "turnover")}
    candles = Candles(start_ms=np.array([0, 60_000]), **prices)
    bars = Bars.of(candles, 60_000, (np.array([60_000]), np.array([0.01])))
    assert bars.funding_rate.tolist() == [0.0, 0.01]
    assert bars.contiguous.tolist() == [False, True]
    assert Bars.of(candles, 60_000).funding_rate is None


# --- properties -------------------------------------------------------------------------------------------------------

markets = st.integers(0, 2**32 - 1)
costs_drawn = st.builds(Costs, commission=st.floats(0, 0.02), slippage=st.floats(0, 0.02), funding=st.booleans())
configs_drawn = st.builds(
    BacktestConfig,
    initial_capital=st.just(1_000.0),
    position_fraction=st.floats(0.01, 1.0),
    fixed_coins=st.none() | st.floats(0.1, 3.0),
    delay=st.integers(0, 2),
)


def drawn_market(make_bars, seed, bars=60):
    """A violent market of 60 bars with gaps and funding, and targets that change often."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.15, bars)))
    open_ = np.concatenate([[100.0], close[:-1]]) * np.exp(rng.normal(0, 0.05, bars))
    rate = np.where(rng.random(bars) < 0.2, rng.normal(0, 0.01, bars), 0.0)
    gaps = np.flatnonzero(rng.random(bars) < 0.08)
    targets = np.repeat(rng.integers(-1, 2, bars), rng.integers(1, 5, bars))[:bars]
    return make_bars(open_, close, gap_before=gaps[gaps > 0], funding_rate=rate), targets


@pytest.mark.promise(11)
@given(seed=markets, costs=costs_drawn, config=configs_drawn)
@settings(deadline=None, max_examples=150)
def test_money_is_conserved_in_every_bar(make_bars, seed, costs, config):
    """Equity is the capital, less what every fill took out of cash, less funding, plus the position's value.

    Cash is rebuilt here from the quantities alone, by cumulative sums instead of a recursion.
    """
    bars, target = drawn_market(make_bars, seed)
    result = run(bars, target, costs, config)
    last = len(bars) - 1 if result.ruined_at is None else result.ruined_at
    quantity = result.quantity[: last + 1]
    change = np.diff(quantity, prepend=0.0)
    open_, close = bars.open[: last + 1], bars.close[: last + 1]
    price = open_ * (1 + np.sign(change) * costs.slippage)
    rate = bars.funding_rate[: last + 1] if costs.funding else np.zeros(last + 1)
    before = np.concatenate([[0.0], quantity[:-1]])
    flows = -change * price - costs.commission * np.abs(change) * price - before * open_ * rate
    marked = config.initial_capital + np.cumsum(flows) + quantity * close
    exit_cost = (
        abs(quantity[-1])
        * close[-1]
        * (costs.slippage + costs.commission * (1 - np.sign(quantity[-1]) * costs.slippage))
    )
    marked[-1] -= exit_cost  # the last position is closed at the last close
    scale = config.initial_capital + np.abs(quantity * close).max()
    np.testing.assert_allclose(result.equity[1 : last + 1], marked[:-1], rtol=0, atol=1e-11 * scale)
    assert result.equity[last + 1] - result.shortfall == pytest.approx(marked[-1], abs=1e-11 * scale)


@pytest.mark.promise(11)
@given(seed=markets, costs=costs_drawn, config=configs_drawn)
@settings(deadline=None, max_examples=150)
def test_trades_add_up_to_what_the_account_gained(make_bars, seed, costs, config):
    """The ledger is derived from quantities, the account from its own recursion: every total must agree."""
    bars, target = drawn_market(make_bars, seed)
    result = run(bars, target, costs, config)
    trades, scale = result.trades, 1e-9 * (result.traded.sum() + 1_000.0)
    assert trades.net.sum() == pytest.approx(result.equity[-1] - result.equity[0] - result.shortfall, abs=scale)
    assert trades.gross.sum() == pytest.approx(result.gross_profit, abs=scale)
    assert trades.fees.sum() == pytest.approx(result.fees_paid, abs=scale)
    assert trades.slippage.sum() == pytest.approx(result.slippage_paid, abs=scale)
    assert trades.funding.sum() == pytest.approx(result.funding_paid, abs=scale)
    assert (trades.entry_bar[1:] >= trades.exit_bar[:-1]).all()


@pytest.mark.promise(11)
@given(seed=markets, costs=costs_drawn, config=configs_drawn, tick=st.sampled_from([0.01, 0.5, 3.0]))
@settings(deadline=None, max_examples=50)
def test_trades_add_up_where_prices_are_on_a_tick(make_bars, seed, costs, config, tick):
    bars, target = drawn_market(make_bars, seed)
    result = run(bars, target, costs, config, steps=Steps(tick=tick))
    trades, scale = result.trades, 1e-9 * (result.traded.sum() + 1_000.0)
    assert trades.net.sum() == pytest.approx(result.equity[-1] - result.equity[0] - result.shortfall, abs=scale)
    assert trades.slippage.sum() == pytest.approx(result.slippage_paid, abs=scale)
    assert trades.fees.sum() == pytest.approx(result.fees_paid, abs=scale)


@pytest.mark.promise(11)
@given(target=st.lists(st.sampled_from([-1, 0, 1]), min_size=2, max_size=80), costs=costs_drawn)
@settings(deadline=None, max_examples=100)
def test_flat_price_loses_exactly_the_costs(make_bars, target, costs):
    """At a price of 100 each coin traded costs slippage, and commission on the filled price; a flip trades two."""
    capital = BacktestConfig(initial_capital=10_000.0, fixed_coins=1.0)
    result = run(make_bars(np.full(len(target), 100.0)), target, costs, capital)
    held = np.concatenate([[0], target[:-1], [0]])
    bought, sold = np.maximum(np.diff(held), 0).sum(), np.maximum(-np.diff(held), 0).sum()
    fees = costs.commission * 100 * (bought * (1 + costs.slippage) + sold * (1 - costs.slippage))
    slippage = costs.slippage * 100 * (bought + sold)
    assert result.fees_paid == pytest.approx(fees, rel=1e-9, abs=1e-12)
    assert result.slippage_paid == pytest.approx(slippage, rel=1e-9, abs=1e-12)
    assert result.equity[-1] == pytest.approx(10_000 - fees - slippage, rel=1e-12)
    assert result.gross_profit == pytest.approx(0.0, abs=1e-8)


@pytest.mark.promise(11)
@given(seed=markets)
@settings(deadline=None, max_examples=100)
def test_short_earns_exactly_what_the_long_loses_before_costs(make_bars, seed):
    """Funding included: what one side pays the other receives."""
    bars, target = drawn_market(make_bars, seed)
    rich = BacktestConfig(initial_capital=1e9, fixed_coins=1.0)  # never ruined
    there, back = run(bars, target, FREE, rich), run(bars, -target, FREE, rich)
    np.testing.assert_allclose(there.equity - 1e9, 1e9 - back.equity, rtol=0, atol=1e-5)  # 1e-14 of the capital
    np.testing.assert_array_equal(there.trades.gross, -back.trades.gross)
    np.testing.assert_allclose(there.trades.funding, -back.trades.funding, rtol=0, atol=1e-9)


@pytest.mark.promise(11)
@given(quantity=st.floats(-5, 5), wanted=st.floats(-5, 5), price=st.floats(1e-3, 1e5), costs=costs_drawn)
@settings(deadline=None, max_examples=200)
def test_flip_costs_what_closing_and_opening_at_one_price_cost(quantity, wanted, price, costs):
    rates = (price, costs.commission, costs.slippage)
    one = fill(1_000.0, quantity, -np.copysign(wanted, quantity), *rates)
    cash, *closing = fill(1_000.0, quantity, 0.0, *rates)
    cash, *opening = fill(cash, 0.0, -np.copysign(wanted, quantity), *rates)
    assert one[0] == pytest.approx(cash, rel=1e-12, abs=1e-8)
    assert one[1:] == pytest.approx(tuple(a + b for a, b in zip(closing, opening, strict=True)), rel=1e-12, abs=1e-300)


@pytest.mark.promise(10)
@given(seed=markets, cut=st.integers(5, 55))
@settings(deadline=None, max_examples=60)
def test_account_is_unchanged_when_the_future_is_another(make_bars, seed, cut):
    bars, target = drawn_market(make_bars, seed)
    price, other = bars.close.copy(), target.copy()
    price[cut:] *= 3.0
    other[cut:] = 0
    opens = bars.open.copy()
    opens[cut:] *= 3.0
    changed = Bars(
        start_ms=bars.start_ms, open=opens, close=price, interval_ms=bars.interval_ms, funding_rate=bars.funding_rate
    )
    config = BacktestConfig(initial_capital=1_000.0)
    np.testing.assert_array_equal(
        run(bars, target, Costs(), config).equity[: cut + 1], run(changed, other, Costs(), config).equity[: cut + 1]
    )


@pytest.mark.promise(10)
@pytest.mark.parametrize("rule", ["value", "argmax"])
def test_paper_account_equals_the_backtest_when_it_trades_bar_by_bar(make_bars, rule):
    """A live loop knows one bar at a time and reads its position off its own account; gaps and funding included."""
    rng = np.random.default_rng(11)
    bars, _ = drawn_market(make_bars, seed=5, bars=400)
    probabilities = rng.dirichlet([1.0, 1.0, 1.0], 400)
    probabilities[rng.random(400) < 0.05] = np.nan
    vol, costs = np.full(400, 0.004), Costs()
    params = packed(DecisionConfig(rule=rule, min_hold=3), costs, np.array([-1.0, 0.0, 1.0]), horizon=4)
    config = BacktestConfig(initial_capital=1_000.0, position_fraction=0.2)
    result = run(bars, decide_series(probabilities, vol, bars.contiguous, params), costs, config)
    assert result.ruined_at is None
    assert len(result.trades) > 30

    rules = account_rules(0.2, None, costs)
    cash, coins, position, bars_held, wanted, equity = 1_000.0, 0.0, 0, 0, 0, [1_000.0]
    for t in range(400):
        if t == 0 or bars.start_ms[t] - bars.start_ms[t - 1] != bars.interval_ms:
            wanted = 0
        cash, coins, *_ = trade_open(cash, coins, position, wanted, bars.open[t], bars.funding_rate[t], rules)
        bars_held = bars_held + 1 if np.sign(coins) == position else 1
        position = int(np.sign(coins))
        equity.append(cash + coins * bars.close[t])
        wanted = decide(*probabilities[t], vol[t], math.nan, position, bars_held, params)
    exit_cost = equity[-1] - fill(cash, coins, 0.0, bars.close[-1], costs.commission, costs.slippage)[0]
    equity[-1] -= exit_cost
    np.testing.assert_allclose(result.equity, equity, rtol=1e-12)


def test_result_is_unchanged_when_columns_are_read_only(make_bars, random_market):
    bars, target = random_market(500, seed=1)
    expected = run(bars, target, Costs(), BacktestConfig()).equity
    for column in (bars.open, bars.close, target):
        column.flags.writeable = False
    assert np.array_equal(run(bars, target.astype(float), Costs(), BacktestConfig()).equity, expected)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.promise(12)
@pytest.mark.parametrize("first_minute", [0, 60, 125])
def test_backtest_is_refused_when_training_saw_its_first_bar(make_bars, first_minute):
    """Samples until 01:00, labels of 12 + 1 five-minute bars: training saw the bar of 02:05."""
    bars = make_bars([100, 101], first_ms=first_minute * MINUTE_MS)
    expected = (
        r"a backtest must start after 1970-01-01T02:05Z, the last bar that training saw \(samples until "
        rf"1970-01-01T01:00Z, labels 65 minutes ahead\), was 1970-01-01T0{first_minute // 60}:.*; use later bars"
    )
    with pytest.raises(LeakError, match=expected):
        run_backtest(
            bars,
            np.array([1, 1]),
            FREE,
            ONE_COIN,
            trained_until_ms=60 * MINUTE_MS,
            label_span_ms=65 * MINUTE_MS,
        )


@pytest.mark.promise(12)
def test_backtest_runs_when_its_first_bar_is_the_one_after_what_training_saw(make_bars):
    bars = make_bars([100, 101], first_ms=130 * MINUTE_MS)
    spans = {"trained_until_ms": 60 * MINUTE_MS, "label_span_ms": 65 * MINUTE_MS}
    assert run_backtest(bars, np.array([1, 1]), FREE, ONE_COIN, **spans).equity[-1] == 1_000


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([1, 0], r"target must be \(3,\) as the bars, was \(2,\)"),
        ([1, 2, 0], "target must be -1, 0 or 1, was 2 in bar 1"),
        ([1, 0, 0.5], "target must be -1, 0 or 1, was 0.5 in bar 2"),
        ([np.nan, 0, 0], "target must be -1, 0 or 1, was nan in bar 0"),
    ],
)
def test_targets_are_refused_when_they_do_not_fit(make_bars, target, message):
    with pytest.raises(ValueError, match=message):
        run(make_bars([1, 2, 3]), target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"open": np.array([1.0, np.nan, 1.0])}, "open must be finite and > 0, was nan in bar 1"),
        ({"close": np.array([1.0, 1.0, 0.0])}, "close must be finite and > 0, was 0.0 in bar 2"),
        ({"close": np.array([np.inf, 1.0, 1.0])}, "close must be finite and > 0, was inf in bar 0"),
        ({"open": np.array([1.0])}, "bars must have columns of one length >= 1, were"),
        ({"start_ms": np.array([0, 5, 9])}, "start_ms must rise by interval_ms=5 or more, rose by 4 in bar 2"),
        ({"funding_rate": np.array([0.0, np.nan, 0.0])}, "funding_rate must be finite, was nan in bar 1"),
    ],
)
def test_bars_are_refused_when_a_column_is_wrong(change, message):
    columns = {"start_ms": np.array([0, 5, 10]), "open": np.ones(3), "close": np.ones(3), **change}
    with pytest.raises(ValueError, match=message):
        Bars(interval_ms=5, **columns)


def test_bars_are_refused_when_there_are_none():
    with pytest.raises(ValueError, match="bars must have columns of one length >= 1"):
        Bars(start_ms=np.empty(0, np.int64), open=np.empty(0), close=np.empty(0), interval_ms=5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Costs(commission=-0.001), r"commission must be in \[0, 0.1\) of the notional, was -0.001"),
        (lambda: Costs(slippage=1.0), r"slippage must be in \[0, 0.1\) of the notional, was 1.0"),
        (lambda: Costs(commission=np.nan), r"commission must be finite and in \[0, 0.1\) of the notional"),
        (lambda: BacktestConfig(initial_capital=0.0), "initial_capital must be > 0, was 0.0"),
        (lambda: BacktestConfig(position_fraction=1.5), r"position_fraction must be in \(0, 1\], was 1.5"),
        (lambda: BacktestConfig(fixed_coins=0.0), "fixed_coins must be > 0, or None, was 0.0"),
        (lambda: BacktestConfig(delay=-1), "delay must be >= 0, was -1"),
    ],
)
def test_configuration_is_refused_when_a_value_breaks_its_rule(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
