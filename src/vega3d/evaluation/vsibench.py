"""VSI-Bench: its questions from a local download, and its prompts.

Published layout: `{dataset}/{scene_name}.mp4` beside a table of questions, `test.jsonl` or parquet, with the columns
id, dataset, scene_name, question_type, question, ground_truth, options (lettered: "A. left").
"""

import json
import math
import random
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vega3d.evaluation.metrics import QUESTION_TYPES, is_choice, to_number
from vega3d.spatial_qa import CHOICE_POST_PROMPT, PRE_PROMPT

NUMERIC_POST_PROMPT = "Please answer the question using a single word or phrase."
GENERATION = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}
COLUMNS = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth")
DEFAULT_TABLES = ("test.jsonl", "test.parquet")


def build_prompt(
    question_type: str,
    question: str,
    options: Sequence[str] | None = None,
    pre_prompt: str = PRE_PROMPT,
    choice_post_prompt: str = CHOICE_POST_PROMPT,
    numeric_post_prompt: str = NUMERIC_POST_PROMPT,
) -> str:
    """VSI-Bench's prompt; an empty pre- or post-prompt stands for the default, as in the official code.

    Raises:
        ValueError: if there is no such type, or a choice has no options.
    """
    pre = pre_prompt or PRE_PROMPT
    if not is_choice(question_type):
        return "\n".join([pre, question, numeric_post_prompt or NUMERIC_POST_PROMPT])
    if not options:
        raise ValueError(f"A question of type {question_type!r} has options, but got {options!r}: {question!r}.")
    return "\n".join([pre, question, "Options:", *options, choice_post_prompt or CHOICE_POST_PROMPT])


@dataclass(frozen=True)
class QuestionRecord:
    """One row of a benchmark.

    Attributes:
        id: unique in its table.
        dataset: name of the source, such as `scannet`.
        scene: name of the scene in its source.
        question_type: one of `metrics.QUESTION_TYPES`.
        question: text.
        ground_truth: a letter, or a number as text.
        options: lettered choices ("A. left"); empty for a numeric question.
        visual: the video, as `VegaProcessor` takes it; None if it is not there.
    """

    id: str
    dataset: str
    scene: str
    question_type: str
    question: str
    ground_truth: str
    options: tuple[str, ...] = ()
    visual: Any = None

    @property
    def letters(self) -> str:
        return string.ascii_uppercase[: len(self.options)]

    @property
    def prompt(self) -> str:
        return build_prompt(self.question_type, self.question, self.options)


def check_row(row: Mapping, place: str) -> None:
    """Raises ValueError unless a row of a table is a question with a possible answer.

    Args:
        row: values by column.
        place: table and row, for messages.
    """
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
    lettered = all(str(text).startswith(f"{letter}.") for letter, text in zip(letters, options, strict=False))
    if not 2 <= len(options) <= len(string.ascii_uppercase) or not lettered:
        raise ValueError(f"{place} has the options {options}, but needs two or more, written 'A. ...', 'B. ...'.")
    if len(truth) != 1 or truth not in letters:
        raise ValueError(f"{place} has the answer {truth!r}, but its options are {', '.join(letters)}.")


def records_from_rows(rows: Iterable[Mapping], folder: str | Path, table: str = "row") -> list[QuestionRecord]:
    """Checked questions; `rows` may be a `datasets.Dataset`.

    Args:
        rows: with the published columns; others are ignored.
        folder: with `{dataset}/{scene_name}.mp4`; questions without their video have `visual=None`.
        table: name of the table, for messages.

    Raises:
        ValueError: if a row is no question, two have one id, or there is none.
    """
    records: dict[str, QuestionRecord] = {}
    found: dict[Path, bool] = {}
    for number, row in enumerate(rows, start=1):
        place = f"{table}, row {number},"
        check_row(row, place)
        if str(row["id"]) in records:
            raise ValueError(f"{place} has the id {row['id']}, which an earlier row has too. Ids must be unique.")
        video = Path(folder) / str(row["dataset"]) / f"{row['scene_name']}.mp4"
        if video not in found:
            found[video] = video.is_file()
        records[str(row["id"])] = QuestionRecord(
            id=str(row["id"]),
            dataset=str(row["dataset"]),
            scene=str(row["scene_name"]),
            question_type=row["question_type"],
            question=row["question"],
            ground_truth=str(row["ground_truth"]),
            options=tuple(row["options"]) if is_choice(row["question_type"]) else (),
            visual=video if found[video] else None,
        )
    if not records:
        raise ValueError(f"{table} holds no question. Download it again.")
    return list(records.values())


def read_table(path: Path) -> list[dict]:
    """Rows of a `.jsonl` or `.parquet` file; raises ValueError if it is neither or broken."""
    if path.suffix == ".parquet":
        return read_parquet(path)
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} is no table of questions. Give a .jsonl or a .parquet file.")
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {number}, is no JSON: {error}. Download it again.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}, is a {type(row).__name__}, but must be a JSON object.")
            rows.append(row)
    return rows


def read_parquet(path: Path) -> list[dict]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"Reading {path.name} needs pyarrow: `pip install pyarrow`, or use test.jsonl.") from error
    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}. Download it again.") from error


def find_table(folder: Path, table: str | Path | None) -> Path:
    """The table of questions; raises ValueError if there is none."""
    candidates = [Path(table), folder / table] if table is not None else [folder / name for name in DEFAULT_TABLES]
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(str(path) for path in candidates)
    raise ValueError(f"There is no table of questions; looked for {looked}. Give the file of the variant you mean.")


def load_vsibench(
    folder: str | Path, table: str | Path | None = None, allow_missing: bool = False
) -> tuple[list[QuestionRecord], list[str]]:
    """Questions of a local download.

    Args:
        folder: with the videos in the published layout.
        table: file of a variant (debiased, pruned), as a path or a name in `folder`; `test.jsonl` or `test.parquet`
            by default.
        allow_missing: leave out the questions whose video is not there.

    Returns:
        The questions with a video, and the missing videos as `{dataset}/{scene_name}.mp4`, sorted.

    Raises:
        ValueError: if there is no such folder or table, a row is broken, or videos are missing and may not be.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}. Give the local download of VSI-Bench.")
    path = find_table(folder, table)
    records = records_from_rows(read_table(path), folder, str(path))
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


def take_balanced(records: Sequence[QuestionRecord], limit: int, seed: int = 0) -> list[QuestionRecord]:
    """At most `limit` questions, of each type as many as can be, drawn by `seed` and in their first order.

    Raises:
        ValueError: if `limit` is below 1.
    """
    if limit < 1:
        raise ValueError(f"The limit is {limit}, but must be at least 1 question.")
    queues = []
    for name in QUESTION_TYPES:
        places = [place for place, record in enumerate(records) if record.question_type == name]
        random.Random(f"{seed}:{name}").shuffle(places)
        queues.append(places)
    rounds = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return [records[place] for place in sorted(rounds[:limit])]
