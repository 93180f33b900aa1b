"""Projection, poses and boxes: exact rows and round trips."""

import numpy as np
import pytest

from vega3d.geometry import (
    Box,
    box_contains,
    box_corners,
    box_distance,
    boxes_overlap,
    intrinsics_from_field_of_view,
    invert_pose,
    look_at,
    penetration,
    point_set_distance,
    project,
    transform_points,
    unproject,
)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_the_edge_of_the_view_is_the_edge_of_the_image():
    intrinsics = intrinsics_from_field_of_view(200, 100, 90)

    pixels, depth = project([[3.0, -3, 1], [3, 0, 1], [3, 3, 1]], intrinsics, look_at((0, 0, 1), (1, 0, 1)))

    np.testing.assert_allclose(pixels, [[200, 50], [100, 50], [0, 50]], atol=1e-9)
    np.testing.assert_allclose(depth, 3)


def test_higher_points_are_higher_in_the_image():
    intrinsics = intrinsics_from_field_of_view(100, 100, 90)

    pixels, _ = project([[2.0, 0, 2], [2, 0, 0]], intrinsics, look_at((0, 0, 1), (1, 0, 1)))

    np.testing.assert_allclose(pixels, [[50, 25], [50, 75]], atol=1e-9)


def test_unproject_inverts_project(random):
    intrinsics, pose = intrinsics_from_field_of_view(320, 240, 63), look_at((1, 2, 1.5), (-2, 0.5, 0.7))
    pixels, depth = random.uniform((0, 0), (320, 240), (50, 2)), random.uniform(0.1, 9, 50)

    again, depth_again = project(unproject(pixels, depth, intrinsics, pose), intrinsics, pose)

    np.testing.assert_allclose(again, pixels, atol=1e-9)
    np.testing.assert_allclose(depth_again, depth, atol=1e-12)


def test_points_behind_the_camera_have_no_pixel():
    pixels, depth = project([[-1.0, 0, 0]], intrinsics_from_field_of_view(8, 8, 60), look_at((0, 0, 0), (1, 0, 0)))

    assert np.isnan(pixels).all() and depth[0] == -1


def test_pose_is_rigid_and_inverts(random):
    pose = look_at((0.3, -2, 1.4), (2, 2, 0))
    points = random.normal(size=(20, 3))

    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(transform_points(invert_pose(pose), transform_points(pose, points)), points, atol=1e-12)


def test_corners_of_a_turned_box():
    corners = box_corners(Box((1, 1, 1), (4, 2, 2), np.pi / 2))

    np.testing.assert_allclose(corners[0], (2, -1, 0), atol=1e-12)
    np.testing.assert_allclose(corners[6], (0, 3, 2), atol=1e-12)


@pytest.mark.parametrize(
    ("second", "distance"),
    [
        (Box((3, 0, 0), (1, 1, 1)), 2.0),
        (Box((3, 4, 0), (1, 1, 1)), np.hypot(2, 3)),
        (Box((0, 0, 5), (9, 9, 1)), 4.0),
        (Box((3, 0, 4), (1, 1, 1)), np.hypot(2, 3)),
        (Box((3, 0, 0), (1, 1, 1), np.pi / 4), 3 - 0.5 - np.sqrt(0.5)),
        (Box((0.2, 0.1, 0), (4, 0.1, 0.1), 0.3), 0.0),
        (Box((1, 0, 0), (1, 1, 1)), 0.0),
    ],
)
def test_distance_of_boxes(second, distance):
    first = Box((0, 0, 0), (1, 1, 1))

    assert box_distance(first, second) == pytest.approx(distance, abs=1e-12)
    assert box_distance(second, first) == pytest.approx(distance, abs=1e-12)


def test_distance_of_boxes_agrees_with_points(random):
    for _ in range(30):
        boxes = [Box(random.uniform(-2, 2, 3), random.uniform(0.2, 1.5, 3), random.uniform(0, 7)) for _ in range(2)]
        grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 13)] * 3), axis=-1).reshape(-1, 3)
        clouds = [transform_points(_pose(box), grid * box.size) for box in boxes]

        exact, sampled = box_distance(*boxes), point_set_distance(*clouds)

        assert exact <= sampled + 1e-9
        assert sampled - exact < 0.25
        assert boxes_overlap(*boxes) == (exact == 0)
        assert (penetration(*boxes) > 0) == (exact == 0)


def _pose(box):
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(box.yaw), -np.sin(box.yaw)], [np.sin(box.yaw), np.cos(box.yaw)]]
    pose[:3, 3] = box.center
    return pose


def test_touching_boxes_do_not_overlap():
    first = Box((0, 0, 0), (1, 1, 1))

    assert not boxes_overlap(first, Box((1, 0, 0), (1, 1, 1)))
    assert boxes_overlap(first, Box((0.99, 0, 0), (1, 1, 1)))
    assert boxes_overlap(first, Box((1.05, 0, 0), (1, 1, 1)), margin=0.1)


def test_inside_a_turned_box():
    box = Box((0, 0, 0), (2, 0.2, 1), np.pi / 4)

    assert box_contains(box, [[0.6, 0.6, 0], [0.6, -0.6, 0], [0, 0, 0.6]]).tolist() == [True, False, False]
    assert box_contains(box, [0, 0, 0.6], margin=0.2)


def test_closest_points_in_chunks(random, monkeypatch):
    first, second = random.normal(size=(40, 3)), random.normal(size=(30, 3))
    whole = point_set_distance(first, second)

    monkeypatch.setattr("vega3d.geometry.CHUNK", 64)

    assert point_set_distance(first, second) == whole
    assert whole == np.linalg.norm(first[:, None] - second[None], axis=-1).min()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intrinsics_from_field_of_view(0, 4, 60), "0 x 4"),
        (lambda: intrinsics_from_field_of_view(4, 4, 180), "got 180"),
        (lambda: look_at((0, 0, 1), (0, 0, 0)), "vertical"),
        (lambda: point_set_distance(np.zeros((0, 3)), np.zeros((2, 3))), "0 and 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
