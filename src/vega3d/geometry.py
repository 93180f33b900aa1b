"""Pinhole projection, rigid poses and boxes, exact and in numpy.

World coordinates are in metres with z up. A camera looks along its +z axis, with +x to the right and +y down (OpenCV).
Pixel coordinates are continuous: the first pixel covers [0, 1) x [0, 1) and its centre is (0.5, 0.5). Depth is the
coordinate along the optical axis, not the length of the ray. Boxes stand upright: they turn about z only.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = np.ndarray


class Box(NamedTuple):
    """An upright box; `size` is measured along its own axes before it is turned by `yaw` about its centre.

    Attributes:
        center: float[3], world [m].
        size: float[3], width, depth, height [m].
        yaw: about world z, counter-clockwise from above [rad]; 0 is axis-aligned.
    """

    center: Array
    size: Array
    yaw: float = 0.0


def intrinsics_from_field_of_view(width: int, height: int, field_of_view: float) -> Array:
    """The pinhole matrix of square pixels whose principal point is the centre of the image.

    Args:
        width, height: of the image [px].
        field_of_view: along the width [deg].

    Returns:
        float[3, 3] [px].

    Raises:
        ValueError: if the image is empty or the field of view is not inside (0, 180).
    """
    if width < 1 or height < 1:
        raise ValueError(f"An image has at least 1 x 1 pixels, but got {width} x {height}.")
    if not 0 < field_of_view < 180:
        raise ValueError(f"The field of view lies between 0 and 180 degrees, but got {field_of_view}.")
    focal = width / 2 / np.tan(np.radians(field_of_view) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def look_at(position: npt.ArrayLike, target: npt.ArrayLike) -> Array:
    """The pose of an upright camera that looks at a point.

    Args:
        position, target: float[3], world [m]: where the camera stands, and a point in the middle of its image.

    Returns:
        float[4, 4], world_from_camera.

    Raises:
        ValueError: if the camera would look straight up or down, or at its own place.
    """
    position, target = np.asarray(position, float), np.asarray(target, float)
    forward = target - position
    right = np.cross(forward, (0.0, 0.0, 1.0))
    if np.linalg.norm(right) <= 1e-9 * max(1.0, float(np.linalg.norm(forward))):
        raise ValueError(
            f"An upright camera at {position} cannot look at {target}: the line of sight is vertical or empty. "
            "Move the target sideways."
        )
    forward, right = forward / np.linalg.norm(forward), right / np.linalg.norm(right)
    world_from_camera = np.eye(4)
    world_from_camera[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
    return world_from_camera


def invert_pose(pose: Array) -> Array:
    """float[..., 4, 4], the inverse of rigid poses float[..., 4, 4]: the rotation is transposed."""
    rotation = np.swapaxes(pose[..., :3, :3], -1, -2)
    inverse = np.zeros_like(pose, dtype=float)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ pose[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def transform_points(pose: Array, points: npt.ArrayLike) -> Array:
    """float[..., 3], in a [m], of points float[..., 3], in b [m]; the pose is float[4, 4], a_from_b."""
    return np.asarray(points, float) @ pose[:3, :3].T + pose[:3, 3]


def project(points: npt.ArrayLike, intrinsics: Array, world_from_camera: Array) -> tuple[Array, Array]:
    """Where points of the world lie in the image of a pinhole camera, and how far away.

    Args:
        points: float[..., 3], world [m].
        intrinsics: float[3, 3] [px].
        world_from_camera: float[4, 4].

    Returns:
        float[..., 2], pixels [px]; and float[...], depth along the optical axis [m]. Behind the camera the depth is
        negative or zero and the pixels are NaN.
    """
    camera = transform_points(invert_pose(world_from_camera), points)
    depth = camera[..., 2]
    scale = np.divide(1.0, depth, out=np.full_like(depth, np.nan), where=depth > 0)
    return ((camera * scale[..., None]) @ intrinsics.T)[..., :2], depth


def unproject(pixels: npt.ArrayLike, depth: npt.ArrayLike, intrinsics: Array, world_from_camera: Array) -> Array:
    """The inverse of `project`.

    Args:
        pixels: float[..., 2] [px].
        depth: float[...], along the optical axis [m].
        intrinsics: float[3, 3] [px].
        world_from_camera: float[4, 4].

    Returns:
        float[..., 3], world [m].
    """
    pixels = np.asarray(pixels, float)
    rays = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1) @ np.linalg.inv(intrinsics).T
    return transform_points(world_from_camera, rays * np.asarray(depth, float)[..., None])


def rotation_about_z(yaw: float) -> Array:
    """float[3, 3], counter-clockwise from above; `yaw` in [rad]."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


CORNERS = np.array([[x, y, z] for z in (-1, 1) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))])  # of `box_corners`


def box_corners(box: Box) -> Array:
    """float[8, 3], world [m]: the lower four counter-clockwise from above, then the upper four in the same order."""
    return CORNERS * np.asarray(box.size) / 2 @ rotation_about_z(box.yaw).T + np.asarray(box.center)


def axis_aligned(box: Box) -> Array:
    """float[6]: centre and size [m] of the smallest box along the axes of the world around an upright box."""
    corners = box_corners(box)
    lowest, highest = corners.min(axis=0), corners.max(axis=0)
    return np.concatenate([(lowest + highest) / 2, highest - lowest])


def box_contains(box: Box, points: npt.ArrayLike, margin: float = 0.0) -> Array:
    """bool[...]: whether points float[..., 3] lie in the box grown by `margin` [m] on every side."""
    local = (np.asarray(points, float) - box.center) @ rotation_about_z(box.yaw)
    return (np.abs(local) <= np.asarray(box.size) / 2 + margin).all(axis=-1)


def penetration(first: Box, second: Box) -> float:
    """Least overlap of the two boxes over all separating axes [m]; negative or zero if they are disjoint or touch."""
    axes = np.concatenate([rotation_about_z(box.yaw).T[:2] for box in (first, second)] + [np.eye(3)[2:]])
    one, other = box_corners(first) @ axes.T, box_corners(second) @ axes.T  # float[8, 5], along each axis
    return float((np.minimum(one.max(0), other.max(0)) - np.maximum(one.min(0), other.min(0))).min())


UNION_MARGIN = 1e-8  # [m3]


def box_iou(boxes: npt.ArrayLike, others: npt.ArrayLike) -> Array:
    """float64[...]: shared volume over joint volume of pairs of axis-aligned boxes float[..., 6].

    A box is cx, cy, cz, w, h, l [m]: centre, and size along x, y and z. `UNION_MARGIN` is added to the joint volume,
    as the code of the grounding benchmarks does, so an overlap of one half exactly is just below 0.5. Leading axes are
    broadcast: `box_iou(boxes[:, None], others)` has every pair.

    Raises:
        ValueError: if boxes have another number of values than 6, such as 7 with a yaw.
    """
    boxes, others = np.asarray(boxes, float), np.asarray(others, float)
    for given in (boxes, others):
        if given.shape[-1:] != (6,):
            raise ValueError(
                f"Axis-aligned boxes are float[..., 6], cx, cy, cz, w, h, l, but got {list(given.shape)}. Enclose a "
                "turned box in an upright one along the axes."
            )
    low = np.maximum(boxes[..., :3] - boxes[..., 3:] / 2, others[..., :3] - others[..., 3:] / 2)
    high = np.minimum(boxes[..., :3] + boxes[..., 3:] / 2, others[..., :3] + others[..., 3:] / 2)
    shared = np.maximum(high - low, 0).prod(-1)
    joint = boxes[..., 3:].prod(-1) + others[..., 3:].prod(-1) - shared + UNION_MARGIN
    return shared / joint
