"""Camera trajectories through a room: turning on the spot, circling something, and walking from place to place."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vega3d.geometry import look_at
from vega3d.rooms.scene.room import GRID_STEP, floor_grid, largest_region, standing_room
from vega3d.rooms.scene.scene import Scene

BODY = 0.3  # [m], kept between the camera and everything else
FIELDS_OF_VIEW = (50.0, 90.0)  # [deg]
EYE_HEIGHTS = (1.2, 1.7)  # [m]
LENGTHS = (2.0, 6.0)  # [m], of the kinds `orbit` and `walk`
FLAT, HEAD = 0.05, 1.9  # [m]: what ends below or begins above does not hinder, as in `standing_room`
SMOOTHINGS = 30  # of a route, at most
CANDIDATES = 10  # trajectories drawn, of which the one that sees most is taken


class Trajectory(NamedTuple):
    """The path of a camera through a room, a pose a frame."""

    kind: str  # "pan", "orbit" or "walk"
    world_from_camera: np.ndarray  # float[T, 4, 4]
    field_of_view: float  # along the width [deg]


class _Ground(NamedTuple):
    """Where the camera of a room may be."""

    centres: np.ndarray  # float[n, m, 2], the middle of each square of the floor's grid [m]
    free: np.ndarray  # bool[n, m]
    obstacles: np.ndarray  # float[B, 6]: centre, cosine and sine of the yaw, and half the sides of what hinders [m]
    scene: Scene

    def clear(self, points: np.ndarray) -> np.ndarray:
        """bool[...]: `standing_room` at all of float[..., n, 2], for all boxes at once, as most time goes here."""
        centre_x, centre_y, cos, sin, width, depth = self.obstacles.T
        x, y = points[..., :1] - centre_x, points[..., 1:] - centre_y  # float[..., n, B]
        across = np.maximum(np.abs(x * cos + y * sin) - width, 0)
        along = np.maximum(np.abs(y * cos - x * sin) - depth, 0)
        away = (across**2 + along**2 >= BODY**2).all(axis=(-2, -1))
        return np.asarray(away & self.scene.room.contains(points, BODY).all(axis=-1))

    def draw(self, random: np.random.Generator) -> np.ndarray:
        squares = np.argwhere(self.free)
        return self.centres[tuple(squares[random.integers(len(squares))])]


def sample_trajectory(scene: Scene, number: int, num_frames: int = 16, kind: str | None = None) -> Trajectory:
    """Of ten trajectories that are drawn, the one that has most objects in view.

    Args:
        scene: the room; the same scene and number give the same trajectory.
        number: which trajectory of the room; each has a random stream of its own.
        num_frames: frames T, evenly spread over the path.
        kind: one of `TRAJECTORY_KINDS`; drawn if None.

    Raises:
        ValueError: if there are no frames, or the kind is unknown, or the camera has no place in the room.
    """
    if num_frames < 1:
        raise ValueError(f"A trajectory has at least 1 frame, but got {num_frames}.")
    if kind is not None and kind not in TRAJECTORY_KINDS:
        raise ValueError(f"There is no trajectory {kind!r}. Choose one of {list(TRAJECTORY_KINDS)}.")
    return _sample(_ground(scene), number, num_frames, kind)


def sample_trajectories(scene: Scene, count: int, num_frames: int = 16) -> list[Trajectory]:
    """The first trajectories of a room, as `sample_trajectory` gives them; what they share is made once."""
    if num_frames < 1:
        raise ValueError(f"A trajectory has at least 1 frame, but got {num_frames}.")
    ground = _ground(scene)
    return [_sample(ground, number, num_frames, None) for number in range(count)]


def _sample(ground: _Ground, number: int, num_frames: int, kind: str | None) -> Trajectory:
    random = np.random.default_rng(np.random.SeedSequence([ground.scene.seed, 2, number]))
    drawn = str(random.choice(list(TRAJECTORY_KINDS), p=[0.2, 0.3, 0.5]))
    field_of_view = float(random.uniform(*FIELDS_OF_VIEW))
    best, best_score = None, -1.0
    for _ in range(CANDIDATES):
        path, gaze = TRAJECTORY_KINDS[kind or drawn](ground, num_frames, random)
        score = _in_view(ground.scene, path, gaze, field_of_view)
        if score > best_score:
            best, best_score = (path, gaze), score
    assert best is not None
    poses = np.stack([look_at(eye, target) for eye, target in zip(*best, strict=True)])
    return Trajectory(kind or drawn, poses, field_of_view)


def _ground(scene: Scene) -> _Ground:
    centres = floor_grid(scene.room)
    boxes = [item.box for item in scene.objects]
    free = largest_region(standing_room(scene.room, boxes, centres, BODY))
    if not free.any():
        raise ValueError(f"The camera has no free place in the room of seed {scene.seed}. Use another seed.")
    obstacles = [
        (*box.center[:2], np.cos(box.yaw), np.sin(box.yaw), *np.asarray(box.size[:2]) / 2)
        for box in boxes
        if box.center[2] + box.size[2] / 2 > FLAT and box.center[2] - box.size[2] / 2 < HEAD
    ]
    return _Ground(centres, free, np.array(obstacles).reshape(-1, 6), scene)


def _in_view(scene: Scene, path: np.ndarray, gaze: np.ndarray, field_of_view: float) -> float:
    """A score: how many centres of objects come into the image, and, in logarithms, how many are in each frame."""
    forward = gaze - path
    forward = forward / np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    axes = np.stack([right, np.cross(forward, right), forward], axis=1)  # float[T, 3, 3], camera_from_world
    centers = np.array([item.box.center for item in scene.objects])
    x, y, depth = ((centers - path[:, None]) @ axes.transpose(0, 2, 1)).transpose(2, 0, 1)  # float[T, K] each
    reach = depth * np.tan(np.radians(field_of_view) / 2)
    seen = (depth > 0.3) & (np.abs(x) < reach) & (np.abs(y) < reach)
    return float(seen.any(axis=0).sum() / 3 + 4 * np.log1p(seen.sum(axis=1)).mean())


def _targets(path: np.ndarray, headings: np.ndarray, pitch: np.ndarray | float) -> np.ndarray:
    """float[T, 3]: points one metre ahead, by heading and pitch [rad]."""
    down = np.broadcast_to(pitch, headings.shape)
    ahead = np.stack([np.cos(headings) * np.cos(down), np.sin(headings) * np.cos(down), -np.sin(down)], axis=1)
    return path + ahead


def _eyes(places: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """float[T, 3]: places float[T, 2] at eye height, with the sway of a step."""
    moved = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])
    return np.column_stack([places, random.uniform(*EYE_HEIGHTS) + 0.015 * np.sin(moved * 2 * np.pi / 0.7)])


def _pan(ground: _Ground, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Turns by 120 to 330 degrees on one spot."""
    path = _eyes(np.tile(ground.draw(random), (count, 1)), random)
    turn = np.radians(random.uniform(120, 330)) * random.choice([-1, 1])
    headings = random.uniform(-np.pi, np.pi) + np.linspace(0, turn, count)
    return path, _targets(path, headings, np.radians(random.uniform(2, 18)))


def _orbit(ground: _Ground, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Circles a point and looks at it, as far as the furniture lets it; turns on the spot where it never does."""
    boxes = [item.box for item in ground.scene.objects if item.box.center[2] < 1.3]
    for _ in range(40):
        target = boxes[random.integers(len(boxes))].center if boxes else np.array([*ground.draw(random), 0.7])
        radius, start = random.uniform(1.0, 2.4), random.uniform(-np.pi, np.pi)
        sweep = random.uniform(max(0.7, LENGTHS[0] / radius), 2.6) * random.choice([-1, 1])
        angles = start + np.linspace(0, sweep, count)
        places = target[:2] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        fine = start + np.linspace(0, sweep, 40)
        if ground.clear(target[:2] + radius * np.stack([np.cos(fine), np.sin(fine)], axis=1)):
            path = _eyes(places, random)
            return path, np.broadcast_to([*target[:2], min(target[2], path[0, 2] - 0.2)], path.shape)
    return _pan(ground, count, random)


def _walk(ground: _Ground, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Walks 2 to 6 m around the furniture, looking ahead and to the sides; turns on the spot in very small rooms."""
    for _ in range(12):
        route = _route(ground, ground.draw(random), random)
        if route is None:
            continue
        steps = np.linalg.norm(np.diff(route, axis=0), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        stops = np.linspace(0, along[-1], count)
        places = np.stack([np.interp(stops, along, route[:, axis]) for axis in (0, 1)], axis=1)
        ahead = np.stack([np.interp(stops + 0.6, along, route[:, axis]) for axis in (0, 1)], axis=1) - places
        last = route[-1] - route[max(0, np.searchsorted(along, along[-1] - 0.6) - 1)]
        ahead = np.where(np.linalg.norm(ahead, axis=1, keepdims=True) < 0.3, last, ahead)
        headings = _smooth(np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0])), 2)
        reach = np.radians(random.uniform(10, 50))
        swing = reach * np.sin(np.linspace(0, random.uniform(3, 7), count) + random.uniform(0, 6))
        path = _eyes(places, random)
        return path, _targets(path, headings + swing, np.radians(random.uniform(2, 16)))
    return _pan(ground, count, random)


def _smooth(values: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        padded = np.concatenate([values[:1], values, values[-1:]])
        values = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return values


def _route(ground: _Ground, start: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """float[n, 2]: a smooth free path of 2 to 6 m from a free square's middle [m], or None if there is none."""
    origin = tuple(np.round((start - GRID_STEP / 2) / GRID_STEP).astype(int))
    longest = random.uniform(*LENGTHS)
    most = int(longest * 1.2 / GRID_STEP) + 2  # as far as a way back from an end looks
    steps = _steps_from(ground.free, origin, most)
    away = steps * GRID_STEP
    ends = np.argwhere((steps >= 0) & (away <= longest * 1.2) & (away > max(LENGTHS[0], longest * 0.6)))
    if not len(ends):
        return None
    square, squares = tuple(ends[random.integers(len(ends))]), []
    while square != origin:
        squares.append(square)
        around = [(square[0] + i, square[1] + j) for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        around = [near for near in around if all(0 <= k < n for k, n in zip(near, steps.shape, strict=True))]
        square = min((near for near in around if steps[near] >= 0), key=lambda near: (steps[near], random.random()))
    route = np.array([ground.centres[square] for square in [*squares, origin]][::-1])
    smoother = [route]
    for _ in range(SMOOTHINGS):
        last = smoother[-1]
        smoother.append(np.concatenate([last[:1], (last[:-2] + 2 * last[1:-1] + last[2:]) / 4, last[-1:]]))
    clear = ground.clear(np.stack(smoother[1:]))
    route = smoother[SMOOTHINGS if clear.all() else int(clear.argmin())]
    length = np.linalg.norm(np.diff(route, axis=0), axis=1).sum()
    halfway = (route[1:] + route[:-1]) / 2
    return route if LENGTHS[0] <= length <= LENGTHS[1] and ground.clear(halfway) else None


def _steps_from(free: np.ndarray, origin: tuple, most: int) -> np.ndarray:
    """int[n, m]: steps between free 4-neighbours from a square of the grid, up to `most`; -1 where none lead.

    A whole map is one integer with a bit a square, because arrays this small cost more in calls than in work.
    """
    rows, columns = free.shape
    width = columns + 1  # an empty column parts a row from the next one
    size = (rows * width + 7) // 8
    padded = np.pad(free, ((0, 0), (0, 1)))
    left = int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")
    fronts: list[bytes] = []
    front = 1 << int(origin[0] * width + origin[1])  # a Python integer, which has no largest value
    while front and len(fronts) <= most:
        left &= ~front
        fronts.append(front.to_bytes(size, "little"))
        front = (front << 1 | front >> 1 | front << width | front >> width) & left
    bits = np.unpackbits(np.frombuffer(b"".join(fronts), np.uint8).reshape(-1, size), axis=1, bitorder="little")
    count, square = np.nonzero(bits)
    steps = np.full(size * 8, -1)
    steps[square] = count
    return steps[: rows * width].reshape(rows, width)[:, :-1]


TRAJECTORY_KINDS: dict[str, Callable] = {"pan": _pan, "orbit": _orbit, "walk": _walk}
