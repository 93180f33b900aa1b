"""Trajectories through rooms with their questions: whole shards of frames and rows, without video files.

    OUT/{split}/{number:05d}.npy         uint8[clips, T, H, W, 3]
    OUT/{split}/{number:05d}.labels.npy  uint8[clips, T, h, w], what each patch of 16 px shows (`tower.py`)
    OUT/{split}/{number:05d}.points.npy  float16[clips, T, h, w, 5], and where that is (`points.py`)
    OUT/{split}/{number:05d}.positions.npy  int16[clips, N, 3], where visual tokens are in the world [mm]
    OUT/{split}/{number:05d}.json        for each clip its scene, its floor plan as text, its rows, and, where they
                                         are wanted, those of the tables `grounding` and `proposals` of a data set

A shard is a few rooms. Its JSON is written last, so a shard is there whole or is made again.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from research.tiny.study.answers import floor_plan
from research.tiny.study.points import patch_points, token_millimetres
from research.tiny.study.rows import clip_rows
from research.tiny.study.tower import patch_labels
from vega3d.files import read_json, write_array, write_whole
from vega3d.rooms.dataset.dataset import FORMAT
from vega3d.rooms.dataset.grounding import grounding_rows
from vega3d.rooms.dataset.workers import run_all
from vega3d.rooms.questions.observation import observe
from vega3d.rooms.render import Clip
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.render.light import Caster, Quality, bake_light, use_one_thread
from vega3d.rooms.render.opengl import draw_arrays
from vega3d.rooms.scene import scene_seed
from vega3d.rooms.scene.furniture import furniture_for
from vega3d.rooms.scene.scene import Scene, sample_scene
from vega3d.rooms.scene.trajectory import Trajectory, sample_trajectories
from vega3d.runs import check_same_run

EXPRESSIONS_PER_TYPE = 2  # of a clip: up to 4 that mean one object, and up to 10 that mean none, one or several


@dataclass(frozen=True)
class RoomShards:
    """The shards of one split.

    Attributes:
        folder: of all splits.
        split: `train`, `validation`, `test` or `test_unseen`.
        rooms: how many there are.
        first: number of the first of them in its split.
        trajectories: clips of a room.
        num_frames: of a clip.
        size: edge of the square frames [px].
        questions_per_type: most questions of one type about a clip.
        with_plain: whether they are also asked as people type them.
        renderer: "opengl" needs the extra `render` and a graphics card; "embree" gives the same on the CPU.
        quality: of the light (`rooms.light.bake_light`).
        rooms_per_shard: rooms made together by one process.
        furniture: pack of objects; needed for `test_unseen`.
        with_grounding: whether there are expressions and proposals of boxes, without which rooms take half the time.
    """

    folder: Path
    split: str
    rooms: int
    first: int = 0
    trajectories: int = 2
    num_frames: int = 17
    size: int = 192
    questions_per_type: int = 2
    with_plain: bool = False
    renderer: Literal["opengl", "embree"] = "opengl"
    quality: Quality = "full"
    rooms_per_shard: int = 16
    furniture: Path | None = None
    with_grounding: bool = True

    def __post_init__(self):
        for name in ("rooms", "trajectories", "num_frames", "questions_per_type", "rooms_per_shard"):
            value = self.__dict__[name]
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1.")
        if self.renderer not in ("opengl", "embree"):
            raise ValueError(f"There is no renderer {self.renderer!r}. Choose opengl or embree.")
        scene_seed(self.split, self.first + self.rooms - 1)

    def __len__(self) -> int:
        """Number of shards."""
        return -(-self.rooms // self.rooms_per_shard)

    def files(self, number: int) -> list[Path]:
        """Frames, labels, points, positions and rows of a shard."""
        stem = str(self.folder / self.split / f"{number:05d}")
        return [Path(stem + end) for end in (".npy", ".labels.npy", ".points.npy", ".positions.npy", ".json")]

    @property
    def settings(self) -> dict:
        """What the clips of a shard depend on, beside its number."""
        names = ("split", "first", "trajectories", "num_frames", "size", "renderer", "quality")
        more = ("questions_per_type", "with_plain", "rooms_per_shard", "with_grounding")
        return {"format": FORMAT, **{name: self.__dict__[name] for name in (*names, *more)}}


class MadeShard(NamedTuple):
    """A shard that is there."""

    shards: RoomShards  # of its split
    number: int  # in its split
    clips: int  # how many it has


def make_rooms(splits: Sequence[RoomShards], workers: int = 1) -> Generator[MadeShard, None, None]:
    """Makes the shards that are not there, of all splits by the same processes; yields each shard, in order.

    Raises:
        ValueError: if `workers` is below 1, a pack is missing, or a shard was made with other settings.
    """
    if workers < 1:
        raise ValueError(f"Got {workers} workers, but there must be at least 1.")
    for shards in splits:
        furniture_for(shards.split, shards.furniture)
    jobs = [(shards, number) for shards in splits for number in range(len(shards))]
    yield from run_all(partial(_make_job, jobs=jobs), len(jobs), workers, use_one_thread)


def _make_job(job: int, jobs: list[tuple[RoomShards, int]]) -> MadeShard:
    shards, number = jobs[job]
    return MadeShard(shards, number, make_shard(number, shards))


def make_shard(number: int, shards: RoomShards) -> int:
    """Makes one shard unless it is there; returns how many clips it has."""
    *arrays, rows_file = shards.files(number)
    if all(file.is_file() and file.stat().st_size for file in (*arrays, rows_file)):
        return len(read_shard(rows_file, shards)["clips"])
    start = number * shards.rooms_per_shard
    made, clips = [], []
    for room in range(start, min(start + shards.rooms_per_shard, shards.rooms)):
        for *arrays_of_clip, record in room_clips(shards.first + room, shards):
            made.append(arrays_of_clip)
            clips.append(record)
    for file, parts in zip(arrays, zip(*made, strict=True), strict=True):
        write_array(file, np.stack(parts))
    values = json.dumps({"settings": shards.settings, "clips": clips}, separators=(",", ":"))
    write_whole(rows_file, partial(Path.write_text, data=values))
    return len(clips)


def read_shard(path: Path, shards: RoomShards) -> dict:
    """Raises ValueError if the file is damaged, or the shard was made with other settings."""
    try:
        values = read_json(path, "")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it, and run the same command again.") from error
    found = values.get("settings")
    problem = f"{path} was made with other settings"
    check_same_run(found if isinstance(found, dict) else {}, shards.settings, problem, "Choose another folder.")
    return values


def room_clips(room: int, shards: RoomShards) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]]:
    """uint8[T, H, W, 3], `patch_labels`, `patch_points`, `token_millimetres` and the record of each trajectory."""
    scene = sample_scene(scene_seed(shards.split, room), furniture_for(shards.split, shards.furniture))
    trajectories = sample_trajectories(scene, shards.trajectories, shards.num_frames)
    observation = None
    for number, clip in enumerate(rendered(scene, trajectories, shards)):
        observation = observe(scene, clip.instance, observation)
        plan = floor_plan(observation, clip.world_from_camera[0])
        labels, seed = patch_labels(observation), (scene.seed, 3, number)
        rows = clip_rows(observation, plan, labels, seed, shards.questions_per_type, shards.with_plain)
        name = f"{shards.split}_{room:06d}_{number:02d}"
        record = {"scene": name, "plan": plan.listed(plan.places), "rows": rows, "grounding": [], "proposals": []}
        if shards.with_grounding:
            tables = grounding_rows(observation, name, (scene.seed, 6, number), EXPRESSIONS_PER_TYPE)
            record |= {table: tables[table] for table in ("grounding", "proposals")}
        yield np.array(clip.rgb), labels, patch_points(clip), token_millimetres(clip), record


def rendered(scene: Scene, trajectories: list[Trajectory], shards: RoomShards) -> Iterator[Clip]:
    if shards.renderer == "embree":
        renderer = EmbreeRenderer(scene, shards.quality)
        yield from (renderer.render(trajectory, shards.size, shards.size) for trajectory in trajectories)
        return
    from vega3d.rooms.render.opengl import OpenGLRenderer

    light = bake_light(scene, Caster(scene.mesh), shards.quality)
    with OpenGLRenderer(draw_arrays(scene, light)) as opengl:
        yield from opengl.render_all(trajectories, shards.size, shards.size)
