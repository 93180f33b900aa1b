"""Answers that say what they stand on, in words, before the answer itself.

    sofa 1.2 ahead 0.4 left, tv 3.0 ahead 0.4 left, lamp 2.0 ahead 1.6 right; sofa to tv 0, sofa to lamp 60: right. B

Places are those of the first camera's floor plan [m]; bearings [deg] are from one place to another, clockwise from
straight ahead of the first camera. What follows the last full stop is the answer that VSI-Bench's
parser gets (`vega3d.questions.reason_and_answer`). A small decoder learns the word of a direction from bearings at
once, and the letter of an option hardly at all unless its word was said before.
"""

import itertools
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    """The places of the objects of a room that their names tell apart."""

    places: Mapping[str, Place]

    def place(self, name: str) -> str:
        """Such as `1.2 ahead 0.4 left`."""
        ahead, right, _ = self.places[name]
        steps = (min(round(abs(value) / STEP) * STEP, FARTHEST) for value in (ahead, right))
        words = ("ahead" if ahead >= 0 else "behind", "right" if right >= 0 else "left")
        return " ".join(f"{value:.1f} {word}" for value, word in zip(steps, words, strict=True))

    def listed(self, names: Iterable[str]) -> str:
        """Such as `sofa 1.2 ahead 0.4 left, tv 3.0 ahead 0.4 left`."""
        return ", ".join(f"{name} {self.place(name)}" for name in names)

    def bearing(self, start: str, name: str) -> str:
        """Such as `sofa to lamp 60`: clockwise from straight ahead of the first camera, to `TURN` degrees."""
        ahead, right = np.subtract(self.places[name][:2], self.places[start][:2])
        return f"{start} to {name} {round(np.degrees(np.arctan2(right, ahead)) / TURN) * TURN % 360}"


def floor_plan(observation: Observation, world_from_first_camera: np.ndarray) -> FloorPlan:
    """The plan of the objects of an observation, from the pose float[4, 4] of its first frame."""
    axes, origin = floor_axes(world_from_first_camera), world_from_first_camera[:2, 3]
    places = {}
    for item in observation.unique:
        ahead, right = ((item.place - origin) @ axes).tolist()
        frame = int(np.flatnonzero(observation.mask_fractions[item.id] >= VISIBLE_FRACTION)[0])
        places[item.name] = Place(ahead, right, frame)
    return FloorPlan(places)


def floor_axes(world_from_camera: np.ndarray) -> np.ndarray:
    """float[2, 2]: the directions ahead of a camera and to its right, on the floor plan, as columns."""
    ahead = world_from_camera[:2, 2] / np.linalg.norm(world_from_camera[:2, 2])
    return np.array([ahead, (ahead[1], -ahead[0])]).T


def reasoned_answer(
    question: GeometricQuestion, observation: Observation, plan: FloorPlan, has_letters: bool = True
) -> str:
    """The answer with what it stands on; the bare answer for counts and sizes.

    Of orders the reason tells each option by its frames if `has_letters`, that is if the letters of options are shown:
    four names in one order are hard to tell from the same in another, rising numbers are not.
    """
    names = [observation.by_id[number].name for number in question.object_ids]
    kind = question.question_type
    if kind.startswith(DIRECTION):
        reason = directions(plan, names, [(names[0], names[1]), (names[0], names[2])])
    elif kind == "route_planning":
        reason = directions(plan, names, list(itertools.pairwise(names)))
    elif kind == "object_abs_distance":
        return f"{plan.listed(names)}. {question.answer}"
    elif kind == "object_rel_distance":
        reason = f"{plan.listed(names[:1])}; {distances(question, observation, plan, question.options)}"
    elif kind == "obj_appearance_order":
        frames = {name: first_frame(observation, name) for name in sorted(question.options[0].split(", "))}
        reason = ", ".join(f"{name} {frame}" for name, frame in frames.items())
        reason += f"; {orders(question.options, frames)}" if has_letters else ""
    elif kind == BOXES:
        return f"{plan.listed(names[:1])}; {boxes(question, observation, names)}. {question.answer}"
    else:
        return question.answer
    return f"{reason}: {question.options[question.right]}. {question.answer}"


def directions(plan: FloorPlan, names: Sequence[str], legs: Sequence[tuple[str, str]]) -> str:
    return f"{plan.listed(names)}; " + ", ".join(plan.bearing(start, name) for start, name in legs)


def distances(question: GeometricQuestion, observation: Observation, plan: FloorPlan, names: Sequence[str]) -> str:
    """Place of each object, and how far its surface is from that of the first object of the question."""
    items = {observation.by_id[number].name: observation.by_id[number] for number in question.object_ids}
    anchor = observation.by_id[question.object_ids[0]]
    return ", ".join(
        f"{name} {plan.place(name)} {observation.distance(anchor, items[name]):.1f} away" for name in names
    )


def boxes(question: GeometricQuestion, observation: Observation, names: Sequence[str]) -> str:
    """What each box shows, by its letter, and how far what is asked for is from the anchor."""
    anchor, *shown = (observation.by_id[number] for number in question.object_ids)
    wanted = shown[question.right].name
    return ", ".join(
        f"{letter} {item.name}"
        if item.name != wanted
        else f"{letter} {item.name} {observation.distance(anchor, item):.1f} away"
        for letter, item in zip(string.ascii_uppercase, shown, strict=False)
    )


def orders(options: Sequence[str], frames: Mapping[str, int | None]) -> str:
    """Such as `A 10 8 13 0, B 0 8 10 13`: the frames of each option's names, in its order."""
    told = [" ".join(str(frames[name]) for name in option.split(", ")) for option in options]
    return ", ".join(f"{letter} {numbers}" for letter, numbers in zip(string.ascii_uppercase, told, strict=False))


def first_frame(observation: Observation, name: str) -> int | None:
    return observation.first_seen(name, VISIBLE_FRACTION)
