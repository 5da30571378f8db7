"""How good probabilities are, before any money: log-loss against the prior, direction, calibration, confusion.

Accuracy misleads where classes are unbalanced and labels overlap, so the verdict rests on log-loss, every figure stands
beside the one of the training classes' shares (the prior), and intervals use the number of labels that do not overlap.

Log-loss over three classes is not enough: how often nothing moves follows volatility, which can be foreseen in a random
walk too. So the direction of what did move is tested by itself, against the better of the prior and 50:50: where the
market went the other way in training, the prior is worse than a coin, and a lead over it no skill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from storage.schema import BUY, HOLD, SELL, BoolArray, ConfigError, FloatArray, IntArray
from tasks.execution.significance import diebold_mariano, mean_variance

COVERAGES = (1.0, 0.5, 0.2, 0.1, 0.05)
"""Shares of the labels, the most confident first, on which accuracy is shown: a flat curve is no usable confidence."""

ALARM = 2.576
"""Standard errors beyond which something is called lost: chance is beyond them, on one side, in one look of 200."""

COIN = "50:50"
"""Who gives both sides of a move the same chance, whatever training saw."""

_NORMAL = NormalDist()
_BP = 1e4
_LEAST_PROBABILITY = 1e-12  # a class called impossible that happens costs 27.6 nat, not infinity


@dataclass(frozen=True, kw_only=True, eq=False)
class Skill:
    """What probabilities were worth on labels they had not seen.

    Attributes:
        samples: N labels.
        effective_samples: Labels that count as independent: the sum of their uniqueness.
        log_loss: Mean of -ln p(true class), nat.
        prior_log_loss: The same for the classes' shares in training, nat.
        p_value: Diebold-Mariano, one-sided: the chance of such a lead without skill; None where undefined.
        accuracy: Share of labels that the most probable class meets.
        majority_accuracy: Share of labels that the most frequent training class meets.
        class_shares: (K,) share of each class among the labels.
        brier: Mean squared distance of the probabilities from the label, 0 to 2.
        calibration_error: ECE in equal-mass bins.
        perfect_calibration_error: ECE that labels drawn from these very probabilities would show: its bias.
        macro_f1: Mean over classes of the harmonic mean of precision and recall.
        confusion: (K, K) labels by true class (row) and most probable class (column).
        reliability: (bins, 3) mean confidence, share right, labels.
        auc: Per class, the chance that a label of it was given more probability than one of another (one-vs-rest);
            None for a class that is all or none of the labels.
        coverage: (len(COVERAGES), 3) share of the labels that were spoken on, most confident first; accuracy on them;
            its standard error, from labels that do not overlap.
        moves: Labels that are no hold.
        direction_reference: Whoever foresaw the sides better, "prior" or "50:50": who has to be beaten.
        direction_skill: How much better than by that one the side of a move was foreseen, nat a move; None where the
            two never differ.
        direction_error: Standard error of that, overlap included.
        direction_p_value: Diebold-Mariano, one-sided: the chance of such a lead without any; None where undefined.
        direction_accuracy: Share of the moves that went to the more probable side.
        edge_bp: Mean over the moves of what the more probable side earned until the horizon, before costs, basis
            points; None without a move.
        edge_error_bp: Standard error of that, overlap included.
    """

    samples: int
    effective_samples: float
    log_loss: float
    prior_log_loss: float
    p_value: float | None
    accuracy: float
    majority_accuracy: float
    class_shares: FloatArray
    brier: float
    calibration_error: float
    perfect_calibration_error: float
    macro_f1: float
    confusion: IntArray
    reliability: FloatArray
    auc: tuple[float | None, ...] = ()
    coverage: FloatArray = field(default_factory=lambda: np.empty((0, 3)))
    moves: int = 0
    direction_reference: str = "prior"
    direction_skill: float | None = None
    direction_error: float | None = None
    direction_p_value: float | None = None
    direction_accuracy: float | None = None
    edge_bp: float | None = None
    edge_error_bp: float | None = None

    @property
    def log_loss_skill(self) -> float:
        """How much better than the prior, nat; negative is worse."""
        return self.prior_log_loss - self.log_loss

    @property
    def confidence(self) -> float:
        """Mean probability of the most probable class: what the accuracy of a calibrated model would be."""
        return float(np.average(self.reliability[:, 0], weights=self.reliability[:, 2]))

    @property
    def accuracy_error(self) -> float:
        """Standard error of the accuracy, from labels that do not overlap."""
        return math.sqrt(self.accuracy * (1.0 - self.accuracy) / max(self.effective_samples, 1.0))

    @property
    def edge_interval_bp(self) -> tuple[float, float] | None:
        """95 % interval of the mean edge of a move, basis points; None without a move."""
        if self.edge_bp is None or self.edge_error_bp is None:
            return None
        return self.edge_bp - 1.96 * self.edge_error_bp, self.edge_bp + 1.96 * self.edge_error_bp

    @property
    def edge_text(self) -> str:
        """The mean edge of a move and its interval in words."""
        if self.edge_bp is None or self.edge_interval_bp is None:
            return "undefined"
        low, high = self.edge_interval_bp
        return f"{self.edge_bp:+.2f} bp before costs (95 %: {low:+.2f} to {high:+.2f})"


def loss_lag(overlap: int, bars_per_day: float, labels: int) -> int:
    """Return how far apart differences of log-loss still depend on each other, bars: the lag of their mean's variance.

    How much is lost follows the market's volatility, which outlasts a label: a day, or the overlap if that is longer.
    On five-minute candles of 2025 the error of LightGBM's lead over the prior is half of what blocks of five days say
    if the overlap alone is counted, and equal with a day. Of few labels a twentieth at most is taken, but for the
    overlap: with a longer lag the estimate itself is too small.
    """
    return max(overlap, min(round(bars_per_day), labels // 20))


def lost_skill(skill: Skill) -> bool:
    """Return whether log-loss is worse than the prior's beyond what chance does in one look of 200."""
    return skill.p_value is not None and 1.0 - skill.p_value < _NORMAL.cdf(-ALARM)


def lost_calibration(skill: Skill, margin: float) -> bool:
    """Return whether confidence is off by more than `margin`, and than chance does to labels that overlap."""
    return abs(skill.confidence - skill.accuracy) > max(margin, ALARM * skill.accuracy_error)


def log_losses(probabilities: FloatArray, classes: IntArray) -> FloatArray:
    """Return -ln of the probability that each label was given.

    Args:
        probabilities: (N, K), rows that sum to 1.
        classes: (N,) true class, 0 to K - 1.
    Returns:
        (N,) nat.
    """
    chosen = probabilities[np.arange(len(classes)), classes]
    return -np.log(np.maximum(chosen, _LEAST_PROBABILITY))


def side_losses(probabilities: FloatArray, classes: IntArray) -> FloatArray:
    """Return -ln p(side of the move | it moves) = -ln (p of the true class / (p_buy + p_sell)); 0 where nothing moved.

    A zero for every hold keeps the bars at their distance from each other, so overlap means what it does elsewhere.

    Args:
        probabilities: (N, 3) sell, hold, buy.
        classes: (N,) true class.
    Returns:
        (N,) nat.
    """
    sides = np.maximum(probabilities[:, (SELL, BUY)], _LEAST_PROBABILITY)
    losses = log_losses(sides / sides.sum(axis=1, keepdims=True), (classes == BUY).astype(np.int64))
    return np.where(classes == HOLD, 0.0, losses)


def mean_edge(
    probabilities: FloatArray, classes: IntArray, forward_return: FloatArray, lag: int
) -> tuple[float, float]:
    """Return what a move earned on average on the side that was named, and the standard error of that.

    A move whose sides are equally probable has no side named and counts as 0.

    Args:
        probabilities: (N, 3) sell, hold, buy.
        classes: (N,) true class; at least one is no hold.
        forward_return: (N,) return until the horizon.
        lag: Bars that one label spans.
    Returns:
        Both in the unit of `forward_return`, before costs.
    """
    moved = classes != HOLD
    earned = np.sign(probabilities[:, BUY] - probabilities[:, SELL]) * forward_return
    edge = float(earned[moved].mean())
    # A mean over moves is a ratio of two sums; holds count 0, so that bars keep their distance from each other.
    around = np.where(moved, earned - edge, 0.0)
    return edge, math.sqrt(mean_variance(around, lag)) * len(classes) / int(moved.sum())


def class_shares(classes: IntArray, num_classes: int) -> FloatArray:
    """Return (K,) the share of each class, each counted once more than seen, so that none is impossible."""
    counts = np.bincount(classes, minlength=num_classes) + 1.0
    shares: FloatArray = counts / counts.sum()
    return shares


def confusion_matrix(classes: IntArray, predicted: IntArray, num_classes: int) -> IntArray:
    """Return (K, K) counts by true class (row) and predicted class (column)."""
    return np.bincount(classes * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def macro_f1(confusion: IntArray) -> float:
    """Return the mean over classes of 2 * hits / (labels + predictions); a class that never occurs counts 0."""
    hits, sizes = np.diag(confusion), confusion.sum(0) + confusion.sum(1)
    return float(np.mean(np.divide(2.0 * hits, sizes, out=np.zeros(len(hits)), where=sizes > 0)))


def reliability(confidence: FloatArray, right: FloatArray, bins: int = 15) -> FloatArray:
    """Return how often predictions of each confidence were right, in bins of equal mass.

    Args:
        confidence: (N,) probability of the most probable class.
        right: (N,) 1 where it was the true class.
        bins: Number of bins, >= 1.
    Returns:
        (bins, 3) mean confidence, share right, labels; fewer rows where there are fewer labels.
    """
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, max(len(confidence), 1)))
    return np.array([(confidence[part].mean(), right[part].mean(), len(part)) for part in parts if len(part)])


def calibration_error(table: FloatArray) -> float:
    """Return the ECE of a reliability table: the mean distance of confidence from the share right, by labels."""
    return float(np.sum(table[:, 2] * np.abs(table[:, 0] - table[:, 1])) / table[:, 2].sum())


def roc_auc(score: FloatArray, positive: BoolArray) -> float | None:
    """Return the chance that a positive scores above a negative, a tie counting half; None without one of either.

    The area under the ROC curve as Mann and Whitney 1947 count it, from ranks.
    """
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    return float((ranks[positive].sum() - yes * (yes + 1) / 2.0) / (yes * no))


def coverage_curve(confidence: FloatArray, right: FloatArray, effective_samples: float) -> FloatArray:
    """Return accuracy by how many labels one speaks on.

    Args:
        confidence: (N,) probability of the most probable class.
        right: (N,) 1 where it was the true class.
        effective_samples: Labels that count as independent among all N.
    Returns:
        (len(COVERAGES), 3) share spoken on, accuracy, standard error.
    """
    order = np.argsort(-confidence, kind="stable")
    rows = []
    for share in COVERAGES:
        accuracy = float(right[order[: max(round(share * len(order)), 1)]].mean())
        rows.append((share, accuracy, math.sqrt(accuracy * (1.0 - accuracy) / max(share * effective_samples, 1.0))))
    return np.array(rows)


def measure_skill(
    probabilities: FloatArray,
    classes: IntArray,
    prior: FloatArray,
    forward_return: FloatArray,
    *,
    overlap: int,
    bars_per_day: float,
    effective_samples: float,
    seed: int,
) -> Skill:
    """Compare probabilities with labels, and with the prior.

    Args:
        probabilities: (N, 3) predicted, sell, hold, buy; rows that sum to 1.
        classes: (N,) true class.
        prior: (N, 3) or (3,) share of each class in training.
        forward_return: (N,) natural-log return behind each label, before costs.
        overlap: Bars that one label spans: the lag of the variance of direction and edge.
        bars_per_day: Of the market: losses depend on each other so long, see `loss_lag`.
        effective_samples: Sum of the labels' uniqueness.
        seed: Of the labels drawn for `perfect_calibration_error`.

    Raises:
        ConfigError: No labels, or rows that are no probabilities.
    """
    samples, num_classes = probabilities.shape
    if samples == 0:
        raise ConfigError("skill needs at least one label, there are none")
    if not np.allclose(probabilities.sum(1), 1.0, atol=1e-6) or (probabilities < 0).any():
        raise ConfigError("probabilities must be >= 0 and sum to 1 in every row")
    priors = np.broadcast_to(prior, probabilities.shape)
    losses, prior_losses = log_losses(probabilities, classes), log_losses(priors, classes)
    predicted = probabilities.argmax(1)
    confidence = probabilities.max(1)
    lag = loss_lag(overlap, bars_per_day, samples)
    lead = diebold_mariano(model_loss=losses, reference_loss=prior_losses, lag=lag)
    table = reliability(confidence, (predicted == classes).astype(float))
    # Drawn from the predicted probabilities themselves, the labels are as calibrated as labels can be.
    dice = np.random.default_rng(seed).random((samples, 1))
    drawn = (dice > probabilities.cumsum(1)[:, :-1]).sum(1)
    perfect = reliability(confidence, (predicted == drawn).astype(float))
    confusion = confusion_matrix(classes, predicted, num_classes)
    moved = classes != HOLD
    moves, said_up = int(moved.sum()), probabilities[:, BUY] > probabilities[:, SELL]
    reference, reference_losses = _side_reference(priors, classes)
    side = diebold_mariano(model_loss=side_losses(probabilities, classes), reference_loss=reference_losses, lag=overlap)
    edge, edge_error = mean_edge(probabilities, classes, forward_return, overlap) if moves else (None, None)
    return Skill(
        samples=samples,
        effective_samples=effective_samples,
        log_loss=float(losses.mean()),
        prior_log_loss=float(prior_losses.mean()),
        p_value=None if lead is None else lead.p_value,
        accuracy=float(np.mean(predicted == classes)),
        majority_accuracy=float(np.mean(priors.argmax(1) == classes)),
        class_shares=np.bincount(classes, minlength=num_classes) / samples,
        brier=float(np.mean(np.sum((probabilities - np.eye(num_classes)[classes]) ** 2, axis=1))),
        calibration_error=calibration_error(table),
        perfect_calibration_error=calibration_error(perfect),
        macro_f1=macro_f1(confusion),
        confusion=confusion,
        reliability=table,
        auc=tuple(roc_auc(probabilities[:, place], classes == place) for place in range(num_classes)),
        coverage=coverage_curve(confidence, (predicted == classes).astype(float), effective_samples),
        moves=moves,
        direction_reference=reference,
        # The test averages over all labels, holds included; a person asks for the lead of a move.
        direction_skill=None if side is None else side.mean_difference * samples / moves,
        direction_error=None if side is None else side.standard_error * samples / moves,
        direction_p_value=None if side is None else side.p_value,
        direction_accuracy=float(np.mean(said_up[moved] == (classes[moved] == BUY))) if moves else None,
        edge_bp=None if edge is None else edge * _BP,
        edge_error_bp=None if edge_error is None else edge_error * _BP,
    )


def _side_reference(priors: FloatArray, classes: IntArray) -> tuple[str, FloatArray]:
    """Return the better of the prior and the coin on the sides of these moves, and its (N,) losses."""
    prior = side_losses(priors, classes)
    coin = np.where(classes == HOLD, 0.0, math.log(2.0))
    return (COIN, coin) if coin.sum() < prior.sum() else ("prior", prior)
