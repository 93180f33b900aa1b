"""The things of `builders.py` in the shapes and colours of `test_unseen`: round, glazed, curtained, in cubes."""

from collections.abc import Callable

import numpy as np

from vega3d.rooms.scene import materials_unseen as materials
from vega3d.rooms.scene.builders import LIGHT, METAL, WHITE, block, bound_book, cushion, model, part, plain, shifted
from vega3d.rooms.scene.furniture import Model
from vega3d.rooms.scene.meshes import Mesh, join

Random = np.random.Generator
BRASS = np.array([[[188, 158, 98]]], np.uint8)
PANE = np.array([[[190, 206, 210]]], np.uint8)
SIDES = 28  # of a round thing


def drum(radius: tuple[float, float], low: float, high: float, texture: int, whole: bool = False) -> Mesh:
    """An upright drum around the z axis, its radii below and above given [m].

    Textures come in tiles of a metre; with `whole` once on each end.
    """
    angle = np.arange(SIDES + 1) / SIDES * 2 * np.pi
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    slope = (radius[0] - radius[1]) / (high - low)
    vertices, normals, uvs, faces = [], [], [], []
    ends = ((radius[0], low), (radius[1], high))
    wall = np.concatenate([np.column_stack([circle * r, np.full(SIDES + 1, z)]) for r, z in ends])
    outward = np.column_stack([circle, np.full(SIDES + 1, slope)]) / np.hypot(1, slope)
    number = np.arange(SIDES)
    vertices.append(wall)
    normals.append(np.tile(outward, (2, 1)))
    uvs.append(np.column_stack([np.tile(angle * max(radius), 2), wall[:, 2]]))
    upper = number + SIDES + 1
    faces += [np.stack([number, number + 1, upper + 1], axis=1), np.stack([number, upper + 1, upper], axis=1)]
    for end, (r, z) in enumerate(ends):
        sign, first = 2 * end - 1, (end + 2) * (SIDES + 1) + end
        vertices.append(np.column_stack([np.vstack([circle * r, (0, 0)]), np.full(SIDES + 2, z)]))
        normals.append(np.tile((0, 0, sign), (SIDES + 2, 1)))
        uvs.append(vertices[-1][:, :2] / (2 * r) + 0.5 if whole else vertices[-1][:, :2])
        fan = np.stack([number, number + 1, np.full(SIDES, SIDES + 1)], axis=1) + first
        faces.append(fan if sign > 0 else fan[:, ::-1])
    triangles = np.concatenate(faces)
    return Mesh(
        np.concatenate(vertices).astype(np.float32),
        np.concatenate(normals).astype(np.float32),
        np.concatenate(uvs).astype(np.float32),
        triangles.astype(np.int32),
        np.full(len(triangles), texture, np.int32),
    )


def door(random: Random) -> Model:
    """Glazed above, boarded below, with a round handle of brass."""
    width, height = random.uniform(0.82, 1.0), random.uniform(1.98, 2.15)
    leaf = plain(random, materials.STRONG_WALLS) if random.random() < 0.6 else materials.wood(random).image
    x, frame, waist = width / 2, 0.09, random.uniform(0.8, 1.1)
    left, right, top = -x + frame, x - frame, height - frame
    parts = [
        part((-x, 0.0, 0), (left, 0.06, height), 1),
        part((right, 0.0, 0), (x, 0.06, height), 1),
        part((left, 0.0, top), (right, 0.06, height), 1),
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
    return model(shifted(parts), [leaf, plain(random, materials.WALLS), BRASS, PANE])


def window(random: Random) -> Model:
    """In three lights, with a deep sill and curtains on a rail."""
    x, height = random.uniform(0.5, 0.9), random.uniform(1.15, 1.5)
    frame = plain(random, materials.STRONG_WALLS) if random.random() < 0.5 else materials.wood(random).image
    edge, cloth, drop = 0.05, random.uniform(0.14, 0.24), height - 0.05
    parts = [
        part((-x, -0.05, 0.05), (-x + edge, 0.0, height)),
        part((x - edge, -0.05, 0.05), (x, 0.0, height)),
        part((-x + edge, -0.05, height - edge), (x - edge, 0.0, height)),
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
    images = [frame, materials.view(random), materials.fabric(random).image, BRASS]
    return model(shifted(parts), images, whole=(1,))


def rug(random: Random) -> Model:
    """Half of them round."""
    if random.random() < 0.5:
        return Model(drum((random.uniform(0.7, 1.05),) * 2, 0, 0.01, 0, whole=True), [materials.rug(random)])
    x, y = random.uniform(0.85, 1.4), random.uniform(0.5, 0.8)
    return model([part((-x, -y, 0), (x, y, 0.01))], [materials.rug(random)], whole=(0,))


def picture(random: Random) -> Model:
    """Upright, in a thick frame with an inner edge."""
    x, height, edge = random.uniform(0.18, 0.4), random.uniform(0.5, 0.9), random.uniform(0.04, 0.07)
    parts = [part((-x + edge, -0.015, edge), (x - edge, 0, height - edge), 1)]
    for inset, near, wide, texture in ((0.0, -0.045, edge, 0), (edge, -0.025, 0.015, 2)):
        left, right, low, high = -x + inset, x - inset, inset, height - inset
        parts += [
            part((left, near, low), (left + wide, 0, high), texture),
            part((right - wide, near, low), (right, 0, high), texture),
            part((left + wide, near, low), (right - wide, 0, low + wide), texture),
            part((left + wide, near, high - wide), (right - wide, 0, high), texture),
        ]
    frame = materials.wood(random).image if random.random() < 0.5 else plain(random, materials.CLOTHS)
    return model(shifted(parts), [frame, materials.painting(random), BRASS], whole=(1,))


def book(random: Random) -> Model:
    return bound_book(random, materials.CLOTHS)


def pillow(random: Random) -> Model:
    return cushion(random, materials.fabric)


def coffee_table(random: Random) -> Model:
    """Round, on a column, a cone or three legs."""
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
    image = materials.marble(random).image if marble else materials.wood(random).image
    return Model(join(meshes), [image, image if random.random() < 0.4 else plain(random, materials.STRONG_WALLS)])


def tv_stand(random: Random) -> Model:
    """An open bench with a shelf and posts."""
    x, y, height = random.uniform(0.55, 0.95), random.uniform(0.17, 0.22), random.uniform(0.36, 0.55)
    board, bays = random.uniform(0.025, 0.045), int(random.integers(2, 5))
    parts = [part((-x, -y, height - board), (x, y, height)), part((-x, -y, 0.1), (x, y, 0.1 + board))]
    for post in range(bays + 1):
        place = -x + 0.03 + post * 2 * (x - 0.045) / bays
        parts.append(part((place, -y + 0.02, 0.1 + board), (place + 0.03, y - 0.02, height - board), 1))
    for u, v in ((-x + 0.05, -y + 0.03), (x - 0.09, -y + 0.03), (-x + 0.05, y - 0.07), (x - 0.09, y - 0.07)):
        parts.append(part((u, v, 0), (u + 0.04, v + 0.04, 0.1), 1))
    wood = materials.wood(random).image
    return model(parts, [wood, wood if random.random() < 0.3 else METAL])


def shelf(random: Random) -> Model:
    """Cubes, some with a back, some filled with a coloured drawer."""
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
    wood = materials.wood(random).image if random.random() < 0.6 else plain(random, materials.WALLS)
    colours = [plain(random, (*materials.CLOTHS, *materials.STRONG_WALLS)) for _ in range(3)]
    return model(parts, [wood, *colours, WHITE])


def ceiling_light(random: Random) -> Model:
    """A round shade under a ring."""
    radius, high = random.uniform(0.2, 0.36), random.uniform(0.06, 0.12)
    ring, shade = (
        drum((radius, radius), high - 0.025, high, 0),
        drum((radius * 0.7, radius * 0.94), 0, high - 0.025, 1),
    )
    return Model(join([ring, shade]), [BRASS if random.random() < 0.5 else WHITE, LIGHT])


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
