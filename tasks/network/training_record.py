"""What a training says of itself, for whoever reads it: no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One validation.

    Attributes:
        steps: Steps at most.
        member: Which member of the network it is of, from 0.
        train_loss: Mean loss per sample since the validation before, against the teacher where there is one, smoothing
            included, nats; None at step 0.
        validation_loss: Mean plain cross-entropy per validation sample, uncalibrated, nats.
    """

    step: int
    steps: int
    member: int
    members: int
    train_loss: float | None
    validation_loss: float
    best_loss: float

    @property
    def share(self) -> float:
        """Share of the whole fit that is done, if no member stops early."""
        return self.step / self.steps


@dataclass(frozen=True, kw_only=True)
class VolHeadFit:
    """How a volatility head was solved, and how far off it was there.

    Attributes:
        windows: How many windows that do not overlap it was solved on; 0 where they were too few and the row is silent:
            present volatility goes on.
        log_gap: Mean of ln(RV / F), F the expected variance.
        quantiles: Of RV / F at the levels asked for.
    """

    windows: float
    log_gap: float
    quantiles: tuple[float, ...]
