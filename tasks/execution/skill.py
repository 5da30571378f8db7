"""Scores of forecast probabilities, before any trading: log-loss against the prior, direction, calibration, confusion.

Accuracy misleads where classes are unbalanced and labels overlap. So log-loss decides, every figure is compared with
that of the prior (the class shares in training), and intervals use the effective number of independent labels.

Log-loss over three classes is not enough: how often a label is a hold depends on volatility, which can be forecast even
in a random walk. So the direction of the moves (labels other than hold) is tested separately, against the better of the
prior and 50:50: where the market trended the other way in training, the prior is worse than 50:50 and beating it shows
no skill.
"""

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from storage.schema import BUY, HOLD, SELL, BoolArray, ConfigError, FloatArray, IntArray
from tasks.execution.significance import diebold_mariano, mean_variance

COVERAGES = (1.0, 0.5, 0.2, 0.1, 0.05)
"""Shares of the labels, most confident first, for which accuracy is shown; a flat curve: confidence tells nothing."""

ALARM = 2.576
"""Standard errors beyond which skill or calibration counts as lost: one-sided, chance exceeds it once in 200 tests."""

COIN = "50:50"
"""Name of the reference that gives both sides of a move the same probability."""

_NORMAL = NormalDist()
_BP = 1e4
_LEAST_PROBABILITY = 1e-12  # a class called impossible that happens costs 27.6 nat, not infinity


@dataclass(frozen=True, kw_only=True, eq=False)
class Skill:
    """Scores of probabilities on held-out labels.

    Attributes:
        samples: Number N of labels.
        effective_samples: Effective number of independent labels: the sum of their uniqueness.
        log_loss: Mean of -ln p(true class), nat.
        prior_log_loss: The same for the class shares in training, nat.
        p_value: Diebold-Mariano, one-sided: the chance of such a lead over the prior without skill; None where
            undefined.
        accuracy: Share of labels equal to the most probable class.
        majority_accuracy: Share of labels equal to the most frequent class in training.
        class_shares: (K,) share of each class among the labels.
        brier: Mean squared distance of the probabilities from the label, 0 to 2.
        calibration_error: Expected calibration error (ECE) in equal-mass bins.
        perfect_calibration_error: ECE of labels drawn from these probabilities: the bias of a perfectly calibrated
            forecast.
        macro_f1: Mean over classes of the harmonic mean of precision and recall.
        confusion: (K, K) labels by true class (row) and most probable class (column).
        reliability: (bins, 3) mean confidence, share right, labels.
        auc: Area under the ROC curve per class, one-vs-rest; None for a class that all labels or none have.
        coverage: (len(COVERAGES), 3) share of the labels, most confident first; accuracy on them; its standard error,
            from the effective number of labels.
        moves: Labels other than hold.
        direction_reference: The reference of the direction test: "prior" or "50:50", whichever has the lower loss.
        direction_skill: Log-loss of the reference on the side of a move minus the model's, nat per move; None where
            undefined.
        direction_error: Standard error of that, overlap of labels included.
        direction_p_value: Diebold-Mariano, one-sided: the chance of such a lead without skill; None where undefined.
        direction_accuracy: Share of the moves that went to the more probable side.
        edge_bp: Mean return over the moves, until the horizon, of a position on the more probable side, before costs,
            basis points; None without a move.
        edge_error_bp: Standard error of that, overlap of labels included.
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
        """Log-loss of the prior minus the model's, nat; positive where the model is better."""
        return self.prior_log_loss - self.log_loss

    @property
    def confidence(self) -> float:
        """Mean probability of the most probable class; equals the accuracy of a calibrated model."""
        return float(np.average(self.reliability[:, 0], weights=self.reliability[:, 2]))

    @property
    def accuracy_error(self) -> float:
        """Standard error of the accuracy, from the effective number of labels."""
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
    """Return the lag, bars, up to which differences of log-loss are autocorrelated, for the variance of their mean.

    Log-loss depends on the market's volatility, which is correlated for longer than a label spans. So the lag is one
    day, or the overlap of labels if that is longer. On five-minute candles of 2025, the standard error of LightGBM's
    lead over the prior was half of that by blocks of five days if only the overlap was counted, and equal to it with a
    day. The lag is at most a twentieth of the labels, but never below the overlap: longer lags make the estimated
    variance too small.
    """
    return max(overlap, min(round(bars_per_day), labels // 20))


def lost_skill(skill: Skill) -> bool:
    """Return whether log-loss is significantly worse than the prior's, at 0.5 % one-sided (`ALARM`)."""
    return skill.p_value is not None and 1.0 - skill.p_value < _NORMAL.cdf(-ALARM)


def lost_calibration(skill: Skill, margin: float) -> bool:
    """Return whether confidence and accuracy differ by more than `margin` and more than `ALARM` standard errors."""
    return abs(skill.confidence - skill.accuracy) > max(margin, ALARM * skill.accuracy_error)


def log_losses(probabilities: FloatArray, classes: IntArray) -> FloatArray:
    """Return -ln p(true class) of each label, (N,) nat; probabilities are (N, K), their rows sum to 1."""
    chosen = probabilities[np.arange(len(classes)), classes]
    return -np.log(np.maximum(chosen, _LEAST_PROBABILITY))


def side_losses(probabilities: FloatArray, classes: IntArray) -> FloatArray:
    """Return -ln p(side of the move | it moves) = -ln (p of the true class / (p_buy + p_sell)); 0 for a hold.

    Holds are kept as zeros, so that the lag of an autocorrelation still counts bars.

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
    """Return the mean return of the moves on the side that was forecast, and its standard error.

    A move whose sides are equally probable counts as 0.

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
    # A mean over moves is a ratio of two sums; holds are kept as 0, so that lags still count bars.
    around = np.where(moved, earned - edge, 0.0)
    return edge, math.sqrt(mean_variance(around, lag)) * len(classes) / int(moved.sum())


def class_shares(classes: IntArray, num_classes: int) -> FloatArray:
    """Return (K,) the share of each class, with one added to each count, so that no share is 0."""
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
    """Return the area under the ROC curve; None without a positive or without a negative.

    It is the chance that a positive scores above a negative, a tie counting half (Mann, Whitney 1947), from ranks.
    """
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    return float((ranks[positive].sum() - yes * (yes + 1) / 2.0) / (yes * no))


def coverage_curve(confidence: FloatArray, right: FloatArray, effective_samples: float) -> FloatArray:
    """Return the accuracy on each share of the most confident labels.

    Args:
        confidence: (N,) probability of the most probable class.
        right: (N,) 1 where it was the true class.
        effective_samples: Labels that count as independent among all N.
    Returns:
        (len(COVERAGES), 3) share of the labels, accuracy, standard error.
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
        bars_per_day: Of the market, for `loss_lag`.
        effective_samples: Sum of the labels' uniqueness.
        seed: Of the labels drawn for `perfect_calibration_error`.

    Raises:
        ConfigError: There are no labels, or a row is not a probability distribution.
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
    right = (predicted == classes).astype(float)
    table = reliability(confidence, right)
    # For labels drawn from the predicted probabilities the forecast is perfectly calibrated.
    dice = np.random.default_rng(seed).random((samples, 1))
    drawn = (dice > probabilities.cumsum(1)[:, :-1]).sum(1)
    perfect = reliability(confidence, (predicted == drawn).astype(float))
    confusion = confusion_matrix(classes, predicted, num_classes)
    return Skill(
        samples=samples,
        effective_samples=effective_samples,
        log_loss=float(losses.mean()),
        prior_log_loss=float(prior_losses.mean()),
        p_value=None if lead is None else lead.p_value,
        accuracy=float(right.mean()),
        majority_accuracy=float(np.mean(priors.argmax(1) == classes)),
        class_shares=np.bincount(classes, minlength=num_classes) / samples,
        brier=float(np.mean(np.sum((probabilities - np.eye(num_classes)[classes]) ** 2, axis=1))),
        calibration_error=calibration_error(table),
        perfect_calibration_error=calibration_error(perfect),
        macro_f1=macro_f1(confusion),
        confusion=confusion,
        reliability=table,
        auc=tuple(roc_auc(probabilities[:, place], classes == place) for place in range(num_classes)),
        coverage=coverage_curve(confidence, right, effective_samples),
        **_direction_skill(probabilities, classes, priors, forward_return, overlap),
    )


def _direction_skill(
    probabilities: FloatArray, classes: IntArray, priors: FloatArray, forward_return: FloatArray, overlap: int
) -> dict[str, Any]:
    """Return the fields of `Skill` about the side of the moves; arguments as in `measure_skill`."""
    moved = classes != HOLD
    moves, said_up = int(moved.sum()), probabilities[:, BUY] > probabilities[:, SELL]
    reference, reference_losses = _side_reference(priors, classes)
    if not moves:
        return {"direction_reference": reference}
    side = diebold_mariano(model_loss=side_losses(probabilities, classes), reference_loss=reference_losses, lag=overlap)
    edge, edge_error = mean_edge(probabilities, classes, forward_return, overlap)
    labels = len(classes)  # the test averages over all of them, holds included; these figures are per move
    return {
        "moves": moves,
        "direction_reference": reference,
        "direction_skill": None if side is None else side.mean_difference * labels / moves,
        "direction_error": None if side is None else side.standard_error * labels / moves,
        "direction_p_value": None if side is None else side.p_value,
        "direction_accuracy": float(np.mean(said_up[moved] == (classes[moved] == BUY))),
        "edge_bp": edge * _BP,
        "edge_error_bp": edge_error * _BP,
    }


def _side_reference(priors: FloatArray, classes: IntArray) -> tuple[str, FloatArray]:
    """Return the better of the prior and 50:50 on the sides of these moves, and its (N,) losses."""
    prior = side_losses(priors, classes)
    coin = np.where(classes == HOLD, 0.0, math.log(2.0))
    return (COIN, coin) if coin.sum() < prior.sum() else ("prior", prior)
