"""Row 8: an epoch on segments against an epoch on windows; same network, samples, optimiser and schedule.

Same means step by step: every window of a segment in one step. So the losses tell what segments change, which is
BatchNorm's statistics (a segment counts each bar once, its windows count a bar as often as they hold it). One epoch
leaves a network far from anywhere, where its loss depends on the seed most of all: losses are means over seeds, and
each seed's stands beside them. The source text's own epoch takes ten times as many steps, 64 shuffled windows each; it
is timed by some of them.
"""

import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tasks.market.features import WARM_UP, build_features
from tasks.market.labels import LabelConfig, label_bars
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.calibration import scaler
from tasks.network.fit import fit
from tasks.network.fit_config import FitConfig
from tasks.network.inference import sample_logits
from tasks.network.segments import BarStream, draw_segments, stream_of
from tasks.network.series import UNKNOWN, Series

TRAIN, CHECK = 12_800, 6_400
SEGMENT = 640  # bars
BATCH = 64  # windows a step of the source text
RATE = 1e-3
SEEDS = (7, 8)  # a windowed epoch takes half a minute
TIMED = 12  # steps on windows, on one thread; the others may have them all


def planted_series(config):
    candles = generate(SyntheticMarket(bars=WARM_UP + config.context + TRAIN + CHECK))
    features = build_features(candles.matrix(), 300_000)
    labels = label_bars(candles.open, features.vol, features.segment, LabelConfig(cost_floor_multiple=0.0), 0.0)
    inputs = features.values[:, : config.input_features]
    return Series(features=inputs, labels=labels.classes, segment=features.segment)


Batches = list[tuple[Tensor, Tensor]]


def windows_of_segments(stream: BarStream, context: int, seed: int) -> Batches:
    """Return the batches of an epoch of `fit`, each (N, F, context) windows of a segment and their (N,) labels."""

    def steps() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.Generator().manual_seed(seed)
        for (start,) in draw_segments(stream.labels.numpy(), context, SEGMENT, 1, order):
            rows = slice(int(start), int(start) + SEGMENT + context - 1)
            labels = stream.labels[rows][context - 1 :]
            known = labels != UNKNOWN
            yield stream.features[rows].unfold(0, context, 1)[known], labels[known]

    return list(islice(steps(), math.ceil((len(stream.labels) - context + 1) / SEGMENT)))


def shuffled_windows(stream: BarStream, context: int, seed: int) -> Batches:
    """Return the batches of an epoch of the source text, as many as are timed."""
    windows = stream.features.unfold(0, context, 1)
    labels = stream.labels[context - 1 :]
    known = torch.nonzero(labels != UNKNOWN)[:, 0]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    return [(windows[rows], labels[rows]) for rows in torch.split(known[order], BATCH)[:TIMED]]


def windowed_epoch(network, series, train, batches):
    """Train on batches of windows, a step each; return the model and the seconds that they take on one thread."""
    model = network.model.__class__(network.config).train()
    mean, scale = scaler(series.features[slice(*train)])
    model.feature_mean.copy_(torch.from_numpy(mean))
    model.feature_scale.copy_(torch.from_numpy(scale))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    seconds = []
    for number, (windows, labels) in enumerate(batches):
        torch.set_num_threads(1 if number < TIMED else os.cpu_count() or 1)
        start = time.perf_counter()
        optimizer.zero_grad()
        functional.cross_entropy(model(windows), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(1)
    return model.eval(), np.median(seconds[:TIMED]) * len(seconds)


def loss_of(model, series, span):
    logits, labels = sample_logits(model, stream_of(series, span, model.config.context))
    return float(functional.cross_entropy(logits.double(), labels))


def test_epoch_on_segments_is_faster_than_on_windows_and_learns_as_much(
    race, ledger, compare, line, side, make_network
):
    network = make_network("source", 400)
    context = network.config.context
    series = planted_series(network.config)
    first = WARM_UP + context
    train, check = (first, first + TRAIN), (first + TRAIN, first + TRAIN + CHECK)
    config = FitConfig(
        epochs=1, learning_rate=RATE, validations_per_epoch=1, input_noise=0.0, weight_average=0.0,
        bypass_start="zero", distil=0.0, segment_bars=SEGMENT, batch_segments=1, seed=SEEDS[0],
    )  # fmt: skip
    stream = stream_of(series, train, context)

    def windowed(seed: int):
        batches = windows_of_segments(stream, context, seed)
        torch.manual_seed(seed)  # weights as those of `fit`
        model, seconds = windowed_epoch(network, series, train, batches)
        return loss_of(model, series, check), seconds

    theirs, taken = zip(*[windowed(seed) for seed in SEEDS], strict=True)
    some = shuffled_windows(stream, context, SEEDS[0])
    source_taken = windowed_epoch(network, series, train, some)[1] / TIMED * math.ceil(TRAIN / BATCH)

    def fitted(epochs: int = 1, seed: int = SEEDS[0]):
        return fit(network.config, series, train, check, replace(config, epochs=epochs, seed=seed))

    ours = [fitted(seed=seed).history[-1].validation_loss for seed in SEEDS]
    later = [fitted(3, seed).history[-1].validation_loss for seed in SEEDS]

    # What a second epoch adds is an epoch, without what `fit` does once; windows are timed without a validation, so
    # here it is of a window's bars.
    short = (check[0], check[0] + network.config.window)

    def timed(epochs: int):
        return fit(network.config, series, train, short, replace(config, epochs=epochs))

    times = race({"one epoch": side(lambda: timed(1)), "two epochs": side(lambda: timed(2))}, rounds=9)
    segments = times.seconds["two epochs"] - times.seconds["one epoch"]
    # Against whichever took windows faster: many at once need memory, few at once need steps.
    times.seconds.update(segments=segments, windows=np.full(len(segments), min(*taken, source_taken)))

    prior = np.bincount(series.labels[slice(*train)][series.labels[slice(*train)] >= 0], minlength=3) / TRAIN
    beside = {
        "log-loss, segments": ", ".join(f"{loss:.4f}" for loss in ours),
        "log-loss, three epochs on segments": ", ".join(f"{loss:.4f}" for loss in later),
        "log-loss, windows": ", ".join(f"{loss:.4f}" for loss in theirs),
        "seconds, windows": ", ".join(f"{seconds:.1f}" for seconds in taken),
        f"seconds, {BATCH} shuffled windows a step": source_taken,
        f"one epoch of {BATCH} shuffled windows a step over three on segments": source_taken / np.median(segments) / 3,
        "of the prior": float(-(prior * np.log(prior)).sum()),
    }
    ledger.enter(
        compare(8, "epoch_vs_windowed", times, "windows", "segments", f"{TRAIN:,} bars", at_least=60, beside=beside),
        line(
            number=8,
            key="epoch_logloss_delta",
            value=float(np.mean(ours) - np.mean(theirs)),
            at_most=0.001,
            work=f"after one epoch of the same steps, mean of {len(SEEDS)} seeds",
        ),
    )
