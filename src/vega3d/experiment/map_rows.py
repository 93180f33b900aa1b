"""Questions of stage 1 that are asked in training alone: the map of a room, object by object, and when each is seen.

VSI-Bench's questions combine places of two to five objects; a small model that never was asked for one place does not
find out what they have in common. Yang et al. (2024) let large models draw such "cognitive maps" before they answer.
"""

from collections.abc import Iterator

import numpy as np

from vega3d.synthetic.observation import VISIBLE_FRACTION, Observation, ObservedObject
from vega3d.synthetic.walk import Walk

PLACE, FIRST_FRAME = "place", "first_frame"
MAP_KINDS = (PLACE, FIRST_FRAME)
STEP = 0.5  # [m], to which places are rounded


def map_rows(observation: Observation, walk: Walk) -> Iterator[tuple[str, str, str]]:
    """Kind, question and answer, of each object that its name tells apart."""
    for item in observation.unique:
        yield PLACE, f"Where is the {item.name}, from the first frame?", place_text(item, walk)
        frame = observation.first_seen(item.name, VISIBLE_FRACTION)
        if frame is not None:
            yield FIRST_FRAME, f"In which frame is the {item.name} first seen?", str(frame)


def place_text(item: ObservedObject, walk: Walk) -> str:
    """Such as "2.5 ahead 1.0 left" [m]: of the object's centre on the floor, from the first camera, as it looks."""
    pose = walk.world_from_camera[0]
    away = item.place - pose[:2, 3]
    ahead = pose[:2, 2] / np.linalg.norm(pose[:2, 2])
    along, across = float(away @ ahead), float(away @ (ahead[1], -ahead[0]))
    words = ("ahead" if along >= 0 else "behind", "right" if across >= 0 else "left")
    return " ".join(f"{to_step(value)} {word}" for value, word in zip((along, across), words, strict=True))


def to_step(value: float) -> str:
    return f"{round(abs(value) / STEP) * STEP:.1f}"
