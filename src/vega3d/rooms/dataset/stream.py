"""Clips in memory to train a generator on: as many as are wanted, without a data set on disk.

    for seed, trajectory, clip in stream_clips("train", workers=15):
        ...

Worker processes sample rooms, bake their light and sample trajectories. With OpenGL the graphics card of this process
renders them; with embree the workers do. A script has to guard its start with `if __name__ == "__main__"`, because the
workers are spawned.
"""

import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from vega3d.configs import check_count
from vega3d.rooms.dataset.workers import Result, run_in_order
from vega3d.rooms.render import Clip, camera
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.render.light import Caster, Quality, bake_light, check_quality
from vega3d.rooms.render.opengl import DrawArrays, draw_arrays
from vega3d.rooms.scene import SEEDS_PER_SPLIT, scene_seed
from vega3d.rooms.scene.furniture import load_furniture
from vega3d.rooms.scene.scene import sample_scene
from vega3d.rooms.scene.trajectory import Trajectory, sample_trajectories


class StreamedClip(NamedTuple):
    """A clip, and which one of which room it is."""

    seed: int  # the seed of the room (`scene_seed`)
    trajectory: int  # number of the camera's trajectory in the room
    clip: Clip  # what the camera sees. Its images are views of larger blocks of memory: copy what is kept alone.


@dataclass(frozen=True)
class RoomJob:
    """What a worker makes of a room's number; the arguments are those of `stream_clips`."""

    split: str
    trajectories: int
    num_frames: int
    size: int
    renderer: str
    quality: Quality

    def __call__(self, number: int) -> tuple[object, list[np.ndarray]]:
        scene = sample_scene(scene_seed(self.split, number), load_furniture())
        trajectories = sample_trajectories(scene, self.trajectories, self.num_frames)
        info = [(trajectory.kind, trajectory.field_of_view) for trajectory in trajectories]
        poses = np.stack([trajectory.world_from_camera for trajectory in trajectories])
        if self.renderer == "opengl":
            light = bake_light(scene, Caster(scene.mesh), self.quality)
            return info, [poses, *draw_arrays(scene, light)]
        renderer = EmbreeRenderer(scene, self.quality)
        clips = [renderer.render(trajectory, self.size, self.size) for trajectory in trajectories]
        return info, [poses, *(np.stack(images) for images in list(zip(*clips, strict=True))[:3])]

    def frames(self, number: int) -> np.ndarray:
        """uint8[trajectories, T, H, W, 3]: the clips of a room, made and rendered in this process."""
        info, arrays = self(number)
        return np.stack([clip.rgb for clip in RENDERERS[self.renderer](Result(number, info, arrays), self.size)])


def stream_clips(
    split: str = "train",
    start: int = 0,
    rooms: int | None = None,
    *,
    trajectories: int = 16,
    num_frames: int = 17,
    size: int = 192,
    workers: int = 1,
    prefetch: int | None = None,
    renderer: Literal["opengl", "embree"] = "opengl",
    quality: Quality = "full",
) -> Generator[StreamedClip, None, None]:
    """An iterator over clips, room by room and trajectory by trajectory; the same for any number of workers.

    Closing it ends the workers. The same room, trajectory and size give the clip that the renderers give.

    Args:
        split: `train`, `validation`, `test` or `test_unseen`.
        start: number of the first room in its split.
        rooms: how many; to the end of the split, which is practically never, if None.
        trajectories: clips of a room, which share its light; more of them a room are faster, and see fewer rooms.
        num_frames: frames of each clip.
        size: edge of the square frames [px].
        workers: processes that make rooms.
        prefetch: rooms that are ready or waiting beyond those being made; as many as workers if None.
        renderer: "opengl" needs the extra `render` and a graphics card (or patience); "embree" renders in the workers.
        quality: how finely light is baked, see `bake_light`.

    Raises:
        ValueError: for a value out of range, and on other systems than Linux; in the iterator, if there is no OpenGL,
            and what a worker raised.
        MissingExtraError: in the iterator, if the renderer's package is not installed.
        RuntimeError: in the iterator, if a worker was ended from outside.
    """
    if sys.platform != "linux":
        raise ValueError(f"Streams hand over memory as Linux does, but this is {sys.platform}. Render in one process.")
    prefetch = workers if prefetch is None else prefetch
    counts = {"trajectories": trajectories, "num_frames": num_frames, "workers": workers, "prefetch": prefetch}
    for name, value in (counts if rooms is None else {**counts, "rooms": rooms}).items():
        check_count(name, value, 0 if name == "prefetch" else 1)
    check_quality(quality)
    if renderer not in RENDERERS:
        raise ValueError(f"There is no renderer {renderer!r}. Choose one of {list(RENDERERS)}.")
    end = SEEDS_PER_SPLIT if rooms is None else start + rooms
    scene_seed(split, start), scene_seed(split, end - 1)
    camera(Trajectory("pan", np.empty((0, 4, 4)), 60.0), size, size)
    job = RoomJob(split, trajectories, num_frames, size, renderer, quality)
    return _clips(job, iter(range(start, end)), workers, prefetch)


def _clips(job: RoomJob, numbers: Iterator[int], workers: int, prefetch: int) -> Generator[StreamedClip, None, None]:
    results = run_in_order(job, numbers, workers, prefetch)
    try:
        for result in results:
            seed = scene_seed(job.split, result.number)
            for trajectory, clip in enumerate(RENDERERS[job.renderer](result, job.size)):
                yield StreamedClip(seed, trajectory, clip)
    finally:
        results.close()


def _drawn(result: Result, size: int) -> Iterator[Clip]:
    """The clips of a room whose arrays a worker made, rendered here."""
    from vega3d.rooms.render.opengl import OpenGLRenderer

    poses, *arrays = result.arrays
    with OpenGLRenderer(DrawArrays(*arrays)) as renderer:
        trajectories = [
            Trajectory(kind, path, field_of_view)
            for (kind, field_of_view), path in zip(result.info, poses, strict=True)
        ]
        yield from renderer.render_all(trajectories, size, size)


def _received(result: Result, size: int) -> Iterator[Clip]:
    """The clips of a room that a worker rendered."""
    for (kind, field_of_view), path, *images in zip(result.info, *result.arrays, strict=True):
        rgb, depth, instance = images
        yield Clip(rgb, depth, instance, path, camera(Trajectory(kind, path, field_of_view), size, size))


RENDERERS: dict[str, Callable[[Result, int], Iterator[Clip]]] = {"opengl": _drawn, "embree": _received}
