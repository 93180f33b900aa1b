"""Proposals: boxes among which grounding chooses, as they are, and as a detector would find them.

They are axis-aligned, (centre, size) [m], of the objects that a walkthrough shows, in random order. The rates of the
simulated detector stand here; `docs/data.md` has what they amount to.
"""

from typing import Literal, NamedTuple

import numpy as np

from vega3d.geometry import axis_aligned
from vega3d.rooms.questions.observation import Observation

Source = Literal["true", "detected"]
MISSED, MISSED_SMALL = 0.05, 0.25  # probability, of an object and of one that is seen small
SMALL = 0.01  # of a frame's pixels, in the frame that shows most of it
CENTRE_ERROR, SIZE_ERROR = 0.06, 0.12  # standard deviations: share of the size along each axis, and of its logarithm
RESOLUTION = 0.015  # [m], standard deviation of centre and size that small and thin things have, too
HALVED, BACKGROUND = 0.10, 0.10  # boxes that are added for each object: half of it, and one of its size elsewhere


class Proposals(NamedTuple):
    """Boxes of a walkthrough, and what they are of."""

    boxes: np.ndarray  # float[M, 6], centre and size [m]
    object_ids: np.ndarray  # int[M], instances; 0 for boxes that are of none


def true_proposals(observation: Observation, random: np.random.Generator) -> Proposals:
    """The boxes of all visible objects."""
    boxes = np.array([axis_aligned(item.box) for item in observation.visible]).reshape(-1, 6)
    return shuffled(boxes, np.array([item.id for item in observation.visible], int), random)


def detected_proposals(observation: Observation, random: np.random.Generator) -> Proposals:
    """Boxes as a detector finds them: objects are missed, boxes are inexact, and some are of no object."""
    boxes, ids = true_proposals(observation, random)
    seen = np.array([observation.mask_fractions[number].max() for number in ids.tolist()])
    is_found = random.random(len(ids)) >= np.where(seen < SMALL, MISSED_SMALL, MISSED)
    halved = halves(boxes[random.random(len(ids)) < HALVED], random)
    elsewhere = boxes[random.random(len(ids)) < BACKGROUND]
    if len(boxes):
        lowest, highest = boxes[:, :3].min(axis=0), boxes[:, :3].max(axis=0)
        elsewhere[:, :3] = random.uniform(lowest, highest, (len(elsewhere), 3))
    of_none = np.zeros(len(halved) + len(elsewhere), int)
    proposed = np.concatenate([jittered(boxes[is_found], random), halved, elsewhere])
    return shuffled(proposed, np.concatenate([ids[is_found], of_none]), random)


def jittered(boxes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """float[M, 6] with errors of centre and size."""
    centre, size = boxes[:, :3], boxes[:, 3:]
    moved = centre + random.normal(size=centre.shape) * (CENTRE_ERROR * size + RESOLUTION)
    scaled = size * np.exp(SIZE_ERROR * random.normal(size=size.shape))
    return np.concatenate([moved, scaled + np.abs(random.normal(size=size.shape)) * RESOLUTION], axis=1)


def halves(boxes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """float[M, 6]: one half of each, cut across its longest edge, with errors."""
    halved, rows = boxes.copy(), np.arange(len(boxes))
    longest = boxes[:, 3:].argmax(axis=1)
    side = np.where(random.random(len(boxes)) < 0.5, -1.0, 1.0)
    halved[rows, longest] += side * boxes[rows, 3 + longest] / 4
    halved[rows, 3 + longest] /= 2
    return jittered(halved, random)


def shuffled(boxes: np.ndarray, ids: np.ndarray, random: np.random.Generator) -> Proposals:
    order = random.permutation(len(ids))
    return Proposals(boxes[order].round(4), ids[order])


PROPOSALS = {"true": true_proposals, "detected": detected_proposals}
