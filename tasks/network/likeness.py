"""Which markets of a pool may teach the others: what the others know holds there, and what it knows harms nobody.

No candle check tells prices of noise from a market's. As the fourth of four hourly markets a random walk cost the other
three 5 mnat, prices that lie around a level 1.3, and prints a tenth away that return at once 1.2: as much as pooling
gains. So each is asked three times, of training hours alone: how much of a move the next bar takes back; and twice by
logistic regressions of the newest bar on labels that do not overlap. Who fails teaches nobody, and is forecast by the
others' network all the same.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from storage.schema import FEATURES, BoolArray, FloatArray, IntArray
from tasks.network.baselines import TabularSamples, logistic
from tasks.network.series import UNKNOWN, Series, finite_bars

FEWEST = 3
"""Markets that a majority needs: of two, nobody can say which is the odd one."""

# Of the variance of returns, which the next bar takes back beyond what it does in the others: twice the autocovariance,
# negative, as of a price beside a martingale (Roll 1984, 10.1111/j.1540-6261.1984.tb03897.x). Markets .035 at most over
# all their bars, .12 over 8,000 of them, whatever the interval; prints a tenth away on every hundredth hour .53.
_RETURNING = 0.2
# Nats, chosen on candles before 2024-01-23 (1 hour) and 2026-02-12 (5 minutes), on nine dates of four markets each.
_STRANGE = 0.008  # by which the others' knowledge may be worse than their class shares: markets 0.003, a walk 0.014
_HARM = 0.005  # by which the others may be worse forecast with a market than without it: markets 0.0025, noise 0.007
_RETURN = FEATURES.index("return_1")
_ERRORS = 3.0  # standard errors that it must be, too: of a month of bars both are chance
_PENALTY, _STRONG = 100.0, 10_000.0  # of the squared weights; strong where a few young markets speak for an old one
_MOST_ROWS = 50_000  # of all markets: of hundreds no single one does harm
_MOST_WEIGHT = 4.0  # as in training
_LEAST_PROBABILITY = 1e-12  # a logarithm is taken of it


def alike(markets: Sequence[Series], scaling: tuple[FloatArray, FloatArray], input_clip: float | None) -> BoolArray:
    """Return (M,) whether each market may teach the others; all where they are too few, or most are odd.

    The worst is left out first and the others asked again: what it taught, it had taught them all.

    Args:
        markets: Training bars of each, with their clock.
        scaling: (F,) mean and scale of their features.
        input_clip: Bound of the scaled features; None for none.
    """
    left = [*range(len(markets))]
    while len(left) >= FEWEST:
        table = _Table([markets[one] for one in left], scaling, math.inf if input_clip is None else input_clip)
        worst = table.worst()
        if worst is None:
            break
        del left[worst]
    if 2 * len(left) <= len(markets):
        left = [*range(len(markets))]
    return np.isin(np.arange(len(markets)), left)


class _Table:
    """Labels of all markets that do not overlap, a row each."""

    def __init__(self, markets: Sequence[Series], scaling: tuple[FloatArray, FloatArray], bound: float) -> None:
        self._returned = [_returned(one) for one in markets]
        known = [np.flatnonzero((one.labels != UNKNOWN) & finite_bars(one.features)) for one in markets]
        stride = max(markets[0].label_span - 1, math.ceil(sum(map(len, known)) / _MOST_ROWS), 1)
        rows = [bars[::stride] for bars in known]
        pairs = list(zip(markets, rows, strict=True))
        mean, scale = scaling
        self._x = np.clip((np.concatenate([one.features[bars] for one, bars in pairs]) - mean) / scale, -bound, bound)
        self._y = np.concatenate([one.labels[bars] for one, bars in pairs])
        self._of = np.repeat(np.arange(len(markets)), [len(bars) for bars in rows])
        times = np.concatenate([one.times[bars] for one, bars in pairs])
        self._late: BoolArray = times > np.median(times)
        self._classes = int(self._y.max(initial=0)) + 1
        self._with_all = [self._fitted(self._late == half, _PENALTY) for half in (False, True)]
        self._of_all = self._fitted(np.ones(len(self._y), np.bool_), _STRONG)

    def worst(self) -> int | None:
        """Return whose moves return, or else who does most harm, or in whom the others' knowledge misleads most.

        None where nobody fails.
        """
        markets = range(len(self._returned))
        for excess in (self._returning, self._harm, self._strangeness):
            found = [excess(market) for market in markets]
            if max(found) > 0.0:
                return int(np.argmax(found))
        return None

    def _returning(self, market: int) -> float:
        """Return by how much more of a market's moves is taken back at once than of the others'; 0 within bounds."""
        usual = np.median([each.mean() for other, each in enumerate(self._returned) if other != market])
        return _excess(self._returned[market] - usual, _RETURNING)

    def _strangeness(self, market: int) -> float:
        """Return by how much what the others know is worse in a market than their class shares; 0 within bounds."""
        own, others = self._of == market, self._of != market
        model = self._fitted(others, _STRONG, self._of_all)
        if model is None:
            return 0.0
        x, y = self._x[own], self._y[own]
        shares = np.bincount(self._y[others], self._weights(others), minlength=self._classes)
        prior = np.tile(shares / shares.sum(), (len(y), 1))
        return _excess(_losses(model.predict_proba(x), y) - _losses(prior, y), _STRANGE)

    def _harm(self, market: int) -> float:
        """Return by how much the others are worse forecast for a market's labels; 0 within bounds.

        Each half of the time is forecast by what was learned in the other.
        """
        harm = []
        for half, everybody in zip((False, True), self._with_all, strict=True):
            without = self._fitted((self._late == half) & (self._of != market), _PENALTY, everybody)
            if everybody is None or without is None:
                return 0.0
            rows = (self._of != market) & (self._late != half)
            x, y = self._x[rows], self._y[rows]
            harm.append(_losses(everybody.predict_proba(x), y) - _losses(without.predict_proba(x), y))
        return _excess(np.concatenate(harm), _HARM)

    def _fitted(self, rows: BoolArray, penalty: float, near: Any = None) -> Any:
        """Return the logistic regression of some rows, markets of one weight; None without a row of every class.

        It begins from `near`, one of much the same rows.
        """
        y = self._y[rows]
        if len(np.unique(y)) < self._classes or self._classes < 2:
            return None
        return logistic(TabularSamples(x=self._x[rows], y=y, weights=self._weights(rows)), 1 / penalty, near)

    def _weights(self, rows: BoolArray) -> FloatArray:
        counts: IntArray = np.bincount(self._of[rows])
        most = counts.max()
        each: FloatArray = np.minimum(most / np.maximum(counts, most / _MOST_WEIGHT), _MOST_WEIGHT)
        return each[self._of[rows]]


def _returned(market: Series) -> FloatArray:
    """Return (N,) whose mean is the share of the variance of a market's returns that the next bar takes back.

    In units of volatility a return is within +-7.1, so no single bar decides.
    """
    move = market.features[:, _RETURN]
    follows = (market.segment[1:] == market.segment[:-1]) & np.isfinite(move[1:]) & np.isfinite(move[:-1])
    first, second = move[:-1][follows], move[1:][follows]
    if not first.any():
        return np.zeros(1)
    share: FloatArray = -2.0 * first * second / np.mean(first**2)
    return share


def _losses(probabilities: FloatArray, classes: IntArray) -> FloatArray:
    losses: FloatArray = -np.log(np.maximum(probabilities[np.arange(len(classes)), classes], _LEAST_PROBABILITY))
    return losses


def _excess(differences: FloatArray, bound: float) -> float:
    """Return the mean where it is beyond a bound and beyond chance, or else 0."""
    if len(differences) < 2:  # one has no error
        return 0.0
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return mean if mean > max(bound, _ERRORS * error) else 0.0
