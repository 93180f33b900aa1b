"""Boxes that look at each other: which of several chairs is meant follows from what stands around each.

Attention among the boxes of a scene reads how they lie to each other, as in ViL3DRel (arXiv 2211.09646): its weights
depend on what is looked for. Here the query of the language model stands for the words.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .boxes_vega3d import enclosing_boxes
from .configuration_vega3d import VegaConfig

LAYERS, HEADS, MOST_WIDTH = 3, 4, 256
PLACES = 10  # numbers of `relative_places`
SMALLEST = 0.01  # [m], of an edge whose logarithm is taken
NOT_THERE = -1e4  # added to what is not to be attended to; infinite, a scene without boxes would give NaN


def relative_places(boxes: torch.Tensor) -> torch.Tensor:
    """float32[M, M, 10]: how the second box of each pair lies to the first, of boxes float[M, 6 or 7] [m].

    The vector from centre to centre, its length across the floor, the gap between the nearest faces, log(1 + gap) and
    exp(-gap), with lengths in metres; and the logarithms of the ratios of their edges. Boxes with a yaw count as the
    axis-aligned ones around them. The origin of the world has no effect.
    """
    boxes = enclosing_boxes(boxes).float()
    centres, edges = boxes[:, :3], boxes[:, 3:].clamp(min=SMALLEST)
    apart = centres[None] - centres[:, None]
    gap = (apart.abs() - (edges[None] + edges[:, None]) / 2).clamp(min=0).norm(dim=-1, keepdim=True)
    floor = apart[..., :2].norm(dim=-1, keepdim=True)
    ratio = edges.log()[None] - edges.log()[:, None]
    return torch.cat([apart, floor, gap, gap.log1p(), (-gap).exp(), ratio], dim=-1)


class RelationLayer(nn.Module):
    """Attention among boxes by what they are and how they lie to each other, then an MLP; both as the query has it."""

    def __init__(self, width: int, query_size: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=False) for _ in range(2)])
        self.condition = nn.Linear(query_size, 4 * width + HEADS * PLACES)
        self.attended = nn.Linear(width, 3 * width)
        self.seen = nn.Linear(width + HEADS * PLACES, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(
        self, vectors: torch.Tensor, query: torch.Tensor, places: torch.Tensor, absent: torch.Tensor
    ) -> torch.Tensor:
        """float[M, W] for vectors float[M, W], a query float[D], `relative_places`, and float[M] added to weights."""
        count, width = vectors.shape
        scale, shift, own_scale, own_shift, wanted = self.condition(query).split([width] * 4 + [HEADS * PLACES])
        given = self.attended(self.norms[0](vectors) * (1 + scale) + shift)
        queries, keys, values = given.unflatten(-1, (3, HEADS, width // HEADS)).permute(1, 2, 0, 3)
        weights = queries @ keys.transpose(-1, -2) / (width // HEADS) ** 0.5
        weights = weights + torch.einsum("ijp,hp->hij", places, wanted.unflatten(0, (HEADS, PLACES)).to(places))
        weights = (weights + absent).softmax(-1).to(values)  # float[H, M, M]
        around = torch.einsum("hij,ijp->ihp", weights, places.to(values)).flatten(1)
        seen = torch.cat([(weights @ values).transpose(0, 1).reshape(count, width), around], dim=-1)
        vectors = vectors + self.seen(seen)
        return vectors + self.mlp(self.norms[1](vectors) * (1 + own_scale) + own_shift)


class BoxRelations(nn.Module):
    """What boxes see of each other, to be added to their vectors; nothing at first, because `outer` begins with 0."""

    def __init__(self, config: VegaConfig):
        super().__init__()
        size = config.hidden_size
        width = min(size // 2, MOST_WIDTH) // HEADS * HEADS
        self.query_norm = nn.LayerNorm(size)
        self.inner = nn.Linear(size, width)
        self.layers = nn.ModuleList([RelationLayer(width, size) for _ in range(LAYERS)])
        self.outer = nn.Linear(width, size)

    def forward(
        self, query: torch.Tensor, objects: torch.Tensor, boxes: torch.Tensor, is_box: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float[M, D] for a query float[D], objects float[M, D] in boxes float[M, 6 or 7] [m], and bool[M], which of
        them are no filling.
        """
        absent = torch.zeros_like(boxes[:, 0], dtype=torch.float32)
        if is_box is not None:
            absent = absent.masked_fill(~is_box, NOT_THERE)
        places, wanted = relative_places(boxes), self.query_norm(query)
        vectors = self.inner(F.layer_norm(objects, objects.shape[-1:]))
        for layer in self.layers:
            vectors = layer(vectors, wanted, places, absent)
        return self.outer(vectors)
