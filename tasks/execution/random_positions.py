"""Random baseline: positions with the model's exposure and turnover, at random times."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.schema import FloatArray
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig, Positions, run_backtest
from tasks.execution.bars import Bars
from tasks.execution.metrics import DAYS_PER_YEAR, daily_returns, sharpe_ratio, total_return

DRAWS = 1_000


@dataclass(frozen=True, kw_only=True)
class RandomPositions:
    """The model's return compared with those of random timings of its positions.

    Attributes:
        percentile: Share of them that earned less than the model; a tie counts half.
        total_return: Their median net return.
        low, high: 2.5 % and 97.5 % quantiles of their returns.
        sharpe_ratio: Median of their ratios from UTC days; None if half or more of them have none.
    """

    draws: int
    percentile: float
    total_return: float
    low: float
    high: float
    sharpe_ratio: float | None


def shuffled_positions(target: NDArray[np.signedinteger], rng: np.random.Generator) -> NDArray[np.int8]:
    """Return positions of equal exposure and turnover at random times.

    The sequence of states (long, flat, short ...) stays, so the number of trades stays; the durations are permuted
    among runs of the same state, and the series is rotated by a random number of bars, which may join or split one run.
    """
    starts = np.flatnonzero(np.concatenate([[True], target[1:] != target[:-1]]))
    lengths, states = np.diff(np.append(starts, len(target))), target[starts]
    for state in (-1, 0, 1):
        places = np.flatnonzero(states == state)
        lengths[places] = lengths[rng.permutation(places)]
    return np.roll(np.repeat(states, lengths), rng.integers(len(target))).astype(np.int8)


def random_positions(
    bars: Bars,
    decided: Positions,
    costs: Costs,
    config: BacktestConfig,
    *,
    trained_until_ms: int | None,
    label_span_ms: int,
    draws: int = DRAWS,
    seed: int = 7,
) -> RandomPositions:
    """Backtest `draws` random timings of the decided positions and compare the model with them.

    Each position has the size that the model would have given it at that bar. Arguments as in `run_backtest`.
    """
    rng, seen = np.random.default_rng(seed), {"trained_until_ms": trained_until_ms, "label_span_ms": label_span_ms}

    def equity(positions: NDArray[np.signedinteger]) -> FloatArray:
        return run_backtest(bars, positions, costs, config, share=decided.share, **seen).equity  # type: ignore[arg-type]  # a dict of both

    own = total_return(equity(decided.target))
    earned, ratios = np.empty(draws), []
    for draw in range(draws):
        one = equity(shuffled_positions(decided.target, rng))
        earned[draw] = total_return(one)
        ratio = sharpe_ratio(daily_returns(one, bars.start_ms), DAYS_PER_YEAR)
        if ratio is not None:
            ratios.append(ratio)
    low, median, high = np.quantile(earned, (0.025, 0.5, 0.975))
    return RandomPositions(
        draws=draws,
        percentile=float(np.mean(earned < own) + np.mean(earned == own) / 2),
        total_return=float(median),
        low=float(low),
        high=float(high),
        sharpe_ratio=float(np.median(ratios)) if 2 * len(ratios) > draws else None,
    )
