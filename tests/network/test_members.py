"""Members side by side are their mean: in every layer that a network may have, and after a fit."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.schema import ConfigError
from tasks.network.architecture import Block, DSCConfig
from tasks.network.engine import Engine
from tasks.network.fit import fit
from tasks.network.fit_config import FitConfig
from tasks.network.kernels import GROUP, WIDTH
from tasks.network.lanes import LANES
from tasks.network.members import joined, member_config
from tasks.network.series import Series

PARITY = 1e-5
FIT = FitConfig(epochs=1, segment_bars=64, batch_segments=2)


@pytest.mark.promise(7)
@settings(deadline=None, max_examples=40)
@given(
    members=st.integers(1, 4),
    channels=st.integers(1, 6),
    blocks=st.integers(1, 3),
    block=st.sampled_from(get_args(Block)),
    padding=st.sampled_from(["history", "zeros"]),
    newest_step=st.booleans(),
    linear_bypass=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_joined_network_gives_the_mean_of_its_members_logits(
    random_model, members, channels, blocks, block, padding, newest_step, linear_bypass, seed
):
    config = DSCConfig(
        input_features=3,
        hidden_channels=members * channels,
        num_blocks=blocks,
        window=5,
        members=members,
        block=block,
        padding=padding,
        newest_step=newest_step,
        linear_bypass=linear_bypass,
    )
    models = [random_model(member_config(config), seed + i) for i in range(members)]
    for model in models:
        model.feature_mean.copy_(models[0].feature_mean)
        model.feature_scale.copy_(models[0].feature_scale)
        model.temperature.fill_(1.0)
    x = torch.randn(config.context + 4, 3, generator=torch.Generator().manual_seed(seed))
    whole = joined(models, config)
    with torch.no_grad():
        mean = torch.stack([model.forward_series(x) for model in models]).mean(0)
        assert whole.config == config
        torch.testing.assert_close(whole.forward_series(x), mean, atol=PARITY, rtol=PARITY)
        windows = x.unfold(0, config.context, 1)
        torch.testing.assert_close(whole(windows), mean, atol=PARITY, rtol=PARITY)


@pytest.mark.promise(7)
@settings(deadline=None, max_examples=25)
@given(
    members=st.integers(2, 4),
    channels=st.sampled_from([5, 16, 32, 48, 64]),  # of a member: part of a vector, or one, two, three, four
    blocks=st.integers(1, 3),
    block=st.sampled_from(get_args(Block)),
    mixed=st.booleans(),
    markets=st.integers(1, 9),
    seed=st.integers(0, 2**20),
)
def test_engine_of_a_joined_network_equals_it_and_leaves_out_only_what_is_zero(
    random_model, members, channels, blocks, block, mixed, markets, seed
):
    config = DSCConfig(
        input_features=3, hidden_channels=members * channels, num_blocks=blocks, window=3, members=members, block=block
    )
    whole = joined([random_model(member_config(config), seed + i) for i in range(members)], config)
    if mixed:  # weights from elsewhere, in which one member hears another
        layer = whole.blocks[-1].conv if block == "standard" else whole.blocks[-1].pointwise
        layer.weight.data[0, -1] += 0.5
    weights = {name: tensor.numpy() for name, tensor in whole.state_dict().items()}
    engine = Engine.from_weights(config, weights, markets)
    apart = channels % LANES == 0 and not mixed
    assert engine.weights[GROUP] == (channels if apart else engine.weights[WIDTH])
    x = torch.randn(config.context + 4, 3, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = torch.softmax(whole.forward_series(x), dim=1).numpy()
    steps = np.array([engine.step_markets(np.tile(row, (markets, 1))) for row in x.double().numpy()])
    np.testing.assert_allclose(steps[config.context - 1 :, 0], expected, atol=PARITY, rtol=PARITY)
    np.testing.assert_array_equal(steps, np.broadcast_to(steps[:, :1], steps.shape))
    one = Engine.from_weights(config, weights)
    np.testing.assert_array_equal([one.step(row) for row in x.double().numpy()], steps[:, 0])
    np.testing.assert_allclose(softmax(one.run_series(x.double().numpy())), expected, atol=PARITY, rtol=PARITY)


def softmax(logits):
    mass = np.exp(logits - logits.max(axis=1, keepdims=True))
    return mass / mass.sum(axis=1, keepdims=True)


def noisy_series(bars: int) -> Series:
    """Labels that lean on the first of three features."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(bars, 3))
    labels = np.digitize(features[:, 0] + rng.normal(size=bars), [-0.7, 0.7])
    return Series(features=features, labels=labels, segment=np.zeros(bars, np.int64))


@pytest.mark.promise(8)
def test_fit_of_members_is_the_mean_of_the_fits_with_their_seeds_and_no_worse_on_validation():
    network = DSCConfig(
        input_features=3, hidden_channels=12, num_blocks=1, window=4, newest_step=True, linear_bypass=True, members=3
    )
    series, train, validation = noisy_series(1_500), (10, 1_000), (1_010, 1_500)
    together = fit(network, series, train, validation, FIT)
    apart = [fit(member_config(network), series, train, validation, replace(FIT, seed=FIT.seed + i)) for i in range(3)]
    x = torch.from_numpy(series.features[validation[0] :].astype(np.float32))
    with torch.no_grad():
        uncalibrated = together.model.forward_series(x) * together.temperature
        means = torch.stack([one.model.forward_series(x) * one.temperature for one in apart]).mean(0)
    torch.testing.assert_close(uncalibrated, means, atol=PARITY, rtol=PARITY)
    best = [point.best_loss for one in apart for point in one.history[-1:]]
    assert together.validation_loss <= np.mean(best)
    assert together.best_steps == tuple(step for one in apart for step in one.best_steps)
    assert together.learned == pytest.approx(np.mean([one.learned for one in apart]))
    shares = [point.share for point in together.history]
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_channels_that_cannot_be_divided_among_members_are_refused():
    with pytest.raises(ConfigError, match="hidden_channels must be a multiple of the 3 members, was 16"):
        DSCConfig(hidden_channels=16, members=3)
