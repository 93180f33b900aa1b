"""The shell of a room, an upright prism over a rectangle or an L, and the floor on which a body fits."""

from typing import NamedTuple

import numpy as np

from vega3d.extras import optional_module
from vega3d.geometry import Box, box_corners, penetration, rotation_about_z
from vega3d.rooms.scene.meshes import Mesh

STEP = 0.12  # [m], of the lattice on floor, walls and ceiling that holds the baked light
SKIRTING = (0.015, 0.08)  # thickness and height [m]
TALL = 100.0  # [m]
GRID_STEP = 0.1  # [m], of the map of walkable floor


class Wall(NamedTuple):
    """An upright wall over a side of the floor."""

    start: np.ndarray  # float[2] [m]
    end: np.ndarray  # float[2] [m]; the room is on the left of start to end
    inward: np.ndarray  # float[2], unit

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.end - self.start))

    def at(self, along: float, off: float = 0.0) -> np.ndarray:
        """float[2]: the point `along` [m] from the start and `off` [m] from the wall."""
        return self.start + (self.end - self.start) / self.length * along + self.inward * off

    @property
    def yaw(self) -> float:
        """The yaw of furniture with its back to this wall [rad]."""
        return float(np.arctan2(self.inward[0], -self.inward[1]))


class Room(NamedTuple):
    """The shell of a room, which stands in [0, width] x [0, depth] x [0, height]."""

    size: np.ndarray  # float[3], width, depth, height [m]
    # float[2, 2], lower and upper corner of the rectangle that an L-shaped room lacks [m], or None
    notch: np.ndarray | None

    @property
    def area(self) -> float:
        """The area of the floor [m^2]."""
        return float(np.prod(self.size[:2]) - (0 if self.notch is None else np.prod(self.notch[1] - self.notch[0])))

    @property
    def polygon(self) -> np.ndarray:
        """float[4 or 6, 2]: the floor, counter-clockwise [m]."""
        width, depth = self.size[:2]
        outline = [(0.0, 0.0), (width, 0.0), (width, depth), (0.0, depth)]
        if self.notch is None:
            return np.array(outline)
        low, high = self.notch
        right, back = low[0] > 0, low[1] > 0
        inner = (low[0] if right else high[0], low[1] if back else high[1])
        corner = {(False, False): 0, (True, False): 1, (True, True): 2, (False, True): 3}[bool(right), bool(back)]
        at_side, at_end = (outline[corner][0], inner[1]), (inner[0], outline[corner][1])
        outline[corner : corner + 1] = [at_side, inner, at_end] if corner in (0, 2) else [at_end, inner, at_side]
        return np.array(outline)

    @property
    def walls(self) -> list[Wall]:
        polygon = self.polygon
        walls = []
        for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            along = (end - start) / np.linalg.norm(end - start)
            walls.append(Wall(start, end, np.array([-along[1], along[0]])))
        return walls

    @property
    def rectangles(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Lower and upper corners of one or two rectangles that make up the floor [m]."""
        width, depth = self.size[:2]
        if self.notch is None:
            return [(np.zeros(2), np.array([width, depth]))]
        low, high = self.notch
        beside = (high[0], width) if low[0] == 0 else (0.0, low[0])
        over = (high[1], depth) if low[1] == 0 else (0.0, low[1])
        return [
            (np.array([0.0, over[0]]), np.array([width, over[1]])),
            (np.array([beside[0], low[1]]), np.array([beside[1], high[1]])),
        ]

    def holds(self, box: Box) -> bool:
        """Whether a box is inside."""
        corners = box_corners(box)
        if (corners < -1e-6).any() or (corners > self.size + 1e-6).any():
            return False
        if self.notch is None:
            return True
        pillar = Box(np.array([*self.notch.mean(axis=0), 0]), np.array([*(self.notch[1] - self.notch[0]), TALL]))
        return penetration(box, pillar) <= 1e-6

    def contains(self, points: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """bool[...]: whether float[..., 2] are inside and at least `margin` [m] from the walls."""
        inside = ((points >= margin) & (points <= self.size[:2] - margin)).all(axis=-1)
        if self.notch is not None:
            inside &= ~((points > self.notch[0] - margin) & (points < self.notch[1] + margin)).all(axis=-1)
        return np.asarray(inside)


def sample_room(
    random: np.random.Generator, area: tuple[float, float], ratios: tuple[float, float] = (0.72, 1.4)
) -> Room:
    """A room of random proportions; one of four is L-shaped where it is large enough.

    `area` [m^2] and `ratios` (width by depth) are the least and greatest of its enclosing rectangle.
    """
    surface, ratio = random.uniform(*area), random.uniform(*ratios)
    width, depth = np.round([np.sqrt(surface * ratio), np.sqrt(surface / ratio)], 2)
    size = np.array([width, depth, np.round(random.uniform(2.4, 3.1), 2)])
    if surface < 16 or random.random() > 0.3:
        return Room(size, None)
    cut = np.round(size[:2] * random.uniform(0.25, 0.45, 2), 2)
    low = np.where(random.random(2) < 0.5, 0.0, size[:2] - cut)
    return Room(size, np.stack([low, np.where(low == 0, cut, size[:2])]))


def floor_grid(room: Room) -> np.ndarray:
    """float[n, m, 2]: middles of the squares of a grid of `GRID_STEP` over the floor [m]."""
    x, y = (np.arange(GRID_STEP / 2, edge, GRID_STEP) for edge in room.size[:2])
    return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)


def standing_room(room: Room, boxes: list[Box], points: np.ndarray, radius: float, head: float = 1.9) -> np.ndarray:
    """bool[...]: whether a body of a radius and a height `head` [m] fits with its axis at points float[..., 2] [m].

    Walls keep it off, and boxes do but for those below 5 cm or above its head.
    """
    free = room.contains(points, radius)
    for box in boxes:
        if box.center[2] + box.size[2] / 2 > 0.05 and box.center[2] - box.size[2] / 2 < head:
            local = (points - box.center[:2]) @ rotation_about_z(box.yaw)[:2, :2]
            outside = np.maximum(np.abs(local) - np.asarray(box.size[:2]) / 2, 0)
            free &= (outside**2).sum(axis=-1) >= radius**2
    return free


def largest_region(free: np.ndarray) -> np.ndarray:
    """bool[n, m]: the largest 4-connected region of bool[n, m]."""
    regions, count = optional_module("scipy.ndimage").label(free)
    if not count:
        return np.zeros_like(free)
    return regions == 1 + int(np.bincount(regions.ravel())[1:].argmax())  # the first of equal ones


def lattice(origin: np.ndarray, first: np.ndarray, second: np.ndarray, edge: float, texture: int) -> Mesh:
    """A flat rectangle as a lattice of triangles, with the texture of a number, whose tile has an edge of `edge` [m].

    `origin` float[3] is a corner and `first`, `second` float[3] its sides [m]; first x second points to the lit side.
    """
    lengths = np.linalg.norm([first, second], axis=1)
    columns, rows = np.maximum(np.ceil(lengths / STEP), 1).astype(int)
    s, t = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1))
    vertices = origin + s.reshape(-1, 1) * first + t.reshape(-1, 1) * second
    number = np.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    a, b, c, d = (part.reshape(-1) for part in (number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    normal = np.cross(first, second)
    normals = np.tile(normal / np.linalg.norm(normal), (len(vertices), 1))
    uv = np.stack([s, t], axis=-1).reshape(-1, 2) * lengths / edge
    return Mesh.uniform(vertices, normals, uv, faces, texture)


def shell(room: Room, edges: tuple[float, float, float]) -> list[Mesh]:
    """Floor, walls, ceiling and skirting boards; their textures are 0 floor, 1 wall, 2 ceiling, 3 skirting.

    `edges` are those of the tiles of floor, wall and ceiling [m].
    """
    meshes, up = [], np.array([0, 0, room.size[2]])
    for low, high in room.rectangles:
        x, y = np.array([high[0] - low[0], 0, 0]), np.array([0, high[1] - low[1], 0])
        meshes.append(lattice(np.array([*low, 0]), x, y, edges[0], 0))
        meshes.append(lattice(np.array([*low, room.size[2]]), y, x, edges[2], 2))
    thick, high_up = SKIRTING
    for wall in room.walls:
        along = np.array([*(wall.end - wall.start), 0])
        meshes.append(lattice(np.array([*wall.start, 0]), along, up, edges[1], 1))
        foot = np.array([*wall.at(0, thick), 0])
        meshes.append(lattice(foot, along, np.array([0, 0, high_up]), 1, 3))
        meshes.append(lattice(foot + np.array([0, 0, high_up]), along, np.array([*-wall.inward * thick, 0]), 1, 3))
    return meshes
