"""Where in the room each visual token looks, as base and stage 1 tell the language model, the same for all arms.

The scene coordinates of what a token shows (Shotton et al., 2013), on the floor plan of the first camera, and on the
way there its depth and how far the camera has turned. Questions give a few words a clip to learn this from; these
targets give some at every token. What a token shows is left as it is: the tower and its tokens are frozen. The head is
left behind.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from research.tiny.study.cells import CELL
from research.tiny.study.map_rows import REACH, STEP, floor_axes
from vega3d.geometry import unproject
from vega3d.rooms.render import Clip

TURNS = 24  # of 15 degrees
SIZES = (REACH + 1, TURNS, 2 * REACH + 1, 2 * REACH + 1)  # depth, turn, ahead, right


def cell_points(clip: Clip) -> np.ndarray:
    """int8[T, H / 16, W / 16, 4], of what the middle of each cell shows: classes of the four in `SIZES`.

    Depth along the optical axis; the camera's turn to the right since the first frame; steps ahead of the first camera
    and to its right, on the floor plan.
    """
    middles = slice(CELL // 2, None, CELL)
    depth = clip.depth[:, middles, middles]
    rows, columns = np.indices(depth.shape[1:]) * CELL + CELL // 2
    pixels = np.stack([columns, rows], axis=-1) + 0.5
    points = np.stack(
        [
            unproject(pixels, values, clip.intrinsics, pose)
            for values, pose in zip(depth, clip.world_from_camera, strict=True)
        ]
    )
    first = clip.world_from_camera[0]
    axes = floor_axes(first)
    away = (points[..., :2] - first[:2, 3]) @ axes
    ahead, right = (clip.world_from_camera[:, :2, 2] @ axes).T
    turn = np.rint(np.arctan2(right, ahead) / (2 * np.pi) * TURNS).astype(int) % TURNS
    steps = np.clip(np.rint(np.concatenate([depth[..., None], away], axis=-1) / STEP), -REACH, REACH).astype(int)
    turns = np.broadcast_to(turn[:, None, None], depth.shape)
    return np.stack([steps[..., 0], turns, steps[..., 1] + REACH, steps[..., 2] + REACH], axis=-1).astype(np.int8)


class PointHead(nn.Module):
    """
    Args:
        width: of the language model.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(width, SIZES[number] + SIZES[number + 1]) for number in (0, 2))

    def forward(self, near: torch.Tensor, mapped: torch.Tensor) -> list[torch.Tensor]:
        """Logits float[B, N, K] of depth, turn, ahead and right.

        Args:
            near: float[B, N, D], states of the visual tokens that are to know depth and turn.
            mapped: float[B, N, D], states of a later layer that are to know what is ahead and right.
        """
        logits: list[torch.Tensor] = []
        for number, states in enumerate((near, mapped)):
            both = self.layers[number](self.norms[number](states)).float()
            logits += both.split(SIZES[2 * number : 2 * number + 2], dim=-1)
        return logits

    def loss(self, near: torch.Tensor, mapped: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over visual tokens, with int[B, N, 4] of `cell_points`."""
        losses = [
            F.cross_entropy(logits.flatten(0, 1), points[..., number].flatten())
            for number, logits in enumerate(self(near, mapped))
        ]
        return torch.stack(losses).mean()

    def errors(self, near: torch.Tensor, mapped: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """float[B, 4]: mean absolute errors of depth [m], turn [deg], ahead and right [m] over a clip's tokens."""
        found = torch.stack([logits.argmax(dim=-1) for logits in self(near, mapped)], dim=-1)
        away = (found - points).abs().float()
        away[..., 1] = torch.minimum(away[..., 1], TURNS - away[..., 1])
        return away.mean(dim=1) * away.new_tensor([STEP, 360 / TURNS, STEP, STEP])
