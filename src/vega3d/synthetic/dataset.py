"""A folder of walkthroughs with their geometry and their questions, in VSI-Bench's published layout.

    OUT/settings.json                    what the folder was made with; a folder of other settings is refused
    OUT/rooms/{scene}.mp4                one walkthrough
    OUT/arrays/{scene}.npz               depth, instance ids, poses, intrinsics, boxes
    OUT/scenes/{scene}.jsonl             its questions; written last, so that a scene with this file is whole
    OUT/{split}.jsonl                    VSI-Bench's ten types, written when all scenes are there
    OUT/{split}_localisation.jsonl       localisation by choice, with the marked boxes

No times, hosts or worker counts: two runs on one machine give the same bytes.
"""

import json
import string
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np

from vega3d.synthetic.furniture import Furniture, load_furniture
from vega3d.synthetic.observation import observe
from vega3d.synthetic.questions import GeometricQuestion, make_questions
from vega3d.synthetic.render_embree import Clip, EmbreeRenderer
from vega3d.synthetic.resumable import run_all, write_whole
from vega3d.synthetic.scene import Scene, sample_scene, scene_seed
from vega3d.synthetic.walk import sample_walk

DATASET = "rooms"
LOCALISATION = "localisation_by_choice"
FPS = 4
FORMAT = 1


@dataclass(frozen=True)
class DatasetSettings:
    """
    Args:
        split: `train`, `validation`, `test` or `test_unseen`; their seeds are disjoint.
        size: edge of the square frames [px].
        num_frames: of a walkthrough.
        walks: walkthroughs of a room, which share its light.
        questions_per_type: most questions of one type about a walkthrough.

    Raises:
        ValueError: for a value out of range.
    """

    split: str = "train"
    size: int = 192
    num_frames: int = 17
    walks: int = 1
    questions_per_type: int = 2

    def __post_init__(self):
        scene_seed(self.split, 0)
        limits = {"size": (128, 640), "num_frames": (2, 512), "walks": (1, 64), "questions_per_type": (1, 100)}
        for name, (low, high) in limits.items():
            value = asdict(self)[name]
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, but must lie in [{low}, {high}].")
        if self.size % 2:
            raise ValueError(
                f"size is {self.size}, but video frames have an even number of pixels. Use {self.size + 1}."
            )


def question_row(question: GeometricQuestion, scene_name: str, number: int) -> dict:
    """A row with VSI-Bench's columns, and the geometry that the answer came from."""
    options = [f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, question.options, strict=False)]
    return {
        "id": f"{scene_name}_{number:03d}",
        "dataset": DATASET,
        "scene_name": scene_name,
        "question_type": question.question_type,
        "question": question.question,
        "ground_truth": question.answer,
        "options": options or None,
        "object_ids": list(question.object_ids),
        "frame": question.frame,
        "marks": [list(mark) for mark in question.marks],
    }


def write_video(path: Path, frames: np.ndarray) -> None:
    """uint8[T, H, W, 3] as H.264 in MP4; one thread, so that the same frames give the same bytes."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        options = {"crf": "20", "preset": "medium", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_arrays(path: Path, scene: Scene, clip: Clip) -> None:
    """Depth [mm], instance ids, poses, intrinsics, and the boxes of all objects."""
    boxes = [np.concatenate([item.box.center, item.box.size, [item.box.yaw]]) for item in scene.objects]
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            depth_mm=np.minimum(np.round(clip.depth * 1000), 65535).astype(np.uint16),
            instance=clip.instance.astype(np.uint16),
            world_from_camera=clip.world_from_camera.astype(np.float32),
            intrinsics=clip.intrinsics.astype(np.float32),
            boxes=np.array(boxes, np.float32).reshape(-1, 7),
            names=np.array([item.name for item in scene.objects]),
            seed=np.array(scene.seed),
        )


def make_room(number: int, output: Path, settings: DatasetSettings, furniture: list[Furniture] | None = None) -> int:
    """Renders the walkthroughs of one room that are not there yet; returns how many questions they have."""
    names = [f"{settings.split}_{number:06d}_{walk:02d}" for walk in range(settings.walks)]
    missing = [name for name in names if not (output / "scenes" / f"{name}.jsonl").is_file()]
    if missing:
        seed = scene_seed(settings.split, number)
        scene = sample_scene(seed, load_furniture() if furniture is None else furniture)
        renderer = EmbreeRenderer(scene)
        for walk, name in enumerate(names):
            if name in missing:
                clip = renderer.render(sample_walk(scene, walk, settings.num_frames), settings.size, settings.size)
                questions = make_questions(observe(scene, clip.instance), (seed, 3, walk), settings.questions_per_type)
                rows = [json.dumps(question_row(question, name, row)) for row, question in enumerate(questions)]
                write_whole(output / DATASET / f"{name}.mp4", partial(write_video, frames=clip.rgb))
                write_whole(output / "arrays" / f"{name}.npz", partial(write_arrays, scene=scene, clip=clip))
                lines = "".join(f"{row}\n" for row in rows)
                write_whole(output / "scenes" / f"{name}.jsonl", partial(Path.write_text, data=lines))
    return sum(len((output / "scenes" / f"{name}.jsonl").read_text().splitlines()) for name in names)


def synthesize(
    output: str | Path,
    settings: DatasetSettings,
    num_scenes: int,
    workers: int = 1,
    on_scene: Callable[[int], None] | None = None,
) -> Path:
    """Makes a data set, or what is missing of one; the result does not depend on `workers`.

    Args:
        output: folder; empty, not there yet, or of an earlier run with the same settings.
        settings: of the data set.
        num_scenes: rooms, numbered from 0 in their split.
        workers: processes.
        on_scene: called with the number of questions of each room that is done.

    Returns:
        The table of the questions of VSI-Bench's types.

    Raises:
        ValueError: if the folder holds something else, or an argument is out of range.
    """
    if num_scenes < 1 or workers < 1:
        raise ValueError(f"Got {num_scenes} scenes and {workers} workers, but both must be at least 1.")
    output = Path(output)
    claim(output, settings)
    make = partial(make_room, output=output, settings=settings)
    for count in run_all(make, num_scenes, workers):
        if on_scene is not None:
            on_scene(count)
    names = [f"{settings.split}_{room:06d}_{walk:02d}" for room in range(num_scenes) for walk in range(settings.walks)]
    rows = [row for name in names for row in (output / "scenes" / f"{name}.jsonl").read_text().splitlines()]
    is_localisation = [json.loads(row)["question_type"] == LOCALISATION for row in rows]
    for suffix, wanted in (("_localisation", True), ("", False)):
        text = "".join(f"{row}\n" for row, is_one in zip(rows, is_localisation, strict=True) if is_one == wanted)
        table = output / f"{settings.split}{suffix}.jsonl"
        write_whole(table, partial(Path.write_text, data=text))
    return table


def claim(output: Path, settings: DatasetSettings) -> None:
    """Raises ValueError unless the folder is free, or was made with the same settings."""
    file = output / "settings.json"
    wanted = {"format": FORMAT, **asdict(settings)}
    if file.is_file():
        found = json.loads(file.read_text())
        differing = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        if differing:
            values = ", ".join(f"{name} {found.get(name)!r} (now {wanted.get(name)!r})" for name in differing)
            raise ValueError(f"{output} was made with other settings: {values}. Choose another folder.")
        return
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"{output} is not empty and holds no data set of ours. Choose another folder.")
    write_whole(file, partial(Path.write_text, data=json.dumps(wanted, indent=2) + "\n"))
