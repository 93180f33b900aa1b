"""Proposals: the true boxes, and what the simulated detector makes of them."""

import numpy as np
import pytest
from test_questions import ROOM, observe, observe_all, thing

from vega3d.geometry import Box, axis_aligned, box_corners
from vega3d.rooms.questions.proposals import (
    BACKGROUND,
    CENTRE_ERROR,
    HALVED,
    MISSED,
    MISSED_SMALL,
    RESOLUTION,
    SIZE_ERROR,
    detected_proposals,
    jittered,
    true_proposals,
)

DRAWS = 2000


def test_a_turned_box_is_held_by_its_axis_aligned_one():
    box = Box(np.array([1.0, -2.0, 0.5]), np.array([2.0, 1.0, 0.6]), yaw=0.4)
    found = axis_aligned(box)
    np.testing.assert_allclose(found[:3], box.center)
    np.testing.assert_allclose(found[3:], np.ptp(box_corners(box), axis=0))
    np.testing.assert_allclose(axis_aligned(box._replace(yaw=np.pi / 2))[3:], (1.0, 2.0, 0.6))


def test_true_proposals_are_the_boxes_of_what_is_seen_in_random_order():
    observation = observe(hidden=(3, 7))
    orders = set()
    for seed in range(5):
        boxes, ids = true_proposals(observation, np.random.default_rng(seed))
        assert sorted(ids) == [1, 2, 4, 5, 6, 8]
        for box, number in zip(boxes, ids.tolist(), strict=True):
            np.testing.assert_allclose(box, axis_aligned(observation.by_id[number].box), atol=1e-4)
        orders.add(tuple(ids))
    assert len(orders) == 5


def test_the_detector_keeps_its_rates():
    small = thing(9, "cup", 0.5, 0.5, (0.1, 0.1, 0.1))
    observation = observe_all((*ROOM, small))
    observation.ids[:, 12 * 8 : 12 * 9] = 0
    observation.ids[:, 12 * 8, :96] = 9  # 0.6 % of the frame
    found = [detected_proposals(observation, np.random.default_rng(seed)) for seed in range(DRAWS)]

    ids = np.concatenate([proposals.object_ids for proposals in found])
    shares = np.bincount(ids, minlength=10) / DRAWS
    np.testing.assert_allclose(shares[1:9], 1 - MISSED, atol=4 * (MISSED / DRAWS) ** 0.5)
    assert shares[9] == pytest.approx(1 - MISSED_SMALL, abs=4 * (MISSED_SMALL / DRAWS) ** 0.5)
    assert shares[0] == pytest.approx(9 * (HALVED + BACKGROUND), abs=0.15)
    boxes = np.concatenate([proposals.boxes for proposals in found])
    assert len(boxes) == len(ids) and (boxes[:, 3:] > 0).all()


def test_errors_of_boxes_are_as_large_as_documented():
    box = np.array([1.0, 2.0, 0.5, 2.0, 1.0, 0.01])
    errors = jittered(np.tile(box, (DRAWS, 1)), np.random.default_rng(0)) - box
    np.testing.assert_allclose(errors[:, :3].std(axis=0), CENTRE_ERROR * box[3:] + RESOLUTION, rtol=0.1)
    assert errors[:, 3].std() == pytest.approx(2 * SIZE_ERROR, rel=0.1)
    assert errors[:, 5].mean() == pytest.approx(RESOLUTION * (2 / np.pi) ** 0.5, rel=0.1)  # thin things grow


def test_an_empty_walkthrough_has_no_proposals():
    nothing = observe(hidden=tuple(item.id for item in ROOM))
    for propose in (true_proposals, detected_proposals):
        boxes, ids = propose(nothing, np.random.default_rng(0))
        assert boxes.shape == (0, 6) and ids.shape == (0,)
