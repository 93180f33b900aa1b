"""Names that know their places: in base and stage 1 each name in a question is told where its object is on the map.

Asked for a place in words, a language model has a few tokens a clip to learn from; told at each name, it has about
fifty, and the questions follow from what names then hold: after half of its layers in which frame the object is first
seen, after two thirds where it is. The head is left behind.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from research.tiny.study.map_rows import REACH, OnMap
from research.tiny.study.packs import IGNORED, Prefix, starts_of
from vega3d.rooms.scene.classes import CLASSES


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
    for visual, number, start in starts_of(prefix, questions):
        for end, name in ends[visual][number]:
            if name in maps[visual]:
                ahead, right, frame = maps[visual][name]
                steps = np.clip((ahead, right), -REACH, REACH) + REACH
                targets[visual, start + end] = *steps, frame
    return targets


class MapHead(nn.Module):
    """
    Args:
        width: of the language model.
        num_frames: of a clip.
    """

    def __init__(self, width: int, num_frames: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.frames, self.places = nn.Linear(width, num_frames), nn.Linear(width, 2 * (2 * REACH + 1))

    def loss(self, timed: torch.Tensor, placed: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over names; 0 without names.

        Args:
            timed: float[B, L, D], states of the layer after which names are to know their first frame.
            placed: float[B, L, D], states of the layer after which they are to know their place.
            targets: int[B, L, 3] of `map_targets`.
        """
        is_name = targets[..., 0] != IGNORED
        wanted = targets[is_name]
        frames = self.frames(self.norms[0](timed[is_name])).float()
        ahead, right = self.places(self.norms[1](placed[is_name])).float().chunk(2, dim=-1)
        losses = [
            F.cross_entropy(found, place, reduction="sum")
            for found, place in zip((ahead, right, frames), wanted.T, strict=True)
        ]
        return torch.stack(losses).sum() / (3 * max(1, len(wanted)))
