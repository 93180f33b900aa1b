"""Upright boxes in torch: what they may be, and how much they overlap.

A box is float[6], centre and sizes along x, y, z of the world [m], or float[7] with the yaw about z [rad] as the last,
by which it is turned about its centre, counter-clockwise from above.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

BOX_FORM = "a box is its centre x, y, z and its sizes along x, y, z [m], and may have a yaw about z [rad]"


def checked_boxes(
    boxes: Any, lower: Sequence[float], upper: Sequence[float], name: str, device: torch.device | None = None
) -> torch.Tensor:
    """float32[M, 6] or [M, 7] of an array, a tensor or lists; no boxes are float32[0, 6].

    Args:
        boxes: of one prompt.
        lower: the least x, y, z of the scene [m]; `upper` are the greatest.
        name: of the argument and the prompt, for errors.
        device: where the boxes are needed.

    Raises:
        ValueError: for another shape, a value that is not finite, a negative size, or a centre outside the scene.
    """
    try:
        values = torch.as_tensor(boxes, dtype=torch.float32, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} are no boxes: {error}. Give float[M, 6] or float[M, 7]; {BOX_FORM}.") from error
    if values.numel() == 0:
        return values.new_zeros(0, 6)
    if values.ndim != 2 or values.shape[1] not in (6, 7):
        raise ValueError(
            f"{name} have the shape {list(values.shape)}, but must be float[M, 6] or float[M, 7]; {BOX_FORM}."
        )
    least, most = (values.new_tensor(limit) for limit in (lower, upper))
    outside = (values[:, :3] < least) | (values[:, :3] > most)
    for wrong, what, remedy in (
        (~torch.isfinite(values), "a value that is not finite", "Leave it out, or mend it."),
        (values[:, 3:6] < 0, "a negative size", "Give sizes of 0 m or more, not a second corner."),
        (
            outside,
            f"its centre outside the scene, which is from {list(lower)} to {list(upper)} m",
            "Move the origin of the world into the scene, or give the config another position_range.",
        ),
    ):
        rows = wrong.any(1).nonzero()[:, 0].tolist()
        if rows:
            box = [round(value, 4) for value in values[rows[0]].tolist()]
            raise ValueError(f"{name}: box {rows[0]}, {box}, has {what}. {remedy}")
    return values


def checked_box_lists(
    boxes: Any,
    count: int,
    lower: Sequence[float],
    upper: Sequence[float],
    name: str,
    device: torch.device | None = None,
) -> list[torch.Tensor | None]:
    """The boxes of each of `count` prompts by `checked_boxes`, whose arguments are the others; None stays None.

    Raises ValueError as it does, and if they are of another number of prompts.
    """
    if boxes is None:
        return [None] * count
    try:
        given = f"for {len(boxes)}" if len(boxes) != count else None
    except TypeError:  # a number, or an array of none
        given = f"are {boxes!r}"
    if given is not None:
        raise ValueError(f"There are {count} prompts, but {name} {given}. Give a list, one float[M, 6 or 7] a prompt.")
    return [
        None if one is None else checked_boxes(one, lower, upper, f"{name} of prompt {number}", device)
        for number, one in enumerate(boxes)
    ]


def grown(boxes: torch.Tensor, margin: float) -> torch.Tensor:
    """The boxes float[M, 6 or 7] with a margin [m] on every side."""
    larger = boxes.clone()
    larger[:, 3:6] += 2 * margin
    return larger


def turned(offsets: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """float[..., 2] turned counter-clockwise by float[...] [rad]."""
    cos, sin = angle.cos(), angle.sin()
    x, y = offsets.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)


def box_iou(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """float64[M, K]: intersection over union of float[M, 6 or 7] with float[K, 6 or 7]; 0 where both are empty."""
    boxes, others = boxes.double(), others.double()
    heights = overlaps(boxes, others)[..., 2]
    if boxes.shape[1] == others.shape[1] == 6:
        areas = overlaps(boxes, others)[..., :2].prod(-1)
    else:
        areas = common_areas(footprints(boxes), footprints(others))
    common = areas * heights
    union = boxes[:, None, 3:6].prod(-1) + others[None, :, 3:6].prod(-1) - common
    return torch.where(union > 0, common / union, 0.0)


def overlaps(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """float[M, K, 3]: lengths that two boxes share along x, y, z, as if they had no yaw [m]."""
    low = torch.maximum((boxes[:, :3] - boxes[:, 3:6] / 2)[:, None], (others[:, :3] - others[:, 3:6] / 2)[None])
    high = torch.minimum((boxes[:, :3] + boxes[:, 3:6] / 2)[:, None], (others[:, :3] + others[:, 3:6] / 2)[None])
    return (high - low).clamp(min=0)


def footprints(boxes: torch.Tensor) -> torch.Tensor:
    """float[M, 4, 2]: the corners from above, counter-clockwise [m]."""
    signs = boxes.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    corners = signs * boxes[:, None, 3:5] / 2
    if boxes.shape[1] == 7:
        corners = turned(corners, boxes[:, None, 6])
    return corners + boxes[:, None, :2]


def cross(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """float[...]: the z of the cross product of float[..., 2]; positive if the second lies to the left."""
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def common_areas(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """float[M, K]: areas that rectangles float[M, 4, 2] and float[K, 4, 2] share [m^2].

    The shared polygon has as its corners those of either rectangle in the other, and the crossings of their sides.
    """
    first, second = torch.broadcast_tensors(first[:, None], second[None])  # float[M, K, 4, 2]
    sides, others = (corners.roll(-1, -2) - corners for corners in (first, second))

    def within(points, corners, edges):
        return (cross(edges[..., None, :, :], points[..., :, None, :] - corners[..., None, :, :]) >= -1e-9).all(-1)

    gaps = second[..., None, :, :] - first[..., :, None, :]  # float[M, K, 4, 4, 2]
    turn = cross(sides[..., :, None, :], others[..., None, :, :])
    parallel = turn.abs() < 1e-12
    turn = torch.where(parallel, 1.0, turn)
    along, across = cross(gaps, others[..., None, :, :]) / turn, cross(gaps, sides[..., :, None, :]) / turn
    met = ~parallel & (along >= 0) & (along <= 1) & (across >= 0) & (across <= 1)
    crossings = first[..., :, None, :] + along[..., None] * sides[..., :, None, :]

    points = torch.cat([first, second, crossings.flatten(2, 3)], dim=2)  # float[M, K, 24, 2]
    held = [within(first, second, others), within(second, first, sides), met.flatten(2, 3)]
    valid = torch.cat(held, dim=2)[..., None]
    centre = (points * valid).sum(2, keepdim=True) / valid.sum(2, keepdim=True).clamp(min=1)
    spokes = torch.where(valid, points - centre, 0.0)
    angles = torch.where(valid[..., 0], torch.atan2(spokes[..., 1], spokes[..., 0]), math.inf)
    order = angles.argsort(-1)[..., None].expand_as(spokes)
    ordered = spokes.gather(2, order)
    ordered = torch.where(valid.gather(2, order[..., :1]), ordered, ordered[..., :1, :])  # the rest closes the polygon
    return cross(ordered, ordered.roll(-1, 2)).sum(-1).abs() / 2


def enclosing_boxes(boxes: torch.Tensor) -> torch.Tensor:
    """float[M, 6]: the axis-aligned boxes around float[M, 6 or 7]."""
    if boxes.shape[1] == 6:
        return boxes
    corners = footprints(boxes)
    low, high = corners.amin(1), corners.amax(1)
    return torch.cat([(low + high) / 2, boxes[:, 2:3], high - low, boxes[:, 5:6]], dim=1)


def volumes(sizes: torch.Tensor) -> torch.Tensor:
    """float[...] of float[..., 3]; the gradient of `torch.prod` would wait for the GPU, to look for zeros."""
    width, depth, height = sizes.unbind(-1)
    return width * depth * height


def generalised_iou(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """float[M]: IoU of pairs of axis-aligned boxes float[M, 6], less the empty share of the box around both.

    It falls on below 0 the farther two boxes are apart, so that it has a gradient where they do not overlap.
    """
    low, high = boxes[:, :3] - boxes[:, 3:] / 2, boxes[:, :3] + boxes[:, 3:] / 2
    other_low, other_high = others[:, :3] - others[:, 3:] / 2, others[:, :3] + others[:, 3:] / 2
    common = volumes((torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0))
    around = volumes(torch.maximum(high, other_high) - torch.minimum(low, other_low)).clamp(min=1e-9)
    union = volumes(boxes[:, 3:]) + volumes(others[:, 3:]) - common
    return common / union.clamp(min=1e-9) - (around - union) / around


def best_iou(boxes: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """float64[]: of the first box with the target that it overlaps most; NaN where either is missing."""
    if len(boxes) == 0 or len(targets) == 0:
        return torch.full((), float("nan"), dtype=torch.float64, device=boxes.device)
    return box_iou(boxes[:1].detach(), targets).max()
