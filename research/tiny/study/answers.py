"""Answers that say what they stand on, in words, before the answer itself.

    sofa 1.2 ahead 0.4 left, tv 3.0 ahead 0.4 left, lamp 2.0 ahead 1.6 right; sofa to tv 0, sofa to lamp 60: right;
    A left no, B right yes. B

Places are those of the first camera's floor plan [m]; bearings [deg] are from one place to another, clockwise from
straight ahead of the first camera. What follows the last full stop is the answer that VSI-Bench's
parser gets (`vega3d.questions.reason_and_answer`). A small decoder learns the word of a direction from bearings at
once, and the letter of an option hardly at all unless its word was said and each option was judged by it.
"""

import itertools
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vega3d.rooms.questions.observation import VISIBLE_FRACTION, Observation
from vega3d.rooms.questions.questions import GeometricQuestion

STEP = 0.2  # [m], to which places are rounded
FARTHEST = 9.8  # [m], beyond which places are not told apart
TURN = 15  # [deg], to which bearings are rounded
DIRECTION, BOXES = "object_rel_direction", "localisation_by_choice"


class Place(NamedTuple):
    """Where an object stands, as the first camera of a clip sees the room."""

    ahead: float  # of the first camera [m]; below 0 behind it
    right: float  # of it [m]; below 0 to the left
    frame: int  # in which the object is first seen, from 0


@dataclass(frozen=True)
class FloorPlan:
    """The places of the objects of a room."""

    places: Mapping[str, Place]  # of those that their names tell apart
    by_id: Mapping[int, tuple[float, float]] = field(default_factory=dict)  # ahead and right [m], of all that are seen

    def place(self, name: str) -> str:
        """Such as `1.2 ahead 0.4 left`."""
        ahead, right, _ = self.places[name]
        return told_place(ahead, right)

    def listed(self, names: Iterable[str]) -> str:
        """Such as `sofa 1.2 ahead 0.4 left, tv 3.0 ahead 0.4 left`."""
        return ", ".join(f"{name} {self.place(name)}" for name in names)

    def bearing(self, start: str, name: str) -> str:
        """Such as `sofa to lamp 60`: clockwise from straight ahead of the first camera, to `TURN` degrees."""
        ahead, right = np.subtract(self.places[name][:2], self.places[start][:2])
        return f"{start} to {name} {round(np.degrees(np.arctan2(right, ahead)) / TURN) * TURN % 360}"


def told_place(ahead: float, right: float) -> str:
    steps = (min(round(abs(value) / STEP) * STEP, FARTHEST) for value in (ahead, right))
    words = ("ahead" if ahead >= 0 else "behind", "right" if right >= 0 else "left")
    return " ".join(f"{value:.1f} {word}" for value, word in zip(steps, words, strict=True))


def floor_plan(observation: Observation, world_from_first_camera: np.ndarray) -> FloorPlan:
    """The plan of the objects of an observation, from the pose float[4, 4] of its first frame."""
    axes, origin = floor_axes(world_from_first_camera), world_from_first_camera[:2, 3]
    by_id: dict[int, tuple[float, float]] = {}
    for item in observation.visible:
        ahead, right = ((item.place - origin) @ axes).tolist()
        by_id[item.id] = ahead, right
    places = {}
    for item in observation.unique:
        frame = int(np.flatnonzero(observation.mask_fractions[item.id] >= VISIBLE_FRACTION)[0])
        ahead, right = by_id[item.id]
        places[item.name] = Place(ahead, right, frame)
    return FloorPlan(places, by_id)


def floor_axes(world_from_camera: np.ndarray) -> np.ndarray:
    """float[2, 2]: the directions ahead of a camera and to its right, on the floor plan, as columns."""
    ahead = world_from_camera[:2, 2] / np.linalg.norm(world_from_camera[:2, 2])
    return np.array([ahead, (ahead[1], -ahead[0])]).T


def reasoned_answer(
    question: GeometricQuestion, observation: Observation, plan: FloorPlan, has_letters: bool = True
) -> str:
    """The answer with what it stands on; the bare answer for counts and sizes.

    Of directions, routes and orders the reason says of each option whether it is right if `has_letters`, that is if
    the letters of options are shown: to find the option that equals what was said is hard to learn in one step.
    """
    names = [observation.by_id[number].name for number in question.object_ids]
    kind = question.question_type
    if kind.startswith(DIRECTION) or kind == "route_planning":
        from_first = [(names[0], names[1]), (names[0], names[2])]
        legs = from_first if kind.startswith(DIRECTION) else list(itertools.pairwise(names))
        reason = directions(plan, names, legs)
    elif kind == "object_abs_distance":
        return f"{plan.listed(names)}. {question.answer}"
    elif kind == "object_rel_distance":
        reason = f"{plan.listed(names[:1])}; {distances(question, observation, plan, question.options)}"
    elif kind == "obj_appearance_order":
        frames = {name: first_frame(observation, name) for name in sorted(question.options[0].split(", "))}
        reason = ", ".join(f"{name} {frame}" for name, frame in frames.items())
        reason += f"; {orders(question.options, frames)}" if has_letters else ""
    elif kind == BOXES:
        return f"{plan.listed(names[:1])}; {boxes(question, observation, plan)}. {question.answer}"
    else:
        return question.answer
    ending = judged(kind, question.options, question.right) if has_letters else ""
    return f"{reason}: {question.options[question.right]}{ending}. {question.answer}"


def directions(plan: FloorPlan, names: Sequence[str], legs: Sequence[tuple[str, str]]) -> str:
    return f"{plan.listed(names)}; " + ", ".join(plan.bearing(start, name) for start, name in legs)


def judged(kind: str, options: Sequence[str], right: int) -> str:
    """Such as `; A Turn Left no, B Turn Right yes`, of directions and routes; orders are judged by their frames."""
    if not (kind.startswith(DIRECTION) or kind == "route_planning"):
        return ""
    told = zip(string.ascii_uppercase, options, strict=False)
    return "; " + ", ".join(
        f"{letter} {option} {'yes' if number == right else 'no'}" for number, (letter, option) in enumerate(told)
    )


def distances(question: GeometricQuestion, observation: Observation, plan: FloorPlan, names: Sequence[str]) -> str:
    """Place of each object, and how far its surface is from that of the first object of the question."""
    items = {observation.by_id[number].name: observation.by_id[number] for number in question.object_ids}
    anchor = observation.by_id[question.object_ids[0]]
    return ", ".join(
        f"{name} {plan.place(name)} {observation.distance(anchor, items[name]):.1f} away" for name in names
    )


def boxes(question: GeometricQuestion, observation: Observation, plan: FloorPlan) -> str:
    """Such as `A 7 5 9 lamp, B 7 3 2 sofa 1.2 ahead 0.4 left 0.8 away`: each box, what it shows, and where that is.

    Frame, row and column are said again, so that what is there is looked up from beside them. Places, and distances
    from the anchor, are those of what is asked for.
    """
    anchor, *shown = (observation.by_id[number] for number in question.object_ids)
    told = []
    for letter, option, item in zip(string.ascii_uppercase, question.options, shown, strict=False):
        words = [letter, *re.findall(r"\d+", option), item.name]
        if item.name == shown[question.right].name:
            words += [told_place(*plan.by_id[item.id]), f"{observation.distance(anchor, item):.1f} away"]
        told.append(" ".join(words))
    return ", ".join(told)


def orders(options: Sequence[str], frames: Mapping[str, int]) -> str:
    """Such as `A sofa 8 lamp 0 no, B lamp 0 sofa 8 yes`: each option with its frames, and whether they rise."""
    told = []
    for letter, option in zip(string.ascii_uppercase, options, strict=False):
        names = option.split(", ")
        rises = "yes" if names == sorted(names, key=frames.__getitem__) else "no"
        told.append(" ".join([letter, *(f"{name} {frames[name]}" for name in names), rises]))
    return ", ".join(told)


def first_frame(observation: Observation, name: str) -> int:
    """Of an object that an order names, all of which are seen."""
    frame = observation.first_seen(name, VISIBLE_FRACTION)
    assert frame is not None
    return frame
