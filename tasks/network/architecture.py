"""The network as numbers: its configuration, how far it sees, what it weighs and what it costs. No torch.

The network maps the newest `context` bars of F features to K class logits:

    z    = clip((x - feature_mean) / feature_scale)                      per feature
    h_0  = relu(BN(stem 1x1(z)))                                         F -> C
    h_i  = block_{K, 2^(i-1)}(h_{i-1})                                   i = 1..B, C -> C
    s    = skip 1x1(concat(h_1 .. h_B))                                  B*C -> C
    head = mean of s over the window, beside it s at the newest bar if `newest_step`
    logits = (classifier(dropout(head)) + bypass(z at the newest bar) if `linear_bypass`) / temperature

With a volatility head, classifier and bypass have one row more, which no temperature divides: the logarithm of the
variance forecast over the volatility horizon, as a multiple of what the present volatility would bring. A row of zeros
says that nothing will change.

Its block is one of three; with f = BN1(depthwise_{K, dilation}(.)), one filter a channel along time:

    separable   relu(BN2(pointwise(relu(f(h)))))                         Howard et al. 2017, arXiv:1704.04861
    xception    relu(BN2(pointwise(f(h))))                               Chollet 2017, arXiv:1610.02357
    standard    relu(BN(convolution_{K, dilation}(h)))                   the twin: filters and mixes at once

Padding "history" reads real bars instead of zeros: every position of every window is the same whichever window it is
seen from, so one pass over a series serves all its windows, and a new bar costs one column of work.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from annotated_types import Ge, Le

from storage.bounds import Checked, HalfOpen, PositiveFloat
from storage.schema import FEATURES, ConfigError, Title

Padding = Literal["history", "zeros"]
Block = Literal["separable", "xception", "standard"]

_MOST_WEIGHTS = 20_000_000
_MOST_HELD = 64_000_000  # numbers that one sample, and the engine between two bars, keep: half a gigabyte

PRESETS = ("default", "source")
"""Names that `preset` knows."""


@dataclass(frozen=True, kw_only=True)
class DSCConfig(Checked):
    """Shape of a network. The largest sizes allowed are far beyond use: a typing error must not take all memory.

    Attributes:
        input_features: F, inputs: the first F features of whatever series it is given.
        hidden_channels: C, channels of every block.
        num_blocks: B; block i (from 0) has dilation 2**i.
        num_classes: K classes.
        dropout: Share of the classifier's inputs zeroed in training.
        kernel_size: Taps of every block's convolution along time, odd and >= 3.
        window: Positions that the head averages, bars.
        padding: "history" gives the window its receptive field of real bars; "zeros" pads it on both sides.
        block: What every block is; "standard" makes the separable network's standard-convolution twin.
        newest_step: Whether the head also sees the newest position by itself: the mean alone weighs it like the oldest.
        linear_bypass: Whether the newest bar's scaled features also reach the logits directly.
        input_clip: Bound of the scaled features, standard deviations; None for no bound.
        members: Networks that are trained apart and joined (members.py), each with an equal part of the channels. What
            would mix their channels is zero: a window's path counts and computes it, the engine does neither.
        risk_head: Whether it also says how much the market will move (vol_head.py): one row more of every head.
    """

    input_features: Annotated[int, Ge(1), Le(256)] = 10
    hidden_channels: Annotated[int, Ge(1), Le(1024)] = 64
    num_blocks: Annotated[int, Ge(1), Le(12), Title("Blocks")] = 4
    num_classes: Annotated[int, Ge(2), Le(64), Title("Classes")] = 3
    dropout: HalfOpen = 0.2
    kernel_size: Annotated[int, Ge(3), Le(63)] = 3
    window: Annotated[int, Ge(1), Le(100_000)] = 100
    padding: Padding = "history"
    block: Annotated[Block, Title("What a block is")] = "separable"
    newest_step: Annotated[bool, Title("Newest bar by itself as well")] = False
    linear_bypass: Annotated[bool, Title("Newest bar straight to the output")] = False
    input_clip: Annotated[PositiveFloat | None, Title("Inputs are cut off at")] = 5.0
    members: Annotated[int, Ge(1), Le(64), Title("Networks joined")] = 1
    risk_head: Annotated[bool, Title("Forecasts how much the market will move")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_channels % self.members:
            raise ConfigError(
                f"hidden_channels must be a multiple of the {self.members} members, was {self.hidden_channels}"
            )
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd and >= 3, was {self.kernel_size!r}")
        if (weights := parameters(self)) > _MOST_WEIGHTS:
            raise ConfigError(f"a network must have at most {_MOST_WEIGHTS:,} weights, this one would have {weights:,}")
        if (held := self.context * self.hidden_channels) > _MOST_HELD:
            raise ConfigError(
                f"context * hidden_channels must be at most {_MOST_HELD:,}, was {held:,}; make the window shorter or "
                "the blocks fewer"
            )

    @property
    def outputs(self) -> int:
        """Numbers that it says of a bar: K logits, then the logarithm of the variance ratio of a volatility head."""
        return self.num_classes + self.risk_head

    @property
    def twin(self) -> Self:
        """The same network with standard convolutions; of a standard one, the separable network."""
        return replace(self, block="separable" if self.block == "standard" else "standard")

    @property
    def dilations(self) -> tuple[int, ...]:
        """(B,) spacing of each block's taps, bars."""
        return tuple(2**i for i in range(self.num_blocks))

    @property
    def receptive_field(self) -> int:
        """Bars that one position of the last block reads."""
        return 1 + (self.kernel_size - 1) * sum(self.dilations)

    @property
    def context(self) -> int:
        """Bars that one prediction reads: the T of `forward`."""
        return self.window + self.receptive_field - 1 if self.padding == "history" else self.window


def preset(name: str) -> DSCConfig:
    """Return a named configuration: "default", chosen by measurement, or "source", the source text's network.

    The trials behind "default" are in `tests/verification/preset_trials.json`, those of network and training alike.

    Raises:
        ConfigError: `name` is not in PRESETS.
    """
    if name == "default":
        return DSCConfig(
            input_features=len(FEATURES),
            hidden_channels=96,
            members=3,  # two more gain a fifth of what the first two do
            num_blocks=2,  # longer memory is in the features: 10 bars did better than 124, and cost 3/5 a bar
            dropout=0.5,  # strays little where there is little to learn
            kernel_size=3,
            window=4,  # a short context lets a step mix many short segments, which are less alike
            block="xception",
            newest_step=True,
            linear_bypass=True,
            risk_head=True,
        )
    if name == "source":
        return DSCConfig(padding="zeros", input_clip=None)
    raise ConfigError(f"network preset must be one of {' '.join(PRESETS)}, was {name!r}")


def scaled(config: DSCConfig, scale: int) -> DSCConfig:
    """Return the network made larger (or, below 0, smaller) in all its sizes at once.

    Tan and Le 2019, arXiv:1905.11946, sec. 3.3: depth 1.2**scale, width 1.1**scale, resolution 1.15**scale; the window
    stands for resolution, and a member's channels are whole eights. A bar's multiply-adds grow as 1.45**scale: a window
    costs the streaming engine nothing.
    """
    channels = config.hidden_channels / config.members
    return replace(
        config,
        num_blocks=max(1, round(config.num_blocks * 1.2**scale)),
        hidden_channels=config.members * max(8, 8 * round(channels * 1.1**scale / 8)),
        window=max(1, round(config.window * 1.15**scale)),
    )


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of the window path.

    Attributes:
        parameters: Trained numbers in it, its BatchNorm's included.
        macs: Multiply-adds at one position; BatchNorm, ReLU and averages count nothing.
        positions: Positions of one window at which it is computed.
    """

    name: str
    parameters: int
    macs: int
    positions: int


def layers(config: DSCConfig) -> tuple[Layer, ...]:
    """Return the layers of the window path in order: the table behind the sums below."""
    features, channels, outputs = config.input_features, config.hidden_channels, config.outputs
    length, norm = config.context, 2 * channels
    stem = features * channels
    rows = [Layer(name="stem", parameters=stem + channels + norm, macs=stem, positions=length)]
    for i, dilation in enumerate(config.dilations):
        if config.padding == "history":
            length -= (config.kernel_size - 1) * dilation
        macs = layer_macs(channels, config.kernel_size, config.block)
        norms = norm if config.block == "standard" else 2 * norm
        rows.append(Layer(name=f"blocks.{i}", parameters=macs + norms, macs=macs, positions=length))
    skip = config.num_blocks * channels * channels
    rows.append(Layer(name="skip_conv", parameters=skip + channels, macs=skip, positions=config.window))
    head = (2 if config.newest_step else 1) * channels * outputs
    rows.append(Layer(name="classifier", parameters=head + outputs, macs=head, positions=1))
    if config.linear_bypass:
        rows.append(Layer(name="bypass", parameters=features * outputs, macs=features * outputs, positions=1))
    return tuple(rows)


def layer_macs(channels: int, kernel_size: int, block: Block = "separable") -> int:
    """Return the multiply-adds (and weights) of one C -> C block at one position.

    Howard et al. 2017, arXiv:1704.04861, sec. 3.1, with K for their K*K, as this convolution is one-dimensional: the
    separable block costs 1/C + 1/K of the standard one, 2.87x less at K=3 and C=64, not the 8-9x of images.
    """
    return kernel_size * channels * channels if block == "standard" else channels * (kernel_size + channels)


def parameters(config: DSCConfig) -> int:
    """Return how many numbers training sets."""
    return sum(layer.parameters for layer in layers(config))


def macs_per_window(config: DSCConfig) -> int:
    """Return the multiply-adds of one `forward` of one window."""
    return sum(layer.macs * layer.positions for layer in layers(config))


def macs_per_bar(config: DSCConfig) -> int:
    """Return the multiply-adds of one new bar in the streaming engine, whatever the window.

    There the skip convolution and the classifier are one (B*C) -> outputs matrix (two with `newest_step`), applied
    before the running mean; the mean's additions count nothing.

    Raises:
        ConfigError: Padding "zeros", where every position depends on its place in the window and nothing is shared.
    """
    if config.padding != "history":
        raise ConfigError(f'only padding "history" has a cost per bar, was {config.padding!r}')
    features, channels, outputs = config.input_features, config.hidden_channels, config.outputs
    own = channels // config.members
    blocks = config.num_blocks * config.members * layer_macs(own, config.kernel_size, config.block)
    head = (2 if config.newest_step else 1) * config.num_blocks * channels * outputs
    bypass = features * outputs if config.linear_bypass else 0
    return features * channels + blocks + head + bypass
