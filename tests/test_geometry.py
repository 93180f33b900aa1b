"""Projection, poses and boxes: exact rows and round trips."""

import numpy as np
import pytest

from vega3d.geometry import (
    Box,
    box_contains,
    box_corners,
    intrinsics_from_field_of_view,
    invert_pose,
    look_at,
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


def test_inside_a_turned_box():
    box = Box((0, 0, 0), (2, 0.2, 1), np.pi / 4)

    assert box_contains(box, [[0.6, 0.6, 0], [0.6, -0.6, 0], [0, 0, 0.6]]).tolist() == [True, False, False]
    assert box_contains(box, [0, 0, 0.6], margin=0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intrinsics_from_field_of_view(0, 4, 60), "0 x 4"),
        (lambda: intrinsics_from_field_of_view(4, 4, 180), "got 180"),
        (lambda: look_at((0, 0, 1), (0, 0, 0)), "vertical"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
