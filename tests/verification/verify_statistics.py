"""`make verify`: what judges a model, against libraries and closed forms that share no line with it."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, run_backtest
from tasks.execution.bars import Bars
from tasks.execution.metrics import DAYS_PER_YEAR, cagr, max_drawdown, sharpe_ratio, sortino_ratio
from tasks.execution.significance import (
    bootstrap_means,
    deflated_sharpe,
    diebold_mariano,
    expected_max_sharpe,
    probabilistic_sharpe,
    stationary_bootstrap_test,
)
from tasks.market.walk_forward import FoldConfig, walk_forward

EXACT = 1e-9


def exact(answer, what, against, compared, worst, unit="largest relative difference"):
    return answer(
        market=what,
        what=f"{compared}: {unit}",
        optimum=f"0, against {against}",
        reached=f"{worst:.1e}",
        bar=f"<= {EXACT:g}",
        met=bool(worst <= EXACT),
    )


def rate(answer, what, compared, hits, of, nominal, low, high):
    share = hits / of
    error = 1.96 * math.sqrt(max(share * (1 - share), nominal * (1 - nominal)) / of)
    return answer(
        market=what,
        what=compared,
        optimum=f"{nominal:.1%}",
        reached=f"{share:.1%} of {of}",
        interval=f"{max(share - error, 0):.1%} .. {share + error:.1%}",
        bar=f"{low * 100:g} .. {high * 100:g} %",
        met=low <= share <= high,
    )


def relative(found, known):
    found, known = np.asarray(found, float), np.asarray(known, float)
    return float(np.max(np.abs(found - known) / np.maximum(np.abs(known), 1e-300)))


def test_deflated_sharpe_is_the_papers_formula_and_is_not_fooled_by_the_best_of_fifty(ledger, answer):
    rng, of, trials = np.random.default_rng(21), 200, 50
    worst, alone, deflated = 0.0, 0, 0
    for _ in range(of):
        returns = rng.standard_t(5, (500, trials)) * 0.01
        ratios = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
        best = returns[:, ratios.argmax()]
        ratio, spread = ratios.max(), ratios.std(ddof=1)
        # Bailey, Lopez de Prado 2014, written out with SciPy.
        luck = spread * (
            (1 - np.euler_gamma) * stats.norm.ppf(1 - 1 / trials)
            + np.euler_gamma * stats.norm.ppf(1 - 1 / (trials * math.e))
        )
        shape = 1 - stats.skew(best) * ratio + (stats.kurtosis(best, fisher=False) - 1) / 4 * ratio**2
        known = stats.norm.cdf((ratio - luck) * math.sqrt((len(best) - 1) / shape))
        found = deflated_sharpe(best, trials, float(spread**2))
        worst = max(worst, relative(found, known))
        alone += probabilistic_sharpe(best) > 0.95
        deflated += found > 0.95
    largest = rng.standard_normal((20_000, trials)).max(axis=1)
    mean, error = largest.mean(), largest.std() / math.sqrt(len(largest))
    formula = expected_max_sharpe(trials, 1.0)
    ledger.enter(
        exact(answer, "deflated Sharpe ratio", "the papers' formula in SciPy", f"{of} series of 500", worst),
        rate(answer, "deflated Sharpe ratio", "best of 50 worthless ones above 0.95", deflated, of, 0.0, 0.0, 0.05),
        rate(answer, "undeflated Sharpe ratio", "the same, not deflated: why it is", alone, of, 0.938, 0.8, 1.0),
        answer(
            market="expected best of 50",
            what="formula against the mean of 20,000 simulated maxima",
            optimum=f"{mean:.3f}",
            reached=f"{formula:.3f}",
            interval=f"{mean - 1.96 * error:.3f} .. {mean + 1.96 * error:.3f} of the simulation",
            bar="within 2 %",  # an asymptotic formula: the notes have 2.276 against 2.248
            met=abs(formula / mean - 1) < 0.02,
        ),
    )


def test_bootstrap_keeps_its_size_and_has_the_spread_of_another_library(ledger, answer):
    rng, of = np.random.default_rng(22), 400
    noise = rng.standard_normal((of, 600))
    for bar in range(1, noise.shape[1]):
        noise[:, bar] += 0.3 * noise[:, bar - 1]
    long, short = (
        sum(stationary_bootstrap_test(one, block, draws=400, seed=i) <= 0.05 for i, one in enumerate(noise))
        for block in (20.0, 1.0)
    )
    arch = pytest.importorskip("arch.bootstrap", reason="arch, the oracle of the bootstrap, is missing")
    series, draws = noise[0], 4_000
    theirs = np.concatenate(
        [np.atleast_1d(data[0][0].mean()) for data in arch.StationaryBootstrap(20, series, seed=1).bootstrap(draws)]
    )
    ours = bootstrap_means(series[:, None], 20.0, draws=draws, seed=1)[:, 0]
    ratio, error = ours.std() / theirs.std(), 1.96 / math.sqrt(draws)  # of a ratio of two deviations of `draws` each
    ledger.enter(
        rate(answer, "bootstrap, AR 0.3", "p <= 5 % without a lead, blocks of 20", long, of, 0.05, 0.02, 0.085),
        rate(answer, "bootstrap, AR 0.3", "the same, blocks of 1: too many", short, of, 0.11, 0.075, 0.2),
        answer(
            market="bootstrap",
            what="spread of 4,000 resampled means over that of arch's StationaryBootstrap",
            optimum="1",
            reached=f"{ratio:.3f}",
            interval=f"{ratio - error:.3f} .. {ratio + error:.3f}",
            bar="0.93 .. 1.07",
            met=0.93 <= ratio <= 1.07,
        ),
    )


def test_diebold_mariano_keeps_its_size_when_labels_overlap(ledger, answer):
    rng, of = np.random.default_rng(23), 600
    hits = 0
    for _ in range(of):
        overlapping = np.convolve(rng.standard_normal(4_011), np.ones(12), mode="valid")
        test = diebold_mariano(model_loss=np.zeros(4_000), reference_loss=overlapping, lag=12)
        hits += test.p_value < 0.05
    ledger.enter(
        rate(answer, "Diebold-Mariano, overlap 12", "p < 5 % where nothing leads", hits, of, 0.05, 0.023, 0.077)
    )


def test_splits_are_those_of_another_library(ledger, answer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, at import
        selection = pytest.importorskip("skfolio.model_selection", reason="skfolio, the oracle of purging, is missing")
    bars, walked = 960, 0
    start_ms = 60_000 * 96 * 100_000 + 60_000 * np.arange(bars)  # tests of 96 minutes, as the calendar has them
    for scheme in ("anchored", "rolling"):
        folds = walk_forward(
            start_ms, 60_000, 0, 8, FoldConfig(folds=4, test_share=0.4, validation_share=0.1, scheme=scheme)
        )
        theirs = selection.WalkForward(
            test_size=96, train_size=len(folds[0].train), purged_size=9, expand_train=scheme == "anchored"
        )
        offset = folds[0].train.start
        for fold, (train, test) in zip(
            folds, theirs.split(np.zeros((folds[-1].validation.stop - offset, 1))), strict=True
        ):
            same = (fold.train.start, fold.train.stop, fold.validation.start, fold.validation.stop)
            walked += same == (train[0] + offset, train[-1] + 1 + offset, test[0] + offset, test[-1] + 1 + offset)
    ledger.enter(
        answer(
            market="walk-forward", what="train and validation equal to skfolio's, anchored and rolling", optimum="8",
            reached=f"{walked}", bar="8", met=walked == 8,
        ),
    )  # fmt: skip


def test_metrics_are_those_of_another_library(ledger, answer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empyrical = pytest.importorskip("empyrical", reason="empyrical, the oracle of the metrics, is missing")
    rng = np.random.default_rng(24)
    worst = dict.fromkeys(("Sharpe ratio", "Sortino ratio", "maximum drawdown", "growth a year"), 0.0)
    for _ in range(20):
        returns = rng.standard_t(4, 400) * 0.01 + 0.0005
        equity = np.concatenate([[1.0], np.cumprod(1 + returns)])
        both = {
            "Sharpe ratio": (sharpe_ratio(returns, 365), empyrical.sharpe_ratio(returns, annualization=365)),
            "Sortino ratio": (sortino_ratio(returns, 365), empyrical.sortino_ratio(returns, annualization=365)),
            "maximum drawdown": (max_drawdown(equity), -empyrical.max_drawdown(returns)),
            "growth a year": (cagr(equity, 365), empyrical.annual_return(returns, annualization=365)),
        }
        for name, (ours, theirs) in both.items():
            worst[name] = max(worst[name], relative(ours, theirs))
    assert DAYS_PER_YEAR == 365
    ledger.enter(*(exact(answer, name, "empyrical", "20 series of 400 days", one) for name, one in worst.items()))


def market(switch, bars=5_000):
    """Bars whose opens are no closes, and targets that end flat."""
    rng = np.random.default_rng(25)
    close = 30_000 * np.exp(np.cumsum(rng.normal(0, 1e-3, bars)))
    open_ = np.concatenate([[30_000.0], close[:-1]]) * np.exp(rng.normal(0, 2e-4, bars))
    target = np.zeros(bars, np.int64)
    changes = rng.random(bars) < switch
    target[changes] = rng.integers(-1, 2, changes.sum())
    target = target[np.maximum.accumulate(np.where(changes, np.arange(bars), 0))]
    target[0], target[-3:] = 0, 0
    return Bars(start_ms=np.arange(bars) * 300_000, open=open_, close=close, interval_ms=300_000), target


def test_backtest_is_that_of_two_other_libraries(ledger, answer):
    vectorbt = pytest.importorskip("vectorbt", reason="vectorbt, an oracle of the backtest, is missing")
    found = []
    for name, fraction, switch in (("one coin, iid", None, 1.0), ("0.95 of equity, sticky", 0.95, 0.01)):
        bars, target = market(switch)
        capital = 1e8 if fraction is None else 1e5
        config = BacktestConfig(
            initial_capital=capital, position_fraction=fraction or 0.95, fixed_coins=None if fraction else 1.0
        )
        costs = Costs(commission=0.001, slippage=0.0002)
        ours = run_backtest(bars, target, costs, config, trained_until_ms=None, label_span_ms=0)
        wanted = np.concatenate([[0], target[:-1]])
        theirs = vectorbt.Portfolio.from_orders(
            close=bars.close,
            size=np.where(np.diff(wanted, prepend=0) != 0, wanted * (fraction or 1.0), np.nan),
            size_type="targetpercent" if fraction else "targetamount",
            price=bars.open,
            fees=0.001,
            slippage=0.0002,
            init_cash=capital,
            freq="5min",
        )
        worst = relative(ours.equity[1:], np.asarray(theirs.value()))
        found.append(exact(answer, "backtest", "vectorbt", f"equity in 5,000 bars, {name}", worst))
    ledger.enter(*found, _backtesting(answer))


def _backtesting(answer):
    import pandas as pd

    library = pytest.importorskip("backtesting", reason="backtesting.py, an oracle of the backtest, is missing")
    bars, target = market(0.05)

    class Follow(library.Strategy):
        def init(self):
            pass

        def next(self):
            change = int(target[len(self.data) - 1]) - int(self.position.size)
            if change:
                (self.buy if change > 0 else self.sell)(size=abs(change))

    high, low = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    frame = pd.DataFrame(
        {"Open": bars.open, "High": high, "Low": low, "Close": bars.close},
        index=pd.to_datetime(bars.start_ms, unit="ms"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its annualisation, under pandas 3.1
        theirs = library.Backtest(frame, Follow, cash=1e8, commission=0.001, trade_on_close=False).run()
    config = BacktestConfig(initial_capital=1e8, fixed_coins=1.0)
    costs = Costs(commission=0.001, slippage=0.0)
    ours = run_backtest(bars, target, costs, config, trained_until_ms=None, label_span_ms=0)
    worst = relative(ours.equity[1:], theirs["_equity_curve"]["Equity"])
    return exact(answer, "backtest", "backtesting.py", "equity in 5,000 bars, one coin", worst)
