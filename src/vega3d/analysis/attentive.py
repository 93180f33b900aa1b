"""The attentive probe: a few learnt queries attend to the tokens of a view, of two, or of a view and an object.

Letters: M samples, L tokens of a sample, C channels, K targets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

GRID = 4  # rows and columns of the tokens of a view that it attends to: means of the generator's own
QUERIES, WIDTH, HEADS = 4, 64, 4
STEPS, BATCH, RATE, DECAY = 600, 128, 1e-3, 0.05  # of AdamW
CHECK_EVERY = 50  # steps; the weights with the least error on the scenes held out are taken
MOST_CHECKED = 1024  # samples of the scenes held out


class Inputs(NamedTuple):
    """Tokens of samples, which are put together when they are needed, as pairs share their views."""

    views: torch.Tensor  # float[n, GRID^2, C] of all views of some clips
    view: torch.Tensor  # int[M]
    others: torch.Tensor | None = None  # float[m, l, C]: all views of the same clips, or mean features of objects
    other: torch.Tensor | None = None  # int[M]

    def tokens(self, chosen: torch.Tensor) -> torch.Tensor:
        """float32[m, L, C] of the samples int[m]."""
        tokens = self.views[self.view[chosen]]
        if self.others is not None and self.other is not None:
            tokens = torch.cat([tokens, self.others[self.other[chosen]].to(tokens)], dim=1)
        return tokens.float()


class AttentiveProbe(nn.Module):
    """Cross-attention from learnt queries to tokens, and a perceptron: float[B, L, C] -> float[B, K]."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, length: int, channels: int, targets: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.project = nn.Linear(channels, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(length, WIDTH))
        self.queries = nn.Parameter(torch.randn(QUERIES, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = nn.Sequential(
            nn.LayerNorm(QUERIES * WIDTH), nn.Linear(QUERIES * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, targets)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        keys = self.project((tokens - self.mean) * self.scale) + self.place
        queries = self.queries.expand(len(tokens), -1, -1)
        attended, _ = self.attention(queries, keys, keys, need_weights=False)
        return self.head(attended.flatten(1))


@dataclass(frozen=True)
class TrainedProbe:
    """A trained probe, and the scale of what it predicts."""

    probe: AttentiveProbe
    mean: torch.Tensor  # float32[K]
    scale: torch.Tensor  # float32[K]

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """float[M, K]."""
        device = self.mean.device
        parts = torch.arange(len(inputs.view)).split(BATCH)
        with torch.no_grad():
            predicted = [self.probe(inputs.tokens(part).to(device)) * self.scale + self.mean for part in parts]
        return torch.cat(predicted).double().cpu().numpy()


def train_attentive(
    inputs: Inputs,
    values: np.ndarray,
    held_out: np.ndarray,
    seed: int,
    device: torch.device,
    on_progress: Callable[[], None] = lambda: None,
) -> TrainedProbe:
    """A probe trained for `STEPS` steps on some samples, with the weights that were best on those held out.

    Args:
        inputs: of all samples.
        values: float[M, K], what is predicted.
        held_out: bool[M], the samples of the scenes that stop it.
        seed: of its first weights, and of the order of the samples.
        device: where it is trained.
        on_progress: called now and then.
    """
    fitted, checked = (torch.from_numpy(np.flatnonzero(mask)) for mask in (~held_out, held_out))
    checked = checked[:: max(1, -(-len(checked) // MOST_CHECKED))]
    true = torch.from_numpy(values).float().to(device)
    mean, scale = true[fitted].mean(0), true[fitted].std(0).nan_to_num().clamp(min=1e-6)
    true = (true - mean) / scale
    random = torch.Generator().manual_seed(seed)
    sample = inputs.tokens(fitted[:: max(1, -(-len(fitted) // BATCH))]).flatten(0, 1)
    with torch.random.fork_rng([]):  # the first weights are drawn on the CPU
        torch.default_generator.manual_seed(seed)
        probe = AttentiveProbe(inputs.tokens(fitted[:1]).shape[1], sample.shape[1], true.shape[1]).to(device)
    probe.mean.copy_(sample.mean(0))
    probe.scale.copy_(1 / sample.std(0).nan_to_num().clamp(min=1e-6))
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    best, weights = float("inf"), probe.state_dict()
    for step in range(1, STEPS + 1):
        chosen = fitted[torch.randint(len(fitted), (min(BATCH, len(fitted)),), generator=random)]
        loss = nn.functional.smooth_l1_loss(probe(inputs.tokens(chosen).to(device)), true[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % CHECK_EVERY == 0:
            on_progress()
            error = checked_loss(probe, inputs, true, checked)
            if error < best:
                best, weights = error, {name: value.clone() for name, value in probe.state_dict().items()}
    probe.load_state_dict(weights)
    return TrainedProbe(probe.eval(), mean, scale)


@torch.no_grad()
def checked_loss(probe: AttentiveProbe, inputs: Inputs, true: torch.Tensor, checked: torch.Tensor) -> float:
    """Mean error of a probe on the samples int[m]."""
    losses = [
        nn.functional.smooth_l1_loss(probe(inputs.tokens(part).to(true.device)), true[part], reduction="sum").item()
        for part in checked.split(BATCH)
    ]
    return sum(losses) / max(len(checked), 1)
