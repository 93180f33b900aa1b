"""The example rooms with a question of each category about each, and what the model scores over many rooms."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vega3d.evaluation.metrics import is_choice, parse_official, to_number
from vega3d.evaluation.report import percent, span
from vega3d.evaluation.rules import VSIBENCH
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
NO_NUMBER = "no number"
MACRO = "macro"
COLUMNS = {  # of the file, and as they are shown; `with` and `without` are means over trainings
    "model": "this model",
    "off": "switched off",
    "with": "trained with",
    "without": "trained without",
    "constant": "constant",
}
CATEGORY_NAMES = {
    "object_counting": "Counting",
    "object_abs_distance": "Distance",
    "object_size_estimation": "Object size",
    "room_size_estimation": "Room size",
    "object_rel_distance": "Which is closest",
    "object_rel_direction": "Left or right, direction",
    "route_planning": "Route",
    "obj_appearance_order": "Order",
    "localisation_by_choice": "Which box",
    MACRO: "Mean of the categories",
}
REMEDY = "Write it with recipes/make_scores.py, or remove it."


@dataclass(frozen=True)
class Scores:
    """What a model scores over many rooms, as its folder has it: shown beside the examples of two rooms.

    Attributes:
        rooms: how many were asked about.
        questions: how many were asked.
        scores: values by category of VSI-Bench's rows and for `MACRO`, by some columns of `COLUMNS`, in [0, 1].
        difference: `model` less `off`, or `with` less `without`, macro average: `score`, and the ends `low`, `high` of
            its 95 % interval.
        seeds: trainings that `with` and `without` are means of, if there are such columns.
        trained: of models trained with a simulator and without one, on the rooms of their study: `rooms`, `seeds`,
            macro averages `with` and `without`, `difference`; None if it is not known.
        examples: `clip`, `category`, `right` answer, answers `model` and `off`, and their `scores`, of each example.
    """

    rooms: int
    questions: int
    scores: dict[str, dict[str, float]]
    difference: dict[str, float]
    seeds: int | None = None
    trained: dict | None = None
    examples: Sequence[dict] = ()

    @property
    def columns(self) -> list[str]:
        """Those of `COLUMNS` that it has."""
        return [name for name in COLUMNS if name in next(iter(self.scores.values()), ())]

    def lead(self, question_type: str) -> float:
        """By how much the model is above an answer that ignores the question; 0 for types without a score."""
        for category, types in VSIBENCH.rows.items():
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
        check_scores(scores)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"{file} cannot be used: {error!r}. {REMEDY}") from error
    return scores


def check_scores(scores: Scores) -> None:
    """Raises one of several errors for values of another shape, which a page would show as they are."""
    for row in scores.scores.values():
        if set(row) != set(scores.columns) or not all(0 <= score <= 1 for score in row.values()):
            raise ValueError("a row has other columns, or scores that are not in [0, 1]")
    if scores.scores and not {"model", "constant"} <= set(scores.columns):
        raise ValueError("there are no columns model and constant")
    counts = [scores.rooms, scores.questions, *([] if scores.seeds is None else [scores.seeds])]
    averages = []
    if scores.trained is not None:
        counts += [scores.trained["rooms"], scores.trained["seeds"]]
        averages += [scores.trained["with"], scores.trained["without"], *scores.trained["difference"].values()]
    if not all(isinstance(count, int) for count in counts):
        raise ValueError("rooms, questions and seeds must be whole numbers")
    if not set(scores.scores) <= {*VSIBENCH.rows, MACRO} or set(scores.difference) != {"score", "low", "high"}:
        raise ValueError("there are other categories, or the difference has other values")
    for value in (*scores.difference.values(), *averages):
        if value is not None and not -1 <= value <= 1:
            raise ValueError("an average or a difference is not in [-1, 1]")
    for example in scores.examples:
        texts = [example[name] for name in ("clip", "category", "right", "model", "off")]
        own = example["scores"]
        if not all(isinstance(text, str) for text in texts) or not all(
            0 <= own[name] <= 1 for name in ("model", "off")
        ):
            raise ValueError("an example has other values")


def scores_text(scores: Scores) -> str:
    """The scores and the answered examples as Markdown, for a model's card."""
    titles = [COLUMNS[name] for name in scores.columns]
    lines = [
        f"{scores.rooms:,} rooms of the split `test`, which it was not trained on, {scores.questions:,} questions: of "
        "each type the first about each room.",
        "Official score in percent. *Switched off* is the same weights without the world simulator, for which they "
        "were not trained.",
        "*Constant* is the best answer that ignores picture and question.",
        "",
        f"| category | {' | '.join(titles)} |",
        "|---" * (1 + len(titles)) + "|",
    ]
    for name, row in scores.scores.items():
        lines.append(f"| {name} | {' | '.join(percent(row[column]) for column in scores.columns)} |")
    lines += ["", f"Switching it off takes {points(scores.difference)} points of the macro average."]
    if scores.trained is not None:
        trained = scores.trained
        lines.append(
            f"Models trained with it score {percent(trained['with'])} on {trained['rooms']:,} rooms, those trained "
            f"without it {percent(trained['without'])} (means over {trained['seeds']} seeds): "
            f"{points(trained['difference'])} points."
        )
    return "\n".join([*lines, *examples_lines(scores.examples)]) + "\n"


def examples_lines(examples: Sequence[dict]) -> list[str]:
    """The answered examples as a table in Markdown."""
    if not examples:
        return []
    head = [
        "",
        "The examples of the demo: of each type the first question about the clip, whatever is answered, and the "
        "score of each answer.",
        "",
        "| clip | question | right | this model | switched off |",
        "|---|---|---|---|---|",
    ]
    rows = []
    for example in examples:
        answers = [
            f"{shown(example[name], example['category'])} ({percent(example['scores'][name])})"
            for name in ("model", "off")
        ]
        rows.append(f"| {example['clip']} | {example['category']} | {example['right']} | {' | '.join(answers)} |")
    return head + rows


def shown(text: str, category: str) -> str:
    """An answer to an example; of a text in which there should be a number and is none, that alone."""
    is_number = category in CATEGORIES and not is_choice(CATEGORIES[category])
    return NO_NUMBER if is_number and not holds_number(text) else text


def holds_number(text: str) -> bool:
    """Whether VSI-Bench's parser reads a number from an answer; babble that comes upon one later is no answer."""
    return to_number(parse_official(text, "object_counting")) is not None


def points(difference: Mapping[str, float | None]) -> str:
    """A difference, with its interval if it has one, such as `+2.2 [0.7, 4.0]`."""
    ends = () if difference["low"] is None else (span(difference["low"], difference["high"]),)
    return " ".join([f"{100 * (difference['score'] or 0):+.1f}", *ends])


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
    def question_type(self) -> str:
        return CATEGORIES[self.category]

    @property
    def right(self) -> str:
        """The right answer; of a choice the letter and the option."""
        return f"{self.answer}. {self.options[ord(self.answer) - ord('A')]}" if self.options else self.answer

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
