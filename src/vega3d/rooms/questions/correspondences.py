"""Pixels of different frames that see the same point of the room."""

import numpy as np

from vega3d.geometry import project, unproject
from vega3d.rooms.render.clip import Clip

TRIES = 40  # pairs drawn for each that is wanted
SAME = 0.02  # [m] between a point and what the other frame sees in its place


def correspondences(clip: Clip, random: np.random.Generator, count: int = 64) -> np.ndarray:
    """
    Args:
        clip: a walkthrough of two or more frames.
        random: generator.
        count: of pairs.

    Returns:
        float32[n, 7], n <= count: frame, x, y [px] of the centre of a pixel; another frame, and x, y [px] of where it
        shows the same point, unoccluded; the instance id there.
    """
    length, height, width = clip.depth.shape
    tries = TRIES * count
    first, other = random.integers(length, size=tries), random.integers(1, length, size=tries)
    second = (first + other) % length
    column, row = random.integers(width, size=tries), random.integers(height, size=tries)
    pixels = np.stack([column, row], axis=1) + 0.5
    found = np.zeros((tries, 7), np.float32)
    keep = np.zeros(tries, bool)
    for here in range(length):
        for there in range(length):
            chosen = np.flatnonzero((first == here) & (second == there))
            if not len(chosen):
                continue
            depth = clip.depth[here, row[chosen], column[chosen]]
            points = unproject(pixels[chosen], depth, clip.intrinsics, clip.world_from_camera[here])
            place, reach = project(points, clip.intrinsics, clip.world_from_camera[there])
            inside = (
                (reach > 0) & (np.nan_to_num(place, nan=-1.0) >= 0).all(axis=1) & (place < (width, height)).all(axis=1)
            )
            chosen, place, reach = chosen[inside], place[inside], reach[inside]
            x, y = np.floor(place).astype(int).T
            instance = clip.instance[here, row[chosen], column[chosen]]
            seen = np.abs(clip.depth[there, y, x] - reach) < SAME
            keep[chosen] = seen & (clip.instance[there, y, x] == instance)
            ends = np.full(len(chosen), there)
            starts = np.full(len(chosen), here)
            found[chosen] = np.column_stack([starts, pixels[chosen], ends, place, instance])
    return found[keep][:count]
