"""What the words of a question give away, and which questions to leave out so that they give nothing away.

Rooms are furnished as people furnish them, so "the chair" is the likely answer to "which is the closest to the
table", and what is asked from the door is not behind it. A conditional logit (McFadden, 1974) over the options, whose
clues are the classes in their roles, is fitted to questions on rooms of the training split
(`recipes/fit_text_prior.py`). A question whose right option has the probability p is then kept with the probability
min(p of its options) / p, after which, as far as the model is right, each option is right equally often.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from vega3d.files import read_xz

WEIGHTS = Path(__file__).parents[2] / "assets" / "text_prior.json.xz"
LARGEST = 1 << 26  # bytes of the weights as JSON
Clues = list[str]


def direction_clues(names: Sequence[str], option: str) -> Clues:
    observer, facing, target = names
    pairs = (f"at {observer} facing {facing}", f"at {observer} target {target}", f"facing {facing} target {target}")
    return [f"{words}: {option}" for words in ("", f"at {observer}", f"facing {facing}", f"target {target}", *pairs)]


def distance_clues(names: Sequence[str], option: str) -> Clues:
    return [option, f"{names[0]}: {option}"]


def route_clues(names: Sequence[str], option: str) -> Clues:
    """Clues of a turn at each stop but the first and the last."""
    clues = [option]
    for leg, turn in enumerate(option.split(", ")):
        before, here, after = names[leg : leg + 3]
        pairs = (f"{before}, {here}", f"{here}, {after}", f"{before}, , {after}")
        roles = ("", f"from {before}", f"at {here}", f"to {after}", *pairs)
        clues += [f"{words}: {turn}" for words in roles]
    return clues


def order_clues(names: Sequence[str], option: str) -> Clues:
    order = option.split(", ")
    ranks = [f"{rank} {name}" for rank, name in enumerate(order)]
    return ranks + [f"{first} before {second}" for first, second in itertools.combinations(order, 2)]


CLUES = {
    "object_rel_direction_easy": direction_clues,
    "object_rel_direction_medium": direction_clues,
    "object_rel_direction_hard": direction_clues,
    "object_rel_distance": distance_clues,
    "route_planning": route_clues,
    "obj_appearance_order": order_clues,
}


@cache
def load_weights(path: Path = WEIGHTS) -> dict[str, dict[str, float]]:
    """Weight of each clue, by question type; raises ValueError if the file is damaged."""
    try:
        weights = json.loads(read_xz(path, LARGEST))["weights"]
        return {name: dict(weights[name]) for name in CLUES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). Install vega3d again.") from error


def option_probabilities(question_type: str, names: Sequence[str], options: Sequence[str]) -> np.ndarray:
    """float[n]: how likely each option, without its letter, is by the words alone.

    `names` are the classes of the objects that the question is about, in the order of its type.
    """
    weights = load_weights()[question_type]
    scores = [sum(weights.get(clue, 0.0) for clue in CLUES[question_type](names, option)) for option in options]
    odds = np.exp(np.array(scores) - max(scores))
    return odds / odds.sum()


def unrevealing(candidates: Sequence, names: Iterable[Sequence[str]], random: np.random.Generator) -> Iterator:
    """Of `GeometricQuestion`s of one type, those that are kept so that their words give nothing away.

    `names` are the classes of the objects of each; `random` draws once for each.
    """
    for question, classes in zip(candidates, names, strict=True):
        probabilities = option_probabilities(question.question_type, classes, question.options)
        if random.random() < probabilities.min() / probabilities[question.right]:
            yield question
