"""How boxes lie to the things that a sentence names beside the one it means: "the chair closest to the door".

First the anchors are found and then what lies to them as is said, after CoT3DRef (arXiv 2310.06214). Here the query of
the language model stands for the words.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .boxes_vega3d import enclosing_boxes
from .configuration_vega3d import VegaConfig

ANCHORS = 2  # things that a sentence names beside the one it means: "between the bed and the door"
MOST_WIDTH = 256
PLACES = 10  # numbers of `relative_places`
SEEN = ANCHORS * PLACES + 5  # of a box: how it lies to the anchors, on which side of the line through them, its edges
SMALLEST = 0.01  # [m], of an edge whose logarithm is taken, and of a distance that is divided by
NOT_THERE = -1e4  # logit of what is not there; infinite, a scene without boxes would give NaN


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


class BoxRelations(nn.Module):
    """What boxes see of the anchors, to be added to their vectors; 0 at first, as `outer` begins."""

    def __init__(self, config: VegaConfig):
        super().__init__()
        size = config.hidden_size
        width = min(size // 2, MOST_WIDTH)
        self.temperature = config.grounding_temperature
        self.query_norm = nn.LayerNorm(size)
        self.named = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, ANCHORS * width))
        self.kinds = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, width))
        self.layers = nn.ModuleList([nn.Linear(SEEN, width), nn.Linear(width, width)])
        self.conditions = nn.ModuleList([nn.Linear(size, 2 * width) for _ in self.layers])
        self.outer = nn.Linear(width, size)

    def forward(
        self, query: torch.Tensor, objects: torch.Tensor, boxes: torch.Tensor, is_box: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float[M, D] for a query float[D], objects float[M, D] in boxes float[M, 6 or 7] [m], and bool[M], which of
        them are no filling.
        """
        seen = seen_from_anchors(boxes, self.anchors(query, objects, is_box).softmax(-1)).to(objects)
        query = self.query_norm(query)
        for layer, condition in zip(self.layers, self.conditions, strict=True):
            scale, shift = condition(query).chunk(2, -1)
            seen = F.gelu(layer(seen) * (1 + scale) + shift)
        return self.outer(seen)

    def anchors(self, query: torch.Tensor, objects: torch.Tensor, is_box: torch.Tensor | None = None) -> torch.Tensor:
        """float32[ANCHORS, M], logits: how like each object is to each anchor; arguments are those of `forward`."""
        named = self.named(self.query_norm(query)).unflatten(-1, (ANCHORS, -1))
        kinds = self.kinds(F.layer_norm(objects, objects.shape[-1:]))
        cosines = (F.normalize(named.float(), dim=-1)[:, None] * F.normalize(kinds.float(), dim=-1)).sum(-1)
        logits = cosines / self.temperature
        return logits if is_box is None else logits.masked_fill(~is_box, NOT_THERE)

    def anchor_losses(
        self, query: torch.Tensor, objects: torch.Tensor, right: torch.Tensor, is_box: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32[ANCHORS]: -log of the weight of the boxes bool[ANCHORS, M] right for each; 0 where there is none."""
        logits = self.anchors(query, objects, is_box)
        counted = right | ~right.any(-1, keepdim=True)
        return logits.logsumexp(-1) - logits.masked_fill(~counted, -torch.inf).logsumexp(-1)


def seen_from_anchors(boxes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """float32[M, SEEN] of boxes float[M, 6 or 7] [m], whose weights as each anchor are float32[ANCHORS, M].

    `relative_places` of each anchor, sine and cosine of the angle between the ways to both across the floor, and the
    logarithms of the edges.
    """
    # No matrix product, which autocast would round to 16 bits.
    places = (weights[:, None, :, None] * relative_places(boxes)).sum(2).transpose(0, 1)
    (x, y), (other_x, other_y) = (places[:, number, :2].unbind(-1) for number in range(ANCHORS))
    lengths = (places[:, 0, :2].norm(dim=-1) * places[:, 1, :2].norm(dim=-1)).clamp(min=SMALLEST)
    angle = torch.stack([x * other_y - y * other_x, x * other_x + y * other_y], dim=-1) / lengths[:, None]
    edges = enclosing_boxes(boxes)[:, 3:].float().clamp(min=SMALLEST).log()
    return torch.cat([places.flatten(1), angle, edges], dim=-1)
