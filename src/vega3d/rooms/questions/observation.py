"""What a walkthrough shows of a scene: which objects are truly visible, and when and where they appear."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from vega3d.extras import optional_module
from vega3d.geometry import Box, box_corners, project, unproject
from vega3d.rooms.render import Clip
from vega3d.rooms.scene.meshes import Textures, cross, length
from vega3d.rooms.scene.scene import Scene

MILLIMETRES = 1000  # a metre; vertices are taken to a millimetre
SURFACE_POINTS = 2000  # drawn on the faces of an object; with the vertices, distances are right to 1 cm
MAIN_SHARE = 0.6  # of the surface, of a part whose colour is the object's
COARSE_LEVEL, PLAIN = 5, 22.0  # of a texture pyramid (8 x 8 texels), and their greatest deviation in a plain colour
FIRST_POINTS = 32  # of which the distance is a bound for the search among more
ROUNDING = 1e-12  # relative error that bounds of distances allow for
VISIBLE_FRACTION = 0.004  # of a frame's pixels, in at least one frame: about 8 x 8 px of 128 x 128
GLIMPSE_FRACTION = 0.0008
TRIES = 40  # pairs drawn for each that is wanted
SAME = 0.02  # [m] between a point and what the other frame sees in its place


@dataclass(frozen=True)
class ObservedObject:
    """An object of a room as questions need it."""

    id: int  # instance id in the masks, 1 or more; 0 is everything that is not an object
    name: str  # class in the singular
    box: Box  # upright box around it, world [m]
    triangles: np.ndarray  # float[F, 3, 3], its surface, world [m]
    on: int = 0  # id of the object that it stands on, or 0
    colour: np.ndarray | None = None  # uint8[3], mean sRGB colour of its largest part, or None if no colour is its own

    @cached_property
    def place(self) -> np.ndarray:
        """float[2]: centre on the floor plan [m]."""
        return np.asarray(self.box.center, float)[:2]

    @cached_property
    def footprint(self) -> np.ndarray:
        """float[4, 2]: corners on the floor plan, counter-clockwise [m]."""
        return box_corners(self.box)[:4, :2]

    @cached_property
    def points(self) -> np.ndarray:
        """float[n, 3]: points drawn evenly on its surface, in random order, and then its vertices, world [m]."""
        corners = np.asarray(self.triangles, float)
        random = np.random.default_rng(self.id)
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
        chosen = random.choice(len(corners), SURFACE_POINTS, p=area / area.sum())
        weights = random.dirichlet(np.ones(3), SURFACE_POINTS)
        drawn = (corners[chosen] * weights[..., None]).sum(axis=1)
        return np.concatenate([drawn, _unique_to_a_millimetre(corners.reshape(-1, 3))])

    @cached_property
    def tree(self) -> Any:
        """A `scipy.spatial.KDTree` of its points."""
        return optional_module("scipy.spatial").KDTree(self.points, leafsize=24)


def _unique_to_a_millimetre(points: np.ndarray) -> np.ndarray:
    """float[m, 3]: `np.unique(np.round(points, 3), axis=0)` of float[n, 3] within 1 km, by one integer a point."""
    x, y, z = np.rint(points * MILLIMETRES).astype(np.int64).T + (1 << 20)
    keys = np.sort((x << 42) | (y << 21) | z)
    keys = keys[np.diff(keys, prepend=-1) > 0]
    return (np.stack([keys >> 42, (keys >> 21) & 0x1FFFFF, keys & 0x1FFFFF], axis=1) - (1 << 20)) / MILLIMETRES


def surface_distance(first: ObservedObject, second: ObservedObject) -> float:
    """The distance between the closest points of two surfaces [m]."""
    few, many = sorted((first, second), key=lambda item: len(item.points))
    outside = np.maximum(np.maximum(many.tree.mins - few.points, few.points - many.tree.maxes), 0)
    least = length(outside) * (1 - ROUNDING)  # to the box around the others, so to each of them
    first_points = np.argpartition(least, FIRST_POINTS)[:FIRST_POINTS]
    bound = float(many.tree.query(few.points[first_points])[0].min())
    left = np.flatnonzero(least < bound)
    left = left[np.argsort(least[left])]
    count = 4 * FIRST_POINTS
    while len(left):
        now, left = left[:count], left[count:]
        bound = min(bound, float(many.tree.query(few.points[now], distance_upper_bound=bound)[0].min()))
        left, count = left[: np.searchsorted(least[left], bound)], 4 * count
    return bound


@dataclass(frozen=True)
class Observation:
    """The objects of a room, and in which pixels of a walkthrough they are seen."""

    objects: tuple[ObservedObject, ...]  # all objects of the scene, seen or not
    ids: np.ndarray  # uint16[T, H, W], instance id of each pixel
    floor_area: float  # area of the floor [m^2]
    _distances: dict[tuple[int, int], float] = field(default_factory=dict, repr=False, compare=False)
    _pixel_boxes: dict[tuple[int, int], tuple[int, int, int, int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    # stored by `known_directions`; like distances, they hold for all walkthroughs of a room
    directions: dict[tuple[int, int, int], dict[str, str]] = field(default_factory=dict, repr=False, compare=False)

    def distance(self, first: ObservedObject, second: ObservedObject) -> float:
        """The distance between the closest points of the surfaces of two of its objects [m]."""
        key = min(first.id, second.id), max(first.id, second.id)
        if key not in self._distances:
            self._distances[key] = surface_distance(first, second)
        return self._distances[key]

    @cached_property
    def by_id(self) -> dict[int, ObservedObject]:
        return {item.id: item for item in self.objects}

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

    @cached_property
    def glimpsed(self) -> tuple[ObservedObject, ...]:
        """Objects that fill `GLIMPSE_FRACTION` of some frame."""
        return tuple(item for item in self.objects if self.mask_fractions[item.id].max() >= GLIMPSE_FRACTION)

    @cached_property
    def _by_name(self) -> dict[str, list[ObservedObject]]:
        by_name: dict[str, list[ObservedObject]] = {}
        for item in self.objects:
            by_name.setdefault(item.name, []).append(item)
        return by_name

    @cached_property
    def visible_ids(self) -> frozenset[int]:
        return frozenset(item.id for item in self.visible)

    def named(self, name: str) -> list[ObservedObject]:
        return list(self._by_name.get(name, []))

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
        """(left, top, right, bottom) [px] of the object's pixels in a frame, right and bottom exclusive."""
        key = item.id, frame
        if key not in self._pixel_boxes:
            mask = self.ids[frame] == item.id
            rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
            if not rows:
                raise ValueError(f"Object {item.id} ({item.name}) is not in frame {frame}: choose one that shows it.")
            self._pixel_boxes[key] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return self._pixel_boxes[key]


def observe(scene: Scene, instance: np.ndarray, before: Observation | None = None) -> Observation:
    """What a walkthrough with the ids int[T, H, W] shows of a room.

    The distances of `before`, which another walkthrough of the same room shows, are used again.
    """
    ids = instance.astype(np.uint16)
    if before is not None:
        return replace(before, ids=ids)
    corners = scene.mesh.vertices.take(scene.mesh.faces, axis=0)
    objects = []
    for item in scene.objects:
        chosen = np.flatnonzero(scene.instance == item.instance)
        triangles = corners.take(chosen, axis=0)
        colour = main_colour(triangles, scene.mesh.texture[chosen], scene.textures)
        objects.append(ObservedObject(item.instance, item.name, item.box, triangles, item.on, colour))
    return Observation(tuple(objects), ids, scene.room.area)


def main_colour(triangles: np.ndarray, texture: np.ndarray, textures: Textures) -> np.ndarray | None:
    """uint8[3]: mean colour of the texture int[F] that covers most of float[F, 3, 3], or None if it is not of one.

    That is, if it covers less than `MAIN_SHARE` of the surface, or its colours differ.
    """
    area = length(cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]))
    shares = np.bincount(texture, area) / area.sum()
    largest = int(shares.argmax())
    offset, height, width = textures.levels[largest, COARSE_LEVEL]
    texels = textures.texels[offset : offset + height * width].astype(float)
    if shares[largest] < MAIN_SHARE or texels.std(axis=0).max() > PLAIN:
        return None
    return texels.mean(axis=0).round().astype(np.uint8)


def correspondences(clip: Clip, random: np.random.Generator, count: int = 64) -> np.ndarray:
    """Pixels of different frames that see the same point of the room, found by drawing pairs at random.

    Args:
        clip: a walkthrough of two or more frames.
        random: where pairs are drawn from.
        count: pairs that are wanted; fewer come if few of `TRIES * count` drawn ones fit.

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
            inside = ((np.nan_to_num(place, nan=-1.0) >= 0) & (place < (width, height))).all(axis=1) & (reach > 0)
            chosen, place, reach = chosen[inside], place[inside], reach[inside]
            x, y = np.floor(place).astype(int).T
            instance = clip.instance[here, row[chosen], column[chosen]]
            seen = np.abs(clip.depth[there, y, x] - reach) < SAME
            keep[chosen] = seen & (clip.instance[there, y, x] == instance)
            starts, ends = np.full(len(chosen), here), np.full(len(chosen), there)
            found[chosen] = np.column_stack([starts, pixels[chosen], ends, place, instance])
    return found[keep][:count]
