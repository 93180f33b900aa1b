"""Renders a room with OpenGL on a graphics card: what `EmbreeRenderer` shows, many times faster.

All frames of a clip are drawn into one tall image by one call and read back once, because waiting for a read takes
longer than drawing a frame. Depth and ids are drawn without antialiasing, exactly at the pixels' centres.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vega3d.geometry import invert_pose
from vega3d.rooms.render.clip import Clip, camera
from vega3d.rooms.render.draw_arrays import DrawArrays, draw_arrays
from vega3d.rooms.render.light import bake_light
from vega3d.rooms.render.opengl_context import OpenGLContext, Target, packed_words, shared_context
from vega3d.rooms.render.raycast import Caster
from vega3d.rooms.scene.scene import Scene
from vega3d.rooms.scene.trajectory import Trajectory

NEAR = 0.04  # [m]; cameras keep farther from everything
GROUP = 64  # invocations, of shaders.PACK


class OpenGLRenderer:
    """Renders any number of trajectories through a room that is on the graphics card until `release`.

    Args:
        arrays: of the room.
        context: to draw with; the one that this thread shares if None.

    Raises:
        ValueError: if moderngl, EGL or a driver is missing.
    """

    def __init__(self, arrays: DrawArrays, context: OpenGLContext | None = None):
        self.context = shared_context() if context is None else context
        gl = self.context.gl
        self._arrays = arrays
        low, high = (bound(arrays.vertices["position"], axis=0) for bound in (np.min, np.max))
        self._far = 1.01 * float(np.linalg.norm(high - low)) + NEAR
        self._vertices, self._faces = gl.buffer(arrays.vertices), gl.buffer(arrays.faces)
        self._tables = [gl.buffer(arrays.surfaces), gl.buffer(arrays.levels), _with_room(gl, arrays.texels)]
        runs = (self.context.runs, "3u /i", "run")
        surface = [(self._vertices, "3f 5x4", "position"), runs]
        colour = [(self._vertices, "3f 2f 3u", "position", "uv", "light"), runs]
        self._surface = gl.vertex_array(self.context.surface, surface, index_buffer=self._faces)
        self._colour = gl.vertex_array(self.context.colour, colour, index_buffer=self._faces)

    @classmethod
    def from_scene(
        cls, scene: Scene, light: np.ndarray | None = None, context: OpenGLContext | None = None
    ) -> "OpenGLRenderer":
        """
        Args:
            scene: the room.
            light: float32[V, 2, 3], of `bake_light`; baked here if None.
            context: as above.
        """
        light = bake_light(scene, Caster(scene.mesh)) if light is None else light
        return cls(draw_arrays(scene, light), context)

    def __enter__(self) -> "OpenGLRenderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Frees the room's memory on the graphics card."""
        for part in (self._surface, self._colour, self._vertices, self._faces, *self._tables):
            part.release()

    def render(self, trajectory: Trajectory, width: int, height: int) -> Clip:
        """
        Args:
            trajectory: where the camera is.
            width, height: of the frames [px].

        Returns:
            The frames with depth, ids and poses. Its images share one block of memory: copy what is kept alone.

        Raises:
            ValueError: if the frames are smaller or larger than 16 to 4096 px.
        """
        return next(self.render_all([trajectory], width, height))

    def render_all(self, trajectories: Sequence[Trajectory], width: int, height: int) -> Iterator[Clip]:
        """The clips of `render`, faster: one is read while the next is drawn.

        The context can draw nothing else until the iterator has ended or is closed.

        Raises:
            ValueError: as `render` does.
        """
        images = []
        for part in _pipelined(self._parts(trajectories, width, height)):
            images.append(self._read(part))
            if part.last:
                together = images[0] if len(images) == 1 else [np.concatenate(n) for n in zip(*images, strict=True)]
                rgb, depth, instance = together
                yield Clip(rgb, depth, instance, part.trajectory.world_from_camera, part.intrinsics)
                images = []

    def _parts(self, trajectories: Sequence[Trajectory], width: int, height: int) -> Iterator["_Part"]:
        """Draws the frames of trajectories, as many together as the context can."""
        cameras = [camera(trajectory, width, height) for trajectory in trajectories]
        together = self.context.together(width, height, len(self._arrays.chunks))
        most = max((len(trajectory.world_from_camera) for trajectory in trajectories), default=0)
        target = self.context.target(width, height, min(together, most))
        packed = itertools.cycle(target.packed)
        for trajectory, intrinsics in zip(trajectories, cameras, strict=True):
            lens = 2 * intrinsics[0, 0] / width, 2 * intrinsics[1, 1] / height, NEAR, self._far
            for start in range(0, len(trajectory.world_from_camera), together):
                poses = trajectory.world_from_camera[start : start + together]
                last = start + together >= len(trajectory.world_from_camera)
                part = _Part(trajectory, intrinsics, (len(poses), height, width), last, next(packed))
                count = self._aim(invert_pose(poses), lens)
                self._draw(target, part, count, lens)
                self._pack(target, part)
                yield part

    def _aim(self, cameras: np.ndarray, lens: tuple[float, float, float, float]) -> int:
        """Hands over the cameras float[T, 4, 4] and what each of them sees; returns the number of runs of faces."""
        context, chunks = self.context, self._arrays.chunks
        frames, seen = visible(self._arrays.spheres, cameras, lens)
        runs = np.stack([frames, chunks[seen, 2], chunks[seen, 0]], axis=1).astype(np.uint32)
        commands = np.zeros((len(runs), 5), np.uint32)  # count, instances, first index, base vertex, base instance
        commands[:, 0], commands[:, 1], commands[:, 2] = 3 * chunks[seen, 1], 1, 3 * chunks[seen, 0]
        commands[:, 4] = np.arange(len(runs))
        matrices = np.ascontiguousarray(cameras.transpose(0, 2, 1), np.float32)  # columns first
        for buffer, data in ((context.cameras, matrices), (context.runs, runs), (context.commands, commands)):
            buffer.orphan(max(buffer.size, data.nbytes))
            buffer.write(data)
        return len(runs)

    def _draw(self, target: Target, part: "_Part", count: int, lens: tuple[float, float, float, float]) -> None:
        context = self.context
        for binding, buffer in enumerate([context.cameras, *self._tables]):
            buffer.bind_to_storage_buffer(binding)
        context.colour["focal"] = float(part.intrinsics[0, 0])
        passes = ((target.surface, context.surface, self._surface), (target.colour, context.colour, self._colour))
        for image, program, mesh in passes:
            program["lens"], program["frames"] = lens, float(part.shape[0])
            image.use()
            image.viewport = (0, 0, target.width, target.height * part.shape[0])
            image.clear(0.0, 0.0, 0.0, 0.0, viewport=image.viewport)
            mesh.render_indirect(context.commands, count=count)

    def _pack(self, target: Target, part: "_Part") -> None:
        context, pack = self.context, self.context.pack
        pixels = math.prod(part.shape)
        context.gl.copy_framebuffer(target.resolved, target.colour)
        target.surface.color_attachments[0].use(0)
        target.resolved.color_attachments[0].use(1)
        part.packed.bind_to_storage_buffer(len(self._tables) + 1)
        pack["pixels"], pack["width"] = pixels, target.width
        pack.run(-(-packed_words(pixels) // (11 * GROUP)))
        context.gl.memory_barrier()

    def _read(self, part: "_Part") -> list[np.ndarray]:
        pixels = math.prod(part.shape)
        words = np.empty(packed_words(pixels), np.uint32)
        part.packed.read_into(words, words.nbytes)
        padded = len(words) // 11 * 4
        depth, instance = words[:pixels].view(np.float32), words[padded : padded + pixels].view(np.int32)
        rgb = words[2 * padded :].view(np.uint8)[: 3 * pixels]
        return [rgb.reshape(*part.shape, 3), depth.reshape(part.shape), instance.reshape(part.shape)]


class _Part(NamedTuple):
    """Frames of a trajectory that were drawn together.

    Args:
        trajectory: of which they are.
        intrinsics: float[3, 3] [px].
        shape: number, height and width of the frames.
        last: whether they are the last ones of the trajectory.
        packed: buffer that they are in.
    """

    trajectory: Trajectory
    intrinsics: np.ndarray
    shape: tuple[int, int, int]
    last: bool
    packed: Any


def _pipelined(parts: Iterator[_Part]) -> Iterator[_Part]:
    """The same parts; each is handed on when the next one was begun."""
    before = None
    for part in parts:
        if before is not None:
            yield before
        before = part
    if before is not None:
        yield before


def visible(spheres: np.ndarray, cameras: np.ndarray, lens: tuple) -> tuple[np.ndarray, np.ndarray]:
    """
    Args:
        spheres: float32[C, 4], centres and radii [m].
        cameras: float[T, 4, 4], camera_from_world.
        lens: twice the focal length over width and over height, near and far [m].

    Returns:
        int[n] frames and int[n] spheres that they may see, frame by frame, nearest first, which hides most early.
    """
    centres = spheres[:, :3] @ cameras[:, :3, :3].transpose(0, 2, 1) + cameras[:, None, :3, 3]  # float[T, C, 3]
    radius = spheres[:, 3]
    seen = centres[..., 2] > lens[2] - radius
    for axis in (0, 1):
        beyond = np.abs(centres[..., axis]) * lens[axis] - centres[..., 2]
        seen &= beyond < radius * np.hypot(lens[axis], 1.0)
    order = np.argsort(np.linalg.norm(centres, axis=-1) - radius, axis=1)
    frames, ranks = np.nonzero(np.take_along_axis(seen, order, axis=1))
    return frames, order[frames, ranks]


def _with_room(gl, texels: np.ndarray):
    """A buffer of texels uint8[N, 3], whose last one can be read by words."""
    buffer = gl.buffer(reserve=texels.nbytes // 4 * 4 + 8)
    buffer.write(np.ascontiguousarray(texels))
    return buffer
