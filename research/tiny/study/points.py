"""Where in the room each visual token looks: targets for the language model, the same for all arms.

The scene coordinates of what a token shows (Shotton et al., 2013), on the floor plan of the first camera, and on the
way there its depth and how far the camera has turned. Questions give a few words a clip to learn this from; these
targets give some at every token. What a token shows is left as it is: the tower and its tokens are frozen. The heads
are left behind.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from research.tiny.study.answers import floor_axes
from research.tiny.study.tower import PATCH
from vega3d.geometry import unproject
from vega3d.processing.clip_geometry_vega3d import ClipGeometry, token_positions
from vega3d.rooms.render import Clip

DEPTH, TURN, AHEAD, RIGHT, UP = range(5)  # of a point: [m], [rad], [m], [m], [m]
STEP, REACH = 0.5, 12  # [m], and steps beyond which places are not told apart
TURNS = 24  # of 15 degrees
SIZES = (REACH + 1, TURNS, 2 * REACH + 1, 2 * REACH + 1)  # classes of depth, turn, ahead, right
FREQUENCIES = (0.25, 0.5, 1.0, 2.0)  # [1 / m], at which the oracle's coordinates are given


def patch_points(clip: Clip) -> np.ndarray:
    """float16[T, H / 16, W / 16, 5], of what the middle of each patch shows.

    Depth along the optical axis; the camera's turn to the right since the first frame; how far ahead of the first
    camera, to its right and above it, on the floor plan.
    """
    middles = slice(PATCH // 2, None, PATCH)
    depth = clip.depth[:, middles, middles]
    rows, columns = np.indices(depth.shape[1:]) * PATCH + PATCH // 2
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
    turns = np.broadcast_to(np.arctan2(right, ahead)[:, None, None], depth.shape)
    up = points[..., 2] - first[2, 3]
    return np.stack([depth, turns, away[..., 0], away[..., 1], up], axis=-1).astype(np.float16)


def token_millimetres(clip: Clip) -> np.ndarray:
    """int16[N, 3]: where each visual token is in the world, as the processor says it, rounded to millimetres.

    Raises:
        ValueError: for a token without depth; rooms are closed, so that there is none.
    """
    frames, height, width = clip.depth.shape
    grid = ((frames + 1) // 2, height // PATCH, width // PATCH)
    places, is_placed = token_positions(ClipGeometry(clip.depth, clip.intrinsics, clip.world_from_camera), grid)
    if not is_placed.all():
        raise ValueError(f"{int((~is_placed).sum())} visual tokens see nothing of the room. Mend the trajectory.")
    return (1000 * places).round().astype(np.int16)


def point_classes(points: torch.Tensor) -> torch.Tensor:
    """int64[..., 4] of float[..., 5]: classes of depth, turn, ahead and right, as many as `SIZES` says."""
    points = points.float()
    steps = (
        (torch.stack([points[..., DEPTH], points[..., AHEAD], points[..., RIGHT]], dim=-1) / STEP)
        .round()
        .clamp(-REACH, REACH)
    )
    turn = (points[..., TURN] / (2 * torch.pi) * TURNS).round() % TURNS
    classes = [steps[..., 0].clamp(min=0), turn, steps[..., 1] + REACH, steps[..., 2] + REACH]
    return torch.stack(classes, dim=-1).long()


def oracle_features(points: torch.Tensor) -> torch.Tensor:
    """float[..., C] of float[..., 5]: the true geometry, as sines and cosines (Mildenhall et al., 2020)."""
    points = points.float()
    metres = points[..., [DEPTH, AHEAD, RIGHT, UP]]
    angles = torch.cat([2 * torch.pi * frequency / 4 * metres for frequency in FREQUENCIES], dim=-1)
    angles = torch.cat([angles, points[..., [TURN]]], dim=-1)
    return torch.cat([angles.sin(), angles.cos(), metres / 4], dim=-1)


ORACLE_CHANNELS = 2 * (4 * len(FREQUENCIES) + 1) + 4


class PointHead(nn.Module):
    """Readings of depth and turn from earlier states of the visual tokens, of ahead and right from later ones."""

    def __init__(self, width: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(width, SIZES[number] + SIZES[number + 1]) for number in (0, 2))

    def forward(self, near: torch.Tensor, mapped: torch.Tensor) -> list[torch.Tensor]:
        """Logits float[B, N, K] of depth, turn, ahead and right, from states float[B, N, D] of two layers."""
        logits: list[torch.Tensor] = []
        for number, states in enumerate((near, mapped)):
            both = self.layers[number](self.norms[number](states)).float()
            logits += both.split(SIZES[2 * number : 2 * number + 2], dim=-1)
        return logits

    def loss(self, near: torch.Tensor, mapped: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over visual tokens, with int[B, N, 4] of `point_classes`."""
        losses = [
            F.cross_entropy(logits.flatten(0, 1), classes[..., number].flatten())
            for number, logits in enumerate(self(near, mapped))
        ]
        return torch.stack(losses).mean()

    def errors(self, near: torch.Tensor, mapped: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """float[B, 4]: mean absolute errors of depth [m], turn [deg], ahead and right [m] over a clip's tokens."""
        found = torch.stack([logits.argmax(dim=-1) for logits in self(near, mapped)], dim=-1)
        away = (found - classes).abs().float()
        away[..., TURN] = torch.minimum(away[..., TURN], TURNS - away[..., TURN])
        return away.mean(dim=1) * away.new_tensor([STEP, 360 / TURNS, STEP, STEP])


def name_loss(states: torch.Tensor, labels: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the class that each visual token shows, by float[B, N, D], told by its name's embedding.

    A pretrained language model comes with visual tokens that lie near the words for what they show; one that begins
    from nothing is slow to find an object by its name. `labels` is int[B, N] of `tower.patch_labels`, of which 0, no
    object, counts for nothing; `names` float[K, D] are the embeddings of the names of the classes.
    """
    logits = F.rms_norm(states.float(), states.shape[-1:]) @ F.normalize(names.float(), dim=-1).T
    wanted = labels.flatten().long() - 1
    return F.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=-1)


class PlaceCodes:
    """What visual tokens are to say of their places in the clip after the first layer of the language model.

    Rotary positions are relative, so that a place has to be worked out; models with learned position embeddings are
    given it. The codes are drawn and stay as they are: a learned layer would read a place that is too faint for the
    layers after it.
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
