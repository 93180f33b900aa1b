"""Answers without a model: by chance, and always the most frequent one."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vega3d.evaluation.metrics import average, is_choice, score_parsed, to_number
from vega3d.evaluation.vsibench import AnnotatedQuestion
from vega3d.questions import RawAnswer


class ChanceAnswerer:
    """A letter by chance; equal likelihoods, whose score is exactly the level of chance; no answer to a number.

    The letter is a function of the seed and the question.
    """

    def __init__(self, seed: int = 0):
        self.settings = {"name": "chance", "kind": "chance", "seed": seed}
        self.seed = seed

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: AnnotatedQuestion) -> RawAnswer:
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

    def __init__(self, train: Sequence[AnnotatedQuestion]):
        if not train:
            raise ValueError("The most frequent answer is counted on training questions, but got none.")
        counts: dict[str, Counter] = {}
        for record in train:
            counts.setdefault(record.question_type, Counter())[record.answer] += 1
        self.answers = {name: most_frequent(counter) for name, counter in counts.items()}
        self.scenes = {(record.dataset, record.scene) for record in train}
        self.settings = {
            "name": "most frequent",
            "kind": "most_frequent",
            "answers": self.answers,
            "train": len(train),
        }

    def answer(self, records: Sequence[AnnotatedQuestion]) -> list[RawAnswer]:
        """As `Answerer.answer`.

        Raises:
            ValueError: if a question is on a training scene, or of a type that the training table lacks.
        """
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: AnnotatedQuestion) -> RawAnswer:
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


def constant_scores(questions: Iterable[Mapping]) -> dict[str, float]:
    """What an answer that ignores picture and question scores by type, category and in the macro average, in [0, 1].

    For numbers the highest score that any of the right answers reaches on these very questions; for choices the level
    of chance.

    Args:
        questions: those of a result file, with `question_type`, `options` and `ground_truth`.
    """
    by_type: dict[str, list[Mapping]] = {}
    for question in questions:
        by_type.setdefault(question["question_type"], []).append(question)
    scores = [(name, score) for name, rows in by_type.items() for score in best_constant_scores(name, rows)]
    averages = average(scores)
    named = {**averages.types, **averages.categories, "macro": averages.macro}
    return {name: value for name, value in named.items() if value is not None}


def best_constant_scores(question_type: str, questions: Sequence[Mapping]) -> list[float]:
    """The score of each question of a type, for the constant answer that is best in the mean."""
    if is_choice(question_type):
        return [1 / len(question["options"]) for question in questions]
    truths = [question["ground_truth"] for question in questions]
    of_each = ([score_parsed(text, question_type, truth) for truth in truths] for text in dict.fromkeys(truths))
    return max(of_each, key=sum)
