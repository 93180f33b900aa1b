"""Kinds of rooms, and what people put where in them."""

from collections.abc import Callable

import numpy as np

from vega3d.geometry import Box
from vega3d.rooms.scene.furniture import Furniture
from vega3d.rooms.scene.placing import Layout

SMALL = (
    "cup",
    "bottle",
    "book",
    "book",
    "headphones",
    "plant",
    "handbag",
    "bread",
    "milk carton",
    "fan",
    "teddy bear",
)
FLOOR_THINGS = ("ball", "shoes", "box", "trash can", "briefcase", "guitar", "barrel", "teddy bear", "handbag")
DOOR_ZONE = 0.95  # [m], kept free in front of a door


def _chance(layout: Layout, probability: float) -> bool:
    return bool(layout.random.random() < probability)


def openings(layout: Layout) -> None:
    """A door, sometimes two, and one to three windows, with the space that they need kept free."""
    for _ in range(2 if _chance(layout, 0.15) else 1):
        number = layout.against_wall(layout.piece("door"), tries=60)
        if number is not None:
            box = layout.placed[number].box
            _keep_out(layout, box, DOOR_ZONE, 2.0)
    for _ in range(int(layout.random.integers(1, 4))):
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
    for _ in range(int(layout.random.integers(1, 3))):
        stand = layout.beside(bed, layout.piece("nightstand"))
        if stand is not None:
            layout.on_top(stand, layout.piece(str(layout.random.choice(["lamp", "book", "cup", "plant"]))))
    for name in ("pillow", "teddy bear", "pillow", "book", "handbag"):
        if _chance(layout, 0.5):
            layout.on_top(bed, layout.piece(name))
    if _chance(layout, 0.85):
        layout.against_wall(layout.piece("wardrobe"))


def lounging(layout: Layout) -> None:
    sofa = layout.against_wall(layout.piece("sofa", layout.room.size[:2].min() * 0.7))
    if sofa is None:
        return
    if _chance(layout, 0.7):
        layout.in_front(sofa, layout.piece("rug"), 0.06)
    low = layout.in_front(sofa, layout.piece("coffee table"), float(layout.random.uniform(0.35, 0.5)))
    for _ in range(int(layout.random.integers(1, 4)) if low is not None else 0):
        layout.on_top(low or 0, layout.piece(str(layout.random.choice(SMALL))))
    for _ in range(int(layout.random.integers(0, 4))):
        layout.on_top(sofa, layout.piece("pillow"))
    for _ in range(int(layout.random.integers(0, 3))):
        if low is not None and _chance(layout, 0.7):
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
        if _chance(layout, 0.4):
            layout.on_top(stand, layout.piece("plant"))


def dining(layout: Layout) -> None:
    table = layout.piece("table", layout.room.size[:2].min() * 0.5)
    number = layout.standing(table, tries=60)
    if number is None:
        return
    state = layout.piece("chair")
    chairs = [
        state if _chance(layout, 0.8) else layout.piece("chair") for _ in range(int(layout.random.integers(2, 7)))
    ]
    layout.around(number, chairs)
    for _ in range(int(layout.random.integers(1, 5))):
        layout.on_top(number, layout.piece(str(layout.random.choice(SMALL))))


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
        if name == "cabinet" and _chance(layout, 0.7):
            thing = str(layout.random.choice(["mixer", "coffee machine", "bread", "milk carton", "bottle", "cup"]))
            layout.on_top(placed, layout.piece(thing))
    if _chance(layout, 0.5):
        layout.standing(layout.piece("trash can"))


def working(layout: Layout) -> None:
    desk = layout.against_wall(layout.piece("desk", layout.room.size[:2].min() * 0.6))
    if desk is None:
        return
    chair = layout.piece("chair")
    layout.in_front(desk, chair, float(layout.random.uniform(0.02, 0.12)), np.pi + layout.random.normal(0, 0.15))
    for name in ("lamp", "book", "headphones", "cup", "book", "plant", "fan"):
        if _chance(layout, 0.5):
            layout.on_top(desk, layout.piece(name))
    if _chance(layout, 0.7):
        layout.standing(layout.piece("trash can"))


def storing(layout: Layout) -> None:
    for name in ("shelf", "cabinet", "shelf"):
        if _chance(layout, 0.6):
            number = layout.against_wall(layout.piece(name))
            for _ in range(int(layout.random.integers(0, 3)) if number is not None else 0):
                layout.on_top(number or 0, layout.piece(str(layout.random.choice(SMALL))))


def washing(layout: Layout) -> None:
    layout.against_wall(layout.piece("toilet"))
    layout.against_wall(layout.piece("sink"))
    for name, probability in (("shower", 0.8), ("bidet", 0.5), ("cabinet", 0.4), ("trash can", 0.7), ("stool", 0.3)):
        if _chance(layout, probability):
            layout.against_wall(layout.piece(name))
    if _chance(layout, 0.8):
        layout.against_wall(layout.piece("towel"), bottom=0.9)


def playing(layout: Layout) -> None:
    for name, probability in (("crib", 0.6), ("rocking horse", 0.7), ("ball", 0.8), ("teddy bear", 0.8), ("box", 0.6)):
        if _chance(layout, probability):
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
    for _ in range(int(layout.random.integers(1, 4))):
        layout.against_wall(layout.piece("stool"))


def finishing(layout: Layout) -> None:
    """Radiator, pictures, clock, plants, a rug, and things that lie about."""
    if _chance(layout, 0.6):
        layout.against_wall(layout.piece("radiator", 1.0))
    for _ in range(int(layout.random.integers(0, 4))):
        layout.against_wall(layout.piece("picture"), bottom=float(layout.random.uniform(1.3, 1.5)))
    if _chance(layout, 0.3):
        layout.against_wall(layout.piece("clock"), bottom=1.4)
    for _ in range(int(layout.random.integers(0, 3))):
        layout.against_wall(layout.piece("plant"))
    for name in layout.random.choice(FLOOR_THINGS, int(layout.random.integers(1, 5)), replace=False):
        layout.standing(layout.piece(str(name)), jitter=0.5)
    for _ in range(int(layout.random.integers(0, 3))):
        layout.against_wall(layout.piece(str(layout.random.choice(["chair", "stool", "armchair", "shelf"]))))


def lighting(layout: Layout) -> None:
    """The style's number of lights over each rectangle of the floor; built ones where the pack has no chandelier."""
    name = str(layout.random.choice(["ceiling light", "ceiling light", "chandelier"]))
    for low, high in layout.room.rectangles:
        longer = (high - low) * (high - low == (high - low).max())
        for number in range(layout.style.lights):
            place = (low + high) / 2 + longer * ((number + 0.5) / layout.style.lights - 0.5)
            layout.hung_from_ceiling(layout.piece(name) or layout.piece("ceiling light"), place)
    if name != "chandelier" and _chance(layout, 0.15) and layout.room.size[2] > 2.6:
        layout.hung_from_ceiling(layout.piece("ceiling fan"), layout.room.rectangles[0][0] + (1.0, 1.0))


Step = Callable[[Layout], None]

# Kind of room: least and greatest floor area [m^2], and the groups of furniture in the order they are placed.
KINDS: dict[str, tuple[tuple[float, float], tuple[Step, ...]]] = {
    "bedroom": ((11, 24), (sleeping, working, storing)),
    "living room": ((18, 40), (lounging, storing, dining)),
    "kitchen": ((12, 26), (cooking, dining)),
    "study": ((10, 24), (working, working, storing, presenting)),
    "bathroom": ((6, 12), (washing,)),
    "nursery": ((11, 20), (sleeping, playing)),
    "music room": ((20, 36), (making_music, lounging)),
    "games room": ((24, 40), (pool, lounging)),
    "studio": ((24, 45), (sleeping, lounging, dining, cooking)),
}

# What makes a room of a kind; a pack without it furnishes no such room.
MAIN_THINGS = {
    "bedroom": "bed",
    "living room": "sofa",
    "kitchen": "refrigerator",
    "study": "desk",
    "bathroom": "toilet",
    "nursery": "crib",
    "music room": "piano",
    "games room": "pool table",
    "studio": "bed",
}


def kinds_for(furniture: list[Furniture]) -> list[str]:
    """The kinds of rooms whose main thing is among the furniture, in the order of `KINDS`.

    Raises:
        ValueError: if there is none.
    """
    names = {item.name for item in furniture}
    kinds = [kind for kind in KINDS if MAIN_THINGS[kind] in names]
    if not kinds:
        raise ValueError(
            f"The furniture has no {' or '.join(sorted(set(MAIN_THINGS.values())))}, but only {sorted(names)}, which "
            "furnish no room. Pack more of the vetted objects with recipes/pack_furniture.py."
        )
    return kinds
