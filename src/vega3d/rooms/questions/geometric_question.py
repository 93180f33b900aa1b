"""A question computed from geometry, and what its makers share."""

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vega3d.rooms.questions.observation import Observation

MAX_OPTIONS = 4
Item = TypeVar("Item")


@dataclass(frozen=True)
class GeometricQuestion:
    """
    Args:
        question_type: one of VSI-Bench's ten, or `localisation_by_choice`.
        question: text.
        answer: a letter, or a number as text.
        options: texts of the choices, without letters; empty for a numeric question.
        object_ids: instances that the answer was computed from.
        frame: for `localisation_by_choice`, the frame with the marked boxes.
        marks: (left, top, right, bottom) [px] of the marked boxes A, B, C, D in that frame.
    """

    question_type: str
    question: str
    answer: str
    options: tuple[str, ...] = ()
    object_ids: tuple[int, ...] = ()
    frame: int | None = None
    marks: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def right(self) -> int:
        """Number of the right option."""
        return string.ascii_uppercase.index(self.answer)


Candidates = Iterator[GeometricQuestion]
Maker = Callable[[Observation, np.random.Generator], Candidates]


def choice(
    question_type: str,
    question: str,
    right: str,
    wrong: Sequence[str],
    ids: Sequence[int],
    random: np.random.Generator,
) -> GeometricQuestion:
    """A multiple-choice question with its options in random order."""
    options = [right, *wrong]
    order = random.permutation(len(options)).tolist()
    letter = string.ascii_uppercase[order.index(0)]
    return GeometricQuestion(question_type, question, letter, tuple(options[i] for i in order), tuple(ids))


def shuffled_groups(
    items: Sequence[Item], size: int, random: np.random.Generator, tries: int = 20
) -> Iterator[list[Item]]:
    """Up to `tries` random groups of `size` items."""
    if len(items) < size:
        return
    for _ in range(tries):
        yield [items[i] for i in random.permutation(len(items))[:size]]
