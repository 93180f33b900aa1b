"""The example rooms with a question of each category about each, and what the model scores over many rooms."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vega3d.evaluation.metrics import CATEGORIES as SCORED
from vega3d.evaluation.metrics import is_choice
from vega3d.files import read_json
from vega3d.processing.video_vega3d import read_video
from vega3d.questions import KnownQuestions, Mark, SpatialQuestion
from vega3d.rooms.questions.marks import draw_marks
from vega3d.shipped import ASSETS, example_clip

CLIPS = ASSETS / "clips"
CATEGORIES = {
    "Counting": "object_counting",
    "Distance": "object_abs_distance",
    "Object size": "object_size_estimation",
    "Room size": "room_size_estimation",
    "Which is closest": "object_rel_distance",
    "Left or right": "object_rel_direction_easy",
    "Direction": "object_rel_direction_hard",
    "Route": "route_planning",
    "Order": "obj_appearance_order",
    "Which box": "localisation_by_choice",
}
FILE = "scores.json"
MACRO = "macro"
# Columns of the file, and as they are shown.
COLUMNS = {"model": "this model", "with": "trained with", "without": "trained without", "constant": "constant"}
REMEDY = "Write it with recipes/make_scores.py, or remove it."


@dataclass(frozen=True)
class Scores:
    """What a model scores over many rooms, as its folder has it: shown beside the examples of two rooms.

    Attributes:
        rooms: how many were asked about.
        questions: how many were asked.
        seeds: trainings that `with` and `without` are means of.
        scores: values by category of `SCORED` and for `MACRO`, by column of `COLUMNS`, in [0, 1].
        difference: `with` less `without`, macro average: `score`, and the ends `low`, `high` of its 95 % interval.
    """

    rooms: int
    questions: int
    seeds: int
    scores: dict[str, dict[str, float]]
    difference: dict[str, float]

    def lead(self, question_type: str) -> float:
        """By how much the model is above an answer that ignores the question; 0 for types without a score."""
        for category, types in SCORED.items():
            if question_type in types and category in self.scores:
                return self.scores[category]["model"] - self.scores[category]["constant"]
        return 0.0


def read_scores(folder: str | Path) -> Scores | None:
    """Those in a checkpoint's folder, or None if it has none; raises ValueError if the file is of another shape."""
    file = Path(folder) / FILE
    if not file.is_file():
        return None
    values = read_json(file, REMEDY)
    try:
        scores = Scores(**values)
        for row in scores.scores.values():
            if set(row) != set(COLUMNS) or not all(0 <= score <= 1 for score in row.values()):
                raise ValueError("a row has other columns, or scores that are not in [0, 1]")
        if not all(isinstance(count, int) for count in (scores.rooms, scores.questions, scores.seeds)):
            raise ValueError("rooms, questions and seeds must be whole numbers")
        if not set(scores.scores) <= {*SCORED, MACRO} or set(scores.difference) != {"score", "low", "high"}:
            raise ValueError("there are other categories, or the difference has other values")
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} cannot be used: {error}. {REMEDY}") from error
    return scores


@dataclass(frozen=True)
class Example:
    """A question about a shipped clip, with its right answer.

    Attributes:
        clip: name of the clip, such as `room`.
        category: its name on the page, a key of `CATEGORIES`.
        question: the text, in VSI-Bench's words.
        options: texts of the choices; empty for a number.
        answer: the right one, a letter or a number as text, by the geometry of the room.
        frame: number of the frame of the clip that the boxes are on.
        marks: left, top, right, bottom [px] of boxes A, B, ...
    """

    clip: str
    category: str
    question: str
    options: tuple[str, ...]
    answer: str
    frame: int | None
    marks: tuple[Mark, ...]

    @property
    def video(self) -> Path:
        return example_clip(self.clip)

    @property
    def kind(self) -> str:
        return "a choice" if self.options else "a number"

    def marked_picture(self) -> np.ndarray | None:
        """uint8[H, W, 3], the frame with its boxes, or None if the question has none."""
        if self.frame is None:
            return None
        return draw_marks(read_video(self.video, num_frames=10_000).frames[self.frame], self.marks)


def load_examples(known: KnownQuestions | None = None, scores: Scores | None = None) -> dict[str, dict[str, Example]]:
    """The examples by clip, then by category: the first question of each type that the recipe of the clips made.

    Questions that the model was not trained on are left out. With `scores` the categories in which the model leads
    most over a constant answer come first, whatever it answers here; without them, the order is that of `CATEGORIES`.
    """
    order = sorted(CATEGORIES.items(), key=lambda item: -scores.lead(item[1])) if scores else CATEGORIES.items()
    rows = json.loads((CLIPS / "questions.json").read_text())
    by_type = {(row["clip"], row["question_type"]): row for row in rows}
    examples: dict[str, dict[str, Example]] = {}
    for clip in dict.fromkeys(row["clip"] for row in rows):
        for category, question_type in order:
            row = by_type.get((clip, question_type))
            if row is None:
                continue
            asked = SpatialQuestion(
                None, row["question"], row["options"], is_numeric=not row["options"], marks=row["marks"]
            )
            if known is None or known.note(asked) is None:
                assert is_choice(question_type) == bool(row["options"])
                examples.setdefault(clip, {})[category] = Example(
                    clip,
                    category,
                    row["question"],
                    tuple(row["options"]),
                    row["answer"],
                    row["frame"],
                    tuple(tuple(mark) for mark in row["marks"]),
                )
    return examples
