"""Answers without a model: by chance, and always the most frequent one."""

import math
import random
from collections import Counter
from collections.abc import Sequence

from vega3d.evaluation.answerers import Answer
from vega3d.evaluation.metrics import to_number
from vega3d.evaluation.vsibench import QuestionRecord


class ChanceAnswerer:
    """A letter by chance; equal likelihoods, whose score is exactly the level of chance; no answer to a number.

    Args:
        seed: the letter is a function of the seed and the question.
    """

    def __init__(self, seed: int = 0):
        self.settings = {"name": "chance", "kind": "chance", "seed": seed}
        self.seed = seed

    def answer(self, records: Sequence[QuestionRecord]) -> list[Answer]:
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: QuestionRecord) -> Answer:
        if not record.options:
            return "", None
        letter = random.Random(f"{self.seed}:{record.dataset}:{record.scene}:{record.id}").choice(record.letters)
        return letter, dict.fromkeys(record.letters, 1 / len(record.letters))


class MostFrequentAnswerer:
    """Always the most frequent right answer of the question's type, counted on a training table.

    Of equally frequent ones the smallest number or the first letter. VSI-Bench's own "frequency" row counts on the
    test questions and is therefore higher.

    Args:
        train: questions of other scenes than those to be answered.

    Raises:
        ValueError: if there are none.
    """

    def __init__(self, train: Sequence[QuestionRecord]):
        if not train:
            raise ValueError("The most frequent answer is counted on training questions, but got none.")
        counts: dict[str, Counter] = {}
        for record in train:
            counts.setdefault(record.question_type, Counter())[record.ground_truth] += 1
        self.answers = {name: most_frequent(counter) for name, counter in counts.items()}
        self.scenes = {(record.dataset, record.scene) for record in train}
        self.settings = {
            "name": "most frequent",
            "kind": "most_frequent",
            "answers": self.answers,
            "train": len(train),
        }

    def answer(self, records: Sequence[QuestionRecord]) -> list[Answer]:
        """
        Raises:
            ValueError: if a question is on a training scene, or of a type that the training table lacks.
        """
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: QuestionRecord) -> Answer:
        if (record.dataset, record.scene) in self.scenes:
            raise ValueError(
                f"Question {record.id} is on {record.dataset}/{record.scene}, which the most frequent answers were "
                "counted on. Give a training table of other scenes."
            )
        if record.question_type not in self.answers:
            raise ValueError(f"The training table has no {record.question_type}, but question {record.id} is one.")
        return self.answers[record.question_type], None


def most_frequent(counts: Counter[str]) -> str:
    """The answer with the highest count; of equals the smallest number or the first letter."""

    def rank(text: str) -> tuple[int, float, str]:
        number = to_number(text)
        return -counts[text], math.inf if number is None else number, text

    return min(counts, key=rank)
