"""Situated questions: where things are for somebody who stands by one object and faces another, as SQA3D asks.

The answer is a few words. Questions are left out by `text_prior`, so that words alone do not give it away.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vega3d.rooms.questions.observation import Observation, ObservedObject
from vega3d.rooms.questions.questions import (
    GeometricQuestion,
    choice,
    known_directions,
    names_in,
    shuffled_groups,
)
from vega3d.rooms.questions.text_prior import unrevealing

SIDES = {"left": "to my left", "right": "to my right", "back": "behind me"}  # of the level `medium`
SITUATIONS = 30  # drawn of each walkthrough
NAMED = 3  # objects that are asked about at once
Sides = dict[str, list[ObservedObject]]


def situation(observer: str, facing: str) -> str:
    return f"I am standing by the {observer} and facing the {facing}."


def which(sides: Sides, ids: tuple[int, int], random: np.random.Generator) -> Iterator[GeometricQuestion]:
    """Which of the objects is on a side; the others are clearly on other sides."""
    for side, here in sides.items():
        elsewhere = [item for other in sides if other != side for item in sides[other]]
        for right in here:
            for group in shuffled_groups(elsewhere, NAMED - 1, random, tries=1):
                three = [right, *group]
                named = [three[i].name for i in random.permutation(NAMED)]
                text = f"Which of these is {SIDES[side]}: {', '.join(named[:-1])} or {named[-1]}?"
                wrong = [item.name for item in group]
                yield choice("situated_which", text, right.name, wrong, [*ids, *(item.id for item in three)], random)


def where(sides: Sides, ids: tuple[int, int], random: np.random.Generator) -> Iterator[GeometricQuestion]:
    """On which side an object is."""
    for side, here in sides.items():
        for item in here:
            text = f"Is the {item.name} to my left, to my right or behind me?"
            wrong = [words for other, words in SIDES.items() if other != side]
            yield choice("situated_where", text, SIDES[side], wrong, [*ids, item.id], random)


def whether(sides: Sides, ids: tuple[int, int], random: np.random.Generator) -> Iterator[GeometricQuestion]:
    """Whether an object is on a side."""
    for (side, words), (other, here) in itertools.product(SIDES.items(), sides.items()):
        for item in here:
            right, wrong = ("yes", "no") if side == other else ("no", "yes")
            yield choice("situated_whether", f"Is the {item.name} {words}?", right, [wrong], [*ids, item.id], random)


SITUATED_MAKERS: dict[str, Callable[[Sides, tuple[int, int], np.random.Generator], Iterator[GeometricQuestion]]] = {
    "situated_which": which,
    "situated_where": where,
    "situated_whether": whether,
}


def situated_candidates(
    question_type: str, observation: Observation, random: np.random.Generator
) -> list[GeometricQuestion]:
    """Questions of a type that can be asked in some situations, in random order.

    Their `object_ids` begin with the object that one stands by and the one that is faced.
    """
    found: list[GeometricQuestion] = []
    for observer, facing in shuffled_groups(observation.unique, 2, random, SITUATIONS):
        sides: Sides = {side: [] for side in SIDES}
        for item in observation.unique:
            side = known_directions(observation, observer, facing, item).get("medium")
            if side is not None:
                sides[side].append(item)
        found += SITUATED_MAKERS[question_type](sides, (observer.id, facing.id), random)
    return [found[i] for i in random.permutation(len(found))]


def clues_of(question: GeometricQuestion, observation: Observation) -> list[str]:
    """What `text_prior` knows of the words: the classes of observer and facing, and what is asked for."""
    observer, facing, *others = names_in(question, observation)
    side = question.question.partition(":")[0] if question.question_type == "situated_which" else ""
    asked = [side] if side else others
    if question.question_type == "situated_whether":
        asked = [question.question, *[words for words in SIDES.values() if words in question.question]]
    return [observer, facing, *asked]


def situated_questions(observation: Observation, seed: Sequence[int], per_type: int) -> list[GeometricQuestion]:
    """Up to `per_type` questions of each type."""
    questions: list[GeometricQuestion] = []
    for stream, name in enumerate(SITUATED_MAKERS):
        random = np.random.default_rng([*seed, stream])
        candidates = situated_candidates(name, observation, random)
        kept = unrevealing(candidates, (clues_of(question, observation) for question in candidates), random)
        questions += itertools.islice(kept, per_type)
    return questions
