"""Renders a room with embree: colour, depth and instance ids of a pixel come from one ray through its centre."""

from functools import cached_property

import numpy as np

from vega3d.rooms.render import EXPOSURE, GLOW, WHITE, Clip, camera, texel_density
from vega3d.rooms.render.light import Caster, Quality, bake_light, linear
from vega3d.rooms.scene.meshes import LEVELS, dot, length
from vega3d.rooms.scene.scene import Scene
from vega3d.rooms.scene.trajectory import Trajectory

SUBPIXELS = np.array([(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)])  # [px]
DEPTH_EDGE = 0.04  # relative step of depth between neighbours that is antialiased


class EmbreeRenderer:
    """Renders any number of trajectories through a room on the CPU.

    The light of the room is baked once, as finely as `quality` says (`bake_light`), when colours are first asked for.

    Raises:
        MissingExtraError: if embreex is not installed.
    """

    def __init__(self, scene: Scene, quality: Quality = "full"):
        self.scene, self._quality = scene, quality
        self._caster = Caster(scene.mesh)
        self._linear = linear(np.arange(256))

    @cached_property
    def light(self) -> np.ndarray:
        """float32[V, 2, 3]: what `bake_light` gives."""
        return bake_light(self.scene, self._caster, self._quality)

    @cached_property
    def _density(self) -> np.ndarray:
        return texel_density(self.scene)

    def geometry(self, trajectory: Trajectory, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Depth float32[T, H, W] [m] and instance ids int32[T, H, W] as in `render`, without light and colours."""
        intrinsics = camera(trajectory, width, height)
        corners = _pixel_corners(width, height)
        hits = [self._cast(corners + 0.5, pose, intrinsics)[1] for pose in trajectory.world_from_camera]
        depth = np.stack([hit["tfar"].reshape(height, width) for hit in hits])
        instance = np.stack([self._instances(hit["primID"]).reshape(height, width) for hit in hits])
        return depth, instance

    def render(self, trajectory: Trajectory, width: int, height: int, antialias: bool = True) -> Clip:
        """The frames of a trajectory, with depth, ids and poses; raises ValueError unless 16 to 4096 px a side.

        With `antialias`, pixels at edges average 2 x 2 rays, which changes `rgb` only.
        """
        intrinsics = camera(trajectory, width, height)
        frames = [self._frame(pose, intrinsics, width, height, antialias) for pose in trajectory.world_from_camera]
        rgb, depth, instance = (np.stack(parts) for parts in zip(*frames, strict=True))
        return Clip(rgb, depth, instance, trajectory.world_from_camera, intrinsics)

    def _frame(self, pose: np.ndarray, intrinsics: np.ndarray, width: int, height: int, antialias: bool) -> tuple:
        corners = _pixel_corners(width, height)
        colour, depth, face = self._shoot(corners + 0.5, pose, intrinsics)
        instance = self._instances(face)
        shape = (height, width)
        if antialias:
            edge = np.flatnonzero(self._edges(face.reshape(shape), depth.reshape(shape)))
            fine = (corners[edge, None] + SUBPIXELS).reshape(-1, 2)
            colour[edge] = self._shoot(fine, pose, intrinsics)[0].reshape(-1, len(SUBPIXELS), 3).mean(axis=1)
        rgb = (colour * 255 + 0.5).astype(np.uint8)
        return rgb.reshape(*shape, 3), depth.reshape(shape), instance.reshape(shape)

    def _edges(self, face: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """bool[H, W]: pixels beside another object, another texture, or a step of depth."""
        kind = self.scene.instance[face] * 4096 + self.scene.mesh.texture[face]
        edge = np.zeros(face.shape, bool)
        for axis in (0, 1):
            here, there = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(-1)))
            step = np.abs(depth[here] - depth[there]) > DEPTH_EDGE * np.minimum(depth[here], depth[there])
            differs = (kind[here] != kind[there]) | step
            edge[here] |= differs
            edge[there] |= differs
        return edge

    def _instances(self, face: np.ndarray) -> np.ndarray:
        """int32[n]: instance ids of faces; 0 where a ray hit none."""
        return np.where(face >= 0, self.scene.instance[face], 0).astype(np.int32)

    def _cast(self, pixels: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, dict]:
        """float32[n, 3] rays of depth 1 through pixels float[n, 2], and what they hit."""
        rays = np.concatenate([(pixels - intrinsics[:2, 2]) / intrinsics[0, 0], np.ones((len(pixels), 1))], axis=1)
        rays = (rays @ pose[:3, :3].T).astype(np.float32)
        return rays, self._caster.hits(np.broadcast_to(pose[:3, 3], rays.shape), rays)

    def _shoot(self, pixels: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray) -> tuple:
        """float32[n, 3] colours in [0, 1], float32[n] depths [m] and int[n] faces at pixels float[n, 2]."""
        rays, hit = self._cast(pixels, pose, intrinsics)
        face, depth = hit["primID"], hit["tfar"]
        mesh = self.scene.mesh
        corners = mesh.faces[face]
        second, third = hit["u"][:, None], hit["v"][:, None]
        first = 1 - second - third
        uv = mesh.uv[corners[:, 0]] * first + mesh.uv[corners[:, 1]] * second + mesh.uv[corners[:, 2]] * third
        slope = dot(self._caster.face_normals[face], rays)
        lit = 2 * corners + (slope > 0)[:, None]
        baked = self.light.reshape(-1, 3)
        light = baked[lit[:, 0]] * first + baked[lit[:, 1]] * second + baked[lit[:, 2]] * third
        footprint = depth / intrinsics[0, 0] * length(rays) * self._density[face]
        albedo, glow = self._texels(mesh.texture[face], uv, footprint)
        return tone_mapped(albedo * (light * EXPOSURE * (glow == 0) + GLOW * glow)), depth, face

    def _texels(self, texture: np.ndarray, uv: np.ndarray, footprint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32[n, 3] reflected light, from the pyramid's level that fits `footprint` [texels]; and the glow."""
        level = np.clip(np.log2(np.maximum(footprint, 1e-3)) + 0.5, 0, LEVELS - 1).astype(np.int64)
        table = self.scene.textures
        offset, height, width = table.levels[texture, level].T
        row = (((1 - uv[:, 1]) % 1) * height).astype(np.int64) % height
        column = ((uv[:, 0] % 1) * width).astype(np.int64) % width
        return self._linear[table.texels[offset + row * width + column]], table.glow[texture][:, None]


def tone_mapped(light: np.ndarray) -> np.ndarray:
    """float32[..., 3] in [0, 1], sRGB: light with a soft shoulder, so that bright walls keep their shade."""
    curve = np.clip(light * (1 + light / WHITE**2) / (1 + 0.8 * light), 0, 1)
    return np.where(curve <= 0.0031308, 12.92 * curve, 1.055 * curve ** (1 / 2.4) - 0.055)


def _pixel_corners(width: int, height: int) -> np.ndarray:
    """int[H W, 2]: (x, y) of the upper left corner of each pixel, row by row."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y], axis=-1).reshape(-1, 2)
