"""Networks that were trained apart, joined into the one that is served.

How a fit ends depends on its seed: on market data by as much as one model differs from the next. The mean of several
fits' logits differs less, and by Jensen's inequality its log-loss is never above the mean of theirs (Lakshminarayanan
et al. 2017, arXiv:1612.01474, average probabilities of such an ensemble). Side by side the members are again one
network of this family, so scaler, engine, export and artifact know nothing of them: channels are concatenated, and the
weights that would mix one member's channels with another's are zero.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tasks.network.architecture import DSCConfig
from tasks.network.dsc import DSCTradingModel

_MIXING = ("pointwise.weight", "conv.weight")
_SHARED = ("feature_mean", "feature_scale", "num_batches_tracked")


def member_config(config: DSCConfig) -> DSCConfig:
    """Return the shape of one member of a network."""
    return replace(config, hidden_channels=config.hidden_channels // config.members, members=1)


def joined(members: Sequence[DSCTradingModel], config: DSCConfig) -> DSCTradingModel:
    """Return the network whose logits are the mean of its members'; uncalibrated, in evaluation mode.

    The members are of one shape, `member_config(config)`, on one device and with one scaler.
    """
    model = DSCTradingModel(config).to(members[0].feature_mean.device)
    states = [member.state_dict() for member in members]
    model.load_state_dict({name: _joined(name, [state[name] for state in states], config) for name in states[0]})
    model.temperature.fill_(1.0)
    return model.eval()


def _joined(name: str, parts: list[Tensor], config: DSCConfig) -> Tensor:
    """Return one tensor of the joined network from those of its members."""
    if name.endswith(_SHARED):
        return parts[0]
    if name in ("bypass.weight", "classifier.3.bias", "temperature"):
        return torch.stack(parts).mean(0)
    if name == "classifier.3.weight":  # the mean over the window, and beside it the newest step
        count = 2 if config.newest_step else 1
        split = [part.chunk(count, dim=1) for part in parts]
        return torch.cat([half for halves in zip(*split, strict=True) for half in halves], dim=1) / len(parts)
    if name == "skip_conv.weight":  # from every block's channels
        split = [part.chunk(config.num_blocks, dim=1) for part in parts]
        return torch.cat([_side_by_side(list(blocks)) for blocks in zip(*split, strict=True)], dim=1)
    if name.endswith(_MIXING) and not name.startswith("stem"):
        return _side_by_side(parts)
    return torch.cat(parts)


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """Return (sum of out, sum of in, K) with each part (out, in, K) on the diagonal, and zero elsewhere."""
    heights, widths = ([part.shape[axis] for part in parts] for axis in (0, 1))
    whole = parts[0].new_zeros(sum(heights), sum(widths), parts[0].shape[2])
    row, column = 0, 0
    for part, height, width in zip(parts, heights, widths, strict=True):
        whole[row : row + height, column : column + width] = part
        row, column = row + height, column + width
    return whole
