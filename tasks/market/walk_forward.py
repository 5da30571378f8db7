"""Walk-forward folds: the bars for training, validation and test.

Labels overlap: the label of bar t reads up to bar t + 1 + H, so bars next to a boundary contain information from beyond
it. With shuffled folds a random walk seems predictable with 81 % accuracy, where the truth is 50 %. Hence walk-forward,
oldest first,

    [train]  gap  [validation]  gap  [test]            gap >= H + 1 bars, plus the embargo

with every label ending before the next part begins. Test blocks follow each other without a hole up to the last bar.

Parts are cut in time, so that the same cut serves several markets. The newest fold ends at the last bar and moves with
it. The other folds lie between fixed calendar dates: a new day's bars do not change them, so a retrain can reuse the
stored results of their training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, NoReturn, TypedDict

import numpy as np

from storage.bounds import Checked, NonNegativeInt, PositiveInt, ProperShare
from storage.schema import DAY_MS, ConfigError, DatasetError, IntArray, Title, utc_text

Scheme = Literal["anchored", "rolling"]
Cut = Literal["calendar", "shares"]
Weights = Literal["equal", "uniqueness"]

_LEAST_LABELS = 10  # fewest non-overlapping labels of a part; fewer allow no conclusion
_LEAST_LISTED = 3 * _LEAST_LABELS  # for the test of a new listing, which leak checks divide further


@dataclass(frozen=True, kw_only=True)
class FoldConfig(Checked):
    """How the usable bars are divided into folds.

    Attributes:
        folds: Number of test blocks.
        test_share: Share of the usable bars in all test blocks together; approximate with the calendar cut, where the
            length of all blocks but the newest is rounded.
        validation_share: Share of the usable bars in the validation of a fold; approximate in the same way.
        embargo: Bars left out before validation and before test, beyond the purge.
        cut: "calendar" (boundaries at fixed dates) or "shares" (exact shares of the bars). With calendar, all folds but
            the newest stay the same on later days and can be reused; with shares, all folds move with the last bar.
        scheme: Train from the first usable bar ("anchored") or on about as many bars as the first fold has ("rolling").
        weights: Weight of each training label: all the same ("equal"), or by the part of it that no other label
            overlaps ("uniqueness"). Without gaps, both are nearly the same, since all labels overlap alike.
    """

    folds: Annotated[PositiveInt, Title("Test blocks")] = 4
    test_share: ProperShare = 0.4
    validation_share: ProperShare = 0.1
    embargo: Annotated[NonNegativeInt, Title("Bars left out between blocks")] = 0
    cut: Annotated[Cut, Title("Where blocks begin and end")] = "calendar"
    scheme: Annotated[Scheme, Title("Bars to train on")] = "anchored"
    weights: Annotated[Weights, Title("How much each label counts")] = "equal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_share + self.validation_share >= 1:
            total = self.test_share + self.validation_share
            raise ConfigError(f"test_share + validation_share must leave bars to train on, was {total:g} of 1")


@dataclass(frozen=True, kw_only=True)
class Span:
    """A run of bars, or of milliseconds, half open: start <= bar < stop."""

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
    """The bars of one model; or its times, UTC milliseconds, from `cut_times`.

    Attributes:
        index: Number of the fold, from 0, oldest first.
        train, validation, test: Bars whose labels may be used for that purpose. Features may reach back further.
        predicted: Bars that the model predicts: the test, and with the calendar cut up to a fixed date beyond it. The
            end of the last fixed fold's test moves from day to day; its predicted bars do not, so they can be reused.
    """

    index: int
    train: Span
    validation: Span
    test: Span
    predicted: Span


class TrainingEnd(TypedDict):
    """Up to where a model knows its market, and of a pool every market; argument names of `run_backtest`.

    Attributes:
        trained_until_ms: Open time of the last bar that it was fitted on, its validation's, in any market, UTC
            milliseconds.
        label_span_ms: How far that bar's label looks ahead, milliseconds.
    """

    trained_until_ms: int
    label_span_ms: int


def seen_until_ms(end: TrainingEnd) -> int:
    """Return the last moment that training knew of, UTC milliseconds: a bar that opens after it is unseen."""
    return end["trained_until_ms"] + end["label_span_ms"]


def calendar_length(length: int, bar: int) -> int:
    """Return the largest of 1, 2, 3, 4, 6, 8, 12, 16, 24 ... days within a length; of bars, if it is below a day.

    So the result rarely changes while the length grows from day to day.

    Args:
        length: Milliseconds, at least one bar.
        bar: Milliseconds per bar.
    """
    unit = max(bar, DAY_MS) if length >= max(bar, DAY_MS) else bar
    whole = length // unit
    power = 1 << (whole.bit_length() - 1)
    return unit * (power + power // 2 if whole >= power + power // 2 else power)


def cut_times(first_ms: int, end_ms: int, bar: int, horizon: int, config: FoldConfig) -> tuple[Fold, ...]:
    """Divide a stretch of time into folds, oldest first.

    Args:
        first_ms: Open time of the first bar that has features, UTC milliseconds.
        end_ms: When the last bar closes.
        bar: Milliseconds per bar.
        horizon: Label horizon H; a label at t reads up to bar t + 1 + H.
    Returns:
        `config.folds` folds in UTC milliseconds. The newest has its exact shares and ends with the last bar. With the
        calendar cut, the others have the length that `calendar_length` gives and begin at multiples of it since 1970;
        the last of them is 0.5 to 1.5 times as long, up to the start of the newest.
    """
    usable = max(end_ms - first_ms, 0) // bar
    gap = (horizon + 1 + config.embargo) * bar
    tested = max(round(usable * config.test_share) // config.folds, 1) * bar
    validated = max(round(usable * config.validation_share), 1) * bar
    newest, fixed = end_ms - tested, config.cut == "calendar"
    step, checked = (calendar_length(length, bar) if fixed else length for length in (tested, validated))
    last = (newest - step // 2) // step * step if fixed else newest - step
    starts = [last - number * step for number in reversed(range(config.folds - 1))]
    # The newest fold may train until before the first one does: its validation is the longer one where that is rounded.
    learned = min(starts[0] - checked, newest - validated) - 2 * gap - first_ms if starts else 0

    def fold(index: int, test: Span, predicted: Span, checked: int) -> Fold:
        validation = Span(start=test.start - gap - checked, stop=test.start - gap)
        stop = validation.start - gap
        rolls = config.scheme == "rolling" and learned >= bar
        rolled = calendar_length(learned, bar) if rolls and fixed else learned
        train = Span(start=stop - rolled if rolls else first_ms, stop=stop)
        return Fold(index=index, train=train, validation=validation, test=test, predicted=predicted)

    reach = step + step // 2 if fixed else step
    older = [
        fold(index, Span(start=start, stop=stop), Span(start=start, stop=start + reach), checked)
        for index, (start, stop) in enumerate(pairwise([*starts, newest]))
    ]
    test = Span(start=newest, stop=end_ms)
    return (*older, fold(len(older), test, test, validated))


def spans_of(cut: Fold, start_ms: IntArray, gap: int) -> Fold:
    """Return the bars of a fold that is given in times.

    Args:
        cut: A fold in UTC milliseconds, from `cut_times`.
        start_ms: (T,) open time of each bar of a market, UTC milliseconds, ascending.
        gap: Existing bars left out before validation and before test.
    """

    def span(times: Span, stop: int | None = None) -> Span:
        start, end = (int(found) for found in np.searchsorted(start_ms, [times.start, times.stop]))
        return Span(start=start, stop=end if stop is None else min(end, stop))

    test = span(cut.test)
    validation = span(cut.validation, test.start - gap)
    train = span(cut.train, validation.start - gap)
    return Fold(index=cut.index, train=train, validation=validation, test=test, predicted=span(cut.predicted))


def refit_fold(newest: Fold) -> Fold:
    """Return the fold of a refit: validation on the newest bars, training on the bars before, and no test.

    `newest` is the last walk-forward fold, in bars or in times; the refit has the next index.
    """
    end, gap = newest.test.stop, newest.test.start - newest.validation.stop
    validation, none = Span(start=end - len(newest.validation), stop=end), Span(start=end, stop=end)
    train = Span(start=newest.train.start, stop=validation.start - gap)
    return Fold(index=newest.index + 1, train=train, validation=validation, test=none, predicted=none)


def walk_forward(start_ms: IntArray, bar: int, first_usable: int, horizon: int, config: FoldConfig) -> tuple[Fold, ...]:
    """Divide a series into folds, oldest first; horizon and shares as in `cut_times`.

    The bars open at `start_ms`, (T,), UTC milliseconds, ascending; `first_usable` is the first one that has features.

    Returns:
        `config.folds` folds, cut as in `cut_times`; the last one's test ends at bar T.
    Raises:
        ValueError: `horizon` < 1.
        DatasetError: A part of a fold would hold fewer bars than 10 labels span.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be >= 1 bar, was {horizon!r}")
    bars = len(start_ms)
    if config.cut == "shares":  # of bars, whatever is missing between them
        start_ms, bar = np.arange(bars), 1
    if first_usable >= bars:
        refuse_short("no bar is left to train on", bars, 0)
    cuts = cut_times(int(start_ms[first_usable]), int(start_ms[-1]) + bar, bar, horizon, config)
    folds = tuple(spans_of(cut, start_ms, horizon + 1 + config.embargo) for cut in cuts)
    for fold in folds:
        if short := short_part(fold, horizon):
            refuse_short(short, bars, bars - first_usable)
    return folds


def short_part(fold: Fold, horizon: int) -> str:
    """Return a text that names a part of a fold with fewer bars than 10 labels span; empty if there is none."""
    least = _LEAST_LABELS * horizon
    for part, span in (("train", fold.train), ("validation", fold.validation), ("test", fold.predicted)):
        if len(span) < least:
            held = f"{part} of fold {fold.index + 1} would hold {len(span):,} bars"
            return f"{held}, needs {least:,} ({_LEAST_LABELS} labels of {horizon} bars)"
    return ""


def listing_fold(newest: Fold, first_usable: int, horizon: int) -> Fold | str:
    """Return the newest fold of a market that was listed too late for training: a test without train and validation.

    Args:
        newest: The fold in bars of this market, cut at the dates of its pool.
        first_usable: First bar that has features.
        horizon: Label horizon H.
    Returns:
        The fold; or a text with the reason if its test has fewer bars than 30 labels span.
    """
    start = max(newest.test.start, first_usable)
    none, test = Span(start=start, stop=start), Span(start=start, stop=newest.test.stop)
    least = _LEAST_LISTED * horizon
    if len(test) < least:
        return f"test of fold {newest.index + 1} would hold {len(test):,} bars, needs {least:,}"
    predicted = Span(start=start, stop=newest.predicted.stop)
    return Fold(index=newest.index, train=none, validation=none, test=test, predicted=predicted)


def refuse_short(why: str, bars: int, usable: int) -> NoReturn:
    """Refuse a dataset that is too short, with the reason and its numbers of bars.

    Raises:
        DatasetError: Always.
    """
    raise DatasetError(
        f"dataset too short for the folds: {why}; {usable:,} of {bars:,} bars are usable, the rest warms up the "
        "features; ingest more bars, or ask for fewer folds or a shorter horizon"
    )


def folds_table(folds: Sequence[Fold], start_ms: IntArray) -> list[dict[str, str | int]]:
    """Return the folds as a table of dates, one row a part.

    Args:
        start_ms: (T,) open time of each bar, UTC milliseconds.
    Returns:
        Rows of fold (from 1), part, first and last (open times of the first and last bar, UTC), bars; none for a part
        without bars.
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
        if len(span)
    ]
