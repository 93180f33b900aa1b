"""Seeded textures of floors, walls, cloth and pictures: a tile that repeats, and its edge in metres.

The second half is of the rooms of `test_unseen`, which share no texture with those of other splits.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SIZE = 256  # texels along a tile
Random = np.random.Generator
Colours = tuple[tuple[int, int, int], ...]  # sRGB


class Material(NamedTuple):
    """A square tile, which repeats in both directions."""

    image: np.ndarray  # uint8[SIZE, SIZE, 3], sRGB
    edge: float  # length of its sides in a room [m]


Tiler = Callable[[Random], Material]


def colours(codes: str) -> Colours:
    """sRGB colours by their hexadecimal codes."""
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, codes.split()))


class Palette(NamedTuple):
    """The colours of a style of rooms, from which those of a surface are drawn."""

    woods: Colours
    walls: Colours
    strong_walls: Colours
    cloths: Colours


FAMILIAR = Palette(
    woods=colours("b08054 8c5c38 c9a478 6e4a30 bc9670 9e866e 5c4232"),
    walls=colours("e8e4da d6dde2 e2d6c4 ced8cc eeece8 dececc"),
    strong_walls=colours("869cac b08c76 8e9e82 c4aa70 707a92 aa7878"),
    cloths=colours("982e32 2c4a7a bcaa8a 546c54 46464e c8c4bc b2743a 70446e 32787e ceb25c"),
)
UNSEEN = Palette(
    woods=colours("ceb896 543a30 96543c beb4a4 7c7062 a87058"),
    walls=colours("eadee6 d6e8e2 f0e6ce d6dcee e4ecd6 f4e2d4"),
    strong_walls=colours("607a70 9e6258 586484 be9c64 968c80 688e96"),
    cloths=colours("d67868 96beaa 78803e aa96c8 e2c4a0 6096be 782846 e8d678 28544c"),
)
STONES = ((226, 222, 214), (186, 182, 176), (206, 190, 170), (150, 158, 160), (96, 98, 100))
HIGHEST = 3.2  # [m], edge of the tile of a wall whose foot differs from its top: more than a room is high


def pick(random: Random, colours: Colours, spread: float = 10.0) -> np.ndarray:
    """float[3]: one of the colours, a little lighter or darker, and hardly another hue."""
    change = random.normal(0, spread) + random.normal(0, spread / 4, 3)
    return np.clip(np.array(colours[random.integers(len(colours))]) + change, 12, 245)


def noise(random: Random, across: float, along: float | None = None) -> np.ndarray:
    """float[SIZE, SIZE]: smooth and periodic, mean 0, deviation 1; grain of `across` x `along` texels."""
    field = np.fft.ifft2(np.fft.fft2(random.normal(size=(SIZE, SIZE))) * _low_pass(across, along or across)).real
    return (field - field.mean()) / (field.std() + 1e-9)


@lru_cache(64)
def _low_pass(across: float, along: float) -> np.ndarray:
    """float[SIZE, SIZE]: factor of each frequency."""
    frequency = np.fft.fftfreq(SIZE)
    return np.exp(-20 * ((frequency[:, None] * across) ** 2 + (frequency[None] * along) ** 2))


def tile(colour: np.ndarray, shade: np.ndarray, edge: float) -> Material:
    image = colour * (1 + shade[..., None]) if shade.ndim == 2 else colour * (1 + shade)
    return Material(np.clip(image, 0, 255).astype(np.uint8), edge)


def grain(random: Random) -> np.ndarray:
    return 0.05 * noise(random, 2, 60) + 0.04 * noise(random, 1, 16) + 0.02 * noise(random, 24)


def wood(random: Random, colours: Colours = FAMILIAR.woods) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: smooth wood, for furniture."""
    return tile(pick(random, colours), grain(random), 1.0).image


def planks(random: Random) -> Material:
    """A floor of boards, ends staggered."""
    rows = int(random.choice([8, 16]))
    height = SIZE // rows
    row, column = np.arange(SIZE)[:, None] // height, np.arange(SIZE)[None]
    ends = random.integers(0, SIZE, rows)[row]
    board = (column - ends) % SIZE // (SIZE // 2)
    tone = random.normal(0, 0.09, (rows, 2))[row, board]
    joint = (np.arange(SIZE)[:, None] % height == 0) | ((column - ends) % (SIZE // 2) == 0)
    return tile(pick(random, FAMILIAR.woods), grain(random) + tone - 0.3 * joint, float(random.uniform(1.2, 2.0)))


def parquet(random: Random) -> Material:
    """Squares of strips, turned from square to square."""
    count = 4
    size = SIZE // count
    row, column = np.indices((SIZE, SIZE)) // size
    turned = (row + column) % 2 == 1
    lines, columns = np.indices((SIZE, SIZE)) % size
    strip = np.where(turned, columns, lines) // (size // 4)
    tone = random.normal(0, 0.07, (count, count, 4))[row, column, strip]
    fibres = np.where(turned, grain(random).T, grain(random))
    joint = (np.where(turned, columns, lines) % (size // 4) == 0) | (lines == 0) | (columns == 0)
    return tile(pick(random, FAMILIAR.woods), fibres + tone - 0.22 * joint, float(random.uniform(1.2, 1.8)))


def tiles(random: Random) -> Material:
    """Square tiles with light or dark joints; sometimes a chequerboard."""
    count = int(random.choice([2, 4]))
    size = SIZE // count
    row, column = np.indices((SIZE, SIZE)) // size
    tone = random.normal(0, 0.03, (count, count))[row, column]
    if random.random() < 0.3:
        tone = tone - 0.55 * ((row + column) % 2)
    lines, columns = np.indices((SIZE, SIZE)) % size
    joint = (lines < 2) | (columns < 2)
    colour = pick(random, (*FAMILIAR.walls, (150, 150, 148), (178, 160, 140), (120, 124, 128)))
    shade = 0.03 * noise(random, 16) + tone
    return tile(colour, np.where(joint, random.choice([-0.35, -0.2, 0.1]), shade), 0.4 * count)


def carpet(random: Random) -> Material:
    """Short pile."""
    shade = 0.07 * noise(random, 1) + 0.03 * noise(random, 30)
    return tile(pick(random, (*FAMILIAR.cloths, *FAMILIAR.walls)), shade, 1.0)


def concrete(random: Random) -> Material:
    """Grey and cloudy."""
    colour = pick(random, ((150, 150, 148), (172, 168, 160)))
    return tile(colour, 0.05 * noise(random, 40) + 0.02 * noise(random, 3), 3.0)


def plaster(random: Random) -> Material:
    """A painted wall."""
    colour = pick(random, FAMILIAR.walls if random.random() < 0.75 else FAMILIAR.strong_walls, 6)
    return tile(colour, 0.008 * noise(random, 30) + 0.012 * noise(random, 3), 1.5)


def stripes(random: Random) -> Material:
    """Wallpaper with upright stripes of two near tones."""
    count = int(random.choice([4, 8, 16]))
    band = (np.arange(SIZE)[None] * count // SIZE % 2).repeat(SIZE, axis=0)
    colour = pick(random, (*FAMILIAR.walls, *FAMILIAR.strong_walls))
    return tile(colour, random.uniform(0.05, 0.16) * band + 0.01 * noise(random, 3), 1.2)


def bricks(random: Random) -> Material:
    """Painted or raw bricks."""
    rows, columns = 16, 4
    row = np.arange(SIZE)[:, None] // (SIZE // rows)
    across = np.arange(SIZE)[None] + row % 2 * (SIZE // columns // 2)
    tone = random.normal(0, 0.06, (rows, columns))[row, across // (SIZE // columns) % columns]
    joint = (np.arange(SIZE)[:, None] % (SIZE // rows) < 2) | (across % (SIZE // columns) < 2)
    colour = pick(random, ((168, 92, 70), (222, 216, 208), (150, 120, 104)))
    return tile(colour, np.where(joint, -0.18, tone + 0.04 * noise(random, 2)), 1.1)


def white(random: Random) -> Material:
    """A ceiling."""
    return tile(pick(random, ((244, 243, 240),), 2), 0.008 * noise(random, 4), 2.0)


def woven_cloth(random: Random) -> Material:
    """Woven cloth; plain, striped or chequered."""
    weave = 0.05 * noise(random, 1) + 0.03 * noise(random, 12)
    colour, kind, count = pick(random, FAMILIAR.cloths), random.random(), int(random.choice([4, 8]))
    band = (np.arange(SIZE) * count // SIZE % 2).astype(float)
    if kind < 0.25:
        weave = weave + random.uniform(0.2, 0.6) * band[None]
    elif kind < 0.45:
        weave = weave + 0.25 * (band[None] + band[:, None])
    return tile(colour * 0.8, weave, 0.8)


FLOORS: tuple[Tiler, ...] = (planks, parquet, tiles, carpet, concrete)
WALLPAPERS: tuple[Tiler, ...] = (plaster, plaster, plaster, stripes, bricks)


def bordered_rug(random: Random) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: a whole rug, with a border and a pattern."""
    y, x = np.abs(np.indices((SIZE, SIZE)) / SIZE * 2 - 1)
    ground, accent, border = (pick(random, FAMILIAR.cloths) for _ in range(3))
    kind = random.integers(4)
    rings = [np.maximum(x, y) * 6 % 2 < 1, (x + y) * 8 % 2 < 1, x * 10 % 2 < 0.6, np.hypot(x, y) > 0.7][kind]
    image = np.where(rings[..., None], ground, accent if random.random() < 0.7 else ground * 0.9)
    image = np.where((np.maximum(x, y) > random.uniform(0.82, 0.97))[..., None], border, image)
    return np.clip(image * (1 + 0.06 * noise(random, 1)[..., None]), 0, 255).astype(np.uint8)


def abstract_picture(random: Random) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: an abstract picture: hills, discs or bars."""
    image = np.broadcast_to(pick(random, (*FAMILIAR.walls, *FAMILIAR.strong_walls)), (SIZE, SIZE, 3)).copy()
    y, x = np.indices((SIZE, SIZE)) / SIZE
    kind = random.integers(3)
    for step in range(int(random.integers(3, 7))):
        a, b, c = random.random(3)
        bars = (np.abs(x - a) < 0.1 * b + 0.03) & (y > c / 2)
        hills = y > 0.3 + step * 0.12 + 0.1 * np.sin(x * (4 + 6 * a) + 6 * b)
        shape = (hills, np.hypot(x - a, y - b) < 0.1 + c / 5, bars)[kind]
        image[shape] = pick(random, (*FAMILIAR.cloths, *FAMILIAR.strong_walls), 20)
    return np.clip(image * (1 + 0.03 * noise(random, 4)[..., None]), 0, 255).astype(np.uint8)


def country_view(random: Random) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: what is seen through a window: sky, far hills, a lawn."""
    y, x = np.indices((SIZE, SIZE)) / SIZE
    sky = np.stack([150 + 70 * y, 190 + 45 * y, 242 + 8 * y], axis=-1) + 8 * noise(random, 50, 20)[..., None]
    horizon = random.uniform(0.55, 0.8) + 0.03 * np.sin(x * random.uniform(6, 14) + random.uniform(0, 6))
    land = pick(random, ((96, 128, 80), (120, 140, 96), (130, 126, 120))) * (1 + 0.1 * noise(random, 8)[..., None])
    return np.clip(np.where((y > horizon)[..., None], land, sky), 0, 255).astype(np.uint8)


def _tiled_distances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances from each texel to the nearest and the second nearest of points in [0, 1), and the nearest's number.

    The tile repeats. All float or int[SIZE, SIZE]; distances in tiles.
    """
    v, u = (np.indices((SIZE, SIZE)) + 0.5) / SIZE
    nearest, second, number = np.full(u.shape, 9.0), np.full(u.shape, 9.0), np.zeros(u.shape, int)
    for place, (cx, cy) in enumerate(zip(x, y, strict=True)):
        distance = np.hypot((u - cx + 0.5) % 1 - 0.5, (v - cy + 0.5) % 1 - 0.5)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest, number = np.where(closer, distance, nearest), np.where(closer, place, number)
    return nearest, second, number


def herringbone(random: Random) -> Material:
    """Short boards that meet at right angles."""
    count, long = 16, 4
    size = SIZE // count
    row, column = np.indices((SIZE, SIZE)) // size
    lines, columns = np.indices((SIZE, SIZE)) % size
    shift = (column - row) % (2 * long)
    flat = shift < long
    along = np.where(flat, shift, 2 * long - 1 - shift)
    first_row, first_column = np.where(flat, row, row - along) % count, np.where(flat, column - along, column) % count
    tone = random.normal(0, 0.1, (count, count, 2))[first_row, first_column, flat.astype(int)]
    side = np.where(flat, lines, columns) == 0
    end = (along == 0) & (np.where(flat, columns, lines) == 0)
    fibres = np.where(flat, grain(random), grain(random).T)
    return tile(pick(random, UNSEEN.woods), fibres + tone - 0.28 * (side | end), float(random.uniform(1.1, 1.6)))


def hexagons(random: Random) -> Material:
    """Six-sided tiles; sometimes some of them in a second colour."""
    rows, columns = 8, 7
    row, column = np.indices((rows, columns)).reshape(2, -1)
    nearest, second, number = _tiled_distances((column + row % 2 / 2) / columns, row / rows)
    tone = random.normal(0, 0.04, rows * columns)
    if random.random() < 0.6:
        tone = tone + random.choice([-0.4, -0.25, 0.14]) * (random.random(rows * columns) < 0.35)
    joint = second - nearest < 0.009
    shade = np.where(joint, random.choice([-0.4, 0.12]), tone[number] + 0.02 * noise(random, 12))
    return tile(pick(random, (*STONES, (158, 98, 88), (104, 142, 150))), shade, float(random.uniform(1.0, 1.7)))


def terrazzo(random: Random) -> Material:
    """Chips of stone in polished cement."""
    chips = 160
    nearest, second, number = _tiled_distances(*random.random((2, chips)))
    radius = random.uniform(0.014, 0.04, chips)[number]
    stones = np.stack([pick(random, (*STONES, *UNSEEN.strong_walls, *UNSEEN.woods)) for _ in range(4)])
    colours = stones[random.integers(4, size=chips)]
    chip = (nearest < radius) & (second - nearest > 0.006)
    ground = pick(random, ((228, 224, 216), (206, 204, 202), (92, 92, 94)), 6)
    image = np.where(chip[..., None], colours[number], ground)
    return tile(image, 0.02 * noise(random, 2), float(random.uniform(0.9, 1.4)))


def cork(random: Random) -> Material:
    """Granules of cork, warm and speckled."""
    grains = 0.1 * noise(random, 3) + 0.05 * noise(random, 8) - 0.25 * (noise(random, 2) > 1.7)
    return tile(pick(random, ((178, 132, 88), (156, 108, 70), (196, 156, 110))), grains, 0.9)


def marble(random: Random) -> Material:
    """Slabs of veined stone."""
    cloud = noise(random, 24) + 0.5 * noise(random, 7)
    veins = np.exp(-14 * np.abs(cloud)) + 0.5 * np.exp(-20 * np.abs(noise(random, 36) + 0.3 * noise(random, 6)))
    lines, columns = np.indices((SIZE, SIZE)) % (SIZE // 2)
    colour = pick(random, (*STONES, (62, 74, 70)))
    shade = (0.5 if colour.mean() < 110 else -0.25) * veins + 0.03 * noise(random, 40)
    return tile(colour, np.where((lines == 0) | (columns == 0), -0.3, shade), float(random.uniform(1.2, 1.8)))


def polka_dots(random: Random) -> Material:
    """Wallpaper with staggered dots."""
    count = int(random.choice([4, 6, 8]))
    v, u = np.indices((SIZE, SIZE)) / SIZE * count
    odd = np.floor(v) % 2 / 2
    dot = np.hypot((u + odd) % 1 - 0.5, v % 1 - 0.5) < random.uniform(0.14, 0.3)
    ground, accent = pick(random, UNSEEN.walls, 5), pick(random, (*UNSEEN.strong_walls, *UNSEEN.cloths), 5)
    image = np.where(dot[..., None], accent * 0.5 + ground * 0.5, ground)
    return tile(image, 0.01 * noise(random, 3), 0.8)


def trellis(random: Random) -> Material:
    """Wallpaper with a lattice of curved lines."""
    count = int(random.choice([3, 4, 5]))
    v, u = np.indices((SIZE, SIZE)) / SIZE * 2 * np.pi * count
    wave = np.cos(u) + np.cos(v) + 0.35 * np.cos(u) * np.cos(v)
    line = np.abs(wave) < random.uniform(0.16, 0.3)
    ground = pick(random, UNSEEN.walls if random.random() < 0.5 else UNSEEN.strong_walls, 5)
    accent = np.clip(ground + random.choice([-46.0, 40.0]), 20, 245)
    return tile(np.where(line[..., None], accent, ground), 0.01 * noise(random, 3), 1.2)


def stacked_tiles(random: Random) -> Material:
    """A wall of narrow glazed tiles on end."""
    rows, columns = 4, 16
    row, column = np.indices((SIZE, SIZE)) // np.array([SIZE // rows, SIZE // columns]).reshape(2, 1, 1)
    tone = random.normal(0, 0.06, (rows, columns))[row, column]
    lines, across = np.indices((SIZE, SIZE)) % np.array([SIZE // rows, SIZE // columns]).reshape(2, 1, 1)
    joint = (lines < 1) | (across < 1)
    colour = pick(random, (*UNSEEN.strong_walls, *UNSEEN.walls))
    return tile(colour, np.where(joint, 0.2, tone + 0.02 * noise(random, 6)), float(random.uniform(0.9, 1.3)))


def boards(random: Random) -> Material:
    """Painted boards, upright, with a groove at each joint."""
    count = int(random.choice([8, 12]))
    across = np.arange(SIZE)[None] * count % SIZE / count
    groove = -0.22 * (across < 1.5) + 0.05 * ((across >= 1.5) & (across < 3))
    shade = groove.repeat(SIZE, axis=0) + 0.012 * noise(random, 2, 40).T
    colour = pick(random, UNSEEN.walls if random.random() < 0.6 else UNSEEN.strong_walls, 5)
    return tile(colour, shade, float(random.uniform(1.1, 1.5)))


def wainscot(random: Random) -> Material:
    """Framed panels up to the hip, paint above them."""
    height = (SIZE - 0.5 - np.arange(SIZE)[:, None]) / SIZE * HIGHEST
    across = np.arange(SIZE)[None] / SIZE * 8 % 1 * 0.4
    rail, top = random.uniform(0.85, 1.15), HIGHEST / SIZE * 1.5
    inset = np.minimum(np.minimum(across, 0.4 - across), np.minimum(height - 0.14, rail - 0.06 - height))
    shade = -0.14 * (np.abs(inset - 0.055) < 0.013) + 0.05 * (np.abs(inset - 0.03) < 0.012)
    shade = np.where(np.abs(height - rail) < 0.03, 0.05, shade) - 0.2 * (np.abs(height - rail + 0.04) < top / 2)
    panels = pick(random, ((240, 238, 230), (216, 220, 212), (150, 160, 150), (94, 104, 120)), 4)
    paint = pick(random, (*UNSEEN.walls, *UNSEEN.strong_walls), 5)
    image = np.where((height < rail + 0.03)[..., None], panels, paint)
    return tile(image, np.where(height < rail + 0.03, shade, 0) + 0.008 * noise(random, 3), HIGHEST)


def two_tone(random: Random) -> Material:
    """A strong colour up to the chest, a light one above, and a line between them."""
    height = (SIZE - 0.5 - np.arange(SIZE)[:, None]).repeat(SIZE, axis=1) / SIZE * HIGHEST
    edge = random.uniform(1.05, 1.5)
    low, high, line = (pick(random, colours, 5) for colours in (UNSEEN.strong_walls, UNSEEN.walls, UNSEEN.cloths))
    image = np.where((height < edge)[..., None], low, high)
    image = np.where((np.abs(height - edge) < 0.02)[..., None], line, image)
    return tile(image, 0.008 * noise(random, 30) + 0.01 * noise(random, 3), HIGHEST)


def boarded_ceiling(random: Random) -> Material:
    """A ceiling of light boards."""
    groove = -0.12 * (np.arange(SIZE)[:, None] % (SIZE // 12) < 1)
    colour = pick(random, ((240, 236, 226), (232, 220, 200)), 3)
    return tile(colour, groove.repeat(SIZE, axis=1) + 0.01 * noise(random, 2, 40), 1.6)


def patterned_cloth(random: Random) -> Material:
    """Cloth with dots or zigzags."""
    v, u = np.indices((SIZE, SIZE)) / SIZE * int(random.choice([4, 6, 8]))
    dots = np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.25
    zigzag = (v + np.abs(u % 1 - 0.5)) % 1 < 0.5
    ground, accent = pick(random, UNSEEN.cloths), pick(random, (*UNSEEN.cloths, *UNSEEN.walls))
    image = np.where((dots if random.random() < 0.5 else zigzag)[..., None], accent, ground)
    return tile(image, 0.05 * noise(random, 1) + 0.03 * noise(random, 12), 0.8)


UNSEEN_FLOORS: tuple[Tiler, ...] = (herringbone, hexagons, terrazzo, cork, marble)
UNSEEN_WALLPAPERS: tuple[Tiler, ...] = (polka_dots, trellis, stacked_tiles, boards, wainscot, two_tone)


def patterned_rug(random: Random) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: a whole rug: zigzags, a lattice, petals or spots."""
    v, u = np.indices((SIZE, SIZE)) / SIZE * 2 - 1
    ground, accent, third = (pick(random, (*UNSEEN.cloths, *UNSEEN.strong_walls)) for _ in range(3))
    angle, radius, kind = np.arctan2(v, u), np.hypot(u, v), random.integers(4)
    zigzag = (v * 5 + np.abs(u * 6 % 1 - 0.5) * 2) % 1 < 0.45
    lattice = np.abs(np.abs(u * 4 % 2 - 1) + np.abs(v * 4 % 2 - 1) - 1) < 0.16
    petals = (np.cos(angle * 8) * 0.12 + radius) * 4 % 1 < 0.5
    spots = np.hypot(u * 5 % 1 - 0.5, v * 5 % 1 - 0.5) < 0.32
    pattern = (zigzag, lattice, petals, spots)[kind]
    image = np.where(pattern[..., None], accent, ground)
    image = np.where(((np.maximum(np.abs(u), np.abs(v)) > 0.9) & (kind != 2))[..., None], third, image)
    return np.clip(image * (1 + 0.06 * noise(random, 1)[..., None]), 0, 255).astype(np.uint8)


def mounted_picture(random: Random) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: a picture on a mount: fields in a grid, contour lines or a twig with leaves."""
    v, u = np.indices((SIZE, SIZE)) / SIZE
    image = np.broadcast_to(pick(random, UNSEEN.walls, 5), (SIZE, SIZE, 3)).copy()
    kind = random.integers(3)
    if kind == 0:
        columns, rows = (np.sort(random.uniform(0.15, 0.85, 3)) for _ in range(2))
        field = np.searchsorted(columns, u) * 4 + np.searchsorted(rows, v)
        image = np.stack([pick(random, (*UNSEEN.cloths, *UNSEEN.walls), 12) for _ in range(16)])[field]
        lines = np.min([np.abs(u - place) for place in columns] + [np.abs(v - place) for place in rows], axis=0)
        image[lines < 0.012] = 30
    elif kind == 1:
        level = noise(random, 36) * 3
        image[level % 1 < 0.5] = pick(random, (*UNSEEN.cloths, *UNSEEN.strong_walls), 12)
        image[level > 3] = pick(random, UNSEEN.cloths, 12)
    else:
        image[np.abs(u - 0.5 - 0.06 * np.sin(v * 5)) < 0.008] = 60
        for step in range(7):
            across, along = u - 0.5 - 0.06 * np.sin(v * 5), v - 0.2 - 0.1 * step
            side = 1 if step % 2 else -1
            leaf = ((across * side - 0.13) / 0.12) ** 2 + ((along + 0.4 * across * side) / 0.04) ** 2 < 1
            image[leaf] = pick(random, ((84, 120, 84), (60, 100, 96), (150, 150, 84)), 12)
    mount = np.max([np.abs(u - 0.5), np.abs(v - 0.5)], axis=0) > 0.4
    image[mount] = (240, 238, 232)
    return np.clip(image * (1 + 0.02 * noise(random, 4)[..., None]), 0, 255).astype(np.uint8)


def distant_view(random: Random) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: what is seen through a window: a town, the sea or trees in mist."""
    v, u = np.indices((SIZE, SIZE)) / SIZE
    kind = random.integers(3)
    top, low = ((178, 200, 226), (240, 226, 206)) if kind else ((196, 206, 220), (246, 236, 224))
    image = np.array(top) * (1 - v[..., None]) + np.array(low) * v[..., None] + 6 * noise(random, 60, 16)[..., None]
    if kind == 0:
        for depth in range(3):
            tops = random.uniform(0.4 + 0.12 * depth, 0.75 + 0.08 * depth, 14 - 3 * depth)
            block = (u * len(tops)).astype(int)
            lit = ((u * 60 % 1 < 0.45) & (v * 44 % 1 < 0.5))[..., None] * 26.0
            colour = pick(random, ((176, 160, 150), (150, 156, 168), (186, 178, 168)), 8) - 18 * depth
            image = np.where((v > tops[block])[..., None], colour - lit, image)
    elif kind == 1:
        horizon = random.uniform(0.45, 0.6)
        waves = 14 * noise(random, 30, 3).T[..., None]
        image = np.where((v > horizon)[..., None], pick(random, ((84, 132, 158), (104, 150, 156)), 8) + waves, image)
        image = np.where((v > 0.9 + 0.02 * np.sin(u * 9))[..., None], (222, 206, 172), image)
    else:
        image = np.where((v > 0.86)[..., None], (138, 146, 110), image)
        for depth in range(18):
            place, width = random.random(), random.uniform(0.006, 0.01) * (1 + depth / 6)
            trunk = (np.abs(u - place) < width) & (v < 0.84 + depth * 0.008)
            image[trunk] = np.array((206, 206, 200)) - 6.5 * depth
    return np.clip(image, 0, 255).astype(np.uint8)
