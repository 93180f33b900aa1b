"""Renders the two example clips that ship with the package: walks through furnished rooms made of coloured boxes.

    python recipes/make_example_clips.py  # writes src/vega3d/assets/clips/{room,corridor}.mp4

World coordinates are in metres with z up; a room fills [0, width] x [0, depth] x [0, height]. A piece of furniture is
an array of boxes, float[n, 10]: lower corner, upper corner, colour in [0, 1], glow (1 = shows its colour unshaded).
Rays are stored as float[3, R], one column a ray.
"""

from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

CLIPS = Path("src/vega3d/assets/clips")
FPS, NUM_FRAMES = 8, 32
SUBSAMPLES = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))  # places in a pixel [px], 2x2 antialiasing
LIGHT_EDGE = 0.5  # each subsample sees the light at another corner of this square [m], which softens the shadows
MIN_DISTANCE = 1e-3  # [m]
LAMP = (0.5, 0.4, 0.96)  # place of the light, as a part of the room's size

Point = tuple[float, float, float]
WOOD, DARK, WHITE, GREY = (0.62, 0.40, 0.22), (0.36, 0.22, 0.13), (0.92, 0.91, 0.88), (0.45, 0.46, 0.48)
BLUE, RED, GREEN, YELLOW = (0.20, 0.36, 0.66), (0.72, 0.20, 0.18), (0.22, 0.50, 0.30), (0.88, 0.68, 0.20)
TEAL, SAND, SHADE, SKY = (0.16, 0.48, 0.50), (0.76, 0.58, 0.44), (1.0, 0.93, 0.72), (0.80, 0.90, 1.0)


class Scene(NamedTuple):
    """A room and the walk through it: from one point to another, looking from one point to another."""

    size: Point
    boxes: np.ndarray  # float[n, 10]
    wall: Point  # colour
    walk: tuple[Point, Point]
    gaze: tuple[Point, Point]
    sway: float  # [m], sideways, of the gaze
    pixels: tuple[int, int]  # width, height
    field_of_view: float  # horizontal [deg]


# Pieces at the origin, facing -y. A box: centre in x and y, bottom in z, size in x, y, z, colour (None: left open).
FURNITURE: dict[str, list[tuple[float, float, float, float, float, float, Point | None]]] = {
    "table": [
        (0, 0, 0.69, 1.3, 0.8, 0.05, None),
        *((x, y, 0, 0.07, 0.07, 0.69, None) for x in (-0.61, 0.61) for y in (-0.36, 0.36)),
    ],
    "chair": [
        (0, 0, 0.42, 0.44, 0.44, 0.05, None),
        *((x, y, 0, 0.04, 0.04, 0.42, None) for x in (-0.19, 0.19) for y in (-0.19, 0.19)),
        *((x, 0.2, 0.45, 0.04, 0.04, 0.45, None) for x in (-0.19, 0.19)),
        *((0, 0.2, z, 0.34, 0.03, 0.12, None) for z in (0.56, 0.76)),
    ],
    "bed": [
        (0, 0, 0.08, 1.6, 2.0, 0.22, DARK),
        (0, 1.0, 0, 1.64, 0.08, 1.0, DARK),
        (0, 0, 0.3, 1.54, 1.94, 0.2, WHITE),
        (0, -0.3, 0.3, 1.58, 1.38, 0.23, None),
        *((x, 0.74, 0.5, 0.58, 0.36, 0.12, WHITE) for x in (-0.36, 0.36)),
    ],
    "wardrobe": [
        (0, 0, 0, 1.2, 0.58, 2.05, None),
        *((x, -0.3, 0.12, 0.57, 0.03, 1.84, None) for x in (-0.3, 0.3)),
        *((x, -0.33, 1.0, 0.03, 0.04, 0.16, GREY) for x in (-0.06, 0.06)),
    ],
    "sofa": [
        (0, 0.34, 0, 1.8, 0.2, 0.84, None),
        (0, 0, 0, 1.8, 0.8, 0.25, None),
        *((x, 0, 0, 0.2, 0.86, 0.6, None) for x in (-0.8, 0.8)),
        *((x, -0.08, 0.25, 0.68, 0.68, 0.18, None) for x in (-0.36, 0.36)),
        *((x, 0.17, 0.43, 0.38, 0.16, 0.34, SAND) for x in (-0.4, 0.4)),
    ],
    "lamp": [
        *((0, 0, z, edge, edge, height, GREY) for z, edge, height in ((0, 0.3, 0.03), (0.03, 0.04, 1.33))),
        *((0, 0, z, edge, edge, 0.09, SHADE) for z, edge in ((1.36, 0.4), (1.45, 0.34), (1.54, 0.28))),
    ],
    "window": [
        (0, 0, 0.95, 1.42, 0.03, 1.2, WHITE),
        (0, -0.02, 1.0, 1.3, 0.02, 1.1, SKY),
        *((0, -0.03, z, width, 0.03, height, WHITE) for z, width, height in ((1, 0.05, 1.1), (1.53, 1.3, 0.05))),
    ],
    "door": [
        (0, 0, 0, 1.0, 0.03, 2.08, WHITE),
        *((0, -0.02, z, 0.86, 0.03, height, None) for z, height in ((0, 0.9), (0.92, 1.08))),
        (0.36, -0.06, 0.98, 0.1, 0.05, 0.04, GREY),
    ],
    "picture": [(0, 0, 1.35, 0.7, 0.03, 0.5, DARK), (0, -0.02, 1.4, 0.6, 0.02, 0.4, None)],
    "rug": [(0, 0, 0, 1.3, 2.2, 0.012, DARK), (0, 0, 0.012, 1.2, 2.1, 0.006, None)],
}


def place(name: str, x: float, y: float, colour: Point = WHITE, turns: int = 0) -> np.ndarray:
    """A piece of furniture moved, and turned counter-clockwise, seen from above, by quarter turns; float[n, 10]."""
    rows = []
    for cx, cy, bottom, width, depth, height, own in FURNITURE[name]:
        for _ in range(turns):
            cx, cy, width, depth = -cy, cx, depth, width
        lower, size = np.array([x + cx - width / 2, y + cy - depth / 2, bottom]), (width, depth, height)
        rows.append([*lower, *(lower + size), *(own or colour), own in (SHADE, SKY)])
    return np.array(rows, dtype=np.float32)


def room() -> Scene:
    pieces = [
        place("rug", 2.9, 2.3, SAND, turns=1),
        place("bed", 1.15, 3.9, BLUE),
        place("wardrobe", 0.35, 1.1, YELLOW, turns=1),
        place("table", 2.9, 2.3, WOOD),
        place("chair", 2.6, 3.0, GREEN),
        place("chair", 3.85, 2.3, GREEN, turns=3),
        place("sofa", 5.0, 2.6, RED, turns=3),
        place("lamp", 5.1, 4.5),
        place("window", 3.7, 4.98),
        place("picture", 0.02, 2.9, TEAL, turns=1),
    ]
    walk, gaze = ((4.9, 0.5, 1.55), (2.7, 0.5, 1.55)), ((0.6, 2.6, 0.8), (4.5, 3.6, 0.8))
    return Scene((5.5, 5.0, 2.6), np.concatenate(pieces), (0.86, 0.82, 0.74), walk, gaze, 0.0, (256, 192), 72)


def corridor() -> Scene:
    pieces = [
        *(place("rug", 1.15, y, RED) for y in (2.4, 5.0)),
        place("door", 0.02, 2.0, TEAL, turns=1),
        place("door", 2.38, 3.7, TEAL, turns=3),
        place("wardrobe", 0.33, 5.0, WOOD, turns=1),
        place("chair", 2.12, 2.1, BLUE, turns=3),
        place("chair", 2.12, 5.1, BLUE, turns=3),
        place("picture", 2.38, 5.1, RED, turns=3),
        place("sofa", 0.95, 7.0, GREEN),
        place("lamp", 2.1, 7.1),
        place("window", 0.95, 7.48),
    ]
    walk, gaze = ((1.2, 0.3, 1.55), (1.2, 3.2, 1.55)), ((1.2, 4.2, 1.05), (1.2, 7.1, 1.05))
    return Scene((2.4, 7.5, 2.6), np.concatenate(pieces), (0.72, 0.78, 0.80), walk, gaze, 0.9, (192, 256), 58)


def crossings(corners: np.ndarray, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float[3, R] twice: where each ray enters and leaves the box's slab of each axis, in lengths of its direction."""
    first, second = (corners[:3, None] - origins) / directions, (corners[3:, None] - origins) / directions
    return np.minimum(first, second), np.maximum(first, second)


def without_zeros(directions: np.ndarray) -> np.ndarray:
    return np.where(np.abs(directions) < 1e-6, np.float32(1e-6), directions).astype(np.float32)


def camera_rays(scene: Scene, time: float, shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The camera's place float[3, 1], and a direction for each pixel, float[3, H * W]."""
    (start, end), (first, last) = np.array(scene.walk), np.array(scene.gaze)
    origin = start + time * (end - start)
    forward = first + time * (last - first) + [scene.sway * np.sin(2 * np.pi * time), 0, 0] - origin
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    width, height = scene.pixels
    focal = width / 2 / np.tan(np.radians(scene.field_of_view) / 2)  # [px]
    x, y = np.meshgrid(np.arange(width) + shift[0] - width / 2, np.arange(height) + shift[1] - height / 2)
    directions = forward[:, None] + (np.outer(right, x) + np.outer(down, y)) / focal
    return origin[:, None].astype(np.float32), without_zeros(directions)


def nearest(scene: Scene, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each ray the distance to the first surface, its axis (0, 1, 2), and its box (-1: the room itself)."""
    leave = crossings(np.array([0, 0, 0, *scene.size], np.float32), origin, directions)[1]
    distance, axis = leave.min(axis=0), leave.argmin(axis=0)
    index = np.full(len(distance), -1)
    for number, corners in enumerate(scene.boxes[:, :6]):
        enter, leave = crossings(corners, origin, directions)
        near = enter.max(axis=0)
        hit = (near > MIN_DISTANCE) & (near < leave.min(axis=0)) & (near < distance)
        distance[hit], axis[hit], index[hit] = near[hit], enter[:, hit].argmax(axis=0), number
    return distance, axis, index


def shadowed(boxes: np.ndarray, points: np.ndarray, to_light: np.ndarray) -> np.ndarray:
    """bool[R]: whether a box stands between each point and the light."""
    blocked = np.zeros(points.shape[1], dtype=bool)
    for corners in boxes[boxes[:, 9] == 0, :6]:
        near, far = crossings(corners, points, to_light)
        blocked |= (near.max(axis=0) < np.minimum(far.min(axis=0), 1)) & (far.min(axis=0) > MIN_DISTANCE)
    return blocked


def room_colour(scene: Scene, points: np.ndarray, axis: np.ndarray, tones: np.ndarray) -> np.ndarray:
    """float[3, R]: floor boards, striped walls with a skirting board, a white ceiling."""
    x, y, z = points
    board = np.floor(y / 0.16).astype(int)
    along = x / 1.4 + 0.37 * board
    seam = (y / 0.16 % 1 < 0.06) | (along % 1 < 0.01)
    tone = tones[board % 64, np.floor(along).astype(int) % 64]
    floor = np.outer([0.66, 0.49, 0.33], tone * np.where(seam, 0.72, 1.0))
    wall = np.outer(scene.wall, np.where((x + y) / 0.4 % 1 < 0.5, 1.0, 0.955))
    wall = np.where(z < 0.1, np.array([WHITE]).T, wall)
    return np.where(axis == 2, np.where(z < scene.size[2] / 2, floor, 0.97), wall)


def shade(scene: Scene, time: float, shift: tuple[float, float], tones: np.ndarray) -> np.ndarray:
    """float[3, H * W], linear light: Lambert with one shadowed lamp, and an ambient term that fades into corners."""
    origin, directions = camera_rays(scene, time, shift)
    distance, axis, index = nearest(scene, origin, directions)
    points, rays = origin + distance * directions, np.arange(len(axis))
    normals = np.zeros_like(directions)
    normals[axis, rays] = -np.sign(directions[axis, rays])
    colour = np.where(index < 0, room_colour(scene, points, axis, tones), scene.boxes[index, 6:9].T)

    light = np.array(LAMP) * scene.size + LIGHT_EDGE * np.array([shift[0] - 0.5, shift[1] - 0.5, 0])
    above = points + 2 * MIN_DISTANCE * normals
    to_light = without_zeros(light[:, None] - above)
    length = np.linalg.norm(to_light, axis=0)
    lambert = np.clip((normals * to_light).sum(axis=0) / length, 0, None)
    direct = 1.15 * lambert / (1 + 0.06 * length**2) * ~shadowed(scene.boxes, above, to_light)

    corner = np.minimum(np.minimum(points, np.array(scene.size)[:, None] - points), 0.6)
    corner[axis, rays] = 0.6
    sides = np.array([0.86, 1.0, 0.93])[axis] + 0.6 * (normals[2] < 0)  # the ceiling gets light from the floor
    ambient = 0.42 * sides * (0.72 + 0.28 * corner.min(axis=0) / 0.6)
    return colour**2.2 * np.maximum(ambient + direct, np.where(index < 0, 0, scene.boxes[index, 9]))


def render(scene: Scene, time: float, tones: np.ndarray) -> np.ndarray:
    """uint8[H, W, 3]"""
    light = np.mean([shade(scene, time, shift, tones) for shift in SUBSAMPLES], axis=0)
    pixels = (255 * np.clip(light, 0, 1) ** (1 / 2.2)).round().astype(np.uint8)
    return np.ascontiguousarray(pixels.T).reshape(*scene.pixels[::-1], 3)


def write_clip(path: Path, frames: list[np.ndarray]) -> None:
    """H.264 in MP4; one thread, so that the same frames give the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "22", "preset": "slow", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)


def main() -> None:
    tones = np.random.default_rng(0).uniform(0.86, 1.06, (64, 64))  # of the floor boards
    for name, scene in (("room", room()), ("corridor", corridor())):
        frames = [render(scene, number / (NUM_FRAMES - 1), tones) for number in range(NUM_FRAMES)]
        write_clip(CLIPS / f"{name}.mp4", frames)


if __name__ == "__main__":
    main()
