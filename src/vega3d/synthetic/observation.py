"""What a walkthrough shows of a scene: which objects are truly visible, and when and where they appear."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vega3d.geometry import Box, box_contains, box_corners, point_set_distance

VISIBLE_FRACTION = 0.004  # of a frame's pixels, in at least one frame: about 8 x 8 px of 128 x 128
GLIMPSE_FRACTION = 0.0008


@dataclass(frozen=True)
class ObservedObject:
    """
    Args:
        id: instance id in the masks, 1 or more; 0 is everything that is not an object.
        name: class in the singular.
        box: upright box around it, world [m].
        points: float[n, 3], points of its surface, world [m].
    """

    id: int
    name: str
    box: Box
    points: np.ndarray

    @property
    def place(self) -> np.ndarray:
        """float[2]: centre on the floor plan [m]."""
        return np.asarray(self.box.center, float)[:2]

    @property
    def footprint(self) -> np.ndarray:
        """float[4, 2]: corners on the floor plan, counter-clockwise [m]."""
        return box_corners(self.box)[:4, :2]

    def distance(self, other: "ObservedObject") -> float:
        """Between the closest points of the two surfaces [m]; 0 if one stands in the other's box."""
        if box_contains(self.box, other.points).any() or box_contains(other.box, self.points).any():
            return 0.0
        return point_set_distance(self.points, other.points)


@dataclass(frozen=True)
class Observation:
    """
    Args:
        objects: all objects of the scene, seen or not.
        ids: uint16[T, H, W], instance id of each pixel.
        floor_area: of the room [m^2].
    """

    objects: tuple[ObservedObject, ...]
    ids: np.ndarray
    floor_area: float

    @cached_property
    def mask_fractions(self) -> dict[int, np.ndarray]:
        """float[T] for each object id: share of each frame's pixels."""
        length = max([int(self.ids.max()), *(item.id for item in self.objects)]) + 1
        counts = np.stack([np.bincount(frame.ravel(), minlength=length) for frame in self.ids])
        return {item.id: counts[:, item.id] / self.ids[0].size for item in self.objects}

    @cached_property
    def visible(self) -> tuple[ObservedObject, ...]:
        """Objects that fill `VISIBLE_FRACTION` of some frame."""
        return tuple(item for item in self.objects if self.mask_fractions[item.id].max() >= VISIBLE_FRACTION)

    def named(self, name: str) -> list[ObservedObject]:
        return [item for item in self.objects if item.name == name]

    @cached_property
    def unique(self) -> tuple[ObservedObject, ...]:
        """Visible objects that "the chair" can mean: the scene has no other of their class, seen or not."""
        return tuple(item for item in self.visible if len(self.named(item.name)) == 1)

    def first_seen(self, name: str, fraction: float) -> int | None:
        """First frame in which an object of the class fills `fraction` of the pixels, or None."""
        shares = np.max([self.mask_fractions[item.id] for item in self.named(name)], axis=0)
        frames = np.flatnonzero(shares >= fraction)
        return int(frames[0]) if len(frames) else None

    def pixel_box(self, item: ObservedObject, frame: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) [px] of the object's pixels in a frame, right and bottom exclusive.

        Raises:
            ValueError: if the object has no pixel there.
        """
        rows, columns = np.nonzero(self.ids[frame] == item.id)
        if not len(rows):
            raise ValueError(f"Object {item.id} ({item.name}) is not in frame {frame}: choose a frame that shows it.")
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
