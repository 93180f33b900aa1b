"""Questions of stage 1 that are asked in training alone: the map of a room, object by object, and when each is seen.

VSI-Bench's questions combine places of two to five objects; a small model that never was asked for one place does not
find out what they have in common. Yang et al. (2024) let large models draw such "cognitive maps" before they answer.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vega3d.rooms.questions.observation import VISIBLE_FRACTION, Observation, ObservedObject
from vega3d.rooms.scene.trajectory import Trajectory

PLACE, FIRST_FRAME = "place", "first_frame"
MAP_KINDS = (PLACE, FIRST_FRAME)
STEP = 0.5  # [m], to which places are rounded
REACH = 12  # steps; what is farther is told as that far


class OnMap(NamedTuple):
    """
    Args:
        ahead, right: of the first camera, as it looks: place of the object's centre on the floor, in steps of 0.5 m.
        frame: in which it is first seen.
    """

    ahead: int
    right: int
    frame: int


def room_map(observation: Observation, walk: Trajectory) -> dict[str, OnMap]:
    """Of each visible object that its name tells apart."""
    places = {}
    for item in observation.unique:
        shown = np.flatnonzero(observation.mask_fractions[item.id] >= VISIBLE_FRACTION)
        places[item.name] = OnMap(*place_of(item, walk), int(shown[0]))
    return places


def place_of(item: ObservedObject, walk: Trajectory) -> tuple[int, int]:
    """Steps ahead and to the right of the first camera."""
    pose = walk.world_from_camera[0]
    ahead, right = (item.place - pose[:2, 3]) @ floor_axes(pose) / STEP
    return round(float(ahead)), round(float(right))


def floor_axes(world_from_camera: np.ndarray) -> np.ndarray:
    """float[2, 2]: the directions ahead of a camera and to its right, on the floor plan, as columns."""
    ahead = world_from_camera[:2, 2] / np.linalg.norm(world_from_camera[:2, 2])
    return np.array([ahead, (ahead[1], -ahead[0])]).T


def map_rows(places: dict[str, OnMap]) -> Iterator[tuple[str, str, str]]:
    """Kind, question and answer, such as "2.5 ahead 1.0 left" [m], of each object of a map."""
    for name, place in places.items():
        along, across = "ahead" if place.ahead >= 0 else "behind", "right" if place.right >= 0 else "left"
        text = f"{abs(place.ahead) * STEP:.1f} {along} {abs(place.right) * STEP:.1f} {across}"
        yield PLACE, f"Where is the {name}, from the first frame?", text
        yield FIRST_FRAME, f"In which frame is the {name} first seen?", str(place.frame)
