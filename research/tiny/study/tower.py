"""The vision tower's own training, before any question: which class of object each patch of a frame shows.

A patch here is as large as a visual token sees of a frame. A tower that is trained from nothing on a few answers a
clip does not come to know objects at their places; pretrained towers do. Classes alone: nothing of distances, sizes
or directions. The head is left behind, and the tower stays as it is from then on.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vega3d.rooms.questions.observation import Observation
from vega3d.rooms.scene.classes import CLASSES

PATCH = 16  # edge [px]
NOTHING = 0  # the label of a patch without an object
LEAST_SHARE = 0.15  # of a patch's pixels, that an object fills whose class the patch takes
NOTHING_WEIGHT = 0.25  # of a patch that shows no object, in the loss


def patch_labels(observation: Observation) -> np.ndarray:
    """uint8[T, H / 16, W / 16]: 1 + number in `CLASSES` of the object that fills most of each patch, or 0.

    Raises:
        ValueError: if the frames are no whole number of patches.
    """
    frames, height, width = observation.ids.shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"Frames of {height} x {width} px are no whole patches. Choose multiples of {PATCH} px.")
    rows, columns = height // PATCH, width // PATCH
    table = np.zeros(int(observation.ids.max()) + 1, np.int64)
    for item in observation.objects:
        if item.id < len(table):
            table[item.id] = 1 + CLASSES.index(item.name)
    patches = np.arange(frames * rows * columns).reshape(frames, rows, 1, columns, 1)
    pixels = table[observation.ids].reshape(frames, rows, PATCH, columns, PATCH)
    kinds = len(CLASSES) + 1
    counts = np.bincount((patches * kinds + pixels).ravel(), minlength=patches.size * kinds).reshape(-1, kinds)
    best = 1 + counts[:, 1:].argmax(axis=1)
    is_there = np.take_along_axis(counts, best[:, None], axis=1)[:, 0] >= LEAST_SHARE * PATCH * PATCH
    return np.where(is_there, best, NOTHING).astype(np.uint8).reshape(frames, rows, columns)


class LabelHead(nn.Module):
    """A linear reading of the class of each patch from visual tokens of `width`, each of `temporal` frames."""

    weight: torch.Tensor

    def __init__(self, width: int, temporal: int):
        super().__init__()
        self.temporal = temporal
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, temporal * (len(CLASSES) + 1))
        weight = torch.ones(len(CLASSES) + 1)
        weight[NOTHING] = NOTHING_WEIGHT
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, tokens: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """float[B, N, D] on a grid (t, h, w) -> logits float[B, t * temporal, h, w, K]."""
        logits = self.classes(self.norm(tokens)).unflatten(-1, (self.temporal, -1)).unflatten(1, grid)
        return logits.permute(0, 1, 4, 2, 3, 5).flatten(1, 2).float()

    def loss(self, tokens: torch.Tensor, labels: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Mean cross-entropy of labels int[B, T, h, w]; a token's frames beyond the last label count for nothing."""
        logits = self(tokens, grid)[:, : labels.shape[1]]
        return F.cross_entropy(logits.flatten(0, 3), labels.flatten().long(), self.weight)
