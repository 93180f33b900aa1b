"""The questions of a data set of rooms as `SpatialQuestion`s."""

from pathlib import Path

import pyarrow
import pyarrow.parquet

from vega3d.files import check_input, inside
from vega3d.questions import SpatialQuestion
from vega3d.rooms.dataset.dataset_files import SCHEMAS, table_file


def load_spatial_questions(folder: str | Path, split: str) -> list[SpatialQuestion]:
    """
    Args:
        folder: of a data set (`synthesize`).
        split: of its table.

    Returns:
        Its questions with their answers; `visual` is the path of the video. A question with `marks` needs them drawn
        on its `frame` (`rooms.marks.draw_marks`).

    Raises:
        ValueError: if the folder has no such table, lacks videos, or the table names one outside of it.
    """
    path = Path(folder) / table_file(split, "questions")
    try:
        rows = pyarrow.parquet.read_table(check_input(path), schema=SCHEMAS["questions"]).to_pylist()
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Make it with `vega3d synthesize --split {split}`."
        ) from error
    questions = [spatial_question(row, Path(folder)) for row in rows]
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
