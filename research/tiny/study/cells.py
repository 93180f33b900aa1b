"""What each cell of a frame shows, as the vision tower learns it in stage 0: the class of an object, and a marked box.

A cell is as large as a visual token. A tower that is trained from nothing on a few answers a clip does not come to
know objects at their places; pretrained towers do, so here each token is told what it shows. Classes and letters of
marks alone: nothing of distances, sizes, or directions. The head is left behind after stage 0.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from research.tiny.study.packs import IGNORED
from research.tiny.study.stage0_rows import MARKED
from vega3d.rooms.questions.observation import Observation
from vega3d.rooms.scene.classes import CLASSES

CELL = 16  # edge [px]
NOTHING = 0  # the cell of no object, or of no mark
LEAST_SHARE = 0.15  # of a cell's pixels, that an object fills whose class the cell takes
NOTHING_WEIGHT = 0.25  # of a cell that shows no object, in the loss of classes


def cell_classes(observation: Observation) -> np.ndarray:
    """uint8[T, H / 16, W / 16]: 1 + number in `CLASSES` of the object that fills most of each cell, or 0.

    Raises:
        ValueError: if the frames are no whole number of cells.
    """
    frames, height, width = observation.ids.shape
    if height % CELL or width % CELL:
        raise ValueError(f"Frames of {height} x {width} px are no whole cells. Choose multiples of {CELL} px.")
    rows, columns = height // CELL, width // CELL
    table = np.zeros(int(observation.ids.max()) + 1, np.int64)
    for item in observation.objects:
        if item.id < len(table):
            table[item.id] = 1 + CLASSES.index(item.name)
    cells = np.arange(frames * rows * columns).reshape(frames, rows, 1, columns, 1)
    pixels = table[observation.ids].reshape(frames, rows, CELL, columns, CELL)
    kinds = len(CLASSES) + 1
    counts = np.bincount((cells * kinds + pixels).ravel(), minlength=cells.size * kinds).reshape(-1, kinds)
    best = 1 + counts[:, 1:].argmax(axis=1)
    is_there = np.take_along_axis(counts, best[:, None], axis=1)[:, 0] >= LEAST_SHARE * CELL * CELL
    return np.where(is_there, best, NOTHING).astype(np.uint8).reshape(frames, rows, columns)


def cell_marks(marks: Sequence[Sequence[int]], rows: int, columns: int) -> np.ndarray:
    """int64[rows, columns]: 1 + number of the smallest marked box that reaches into each cell, or 0."""
    cells = np.full((rows, columns), NOTHING, np.int64)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in marks]
    for number in np.argsort(areas, kind="stable")[::-1].tolist():
        left, top, right, bottom = marks[number]
        cells[top // CELL : -(-bottom // CELL), left // CELL : -(-right // CELL)] = 1 + number
    return cells


class CellHead(nn.Module):
    """
    Args:
        width: of visual tokens.
        temporal: frames that a token sees.
        grid: (t, h, w) of the tokens of a walk.
    """

    def __init__(self, width: int, temporal: int, grid: tuple[int, int, int]):
        super().__init__()
        self.grid = grid
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, temporal * (len(CLASSES) + 1))
        self.marks = nn.Linear(width, temporal * (MARKED + 1))
        self.temporal = temporal
        weight = torch.ones(len(CLASSES) + 1)
        weight[NOTHING] = NOTHING_WEIGHT
        self.weight: torch.Tensor
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float[B, N, D] of a walk -> logits of classes and marks, float[B, t * temporal, h, w, K]."""
        t, h, w = self.grid
        tokens = self.norm(tokens)
        logits = []
        for layer in (self.classes, self.marks):
            values = layer(tokens).unflatten(-1, (self.temporal, -1)).unflatten(1, (t, h, w))
            logits.append(values.permute(0, 1, 4, 2, 3, 5).flatten(1, 2).float())
        return logits[0], logits[1]

    def loss(self, tokens: torch.Tensor, classes: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
        """
        Args:
            tokens: float[B, N, D].
            classes: int[B, T, h, w] of `cell_classes`.
            marks: int[B, T, h, w] of `cell_marks`, -100 in frames without marks.

        Returns:
            Mean cross-entropy of classes, and of marks where there are any.
        """
        of_classes, of_marks = (logits[:, : classes.shape[1]].flatten(0, 3) for logits in self(tokens))
        loss = F.cross_entropy(of_classes, classes.flatten(), self.weight)
        is_marked = marks.flatten() != IGNORED
        summed = F.cross_entropy(of_marks, marks.flatten(), ignore_index=IGNORED, reduction="sum")
        return loss + summed / is_marked.sum().clamp(min=1)


class PlaceCodes:
    """What visual tokens are to say of their places after the first layer of the language model, in all stages.

    Rotary positions are relative, so that a place has to be worked out; models with learned position embeddings are
    given it. The codes of places are drawn and stay as they are: a learned layer would read a place that is too faint
    for the layers after it.

    Args:
        width: of the language model.
        grid: (t, h, w) of the tokens of a walk.
        device: of the states.
    """

    def __init__(self, width: int, grid: tuple[int, int, int], device: torch.device | str = "cpu"):
        self.grid = grid
        random = torch.Generator().manual_seed(0)
        self.codes = F.normalize(torch.randn(sum(grid), width, generator=random), dim=-1).to(device)
        axes = torch.meshgrid(*(torch.arange(size, device=device) for size in grid), indexing="ij")
        self.places = [places.flatten() for places in axes]

    def loss(self, states: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of time, row and column of each visual token, by float[B, N, D]."""
        logits = (F.rms_norm(states.float(), states.shape[-1:]) @ self.codes.T).split(self.grid, dim=-1)
        losses = [
            F.cross_entropy(found.flatten(0, 1), places.repeat(len(states)))
            for found, places in zip(logits, self.places, strict=True)
        ]
        return torch.stack(losses).mean()
