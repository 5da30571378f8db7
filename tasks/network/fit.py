"""Seeded training on segments: every bar of a segment at once through the series pass, never a materialised window.

The network starts from what the simple model knows (`tasks.network.start`): its bypass at the logistic solution of the
newest bar's features, its own head at zero. It learns what is left, from labels or from what a teacher makes of them.
Kept are the weights of the last step, or the best by validation loss, where step 0 is a candidate: never worse on
validation than the logistic start. A network of several members is trained one member after the other, each from a
seed of its own, and joined in the end.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from storage.schema import ConfigError, DatasetError, FloatArray, TrainingError
from tasks.network.architecture import DSCConfig
from tasks.network.calibration import best_temperature, scaler
from tasks.network.dsc import DSCTradingModel
from tasks.network.fit_config import FitConfig
from tasks.network.inference import predict_series as predict_series
from tasks.network.inference import sample_logits, torch_threads
from tasks.network.members import joined, member_config
from tasks.network.segments import UNKNOWN, Batch, Stream, draw_batches, stream_of
from tasks.network.segments import Series as Series
from tasks.network.start import Start, prepare, require_spans


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One validation.

    Attributes:
        step: Steps done.
        steps: Steps at most.
        member: Which member of the network is being trained, from 0.
        members: How many it has.
        train_loss: Mean loss per sample since the validation before, against the teacher where there is one, smoothing
            included, nats; None at step 0.
        validation_loss: Mean plain cross-entropy per validation sample, uncalibrated, nats.
        best_loss: The least validation loss so far.
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
        return (self.member + self.step / self.steps) / self.members


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

    The scaler is of the train bars only. Purging labels that reach from one span into the next is the caller's.

    Args:
        config: Shape of the network.
        series: Features, labels and runs; of the features the first `config.input_features` are read.
        train: Half-open span of bars.
        validation: Half-open span of bars, after `train`.
        fit_config: How to train.
        on_progress: Called after every validation.
        start: What `prepare` made of the same series, spans and options; None makes it.

    Raises:
        ConfigError: Spans outside the series or empty; fewer features than the network reads; a logistic start
            without a bypass; a device that is not there.
        LeakError: `validation` starts before `train` stops.
        DatasetError: Too few samples in a span, a class without a single train sample, or one too many.
        TrainingError: A loss is not finite.
    """
    started = time.perf_counter()
    series = series.first(config.input_features)
    require_spans(series, train, validation)
    _check(config, fit_config)
    devices = [torch.device(fit_config.device)] if fit_config.device.startswith("cuda") else []
    with torch_threads(fit_config.threads), torch.random.fork_rng(devices):
        learn, check = (stream_of(series, span, config.context) for span in (train, validation))
        _check_samples(config, learn, train, check, validation)
        start = prepare(config, series, train, validation, fit_config) if start is None else start
        if start.teacher is not None:
            learn = replace(learn, targets=_targets(start.teacher[learn.bars], learn.labels, fit_config.distil))
        learn, check = learn.to(fit_config.device), check.to(fit_config.device)
        signs = _signs(series, fit_config) if start.mirrored else None
        members: list[DSCTradingModel] = []
        history: list[Progress] = []
        best_steps: list[int] = []
        shape, train_features = member_config(config), series.features[slice(*train)]
        for number in range(config.members):
            seeded = replace(fit_config, seed=fit_config.seed + number)
            torch.manual_seed(seeded.seed)
            model = _new_model(shape, train_features).to(fit_config.device)
            _set_start(model, start)
            place = number, config.members
            points, best_step = _train(model, learn, check, signs, seeded, place, on_progress)
            history += points
            best_steps.append(best_step)
            members.append(model)
        model = joined(members, config) if config.members > 1 else members[0]
        logits, labels = sample_logits(model, check)
        temperature = best_temperature(logits.double().cpu().numpy(), labels.cpu().numpy())
        model.temperature.fill_(temperature)
        calibrated = float(functional.cross_entropy(logits.double() / temperature, labels))
    return Fitted(
        model=model.cpu().eval(),
        history=tuple(history),
        best_steps=tuple(best_steps),
        mirrored=start.mirrored,
        temperature=temperature,
        validation_loss=calibrated,
        seconds=time.perf_counter() - started,
    )


def _new_model(config: DSCConfig, train: FloatArray) -> DSCTradingModel:
    """Return a network at torch's start with the scaler of its train bars."""
    model = DSCTradingModel(config)
    mean, scale = scaler(train)
    model.feature_mean.copy_(torch.from_numpy(mean))
    model.feature_scale.copy_(torch.from_numpy(scale))
    return model


def _train(
    model: DSCTradingModel,
    learn: Stream,
    check: Stream,
    signs: Tensor | None,
    config: FitConfig,
    place: tuple[int, int],
    on_progress: Callable[[Progress], None] | None,
) -> tuple[list[Progress], int]:
    """Train `model`, leave the weights to keep in it, and return every validation and the step of those weights.

    Its `place` is its number among the members, and how many they are.
    """
    context = model.config.context
    order = torch.Generator().manual_seed(config.seed)
    batches = draw_batches(learn, context, config.segment_bars, config.batch_segments, order)
    per_epoch = math.ceil((len(learn.labels) - context + 1) / (config.segment_bars * config.batch_segments))
    steps, every = config.epochs * per_epoch, max(1, per_epoch // config.validations_per_epoch)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average = copy.deepcopy(model) if config.weight_average else model
    average_weights = get_ema_multi_avg_fn(config.weight_average)  # type: ignore[no-untyped-call]  # torch does not type it
    # The live tensors, so that a step changes them: weights, and running statistics too.
    kept, new = ([t for t in one.state_dict().values() if t.is_floating_point()] for one in (average, model))
    history: list[Progress] = []
    best, best_step, best_state, total, samples = math.inf, 0, {}, 0.0, 0
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            loss = _validation_loss(average.eval(), check)
            _refuse_non_finite(loss, "validation", step, config)
            better, best = loss < best, min(loss, best)
            if better or config.keep == "last":
                best_step = step
                best_state = {name: tensor.clone() for name, tensor in average.state_dict().items()}
            train_loss = total / samples if samples else None
            total, samples = 0.0, 0
            history.append(
                Progress(
                    step=step,
                    steps=steps,
                    member=place[0],
                    members=place[1],
                    train_loss=train_loss,
                    validation_loss=loss,
                    best_loss=best,
                )
            )
            if on_progress is not None:
                on_progress(history[-1])
            if step - best_step >= config.patience * every:  # never with keep "last"
                break
        if step < steps:
            batch = next(batches)
            if signs is not None:
                batch = _mirror_some(batch, signs, model.config.num_classes)
            summed, count = _step(model, optimizer, batch, config)
            _refuse_non_finite(summed, "training", step + 1, config)
            total, samples = total + summed, samples + count
            schedule.step()
            if average is not model:
                average_weights(kept, new, step)
    model.load_state_dict(best_state)
    model.eval()
    return history, best_step


def _step(
    model: DSCTradingModel, optimizer: torch.optim.Optimizer, batch: Batch, config: FitConfig
) -> tuple[float, int]:
    """Take one step on a batch and return its summed loss and its number of samples."""
    x, labels, targets = batch
    model.train()
    if config.input_noise:
        x = x + config.input_noise * model.feature_scale * torch.randn_like(x)
    optimizer.zero_grad()
    known = labels != UNKNOWN
    count = int(known.sum())
    loss = functional.cross_entropy(
        model.forward_series(x)[known],
        labels[known] if targets is None else targets[known],
        label_smoothing=config.label_smoothing,
    )
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
    optimizer.step()
    return float(loss.detach()) * count, count


def _validation_loss(model: DSCTradingModel, stream: Stream) -> float:
    """Return the mean plain cross-entropy of a stream's samples, nats."""
    logits, labels = sample_logits(model, stream)
    return float(functional.cross_entropy(logits.double(), labels))


def _refuse_non_finite(loss: float, what: str, step: int, config: FitConfig) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{what} loss was {loss} at step {step}; lower learning_rate (was {config.learning_rate}) "
            "or look for implausible features"
        )


def _signs(series: Series, config: FitConfig) -> Tensor | None:
    """Return the (F,) signs of a mirror image, or None where there is none."""
    return None if series.signs is None else torch.from_numpy(series.signs.astype(np.float32)).to(config.device)


def _targets(taught: NDArray[np.float32], labels: Tensor, distil: float) -> Tensor:
    """Return (P, K) what each bar of a stream is to be told: teacher and label, or the label where no teacher is."""
    told = functional.one_hot(labels.clamp(min=0), taught.shape[1]).float()
    teacher = torch.from_numpy(taught)
    return torch.where(teacher.isnan(), told, torch.lerp(told, teacher, distil))


def _mirror_some(batch: Batch, signs: Tensor, num_classes: int) -> Batch:
    """Return a batch with every other segment, by chance, as its mirror image."""
    x, labels, targets = batch
    chosen = torch.rand(len(x), device=x.device) < 0.5
    reverse = chosen[:, None] & (labels != UNKNOWN)
    if targets is not None:
        targets = torch.where(chosen[:, None, None], targets.flip(-1), targets)
    x = torch.where(chosen[:, None, None], x * signs, x)
    return Batch(x, torch.where(reverse, num_classes - 1 - labels, labels), targets)


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
    config: DSCConfig, learn: Stream, train: tuple[int, int], check: Stream, validation: tuple[int, int]
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
