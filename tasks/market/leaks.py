"""Leak checks: whether any input, label or fitted value uses data from later bars.

A leak makes a backtest look good while the live account loses, and no metric shows it. So each possible kind of leak
has a check of its own, and a canary proves that the checks can fail: a leak is planted, and they must find it.

    check                 what is done                                         what must hold
    stored inputs         features and labels are computed again from candles  they equal the inputs of training
    prefix invariance     everything after a bar is cut off                    the bar keeps its values
    future perturbation   everything after a bar is scaled, shuffled, erased   the bar keeps its values
    start invariance      history starts later                                 the same values after the warm-up
    label span            prices that the label must not read are replaced     the label stays
                          the last open that it must read is replaced          the label changes
    purged folds          the end of each part's labels is compared            none reads a bar of a later part
    train isolation       validation and test are replaced                     what is fitted before them stays
    chance                a model is trained on unpredictable labels           its directions are right by chance only
    canary                the next bar's return is planted as a feature        the checks above fail

Models are passed in as callables; this package imports none.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from storage.schema import BUY, SELL, DatasetError, FloatArray, IntArray
from tasks.market.walk_forward import Fold

Columns = Callable[[FloatArray], FloatArray]
"""(T, 6) candles as `Candles.matrix` gives them -> (T, F) numbers, one row a bar: features, predictions or labels."""

LABEL_COLUMNS = ("forward_return", "threshold", "class")
"""Columns of a bar's label."""

_OPEN, _CLOSE = 1, 4
_REMADE = 1e-9  # tolerance: another processor's logarithm may round differently, and initial states weigh less
_SEED = 0  # of the bars that are checked, and of the replacements
_LABELS = 20  # labels that are checked
_COMPARED = 10_000  # bars at once: of years, every temporary would be as large as the table
_ERRORS = 3.0  # standard errors around chance: 1 run in 370 without a leak falls outside


@dataclass(frozen=True, kw_only=True)
class LeakCheck:
    """Outcome of one check.

    Attributes:
        found: The result; for a failure the column, the bar, the first differing value and the likely cause.
    """

    name: str
    passed: bool
    found: str
    wanted: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """Fitted arrays of a training, by name.

    Attributes:
        from_train: Fitted on the training bars only: scaler, class shares, class means.
        from_validation: Fitted on training and validation bars: the selected weights, the temperature.
    """

    from_train: Mapping[str, FloatArray]
    from_validation: Mapping[str, FloatArray]


def prefix_invariance(
    columns: Columns, candles: FloatArray, names: Sequence[str], *, first: int = 1, cuts: int = 50
) -> LeakCheck:
    """Cut everything after a bar off: the bar and all before it must keep their values.

    The candles are (T, 6), oldest first. Of the columns `names`, (F,), bars before `first` are NaN: they are not cut
    off. `cuts` bars are drawn at random.
    """
    full = columns(candles)
    for stop in _bars(first, len(candles), cuts):
        moved = _first_difference(full[:stop], columns(candles[:stop]), names, 0.0)
        if moved:
            return _failed("prefix invariance", f"{moved} when history ends there; it reads bars after {stop - 1}")
    return _passed("prefix invariance", f"{len(names)} columns unchanged at {cuts} cuts")


def future_perturbation(
    columns: Columns,
    candles: FloatArray,
    names: Sequence[str],
    *,
    first: int = 1,
    cuts: int = 5,
    tolerance: float = 0.0,
) -> LeakCheck:
    """Scale, shuffle or erase everything after a bar: the bar and all before it must keep their values.

    Arguments as in `prefix_invariance`; every kind of future is tried at each of the `cuts` bars, and values may differ
    by `tolerance`; 0 requires identical values.
    """
    full = columns(candles)
    rng = np.random.default_rng(_SEED)
    for stop in _bars(first, len(candles) - 1, cuts):
        for kind, future in _other_futures(candles[stop:], rng).items():
            changed = columns(np.concatenate([candles[:stop], future]))
            moved = _first_difference(full[:stop], changed[:stop], names, tolerance)
            if moved:
                cause = f"{moved} when the bars from {stop} on are {kind}; it reads bars after {stop - 1}"
                return _failed("future perturbation", cause)
    return _passed("future perturbation", f"{len(names)} columns unchanged in {cuts} x 3 other futures")


def start_invariance(
    columns: Columns, candles: FloatArray, names: Sequence[str], warm_up: int, *, starts: int = 5
) -> LeakCheck:
    """Let history start later: from the first bar after the declared warm-up that has values, all must be the same.

    The candles are (T, 6), oldest first, T > `warm_up`; values are given after so many bars, or more if the market
    halts meanwhile. `starts` bars are drawn at random.
    """
    full = columns(candles)
    for start in _bars(1, len(candles) - warm_up, starts):
        later = columns(candles[start:])
        given = np.flatnonzero(np.isfinite(later[warm_up - 1 :]).all(axis=1))
        if not len(given):
            continue
        settled = warm_up - 1 + int(given[0])
        bar = start + settled
        moved = _first_difference(full[bar:], later[settled:], names, _REMADE, first_bar=bar)
        if moved:
            return _failed(
                "start invariance",
                f"{moved} when history starts at {start}; it remembers bars before the warm-up of {warm_up}",
            )
    return _passed("start invariance", f"{len(names)} columns within {_REMADE:g} at {starts} later starts")


def stored_inputs(tables: Iterable[tuple[FloatArray, FloatArray, Sequence[str]]]) -> LeakCheck:
    """Compare the inputs of a training with those computed from the candles now, which the other checks use.

    Of each table: the (T, F) columns that a model was trained on, the same computed from the candles, their (F,) names.
    """
    name, bars = "stored inputs", 0
    for stored, made, names in tables:
        bars = len(stored)
        if moved := _first_difference(stored, made, names, _REMADE):
            return _failed(name, f"{moved} between what training was given and what the candles give")
    return _passed(name, f"{bars:,} bars of features and labels are what the candles give")


def label_span(label: Columns, candles: FloatArray, horizon: int) -> LeakCheck:
    """Replace prices that a label must not read, then the last open that it must read.

    Args:
        label: Candles to (T, 3) numbers as LABEL_COLUMNS names them.
        candles: (T, 6) of one run without a gap, oldest first, T > horizon + 2.
        horizon: Bars from fill to exit: the label at t reads the opens of t + 1 and t + 1 + horizon.
    """
    name, full = "label span", label(candles)
    for t in _bars(1, len(candles) - horizon - 2, _LABELS):
        end = t + 1 + horizon
        later, earlier, last = candles.copy(), candles.copy(), candles.copy()
        later[end + 1 :, 1:] *= 3.0
        earlier[: t + 1, 1:] *= 3.0
        last[end, _OPEN] *= 1.001
        moved = _first_difference(full[: t + 1], label(later)[: t + 1], LABEL_COLUMNS, 0.0)
        if moved:
            return _failed(name, f"{moved} when the bars from {end + 1} on change; it reads beyond t + 1 + {horizon}")
        # The threshold may depend on earlier bars, through volatility; the return must not.
        moved = _first_difference(full[t:, :1], label(earlier)[t:, :1], LABEL_COLUMNS, 0.0, first_bar=t)
        if moved:
            return _failed(name, f"{moved} when the bars up to {t} change; it reads a price from before its fill")
        if math.isfinite(full[t, 0]) and label(last)[t, 0] == full[t, 0]:
            return _failed(name, f"label at bar {t} does not move with the open of bar {end}; its horizon is shorter")
    return _passed(name, f"{_LABELS} labels read the opens of t + 1 and t + 1 + {horizon}, nothing else")


def purged_folds(folds: Sequence[Fold], label_end: IntArray) -> LeakCheck:
    """Check the last bar that each label reads (T,): none may lie in a later part of a walk-forward fold."""
    for fold in folds:
        parts = (("train", fold.train), ("validation", fold.validation), ("test", fold.test))
        for (name, part), (later_name, later) in pairwise(parts):
            rows = np.arange(part.start, part.stop)
            moved = rows_that_know(rows, label_end, later.start)
            if moved is not None and len(later):
                return _failed(
                    "purged folds",
                    f"fold {fold.index + 1}: the label of {name} bar {moved} reads bar {int(label_end[moved])}, "
                    f"{later_name} starts at {later.start}; the gap is shorter than the label",
                )
    return _passed("purged folds", f"{len(folds)} folds, every label ends before the next part")


def rows_that_know(rows: IntArray, label_end: IntArray, first_bar: int) -> int | None:
    """Return the first of `rows` whose label reads `first_bar` or a later bar; None if there is none."""
    known = rows[label_end[rows] >= first_bar]
    return int(known[0]) if len(known) else None


def train_isolation(
    learn: Callable[[FloatArray, IntArray], Learned],
    features: FloatArray,
    classes: IntArray,
    *,
    validation_start: int,
    test_start: int,
) -> LeakCheck:
    """Replace validation and test bars: values fitted on earlier bars must not change.

    Args:
        learn: Trains on (T, F) features and (T,) classes, and returns the fitted arrays.
        features: (T, F) finite.
        classes: (T,) labels.
        validation_start: First bar of validation.
        test_start: First bar of the test, on which nothing may be fitted.
    """
    name, honest = "train isolation", learn(features, classes)
    for part, start in (("test", test_start), ("validation", validation_start)):
        learned = learn(*_replaced(features, classes, start))
        fitted = {part_name: (array, learned.from_train[part_name]) for part_name, array in honest.from_train.items()}
        if part == "test":
            weights = honest.from_validation
            fitted |= {part_name: (array, learned.from_validation[part_name]) for part_name, array in weights.items()}
        for fitted_name, (before, after) in fitted.items():
            moved = _first_difference(before.reshape(-1, 1), after.reshape(-1, 1), (fitted_name,), 0.0, what="place")
            if moved:
                return _failed(name, f"{moved} when the {part} bars from {start} on change; it is fitted on them")
    count = len(honest.from_train) + len(honest.from_validation)
    return _passed(name, f"{count} fitted arrays unchanged, to the last bit")


def chance_direction(name: str, probabilities: FloatArray, classes: IntArray, overlap: int) -> LeakCheck:
    """Check that directions are right neither more nor less often than by chance.

    Holds are left out: their share depends on volatility, which can be forecast without any leak.

    Args:
        probabilities: (N, 3) sell, hold, buy, finite.
        classes: (N,) labels.
        overlap: Bars that one label spans; n moves count as n / overlap independent ones.
    """
    moves = (classes == BUY) | (classes == SELL)
    if not moves.any():
        return LeakCheck(name=name, passed=False, found="no label is a move, so nothing was asked", wanted="moves")
    up, said_up = classes[moves] == BUY, probabilities[moves, BUY] > probabilities[moves, SELL]
    share, said = float(up.mean()), float(said_up.mean())
    hits, chance = float((up == said_up).mean()), share * said + (1 - share) * (1 - said)
    error = 0.5 / math.sqrt(max(len(up) / overlap, 1.0))
    found = f"{hits:.2%} of {len(up):,} directions right, chance {chance:.2%}, standard error {error:.2%}"
    wanted = f"within {_ERRORS:g} standard errors of chance"
    passed = abs(hits - chance) <= _ERRORS * error
    return LeakCheck(
        name=name, passed=passed, found=found if passed else f"{found}; the answer leaks in", wanted=wanted
    )


def permuted_in_blocks(values: IntArray, block: int) -> IntArray:
    """Return `values` with blocks of `block` bars permuted: this breaks the link to their bars but keeps their runs."""
    starts = np.random.default_rng(_SEED).permutation(np.arange(0, len(values), block))
    return np.concatenate([values[start : start + block] for start in starts])


def with_next_return(columns: Columns) -> Columns:
    """Return `columns` with a planted leak: the first column is the next bar's log return."""

    def leaky(candles: FloatArray) -> FloatArray:
        planted = columns(candles).copy()
        change = np.diff(np.log(np.maximum(candles[:, _CLOSE], np.finfo(np.float64).tiny)))
        known = np.isfinite(planted[:-1, 0])
        planted[:-1, 0] = np.where(known, change / 1e-3, planted[:-1, 0])  # any unit would do, as a scaler follows
        return planted

    return leaky


def canary(checks: Sequence[LeakCheck]) -> LeakCheck:
    """Return a check that passes if every check in `checks`, made on a planted leak, has failed."""
    missed = [check.name for check in checks if check.passed]
    wanted = "the planted next return is caught by every one"
    if missed or not checks:
        return LeakCheck(
            name="canary", passed=False, found=f"not caught by {', '.join(missed) or 'any'}", wanted=wanted
        )
    return LeakCheck(name="canary", passed=True, found=f"caught by {', '.join(c.name for c in checks)}", wanted=wanted)


def _bars(first: int, stop: int, count: int) -> list[int]:
    """Return `count` random bars of first .. stop - 1, newest first, since a leak shows more at newer bars."""
    if stop <= first:
        raise DatasetError(f"leak checks need bars behind bar {first}, they end before {stop}; ingest more bars")
    return sorted(np.random.default_rng(_SEED).integers(first, stop, count).tolist(), reverse=True)


def _other_futures(future: FloatArray, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Return replacement candles at the same times, by kind."""
    scaled, erased = future.copy(), future.copy()
    scaled[:, 1:] *= 3.0
    erased[:, 1:] = np.nan
    shuffled = np.column_stack([future[:, :1], rng.permutation(future[:, 1:])])
    return {"scaled": scaled, "shuffled": shuffled, "erased": erased}


def _replaced(features: FloatArray, classes: IntArray, start: int) -> tuple[FloatArray, IntArray]:
    """Return features and classes with everything from `start` on in another order and size."""
    order = start + np.random.default_rng(_SEED).permutation(len(features) - start)
    other, others = features.copy(), classes.copy()
    other[start:], others[start:] = 3.0 * features[order] + 1.0, classes[order]
    return other, others


def _first_difference(
    expected: FloatArray,
    found: FloatArray,
    names: Sequence[str],
    tolerance: float,
    *,
    first_bar: int = 0,
    what: str = "bar",
) -> str:
    """Return column, bar and both values of the first difference of two arrays; "" if there is none."""
    for start in range(0, len(found), _COMPARED):
        was, now = expected[start : start + _COMPARED], found[start : start + _COMPARED]
        same = (np.abs(now - was) <= tolerance) | (now == was) | (np.isnan(now) & np.isnan(was))
        if not same.all():
            row, column = np.argwhere(~same)[0]
            bar = first_bar + start + row
            return f"{names[column]} at {what} {bar:,} was {was[row, column]:.9g}, became {now[row, column]:.9g}"
    return ""


_WANTED = {
    "stored inputs": "what training was given is what the candles give",
    "prefix invariance": "unchanged when the future is cut off",
    "future perturbation": "unchanged when the future is another",
    "start invariance": "unchanged when history starts later",
    "label span": "the label at t reads t + 1 to t + 1 + horizon only",
    "purged folds": "no label reads a later part's bar",
    "train isolation": "nothing fitted moves with bars behind it",
}


def _passed(name: str, found: str) -> LeakCheck:
    return LeakCheck(name=name, passed=True, found=found, wanted=_WANTED[name])


def _failed(name: str, found: str) -> LeakCheck:
    return LeakCheck(name=name, passed=False, found=found, wanted=_WANTED[name])
