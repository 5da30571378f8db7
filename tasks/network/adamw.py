"""AdamW with a rate that falls to zero on a cosine, by torch's function for it.

The class `torch.optim.AdamW` does the same, bit for bit, but it loads torch's compiler as soon as it is made: 70 MB and
more than a second of a process that compiles nothing.
"""

import math

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class AdamW:
    """The optimiser of one tensor: Loshchilov and Hutter 2019, arXiv:1711.05101, with torch's betas and eps.

    The learning rate falls from its first to zero as `torch.optim.lr_scheduler.CosineAnnealingLR` has it.
    """

    def __init__(self, weights: Tensor, learning_rate: float, weight_decay: float, steps: int) -> None:
        self._weights = weights
        self._rate, self._weight_decay, self._steps = learning_rate, weight_decay, steps
        self._mean, self._square = torch.zeros_like(weights), torch.zeros_like(weights)
        self._taken = torch.zeros((), device=weights.device)
        self._done = 0

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights in place by their gradient, and clear that."""
        adamw(
            [self._weights],
            [self._weights.grad],  # type: ignore[list-item]  # a backward pass has been before
            [self._mean],
            [self._square],
            [],
            [self._taken],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )
        self._weights.grad = None
        self._done += 1
        before, now = (1 + math.cos(math.pi * done / self._steps) for done in (self._done - 1, self._done))
        self._rate *= now / before
