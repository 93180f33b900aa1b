"""Seeded textures of floors, walls and cloth: a tile that repeats, and its edge in metres."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SIZE = 256  # texels along a tile
Random = np.random.Generator


class Material(NamedTuple):
    """
    Args:
        image: uint8[SIZE, SIZE, 3], sRGB; repeats in both directions.
        edge: of the tile [m].
    """

    image: np.ndarray
    edge: float


WOODS = ((176, 128, 84), (140, 92, 56), (201, 164, 120), (110, 74, 48), (188, 150, 112), (158, 134, 110), (92, 66, 50))
WALLS = ((232, 228, 218), (214, 221, 226), (226, 214, 196), (206, 216, 204), (238, 236, 232), (222, 206, 204))
STRONG_WALLS = ((134, 156, 172), (176, 140, 118), (142, 158, 130), (196, 170, 112), (112, 122, 146), (170, 120, 120))
CLOTHS: tuple[tuple[int, int, int], ...] = (
    (152, 46, 50),
    (44, 74, 122),
    (188, 170, 138),
    (84, 108, 84),
    (70, 70, 78),
    (200, 196, 188),
    (178, 116, 58),
)
CLOTHS += ((112, 68, 110), (50, 120, 126), (206, 178, 92))


def pick(random: Random, colours: tuple, spread: float = 10.0) -> np.ndarray:
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


def wood(random: Random) -> Material:
    """Smooth wood, for furniture."""
    return tile(pick(random, WOODS), grain(random), 1.0)


def planks(random: Random) -> Material:
    """A floor of boards, ends staggered."""
    rows = int(random.choice([8, 16]))
    height = SIZE // rows
    row, column = np.arange(SIZE)[:, None] // height, np.arange(SIZE)[None]
    ends = random.integers(0, SIZE, rows)[row]
    board = (column - ends) % SIZE // (SIZE // 2)
    tone = random.normal(0, 0.09, (rows, 2))[row, board]
    joint = (np.arange(SIZE)[:, None] % height == 0) | ((column - ends) % (SIZE // 2) == 0)
    return tile(pick(random, WOODS), grain(random) + tone - 0.3 * joint, float(random.uniform(1.2, 2.0)))


def parquet(random: Random) -> Material:
    """Squares of strips, turned from square to square."""
    cells = 4
    size = SIZE // cells
    row, column = np.indices((SIZE, SIZE)) // size
    turned = (row + column) % 2 == 1
    lines, columns = np.indices((SIZE, SIZE)) % size
    strip = np.where(turned, columns, lines) // (size // 4)
    tone = random.normal(0, 0.07, (cells, cells, 4))[row, column, strip]
    fibres = np.where(turned, grain(random).T, grain(random))
    joint = (np.where(turned, columns, lines) % (size // 4) == 0) | (lines == 0) | (columns == 0)
    return tile(pick(random, WOODS), fibres + tone - 0.22 * joint, float(random.uniform(1.2, 1.8)))


def tiles(random: Random) -> Material:
    """Square tiles with light or dark joints; sometimes a chequerboard."""
    cells = int(random.choice([2, 4]))
    size = SIZE // cells
    row, column = np.indices((SIZE, SIZE)) // size
    tone = random.normal(0, 0.03, (cells, cells))[row, column]
    if random.random() < 0.3:
        tone = tone - 0.55 * ((row + column) % 2)
    lines, columns = np.indices((SIZE, SIZE)) % size
    joint = (lines < 2) | (columns < 2)
    colour = pick(random, (*WALLS, (150, 150, 148), (178, 160, 140), (120, 124, 128)))
    shade = 0.03 * noise(random, 16) + tone
    return tile(colour, np.where(joint, random.choice([-0.35, -0.2, 0.1]), shade), 0.4 * cells)


def carpet(random: Random) -> Material:
    """Short pile."""
    shade = 0.07 * noise(random, 1) + 0.03 * noise(random, 30)
    return tile(pick(random, (*CLOTHS, *WALLS)), shade, 1.0)


def concrete(random: Random) -> Material:
    """Grey and cloudy."""
    return tile(
        pick(random, ((150, 150, 148), (172, 168, 160))), 0.05 * noise(random, 40) + 0.02 * noise(random, 3), 3.0
    )


def plaster(random: Random) -> Material:
    """A painted wall."""
    colour = pick(random, WALLS if random.random() < 0.75 else STRONG_WALLS, 6)
    return tile(colour, 0.008 * noise(random, 30) + 0.012 * noise(random, 3), 1.5)


def stripes(random: Random) -> Material:
    """Wallpaper with upright stripes of two near tones."""
    count = int(random.choice([4, 8, 16]))
    band = (np.arange(SIZE)[None] * count // SIZE % 2).repeat(SIZE, axis=0)
    return tile(
        pick(random, (*WALLS, *STRONG_WALLS)), random.uniform(0.05, 0.16) * band + 0.01 * noise(random, 3), 1.2
    )


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


def fabric(random: Random) -> Material:
    """Woven cloth; plain, striped or chequered."""
    weave = 0.05 * noise(random, 1) + 0.03 * noise(random, 12)
    colour, kind, count = pick(random, CLOTHS), random.random(), int(random.choice([4, 8]))
    band = (np.arange(SIZE) * count // SIZE % 2).astype(float)
    if kind < 0.25:
        weave = weave + random.uniform(0.2, 0.6) * band[None]
    elif kind < 0.45:
        weave = weave + 0.25 * (band[None] + band[:, None])
    return tile(colour * 0.8, weave, 0.8)


FLOORS: tuple[Callable[[Random], Material], ...] = (planks, parquet, tiles, carpet, concrete)
WALLPAPERS: tuple[Callable[[Random], Material], ...] = (plaster, plaster, plaster, stripes, bricks)


def rug(random: Random) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: a whole rug, with a border and a pattern."""
    y, x = np.abs(np.indices((SIZE, SIZE)) / SIZE * 2 - 1)
    ground, accent, border = (pick(random, CLOTHS) for _ in range(3))
    kind = random.integers(4)
    rings = [np.maximum(x, y) * 6 % 2 < 1, (x + y) * 8 % 2 < 1, x * 10 % 2 < 0.6, np.hypot(x, y) > 0.7][kind]
    image = np.where(rings[..., None], ground, accent if random.random() < 0.7 else ground * 0.9)
    image = np.where((np.maximum(x, y) > random.uniform(0.82, 0.97))[..., None], border, image)
    return np.clip(image * (1 + 0.06 * noise(random, 1)[..., None]), 0, 255).astype(np.uint8)


def painting(random: Random) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: an abstract picture: hills, discs or bars."""
    image = np.broadcast_to(pick(random, (*WALLS, *STRONG_WALLS)), (SIZE, SIZE, 3)).copy()
    y, x = np.indices((SIZE, SIZE)) / SIZE
    kind = random.integers(3)
    for step in range(int(random.integers(3, 7))):
        a, b, c = random.random(3)
        bars = (np.abs(x - a) < 0.1 * b + 0.03) & (y > c / 2)
        hills = y > 0.3 + step * 0.12 + 0.1 * np.sin(x * (4 + 6 * a) + 6 * b)
        shape = (hills, np.hypot(x - a, y - b) < 0.1 + c / 5, bars)[kind]
        image[shape] = pick(random, (*CLOTHS, *STRONG_WALLS), 20)
    return np.clip(image * (1 + 0.03 * noise(random, 4)[..., None]), 0, 255).astype(np.uint8)


def view(random: Random) -> np.ndarray:
    """uint8[SIZE, SIZE, 3]: what is seen through a window: sky, far hills, a lawn."""
    y, x = np.indices((SIZE, SIZE)) / SIZE
    sky = np.stack([150 + 70 * y, 190 + 45 * y, 242 + 8 * y], axis=-1) + 8 * noise(random, 50, 20)[..., None]
    horizon = random.uniform(0.55, 0.8) + 0.03 * np.sin(x * random.uniform(6, 14) + random.uniform(0, 6))
    land = pick(random, ((96, 128, 80), (120, 140, 96), (130, 126, 120))) * (1 + 0.1 * noise(random, 8)[..., None])
    return np.clip(np.where((y > horizon)[..., None], land, sky), 0, 255).astype(np.uint8)
