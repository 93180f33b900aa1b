"""Fusion of the semantic stream (tokens of the VLM) with the generative stream (tokens of the generator).

All modules share one interface, on clips of one grid: `fusion(semantic, generative, grid, question) -> (fused, gate)`.
"""

import functools

import torch
from torch import nn

from .alignment_vega3d import by_clip
from .configuration_vega3d import VegaConfig

Grid = tuple[int, int, int]
Fused = tuple[torch.Tensor, torch.Tensor | None]


class Fusion(nn.Module):
    """Base of all fusions.

    Args of `forward`:
        semantic: float[B, N, D], visual tokens of the VLM, in (t, h, w) order.
        generative: float[B, N, D], generative tokens aligned one to one with `semantic`.
        grid: (t, h, w) of each clip, with t * h * w = N.
        question: float[B, D], mean embedding of the question's text tokens, or None; read by `instruction_gated` only.

    Returns:
        fused: float[B, N, D]; and gate: float[B, N, 1] (float[B, N, D] for `channel_gated`) in (0, 1), where 1 keeps
        only the semantic token, or None for a fusion without a gate.

    Raises:
        ValueError: if the two streams differ in shape.
    """

    needs_instruction = False

    def __init__(self, config: VegaConfig):
        super().__init__()

    @staticmethod
    def check(semantic: torch.Tensor, generative: torch.Tensor) -> None:
        if semantic.shape != generative.shape:
            raise ValueError(
                "Each semantic token needs one generative token, but got "
                f"semantic {tuple(semantic.shape)} and generative {tuple(generative.shape)}. "
                "Align the generator grid first."
            )


class _NormedStreams(Fusion):
    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.semantic_norm = nn.LayerNorm(config.hidden_size)
        self.generative_norm = nn.LayerNorm(config.hidden_size)

    def normed(self, semantic: torch.Tensor, generative: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.check(semantic, generative)
        return self.semantic_norm(semantic), self.generative_norm(generative)


class TokenGatedNormFusion(_NormedStreams):
    """`g LN(s) + (1 - g) LN'(v)`, one gate a token: the official code's 3D scene branch."""

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.gate = nn.Linear(2 * config.hidden_size, self.channels(config))

    def channels(self, config: VegaConfig) -> int:
        return 1

    def gates(self, semantic: torch.Tensor, generative: torch.Tensor) -> torch.Tensor:
        """`sigmoid(W [s; v] + b)` of normed streams, float[B, N, D] each."""
        return by_clip(lambda streams: self.gate(streams).sigmoid(), torch.cat([semantic, generative], dim=-1))

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, grid: Grid, question=None) -> Fused:
        semantic, generative = self.normed(semantic, generative)
        gate = self.gates(semantic, generative)  # float[B, N, 1]
        return gate * semantic + (1 - gate) * generative, gate


class ChannelGatedFusion(TokenGatedNormFusion):
    """`g LN(s) + (1 - g) LN'(v)` with one gate a channel."""

    def channels(self, config: VegaConfig) -> int:
        return config.hidden_size


class TokenGatedFusion(TokenGatedNormFusion):
    """`g s + (1 - g) v`: the paper's equation. The gate sees both streams normalised; the mix uses them raw."""

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, grid: Grid, question=None) -> Fused:
        gate = self.gates(*self.normed(semantic, generative))  # float[B, N, 1]
        return gate * semantic + (1 - gate) * generative, gate


class TokenGatedResidualFusion(TokenGatedNormFusion):
    """`s + r (1 - g)(v - s)`: the official code's spatial-reasoning release, `s + r (g s + (1 - g) v - s)`.

    With r = 0 the semantic tokens pass unchanged, which leaves a pretrained VLM exactly as it was. r stays float32
    under every load dtype: in bfloat16 it would never move.
    """

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.residual_scale = nn.Parameter(torch.tensor(config.fusion_residual_init, dtype=torch.float32))

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, grid: Grid, question=None) -> Fused:
        gate = self.gates(*self.normed(semantic, generative))  # float[B, N, 1]
        mix = (1 - gate) * (generative - semantic)
        return semantic + (self.residual_scale * mix).to(semantic.dtype), gate


class InstructionGatedFusion(_NormedStreams):
    """Token gate with the question added to its logit: `sigmoid(W [LN(s); LN'(v)] + b + b_g + c MLP(LN(q)))`."""

    needs_instruction = True

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        size = config.hidden_size
        self.gate = nn.Linear(2 * size, 1)
        self.gate_bias = nn.Parameter(torch.tensor(config.fusion_gate_bias))
        self.instruction_norm = nn.LayerNorm(size)
        self.instruction_gate = nn.Sequential(nn.Linear(size, size // 2), nn.SiLU(), nn.Linear(size // 2, 1))
        self.instruction_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, grid: Grid, question=None) -> Fused:
        semantic, generative = self.normed(semantic, generative)
        logit = by_clip(self.gate, torch.cat([semantic, generative], dim=-1)) + self.gate_bias  # float[B, N, 1]
        if question is not None:
            asked = by_clip(self.instruction_gate, self.instruction_norm(question))  # float[B, 1]
            logit = logit + self.instruction_scale * asked[:, None]
        gate = by_clip(torch.sigmoid, logit)
        return gate * semantic + (1 - gate) * generative, gate


class AddFusion(Fusion):
    """`s + v`."""

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, grid: Grid, question=None) -> Fused:
        self.check(semantic, generative)
        return semantic + generative, None


class WeightedFusion(Fusion):
    """`(a s + b v) / (a + b)` with two learned scalars."""

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.semantic_weight = nn.Parameter(torch.tensor(0.5))
        self.generative_weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, grid: Grid, question=None) -> Fused:
        self.check(semantic, generative)
        total = self.semantic_weight + self.generative_weight
        return self.semantic_weight / total * semantic + self.generative_weight / total * generative, None


class ConcatFusion(_NormedStreams):
    """`W [LN(s); LN'(v)] + b`."""

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.projection = nn.Linear(2 * config.hidden_size, config.hidden_size)

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, grid: Grid, question=None) -> Fused:
        return by_clip(self.projection, torch.cat(self.normed(semantic, generative), dim=-1)), None


def sincos_2d(height: int, width: int, size: int, device: torch.device) -> torch.Tensor:
    """float[height * width, size]: 2D sine-cosine code, rows in the first half of the channels, columns in the second.

    MAE's fixed position code: frequencies 10000 ** (-4 i / size), sines before cosines.
    """
    frequency = 10000 ** (-torch.arange(size // 4, dtype=torch.float64, device=device) / (size // 4))
    rows, columns = (torch.arange(n, dtype=torch.float64, device=device)[:, None] * frequency for n in (height, width))
    rows = torch.cat([rows.sin(), rows.cos()], dim=-1)[:, None].expand(height, width, -1)
    columns = torch.cat([columns.sin(), columns.cos()], dim=-1)[None].expand(height, width, -1)
    return torch.cat([rows, columns], dim=-1).reshape(height * width, size)


class CrossAttentionBlock(nn.Module):
    """Semantic tokens attend to the generative tokens of their own frame; the values carry no position."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.query_norm = nn.LayerNorm(size)
        self.key_norm = nn.LayerNorm(size)
        self.value_norm = nn.LayerNorm(size)
        self.attention = nn.MultiheadAttention(size, num_heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        query = self.query_norm(semantic) + position
        key = self.key_norm(generative) + position
        semantic = semantic + self.attention(query, key, self.value_norm(generative), need_weights=False)[0]
        return semantic + self.mlp(self.mlp_norm(semantic))


class CrossAttentionFusion(Fusion):
    """Transformer blocks in which the semantic tokens read the generative tokens of the same frame."""

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.blocks = nn.ModuleList(
            CrossAttentionBlock(config.hidden_size, config.fusion_num_heads) for _ in range(config.fusion_num_layers)
        )

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, grid: Grid, question=None) -> Fused:
        self.check(semantic, generative)
        t, h, w = grid
        position = sincos_2d(h, w, semantic.shape[-1], semantic.device).to(semantic.dtype)
        frames = [stream.unflatten(1, (t, h * w)) for stream in (semantic, generative)]
        return by_clip(functools.partial(self.attend, position=position), *frames).flatten(1, 2), None

    def attend(self, semantic: torch.Tensor, generative: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """All blocks on float[..., t, h * w, D], every frame for itself."""
        fused, generative = semantic.flatten(0, -3), generative.flatten(0, -3)  # float[frames, h * w, D]
        for block in self.blocks:
            fused = block(fused, generative, position)
        return fused.view_as(semantic)


class GenerativeOnlyFusion(Fusion):
    """`v`: the semantic tokens are replaced."""

    def forward(self, semantic: torch.Tensor, generative: torch.Tensor, grid: Grid, question=None) -> Fused:
        self.check(semantic, generative)
        return generative.to(semantic.dtype), None


ONE_GATE_A_TOKEN = ("token_gated_residual", "token_gated", "token_gated_norm", "instruction_gated")
FUSIONS: dict[str, type[Fusion]] = {
    "token_gated_residual": TokenGatedResidualFusion,
    "token_gated": TokenGatedFusion,
    "token_gated_norm": TokenGatedNormFusion,
    "channel_gated": ChannelGatedFusion,
    "instruction_gated": InstructionGatedFusion,
    "add": AddFusion,
    "weighted": WeightedFusion,
    "concat": ConcatFusion,
    "cross_attention": CrossAttentionFusion,
    "generative_only": GenerativeOnlyFusion,
}
