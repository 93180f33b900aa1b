"""Things made from boxes and drums, in sizes and colours of their own: doors, windows, rugs, pictures, books, shelves.

The second half is of the rooms of `test_unseen`: the same things, but round, glazed, curtained, or in cubes.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from vega3d.rooms.scene import materials
from vega3d.rooms.scene.furniture import Model
from vega3d.rooms.scene.materials import FAMILIAR, UNSEEN, Colours, Material, Random
from vega3d.rooms.scene.meshes import Mesh, join

Part = tuple[np.ndarray, np.ndarray, int]  # lower corner, upper corner [m], texture
WHITE = np.array([[[236, 235, 230]]], np.uint8)
METAL = np.array([[[170, 170, 172]]], np.uint8)
LIGHT = np.array([[[255, 246, 230]]], np.uint8)
BRASS = np.array([[[188, 158, 98]]], np.uint8)
PANE = np.array([[[190, 206, 210]]], np.uint8)
ROUND_SIDES = 28  # of a round thing
SIDES = ((0, 1, 2), (1, 2, 0), (2, 0, 1))


def block(low: np.ndarray, high: np.ndarray, texture: int, tile: float | None = 1.0) -> Mesh:
    """A box whose six sides carry a texture: in tiles of `tile` [m], or, if None, once on each side."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    quads, normals, uvs = [], [], []
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    for axis, u, v in SIDES:
        if v == 0:
            u, v = v, u
        for side in (0, 1):
            corners = np.empty((4, 3))
            corners[:, axis] = (low, high)[side][axis]
            corners[:, u] = low[u] + square[:, 0] * (high - low)[u]
            corners[:, v] = low[v] + square[:, 1] * (high - low)[v]
            quads.append(corners)
            normals.append(np.tile(np.eye(3)[axis] * (2 * side - 1), (4, 1)))
            uvs.append(square if tile is None else square * (high - low)[[u, v]] / tile)
    faces = np.concatenate([4 * number + np.array([[0, 1, 2], [0, 2, 3]]) for number in range(6)])
    return Mesh.uniform(np.concatenate(quads), np.concatenate(normals), np.concatenate(uvs), faces, texture)


def model(parts: list[Part], images: list[np.ndarray], whole: tuple[int, ...] = ()) -> Model:
    """Blocks as a model; textures in `whole` cover each side once instead of in tiles."""
    blocks = [block(low, high, texture, None if texture in whole else 1.0) for low, high, texture in parts]
    return Model(join(blocks), images)


def part(low: tuple[float, ...], high: tuple[float, ...], texture: int = 0) -> Part:
    return np.array(low), np.array(high), texture


def upright_frame(
    x: float, y: tuple[float, float], z: tuple[float, float], edge: float, texture: int = 0, foot: bool = False
) -> list[Part]:
    """The left, the right and the upper bar of a frame from -`x` to `x`; with `foot` a lower bar before that.

    Bars are `edge` wide; `y` and `z` are the least and greatest coordinates of the whole frame [m].
    """
    (near, far), (low, high) = y, z
    inside, lower, upper = x - edge, (low, low + edge), (high - edge, high)
    bars = [part((-x, near, low), (-inside, far, high), texture), part((inside, near, low), (x, far, high), texture)]
    for bottom, top in (lower, upper) if foot else (upper,):
        bars.append(part((-inside, near, bottom), (inside, far, top), texture))
    return bars


def plain(random: Random, colours: Colours = FAMILIAR.cloths) -> np.ndarray:
    return materials.pick(random, colours).astype(np.uint8).reshape(1, 1, 3)


def door(random: Random) -> Model:
    width, height = random.uniform(0.85, 1.0), random.uniform(2.0, 2.15)
    leaf = materials.wood(random) if random.random() < 0.6 else WHITE
    x, frame = width / 2, 0.07
    parts = [
        *upright_frame(x, (0.0, 0.05), (0, height), frame, 1),
        part((-x + frame, 0.015, 0), (x - frame, 0.05, height - frame)),
        part((x - 0.2, -0.04, 1.0), (x - 0.1, 0.01, 1.03), 2),
    ]
    for low, high in ((0.2, 0.9), (1.15, height - 0.25)):
        parts.append(part((-x + 0.2, 0.008, low), (x - 0.25, 0.02, high)))
    return model(shifted(parts), [leaf, WHITE, METAL])


def shifted(parts: list[Part]) -> list[Part]:
    """The parts with their common box centred over the origin and standing on the floor."""
    low, high = np.min([lower for lower, _, _ in parts], axis=0), np.max([upper for _, upper, _ in parts], axis=0)
    middle = np.array([*(low + high)[:2] / 2, low[2]])
    return [(lower - middle, upper - middle, texture) for lower, upper, texture in parts]


def window(random: Random) -> Model:
    x, height = random.uniform(0.45, 0.95), random.uniform(1.1, 1.5)
    frame = WHITE if random.random() < 0.6 else materials.wood(random)
    edge = 0.06
    parts = [
        *upright_frame(x, (-0.05, 0.0), (0, height), edge),
        part((-x + edge, -0.1, 0), (x - edge, 0.0, edge)),
        part((-x + edge, -0.015, edge), (x - edge, 0.0, height - edge), 1),
        part((-0.025, -0.04, edge), (0.025, -0.015, height - edge)),
    ]
    if random.random() < 0.5:
        parts.append(part((-x + edge, -0.04, height * 0.62), (x - edge, -0.015, height * 0.62 + 0.04)))
    return model(shifted(parts), [frame, materials.country_view(random)], whole=(1,))


def rug(random: Random) -> Model:
    x, y = random.uniform(0.8, 1.3), random.uniform(0.55, 0.9)
    return model([part((-x, -y, 0), (x, y, 0.008))], [materials.bordered_rug(random)], whole=(0,))


def picture(random: Random) -> Model:
    x, height = random.uniform(0.2, 0.55), random.uniform(0.4, 0.8)
    edge = 0.03
    parts = [
        *upright_frame(x, (-0.03, 0), (0, height), edge, foot=True),
        part((-x + edge, -0.015, edge), (x - edge, 0, height - edge), 1),
    ]
    frame = materials.wood(random) if random.random() < 0.6 else plain(random, ((30, 30, 32), (230, 228, 222)))
    return model(shifted(parts), [frame, materials.abstract_picture(random)], whole=(1,))


def volume(x: float, y: float, z: float, thick: float, wide: float, high: float, cover: int, pages: int) -> list[Part]:
    """An upright book whose spine faces -y."""
    return [
        part((x, y, z), (x + thick, y + 0.012, z + high), cover),
        part((x, y + 0.012, z), (x + 0.004, y + wide, z + high), cover),
        part((x + thick - 0.004, y + 0.012, z), (x + thick, y + wide, z + high), cover),
        part((x + 0.004, y + 0.012, z + 0.004), (x + thick - 0.004, y + wide - 0.004, z + high - 0.006), pages),
    ]


def book(random: Random, colours: Colours) -> Model:
    """A book that lies, its cover in one of the colours."""
    width, depth, thick = random.uniform(0.14, 0.22), random.uniform(0.2, 0.3), random.uniform(0.02, 0.05)
    upright = volume(0, 0, 0, thick, width, depth, 0, 1)
    flat = [(low[[2, 1, 0]], high[[2, 1, 0]], texture) for low, high, texture in upright]
    return model(shifted(flat), [plain(random, colours), WHITE])


def pillow(random: Random, fabric: Callable[[Random], Material]) -> Model:
    """A square of cloth that swells towards the middle."""
    side, thick, count = random.uniform(0.36, 0.5), random.uniform(0.1, 0.16), 11
    s, t = np.meshgrid(np.linspace(-1, 1, count), np.linspace(-1, 1, count))
    swell = np.clip((1 - s**4) * (1 - t**4), 0, 1) ** 0.5
    pinch = 1 - 0.06 * (np.abs(s) + np.abs(t) > 1.6)
    sheets, number = [], np.arange(count * count).reshape(count, count)
    quads = np.stack([number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]], axis=-1).reshape(-1, 4)
    for sign in (-1, 1):
        points = np.stack([s * pinch * side / 2, t * pinch * side / 2, thick / 2 + sign * swell * thick / 2], axis=-1)
        slope = np.stack([np.gradient(points[..., 2], side / (count - 1), axis=axis) for axis in (0, 1)], axis=-1)
        normals = sign * np.stack([-slope[..., 1], -slope[..., 0], np.ones_like(s)], axis=-1)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        uv = np.stack([s, t], axis=-1).reshape(-1, 2) / 2 + 0.5
        faces = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
        sheets.append(Mesh.uniform(points.reshape(-1, 3), normals.reshape(-1, 3), uv, faces, 0))
    return Model(join(sheets), [fabric(random).image])


def coffee_table(random: Random) -> Model:
    x, y, height = random.uniform(0.4, 0.65), random.uniform(0.25, 0.38), random.uniform(0.36, 0.48)
    leg, top = random.uniform(0.03, 0.07), random.uniform(0.02, 0.05)
    parts = [part((-x, -y, height - top), (x, y, height))]
    for u, v in ((-x, -y), (x - leg, -y), (-x, y - leg), (x - leg, y - leg)):
        parts.append(part((u, v, 0), (u + leg, v + leg, height - top), 1))
    if random.random() < 0.5:
        parts.append(part((-x + leg, -y + leg, 0.12), (x - leg, y - leg, 0.14)))
    wood = materials.wood(random)
    return model(parts, [wood, wood if random.random() < 0.6 else METAL])


def tv_stand(random: Random) -> Model:
    x, depth, height = random.uniform(0.55, 0.9), random.uniform(0.36, 0.45), random.uniform(0.4, 0.6)
    y, doors = depth / 2, int(random.integers(2, 4))
    parts = [part((-x, -y + 0.02, 0.05), (x, y, height)), part((-x + 0.05, -y + 0.06, 0), (x - 0.05, y, 0.05), 2)]
    for number in range(doors):
        left = -x + 0.01 + number * 2 * (x - 0.005) / doors
        right = left + 2 * (x - 0.005) / doors - 0.015
        parts.append(part((left, -y + 0.008, 0.07), (right, -y + 0.02, height - 0.03), 1))
        middle, low = (left + right) / 2, height * 0.7
        parts.append(part((middle - 0.06, -y, low), (middle + 0.06, -y + 0.008, low + 0.012), 2))
    wood = materials.wood(random)
    return model(parts, [wood, wood if random.random() < 0.5 else WHITE, METAL])


def shelf(random: Random) -> Model:
    """An open bookshelf, half full of books."""
    x, y, rows = random.uniform(0.35, 0.55), random.uniform(0.13, 0.18), int(random.integers(3, 6))
    board, pitch = 0.02, 0.34
    height = rows * pitch + board
    parts = [part((-x, y - 0.01, 0), (x, y, height)), part((-x, -y, 0), (-x + board, y - 0.01, height))]
    parts.append(part((x - board, -y, 0), (x, y - 0.01, height)))
    for row in range(rows + 1):
        z = row * pitch
        parts.append(part((-x + board, -y, z), (x - board, y - 0.01, z + board)))
        place, end = -x + board + 0.01, -x + board + random.uniform(0.2, 1.0) * 2 * (x - board)
        while row < rows and place < min(end, x - board - 0.06):
            thick, high = random.uniform(0.02, 0.05), random.uniform(0.2, 0.29)
            parts += volume(place, -y + 0.02, z + board, thick, 0.2, high, int(random.integers(2, 8)), 1)[:1]
            pages = (place, -y + 0.032, z + board), (place + thick, y - 0.03, z + board + high)
            parts.append(part(*pages, parts[-1][2]))
            place += thick + 0.001
    wood = materials.wood(random) if random.random() < 0.7 else WHITE
    return model(parts, [wood, WHITE, *[plain(random) for _ in range(6)]])


def ceiling_light(random: Random) -> Model:
    x, y = random.uniform(0.2, 0.35), random.uniform(0.2, 0.6)
    parts = [part((-x, -y, 0.02), (x, y, 0.06)), part((-x + 0.02, -y + 0.02, 0), (x - 0.02, y - 0.02, 0.02), 1)]
    return model(parts, [METAL, LIGHT], whole=(1,))


BUILDERS: dict[str, Callable[[Random], Model]] = {
    "door": door,
    "window": window,
    "rug": rug,
    "picture": picture,
    "book": partial(book, colours=FAMILIAR.cloths),
    "pillow": partial(pillow, fabric=materials.woven_cloth),
    "coffee table": coffee_table,
    "tv stand": tv_stand,
    "shelf": shelf,
    "ceiling light": ceiling_light,
}


def drum(radius: tuple[float, float], low: float, high: float, texture: int, whole: bool = False) -> Mesh:
    """An upright drum around the z axis, its radii below and above given [m].

    Textures come in tiles of a metre; with `whole` once on each end.
    """
    angle = np.arange(ROUND_SIDES + 1) / ROUND_SIDES * 2 * np.pi
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    slope = (radius[0] - radius[1]) / (high - low)
    ends = ((radius[0], low), (radius[1], high))
    wall = np.concatenate([np.column_stack([circle * r, np.full(ROUND_SIDES + 1, z)]) for r, z in ends])
    outward = np.column_stack([circle, np.full(ROUND_SIDES + 1, slope)]) / np.hypot(1, slope)
    number = np.arange(ROUND_SIDES)
    upper = number + ROUND_SIDES + 1
    vertices, normals = [wall], [np.tile(outward, (2, 1))]
    uvs = [np.column_stack([np.tile(angle * max(radius), 2), wall[:, 2]])]
    faces = [np.stack([number, number + 1, upper + 1], axis=1), np.stack([number, upper + 1, upper], axis=1)]
    for end, (r, z) in enumerate(ends):
        sign, first = 2 * end - 1, (end + 2) * (ROUND_SIDES + 1) + end
        vertices.append(np.column_stack([np.vstack([circle * r, (0, 0)]), np.full(ROUND_SIDES + 2, z)]))
        normals.append(np.tile((0, 0, sign), (ROUND_SIDES + 2, 1)))
        uvs.append(vertices[-1][:, :2] / (2 * r) + 0.5 if whole else vertices[-1][:, :2])
        fan = np.stack([number, number + 1, np.full(ROUND_SIDES, ROUND_SIDES + 1)], axis=1) + first
        faces.append(fan if sign > 0 else fan[:, ::-1])
    triangles = np.concatenate(faces)
    return Mesh.uniform(np.concatenate(vertices), np.concatenate(normals), np.concatenate(uvs), triangles, texture)


def glazed_door(random: Random) -> Model:
    """A door, glazed above and boarded below, with a round handle of brass."""
    width, height = random.uniform(0.82, 1.0), random.uniform(1.98, 2.15)
    leaf = plain(random, UNSEEN.strong_walls) if random.random() < 0.6 else materials.wood(random, UNSEEN.woods)
    x, frame, waist = width / 2, 0.09, random.uniform(0.8, 1.1)
    left, right, top = -x + frame, x - frame, height - frame
    parts = [
        *upright_frame(x, (0.0, 0.06), (0, height), frame, 1),
        part((left, 0.03, 0), (right, 0.06, top)),
        part((left + 0.07, -0.045, waist - 0.03), (left + 0.13, 0.02, waist + 0.03), 2),
    ]
    columns, rows = int(random.integers(1, 4)), int(random.integers(1, 4))
    across, up = (right - left - 0.16) / columns, (top - waist - 0.24) / rows
    for column in range(columns):
        for row in range(rows):
            low = np.array([left + 0.09 + column * across, 0.02, waist + 0.13 + row * up])
            parts.append((low, low + np.array([across - 0.02, 0.015, up - 0.02]), 3))
    for number in range(4):
        low_x = left + 0.03 + number * (right - left - 0.06) / 4
        parts.append(part((low_x, 0.022, 0.1), (low_x + (right - left) / 4 - 0.025, 0.03, waist - 0.1)))
    return model(shifted(parts), [leaf, plain(random, UNSEEN.walls), BRASS, PANE])


def curtained_window(random: Random) -> Model:
    """A window in three lights, with a deep sill and curtains on a rail."""
    x, height = random.uniform(0.5, 0.9), random.uniform(1.15, 1.5)
    frame = plain(random, UNSEEN.strong_walls) if random.random() < 0.5 else materials.wood(random, UNSEEN.woods)
    edge, cloth, drop = 0.05, random.uniform(0.14, 0.24), height - 0.05
    parts = [
        *upright_frame(x, (-0.05, 0.0), (0.05, height), edge),
        part((-x - 0.05, -0.13, 0), (x + 0.05, 0.0, 0.05)),
        part((-x + edge, -0.015, 0.05), (x - edge, 0.0, height - edge), 1),
        part((-x - 0.15, -0.11, height - 0.03), (x + 0.15, -0.09, height - 0.01), 3),
    ]
    for place in (-x / 3, x / 3):
        parts.append(part((place - 0.02, -0.04, 0.05), (place + 0.02, -0.015, height - edge)))
    for side in (-1, 1):
        for fold in range(4):
            inner, outer = sorted((side * (x + 0.1 - fold * cloth / 4), side * (x + 0.1 - (fold + 1) * cloth / 4)))
            near = 0.11 if fold % 2 else 0.09
            parts.append(part((inner, -near, 0.07), (outer, -near + 0.025, drop), 2))
    images = [frame, materials.distant_view(random), materials.patterned_cloth(random).image, BRASS]
    return model(shifted(parts), images, whole=(1,))


def round_rug(random: Random) -> Model:
    """A rug; every second one is round."""
    if random.random() < 0.5:
        return Model(drum((random.uniform(0.7, 1.05),) * 2, 0, 0.01, 0, whole=True), [materials.patterned_rug(random)])
    x, y = random.uniform(0.85, 1.4), random.uniform(0.5, 0.8)
    return model([part((-x, -y, 0), (x, y, 0.01))], [materials.patterned_rug(random)], whole=(0,))


def upright_picture(random: Random) -> Model:
    """A picture that is higher than wide, in a thick frame with an inner edge."""
    x, height, edge = random.uniform(0.18, 0.4), random.uniform(0.5, 0.9), random.uniform(0.04, 0.07)
    parts = [part((-x + edge, -0.015, edge), (x - edge, 0, height - edge), 1)]
    for inset, near, wide, texture in ((0.0, -0.045, edge, 0), (edge, -0.025, 0.015, 2)):
        parts += upright_frame(x - inset, (near, 0), (inset, height - inset), wide, texture, foot=True)
    frame = materials.wood(random, UNSEEN.woods) if random.random() < 0.5 else plain(random, UNSEEN.cloths)
    return model(shifted(parts), [frame, materials.mounted_picture(random), BRASS], whole=(1,))


def round_coffee_table(random: Random) -> Model:
    """A round coffee table on a column, a cone or three legs."""
    radius, height, top = random.uniform(0.3, 0.48), random.uniform(0.36, 0.52), random.uniform(0.02, 0.05)
    kind = random.integers(3)
    meshes = [drum((radius, radius), height - top, height, 0)]
    if kind == 0:
        meshes += [drum((0.04, 0.04), 0.03, height - top, 1), drum((radius * 0.6, radius * 0.6), 0, 0.03, 1)]
    elif kind == 1:
        meshes.append(drum((radius * 0.75, radius * 0.35), 0, height - top, 1))
    else:
        for angle in np.arange(3) * 2 * np.pi / 3 + 0.3:
            x, y = 0.72 * radius * np.cos(angle), 0.72 * radius * np.sin(angle)
            low, high = np.array([x - 0.02, y - 0.02, 0]), np.array([x + 0.02, y + 0.02, height - top])
            meshes.append(block(low, high, 1))
    marble = random.random() < 0.4
    image = materials.marble(random).image if marble else materials.wood(random, UNSEEN.woods)
    return Model(join(meshes), [image, image if random.random() < 0.4 else plain(random, UNSEEN.strong_walls)])


def open_tv_stand(random: Random) -> Model:
    """A television stand: an open bench with a shelf and posts."""
    x, y, height = random.uniform(0.55, 0.95), random.uniform(0.17, 0.22), random.uniform(0.36, 0.55)
    board, bays = random.uniform(0.025, 0.045), int(random.integers(2, 5))
    parts = [part((-x, -y, height - board), (x, y, height)), part((-x, -y, 0.1), (x, y, 0.1 + board))]
    for post in range(bays + 1):
        place = -x + 0.03 + post * 2 * (x - 0.045) / bays
        parts.append(part((place, -y + 0.02, 0.1 + board), (place + 0.03, y - 0.02, height - board), 1))
    for u, v in ((-x + 0.05, -y + 0.03), (x - 0.09, -y + 0.03), (-x + 0.05, y - 0.07), (x - 0.09, y - 0.07)):
        parts.append(part((u, v, 0), (u + 0.04, v + 0.04, 0.1), 1))
    wood = materials.wood(random, UNSEEN.woods)
    return model(parts, [wood, wood if random.random() < 0.3 else METAL])


def cube_shelf(random: Random) -> Model:
    """A shelf of cubes, some with a back, some filled with a coloured drawer."""
    columns, rows, cube, y, board = int(random.integers(2, 4)), int(random.integers(2, 5)), 0.36, 0.17, 0.025
    x, height = columns * cube / 2 + board / 2, rows * cube + board
    parts = []
    for row in range(rows + 1):
        parts.append(part((-x, -y, row * cube), (x, y, row * cube + board)))
    for column in range(columns + 1):
        left = -x + column * cube
        parts.append(part((left, -y, board), (left + board, y, height - board)))
    for row in range(rows):
        for column in range(columns):
            low = np.array([-x + column * cube + board, -y + 0.015, row * cube + board])
            high = low + np.array([cube - board, 2 * y - 0.02, cube - board])
            kind = random.random()
            if kind < 0.35:
                inside = np.array([0.005, 0, 0.0])
                parts.append((low + inside, high - inside - (0, 0, 0.03), int(random.integers(1, 4))))
            elif kind < 0.7:
                parts.append((np.array([low[0], y - 0.012, low[2]]), np.array([high[0], y - 0.004, high[2]]), 4))
    wood = materials.wood(random, UNSEEN.woods) if random.random() < 0.6 else plain(random, UNSEEN.walls)
    colours = [plain(random, (*UNSEEN.cloths, *UNSEEN.strong_walls)) for _ in range(3)]
    return model(parts, [wood, *colours, WHITE])


def round_ceiling_light(random: Random) -> Model:
    """A ceiling light: a round shade under a ring."""
    radius, high = random.uniform(0.2, 0.36), random.uniform(0.06, 0.12)
    ring = drum((radius, radius), high - 0.025, high, 0)
    shade = drum((radius * 0.7, radius * 0.94), 0, high - 0.025, 1)
    return Model(join([ring, shade]), [BRASS if random.random() < 0.5 else WHITE, LIGHT])


UNSEEN_BUILDERS: dict[str, Callable[[Random], Model]] = {
    "door": glazed_door,
    "window": curtained_window,
    "rug": round_rug,
    "picture": upright_picture,
    "book": partial(book, colours=UNSEEN.cloths),
    "pillow": partial(pillow, fabric=materials.patterned_cloth),
    "coffee table": round_coffee_table,
    "tv stand": open_tv_stand,
    "shelf": cube_shelf,
    "ceiling light": round_ceiling_light,
}
