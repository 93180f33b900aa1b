"""What a model scores over many rooms, as its folder tells it: shown beside the examples of two rooms."""

from dataclasses import dataclass
from pathlib import Path

from vega3d.evaluation.metrics import CATEGORIES
from vega3d.files import read_json

FILE = "scores.json"
MACRO = "macro"
COLUMNS = {  # of the file, and as they are shown
    "model": "this model",
    "with": "trained with",
    "without": "trained without",
    "constant": "constant",
}
REMEDY = "Write it with recipes/make_scores.py, or remove it."


@dataclass(frozen=True)
class Scores:
    """
    Args:
        rooms: that were asked about.
        questions: that were asked.
        seeds: trainings that `with` and `without` are means of.
        scores: by category of `CATEGORIES` and for `MACRO`, by column of `COLUMNS`, in [0, 1].
        difference: `with` less `without`, macro average: score, low and high end of its 95 % interval.
    """

    rooms: int
    questions: int
    seeds: int
    scores: dict[str, dict[str, float]]
    difference: dict[str, float]

    def lead(self, question_type: str) -> float:
        """By how much the model is above an answer that ignores the question; 0 for types without a score."""
        for category, types in CATEGORIES.items():
            if question_type in types and category in self.scores:
                return self.scores[category]["model"] - self.scores[category]["constant"]
        return 0.0


def read_scores(folder: str | Path) -> Scores | None:
    """Those in a checkpoint's folder, or None if it has none.

    Raises:
        ValueError: if the file is of another shape.
    """
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
        if not set(scores.scores) <= {*CATEGORIES, MACRO} or set(scores.difference) != {"score", "low", "high"}:
            raise ValueError("there are other categories, or the difference has other values")
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} cannot be used: {error}. {REMEDY}") from error
    return scores
