"""Pictures of a room: rays on the CPU, OpenGL on a graphics card, and the light that both share.

Here: what every renderer gives, and what all of them have to agree about: camera, exposure, and texels on faces.
"""

from typing import NamedTuple

import numpy as np

from vega3d.geometry import intrinsics_from_field_of_view
from vega3d.rooms.scene.meshes import face_normals, length
from vega3d.rooms.scene.scene import Scene
from vega3d.rooms.scene.trajectory import Trajectory

SIZES = (16, 4096)  # [px]
EXPOSURE = 0.72
WHITE = 2.6  # light that is shown white
GLOW = 1.6


class Clip(NamedTuple):
    """The frames that a camera sees on its trajectory, with their exact geometry."""

    rgb: np.ndarray  # uint8[T, H, W, 3]
    depth: np.ndarray  # float32[T, H, W], along the optical axis, of the pixel's centre [m]
    instance: np.ndarray  # int32[T, H, W], of the pixel's centre; 0 for floor, walls and ceiling
    world_from_camera: np.ndarray  # float[T, 4, 4]
    intrinsics: np.ndarray  # float[3, 3] [px]


def camera(trajectory: Trajectory, width: int, height: int) -> np.ndarray:
    """float[3, 3]: the intrinsics of a trajectory's frames [px]; raises ValueError unless they fit in `SIZES`."""
    if not (SIZES[0] <= width <= SIZES[1] and SIZES[0] <= height <= SIZES[1]):
        raise ValueError(f"Frames have {SIZES[0]} to {SIZES[1]} pixels a side, but got {width} x {height}.")
    return intrinsics_from_field_of_view(width, height, trajectory.field_of_view)


def texel_density(scene: Scene) -> np.ndarray:
    """float32[F]: texels a metre on each face, the geometric mean of both directions."""
    mesh = scene.mesh
    a, b, c = (mesh.uv.take(column, axis=0) for column in mesh.faces.T)
    area = length(face_normals(mesh))
    first, second = b - a, c - a
    covered = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    texels = scene.textures.levels[mesh.texture, 0, 1:].prod(axis=1)
    return np.sqrt(covered * texels / np.maximum(area, 1e-12)).astype(np.float32)
