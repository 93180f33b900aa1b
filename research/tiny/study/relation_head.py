"""Names that know where they lie from another: in base and stage 1 each name is told its way from an earlier one.

Distances, directions and routes are asked about pairs of objects. Told how far and in which direction an object lies
from the one that the question starts from, a name holds the pair before the last layer, which then only compares.
Both follow from the map (`map_rows`), in all arms alike. The head is left behind.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from research.tiny.study.map_rows import REACH, OnMap
from research.tiny.study.packs import IGNORED, Prefix, starts_of

BEARINGS = 24  # of 15 degrees
FARTHEST = 2 * REACH  # steps
REL_DISTANCE, ROUTE = "object_rel_distance", "route_planning"
FROM_FIRST = "object_abs_distance", "object_rel_direction"  # beginnings of question types


def anchors_of(kind: str, names: Sequence[str], options: int) -> list[str | None]:
    """For each name of a prompt the one that its way is told from, or None.

    Args:
        kind: question type.
        names: in their order, with repetitions.
        options: number of choices, which in questions of relative distance are names.
    """
    anchors: list[str | None] = [None] * len(names)
    if kind.startswith(FROM_FIRST):
        anchors[1:] = [names[0]] * (len(names) - 1)
    elif kind == ROUTE:
        anchors[1:] = names[:-1]
    elif kind == REL_DISTANCE and options < len(names):
        anchors[-options:] = [names[-options - 1]] * options
    return anchors


def way(place: OnMap, start: OnMap) -> tuple[int, int]:
    """Steps from `start` to `place`, and the bearing from straight ahead of the first camera, to the right."""
    ahead, right = place.ahead - start.ahead, place.right - start.right
    steps = min(round(float(np.hypot(ahead, right))), FARTHEST)
    if not steps:
        return 0, IGNORED
    return steps, round(float(np.arctan2(right, ahead)) / (2 * np.pi) * BEARINGS) % BEARINGS


def relation_targets(
    prefix: Prefix,
    questions: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    ends: Sequence[Sequence[list[tuple[int, str]]]],
    anchors: Sequence[Sequence[list[str | None]]],
    maps: Sequence[dict[str, OnMap]],
    length: int,
) -> np.ndarray:
    """int64[B, length, 2]: `way` at the end of each name that has an anchor, where both are on the map; else -100.

    Args:
        prefix: of the packs.
        questions: as `packs.pack` takes them.
        ends: of `map_head.Names.ends`, for each of their prompts.
        anchors: of `anchors_of`, for each of their prompts.
        maps: of the clip of each visual.
        length: of the packs.
    """
    targets = np.full((len(questions), length, 2), IGNORED, np.int64)
    for visual, number, start in starts_of(prefix, questions):
        for (end, name), anchor in zip(ends[visual][number], anchors[visual][number], strict=True):
            if anchor is not None and {name, anchor} <= maps[visual].keys():
                targets[visual, start + end] = way(maps[visual][name], maps[visual][anchor])
    return targets


class RelationHead(nn.Module):
    """
    Args:
        width: of the language model.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = nn.Linear(width, FARTHEST + 1 + BEARINGS)

    def loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of steps and bearing, of float[B, L, D] with int[B, L, 2]; 0 without names."""
        wanted = targets[targets[..., 0] != IGNORED]
        logits = self.layer(self.norm(states[targets[..., 0] != IGNORED])).float()
        steps, bearings = logits.split((FARTHEST + 1, BEARINGS), dim=-1)
        losses = [
            F.cross_entropy(found, right, ignore_index=IGNORED, reduction="sum")
            for found, right in zip((steps, bearings), wanted.T, strict=True)
        ]
        return torch.stack(losses).sum() / (2 * max(1, len(wanted)))
