"""Where visual tokens are in the world: the published code of a position, and the tokens that lie in a box."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from .configuration_vega3d import VegaConfig
from .inputs_vega3d import replaced_tokens

TEMPERATURE = 10000.0
ROWS = 256  # tokens whose code is added at a time, so that it stays in a CPU's cache


def voxels(points: torch.Tensor, position_range: Sequence[Sequence[float]], voxel: float) -> torch.Tensor:
    """float[..., 3], the voxel of each point float[..., 3] [m], counted from the lower corner of the range.

    A point outside the range counts as one on its border, as in the official code; a half is rounded to even.
    """
    lower, upper = (points.new_tensor(bound) for bound in position_range)
    return ((points.clamp(lower, upper) - lower) / voxel).round()


def sinusoids(values: torch.Tensor, size: int) -> torch.Tensor:
    """float[..., size]: each of A coordinates float[..., A] as size // A waves, sine and cosine in turn.

    The wavelengths grow from 2 pi to 2 pi times `TEMPERATURE`; channels that are left over are zero.
    """
    waves = size // values.shape[-1]
    channel = torch.arange(waves, device=values.device)
    angles = values[..., None] / TEMPERATURE ** (2 * (channel // 2) / waves)
    angles[..., 0::2].sin_()
    angles[..., 1::2].cos_()
    code = values.new_zeros(*values.shape[:-1], size)
    code[..., : waves * values.shape[-1]] = angles.flatten(-2)
    return code


def position_code(points: torch.Tensor, config: VegaConfig) -> torch.Tensor:
    """float[N, D]: the published code of points float[N, 3] in the world [m], one third of the channels an axis."""
    return add_code(points.new_zeros(len(points), config.hidden_size, dtype=torch.float32), points, None, config)


def add_code(
    tokens: torch.Tensor, points: torch.Tensor, mask: torch.Tensor | None, config: VegaConfig
) -> torch.Tensor:
    """Adds to tokens float[N, D], in place, the code of points float[N, 3] [m], where bool[N] says that there is one.

    Tokens share voxels, so waves are computed once for each coordinate that occurs along an axis. No second array of
    the tokens' size is made: on a CPU its memory would cost more than the code.
    """
    if mask is not None:
        points = points.masked_fill(~mask[:, None], 0.0)
    places = voxels(points.float(), config.position_range, config.position_voxel)
    waves = tokens.shape[-1] // 3
    for axis, column in enumerate(places.unbind(-1)):
        found, numbers = column.unique(return_inverse=True)
        table = F.pad(sinusoids(found[:, None], waves), (0, 0, 0, 1)).to(tokens.dtype)
        if mask is not None:
            numbers = torch.where(mask, numbers, len(found))  # the row of zeros
        for start in range(0, len(tokens), ROWS):
            rows = slice(start, start + ROWS)
            tokens[rows, axis * waves : (axis + 1) * waves] += table.index_select(0, numbers[rows])
    return tokens


def with_positions(
    outputs: Mapping[str, ModelOutput], visual: Mapping[str, Any], config: VegaConfig, in_place: bool = False
) -> Mapping[str, ModelOutput]:
    """Encoder outputs with the code of its position added to each token that has one.

    They stay as they are if the model has no position code, or `visual`, the `VisualInputs`, has no positions. With
    `in_place` the tokens are nobody else's, and may be changed where no gradient needs them.
    """
    points, mask = visual.get("visual_positions"), visual.get("visual_positions_mask")
    if config.position_code == "none" or points is None:
        return outputs
    tokens = [item for output in outputs.values() for item in output.pooler_output]
    sizes, device = [len(item) for item in tokens], tokens[0].device
    masks = [None] * len(tokens) if mask is None else mask.to(device).split(sizes)
    own = [item if in_place and not item.requires_grad else item.clone() for item in tokens]
    parts = zip(own, points.to(device).split(sizes), masks, strict=True)
    return replaced_tokens(outputs, [add_code(*part, config) for part in parts])


def check_coordinates(input_ids: torch.Tensor, points: torch.Tensor | None, config: VegaConfig) -> None:
    """Raises ValueError unless each token of int[B, L] that stands for a point has one, float[3], in the scene."""
    token = config.coord_token_id
    count, shape = 0 if token is None else int((input_ids == token).sum()), [] if points is None else [*points.shape]
    if shape != ([count, 3] if count else []):
        raise ValueError(
            f"The text has {count} tokens that stand for a point (coord_token_id={token}), but coord_positions is "
            f"{shape or None}. Give float[{count}, 3] [m], a point for each."
        )
    if points is None:
        return
    if not points.isfinite().all():
        raise ValueError(f"coord_positions must be finite, but are {points.tolist()}.")
    lower, upper = (points.new_tensor(bound) for bound in config.position_range)
    outside = ((points < lower) | (points > upper)).any(-1)
    if outside.any():
        row = int(outside.int().argmax())
        raise ValueError(
            f"coord_positions has {points[row].tolist()} outside the scene, which is from {lower.tolist()} to "
            f"{upper.tolist()} m. Move the origin of the world into the scene, or give the config another "
            "position_range."
        )


def with_coordinates(
    embeds: torch.Tensor, input_ids: torch.Tensor, points: torch.Tensor, config: VegaConfig
) -> torch.Tensor:
    """float[B, L, D]: embeddings of int[B, L] with the code of its point added to each token that stands for one."""
    is_point = torch.eq(input_ids, config.coord_token_id)  # type: ignore[arg-type]  # `check_coordinates` knows it
    code = position_code(points.to(embeds.device), config)
    return embeds.masked_scatter(is_point[..., None], embeds[is_point] + code.to(embeds))


def points_in_boxes(points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """bool[M, ...]: which points float[..., 3] lie in each box, its border included.

    Boxes are float[M, 6], centre and size (x, y, z) along the axes [m], or float[M, 7] with the yaw about z [rad].
    """
    boxes = boxes.reshape(*boxes.shape, *[1] * (points.ndim - 1)).transpose(0, 1)  # [6 or 7, M, 1, ...]
    x, y, z = (points[..., axis] - boxes[axis] for axis in range(3))
    if len(boxes) == 7:
        cos, sin = boxes[6].cos(), boxes[6].sin()
        x, y = cos * x + sin * y, cos * y - sin * x
    half_x, half_y, half_z = boxes[3:6] / 2
    return (x.abs() <= half_x) & (y.abs() <= half_y) & (z.abs() <= half_z)


def object_vectors(
    tokens: torch.Tensor,
    points: torch.Tensor,
    mask: torch.Tensor | None,
    boxes: torch.Tensor,
    share: float = 0.5,
) -> torch.Tensor:
    """float[M, D]: for each box the mean of the tokens that lie in it, and zeros if there is none.

    Args:
        tokens: float[N, D].
        points: float[N, 3], the position of each token [m], or float[N, P, 3], those of its P pixels.
        mask: bool[N] or bool[N, P], which of the points there are; None if all are.
        boxes: float[M, 6] or float[M, 7], as in `points_in_boxes`.
        share: of the P pixels that has to be in the box, rounded down to whole pixels and at least one.
    """
    inside = points_in_boxes(points, boxes.to(points))
    if mask is not None:
        inside &= mask
    if inside.ndim == 3:
        inside = inside.sum(-1) >= max(1, int(share * inside.shape[-1]))
    if tokens.device.type == "cpu":  # few tokens are in a box, so reading those is faster than a product
        sums = torch.stack([tokens[members].sum(0) for members in inside]) if len(inside) else tokens[:0]
    else:
        sums = inside.to(tokens.dtype) @ tokens
    return sums / inside.sum(-1, keepdim=True).clamp(min=1).to(tokens.dtype)
