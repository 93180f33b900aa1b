"""Boxes in torch: exact overlaps, also of turned boxes, against geometry's own; what may be no box."""

import math

import numpy as np
import pytest
import torch

from vega3d.geometry import Box, box_contains
from vega3d.modeling.boxes_vega3d import box_iou, checked_boxes, enclosing_boxes, generalised_iou

LOWER, UPPER = (-15.0, -15.0, -5.0), (15.0, 15.0, 5.0)


def random_boxes(seed: int, count: int, yaw: bool) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    centres, sizes = torch.rand(count, 3, generator=random) - 0.5, torch.rand(count, 3, generator=random) + 0.6
    turns = [(torch.rand(count, 1, generator=random) - 0.5) * 7] if yaw else []
    return torch.cat([centres, sizes, *turns], dim=1)


def as_geometry(box: torch.Tensor) -> Box:
    values = box.double().numpy()
    return Box(values[:3], values[3:6], float(values[6]) if len(values) == 7 else 0.0)


@pytest.mark.parametrize(("first", "second"), [(False, False), (True, True), (True, False)])
def test_iou_is_the_share_of_common_points(first, second):
    boxes, others = random_boxes(2, 5, first), random_boxes(3, 4, second)
    points = np.random.default_rng(0).uniform(-1.6, 1.6, (400_000, 3))

    iou = box_iou(boxes, others)

    assert (iou > 0.1).sum() > 10
    for row, box in zip(iou, boxes, strict=True):
        for value, other in zip(row, others, strict=True):
            held, also = box_contains(as_geometry(box), points), box_contains(as_geometry(other), points)
            assert float(value) == pytest.approx((held & also).sum() / (held | also).sum(), abs=0.01)


def test_iou_of_boxes_whose_overlap_is_known():
    cube = torch.tensor([[0.0, 0, 0, 1, 1, 1]])
    turned = torch.tensor([[0.0, 0, 0, 1, 1, 1, math.pi / 4]])
    octagon = 2 * (math.sqrt(2) - 1)

    assert box_iou(cube, torch.tensor([[0.5, 0, 0, 1, 1, 1]])).item() == pytest.approx(1 / 3, abs=1e-12)
    assert box_iou(cube, turned).item() == pytest.approx(octagon / (2 - octagon), abs=1e-6)
    assert box_iou(turned, turned).item() == pytest.approx(1, abs=1e-9)
    assert box_iou(cube, torch.tensor([[0.0, 0, 2, 1, 1, 1, 0.3]])).item() == 0  # above it
    assert box_iou(cube * 0, cube * 0).item() == 0
    assert box_iou(cube[:0], turned).shape == (0, 1)


def test_a_quarter_turn_swaps_the_sizes():
    turned = torch.tensor([[1.0, 2, 0, 0.5, 2, 1, math.pi / 2]])
    torch.testing.assert_close(enclosing_boxes(turned), torch.tensor([[1.0, 2, 0, 2, 0.5, 1]]))


def test_generalised_iou_falls_with_the_distance_of_disjoint_boxes():
    cube = torch.tensor([[0.0, 0, 0, 1, 1, 1]]).expand(4, 6)
    others = torch.stack([cube[0] + torch.tensor([shift, 0, 0, 0, 0, 0]) for shift in (0.0, 0.5, 2.0, 4.0)])

    values = generalised_iou(cube, others)

    assert values[0] == 1 and values[1] == pytest.approx(1 / 3)
    assert 0 > values[2] > values[3] > -1


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 0, 1, -0.2, 1]], r"box 0, \[0.0, 0.0, 0.0, 1.0, -0.2, 1.0\], has a negative size"),
        ([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, math.nan]], "box 1, .* not finite"),
        ([[0, 0, 5.1, 1, 1, 1]], r"outside the scene, which is from \[-15.0, -15.0, -5.0\]"),
        ([[0, 0, 0, 1, 1]], r"shape \[1, 5\], but must be float\[M, 6\] or float\[M, 7\]"),
        ([0, 0, 0, 1, 1, 1], r"shape \[6\]"),
        ([[0, 0, 0, 1, 1, 1], [0, 0]], "are no boxes"),
        ("chair", "are no boxes"),
    ],
)
def test_what_is_no_box(boxes, message):
    with pytest.raises(ValueError, match=message):
        checked_boxes(boxes, LOWER, UPPER, "boxes of prompt 0")


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 7)), torch.zeros(0)])
def test_no_boxes(boxes):
    assert checked_boxes(boxes, LOWER, UPPER, "boxes").shape == (0, 6)
