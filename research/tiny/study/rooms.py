"""Walkthroughs with their questions for the experiment: whole shards of frames and rows, without video files.

    OUT/{split}/{number:05d}.npy     uint8[clips, T, H, W, 3]
    OUT/{split}/{number:05d}.cells.npy   uint8[clips, T, h, w], what each cell shows (`cells.py`)
    OUT/{split}/{number:05d}.points.npy  int8[clips, T, h, w, 4], and where that is (`point_map.py`)
    OUT/{split}/{number:05d}.json    for each clip its scene, what is marked in which frame, and its rows

A shard is a few rooms. Its JSON is written last, so a shard is there whole or is made again.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from research.tiny.study.cells import cell_classes
from research.tiny.study.map_rows import map_rows, room_map
from research.tiny.study.point_map import cell_points
from research.tiny.study.stage0_rows import stage0_rows
from vega3d.files import read_json, write_array, write_whole
from vega3d.rooms.dataset.workers import run_all
from vega3d.rooms.questions.observation import Observation, observe
from vega3d.rooms.questions.questions import make_questions
from vega3d.rooms.render import Clip
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.render.light import Caster, Quality, bake_light, use_one_thread
from vega3d.rooms.render.opengl import draw_arrays
from vega3d.rooms.scene import scene_seed
from vega3d.rooms.scene.furniture import furniture_for
from vega3d.rooms.scene.scene import Scene, sample_scene
from vega3d.rooms.scene.trajectory import Trajectory, sample_trajectories
from vega3d.runs import check_same_run


@dataclass(frozen=True)
class RoomShards:
    """
    Args:
        folder: of all splits.
        split: `train`, `validation`, `test` or `test_unseen`.
        rooms: how many, numbered from 0 in their split.
        walks: clips of a room.
        num_frames: of a clip.
        size: edge of the square frames [px].
        questions_per_type: most spatial questions of one type about a clip.
        renderer: "opengl" needs the extra `render` and a graphics card; "embree" gives the same on the CPU.
        quality: of the light (`rooms.light.bake_light`).
        rooms_per_shard: rooms made together by one process.
        furniture: pack of objects; needed for `test_unseen`.
    """

    folder: Path
    split: str
    rooms: int
    walks: int = 2
    num_frames: int = 17
    size: int = 192
    questions_per_type: int = 2
    renderer: Literal["opengl", "embree"] = "opengl"
    quality: Quality = "full"
    rooms_per_shard: int = 16
    furniture: Path | None = None

    def __post_init__(self):
        for name in ("rooms", "walks", "num_frames", "questions_per_type", "rooms_per_shard"):
            value = self.__dict__[name]
            if value < 1:
                raise ValueError(f"{name} is {value}, but must be at least 1.")
        if self.renderer not in ("opengl", "embree"):
            raise ValueError(f"There is no renderer {self.renderer!r}. Choose opengl or embree.")
        scene_seed(self.split, self.rooms - 1)

    def __len__(self) -> int:
        """Number of shards."""
        return -(-self.rooms // self.rooms_per_shard)

    def files(self, number: int) -> tuple[Path, Path]:
        """Frames and rows of a shard."""
        stem = self.folder / self.split / f"{number:05d}"
        return stem.with_suffix(".npy"), stem.with_suffix(".json")

    def cells_file(self, number: int) -> Path:
        return self.folder / self.split / f"{number:05d}.cells.npy"

    def points_file(self, number: int) -> Path:
        return self.folder / self.split / f"{number:05d}.points.npy"

    @property
    def settings(self) -> dict:
        """What the clips of a shard depend on, beside its number."""
        names = ("split", "walks", "num_frames", "size", "questions_per_type", "renderer", "quality")
        return {name: self.__dict__[name] for name in (*names, "rooms_per_shard")}


class MadeShard(NamedTuple):
    """
    Args:
        shards: of its split.
        number: of the shard in its split.
        clips: how many it has.
    """

    shards: RoomShards
    number: int
    clips: int


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
    frames_file, rows_file = shards.files(number)
    arrays = (frames_file, shards.cells_file(number), shards.points_file(number))
    if all(file.is_file() and file.stat().st_size for file in (*arrays, rows_file)):
        return len(read_shard(rows_file, shards)["clips"])
    first = number * shards.rooms_per_shard
    made, clips = [], []
    for room in range(first, min(first + shards.rooms_per_shard, shards.rooms)):
        for *arrays_of_clip, record in room_clips(room, shards):
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


def room_clips(room: int, shards: RoomShards) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict]]:
    """uint8[T, H, W, 3], `cell_classes`, `cell_points` and the record of each walk through a room."""
    scene = sample_scene(scene_seed(shards.split, room), furniture_for(shards.split, shards.furniture))
    walks = sample_trajectories(scene, shards.walks, shards.num_frames)
    observation = None
    for walk, clip in enumerate(rendered(scene, walks, shards)):
        observation = observe(scene, clip.instance, observation)
        record = clip_record(observation, scene, walk, walks[walk], shards.questions_per_type)
        name = f"{shards.split}_{room:06d}_{walk:02d}"
        yield np.array(clip.rgb), cell_classes(observation), cell_points(clip), {"scene": name, **record}


def rendered(scene: Scene, walks: list[Trajectory], shards: RoomShards) -> Iterator[Clip]:
    if shards.renderer == "embree":
        renderer = EmbreeRenderer(scene, shards.quality)
        yield from (renderer.render(walk, shards.size, shards.size) for walk in walks)
        return
    from vega3d.rooms.render.opengl import OpenGLRenderer

    light = bake_light(scene, Caster(scene.mesh), shards.quality)
    with OpenGLRenderer(draw_arrays(scene, light)) as opengl:
        yield from opengl.render_all(walks, shards.size, shards.size)


def clip_record(observation: Observation, scene: Scene, number: int, walk: Trajectory, per_type: int) -> dict:
    """`visuals`: what is marked in which frame, at first nothing; `rows`, each with its visual; and the `map`."""
    places = room_map(observation, walk)
    visuals: list[dict] = [{"frame": None, "marks": []}]
    rows = []
    for question in make_questions(observation, (scene.seed, 3, number), per_type):
        if question.marks:
            visuals.append({"frame": question.frame, "marks": [list(mark) for mark in question.marks]})
        rows.append(
            {
                "stage": 1,
                "type": question.question_type,
                "question": question.question,
                "options": list(question.options),
                "answer": question.answer,
                "visual": len(visuals) - 1 if question.marks else 0,
            }
        )
    rows += [
        {"stage": 1, "type": kind, "question": question, "options": [], "answer": answer, "visual": 0}
        for kind, question, answer in map_rows(places)
    ]
    random = np.random.default_rng([scene.seed, 7, number])
    marked, named = stage0_rows(observation, random, len(visuals))
    return {"visuals": [*visuals, *marked], "rows": [*rows, *named], "map": places}
