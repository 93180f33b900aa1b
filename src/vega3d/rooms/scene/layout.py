"""Furnishes a room: what people put where in a room of a kind, and how things are placed.

Things are placed one by one, so that nothing interpenetrates and a person can still get everywhere.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vega3d.geometry import Box, box_corners, penetration, rotation_about_z
from vega3d.rooms.scene.furniture import HEIGHT_STEP, Furniture, Model
from vega3d.rooms.scene.materials import pick
from vega3d.rooms.scene.meshes import face_normals, length
from vega3d.rooms.scene.room import GRID_STEP, Room, Wall, floor_grid, largest_region, standing_room
from vega3d.rooms.scene.styles import Style

WALL_GAP = 0.025  # [m], more than the skirting board is thick
BODY = 0.22  # [m], half the width of a person
LEVEL = 0.02  # [m]: a surface that varies less carries things
CLEAR = 0.01  # [m]: boxes that are farther apart need no exact test
SCALES = (0.94, 1.06)  # each piece is stretched along each axis by a factor of this range
SMALL = ("cup", "bottle", *["book"] * 2, "headphones", "plant", "handbag", "bread", "milk carton", "fan", "teddy bear")
FLOOR_THINGS = ("ball", "shoes", "box", "trash can", "briefcase", "guitar", "barrel", "teddy bear", "handbag")
DOOR_ZONE = 0.95  # [m], kept free in front of a door


class Piece(NamedTuple):
    """A thing to place."""

    name: str  # its class, one of `CLASSES`
    source: str  # where its model comes from in the pack, or "built"
    model: Model  # as in the pack, before it is stretched
    scale: np.ndarray  # float[3], factors along its axes
    size: np.ndarray  # float[3], after stretching [m]
    top: Furniture | None  # what has the height map on which things stand, or None if nothing stands on it


class Placed(NamedTuple):
    """A thing in its place; `on` is the number of the thing it stands on, -1 for the floor, a wall or the ceiling."""

    piece: Piece
    box: Box
    on: int = -1


class Layout:
    """The things in a room, placed one by one.

    A thing that the style and the pack lack is None, and placing None does nothing. What places a thing returns its
    number in `placed`, or None where there is no space. Each choice draws from `random`.
    """

    def __init__(self, room: Room, furniture: list[Furniture], random: np.random.Generator, style: Style):
        self.room, self.random, self.style, self.placed = room, random, style, list[Placed]()
        self.keep_out: list[Box] = []
        self._stock: dict[str, list[Furniture]] = {}
        for item in furniture:
            self._stock.setdefault(item.name, []).append(item)
        self._floor = floor_grid(room)
        self._free = room.contains(self._floor, BODY)  # bool[n, m], squares of the floor where a person can stand

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
        recoloured = name in self.style.palettes and self.random.random() < 0.6
        model = self._recoloured(item.model, self.style.palettes[name]) if recoloured else item.model
        return Piece(name, item.source, model, scale, item.size * scale, item)

    def _recoloured(self, model: Model, colours: tuple) -> Model:
        """The model with its largest plain or textured part in another colour of the same light and shade."""
        largest = int(np.bincount(model.mesh.texture, length(face_normals(model.mesh))).argmax())
        image = model.images[largest].astype(float)
        shade = image.mean(axis=-1, keepdims=True)
        colour = pick(self.random, colours)
        images = list(model.images)
        images[largest] = np.clip(shade / max(shade.mean(), 40) * colour, 0, 250).astype(np.uint8)
        return model._replace(images=images)

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def count(self, least: int, most: int) -> int:
        return int(self.random.integers(least, most + 1))

    def choice(self, names: Sequence[str]) -> str:
        return str(self.random.choice(names))

    def against_wall(self, piece: Piece | None, tries: int = 24, bottom: float = 0.0) -> int | None:
        """Places a thing with its back to a wall; with `bottom` > 0 it hangs there [m]."""
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
        """Places it at `offset` [m] from the anchor's centre in its axes (front is -y), turned by `turn` [rad]."""
        if piece is None:
            return None
        box = self.placed[anchor].box
        place = (rotation_about_z(box.yaw) @ (*offset, 0.0) + box.center)[:2]
        return self.add(piece, Box(np.array([*place, piece.size[2] / 2]), piece.size, box.yaw + turn))

    def beside(self, anchor: int, piece: Piece | None, gap: float = 0.04) -> int | None:
        """Places it to the left or right of the anchor, backs aligned."""
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
        """Places it `gap` [m] before the anchor, shifted by `aside` [m]; `turn` = pi makes it face the anchor."""
        if piece is None:
            return None
        reach = np.abs(np.sin(turn)) * piece.size[0] + np.abs(np.cos(turn)) * piece.size[1]
        return self.relative(anchor, piece, (aside, -(self.placed[anchor].box.size[1] / 2 + gap + reach / 2)), turn)

    def around(self, anchor: int, pieces: list[Piece | None]) -> None:
        """Places chairs at the sides of a table, facing it."""
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
        """Places it somewhere on the floor, along the walls' directions up to `jitter` [rad]."""
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
        """Hangs it under the ceiling at float[2] [m]."""
        if piece is None:
            return None
        return self.add(piece, Box(np.array([*place, self.room.size[2] - piece.size[2] / 2]), piece.size, 0.0))

    def on_top(self, support: int, piece: Piece | None, tries: int = 16, facing: bool = False) -> int | None:
        """Places it on a level part of the support; with `facing` it looks where the support does."""
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
            slack = LEVEL * (4 if piece.name in ("pillow", "teddy bear") else 1)
            if patch.max() - patch.min() < slack and patch.max() > 0.2:
                top = box.center[2] - box.size[2] / 2 + patch.max() + 1e-3
                shift = rotation_about_z(box.yaw) @ (*place, 0.0)
                center = np.array([*(box.center + shift)[:2], top + piece.size[2] / 2])
                number = self.add(piece, Box(center, piece.size, box.yaw + turn), support)
                if number is not None:
                    return number
        return None

    def some_on_top(self, support: int, names: Sequence[str]) -> None:
        """Places about half of the things on the support."""
        for name in names:
            if self.chance(0.5):
                self.on_top(support, self.piece(name))

    def add(self, piece: Piece, box: Box, on: int = -1) -> int | None:
        """Places a thing if it is inside, hits nothing, keeps openings free, and leaves the floor walkable."""
        if piece.name != "rug" and on < 0 and abs(box.center[2] - box.size[2] / 2) < 1e-9:
            rugs = [item.box for item in self.placed if item.piece.name == "rug"]
            lift = max((rug.size[2] + 5e-4 for rug in rugs if penetration(rug, box) > -0.004), default=0.0)
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


def openings(layout: Layout) -> None:
    """A door, sometimes two, and one to three windows, with the space that they need kept free."""
    for _ in range(2 if layout.chance(0.15) else 1):
        number = layout.against_wall(layout.piece("door"), tries=60)
        if number is not None:
            _keep_out(layout, layout.placed[number].box, DOOR_ZONE, 2.0)
    for _ in range(layout.count(1, 3)):
        number = layout.against_wall(layout.piece("window"), tries=40, bottom=float(layout.random.uniform(0.8, 0.95)))
        if number is not None:
            _keep_out(layout, layout.placed[number].box, 0.3, layout.placed[number].box.size[2])


def _keep_out(layout: Layout, box: Box, reach: float, height: float) -> None:
    front = np.array([np.sin(box.yaw), -np.cos(box.yaw), 0])
    bottom = box.center[2] - box.size[2] / 2
    center = box.center + front * (box.size[1] / 2 + reach / 2)
    center[2] = bottom + height / 2
    layout.keep_out.append(Box(center, np.array([box.size[0], reach, height]), box.yaw))


def sleeping(layout: Layout) -> None:
    bed = layout.against_wall(layout.piece("bed", layout.room.size[:2].min() * 0.6))
    if bed is None:
        return
    for _ in range(layout.count(1, 2)):
        stand = layout.beside(bed, layout.piece("nightstand"))
        if stand is not None:
            layout.on_top(stand, layout.piece(layout.choice(["lamp", "book", "cup", "plant"])))
    layout.some_on_top(bed, ("pillow", "teddy bear", "pillow", "book", "handbag"))
    if layout.chance(0.85):
        layout.against_wall(layout.piece("wardrobe"))


def lounging(layout: Layout) -> None:
    sofa = layout.against_wall(layout.piece("sofa", layout.room.size[:2].min() * 0.7))
    if sofa is None:
        return
    if layout.chance(0.7):
        layout.in_front(sofa, layout.piece("rug"), 0.06)
    low = layout.in_front(sofa, layout.piece("coffee table"), float(layout.random.uniform(0.35, 0.5)))
    for _ in range(layout.count(1, 3) if low is not None else 0):
        layout.on_top(low or 0, layout.piece(layout.choice(SMALL)))
    for _ in range(layout.count(0, 3)):
        layout.on_top(sofa, layout.piece("pillow"))
    for _ in range(layout.count(0, 2)):
        if low is not None and layout.chance(0.7):
            side = float(layout.random.choice([-1, 1]))
            chair = layout.piece("armchair")
            if chair is None:
                continue
            away = layout.placed[low].box.size[0] / 2 + chair.size[1] / 2 + 0.3
            layout.relative(low, chair, (side * away, -0.1), -side * np.pi / 2 + layout.random.normal(0, 0.12))
    television(layout)


def television(layout: Layout) -> None:
    stand = layout.against_wall(layout.piece("tv stand"))
    if stand is not None:
        layout.on_top(stand, layout.piece("tv"), tries=40, facing=True)
        if layout.chance(0.4):
            layout.on_top(stand, layout.piece("plant"))


def dining(layout: Layout) -> None:
    table = layout.piece("table", layout.room.size[:2].min() * 0.5)
    number = layout.standing(table, tries=60)
    if number is None:
        return
    state = layout.piece("chair")
    chairs = [state if layout.chance(0.8) else layout.piece("chair") for _ in range(layout.count(2, 6))]
    layout.around(number, chairs)
    for _ in range(layout.count(1, 4)):
        layout.on_top(number, layout.piece(layout.choice(SMALL)))


def cooking(layout: Layout) -> None:
    """A row of fridge, cabinets, sink and oven, with cabinets on the wall above."""
    anchor = layout.against_wall(layout.piece("refrigerator"), tries=40)
    if anchor is None:
        return
    last, names = anchor, [str(name) for name in layout.random.permutation(["cabinet", "sink", "cabinet", "oven"])]
    for name in names:
        unit = layout.piece(name, 0.75)
        placed = layout.beside(last, unit, 0.01)
        if placed is None:
            placed = layout.beside(anchor, unit, 0.01)
        if placed is None:
            continue
        last = placed
        if name == "cabinet" and layout.chance(0.7):
            thing = layout.choice(["mixer", "coffee machine", "bread", "milk carton", "bottle", "cup"])
            layout.on_top(placed, layout.piece(thing))
    if layout.chance(0.5):
        layout.standing(layout.piece("trash can"))


def working(layout: Layout) -> None:
    desk = layout.against_wall(layout.piece("desk", layout.room.size[:2].min() * 0.6))
    if desk is None:
        return
    chair = layout.piece("chair")
    layout.in_front(desk, chair, float(layout.random.uniform(0.02, 0.12)), np.pi + layout.random.normal(0, 0.15))
    layout.some_on_top(desk, ("lamp", "book", "headphones", "cup", "book", "plant", "fan"))
    if layout.chance(0.7):
        layout.standing(layout.piece("trash can"))


def storing(layout: Layout) -> None:
    for name in ("shelf", "cabinet", "shelf"):
        if layout.chance(0.6):
            number = layout.against_wall(layout.piece(name))
            for _ in range(layout.count(0, 2) if number is not None else 0):
                layout.on_top(number or 0, layout.piece(layout.choice(SMALL)))


def washing(layout: Layout) -> None:
    layout.against_wall(layout.piece("toilet"))
    layout.against_wall(layout.piece("sink"))
    for name, probability in (("shower", 0.8), ("bidet", 0.5), ("cabinet", 0.4), ("trash can", 0.7), ("stool", 0.3)):
        if layout.chance(probability):
            layout.against_wall(layout.piece(name))
    if layout.chance(0.8):
        layout.against_wall(layout.piece("towel"), bottom=0.9)


def playing(layout: Layout) -> None:
    for name, probability in (("crib", 0.6), ("rocking horse", 0.7), ("ball", 0.8), ("teddy bear", 0.8), ("box", 0.6)):
        if layout.chance(probability):
            layout.standing(layout.piece(name), jitter=0.6)
    storing(layout)


def making_music(layout: Layout) -> None:
    piano = layout.standing(layout.piece("piano"), tries=40)
    if piano is not None:
        layout.in_front(piano, layout.piece("bench"), 0.06, np.pi)
    layout.against_wall(layout.piece("guitar"))


def presenting(layout: Layout) -> None:
    layout.against_wall(layout.piece("whiteboard"))
    layout.against_wall(layout.piece("fire extinguisher"))


def pool(layout: Layout) -> None:
    layout.standing(layout.piece("pool table"), tries=60)
    for _ in range(layout.count(1, 3)):
        layout.against_wall(layout.piece("stool"))


def finishing(layout: Layout) -> None:
    """Radiator, pictures, clock, plants, a rug, and things that lie about."""
    if layout.chance(0.6):
        layout.against_wall(layout.piece("radiator", 1.0))
    for _ in range(layout.count(0, 3)):
        layout.against_wall(layout.piece("picture"), bottom=float(layout.random.uniform(1.3, 1.5)))
    if layout.chance(0.3):
        layout.against_wall(layout.piece("clock"), bottom=1.4)
    for _ in range(layout.count(0, 2)):
        layout.against_wall(layout.piece("plant"))
    for name in layout.random.choice(FLOOR_THINGS, layout.count(1, 4), replace=False):
        layout.standing(layout.piece(str(name)), jitter=0.5)
    for _ in range(layout.count(0, 2)):
        layout.against_wall(layout.piece(layout.choice(["chair", "stool", "armchair", "shelf"])))


def lighting(layout: Layout) -> None:
    """The style's number of lights over each rectangle of the floor; built ones where the pack has no chandelier."""
    name = layout.choice(["ceiling light", "ceiling light", "chandelier"])
    for low, high in layout.room.rectangles:
        longer = (high - low) * (high - low == (high - low).max())
        for number in range(layout.style.lights):
            place = (low + high) / 2 + longer * ((number + 0.5) / layout.style.lights - 0.5)
            layout.hung_from_ceiling(layout.piece(name) or layout.piece("ceiling light"), place)
    if name != "chandelier" and layout.chance(0.15) and layout.room.size[2] > 2.6:
        layout.hung_from_ceiling(layout.piece("ceiling fan"), layout.room.rectangles[0][0] + (1.0, 1.0))


Step = Callable[[Layout], None]


class RoomKind(NamedTuple):
    """What a room is for."""

    area: tuple[float, float]  # least and greatest area of the floor [m^2]
    main_thing: str  # the class without which a room is not of this kind; a pack that lacks it furnishes no such room
    steps: tuple[Step, ...]  # groups of furniture in the order they are placed


KINDS = {
    "bedroom": RoomKind((11, 24), "bed", (sleeping, working, storing)),
    "living room": RoomKind((18, 40), "sofa", (lounging, storing, dining)),
    "kitchen": RoomKind((12, 26), "refrigerator", (cooking, dining)),
    "study": RoomKind((10, 24), "desk", (working, working, storing, presenting)),
    "bathroom": RoomKind((6, 12), "toilet", (washing,)),
    "nursery": RoomKind((11, 20), "crib", (sleeping, playing)),
    "music room": RoomKind((20, 36), "piano", (making_music, lounging)),
    "games room": RoomKind((24, 40), "pool table", (pool, lounging)),
    "studio": RoomKind((24, 45), "bed", (sleeping, lounging, dining, cooking)),
}


def kinds_for(furniture: list[Furniture]) -> list[str]:
    """The kinds of rooms whose main thing is among the furniture, in the order of `KINDS`; ValueError if none is."""
    names = {item.name for item in furniture}
    kinds = [name for name, kind in KINDS.items() if kind.main_thing in names]
    if not kinds:
        wanted = " or ".join(sorted({kind.main_thing for kind in KINDS.values()}))
        found = f"The furniture has no {wanted}, but only {sorted(names)}, which furnish no room."
        raise ValueError(f"{found} Pack more of the vetted objects with recipes/pack_furniture.py.")
    return kinds
