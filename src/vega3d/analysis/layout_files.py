"""Readers of the files of posed RGB-D folders: images, matrices, tables of poses; errors name the file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vega3d.analysis.clips import ClipSource, ReadOptions
from vega3d.extras import optional_module
from vega3d.files import check_input

COLOUR_SUFFIXES = (".png", ".jpg", ".jpeg")
DEPTH_SUFFIXES = (".png", ".pgm")
MILLIMETRES = 1000.0  # units a metre
DEEPEST = 2  # levels of folders below the data's own in which clips lie


def clip_folders(folder: Path, is_clip: Callable[[Path], bool]) -> list[Path]:
    """The folder itself if it is a clip, else the clips up to two levels below it, in alphabetical order."""
    if is_clip(folder):
        return [folder]
    level, found = [folder], []
    for _ in range(DEEPEST):
        level = sorted(path for parent in level if not is_clip(parent) for path in parent.iterdir() if path.is_dir())
        found += [path for path in level if is_clip(path)]
    return found


def sources(layout: str, folder: Path, paths: Sequence[Path], scene: Callable[[Path], str]) -> list[ClipSource]:
    """Clips named by their place below `folder`."""
    found = []
    for path in paths:
        name = "_".join(path.relative_to(folder).parts) or path.resolve().name
        found.append(ClipSource(layout, path, name, scene(path)))
    return found


def files_by_stem(folder: Path, kind: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by what their names have before a kind such as `.color` and a suffix, in any case.

    Raises:
        ValueError: if two files have one stem.
    """
    found: dict[str, Path] = {}
    endings = [f"{kind}{suffix}" for suffix in suffixes]
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in endings if path.name.lower().endswith(ending)), None)
        if ending is None:
            continue
        stem = path.name[: -len(ending)]
        if stem in found:
            raise ValueError(f"{found[stem]} and {path} are of one frame. Leave one of them out.")
        found[stem] = path
    return found


def chosen_files(stems: Sequence[str], found: Mapping[str, Path], usual: Callable[[str], Path]) -> list[Path]:
    """A file for each stem; raises ValueError, with the usual name of the file, if there is none."""
    for stem in stems:
        if stem not in found:
            raise missing(usual(stem))
    return [found[stem] for stem in stems]


def missing(path: Path) -> ValueError:
    """The error for a file that a frame needs."""
    return ValueError(f"{path} is missing. Each frame needs colour, depth and pose: export the clip again.")


def read_text(path: Path) -> str:
    """Raises ValueError, naming the file, if it is missing, no regular file, or no text."""
    if not path.exists():
        raise missing(path)
    try:
        return check_input(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}. Export it again.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}. Export it again.") from error


def read_rgb(path: Path) -> np.ndarray:
    """uint8[H, W, 3]; raises ValueError if the file is missing or no image."""
    image = open_image(path)
    if image.mode.startswith(("I", "F")):  # of more than 8 bits, which would be cut off, not scaled
        raise ValueError(f"{path} has pixels of the kind {image.mode}, but colour has 8 bits. Export it again.")
    return np.asarray(image.convert("RGB"))


def read_depth(path: Path, units_per_metre: float = MILLIMETRES) -> np.ndarray:
    """float32[H, W] [m] of a 16-bit image; raises ValueError if the file is missing or of another kind."""
    image = np.asarray(open_image(path))
    if image.ndim != 2 or image.dtype.kind not in "ui" or image.dtype.itemsize < 2:
        raise ValueError(f"{path} is {image.dtype}{list(image.shape)}, but depth is one channel of 16 bits.")
    return (image / units_per_metre).astype(np.float32)


def open_image(path: Path) -> Image.Image:
    """The decoded image; raises ValueError if the file is missing or no image."""
    if not path.exists():
        raise missing(path)
    try:
        image = Image.open(check_input(path))
        image.load()
        return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}. Export it again.") from error


def read_matrix(path: Path) -> np.ndarray:
    """float64[4, 4], whatever its numbers; raises ValueError if the file is missing or holds something else."""
    words = read_text(path).split()
    try:
        values = np.array(words, float)
    except ValueError as error:
        raise ValueError(f"{path} is no table of numbers: {error}. Export it again.") from error
    if values.size not in (9, 16):
        raise ValueError(f"{path} has {values.size} numbers, but a matrix of 4 x 4 has 16.")
    side = 3 if values.size == 9 else 4
    matrix = np.eye(4)
    matrix[:side, :side] = values.reshape(side, side)
    return matrix


def pixel_centres_at_half(matrix: np.ndarray) -> np.ndarray:
    """float64[3, 3], from intrinsics that put the first pixel's centre at (0, 0), as OpenCV's calibration does."""
    intrinsics = matrix[:3, :3].copy()
    intrinsics[:2, 2] += 0.5
    return intrinsics


def usable_poses(
    names: Sequence[str], poses: np.ndarray, options: ReadOptions, source: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers of the frames with a pose, and the names of those without.

    Raises:
        ValueError: if poses are lost and `options` does not say to leave such frames out, or fewer than two are left.
    """
    known = np.isfinite(poses).all(axis=(1, 2))
    lost = tuple(name for name, usable in zip(names, known, strict=True) if not usable)
    if lost and not options.skip_lost:
        raise ValueError(
            f"{source}: the poses of {len(lost)} of {len(names)} frames are NaN or infinite (tracking was lost), the "
            f"first is {lost[0]}. Leave these frames out with --skip-lost."
        )
    if known.sum() < 2:
        raise ValueError(
            f"{source} has {known.sum()} frames with a pose, but at least 2 are needed. Give another clip."
        )
    return np.flatnonzero(known), lost


def same_size(frames: np.ndarray, depth: np.ndarray, source: str) -> None:
    """Raises ValueError unless depth has the frames' size, in layouts that have one set of intrinsics for both."""
    if frames.shape[1:3] != depth.shape[1:3]:
        raise ValueError(
            f"{source}: frames have {frames.shape[2]} x {frames.shape[1]} px and depth {depth.shape[2]} x "
            f"{depth.shape[1]}, and this layout does not say how they map. Register depth to colour first."
        )


def read_stack(paths: Sequence[Path], read: Callable[[Path], np.ndarray]) -> np.ndarray:
    """The images of several files as one array; raises ValueError, naming the file, if one has another size."""
    images = [read(path) for path in paths]
    for image, path in zip(images, paths, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{path} is {list(image.shape)}, but {paths[0]} is {list(images[0].shape)}. Mend the clip."
            )
    return np.stack(images)


def read_timed_rows(path: Path, columns: int) -> tuple[np.ndarray, list[list[str]]]:
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


def quaternion_poses(rows: Sequence[Sequence[str]], path: Path) -> np.ndarray:
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
    rotation = optional_module("scipy.spatial.transform").Rotation
    poses = np.tile(np.eye(4), (len(values), 1, 1))
    poses[:, :3, :3] = rotation.from_quat(values[:, 3:]).as_matrix()
    poses[:, :3, 3] = values[:, :3]
    return poses
