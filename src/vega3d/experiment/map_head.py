"""Names that know their places: in base and stage 1 each name in a question is told where its object is on the map.

Asked for a place in words, a language model has a few tokens a clip to learn from; told at each name, after two thirds
of its layers, it has about fifty, and the questions follow from what names then hold. The head is left behind.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vega3d.experiment.map_rows import OnMap
from vega3d.experiment.packs import IGNORED, Prefix
from vega3d.synthetic.classes import CLASSES

REACH = 12  # steps of 0.5 m; what is farther is told as that far


class Names:
    """
    Args:
        tokenizer: of the prompts.
    """

    def __init__(self, tokenizer):
        spelled = {name: tuple(tokenizer.encode(f" {name}", add_special_tokens=False)) for name in CLASSES}
        self.by_first: dict[int, list[tuple[tuple[int, ...], str]]] = {}
        for name, ids in sorted(spelled.items(), key=lambda item: -len(item[1])):  # "coffee table" before "table"
            self.by_first.setdefault(ids[0], []).append((ids, name))

    def ends(self, prompt: np.ndarray) -> list[tuple[int, str]]:
        """Place of the last token of each name in int[L], and the name."""
        found, place, ids = [], 0, tuple(prompt.tolist())
        while place < len(ids):
            for spelled, name in self.by_first.get(ids[place], ()):
                if ids[place : place + len(spelled)] == spelled:
                    place += len(spelled) - 1
                    found.append((place, name))
                    break
            place += 1
        return found


def map_targets(
    prefix: Prefix,
    questions: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    ends: Sequence[Sequence[list[tuple[int, str]]]],
    maps: Sequence[dict[str, OnMap]],
    length: int,
) -> np.ndarray:
    """int64[B, length, 3]: steps ahead, steps right, both from 0, and first frame, at the end of each name; else -100.

    Args:
        prefix: of the packs.
        questions: as `packs.pack` takes them.
        ends: of `Names.ends`, for each of their prompts.
        maps: of the clip of each visual.
        length: of the packs.
    """
    targets = np.full((len(questions), length, 3), IGNORED, np.int64)
    for number, (row, ends_of_row, places) in enumerate(zip(questions, ends, maps, strict=True)):
        start = len(prefix.ids)
        for (prompt, answer), names in zip(row, ends_of_row, strict=True):
            for end, name in names:
                if name in places:
                    ahead, right, frame = places[name]
                    steps = np.clip((ahead, right), -REACH, REACH) + REACH
                    targets[number, start + end] = *steps, frame
            start += len(prompt) + len(answer)
    return targets


class MapHead(nn.Module):
    """
    Args:
        width: of the language model.
        num_frames: of a clip.
    """

    def __init__(self, width: int, num_frames: int):
        super().__init__()
        self.sizes = (2 * REACH + 1, 2 * REACH + 1, num_frames)
        self.norm = nn.LayerNorm(width)
        self.layer = nn.Linear(width, sum(self.sizes))

    def loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over names of float[B, L, D] with int[B, L, 3] of `map_targets`; 0 without names."""
        is_name = targets[..., 0] != IGNORED
        wanted = targets[is_name]
        logits = self.layer(self.norm(states[is_name])).float().split(self.sizes, dim=-1)
        losses = [
            F.cross_entropy(found, place, reduction="sum") for found, place in zip(logits, wanted.T, strict=True)
        ]
        return torch.stack(losses).sum() / (3 * max(1, len(wanted)))
