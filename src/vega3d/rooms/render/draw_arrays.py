"""A room as the flat arrays that a graphics card draws: nothing in them points to Python objects."""

from typing import NamedTuple

import numpy as np

from vega3d.rooms.render.clip import texel_density
from vega3d.rooms.scene.scene import Scene

CHUNK = 2048  # faces at most that are culled together
VERTEX = np.dtype([("position", "<f4", 3), ("uv", "<f4", 2), ("light", "<f2", 6)])
FACE = np.dtype([("texture", "<i4"), ("density", "<f4")])
LEVEL = np.dtype([("offset", "<i4"), ("height", "<i4"), ("width", "<i4"), ("glow", "<f4")])


class DrawArrays(NamedTuple):
    """
    Args:
        vertices: VERTEX[V]: place [m], texture coordinates, light on the front and the back.
        faces: int32[F, 3], sorted by instance.
        surfaces: FACE[F]: number of the texture, and texels a metre.
        levels: LEVEL[K, LEVELS]: place and size of each level of a texture's pyramid, and the texture's glow.
        texels: uint8[N, 3], of `Textures`.
        chunks: int32[C, 3]: first face, number of faces and instance of runs of faces that are culled together.
        spheres: float32[C, 4]: centre and radius around each run [m].
    """

    vertices: np.ndarray
    faces: np.ndarray
    surfaces: np.ndarray
    levels: np.ndarray
    texels: np.ndarray
    chunks: np.ndarray
    spheres: np.ndarray


def draw_arrays(scene: Scene, light: np.ndarray) -> DrawArrays:
    """
    Args:
        scene: the room; its faces are in the order of their instances.
        light: float32[V, 2, 3], of `bake_light`.

    Raises:
        ValueError: if there is not one light a vertex, or the faces are in another order.
    """
    mesh = scene.mesh
    if light.shape != (len(mesh.vertices), 2, 3):
        raise ValueError(f"Light is float32[{len(mesh.vertices)}, 2, 3] in this room, but got {light.shape}. Bake it.")
    if (np.diff(scene.instance) < 0).any():
        raise ValueError(
            "Faces are drawn in runs of one instance, but theirs do not ascend. Sort the faces by instance."
        )
    vertices = np.zeros(len(mesh.vertices), VERTEX)
    vertices["position"], vertices["uv"], vertices["light"] = mesh.vertices, mesh.uv, light.reshape(-1, 6)
    surfaces = np.zeros(len(mesh.faces), FACE)
    surfaces["texture"], surfaces["density"] = mesh.texture, texel_density(scene)
    levels = np.zeros(scene.textures.levels.shape[:2], LEVEL)
    for column, name in enumerate(("offset", "height", "width")):
        levels[name] = scene.textures.levels[..., column]
    levels["glow"] = scene.textures.glow[:, None]
    chunks = _chunks(scene.instance)
    return DrawArrays(
        vertices, mesh.faces, surfaces, levels, scene.textures.texels, chunks, _spheres(scene, chunks[:, 0])
    )


def _chunks(instance: np.ndarray) -> np.ndarray:
    changes = np.flatnonzero(np.diff(instance)) + 1
    starts = np.unique(np.concatenate([changes, np.arange(0, len(instance), CHUNK)]))
    sizes = np.diff(np.append(starts, len(instance)))
    return np.stack([starts, sizes, instance[starts]], axis=1).astype(np.int32)


def _spheres(scene: Scene, starts: np.ndarray) -> np.ndarray:
    corners = scene.mesh.vertices.take(scene.mesh.faces.reshape(-1), axis=0)  # float32[3 F, 3]
    low, high = np.minimum.reduceat(corners, 3 * starts), np.maximum.reduceat(corners, 3 * starts)
    radius = np.linalg.norm(high - low, axis=1, keepdims=True) / 2
    return np.concatenate([(low + high) / 2, radius + 1e-4], axis=1).astype(np.float32)
