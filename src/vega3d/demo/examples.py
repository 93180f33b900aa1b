"""The example rooms, and a question of each category about each, with its right answer."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vega3d.demo.scores import Scores
from vega3d.evaluation.metrics import is_choice
from vega3d.hub.load import ASSETS, example_clip
from vega3d.known_questions import KnownQuestions
from vega3d.processing.video_vega3d import read_video
from vega3d.questions import Mark, SpatialQuestion
from vega3d.rooms.questions.marks import draw_marks

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


@dataclass(frozen=True)
class Example:
    """
    Args:
        clip: name of a shipped clip.
        category: as it is shown.
        question: text.
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

    Args:
        known: questions that the model was trained on; others are left out.
        scores: of the model over many rooms; the categories in which it leads most over a constant answer come
            first, whatever it answers here. Without them, the order of `CATEGORIES`.
    """
    order = sorted(CATEGORIES.items(), key=lambda item: -scores.lead(item[1])) if scores else CATEGORIES.items()
    rows = json.loads((CLIPS / "questions.json").read_text())
    by_type = {(row["clip"], row["question_type"]): row for row in rows}
    examples: dict[str, dict[str, Example]] = {}
    for clip in dict.fromkeys(row["clip"] for row in rows):
        for category, question_type in order:
            row = by_type.get((clip, question_type))
            if row is not None and (known is None or is_known(known, row)):
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


def is_known(known: KnownQuestions, row: dict) -> bool:
    asked = SpatialQuestion(None, row["question"], row["options"], is_numeric=not row["options"])
    return known.note(asked) is None
