"""Shortcuts in the making of rooms give exactly what the plain computation gives."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from vega3d.geometry import Box, box_corners, penetration
from vega3d.rooms.questions.observation import Observation, ObservedObject, surface_distance
from vega3d.rooms.scene.layout import near
from vega3d.rooms.scene.meshes import cross
from vega3d.rooms.scene.room import largest_region

FACES = np.array([(0, 1, 2), (0, 2, 3), (4, 5, 6), (4, 6, 7), (0, 1, 5), (0, 5, 4), (2, 3, 7), (2, 7, 6)])


def random_box(random: np.random.Generator) -> Box:
    return Box(random.uniform(0, 3, 3), random.uniform(0.05, 1.5, 3), float(random.uniform(-np.pi, np.pi)))


def thing(number: int, box: Box) -> ObservedObject:
    return ObservedObject(number, "box", box, box_corners(box)[FACES].astype(np.float32))


def test_near_boxes_are_all_that_may_touch():
    random = np.random.default_rng(0)
    touching = dropped = 0
    for _ in range(60):
        box, others = random_box(random), [random_box(random) for _ in range(25)]
        kept = {id(other) for other in near(box, others)}
        touch = {id(other) for other in others if penetration(box, other) > -0.004}
        assert touch <= kept
        touching, dropped = touching + len(touch), dropped + len(others) - len(kept)
    assert touching > 100 and dropped > 500
    assert near(random_box(random), []) == []


def flooded(free: np.ndarray) -> np.ndarray:
    """The first largest region, cell by cell."""
    best: set[tuple[int, int]] = set()
    left = {(int(row), int(column)) for row, column in np.argwhere(free)}
    for start in sorted(left):
        region, border = set(), [start] if start in left else []
        while border:
            cell = border.pop()
            if cell in left:
                left.remove(cell)
                region.add(cell)
                border += [(cell[0] + i, cell[1] + j) for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        best = region if len(region) > len(best) else best
    found = np.zeros_like(free)
    for cell in best:
        found[cell] = True
    return found


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.6, 1.0])
def test_the_largest_region_is_the_first_of_equal_ones(share):
    random = np.random.default_rng(1)
    for _ in range(20):
        free = random.random((12, 17)) < share
        np.testing.assert_array_equal(largest_region(free), flooded(free))


def test_cross_products_are_those_of_numpy():
    first, second = np.random.default_rng(2).normal(size=(2, 500, 3)).astype(np.float32)
    found = cross(first, second)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.cross(first, second))


def test_distances_are_those_of_all_pairs_of_points():
    random = np.random.default_rng(3)
    overlapping = 0
    for _ in range(25):
        first, second = thing(1, random_box(random)), thing(2, random_box(random))
        pairs = float(cdist(first.points, second.points).min())
        assert surface_distance(first, second) == pytest.approx(pairs, abs=1e-12)
        overlapping += penetration(first.box, second.box) > 0
    assert 2 < overlapping < 22


def test_vertices_are_taken_once_to_a_millimetre():
    box = random_box(np.random.default_rng(4))
    corners = box_corners(box)[FACES] - 2.0  # on both sides of the origin
    corners = np.concatenate([corners, corners + 4e-5]).astype(np.float32)
    points = ObservedObject(1, "box", box, corners).points
    wanted = np.unique(np.round(corners.reshape(-1, 3).astype(float), 3), axis=0)
    np.testing.assert_array_equal(points[-len(wanted) :], wanted)
    assert len(points) == 2000 + len(wanted)


def test_boxes_in_frames_are_of_their_own_walkthrough():
    item = thing(1, random_box(np.random.default_rng(5)))
    ids = np.zeros((2, 2, 8, 8), np.uint16)
    ids[0, 0, 2:5, 3:7] = ids[1, 0, 1:2, 0:3] = 1
    first = Observation((item,), ids[0], 10.0)
    assert first.pixel_box(item, 0) == first.pixel_box(item, 0) == (3, 2, 7, 5)
    second = replace(first, ids=ids[1])
    assert second.pixel_box(item, 0) == (0, 1, 3, 2)
    with pytest.raises(ValueError, match="is not in frame 1"):
        second.pixel_box(item, 1)
