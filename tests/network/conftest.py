from collections.abc import Callable

import pytest
import torch

from tasks.network.architecture import DSCConfig
from tasks.network.dsc import DSCTradingModel

RandomModel = Callable[..., DSCTradingModel]


@pytest.fixture(scope="session")
def random_model() -> RandomModel:
    """A network in evaluation mode in which every number counts: statistics, scaler and temperature are random too."""

    def make(config: DSCConfig, seed: int = 0) -> DSCTradingModel:
        generator = torch.Generator().manual_seed(seed)

        def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

        model = DSCTradingModel(config).eval()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if "running_var" in name or name in ("feature_scale", "temperature"):
                    uniform(tensor, 0.5, 2.0)
                elif tensor.is_floating_point() and tensor.dim() == 1:  # biases, means, gains of BatchNorm
                    uniform(tensor, -0.7, 0.9)
                elif tensor.is_floating_point():
                    bound = tensor[0].numel() ** -0.5  # of the size that torch starts with
                    uniform(tensor, -2 * bound, 2 * bound)
        return model

    return make
