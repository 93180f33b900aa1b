"""The files of a data set: a video, arrays and a record for each walkthrough, and tables of all.

A file that was cut short, or has no bytes, is known by its ends (`is_whole_video` and the like) and made anew.
"""

import json
import string
import struct
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.extras import optional_module
from vega3d.files import check_input, inside, write_whole
from vega3d.geometry import Box
from vega3d.questions import SpatialQuestion
from vega3d.rooms.archives import LARGEST, read_archive
from vega3d.rooms.questions.annotations import attribute_questions, captions, expressions, frames_showing
from vega3d.rooms.questions.observation import MILLIMETRES, Observation, correspondences
from vega3d.rooms.questions.questions import GeometricQuestion
from vega3d.rooms.render import Clip
from vega3d.rooms.scene.scene import Scene

DATASET = "rooms"
FPS = 4
# Of a walkthrough.
ARRAYS = ("depth_mm", "instance", "world_from_camera", "intrinsics", "boxes", "names", "correspondences", "seed")
HEADER, LONG_HEADER = 8, 16  # bytes of a box of MP4; the second with a size of 64 bits
LONG = 1  # in place of a size
# Columns of each table and their types, those of Parquet or lists of them.
SOURCE = {"id": "text", "dataset": "text", "scene_name": "text"}
ABOUT_OBJECT = {"object_id": "integer", "box": "list of number", "frames": "list of integer"}
TABLES: dict[str, dict[str, str]] = {
    "questions": SOURCE
    | {"question_type": "text", "question": "text", "ground_truth": "text", "options": "list of text"}
    | {"object_ids": "list of integer", "frame": "integer", "marks": "list of list of integer"},
    "expressions": SOURCE | {"expression": "text"} | ABOUT_OBJECT,
    "captions": SOURCE | {"name": "text", "caption": "text"} | ABOUT_OBJECT,
    "attributes": SOURCE | {"kind": "text", "question": "text", "answer": "text", "object_ids": "list of integer"},
    "grounding": SOURCE
    | {"task": "text", "kind": "text", "noun": "text", "relation": "text", "expression": "text"}
    | {"object_ids": "list of integer", "targets": "list of list of number", "anchors": "list of list of number"},
    "situations": SOURCE
    | {"question_type": "text", "situation": "text", "question": "text", "answer": "text", "options": "list of text"}
    | {"object_ids": "list of integer"},
    "proposals": SOURCE | {"source": "text", "boxes": "list of list of number", "object_ids": "list of integer"},
}


@cache
def table_schema(table: str) -> Any:
    """The `pyarrow.Schema` of a table."""
    arrow = optional_module("pyarrow")
    plain = {"text": arrow.string(), "integer": arrow.int64(), "number": arrow.float64()}

    def column_type(name: str) -> Any:
        inner = name.removeprefix("list of ")
        return plain[name] if inner == name else arrow.list_(column_type(inner))

    return arrow.schema([(name, column_type(kind)) for name, kind in TABLES[table].items()])


def table_file(split: str, table: str) -> str:
    """Place of a table in its data set; the questions alone lie at the top, as in VSI-Bench."""
    return f"{split}.parquet" if table == "questions" else f"annotations/{split}_{table}.parquet"


def write_arrays(path: Path, scene: Scene, clip: Clip, trajectory: int) -> None:
    """Writes depth [mm], instance ids, poses, intrinsics, the boxes of all objects, and point correspondences."""
    random = np.random.default_rng([scene.seed, 5, trajectory])
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            depth_mm=np.minimum(np.round(clip.depth * MILLIMETRES), 65535).astype(np.uint16),
            instance=clip.instance.astype(np.uint16),
            world_from_camera=clip.world_from_camera.astype(np.float32),
            intrinsics=clip.intrinsics.astype(np.float32),
            boxes=np.array([box_row(item.box) for item in scene.objects], np.float32).reshape(-1, 7),
            names=np.array([item.name for item in scene.objects]),
            correspondences=correspondences(clip, random),
            seed=np.array(scene.seed),
        )


def read_geometry(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `write_arrays` has written of frames of a shape (T, H, W).

    Returns:
        depth float32[T, H, W] [m]; instance ids int32[T, H, W]; world_from_camera float[T, 4, 4]; intrinsics
        float[3, 3] [px].

    Raises:
        ValueError: if the file is missing, damaged, or of other frames.
    """
    shapes = {"depth_mm": shape, "instance": shape, "world_from_camera": (shape[0], 4, 4), "intrinsics": (3, 3)}
    remedy = "Make the data set again with `vega3d synthesize`."
    arrays = read_archive(path, tuple(shapes), shapes, largest=LARGEST, remedy=remedy)
    depth = arrays["depth_mm"].astype(np.float32) / np.float32(MILLIMETRES)
    poses, intrinsics = (arrays[name].astype(float) for name in ("world_from_camera", "intrinsics"))
    return depth, arrays["instance"].astype(np.int32), poses, intrinsics


def box_row(box: Box) -> list[float]:
    """Centre and size [m], yaw [rad]."""
    return [round(float(value), 4) for value in (*box.center, *box.size, box.yaw)]


def row_source(scene_name: str, kind: str, number: int) -> dict:
    """The first columns of a row: its name, and the walkthrough that it is about."""
    return {"id": f"{scene_name}_{kind}{number:03d}", "dataset": DATASET, "scene_name": scene_name}


def walkthrough_record(
    observation: Observation, scene: Scene, scene_name: str, questions: Sequence[GeometricQuestion]
) -> dict:
    """What statistics count of a walkthrough, and rows of the tables of questions and annotations."""
    by_id = observation.by_id
    row = partial(row_source, scene_name)

    def place(object_id: int) -> dict:
        item = by_id[object_id]
        return {"object_id": object_id, "box": box_row(item.box), "frames": frames_showing(item, observation)}

    return {
        "seed": scene.seed,
        "kind": scene.kind,
        "objects": [item.name for item in scene.objects],
        "questions": [row("", number) | question_row(question) for number, question in enumerate(questions)],
        "expressions": [
            row("e", number) | {"expression": expression.text} | place(expression.object_id)
            for number, expression in enumerate(expressions(observation))
        ],
        "captions": [
            row("c", number) | {"name": by_id[object_id].name, "caption": text} | place(object_id)
            for number, (object_id, text) in enumerate(captions(observation).items())
        ],
        "attributes": [
            row("a", number)
            | {"kind": asked.kind, "question": asked.question, "answer": asked.answer}
            | {"object_ids": list(asked.object_ids)}
            for number, asked in enumerate(attribute_questions(observation))
        ],
    }


def question_row(question: GeometricQuestion) -> dict:
    """VSI-Bench's columns, and the geometry that the answer came from."""
    options = [f"{letter}. {text}" for letter, text in zip(string.ascii_uppercase, question.options, strict=False)]
    return {
        "question_type": question.question_type,
        "question": question.question,
        "ground_truth": question.answer,
        "options": options or None,
        "object_ids": list(question.object_ids),
        "frame": question.frame,
        "marks": [list(mark) for mark in question.marks],
    }


def check_record(record: dict, scene_name: str) -> None:
    """Raises ValueError unless a record of a walkthrough is as `walkthrough_record` makes it."""
    kinds = {"seed": int, "kind": str, "objects": list, **dict.fromkeys(TABLES, list)}
    for name, kind in kinds.items():
        if type(record.get(name)) is not kind:
            raise ValueError(f"{name} must be {kind.__name__}, but is {type(record.get(name)).__name__}")
    if not all(isinstance(name, str) for name in record["objects"]):
        raise ValueError("objects must be names")
    pyarrow = optional_module("pyarrow")
    for name, columns in TABLES.items():
        for row in record[name]:
            if not isinstance(row, dict) or set(row) != set(columns) or row["scene_name"] != scene_name:
                raise ValueError(f"a row of {name} has not the columns {', '.join(columns)} of {scene_name}")
        try:
            pyarrow.Table.from_pylist(record[name], schema=table_schema(name))
        except (pyarrow.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(f"{name}: {error}") from error
    for row in record["questions"]:
        options = row["options"] or []
        if options and row["ground_truth"] not in tuple(string.ascii_uppercase[: len(options)]):
            raise ValueError(f"the answer {row['ground_truth']} is none of {len(options)} options")


def write_tables(output: Path, split: str, records: Iterable[dict]) -> dict:
    """Writes all tables of a split; returns its statistics."""
    rows: dict[str, list[dict]] = {name: [] for name in TABLES}
    kinds: dict[int, str] = {}
    objects: Counter[str] = Counter()
    walkthroughs = 0
    for record in records:
        walkthroughs += 1
        if record["seed"] not in kinds:
            objects.update(record["objects"])
        kinds[record["seed"]] = record["kind"]
        for name, found in rows.items():
            found += record[name]
    for name in TABLES:
        table = optional_module("pyarrow").Table.from_pylist(rows[name], schema=table_schema(name))
        write = partial(optional_module("pyarrow.parquet").write_table, table)
        write_whole(output / table_file(split, name), write)
    return {
        "rooms": len(kinds),
        "walkthroughs": walkthroughs,
        "kinds": sorted_counts(kinds.values()),
        "objects": dict(objects.most_common()),
        "rows": {name: len(found) for name, found in rows.items()},
        "question_types": answer_statistics(rows["questions"]),
    }


def answer_statistics(rows: Sequence[dict]) -> dict:
    """Number of questions of each type, and how often each answer is right: the letter and the text of choices."""
    statistics: dict[str, dict] = {}
    for name in sorted({row["question_type"] for row in rows}):
        asked = [row for row in rows if row["question_type"] == name]
        entry = {"questions": len(asked), "ground_truth": sorted_counts(row["ground_truth"] for row in asked)}
        if name.startswith("object_rel_direction"):
            right = (row["options"][string.ascii_uppercase.index(row["ground_truth"])] for row in asked)
            entry["answers"] = sorted_counts(option.partition(". ")[2] for option in right)
        statistics[name] = entry
    return statistics


def sorted_counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def write_json(path: Path, values: dict) -> None:
    write_whole(path, partial(Path.write_text, data=json.dumps(values, indent=2) + "\n"))


def is_whole_video(path: Path) -> bool:
    """Whether the boxes of an MP4 fill the file, and index and frames are among them."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, 2)
            place, kinds = 0, set()
            while place < length:
                file.seek(place)
                size, kind = struct.unpack(">I4s", file.read(HEADER))
                header = HEADER
                if size == LONG:
                    size, header = struct.unpack(">Q", file.read(LONG_HEADER - HEADER))[0], LONG_HEADER
                if size < header:
                    return False
                kinds.add(kind)
                place += size
    except (OSError, struct.error):
        return False
    return place == length and {b"moov", b"mdat"} <= kinds


def is_whole_archive(path: Path, names: Collection[str]) -> bool:
    """Whether a .npz, whose table stands at its end, has these arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{name}.npy" for name in names} <= set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def read_rows(folder: Path, split: str, table: str) -> list[dict]:
    """Rows of a table of a data set; raises ValueError if it cannot be read."""
    pyarrow = optional_module("pyarrow")
    path = folder / table_file(split, table)
    try:
        rows = optional_module("pyarrow.parquet").read_table(check_input(path), schema=table_schema(table)).to_pylist()
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        reason = str(error).removesuffix(".")
        raise ValueError(
            f"{path} cannot be read ({reason}). Make it with `vega3d synthesize --split {split}`."
        ) from error
    return rows


def load_spatial_questions(folder: str | Path, split: str) -> list[SpatialQuestion]:
    """The questions of a data set with their answers; `visual` is the path of the video.

    A question with `marks` needs them drawn on its `frame` (`rooms.questions.marks.draw_marks`).

    Args:
        folder: a data set that `synthesize` made with videos.
        split: the split that it was made for.

    Raises:
        ValueError: if the folder has no such table, lacks videos, or the table names one outside of it.
    """
    questions = [spatial_question(row, Path(folder)) for row in read_rows(Path(folder), split, "questions")]
    missing = sorted({question.visual.name for question in questions if not question.visual.is_file()})
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} videos, the first is {missing[0]}. Make it anew with videos.")
    return questions


def spatial_question(row: dict, folder: Path) -> SpatialQuestion:
    return SpatialQuestion(
        visual=inside(inside(folder, row["dataset"]), f"{row['scene_name']}.mp4"),
        question=row["question"],
        options=tuple(option.partition(". ")[2] for option in row["options"] or ()),
        is_numeric=not row["options"],
        answer=row["ground_truth"],
        question_type=row["question_type"],
        frame=row["frame"],
        marks=tuple(tuple(mark) for mark in row["marks"]),
    )
