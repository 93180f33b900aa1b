"""TUM RGB-D: `rgb.txt`, `depth.txt` and `groundtruth.txt` with timestamps [s], 16-bit depth of 5000 units a metre.

Depth is registered to the colour images. Each colour image takes the depth and the pose nearest in time, up to 20 ms;
colour images without either are left out, and reported. Intrinsics are the published ones of freiburg1, 2 and 3, by
the name of the folder; lens distortion (freiburg1 and 2) is not undone.
"""

import re
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions, checked_intrinsics, evenly
from vega3d.analysis.layout_files import (
    clip_folders,
    read_depth,
    read_rgb,
    read_text,
    same_size,
    sources,
    stacked,
)
from vega3d.files import inside

FILES = "rgb.txt, depth.txt and groundtruth.txt"
UNITS_PER_METRE = 5000.0
LIMIT = 0.02  # [s]
HALF = 0.5  # the published centres count from the first pixel's centre
CAMERAS = {
    "1": (517.3, 516.5, 318.6 + HALF, 255.3 + HALF),
    "2": (520.9, 521.0, 325.1 + HALF, 249.7 + HALF),
    "3": (535.4, 539.2, 320.1 + HALF, 247.6 + HALF),
}


def is_clip(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("rgb.txt", "depth.txt", "groundtruth.txt"))


def find(folder: Path) -> list[ClipSource]:
    return sources("tum", folder, clip_folders(folder, is_clip), lambda path: path.resolve().name)


def read(source: ClipSource, options: ReadOptions) -> PosedClip:
    folder = source.path
    colour_times, colours = read_table(folder / "rgb.txt", 2)
    depth_times, depths = read_table(folder / "depth.txt", 2)
    pose_times, poses = read_table(folder / "groundtruth.txt", 8)
    depth_of, pose_of = nearest(colour_times, depth_times), nearest(colour_times, pose_times)
    paired = (depth_of >= 0) & (pose_of >= 0)
    if paired.sum() < 2:
        raise ValueError(
            f"{folder}: {paired.sum()} of {len(colours)} colour images have depth and a pose within {LIMIT} s, but at "
            "least 2 are needed. Check the timestamps."
        )
    usable = np.flatnonzero(paired)
    chosen = usable[evenly(len(usable), options.views)]
    colour_paths = [inside(folder, colours[frame][0]) for frame in chosen]
    depth_paths = [inside(folder, depths[frame][0]) for frame in depth_of[chosen]]
    frames = stacked([read_rgb(path) for path in colour_paths], colour_paths)
    depth = stacked([read_depth(path, UNITS_PER_METRE) for path in depth_paths], depth_paths)
    same_size(frames, depth, str(folder))
    intrinsics = checked_intrinsics(options.intrinsics or published(folder))
    chosen_poses = poses_of([poses[frame] for frame in pose_of[chosen]], folder / "groundtruth.txt")
    left_out = tuple(colours[frame][0] for frame in np.flatnonzero(~paired))
    return PosedClip(source.name, source.scene, frames, depth, intrinsics, intrinsics, chosen_poses, left_out)


def read_table(path: Path, columns: int) -> tuple[np.ndarray, list[list[str]]]:
    """Timestamps float64[n] [s], increasing, and the other columns; lines that begin with # are comments."""
    rows = [line.split() for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    wrong = [row for row in rows if len(row) != columns]
    if not rows or wrong:
        found = f"a row {' '.join(wrong[0])!r}" if wrong else "no rows"
        raise ValueError(f"{path} has {found}, but needs rows of {columns} columns, the first a timestamp [s].")
    try:
        times = np.array([row[0] for row in rows], float)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. The first column is a timestamp [s].") from error
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError(f"{path}: timestamps must be finite and increase. Sort the rows.")
    return times, [row[1:] for row in rows]


def nearest(wanted: np.ndarray, times: np.ndarray) -> np.ndarray:
    """int[n]: place in `times` of the one nearest to each wanted time, or -1 if it is further away than `LIMIT`."""
    after = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    candidates = np.stack([after - 1, np.minimum(after, len(times) - 1)])
    apart = np.abs(times[candidates] - wanted)
    best = apart.argmin(axis=0)
    places = np.take_along_axis(candidates, best[None], 0)[0]
    return np.where(apart.min(axis=0) <= LIMIT, places, -1)


def poses_of(rows: list[list[str]], path: Path) -> np.ndarray:
    """float64[n, 4, 4] world_from_camera of rows tx ty tz qx qy qz qw."""
    try:
        values = np.array(rows, float)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Rows are: timestamp tx ty tz qx qy qz qw.") from error
    norms = np.linalg.norm(values[:, 3:], axis=1)
    if not np.isfinite(values).all() or (np.abs(norms - 1) > 0.01).any():
        bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1) | ~(np.abs(norms - 1) <= 0.01))[0])
        raise ValueError(
            f"{path}: the pose {' '.join(rows[bad])!r} is not finite with a unit quaternion. Remove the row."
        )
    poses = np.tile(np.eye(4), (len(values), 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(values[:, 3:]).as_matrix()
    poses[:, :3, 3] = values[:, :3]
    return poses


def published(folder: Path) -> tuple[float, ...]:
    """fx, fy, cx, cy [px] of the camera that the folder's name tells; raises ValueError if it does not."""
    match = re.search(r"freiburg([123])", folder.resolve().name)
    if match is None:
        raise ValueError(
            f"The name of {folder} does not tell its camera (freiburg1, freiburg2 or freiburg3). "
            "Give --intrinsics fx,fy,cx,cy."
        )
    return CAMERAS[match[1]]
