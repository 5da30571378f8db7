"""End to end against a closed form, no library needed: the profit of following a visible drift.

r_t = sigma * (k * s_{t-1} + sqrt(1 - k^2) * eps_t), with s an AR(1) of unit variance and coefficient psi, seen by the
trader. Held with the sign of s, a bar earns sigma * k * sqrt(2 / pi), the sign changes in arccos(psi) / pi of the bars,
and each change pays both legs:

    net per bar = sigma * k * sqrt(2 / pi) - 2 * cost per side * arccos(psi) / pi
"""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from tasks.execution import accounting, backtest
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, run_backtest
from tasks.execution.bars import Bars
from tasks.execution.decision import DecisionConfig, decide_series, packed

SIGMA, PSI, COMMISSION = 8e-4, 0.995, 0.001
BARS, BLOCK = 2_000_000, 5_000  # s forgets in about 200 bars, so blocks of 5,000 are independent
FRACTION = 1e-5  # of equity: so little that the positions keep one size, as the closed form has it
FEES_PER_BAR = 2 * COMMISSION * math.acos(PSI) / math.pi


def closed_form(k):
    return SIGMA * k * math.sqrt(2 / math.pi) - FEES_PER_BAR


@njit
def autoregress(noise, psi):
    state = np.empty(len(noise))
    state[0] = noise[0]
    for t in range(1, len(noise)):
        state[t] = psi * state[t - 1] + math.sqrt(1 - psi * psi) * noise[t]
    return state


def drift_market(k, seed=7):
    """(bars, target): open = previous close, and the sign of s seen at each close, through the one `decide`."""
    rng = np.random.default_rng(seed)
    drift = autoregress(rng.standard_normal(BARS), PSI)
    noise = math.sqrt(1 - k * k) * rng.standard_normal(BARS)
    close = 100 * np.exp(SIGMA * np.cumsum(k * np.concatenate([[0.0], drift[:-1]]) + noise))
    open_ = np.concatenate([[100.0], close[:-1]])
    bars = Bars(start_ms=np.arange(BARS) * 300_000, open=open_, close=close, interval_ms=300_000)
    probabilities = np.stack([drift < 0, drift == 0, drift > 0], axis=1).astype(float)
    params = packed(DecisionConfig(rule="argmax"), Costs(), np.zeros(3), horizon=1)
    return bars, decide_series(probabilities, np.full(BARS, SIGMA), bars.contiguous, params)


def net_per_bar(bars, target):
    """(mean, standard error) of each bar's profit over the position's size, by means of independent blocks."""
    costs = Costs(commission=COMMISSION, slippage=0.0)
    config = BacktestConfig(position_fraction=FRACTION)
    result = run_backtest(bars, target, costs, config, trained_until_ms=None, label_span_ms=0)
    profit = np.diff(result.equity) / (FRACTION * result.equity[:-1])
    blocks = profit.reshape(-1, BLOCK).mean(axis=1)
    return blocks.mean(), blocks.std(ddof=1) / math.sqrt(len(blocks))


@pytest.fixture(scope="module")
def break_even_market():
    return drift_market(k=0.1)


@pytest.mark.promise(11)
def test_profit_equals_the_closed_form_when_the_drift_is_followed():
    bars, target = drift_market(k=0.2)
    mean, error = net_per_bar(bars, target)
    assert closed_form(0.2) == pytest.approx(0.640e-4, abs=5e-8)  # 0.640 bp: the notes' table
    assert abs(mean - closed_form(0.2)) < 3 * error
    assert error < 0.03e-4  # a lost leg is 0.32 bp, ten times that


@pytest.mark.promise(11)
def test_profit_is_nothing_when_costs_eat_the_drift(break_even_market):
    """At k = 0.1 the market breaks even to a thousandth of a basis point: the sharpest test of the commission."""
    mean, error = net_per_bar(*break_even_market)
    assert closed_form(0.1) == pytest.approx(0.001e-4, abs=1e-7)
    assert abs(mean - closed_form(0.1)) < 3 * error


COMMISSION_LINE = "fee = commission * abs(change) * fill_price"


# Each mutant leaves out one leg of a flip, or its fee where the source text left it out.
@pytest.mark.promise(11)
@pytest.mark.parametrize(
    ("mutant", "missing_per_bar"),
    [
        ("fee = commission * abs(wanted) * fill_price", FEES_PER_BAR / 2),  # the closing leg
        ("fee = commission * abs(quantity) * fill_price", FEES_PER_BAR / 2),  # the opening leg
        ("fee = 0.0 * fill_price", FEES_PER_BAR),
    ],
    ids=["closing leg", "opening leg", "both legs"],
)
def test_profit_leaves_the_closed_form_when_a_commission_leg_is_left_out(
    break_even_market, mutant, missing_per_bar, monkeypatch, tmp_path
):
    source = Path(accounting.__file__).read_text()
    assert source.count(COMMISSION_LINE) == 1
    path = tmp_path / "mutated_accounting.py"
    path.write_text(source.replace(COMMISSION_LINE, mutant))
    spec = importlib.util.spec_from_file_location("mutated_accounting", path)
    mutated = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutated_accounting", mutated)
    spec.loader.exec_module(mutated)
    monkeypatch.setattr(backtest, "run_account", mutated.run_account)

    mean, error = net_per_bar(*break_even_market)
    assert mean - closed_form(0.1) > 3 * error
    assert mean - closed_form(0.1) == pytest.approx(missing_per_bar, abs=3 * error)
