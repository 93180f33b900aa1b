"""Situated questions: where things are for somebody who stands by one object and faces another, as SQA3D asks.

The answer is a few words, and the question's do not give it away: what is asked is drawn first, then the answer, each
as likely as another, and last a situation in which it is right, the more rarely the more its words let one expect an
answer, this one or another (`text_prior`). What has an answer that no situation makes right is not asked.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vega3d.rooms.questions.observation import Observation, ObservedObject
from vega3d.rooms.questions.questions import GeometricQuestion, choice, known_directions
from vega3d.rooms.questions.text_prior import option_probabilities

LEVEL = "medium"  # of the directions; it has the sides of `SIDES`
SIDES = {"left": "to my left", "right": "to my right", "back": "behind me"}
NAMED = 2  # objects of which one is asked for
ROUNDS = 4  # in which each object is asked about
Situation = tuple[int, int]  # the objects that one stands by, and that one faces
Sides = dict[Situation, dict[int, str]]  # of each object that is clearly on one


class Asked(NamedTuple):
    """A question without a situation, and the situations that make each answer right."""

    text: str
    objects: tuple[int, ...]
    answers: dict[str, list[Situation]]


def situation(observer: str, facing: str) -> str:
    return f"I am standing by the {observer} and facing the {facing}."


def sides_of(observation: Observation) -> Sides:
    sides: Sides = {}
    for observer, facing in itertools.permutations(observation.unique, 2):
        found = {item.id: known_directions(observation, observer, facing, item) for item in observation.unique}
        sides[observer.id, facing.id] = {number: told[LEVEL] for number, told in found.items() if LEVEL in told}
    return sides


def shuffled(things: Sequence, random: np.random.Generator) -> Iterator:
    return (things[place] for place in random.permutation(len(things)))


def which(items: Sequence[ObservedObject], sides: Sides, random: np.random.Generator) -> Iterator[Asked]:
    """Which of the objects is on a side; the others are clearly on other sides."""
    groups = itertools.product(SIDES.items(), itertools.combinations(items, NAMED))
    for (side, words), group in shuffled(list(groups), random):
        answers: dict[str, list[Situation]] = {item.name: [] for item in group}
        for standing, seen in sides.items():
            here = [item.name for item in group if seen.get(item.id) == side]
            if len(here) == 1 and all(item.id in seen for item in group):
                answers[here[0]].append(standing)
        names = [item.name for item in shuffled(group, random)]
        text = f"Which of these is {words}: {', '.join(names[:-1])} or {names[-1]}?"
        yield Asked(text, tuple(item.id for item in group), answers)


def by_side(item: ObservedObject, sides: Sides) -> dict[str, list[Situation]]:
    """The situations that have an object clearly on each side."""
    found: dict[str, list[Situation]] = {side: [] for side in SIDES}
    for standing, seen in sides.items():
        if item.id in seen:
            found[seen[item.id]].append(standing)
    return found


def where(items: Sequence[ObservedObject], sides: Sides, random: np.random.Generator) -> Iterator[Asked]:
    """On which side an object is, from a place that has it on each side as one turns, if there is one."""
    for _ in range(ROUNDS):
        for item in shuffled(items, random):
            answers = {SIDES[side]: there for side, there in by_side(item, sides).items()}
            by_place = [
                {
                    words: [standing for standing in there if standing[0] == observer.id]
                    for words, there in answers.items()
                }
                for observer in items
            ]
            whole = [turned for turned in by_place if all(turned.values())]
            text = f"Is the {item.name} to my left, to my right or behind me?"
            yield Asked(text, (item.id,), whole[random.integers(len(whole))] if whole else answers)


def whether(items: Sequence[ObservedObject], sides: Sides, random: np.random.Generator) -> Iterator[Asked]:
    """Whether an object is on a side."""
    for side, item in shuffled(list(itertools.product(SIDES, items)), random):
        found = by_side(item, sides)
        no = [standing for other, there in found.items() if other != side for standing in there]
        yield Asked(f"Is the {item.name} {SIDES[side]}?", (item.id,), {"yes": found[side], "no": no})


SITUATED_MAKERS: dict[str, Callable[[Sequence[ObservedObject], Sides, np.random.Generator], Iterator[Asked]]] = {
    "situated_which": which,
    "situated_where": where,
    "situated_whether": whether,
}


def expected(question_type: str, asked: Asked, standing: Situation, observation: Observation) -> dict[str, float]:
    """How likely each answer is by the words alone, up to a factor."""
    names = [[observation.by_id[number].name for number in (*standing, item)] for item in asked.objects]
    direction = f"object_rel_direction_{LEVEL}"
    told = [option_probabilities(direction, three, list(SIDES)).tolist() for three in names]
    sides = [dict(zip(SIDES, probabilities, strict=True)) for probabilities in told]
    if question_type == "situated_where":
        return {SIDES[side]: probability for side, probability in sides[0].items()}
    here = [found[side] for found in sides for side, words in SIDES.items() if words in asked.text]
    if question_type == "situated_whether":
        return {"yes": here[0], "no": 1 - here[0]}
    return {name: chance / (1 - chance) for (_, _, name), chance in zip(names, here, strict=True)}


def situated_questions(observation: Observation, seed: Sequence[int], per_type: int) -> list[GeometricQuestion]:
    """Up to `per_type` questions of each type.

    Their `object_ids` begin with the object that one stands by and the one that is faced.
    """
    sides = sides_of(observation)
    questions: list[GeometricQuestion] = []
    for stream, (question_type, maker) in enumerate(SITUATED_MAKERS.items()):
        random = np.random.default_rng([*seed, stream])
        made: dict[tuple[str, Situation], GeometricQuestion] = {}
        for asked in maker(observation.unique, sides, random):
            if len(made) == per_type:
                break
            if all(asked.answers.values()):
                right, *wrong = shuffled(list(asked.answers), random)
                standing = drawn(question_type, asked, right, observation, random)
                ids = [*standing, *asked.objects]
                made[asked.text, standing] = choice(question_type, asked.text, right, wrong, ids, random)
        questions += made.values()
    return questions


def drawn(
    question_type: str, asked: Asked, right: str, observation: Observation, random: np.random.Generator
) -> Situation:
    """A situation that makes an answer right.

    By weights of f / p, where p is the probability of the answer by the words and f any function of the words alone,
    each answer stands as often with the words as another. f = min(p)**2 prefers words that tell little, so that errors
    of p matter less.
    """
    weights = []
    for standing in asked.answers[right]:
        chances = expected(question_type, asked, standing, observation)
        weights.append(min(chances.values()) ** 2 / chances[right])
    return asked.answers[right][random.choice(len(weights), p=np.array(weights) / sum(weights))]
