"""The optimiser: torch's AdamW and cosine, bit for bit, without the compiler that the class loads."""

import subprocess
import sys

import torch

from tasks.network.adamw import AdamW

STEPS = 7


def loss_of(weights: torch.Tensor, step: int) -> torch.Tensor:
    return ((weights - 0.1 * step) ** 2 * torch.arange(1, weights.numel() + 1).view_as(weights)).sum()


def test_weights_are_those_of_torchs_class_and_its_cosine_schedule():
    start = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    optimizer = AdamW(ours, 4e-3, 1e-2, STEPS)
    reference = torch.optim.AdamW([theirs], lr=4e-3, weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, STEPS)
    for step in range(STEPS):
        loss_of(ours, step).backward()
        optimizer.step()
        reference.zero_grad()
        loss_of(theirs, step).backward()
        reference.step()
        schedule.step()
        assert torch.equal(ours, theirs)
    assert not torch.equal(ours, start)


def test_training_loads_no_compiler():
    script = """
import sys
import numpy as np
from tasks.network.architecture import DSCConfig
from tasks.network.fit import Series, fit
from tasks.network.fit_config import FitConfig
rng = np.random.default_rng(0)
series = Series(features=rng.normal(size=(600, 4)), labels=rng.integers(0, 3, 600), segment=np.zeros(600, np.int64))
network = DSCConfig(input_features=4, hidden_channels=4, num_blocks=1, window=4, linear_bypass=True, members=2)
fit(network, series, (0, 400), (410, 600), FitConfig(epochs=1, distil=0.0))
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603  # its own interpreter
