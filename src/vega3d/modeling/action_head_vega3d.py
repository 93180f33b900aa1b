"""What a policy has beside the fused model: queries, the state's token, the head of actions, and their scales."""

from typing import Any

import torch
from torch import nn

from .configuration_vega3d import VegaConfig

FLAT = 1e-6  # spread below which a number counts as constant: it is moved, and not scaled
BOUNDS = {"quantiles": ("q01", "q99"), "min_max": ("min", "max")}


class ActionHead(nn.Module):
    """An MLP from the hidden states of K action placeholders to K normalised actions.

    `queries` float[K, D] are the embeddings of the placeholders, and `state` makes a token of the robot's
    state.
    """

    def __init__(self, config: VegaConfig):
        super().__init__()
        size = config.hidden_size
        self.queries = nn.Embedding(config.action_chunk, size)
        self.state = nn.Sequential(nn.Linear(config.state_size, size), nn.GELU(), nn.Linear(size, size))
        self.layers = nn.Sequential(
            nn.LayerNorm(size),
            nn.Linear(size, size),
            nn.GELU(),
            nn.LayerNorm(size),
            nn.Linear(size, config.action_size),
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """float[B, K, D] -> float32[B, K, A]."""
        return self.layers(hidden).float()


def scale_of(config: VegaConfig, name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre and scale float32[size] of `state` or `action`: normalised is (value - centre) / scale."""
    found: Any = (config.action_statistics or {})[name]
    if config.action_normalisation == "mean_std":
        centre, scale = (torch.tensor(found[key], dtype=torch.float64) for key in ("mean", "std"))
    else:
        low, high = (torch.tensor(found[key], dtype=torch.float64) for key in BOUNDS[config.action_normalisation])
        centre, scale = (low + high) / 2, (high - low) / 2
    scale = torch.where(scale > FLAT * centre.abs().clamp(min=1), scale, 1.0)
    return centre.float().to(device), scale.float().to(device)


def outside(values: torch.Tensor, config: VegaConfig, name: str) -> list[str]:
    """In words, for each number of `state` or `action` float[..., size] that is beyond the statistics: how far."""
    found: Any = (config.action_statistics or {})[name]
    low, high = (torch.tensor(found[key], dtype=torch.float64) for key in ("min", "max"))
    flat = values.detach().double().cpu().reshape(-1, len(low))
    slack = FLAT * torch.maximum(low.abs(), high.abs()).clamp(min=1)  # statistics and values are rounded otherwise
    least, most = flat.amin(0), flat.amax(0)
    places = ((least < low - slack) | (most > high + slack)).nonzero()[:, 0].tolist()
    return [
        f"{name}[{place}] is in [{least[place]:.4g}, {most[place]:.4g}], the statistics in [{low[place]:.4g}, "
        f"{high[place]:.4g}]"
        for place in places
    ]


def chunk_mask(attention_mask: torch.Tensor, is_action: torch.Tensor) -> torch.Tensor:
    """bool[B, 1, L, L], which token (column) each token (row) sees: causal, but action placeholders see each other.

    Args:
        attention_mask: [B, L], zero at padding, which sees itself alone, so that no row is empty.
        is_action: bool[B, L].
    """
    length = is_action.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=is_action.device).tril()
    seen = causal | (is_action[:, :, None] & is_action[:, None, :])
    seen = seen & attention_mask.bool()[:, None, :]
    return (seen | torch.eye(length, dtype=torch.bool, device=seen.device))[:, None]


def chunk_loss(predicted: torch.Tensor, target: torch.Tensor, is_pad: torch.Tensor) -> torch.Tensor:
    """float32[]: mean L1 of normalised actions float[B, K, A] over those that are not padding, bool[B, K]."""
    return (predicted - target).abs()[~is_pad].mean()
