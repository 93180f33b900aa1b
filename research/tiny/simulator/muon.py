"""Muon for convolution kernels (Jordan et al., 2024), AdamW for all that is no matrix.

An update of a kernel is its averaged gradient with all singular values made equal, so that rare directions learn as
fast as common ones. `torch.optim.Muon` takes matrices alone, and timm's goes kernel by kernel, a thousand launches a
step; here kernels of one shape go together, and on a GPU all of them as one graph.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

from research.tiny.simulator.graphs import graphed

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end between 0.7 and 1.2
ROUNDS = 5
SMALLEST_NORM = 1e-7
OTHERS_RATE = 0.1  # of the rate of the kernels, for biases and norms


def with_equal_singular_values(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest matrices float[B, m, n] with singular values of about 1, by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.bfloat16) if matrices.is_cuda else matrices
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    return (x.mT if is_tall else x).to(matrices.dtype)


def all_with_equal_singular_values(*stacks: torch.Tensor) -> list[torch.Tensor]:
    return [with_equal_singular_values(matrices) for matrices in stacks]


class Muon(torch.optim.AdamW):
    """
    Args:
        groups: as AdamW takes them; a kernel of a group with `muon` true is seen as a matrix of its outputs.
        lr: of the kernels; a group may have its own.
        momentum: of their gradients, Nesterov's.
        kwargs: of AdamW, for the other groups.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, **kwargs):
        super().__init__(groups, lr=lr, **kwargs)
        self.momentum = momentum
        self._updates: Callable[..., list[torch.Tensor]] | None = None

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if group.get("muon"):
                self._step_kernels(group)
        super().step()
        return loss

    def _step_kernels(self, group: dict[str, Any]) -> None:
        kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
        if not kernels:
            return
        for kernel in kernels:
            if not self.state[kernel]:
                self.state[kernel] = {
                    "step": torch.zeros((), device=kernel.device),
                    "exp_avg": torch.zeros_like(kernel),
                }
        gradients: list[Any] = [kernel.grad for kernel in kernels]
        averages = [self.state[kernel]["exp_avg"] for kernel in kernels]
        torch._foreach_add_([self.state[kernel]["step"] for kernel in kernels], 1)
        torch._foreach_lerp_(averages, gradients, 1 - self.momentum)
        looked_ahead = torch._foreach_lerp(gradients, averages, self.momentum)
        torch._foreach_mul_(kernels, 1 - group["lr"] * group["weight_decay"])
        self._add_updates(kernels, looked_ahead, group["lr"])
        for kernel in kernels:
            kernel.grad = None  # AdamW passes over what has no gradient

    def _add_updates(self, kernels: list[torch.Tensor], directions: tuple[torch.Tensor, ...], rate: float) -> None:
        if self._updates is None:
            self._updates = graphed(all_with_equal_singular_values, kernels[0].device)
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, kernel in enumerate(kernels):
            by_shape[len(kernel), kernel[0].numel()].append(place)
        stacks = [torch.stack([directions[place].flatten(1) for place in places]) for places in by_shape.values()]
        for ((rows, columns), places), updates in zip(by_shape.items(), self._updates(*stacks), strict=True):
            alike = [kernels[place] for place in places]
            scale = max(1.0, rows / columns) ** 0.5
            shaped = [update.reshape(kernel.shape) for update, kernel in zip(updates, alike, strict=True)]
            torch._foreach_add_(alike, shaped, alpha=-rate * scale)
