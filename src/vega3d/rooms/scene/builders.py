"""Things made from boxes, in sizes and colours of their own: doors, windows, rugs, pictures, books, shelves."""

from collections.abc import Callable

import numpy as np

from vega3d.rooms.scene import materials
from vega3d.rooms.scene.furniture import Model
from vega3d.rooms.scene.meshes import Mesh, join

Random = np.random.Generator
Part = tuple[np.ndarray, np.ndarray, int]  # lower corner, upper corner [m], texture
WHITE = np.array([[[236, 235, 230]]], np.uint8)
METAL = np.array([[[170, 170, 172]]], np.uint8)
LIGHT = np.array([[[255, 246, 230]]], np.uint8)
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
            corners[:, u], corners[:, v] = (
                low[u] + square[:, 0] * (high - low)[u],
                low[v] + square[:, 1] * (high - low)[v],
            )
            quads.append(corners)
            normals.append(np.tile(np.eye(3)[axis] * (2 * side - 1), (4, 1)))
            uvs.append(square if tile is None else square * (high - low)[[u, v]] / tile)
    faces = np.concatenate([4 * number + np.array([[0, 1, 2], [0, 2, 3]]) for number in range(6)])
    return Mesh(
        np.concatenate(quads).astype(np.float32),
        np.concatenate(normals).astype(np.float32),
        np.concatenate(uvs).astype(np.float32),
        faces.astype(np.int32),
        np.full(12, texture, np.int32),
    )


def model(parts: list[Part], images: list[np.ndarray], whole: tuple[int, ...] = ()) -> Model:
    """Blocks as a model; textures in `whole` cover each side once instead of in tiles."""
    return Model(
        join([block(low, high, texture, None if texture in whole else 1.0) for low, high, texture in parts]), images
    )


def part(low: tuple[float, ...], high: tuple[float, ...], texture: int = 0) -> Part:
    return np.array(low), np.array(high), texture


def plain(random: Random, colours: tuple = materials.CLOTHS) -> np.ndarray:
    return materials.pick(random, colours).astype(np.uint8).reshape(1, 1, 3)


def door(random: Random) -> Model:
    width, height = random.uniform(0.85, 1.0), random.uniform(2.0, 2.15)
    leaf = materials.wood(random).image if random.random() < 0.6 else WHITE
    x, frame = width / 2, 0.07
    parts = [
        part((-x, 0.0, 0), (-x + frame, 0.05, height), 1),
        part((x - frame, 0.0, 0), (x, 0.05, height), 1),
        part((-x + frame, 0.0, height - frame), (x - frame, 0.05, height), 1),
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
    frame = WHITE if random.random() < 0.6 else materials.wood(random).image
    edge = 0.06
    parts = [
        part((-x, -0.05, 0), (-x + edge, 0.0, height)),
        part((x - edge, -0.05, 0), (x, 0.0, height)),
        part((-x + edge, -0.05, height - edge), (x - edge, 0.0, height)),
        part((-x + edge, -0.1, 0), (x - edge, 0.0, edge)),
        part((-x + edge, -0.015, edge), (x - edge, 0.0, height - edge), 1),
        part((-0.025, -0.04, edge), (0.025, -0.015, height - edge)),
    ]
    if random.random() < 0.5:
        parts.append(part((-x + edge, -0.04, height * 0.62), (x - edge, -0.015, height * 0.62 + 0.04)))
    return model(shifted(parts), [frame, materials.view(random)], whole=(1,))


def rug(random: Random) -> Model:
    x, y = random.uniform(0.8, 1.3), random.uniform(0.55, 0.9)
    return model([part((-x, -y, 0), (x, y, 0.008))], [materials.rug(random)], whole=(0,))


def picture(random: Random) -> Model:
    x, height = random.uniform(0.2, 0.55), random.uniform(0.4, 0.8)
    edge = 0.03
    parts = [
        part((-x, -0.03, 0), (-x + edge, 0, height)),
        part((x - edge, -0.03, 0), (x, 0, height)),
        part((-x + edge, -0.03, 0), (x - edge, 0, edge)),
        part((-x + edge, -0.03, height - edge), (x - edge, 0, height)),
        part((-x + edge, -0.015, edge), (x - edge, 0, height - edge), 1),
    ]
    frame = materials.wood(random).image if random.random() < 0.6 else plain(random, ((30, 30, 32), (230, 228, 222)))
    return model(shifted(parts), [frame, materials.painting(random)], whole=(1,))


def volume(x: float, y: float, z: float, thick: float, wide: float, high: float, cover: int, pages: int) -> list[Part]:
    """An upright book whose spine faces -y."""
    return [
        part((x, y, z), (x + thick, y + 0.012, z + high), cover),
        part((x, y + 0.012, z), (x + 0.004, y + wide, z + high), cover),
        part((x + thick - 0.004, y + 0.012, z), (x + thick, y + wide, z + high), cover),
        part((x + 0.004, y + 0.012, z + 0.004), (x + thick - 0.004, y + wide - 0.004, z + high - 0.006), pages),
    ]


def book(random: Random) -> Model:
    return bound_book(random, materials.CLOTHS)


def bound_book(random: Random, colours: tuple) -> Model:
    """A book that lies, its cover in one of the colours."""
    width, depth, thick = random.uniform(0.14, 0.22), random.uniform(0.2, 0.3), random.uniform(0.02, 0.05)
    upright = volume(0, 0, 0, thick, width, depth, 0, 1)
    flat = [(low[[2, 1, 0]], high[[2, 1, 0]], texture) for low, high, texture in upright]
    return model(shifted(flat), [plain(random, colours), WHITE])


def pillow(random: Random) -> Model:
    return cushion(random, materials.fabric)


def cushion(random: Random, fabric: Callable[[Random], materials.Material]) -> Model:
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
        places, ups = (array.reshape(-1, 3).astype(np.float32) for array in (points, normals))
        sheets.append(Mesh(places, ups, uv.astype(np.float32), faces.astype(np.int32), np.zeros(len(faces), np.int32)))
    return Model(join(sheets), [fabric(random).image])


def coffee_table(random: Random) -> Model:
    x, y, height = random.uniform(0.4, 0.65), random.uniform(0.25, 0.38), random.uniform(0.36, 0.48)
    leg, top = random.uniform(0.03, 0.07), random.uniform(0.02, 0.05)
    parts = [part((-x, -y, height - top), (x, y, height))]
    for u, v in ((-x, -y), (x - leg, -y), (-x, y - leg), (x - leg, y - leg)):
        parts.append(part((u, v, 0), (u + leg, v + leg, height - top), 1))
    if random.random() < 0.5:
        parts.append(part((-x + leg, -y + leg, 0.12), (x - leg, y - leg, 0.14)))
    wood = materials.wood(random).image
    return model(parts, [wood, wood if random.random() < 0.6 else METAL])


def tv_stand(random: Random) -> Model:
    x, depth, height = random.uniform(0.55, 0.9), random.uniform(0.36, 0.45), random.uniform(0.4, 0.6)
    y, doors = depth / 2, int(random.integers(2, 4))
    parts = [part((-x, -y + 0.02, 0.05), (x, y, height)), part((-x + 0.05, -y + 0.06, 0), (x - 0.05, y, 0.05), 2)]
    for number in range(doors):
        left = -x + 0.01 + number * 2 * (x - 0.005) / doors
        right = left + 2 * (x - 0.005) / doors - 0.015
        parts.append(part((left, -y + 0.008, 0.07), (right, -y + 0.02, height - 0.03), 1))
        parts.append(
            part(
                ((left + right) / 2 - 0.06, -y, height * 0.7),
                ((left + right) / 2 + 0.06, -y + 0.008, height * 0.7 + 0.012),
                2,
            )
        )
    wood = materials.wood(random).image
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
            parts.append(
                part((place, -y + 0.032, z + board), (place + thick, y - 0.03, z + board + high), parts[-1][2])
            )
            place += thick + 0.001
    wood = materials.wood(random).image if random.random() < 0.7 else WHITE
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
    "book": book,
    "pillow": pillow,
    "coffee table": coffee_table,
    "tv stand": tv_stand,
    "shelf": shelf,
    "ceiling light": ceiling_light,
}
