"""Rays through a triangle mesh by embree."""

import os

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from vega3d.rooms.scene.meshes import Mesh, cross, dot


def face_normals(mesh: Mesh) -> np.ndarray:
    """float32[F, 3]: of twice the length of each face's area."""
    first, second, third = (mesh.vertices.take(column, axis=0) for column in mesh.faces.T)
    return cross(second - first, third - first)


def use_one_thread() -> None:
    """For a process that is one of many: embree would build each mesh by a thread for each processor, in all of them.

    It takes no number, but counts the processors that the process may use when it builds for the first time. Where a
    process cannot be kept to one, nothing is changed.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
    except OSError:
        return
    try:
        scene = EmbreeScene()
        TriangleMesh(scene, np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32)[None])
        scene.run(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
    finally:
        os.sched_setaffinity(0, allowed)


class Caster:
    """
    Args:
        mesh: the triangles that rays hit [m].
    """

    def __init__(self, mesh: Mesh):
        self.face_normals = face_normals(mesh)
        self._scene = EmbreeScene()
        TriangleMesh(self._scene, mesh.vertices, mesh.faces)

    def hits(self, origins: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        """
        Args:
            origins, directions: float[n, 3], world [m]; directions of any length.

        Returns:
            `primID` int[n], the face or -1; `tfar` float[n], the distance in lengths of the direction; `u`, `v`
            float[n], weights of the second and third corner.
        """
        return self._scene.run(np.float32(origins), np.float32(directions), output=1)

    def first_face(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int[n] faces that rays hit first, or -1; and bool[n], whether on the back."""
        face = self._scene.run(np.float32(origins), np.float32(directions))
        return face, dot(self.face_normals[face], directions) > 0

    def blocked(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """bool[n]: whether something is between the origin and origin + direction."""
        reach = np.ones(len(origins), np.float32)
        return self._scene.run(np.float32(origins), np.float32(directions), reach, query="OCCLUDED") >= 0
