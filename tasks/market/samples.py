"""Folds: which bars a model learns from, is tuned on, and is judged by.

Labels overlap: the label of bar t reads on to bar t + 1 + H, so bars next to a boundary know what lies beyond it.
Shuffled folds of a random walk reach 81 % accuracy that way, where the truth is 50 %. Hence walk-forward, oldest first,

    [train]  gap  [validation]  gap  [test]            gap >= H + 1 bars, plus the embargo

with every label ending before the next part begins. Test blocks follow each other without a hole up to the last bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.bounds import Checked, NonNegativeInt, PositiveInt, ProperShare
from storage.schema import ConfigError, DatasetError, IntArray, utc_text

Scheme = Literal["anchored", "rolling"]
Weights = Literal["equal", "uniqueness"]

_LEAST_LABELS = 10  # non-overlapping labels per part: fewer say nothing about anything


@dataclass(frozen=True, kw_only=True)
class FoldConfig(Checked):
    """How the usable bars are divided.

    Attributes:
        folds: Number of test blocks.
        test_share: Share of the usable bars that is test, over all folds together.
        validation_share: Share of the usable bars that each fold validates on.
        embargo: Bars left out before validation and before test, beyond the purge.
        scheme: Train from the first usable bar ("anchored") or on as many bars as the first fold has ("rolling").
        weights: How much each training label counts: all alike ("equal"), or by what of it no other label covers
            ("uniqueness"). Labels of one horizon that follow each other without a gap are all alike in that too.
    """

    folds: PositiveInt = 4
    test_share: ProperShare = 0.4
    validation_share: ProperShare = 0.1
    embargo: NonNegativeInt = 0
    scheme: Scheme = "anchored"
    weights: Weights = "equal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_share + self.validation_share >= 1:
            total = self.test_share + self.validation_share
            raise ConfigError(f"test_share + validation_share must leave bars to train on, was {total:g} of 1")


@dataclass(frozen=True, kw_only=True)
class Span:
    """A run of bars, half open: start <= bar < stop."""

    start: int
    stop: int

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    @property
    def rows(self) -> slice:
        """The bars, to index an array with."""
        return slice(self.start, self.stop)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One model's bars.

    Attributes:
        index: Number of the fold, from 0, oldest first.
        train, validation, test: Bars whose labels may be used for that purpose. Features may reach back further.
    """

    index: int
    train: Span
    validation: Span
    test: Span


def walk_forward(bars: int, first_usable: int, horizon: int, config: FoldConfig) -> tuple[Fold, ...]:
    """Divide a series into folds, oldest first.

    Args:
        bars: Length of the series, T.
        first_usable: First bar that has features.
        horizon: Label horizon H; a label at t reads up to bar t + 1 + H.
        config: Shares, embargo and scheme.
    Returns:
        `config.folds` folds; the last one's test ends at bar T.
    Raises:
        ValueError: `horizon` < 1.
        DatasetError: A part of a fold would hold fewer bars than 10 labels span.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be >= 1 bar, was {horizon!r}")
    usable = max(bars - first_usable, 0)
    gap = horizon + 1 + config.embargo
    test_bars = round(usable * config.test_share) // config.folds
    validation_bars = round(usable * config.validation_share)

    folds = []
    for index in range(config.folds):
        test = Span(start=bars - (config.folds - index) * test_bars, stop=bars - (config.folds - 1 - index) * test_bars)
        validation = Span(start=test.start - gap - validation_bars, stop=test.start - gap)
        rolled = index * test_bars if config.scheme == "rolling" else 0
        train = Span(start=first_usable + rolled, stop=validation.start - gap)
        folds.append(Fold(index=index, train=train, validation=validation, test=test))

    _refuse_short(folds[0], usable, bars, horizon)  # every later fold is at least as long in every part
    return tuple(folds)


def refit_fold(bars: int, first_usable: int, horizon: int, config: FoldConfig) -> Fold:
    """Return the fold of a refit: validation at the newest bars, training on all before, and no bar left to test on.

    Arguments and errors as in `walk_forward`; its index follows the last fold's.
    """
    last = walk_forward(bars, first_usable, horizon, config)[-1]
    validation = Span(start=bars - len(last.validation), stop=bars)
    train = Span(start=last.train.start, stop=validation.start - horizon - 1 - config.embargo)
    return Fold(index=config.folds, train=train, validation=validation, test=Span(start=bars, stop=bars))


def folds_table(folds: Sequence[Fold], start_ms: IntArray) -> list[dict[str, str | int]]:
    """Return the folds as a table of dates, one row a part.

    Args:
        folds: From `walk_forward`.
        start_ms: (T,) open time of each bar, UTC milliseconds.
    Returns:
        Rows of fold (from 1), part, first and last (open times of the first and last bar, UTC), bars.
    """
    return [
        {
            "fold": fold.index + 1,
            "part": part,
            "first": utc_text(int(start_ms[span.start])),
            "last": utc_text(int(start_ms[span.stop - 1])),
            "bars": len(span),
        }
        for fold in folds
        for part, span in (("train", fold.train), ("validation", fold.validation), ("test", fold.test))
    ]


def _refuse_short(fold: Fold, usable: int, bars: int, horizon: int) -> None:
    least = _LEAST_LABELS * horizon
    for part, span in (("train", fold.train), ("validation", fold.validation), ("test", fold.test)):
        if len(span) < least:
            raise DatasetError(
                f"dataset too short for the folds: {part} of fold {fold.index + 1} would hold {len(span):,} bars, "
                f"needs {least:,} ({_LEAST_LABELS} labels of {horizon} bars); {usable:,} of {bars:,} bars are usable, "
                "the rest warms up the features; ingest more bars, or ask for fewer folds or a shorter horizon"
            )
