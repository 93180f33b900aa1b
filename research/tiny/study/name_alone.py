"""What type and names of a question give away: an answer that is learnt from training rows, without the video."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from research.tiny.study.wordings import asked_slots
from vega3d.evaluation.answerers import most_frequent
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.questions import RawAnswer

COUNTING = "object_counting"
Key = tuple[str, tuple[str, ...]]  # question type and names


class NameAlone:
    """The median of what was right for the same type and names; of counts the most frequent number.

    Of a choice it is the option that was right most often. Where the names were never asked about together, all
    questions of the type count.

    Args:
        train: questions of other scenes than those to be answered.
    """

    def __init__(self, train: Sequence[AnnotatedQuestion]):
        counts: dict[Key, Counter[str]] = defaultdict(Counter)
        for record in train:
            right = record.options[record.letters.index(record.answer)] if record.options else record.answer
            for key in {(record.question_type, names_in(record)), (record.question_type, ())}:
                counts[key][right] += 1
        self.counts = dict(counts)
        self.settings = {"name": "name alone", "kind": "name_alone", "train": len(train)}

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        """As `Answerer.answer`; raises ValueError for a type that no training question has."""
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: AnnotatedQuestion) -> RawAnswer:
        kind = record.question_type
        counts = self.counts.get((kind, names_in(record))) or self.counts.get((kind, ()))
        if counts is None:
            raise ValueError(
                f"No training question is of the type {kind}, but question {record.id} is. Train on some."
            )
        if not record.options:
            return (most_frequent(counts) if kind == COUNTING else f"{np.median(numbers(counts)):g}"), None
        shares = np.array([1 + counts[option] for option in record.options], float)
        probabilities = dict(zip(record.letters, (shares / shares.sum()).tolist(), strict=True))
        return max(probabilities, key=lambda letter: probabilities[letter]), probabilities


def names_in(record: AnnotatedQuestion) -> tuple[str, ...]:
    """Those of a question; of a choice in the order in which it has them."""
    names = tuple(asked_slots(record.question)[1].values())
    return names if record.options else tuple(sorted(names))


def numbers(counts: Counter[str]) -> list[float]:
    return [float(text) for text in counts.elements()]
