"""Heads that find what a query means among boxes, or among visual tokens: scores, losses, the boxes chosen."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from .boxes_vega3d import box_iou, enclosing_boxes, generalised_iou
from .configuration_vega3d import VegaConfig
from .relation_head_vega3d import BoxRelations

Ranking = Literal["scanrefer", "multi3drefer"]
RIGHT_IOU = 0.5  # from this on a box is right whatever others there are
NEAREST_IOU = 0.25  # from this on the box that overlaps a target most is right
CHOSEN_PROBABILITY = 0.4  # that Multi3DRefer's rule collects


def two_layer_head(in_features: int, hidden: int, out_features: int) -> nn.Sequential:
    """Linear-ReLU-LayerNorm-Linear."""
    return nn.Sequential(
        nn.Linear(in_features, hidden), nn.ReLU(), nn.LayerNorm(hidden), nn.Linear(hidden, out_features)
    )


def products(keys: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """float32[M] of float32[M, D] and float32[1, D]; a matrix product would be rounded to 16 bits by autocast."""
    return (keys * query).sum(-1)


class InfoNCEHead(nn.Module):
    """Scores are cosines of query and object, each through an MLP; the last one is that of "no target"."""

    has_no_target = True

    def __init__(self, config: VegaConfig):
        super().__init__()
        size = config.hidden_size
        self.temperature = config.grounding_temperature
        self.query_mlp = two_layer_head(size, size, size)
        self.object_mlp = two_layer_head(size, size, size)
        self.no_target = nn.Parameter(torch.zeros(size))  # an object vector; its first value is set in _init_weights

    def scores(self, query: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        """float32[M + 1] in [-1, 1] for a query float[D] and objects float[M, D]."""
        keys = self.object_mlp(torch.cat([objects, self.no_target.to(objects)[None]]))
        wanted = self.query_mlp(query[None])
        return products(F.normalize(keys.float(), dim=-1), F.normalize(wanted.float(), dim=-1))

    def loss(self, scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """`-log(sum of exp(s / tau) over the right ones / over all)`; without a right one "no target" is right.

        `scores` float[M + 1], `right` bool[M].
        """
        scaled = scores / self.temperature
        wanted = torch.cat([right, ~right.any()[None]])
        return scaled.logsumexp(0) - scaled.masked_fill(~wanted, -torch.inf).logsumexp(0)  # shapes stay, for vmap

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """float[M], which together with that of "no target" add up to 1."""
        return (scores / self.temperature).softmax(0)[:-1]

    def chosen(self, scores: torch.Tensor) -> torch.Tensor:
        """int[K] by the rule of Multi3DRefer, the best first; none if "no target" has the highest score.

        Boxes are taken in order until their probabilities add up to 0.4, with the one that crosses it.
        """
        if int(scores.argmax()) == len(scores) - 1:
            return scores.new_zeros(0, dtype=torch.long)
        probabilities, order = self.probabilities(scores).sort(descending=True, stable=True)
        sums = probabilities.cumsum(0)
        return order[torch.cat([sums.new_zeros(1), sums[:-1]]) < CHOSEN_PROBABILITY]


class MLPHead(nn.Module):
    """Scores are logits, the products of the query, through an MLP, with the objects as they are."""

    has_no_target = False
    temperature = 1.0

    def __init__(self, config: VegaConfig):
        super().__init__()
        self.query_mlp = two_layer_head(config.hidden_size, config.hidden_size, config.hidden_size)

    def scores(self, query: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        """float32[M] for a query float[D] and objects float[M, D]."""
        return products(objects.float(), self.query_mlp(query[None]).float())

    def loss(self, scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Mean binary cross-entropy, in which the right ones weigh as much as all others together.

        `scores` float[M], `right` bool[M]; 0 without objects.
        """
        if len(scores) == 0:
            return scores.sum()
        count = right.sum()
        weight = (len(right) - count) / count if count > 0 else None
        return F.binary_cross_entropy_with_logits(scores, right.to(scores), pos_weight=weight)

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """float[M], each for itself."""
        return scores.sigmoid()

    def chosen(self, scores: torch.Tensor) -> torch.Tensor:
        """int[K]: those that are more probable than not, the best first."""
        order = scores.argsort(descending=True, stable=True)
        return order[scores[order] > 0]


HEADS: dict[str, Callable[[VegaConfig], InfoNCEHead | MLPHead]] = {
    "infonce": InfoNCEHead,
    "mlp": MLPHead,
    "relations": InfoNCEHead,  # after `BoxRelations`
}


class BoxHead(nn.Module):
    """One axis-aligned box from a query and the visual tokens with their positions, where no boxes are given.

    Tokens are weighted by their scores as if they were objects. The weighted mean of their positions is the centre,
    but for an offset that an MLP reads off query and weighted mean token, as it does the sizes: cameras see the near
    side of things alone.
    """

    def __init__(self, config: VegaConfig):
        super().__init__()
        self.mlp = two_layer_head(2 * config.hidden_size, config.hidden_size, 6)

    def forward(
        self, query: torch.Tensor, tokens: torch.Tensor, positions: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """float32[6] for a query float[D], tokens float[N, D] at float[N, 3] with weights float32[N] of sum 1."""
        pooled = (weights[:, None] * tokens.float()).sum(0).to(query)
        offset, size = self.mlp(torch.cat([query, pooled])[None])[0].float().split(3)
        return torch.cat([(weights[:, None] * positions.float()).sum(0) + offset, F.softplus(size)])


def box_loss(box: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """L1 of centre and sizes [m], and 1 less the generalised IoU, to the target that is nearest by this loss.

    `box` float[6]; `targets` float[K, 6 or 7], of which those with a yaw count as the axis-aligned boxes around them.
    """
    wanted = enclosing_boxes(targets)
    boxes = box.expand_as(wanted)
    return ((boxes - wanted).abs().sum(-1) + 1 - generalised_iou(boxes, wanted)).min()


def right_boxes(boxes: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """bool[M]: boxes of IoU >= 0.5 with a target, and for each target the one of the highest IoU, if it is >= 0.25."""
    return right_for_each(boxes, targets).any(1)


def right_for_each(boxes: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """bool[M, K]: what `right_boxes` gives for each of K targets alone."""
    iou = box_iou(boxes, targets)
    right = iou >= RIGHT_IOU
    if iou.numel():
        highest, nearest = iou.max(0)
        right[nearest, torch.arange(len(targets), device=iou.device)] |= highest >= NEAREST_IOU
    return right


def check_ranking(ranking: str) -> None:
    """Raises ValueError for a rule that there is not."""
    if ranking not in get_args(Ranking):
        raise ValueError(f"ranking is {ranking!r}, but must be one of {list(get_args(Ranking))}.")


def ranked(scores: torch.Tensor, count: int) -> torch.Tensor:
    """int[M]: the M = `count` boxes by their scores float[M or M + 1], the best first; equal ones as given."""
    return scores[:count].argsort(descending=True, stable=True)


class GroundingHead(nn.Module):
    """The new weights of a model for grounding: `ranking` of boxes, and `box` for a clip without them."""

    def __init__(self, config: VegaConfig):
        super().__init__()
        self.ranking = HEADS[config.grounding_head](config)
        self.relations = BoxRelations(config) if config.grounding_head == "relations" else None
        self.box = BoxHead(config)

    def box_scores(
        self, query: torch.Tensor, objects: torch.Tensor, boxes: torch.Tensor, is_box: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of `ranking` for a query float[D] and objects float[M, D], the vectors of boxes float[M, 6 or 7] [m].

        `is_box` is bool[M], which of them are no filling.
        """
        if self.relations is not None:
            objects = objects + self.relations(query, objects, boxes, is_box).to(objects)
        return self.ranking.scores(query, objects)
