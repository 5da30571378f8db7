"""Seeded training on segments: every bar of a segment at once through the series pass, never a materialised window.

The network starts from what the simple model knows (`tasks.network.start`): its bypass at the logistic solution of the
newest bar's features, its own head at zero. It learns what is left, from labels or from what a teacher makes of them.
Kept are the weights of the last step, or the best by validation loss, where step 0 is a candidate: never worse on
validation than the logistic start. The members of a network are trained side by side (`tasks.network.stack`), each from
a seed of its own, and joined in the end.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from storage.schema import ConfigError, DatasetError, FloatArray, TrainingError
from tasks.network.adamw import AdamW
from tasks.network.architecture import DSCConfig
from tasks.network.calibration import best_temperature, series_scaler
from tasks.network.dsc import DSCTradingModel
from tasks.network.fit_config import FitConfig
from tasks.network.inference import predict_series as predict_series
from tasks.network.inference import sample_logits, torch_threads
from tasks.network.members import joined, member_config
from tasks.network.segments import BarStream, stream_of
from tasks.network.series import UNKNOWN
from tasks.network.series import Series as Series
from tasks.network.stack import MemberStack, Trained
from tasks.network.start import Start, prepare, require_spans
from tasks.network.training_batches import TrainingBatch, TrainingBatches
from tasks.network.training_record import Progress

_SEEDING = Lock()  # torch's random numbers are the process's, where another network may be trained


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A trained network.

    Attributes:
        model: In evaluation mode on the CPU, with its scaler and temperature.
        history: Every validation of every member, oldest first.
        best_steps: Steps behind the kept weights of each member.
        mirrored: Whether it learned from mirror images too.
        temperature: Fitted on validation only.
        validation_loss: Of the kept weights, calibrated, nats.
        seconds: Wall time of the fit.
    """

    model: DSCTradingModel
    history: tuple[Progress, ...]
    best_steps: tuple[int, ...]
    mirrored: bool
    temperature: float
    validation_loss: float
    seconds: float

    @property
    def learned(self) -> float:
        """How far the kept weights' validation loss lies below the start's, mean over the members, nats."""
        starts = [point.validation_loss for point in self.history if point.step == 0]
        kept = [point.validation_loss for point in self.history if point.step == self.best_steps[point.member]]
        return sum(starts) / len(starts) - sum(kept) / len(kept)


def fit(
    config: DSCConfig,
    series: Series,
    train: tuple[int, int],
    validation: tuple[int, int],
    fit_config: FitConfig,
    on_progress: Callable[[Progress], None] | None = None,
    start: Start | None = None,
) -> Fitted:
    """Train a network on bars [start, stop) of `train`; stop early and calibrate on those of `validation`.

    The scaler is of the train bars only. Purging labels that reach from one span into the next is the caller's. The
    network reads the first `config.input_features` of the features; its volatility head is not trained, but solved
    afterwards (vol_head.py). `start` is what `prepare` made of the same series, spans and options; None makes it.

    Raises:
        ConfigError: Spans outside the series or empty; fewer features than the network reads; a logistic start
            without a bypass; a device that is not there.
        LeakError: `validation` starts before `train` stops.
        DatasetError: Too few samples in a span, a class without a single train sample, or one too many.
        TrainingError: A loss is not finite.
    """
    started = time.perf_counter()
    config = replace(config, risk_head=False)
    series = series.first(config.input_features)
    require_spans(series, train, validation)
    _check(config, fit_config)
    with torch_threads(fit_config.threads):
        learn, check = (stream_of(series, span, config.context) for span in (train, validation))
        _check_samples(config, learn, train, check, validation)
        start = prepare(config, series, train, validation, fit_config) if start is None else start
        seeds = [fit_config.seed + number for number in range(config.members)]
        mean, scale = series_scaler(series, train)
        members = [_new_model(member_config(config), mean, scale, start, seed).to(fit_config.device) for seed in seeds]
        batches = TrainingBatches(
            members[0],
            learn,
            fit_config,
            seeds,
            teacher=None if start.teacher is None else start.teacher[learn.bars],
            signs=series.signs if start.mirrored else None,
        )
        per_epoch = math.ceil(
            (len(learn.labels) - config.context + 1) / (fit_config.segment_bars * fit_config.batch_segments)
        )
        del learn  # the batches have a scaled copy
        check = check.to(fit_config.device)
        history, best_steps = _train(members, batches, per_epoch, check, fit_config, on_progress)
        model = joined(members, config) if config.members > 1 else members[0]
        logits, labels = sample_logits(model, check)
        temperature = best_temperature(logits.double().cpu().numpy(), labels.cpu().numpy())
        model.temperature.fill_(temperature)
        calibrated = float(functional.cross_entropy(logits.double() / temperature, labels))
    return Fitted(
        model=model.cpu().eval(),
        history=history,
        best_steps=best_steps,
        mirrored=start.mirrored,
        temperature=temperature,
        validation_loss=calibrated,
        seconds=time.perf_counter() - started,
    )


def _new_model(config: DSCConfig, mean: FloatArray, scale: FloatArray, start: Start, seed: int) -> DSCTradingModel:
    """Return a member before its first step: torch's start of a seed, the scaler, what `start` knows."""
    with _SEEDING, torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        model = DSCTradingModel(config)
    model.feature_mean.copy_(torch.from_numpy(mean))
    model.feature_scale.copy_(torch.from_numpy(scale))
    _set_start(model, start)
    return model.eval()


def _train(
    members: Sequence[DSCTradingModel],
    batches: TrainingBatches,
    per_epoch: int,
    check: BarStream,
    config: FitConfig,
    on_progress: Callable[[Progress], None] | None,
) -> tuple[tuple[Progress, ...], tuple[int, ...]]:
    """Train members, leave in each the weights to keep, and return every validation and the steps of those weights."""
    steps, every = config.epochs * per_epoch, max(1, per_epoch // config.validations_per_epoch)
    stack = MemberStack(members)
    live = Trained(*(tensor.detach() for tensor in stack.trained))
    optimizer = AdamW(stack.trained.weights, config.learning_rate, config.weight_decay, steps)
    average = Trained(*(tensor.clone() for tensor in live)) if config.weight_average else live
    kept = Trained(*(tensor.clone() for tensor in live))
    history: list[Progress] = []
    best, best_steps = [math.inf] * len(members), [0] * len(members)
    learning = list(range(len(members)))  # who has not run out of patience
    total, samples = (torch.zeros(len(members), dtype=torch.float64) for _ in range(2))
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            stack.write(average, members)
            for number in learning:
                loss = _validation_loss(members[number], check)
                _refuse_non_finite([loss], "validation", step, config)
                better, best[number] = loss < best[number], min(loss, best[number])
                if better or config.keep == "last":
                    best_steps[number] = step
                    for own, now in zip(kept, average, strict=True):
                        own[number] = now[number]
                history.append(
                    Progress(
                        step=step,
                        steps=steps,
                        member=number,
                        members=len(members),
                        train_loss=float(total[number] / samples[number]) if samples[number] else None,
                        validation_loss=loss,
                        best_loss=best[number],
                    )
                )
                if on_progress is not None:
                    on_progress(history[-1])
            total.zero_()
            samples.zero_()
            learning = [number for number in learning if step - best_steps[number] < config.patience * every]
            if not learning:  # never with keep "last"
                break
        if step < steps:
            losses, counts = _step(stack, optimizer, next(batches), config)
            _refuse_non_finite([losses[number] for number in learning], "training", step + 1, config)
            total += torch.tensor(losses) * torch.tensor(counts)
            samples += torch.tensor(counts)
            if average is not live:
                for own, now in zip(average, live, strict=True):
                    own.lerp_(now, 1 - config.weight_average)
    stack.write(kept, members)
    return tuple(history), tuple(best_steps)


def _step(
    stack: MemberStack, optimizer: AdamW, batch: TrainingBatch, config: FitConfig
) -> tuple[list[float], list[float]]:
    """Take one step and return every member's mean loss and number of samples."""
    said = torch.log_softmax(stack.logits(batch.z, batch.keep), 1)
    counts = batch.told.sum((1, 2, 3))
    losses = -(batch.told * said).sum((1, 2, 3)) / counts.clamp(min=1)
    losses.sum().backward()  # type: ignore[no-untyped-call]  # torch does not type it
    gradient = stack.trained.weights.grad
    norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    gradient *= (config.gradient_clip / (norms + 1e-6)).clamp(max=1)  # every member's own
    optimizer.step()
    return losses.tolist(), counts.tolist()


def _validation_loss(model: DSCTradingModel, stream: BarStream) -> float:
    """Return the mean plain cross-entropy of a stream's samples, nats."""
    logits, labels = sample_logits(model, stream)
    return float(functional.cross_entropy(logits.double(), labels))


def _refuse_non_finite(losses: Sequence[float], what: str, step: int, config: FitConfig) -> None:
    for loss in losses:
        if not math.isfinite(loss):
            raise TrainingError(
                f"{what} loss was {loss} at step {step}; lower learning_rate (was {config.learning_rate}) "
                "or look for implausible features"
            )


@torch.no_grad()
def _set_start(model: DSCTradingModel, start: Start) -> None:
    """Set the bypass at the logistic solution with the network's own head silent, or at zero."""
    if model.bypass is None:
        return
    if start.weight is None or start.bias is None:
        model.bypass.weight.zero_()
        return
    linear: Any = model.classifier[3]
    model.bypass.weight.copy_(torch.from_numpy(start.weight))
    linear.weight.zero_()
    linear.bias.copy_(torch.from_numpy(start.bias))


def _check(config: DSCConfig, fit_config: FitConfig) -> None:
    """Refuse options that do not fit together."""
    if fit_config.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f'device {fit_config.device!r} needs CUDA, which torch does not find here; use "cpu"')
    if fit_config.bypass_start == "logistic" and not config.linear_bypass:
        raise ConfigError('bypass_start "logistic" needs a network with linear_bypass; set it, or bypass_start "zero"')


def _check_samples(
    config: DSCConfig, learn: BarStream, train: tuple[int, int], check: BarStream, validation: tuple[int, int]
) -> None:
    """Refuse spans with fewer samples than a window has bars, and a class that training would never see."""
    for name, stream, (start, stop) in (("train", learn, train), ("validation", check, validation)):
        samples = int((stream.labels != UNKNOWN).sum())
        if samples < config.window:
            raise DatasetError(
                f"{name} bars [{start}, {stop}) hold {samples} labelled bars with {config.context} finite bars "
                f"of context, at least the window of {config.window} are needed; use more bars or a smaller window"
            )
    counts = np.bincount(learn.labels[learn.labels != UNKNOWN].numpy(), minlength=config.num_classes)
    if len(counts) > config.num_classes:
        raise DatasetError(f"labels must be below num_classes {config.num_classes}, was {len(counts) - 1}")
    if (counts == 0).any():
        raise DatasetError(
            f"train bars [{train[0]}, {train[1]}) hold no sample of class {int(np.argmin(counts))} "
            f"(samples per class: {counts.tolist()}); use more bars, or labels that are less one-sided"
        )
