"""What a member is told is its own: order, noise, mirrors and dropout come from its seed alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from storage.schema import FloatArray
from tasks.network.architecture import DSCConfig
from tasks.network.dsc import DSCTradingModel
from tasks.network.fit_config import FitConfig
from tasks.network.segments import BarStream
from tasks.network.series import UNKNOWN
from tasks.network.training_batches import TrainingBatch, TrainingBatches

NETWORK = DSCConfig(input_features=2, hidden_channels=4, num_blocks=1, window=3, dropout=0.5, newest_step=True)
CONFIG = FitConfig(segment_bars=6, batch_segments=3, input_noise=0.0)
BARS = 60


def counted(**changes: Any) -> BarStream:
    """Return bars that count themselves in both features, under classes that follow from the count."""
    count = torch.arange(1.0, BARS + 1)
    stream = BarStream(
        features=torch.stack([count, -count], 1), labels=(torch.arange(BARS) + 1) % 3, bars=np.arange(BARS)
    )
    return replace(stream, **changes)


def batches(
    stream: BarStream,
    network: DSCConfig = NETWORK,
    config: FitConfig = CONFIG,
    seeds: tuple[int, ...] = (1, 2),
    **more: Any,
) -> TrainingBatches:
    return TrainingBatches(DSCTradingModel(replace(network, input_clip=None)), stream, config, seeds, **more)


def test_batch_holds_each_segment_with_its_context_and_what_its_last_bars_are_told() -> None:
    source = batches(counted())
    for _ in range(20):
        z, told, keep = next(source)
        assert z.shape == (2, 6 + NETWORK.context - 1, 3, 2)
        assert told.shape == (2, 3, 6, 3)
        assert keep.shape == (2, 2, 4, 3)
        assert torch.equal(told.argmax(1), z[:, NETWORK.context - 1 :, :, 0].long() % 3)  # bars count alike
        assert torch.equal(z[:, 1:] - z[:, :-1], torch.tensor([1.0, -1.0]).expand_as(z[:, 1:]))
        assert torch.equal(told.sum(1), torch.ones(2, 6, 3))


def test_windows_of_zero_padding_are_segments_of_one_sample() -> None:
    network = replace(NETWORK, padding="zeros", window=5)
    z, told, keep = next(batches(counted(), network))
    assert z.shape == (2, 5, 18, 2)
    assert told.shape == (2, 3, 1, 18)
    assert keep.shape == (2, 2, 4, 18)
    assert torch.equal(told[:, :, 0].argmax(1), z[:, -1, :, 0].long() % 3)


def test_scaler_noise_and_clip_make_the_inputs() -> None:
    model = DSCTradingModel(replace(NETWORK, input_clip=2.0))
    model.feature_mean.copy_(torch.tensor([30.0, -30.0]))
    model.feature_scale.copy_(torch.tensor([10.0, 5.0]))
    plain = next(TrainingBatches(model, counted(), CONFIG, [1])).z
    noisy = next(TrainingBatches(model, counted(), replace(CONFIG, input_noise=0.2), [1])).z
    assert plain.abs().max() == 2.0
    assert noisy.abs().max() == 2.0
    inside = (plain.abs() < 1.2) & (noisy.abs() < 2)
    assert (noisy - plain)[inside].std() == pytest.approx(0.2, rel=0.25)  # some 30 draws


def same(one: TrainingBatch, other: TrainingBatch, member: int) -> bool:
    return all(torch.equal(mine[member], theirs[0]) for mine, theirs in zip(one, other, strict=True))


@pytest.mark.promise(8)
def test_member_is_told_the_same_whoever_learns_beside_it() -> None:
    config, stream = replace(CONFIG, input_noise=0.3), counted(kept=torch.linspace(0.2, 1, BARS))
    signs = np.array([-1.0, 1.0])
    together = batches(stream, config=config, seeds=(5, 6, 7), signs=signs)
    alone = [batches(stream, config=config, seeds=(seed,), signs=signs) for seed in (5, 6, 7)]
    for _ in range(30):  # several epochs
        told = next(together)
        for number, own in enumerate([next(one) for one in alone]):
            assert same(told, own, number)
        assert not same(told, TrainingBatch(*(part[1:2] for part in told)), 0)


def test_bar_is_told_its_teacher_and_its_label_where_the_teacher_is_silent() -> None:
    teacher = np.tile(np.array([0.5, 0.25, 0.25], np.float32), (BARS, 1))
    teacher[::2] = np.nan
    labels = (torch.arange(BARS) + 1) % 3
    labels[-6:] = UNKNOWN
    for distil, share in ((1.0, 1.0), (0.5, 0.5), (0.0, 0.0)):
        source = batches(counted(labels=labels), config=replace(CONFIG, distil=distil), teacher=teacher)
        for _ in range(20):
            z, told, _ = next(source)
            count = z[:, NETWORK.context - 1 :, :, 0].long()
            label = torch.nn.functional.one_hot(count % 3, 3)
            said = torch.lerp(label.float(), torch.tensor([0.5, 0.25, 0.25]), share)
            expected = torch.where(((count - 1) % 2 == 0)[..., None], label, said)
            expected = torch.where((count > BARS - 6)[..., None], 0.0, expected)
            torch.testing.assert_close(told.permute(0, 2, 3, 1), expected)


def test_smoothing_spreads_a_share_of_every_label_and_gives_none_to_a_bar_without_one() -> None:
    labels = torch.full((BARS,), UNKNOWN)
    labels[30:] = 1
    _, told, _ = next(batches(counted(labels=labels), config=replace(CONFIG, label_smoothing=0.3)))
    values = {tuple(round(p, 4) for p in row) for row in told.permute(0, 2, 3, 1).flatten(0, 2).tolist()}
    assert values <= {(0.1, 0.8, 0.1), (0.0, 0.0, 0.0)}
    assert (0.1, 0.8, 0.1) in values


def test_every_other_segment_is_a_mirror_image_and_is_told_the_mirror_image() -> None:
    teacher = np.tile(np.array([0.7, 0.2, 0.1], np.float32), (BARS, 1))
    source = batches(counted(), teacher=teacher, signs=np.array([-1.0, 1.0]))
    mirrored: list[bool] = []
    for _ in range(50):
        z, told, _ = next(source)
        image = z[:, 0, :, 0] < 0
        mirrored += image.flatten().tolist()
        assert torch.equal((z[..., 0] < 0), image[:, None].expand(z.shape[:3]))  # of whole segments
        assert (z[..., 1] < 0).all()
        first = told[:, 0]
        torch.testing.assert_close(first, torch.where(image[:, None], 0.1, 0.7).expand_as(first))
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.12)  # 300 draws: 4 standard errors


def test_dropout_leaves_inputs_of_the_head_their_mean() -> None:
    network = replace(NETWORK, dropout=0.2, hidden_channels=512)
    keep = next(batches(counted(), network)).keep
    assert set(keep.unique().tolist()) == {0.0, 1.25}
    assert float(keep.mean()) == pytest.approx(1.0, abs=0.04)  # 6,144 draws: 6 standard errors
    assert next(batches(counted(), replace(network, dropout=0.0))).keep.unique().tolist() == [1.0]


def test_label_is_learned_from_as_often_as_its_weight_says() -> None:
    weights: FloatArray = np.tile([0.25, 0.5, 1.0, 0.0], BARS // 4)
    source = batches(counted(kept=torch.from_numpy(weights)), seeds=(0,))
    told, of = [], []
    for _ in range(1_500):
        z, now, _ = next(source)
        told.append(now.sum(1).flatten().numpy())
        of.append(weights[z[0, NETWORK.context - 1 :, :, 0].flatten().long().numpy() - 1])
    for weight in (0.25, 0.5, 1.0, 0.0):
        share = np.concatenate(told)[np.concatenate(of) == weight].mean()
        assert share == pytest.approx(weight, abs=0.03)  # some 6,000 draws: 4 standard errors
