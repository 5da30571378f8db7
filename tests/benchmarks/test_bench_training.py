"""Row 8: an epoch on segments against an epoch on windows; same network, samples, optimiser and schedule.

One epoch leaves a network far from anywhere: its loss depends on the seed more than on how it was trained. So losses
are means over seeds, and each seed's stands beside them.
"""

import time
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from tasks.market.features import WARM_UP, build_features
from tasks.market.labels import LabelConfig, label_bars
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.calibration import scaler
from tasks.network.fit import Series, fit
from tasks.network.fit_config import FitConfig
from tasks.network.inference import sample_logits
from tasks.network.segments import UNKNOWN, stream_of

TRAIN, CHECK = 20_000, 10_000
BATCH = 64  # windows a step
RATE = 1e-3
SEEDS = (7, 8)  # a windowed epoch takes half a minute


def planted_series(config):
    candles = generate(SyntheticMarket(bars=WARM_UP + config.context + TRAIN + CHECK))
    features = build_features(candles.matrix(), 300_000)
    labels = label_bars(candles.open, features.vol, features.segment, LabelConfig(cost_floor_multiple=0.0), 0.0)
    inputs = features.values[:, : config.input_features]
    return Series(features=inputs, labels=labels.classes, segment=features.segment)


def windowed_epoch(network, series, train):
    """Train as the source text does, a batch of shuffled windows a step; return the model and each step's seconds."""
    stream = stream_of(series, train, network.config.context)
    model = network.model.__class__.from_config(network.config).train()
    mean, scale = scaler(series.features[slice(*train)])
    model.feature_mean.copy_(torch.from_numpy(mean))
    model.feature_scale.copy_(torch.from_numpy(scale))
    windows = stream.features.unfold(0, network.config.context, 1)  # (N, F, context), a view
    labels = stream.labels[network.config.context - 1 :]
    known = torch.nonzero(labels != UNKNOWN)[:, 0]
    batches = torch.split(known[torch.randperm(len(known))], BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    seconds = []
    for rows in batches:
        start = time.perf_counter()
        optimizer.zero_grad()
        functional.cross_entropy(model(windows[rows]), labels[rows]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seconds.append(time.perf_counter() - start)
    return model.eval(), seconds


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
        bypass_start="zero", segment_bars=640, batch_segments=1, seed=7,
    )  # fmt: skip
    taken, theirs = [], []
    for seed in SEEDS:
        torch.manual_seed(seed)
        windowed, seconds = windowed_epoch(network, series, train)
        taken.append(np.median(seconds) * len(seconds))
        theirs.append(loss_of(windowed, series, check))

    def fitted(epochs: int = 1, seed: int = SEEDS[0]):
        return fit(network.config, series, train, check, replace(config, epochs=epochs, seed=seed))

    ours = [fitted(seed=seed).history[-1].validation_loss for seed in SEEDS]

    later = [fitted(3, seed).history[-1].validation_loss for seed in SEEDS]

    # What a second epoch adds is an epoch and its validation, without what `fit` does once.
    times = race({"one epoch": side(fitted), "two epochs": side(lambda: fitted(2))}, rounds=5)
    segments = times.seconds["two epochs"] - times.seconds["one epoch"]
    times.seconds.update(segments=segments, windows=np.full(len(segments), np.mean(taken)))

    prior = np.bincount(series.labels[slice(*train)][series.labels[slice(*train)] >= 0], minlength=3) / TRAIN
    beside = {
        "log-loss, segments": ", ".join(f"{loss:.4f}" for loss in ours),
        "log-loss, three epochs on segments": ", ".join(f"{loss:.4f}" for loss in later),
        "log-loss, windows": ", ".join(f"{loss:.4f}" for loss in theirs),
        "one epoch on windows over three on segments": times.ratio("windows", "segments") / 3,
        "of the prior": float(-(prior * np.log(prior)).sum()),
    }
    ledger.enter(
        compare(8, "epoch_vs_windowed", times, "windows", "segments", "20,000 bars", at_least=60, beside=beside),
        line(
            number=8,
            key="epoch_logloss_delta",
            value=float(np.mean(ours) - np.mean(theirs)),
            at_most=0.001,
            work=f"after one epoch each, mean of {len(SEEDS)} seeds",
        ),
    )
