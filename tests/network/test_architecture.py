import math
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from storage.schema import ConfigError
from tasks.network.architecture import (
    PRESETS,
    Block,
    DSCConfig,
    layer_macs,
    layers,
    macs_per_bar,
    macs_per_window,
    parameters,
    preset,
    scaled,
)
from tasks.network.dsc import DSCTradingModel

configs = st.builds(
    DSCConfig,
    input_features=st.integers(1, 5),
    hidden_channels=st.integers(1, 9),
    num_blocks=st.integers(1, 4),
    num_classes=st.integers(2, 4),
    kernel_size=st.sampled_from([3, 5, 7]),
    window=st.integers(1, 20),
    padding=st.sampled_from(["history", "zeros"]),
    block=st.sampled_from(get_args(Block)),
    newest_step=st.booleans(),
    linear_bypass=st.booleans(),
)


@pytest.mark.parametrize(
    ("kernel_size", "num_blocks", "bars"), [(3, 4, 31), (3, 6, 127), (7, 4, 91), (9, 4, 121), (5, 5, 125)]
)
def test_receptive_field_is_the_closed_form(kernel_size: int, num_blocks: int, bars: int) -> None:
    # 1 + (K-1) * (2^B - 1) for dilations 1, 2, 4, ...
    assert DSCConfig(kernel_size=kernel_size, num_blocks=num_blocks).receptive_field == bars


def test_context_is_window_and_field_with_history_and_window_with_zeros() -> None:
    assert DSCConfig(padding="history").context == 100 + 31 - 1
    assert DSCConfig(padding="zeros").context == 100


@pytest.mark.parametrize(
    ("kernel_size", "standard", "separable"),
    [(3, 12_288, 4_288), (5, 20_480, 4_416), (7, 28_672, 4_544), (9, 36_864, 4_672), (11, 45_056, 4_800)],
)
def test_layer_macs_are_the_one_dimensional_arithmetic(kernel_size: int, standard: int, separable: int) -> None:
    # K*C*C against K*C + C*C at C = 64, worked by hand
    assert layer_macs(64, kernel_size, "standard") == standard
    assert layer_macs(64, kernel_size) == separable
    assert separable / standard == pytest.approx(1 / 64 + 1 / kernel_size)


@pytest.mark.parametrize(
    ("kernel_size", "block", "expected"), [(3, "separable", 35_587), (9, "separable", 37_123), (9, "standard", 165_379)]
)
def test_parameters_of_the_source_network_are_the_counted_ones(kernel_size: int, block: Block, expected: int) -> None:
    # 9 features, 64 channels, 4 blocks: stem 768, separable block 4*(64*K + 64*64 + 256), skip 16,448, classifier 195
    assert parameters(DSCConfig(input_features=9, kernel_size=kernel_size, block=block)) == expected


def test_macs_per_bar_is_the_sum_by_hand() -> None:
    assert macs_per_bar(DSCConfig()) == 10 * 64 + 4 * (3 * 64 + 64 * 64) + 4 * 64 * 3
    both = DSCConfig(hidden_channels=8, num_blocks=2, kernel_size=5, newest_step=True, linear_bypass=True)
    assert macs_per_bar(both) == 10 * 8 + 2 * (5 * 8 + 8 * 8) + 2 * (2 * 8 * 3) + 10 * 3
    assert macs_per_bar(replace(both, members=2)) == 10 * 8 + 2 * (5 * 8 + 2 * 4 * 4) + 2 * (2 * 8 * 3) + 10 * 3


def test_macs_per_bar_with_zero_padding_is_refused() -> None:
    with pytest.raises(ConfigError, match="only padding \"history\" has a cost per bar, was 'zeros'"):
        macs_per_bar(preset("source"))


@settings(deadline=None, max_examples=30)
@given(config=configs)
def test_parameters_and_macs_are_what_torch_counts(config: DSCConfig) -> None:
    model = DSCTradingModel(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, config.input_features, config.context))
    assert parameters(config) == sum(weight.numel() for weight in model.parameters())
    assert 2 * macs_per_window(config) == counter.get_total_flops()  # torch counts a multiply-add as two
    names = {layer.name for layer in layers(config)}
    assert {"stem", "skip_conv", "classifier", *(f"blocks.{i}" for i in range(config.num_blocks))} <= names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd and >= 3, was 4"),
        ({"kernel_size": 1}, r"kernel_size must be in 3\.\.63, was 1"),
        ({"window": 0}, r"window must be in 1\.\.100000, was 0"),
        ({"input_features": 0}, r"input_features must be in 1\.\.256, was 0"),
        ({"hidden_channels": -2}, r"hidden_channels must be in 1\.\.1024, was -2"),
        ({"num_blocks": 13}, r"num_blocks must be in 1\.\.12, was 13"),
        ({"block": "dense"}, "block must be separable, xception or standard, was 'dense'"),
        ({"num_classes": 1}, r"num_classes must be in 2\.\.64, was 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), was 1.0"),
        ({"padding": "same"}, "padding must be history or zeros, was 'same'"),
        ({"input_clip": 0.0}, "input_clip must be > 0, or None, was 0.0"),
        ({"input_clip": math.inf}, "input_clip must be finite and > 0, or None, was inf"),
        ({"input_clip": math.nan}, "input_clip must be finite and > 0, or None, was nan"),
    ],
)
def test_config_that_breaks_a_rule_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DSCConfig(**change)  # type: ignore[arg-type]


def test_scaling_changes_depth_width_and_window_at_once() -> None:
    # 4 * 1.2**2 = 5.76, 32 * 1.1**2 = 38.7, 64 * 1.15**2 = 84.6; the other way 2.78, 26.4, 48.4; channels in eights
    base = DSCConfig(hidden_channels=32, num_blocks=4, window=64)
    assert scaled(base, 0) == base
    assert scaled(base, 2) == DSCConfig(hidden_channels=40, num_blocks=6, window=85)
    assert scaled(base, -2) == DSCConfig(hidden_channels=24, num_blocks=3, window=48)


def test_twin_has_standard_convolutions_and_the_twin_of_those_is_separable() -> None:
    assert DSCConfig(block="xception").twin == DSCConfig(block="standard")
    assert DSCConfig(block="standard", window=7).twin == DSCConfig(block="separable", window=7)


def test_preset_source_is_the_source_text_and_an_unknown_one_is_refused() -> None:
    assert preset("source") == DSCConfig(
        input_features=10,
        hidden_channels=64,
        num_blocks=4,
        num_classes=3,
        dropout=0.2,
        kernel_size=3,
        window=100,
        padding="zeros",
        newest_step=False,
        linear_bypass=False,
        input_clip=None,
    )
    assert all(isinstance(preset(name), DSCConfig) for name in PRESETS)
    with pytest.raises(ConfigError, match="network preset must be one of default source, was 'tiny'"):
        preset("tiny")


def test_architecture_is_imported_without_torch() -> None:
    check = "import sys, tasks.network.architecture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0  # noqa: S603  # our own code


@pytest.mark.promise(19)
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"hidden_channels": 1024, "num_blocks": 12, "kernel_size": 63, "block": "standard"},
            "must have at most 20,000,000 weights, this one would have",
        ),
        ({"hidden_channels": 1024, "window": 100_000}, r"context \* hidden_channels must be at most 64,000,000, was"),
    ],
)
def test_network_whose_sizes_are_allowed_each_and_not_together_is_refused_before_it_is_made(sizes, message):
    with pytest.raises(ConfigError, match=message):
        DSCConfig(**sizes)
