"""What base and stage 1 tell the language model beside answers, layer by layer; left behind after the training."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from research.tiny.study.map_head import MapHead
from research.tiny.study.option_head import OptionHead
from research.tiny.study.packs import Pack, Prefix
from research.tiny.study.point_map import PointHead
from research.tiny.study.relation_head import RelationHead


class Heads(nn.Module):
    """
    Args:
        width: of the language model.
        layers: of it.
        num_frames: of a clip.
        prefix: of the packs.
    """

    def __init__(self, width: int, layers: int, num_frames: int, prefix: Prefix):
        super().__init__()
        self.layers, self.prefix = layers, prefix
        self.names = MapHead(width, num_frames)
        self.points = PointHead(width)
        self.options = OptionHead(width)
        self.relations = RelationHead(width)

    def loss(self, outputs: BaseModelOutputWithPast, pack: Pack, points: torch.Tensor) -> torch.Tensor:
        """Sum of the four losses.

        Args:
            outputs: of `network.packed_outputs`, with hidden states.
            pack: with targets.
            points: int[B, N, 4] of `point_map.cell_points`.
        """
        states = outputs.hidden_states
        names = self.names.loss(states[self.layers // 2], states[2 * self.layers // 3], pack.targets)
        options = self.options.loss(states[self.layers - 1], pack.is_right)
        relations = self.relations.loss(states[self.layers - 1], pack.ways)
        return self.points.loss(*self.looking(outputs), points) + names + options + relations

    def looking(self, outputs: BaseModelOutputWithPast) -> tuple[torch.Tensor, torch.Tensor]:
        """float[B, N, D] twice: states of the visual tokens, as `PointHead` takes them."""
        near, mapped = (visual_states(outputs, self.layers // part, self.prefix) for part in (3, 2))
        return near, mapped


def visual_states(outputs: BaseModelOutputWithPast, layer: int, prefix: Prefix) -> torch.Tensor:
    """float[B, N, D]: visual tokens after a layer."""
    return outputs.hidden_states[layer][:, prefix.first : prefix.first + prefix.visual_tokens]
