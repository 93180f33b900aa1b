"""Puts things into a room one by one, so that nothing interpenetrates and a person can still get everywhere."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vega3d.extras import optional_module
from vega3d.geometry import Box, box_corners, penetration, rotation_about_z
from vega3d.rooms.scene.furniture import HEIGHT_STEP, Furniture, Model
from vega3d.rooms.scene.materials import pick
from vega3d.rooms.scene.room import Room, Wall
from vega3d.rooms.scene.styles import Style

WALL_GAP = 0.025  # [m], more than the skirting board is thick
BODY = 0.22  # [m], half the width of a person
GRID_STEP = 0.1  # [m], of the map of walkable floor
LEVEL = 0.02  # [m]: a surface that varies less carries things
CLEAR = 0.01  # [m]: boxes that are farther apart need no exact test
SCALES = (0.94, 1.06)  # each piece is stretched along each axis by a factor of this range


class Piece(NamedTuple):
    """A thing to place.

    Attributes:
        name: its class, one of `CLASSES`.
        source: where its model comes from in the pack, or "built".
        model: as in the pack, before it is stretched.
        scale: float[3], factors along its axes.
        size: float[3], after stretching [m].
        top: what has the height map on which things stand, or None if nothing stands on it.
    """

    name: str
    source: str
    model: Model
    scale: np.ndarray
    size: np.ndarray
    top: Furniture | None


class Placed(NamedTuple):
    """A thing in its place; `on` is the number of the thing it stands on, -1 for the floor, a wall or the ceiling."""

    piece: Piece
    box: Box
    on: int = -1


class Layout:
    """The things in a room, placed one by one.

    A thing that the style and the pack lack is None, and placing None does nothing. What places a thing returns its
    number in `placed`, or None where there is no space.

    Args:
        room: the shell that things are placed in.
        furniture: objects of a pack.
        random: generator; each choice draws from it.
        style: what things are built and coloured by.
    """

    def __init__(self, room: Room, furniture: list[Furniture], random: np.random.Generator, style: Style):
        self.room, self.random, self.style, self.placed = room, random, style, list[Placed]()
        self.keep_out: list[Box] = []
        self._stock: dict[str, list[Furniture]] = {}
        for item in furniture:
            self._stock.setdefault(item.name, []).append(item)
        x, y = (np.arange(GRID_STEP / 2, edge, GRID_STEP) for edge in room.size[:2])
        self._floor = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
        self._free = room.contains(self._floor, BODY)  # bool[n, m], cells of the floor where a person can stand

    def piece(self, name: str, widest: float = np.inf) -> Piece | None:
        """A thing of a class, at most `widest` [m] wide if there is one; None if the class is not to be had."""
        stock = [item for item in self._stock.get(name, []) if item.size[0] <= widest] or self._stock.get(name, [])
        if name in self.style.builders and (not stock or self.random.random() < 0.6):
            model = self.style.builders[name](self.random)
            size = np.ptp(model.mesh.vertices, axis=0).astype(float)
            built = Furniture.from_model(name, model) if name in ("coffee table", "tv stand", "shelf") else None
            return Piece(name, "built", model, np.ones(3), size, built)
        if not stock:
            return None
        item = stock[self.random.integers(len(stock))]
        scale = self.random.uniform(*SCALES, 3)
        model = (
            self._recoloured(item.model, self.style.palettes[name])
            if name in self.style.palettes and self.random.random() < 0.6
            else item.model
        )
        return Piece(name, item.source, model, scale, item.size * scale, item)

    def _recoloured(self, model: Model, colours: tuple) -> Model:
        """The model with its largest plain or textured part in another colour of the same light and shade."""
        corners = model.mesh.vertices[model.mesh.faces]
        areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        largest = int(np.bincount(model.mesh.texture, areas).argmax())
        image = model.images[largest].astype(float)
        shade = image.mean(axis=-1, keepdims=True)
        colour = pick(self.random, colours)
        images = list(model.images)
        images[largest] = np.clip(shade / max(shade.mean(), 40) * colour, 0, 250).astype(np.uint8)
        return model._replace(images=images)

    def against_wall(self, piece: Piece | None, tries: int = 24, bottom: float = 0.0) -> int | None:
        """With its back to a wall; with `bottom` > 0 it hangs there [m]."""
        if piece is None:
            return None
        for _ in range(tries):
            wall = self.room.walls[self.random.integers(len(self.room.walls))]
            if wall.length > piece.size[0] + 0.1:
                along = self.random.uniform(piece.size[0] / 2 + 0.05, wall.length - piece.size[0] / 2 - 0.05)
                if self.random.random() < 0.3 and bottom == 0:
                    along = piece.size[0] / 2 + 0.06
                number = self.add(piece, self._at_wall(wall, along, piece, bottom))
                if number is not None:
                    return number
        return None

    def _at_wall(self, wall: Wall, along: float, piece: Piece, bottom: float) -> Box:
        gap = 0.0 if bottom > 0 or piece.name == "door" else WALL_GAP
        place = wall.at(along, piece.size[1] / 2 + gap)
        return Box(np.array([*place, bottom + piece.size[2] / 2]), piece.size, wall.yaw)

    def relative(self, anchor: int, piece: Piece | None, offset: tuple[float, float], turn: float = 0.0) -> int | None:
        """At `offset` [m] from the anchor's centre in the anchor's axes (front is -y), turned by `turn` [rad]."""
        if piece is None:
            return None
        box = self.placed[anchor].box
        place = (rotation_about_z(box.yaw) @ (*offset, 0.0) + box.center)[:2]
        return self.add(piece, Box(np.array([*place, piece.size[2] / 2]), piece.size, box.yaw + turn))

    def beside(self, anchor: int, piece: Piece | None, gap: float = 0.04) -> int | None:
        """To the left or right of the anchor, backs aligned."""
        if piece is None:
            return None
        size, side = self.placed[anchor].box.size, float(self.random.choice([-1, 1]))
        for sign in (side, -side):
            offset = sign * (size[0] / 2 + piece.size[0] / 2 + gap), size[1] / 2 - piece.size[1] / 2
            number = self.relative(anchor, piece, offset)
            if number is not None:
                return number
        return None

    def in_front(
        self, anchor: int, piece: Piece | None, gap: float, turn: float = 0.0, aside: float = 0.0
    ) -> int | None:
        """In front of the anchor, `gap` [m] away, shifted by `aside` [m]; `turn` = pi makes it face the anchor."""
        if piece is None:
            return None
        reach = np.abs(np.sin(turn)) * piece.size[0] + np.abs(np.cos(turn)) * piece.size[1]
        return self.relative(anchor, piece, (aside, -(self.placed[anchor].box.size[1] / 2 + gap + reach / 2)), turn)

    def around(self, anchor: int, pieces: list[Piece | None]) -> None:
        """Chairs at the sides of a table, facing it."""
        width, depth = self.placed[anchor].box.size[:2]
        seats = [(sign * width / 4 * (width > 1.4), sign2) for sign2 in (-1, 1) for sign in (-1, 1)]
        sides = [(x, sign * depth / 2, 0.0 if sign > 0 else np.pi) for x, sign in dict.fromkeys(seats)]
        sides += [(sign * width / 2, 0.0, -sign * np.pi / 2) for sign in (-1, 1)]
        order = self.random.permutation(len(sides))
        for piece, number in zip(pieces, order, strict=False):
            if piece is None:
                continue
            x, y, turn = sides[number]
            away = piece.size[1] / 2 + self.random.uniform(0.02, 0.12)
            offset = (x, y + np.sign(y) * away) if y else (x + np.sign(x) * away, 0.0)
            self.relative(anchor, piece, offset, turn + self.random.normal(0, 0.06))

    def standing(self, piece: Piece | None, tries: int = 24, jitter: float = 0.0) -> int | None:
        """Somewhere on the floor, along the walls' directions up to `jitter` [rad]."""
        if piece is None:
            return None
        for _ in range(tries):
            place = self.random.uniform(0, self.room.size[:2])
            yaw = self.random.integers(4) * np.pi / 2 + self.random.normal(0, jitter) * (jitter > 0)
            number = self.add(piece, Box(np.array([*place, piece.size[2] / 2]), piece.size, yaw))
            if number is not None:
                return number
        return None

    def hung_from_ceiling(self, piece: Piece | None, place: np.ndarray) -> int | None:
        """Under the ceiling at float[2] [m]."""
        if piece is None:
            return None
        return self.add(piece, Box(np.array([*place, self.room.size[2] - piece.size[2] / 2]), piece.size, 0.0))

    def on_top(self, support: int, piece: Piece | None, tries: int = 16, facing: bool = False) -> int | None:
        """On a level part of the support; with `facing` it looks where the support does."""
        if piece is None:
            return None
        under, box = self.placed[support].piece, self.placed[support].box
        if under.top is None:
            return None
        heights = under.top.height_map
        for _ in range(tries):
            turn = self.random.normal(0, 0.1) if facing else self.random.uniform(-np.pi, np.pi)
            reach = np.ptp(box_corners(Box(np.zeros(3), piece.size, turn)), axis=0)[:2]
            space = box.size[:2] - reach
            if (space < 0.01).any():
                continue
            place = self.random.uniform(-space / 2, space / 2) * (0.3 if facing else 1.0)
            low = np.floor((place - reach / 2 + box.size[:2] / 2) / under.scale[:2] / HEIGHT_STEP).astype(int).clip(0)
            high = np.ceil((place + reach / 2 + box.size[:2] / 2) / under.scale[:2] / HEIGHT_STEP).astype(int)
            patch = heights[low[0] : high[0], low[1] : high[1]] * under.scale[2]
            if (
                patch.max() - patch.min() < LEVEL * (4 if piece.name in ("pillow", "teddy bear") else 1)
                and patch.max() > 0.2
            ):
                top = box.center[2] - box.size[2] / 2 + patch.max() + 1e-3
                shift = rotation_about_z(box.yaw) @ (*place, 0.0)
                center = np.array([*(box.center + shift)[:2], top + piece.size[2] / 2])
                number = self.add(piece, Box(center, piece.size, box.yaw + turn), support)
                if number is not None:
                    return number
        return None

    def add(self, piece: Piece, box: Box, on: int = -1) -> int | None:
        """Places a thing if it is inside, hits nothing, keeps openings free, and leaves the floor walkable."""
        if piece.name != "rug" and on < 0 and abs(box.center[2] - box.size[2] / 2) < 1e-9:
            lift = max((rug.box.size[2] + 5e-4 for rug in self.placed if self._overlaps(rug, box, "rug")), default=0.0)
            box = box._replace(center=box.center + np.array([0, 0, lift]))
        obstacles = [item.box for number, item in enumerate(self.placed) if number != on]
        if not self.room.holds(box) or any(penetration(box, other) > -0.004 for other in near(box, obstacles)):
            return None
        if piece.name != "rug" and any(penetration(box, zone) > 0 for zone in near(box, self.keep_out)):
            return None
        free = self._free & standing_room(self.room, [box], self._floor, BODY)
        if on < 0 and piece.name != "rug" and not self._walkable(free):
            return None
        self._free = free
        self.placed.append(Placed(piece, box, on))
        return len(self.placed) - 1

    def _overlaps(self, item: Placed, box: Box, name: str) -> bool:
        return item.piece.name == name and penetration(item.box, box) > -0.004

    def _walkable(self, free: np.ndarray) -> bool:
        """Whether a person reaches nearly all of the free floor bool[n, m], and there is enough of it."""
        largest = largest_region(free)
        return bool(largest.sum() >= 0.93 * free.sum() and largest.sum() * GRID_STEP**2 >= 0.16 * self.room.area)


def near(box: Box, others: Sequence[Box]) -> list[Box]:
    """Those that a box may touch: it is at least `CLEAR` away from the rest, along z or along a side of either."""
    if not others:
        return []
    values = np.array([[*other.center, *other.size, other.yaw] for other in (box, *others)])
    center, half, yaw = values[:, :3], values[:, 3:6] / 2, values[:, 6]
    away, radius = center[1:] - center[0], np.hypot(half[:, 0], half[:, 1])
    gap = np.abs(away[:, 2]) - half[1:, 2] - half[0, 2]
    for cos, sin, side, reach in (
        (np.cos(yaw[0]), np.sin(yaw[0]), half[0], radius[1:]),
        (np.cos(yaw[1:]), np.sin(yaw[1:]), half[1:].T, radius[0]),
    ):
        gap = np.maximum(gap, np.abs(away[:, 0] * cos + away[:, 1] * sin) - side[0] - reach)
        gap = np.maximum(gap, np.abs(away[:, 1] * cos - away[:, 0] * sin) - side[1] - reach)
    return [other for other, distance in zip(others, gap.tolist(), strict=True) if distance < CLEAR]


def standing_room(room: Room, boxes: list[Box], points: np.ndarray, radius: float, head: float = 1.9) -> np.ndarray:
    """bool[...]: whether a body fits at float[..., 2] [m].

    Args:
        room: the shell, whose walls keep the body off.
        boxes: boxes of objects; those below 5 cm or above `head` do not hinder.
        points: where the body's axis stands.
        radius: half the width of the body [m].
        head: its height [m].
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
