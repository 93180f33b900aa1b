"""VSI-Bench: its questions and prompts, from a local download or any table of the same columns.

Published layout: `{dataset}/{scene_name}.mp4` beside a table of questions, `test.jsonl` or parquet, with the columns
id, dataset, scene_name, question_type, question, ground_truth, options (lettered: "A. left"). Two more columns are
optional: `pruned` of VSI-Bench's newer tables, and `frame` and `marks` of questions about boxes drawn into the video.
"""

import math
import random
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vega3d.configs import check_count
from vega3d.evaluation.metrics import EXTRA_CHOICE_TYPES, QUESTION_TYPES, is_choice, to_number
from vega3d.extras import optional_module
from vega3d.files import inside, read_rows
from vega3d.questions import SpatialQuestion

GENERATION = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
DEFAULT_TABLES = ("test.jsonl", "test.parquet")
TABLE_SUFFIXES = (".jsonl", ".parquet")
COLUMNS = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth")


@dataclass(frozen=True, kw_only=True)
class AnnotatedQuestion(SpatialQuestion):
    """A question of a benchmark: what is asked, its right answer and type, and where it comes from.

    `visual` is None if the video is not there. `name` and `is_numeric` follow from `id` and `question_type`.

    Attributes:
        id: unique in its table.
        dataset: name of the source, such as `scannet`.
        scene: name of the scene in its source.
        pruned: whether VSI-Bench-Debiased leaves the question out; None if the table does not say.

    Raises:
        ValueError: if there is no such `question_type`, or a choice has no options; or as `SpatialQuestion` does.
    """

    id: str
    dataset: str
    scene: str
    pruned: bool | None = None
    name: str = field(init=False)
    is_numeric: bool = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "name", self.id)
        object.__setattr__(self, "is_numeric", not is_choice(self.question_type))
        super().__post_init__()
        if not self.is_numeric and not self.options:
            raise ValueError(f"A question of type {self.question_type!r} has options, but {self.id} has none.")

    @property
    def order(self) -> tuple:
        """What is asked first of the questions on one scene: those with marks after the others."""
        return self.frame is not None, self.frame or 0, self.marks

    @property
    def identity(self) -> list:
        """All that its answer and score depend on, as JSON holds it."""
        return [self.id, self.dataset, self.scene, self.prompt, self.answer, self.frame, self.marks]

    @property
    def lettered(self) -> list[str]:
        """The options as tables and result files hold them: "A. left"."""
        return [f"{letter}. {option}" for letter, option in zip(self.letters, self.options, strict=True)]


def check_row(row: Mapping, place: str) -> None:
    """Raises ValueError unless a row is a question with a possible answer; `place` names table and row."""
    absent = [name for name in COLUMNS if row.get(name) is None]
    if absent:
        raise ValueError(f"{place} lacks {', '.join(absent)}. A question has {', '.join(COLUMNS)} and options.")
    if row["question_type"] not in QUESTION_TYPES:
        types = ", ".join(QUESTION_TYPES)
        raise ValueError(f"{place} has the question type {row['question_type']!r}, but the types are {types}.")
    if not str(row["question"]).strip():
        raise ValueError(f"{place} has an empty question. Leave the row out.")
    options = [] if row.get("options") is None else list(row["options"])
    truth = str(row["ground_truth"])
    if not is_choice(row["question_type"]):
        target = to_number(truth)
        if target is None or not math.isfinite(target) or target < 0:
            raise ValueError(f"{place} has the answer {truth!r}, but a {row['question_type']} is a number from 0 up.")
        return
    letters = string.ascii_uppercase[: len(options)]
    lettered = all(str(text).startswith(f"{letter}. ") for letter, text in zip(letters, options, strict=False))
    if not 2 <= len(options) <= len(string.ascii_uppercase) or not lettered:
        raise ValueError(f"{place} has the options {options}, but needs two or more, written 'A. ...', 'B. ...'.")
    if len(truth) != 1 or truth not in letters:
        raise ValueError(f"{place} has the answer {truth!r}, but its options are {', '.join(letters)}.")
    if row["question_type"] in EXTRA_CHOICE_TYPES:
        check_marks(row, len(options), place)


def check_marks(row: Mapping, count: int, place: str) -> None:
    """Raises ValueError unless a question about marked boxes has a frame and a box for each of its `count` options."""
    frame, marks = row.get("frame"), row.get("marks") or []
    whole = all(len(mark) == 4 and mark[0] < mark[2] and mark[1] < mark[3] and min(mark) >= 0 for mark in marks)
    if frame is None or frame < 0 or len(marks) != count or not whole:
        raise ValueError(
            f"{place} has the frame {frame!r} and the marks {marks!r}, but a {row['question_type']} has a frame "
            f"from 0 up and a box [left, top, right, bottom] for each of its {count} options."
        )


def annotated_question(row: Mapping, video: Path | None) -> AnnotatedQuestion:
    """The question of a row that `check_row` passed; options and marks of types that have none are ignored."""
    is_marked = row["question_type"] in EXTRA_CHOICE_TYPES
    marks = row["marks"] if is_marked else ()
    options = row["options"] if is_choice(row["question_type"]) else ()
    return AnnotatedQuestion(
        id=str(row["id"]),
        dataset=str(row["dataset"]),
        scene=str(row["scene_name"]),
        question_type=row["question_type"],
        question=row["question"],
        answer=str(row["ground_truth"]),
        options=tuple(str(text)[len("A. ") :] for text in options),
        visual=video,
        frame=int(row["frame"]) if is_marked else None,
        marks=tuple((int(left), int(top), int(right), int(bottom)) for left, top, right, bottom in marks),
        pruned=None if row.get("pruned") is None else bool(row["pruned"]),
    )


def records_from_rows(rows: Iterable[Mapping], folder: str | Path, table: str = "row") -> list[AnnotatedQuestion]:
    """Checked questions; `rows` may be a `datasets.Dataset`.

    Args:
        rows: with the published columns; others are ignored.
        folder: with `{dataset}/{scene_name}.mp4`; questions without their video have `visual=None`.
        table: what messages call the table.

    Raises:
        ValueError: if a row is no question, names a video outside the folder, two have one id, or there is none.
    """
    records: dict[str, AnnotatedQuestion] = {}
    found: dict[Path, bool] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{table}, row {number},"
        check_row(row, place)
        if str(row["id"]) in records:
            raise ValueError(f"{place} has the id {row['id']}, which an earlier row has too. Ids must be unique.")
        try:
            video = inside(inside(folder, str(row["dataset"])), f"{row['scene_name']}.mp4")
        except ValueError as error:
            raise ValueError(f"{place} has the dataset and scene_name of no video there: {error}") from error
        if video not in found:
            found[video] = video.is_file()
        records[str(row["id"])] = annotated_question(row, video if found[video] else None)
    if not records:
        raise ValueError(f"{table} holds no question. Download it again.")
    return list(records.values())


def load_vsibench(
    folder: str | Path, table: str | Path | None = None, allow_missing: bool = False
) -> tuple[list[AnnotatedQuestion], list[str]]:
    """Questions of a local download.

    Args:
        folder: with the videos in the published layout, or a `.parquet` or `.jsonl` file in it.
        table: file of a variant (debiased, pruned), or a split, as `read_questions` finds it.
        allow_missing: leave out the questions whose video is not there.

    Returns:
        The questions with a video, and the missing videos as `{dataset}/{scene_name}.mp4`, sorted.

    Raises:
        ValueError: if there is no such folder or table, a row is broken, or videos are missing and may not be.
    """
    folder = Path(folder)
    if folder.is_file():
        if table is not None:
            raise ValueError(f"{folder} is a table, and --table names another one, {table}. Give one of them.")
        folder, table = folder.parent, folder
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}. Give the local download of VSI-Bench.")
    rows, name = read_questions(folder, table)
    records = records_from_rows(rows, folder, name)
    missing = sorted({f"{record.dataset}/{record.scene}.mp4" for record in records if record.visual is None})
    if missing and not allow_missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} videos: {', '.join(missing)}. Unpack them there, or allow missing ones to "
            "evaluate the rest."
        )
    present = [record for record in records if record.visual is not None]
    if not present:
        raise ValueError(f"{folder} has none of the {len(missing)} videos, the first is {missing[0]}. Unpack them.")
    return present, missing


def read_questions(folder: Path, table: str | Path | None) -> tuple[list[dict], str]:
    """Rows of the table that is meant, and its name for messages.

    Args:
        table: a file, as a path or a name in `folder`, or a split where `folder` has no table of its own but is one
            that `datasets.load_dataset` reads (such as `data/test-00000-of-00001.parquet`). By default `test.jsonl`,
            `test.parquet`, the only table, or the split `test` or the only split.

    Raises:
        ValueError: if there is no table, or several may be meant, or it is broken.
    """
    candidates = [Path(table), folder / table] if table is not None else [folder / name for name in DEFAULT_TABLES]
    own = sorted(path for path in folder.iterdir() if path.suffix in TABLE_SUFFIXES)
    if table is None and not any(path.is_file() for path in candidates):
        if len(own) > 1:
            names = ", ".join(path.name for path in own)
            raise ValueError(f"{folder} has several tables of questions: {names}. Say which one with --table.")
        candidates += own
    for path in candidates:
        if path.is_file():
            return read_table(path), str(path)
    if not own and any(folder.rglob("*.parquet")):
        return read_dataset(folder, None if table is None else str(table))
    looked = ", ".join(str(path) for path in candidates)
    raise ValueError(f"There is no table of questions; looked for {looked}. Give the file of the variant you mean.")


def read_table(path: Path) -> list[dict]:
    """Rows of a `.jsonl` or `.parquet` file; raises ValueError if it is neither or broken."""
    if path.suffix not in TABLE_SUFFIXES or not path.is_file():
        raise ValueError(f"{path} is no table of questions. Give a .jsonl or a .parquet file.")
    return read_rows(path)


def read_dataset(folder: Path, split: str | None) -> tuple[list[dict], str]:
    """Rows and name of a split of a folder in a layout of `datasets`; streamed, so that no copy fills its cache."""
    datasets = optional_module("datasets")
    try:
        splits = datasets.load_dataset(str(folder), streaming=True)
        if split is None and len(splits) > 1 and "test" not in splits:
            raise ValueError(f"it has several splits, {', '.join(splits)}; say which one with --table")
        chosen = split or ("test" if "test" in splits else next(iter(splits)))
        if chosen not in splits:
            raise ValueError(f"it has no split {chosen!r}, only {', '.join(splits)}")
        return list(splits[chosen]), f"{folder}, split {chosen}"
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{folder} cannot be read as a data set: {error}. Give the file of a table.") from error


def take_balanced(records: Sequence[AnnotatedQuestion], limit: int, seed: int = 0) -> list[AnnotatedQuestion]:
    """At most `limit` (from 1 up) questions, of each type as many as can be, drawn by `seed` and in their order."""
    places = balanced_places([record.question_type for record in records], QUESTION_TYPES, limit, seed)
    return [records[place] for place in places]


def balanced_places(given: Sequence[str], types: Sequence[str], limit: int, seed: int) -> list[int]:
    """At most `limit` (from 1 up) places in increasing order, as many as can be of each type; `seed` draws them."""
    check_count("limit", limit)
    queues = []
    for name in types:
        places = [place for place, found in enumerate(given) if found == name]
        random.Random(f"{seed}:{name}").shuffle(places)
        queues.append(places)
    rounds = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return sorted(rounds[:limit])
