"""Training of a few parameters until they know their targets by heart."""

from collections.abc import Callable, Iterable

import torch


def fit(
    parameters: Iterable[torch.Tensor], loss: Callable[[], torch.Tensor], steps: int = 200, rate: float = 0.05
) -> float:
    """The loss after some steps of Adam."""
    optimizer = torch.optim.Adam(list(parameters), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return float(loss().detach())
