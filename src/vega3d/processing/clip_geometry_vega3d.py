"""`ClipGeometry`, depth and cameras of the frames of a clip, and where its visual tokens are in the world.

Conventions are those of `vega3d.geometry`: metres, z up in the world, a camera looks along +z with +x to the right and
+y down, and the centre of the first pixel is at (0.5, 0.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RIGID = 1e-2  # largest deviation of R^T R from the identity that rounding in text files leaves
FARTHEST = 200.0  # median depth [m] above which it is taken for millimetres
MIDDLE = (0.3, 0.7)  # share of an image's edge where a principal point may be: that of half the size is at 0.25
DEPTH_HOLES = ("mask", "average")
SAMPLES = 16  # rows and columns of pixels of a frame that are compared with the next frame
AGREEMENT = 0.05  # relative difference of two depths of one point
IN_VIEW = 0.1  # share of points that must be seen again for their depths to say anything
TRUSTED = 0.5  # share of equal depths above which poses may be right
CLEARLY_LESS = 0.75
PER_VISUAL = "Give a list with an entry for each image and then each video, None where there is none."


@dataclass(frozen=True, eq=False)
class ClipGeometry:
    """Depth and cameras of T frames. Depth and colour share the camera's centre and axes.

    Attributes:
        depth: float32[T, h, w], along the optical axis [m]; 0, NaN and infinity are holes.
        intrinsics: float64[3, 3] or float64[T, 3, 3], of the depth images [px].
        world_from_camera: float64[T, 4, 4], rigid [m].
        shown: left, top, right, bottom of the part of a depth image that the frames show [px]; None if they show all
            of it and have its size.
        source: what it belongs to, for messages.

    Raises:
        ValueError: for other shapes or types, depth that is negative or no metres, poses that are not rigid, or
            intrinsics of an image of another size.
    """

    depth: np.ndarray
    intrinsics: np.ndarray
    world_from_camera: np.ndarray
    shown: tuple[float, float, float, float] | None = None
    source: str = "the clip"

    def __post_init__(self):
        for name, dtype in (("depth", np.float32), ("intrinsics", np.float64), ("world_from_camera", np.float64)):
            object.__setattr__(self, name, float_array(name, getattr(self, name), dtype, self.source))
        check_depth(self.depth, self.source)
        check_poses(self.world_from_camera, len(self.depth), self.source)
        check_intrinsics(self.intrinsics, self.depth.shape, self.source)

    def __len__(self) -> int:
        return len(self.depth)

    def of_frames(self, chosen: np.ndarray, count: int) -> "ClipGeometry":
        """That of some frames of a clip of `count`; raises ValueError if it is not that of all of them."""
        if len(self) != count:
            raise ValueError(
                f"{self.source} has {count} frames, but depth and poses of {len(self)}. Give those of every frame, "
                "also of frames that are not sampled."
            )
        intrinsics = self.intrinsics if self.intrinsics.ndim == 2 else self.intrinsics[chosen]
        return ClipGeometry(self.depth[chosen], intrinsics, self.world_from_camera[chosen], self.shown, self.source)

    def check_frames(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless it is that of frames [T, H, W, 3] of this shape."""
        if len(self) != shape[0]:
            raise ValueError(f"{self.source} has {shape[0]} frames, but depth and poses of {len(self)}.")
        if self.shown is None and self.depth.shape[1:] != shape[1:3]:
            raise ValueError(
                f"{self.source} has frames of {shape[2]} x {shape[1]} px, but depth of {self.depth.shape[2]} x "
                f"{self.depth.shape[1]} px. Resize depth to the frames, to the nearest pixel, and give the "
                "intrinsics of the frames; a folder in a known layout is read with `read_posed_video`."
            )


def float_array(name: str, given: Any, dtype: type, source: str) -> np.ndarray:
    """The values as an array of `dtype`; raises ValueError if they are no numbers, or depth counts whole units."""
    try:
        array = given if isinstance(given, np.ndarray) else plain_array(given)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{source}: {name} is no array: {error} Give rows of one length.") from error
    if array.dtype.kind not in ("f" if name == "depth" else "fiu"):
        raise ValueError(f"{source}: {name} is {array_type(array)}, but must be floating point. Convert it to metres.")
    return array.astype(dtype, copy=False)


def plain_array(given: Any) -> np.ndarray:
    """Lists or a tensor as an array; numpy has no bfloat16, which becomes float32."""
    import torch  # not above: a refusal of poses on disk does not wait for it

    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = given.float() if given.dtype == torch.bfloat16 else given
    return np.asarray(given)


def is_tensor(given: Any) -> bool:
    import torch

    return isinstance(given, torch.Tensor)


def array_type(array: np.ndarray) -> str:
    """Such as `uint8[4, 48, 64, 3]`."""
    return f"{array.dtype}{list(array.shape)}"


def check_depth(depth: np.ndarray, source: str) -> None:
    """Raises ValueError unless depth is float[T, h, w] in metres, with a depth somewhere."""
    if depth.ndim != 3 or not depth.size:
        raise ValueError(f"{source}: depth must be float[T, h, w], one image a frame, but is {array_type(depth)}.")
    if (depth < 0).any():
        raise ValueError(f"{source}: depth has {np.nanmin(depth):g} m, but must be at least 0. Mark holes with 0.")
    known = depth[has_depth(depth)]
    if not known.size:
        raise ValueError(f"{source}: no frame has any depth. Leave depth, intrinsics and poses out.")
    if np.median(known) > FARTHEST:
        raise ValueError(
            f"{source}: the median depth is {np.median(known):g} m, but at most {FARTHEST:g} m is taken for metres. "
            "Divide millimetres by 1000."
        )


def has_depth(depth: np.ndarray) -> np.ndarray:
    """bool[...]: where there is a depth, and no hole."""
    return np.isfinite(depth) & (depth > 0)


def check_poses(poses: np.ndarray, count: int, name: str) -> None:
    """Raises ValueError, naming the first bad view, unless poses are finite and rigid float[count, 4, 4]."""
    if poses.shape != (count, 4, 4):
        raise ValueError(f"{name}: poses must be [{count}, 4, 4], one a frame, but got {list(poses.shape)}.")
    lost = np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))
    if len(lost):
        raise ValueError(
            f"{name}: the poses of {len(lost)} of {count} views are NaN or infinite, the first is view {lost[0]}. "
            "Leave those frames out."
        )
    rotation = poses[:, :3, :3]
    deviation = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - np.eye(3)).max(axis=(1, 2))
    mirrored, last_row = np.linalg.det(rotation) < 0, (poses[:, 3] != (0, 0, 0, 1)).any(axis=1)
    for bad, why in (
        (deviation > RIGID, "is not rigid (R^T R differs from the identity by {:.3g}, at most {} is rounding)"),
        (mirrored, "is not rigid (it mirrors: its determinant is below 0)"),
        (last_row, "has the last row {row}, but must have 0 0 0 1"),
    ):
        if bad.any():
            view = int(bad.argmax())
            what = why.format(deviation[view], RIGID, row=" ".join(f"{value:g}" for value in poses[view, 3]))
            raise ValueError(f"{name}: the pose of view {view} {what}. Give camera-to-world matrices in metres.")


def check_intrinsics(intrinsics: np.ndarray, depth_shape: tuple[int, ...], source: str) -> None:
    """Raises ValueError unless intrinsics are pinhole matrices, one or one a frame, of images [T, h, w]."""
    count, height, width = depth_shape
    if intrinsics.shape not in ((3, 3), (count, 3, 3)):
        raise ValueError(f"{source}: intrinsics must be [3, 3] or [{count}, 3, 3], but are {list(intrinsics.shape)}.")
    focal, center = intrinsics[..., (0, 1), (0, 1)], intrinsics[..., :2, 2]
    if not (np.isfinite(intrinsics).all() and (focal > 0).all() and (intrinsics[..., 2, :] == (0, 0, 1)).all()):
        raise ValueError(
            f"{source}: intrinsics must be finite, with focal lengths above 0 and the last row 0 0 1, but are "
            f"{intrinsics.tolist()}."
        )
    place = center / (width, height)
    if ((place < MIDDLE[0]) | (place > MIDDLE[1])).any():
        far = np.abs(place - 0.5).reshape(-1, 2).max(-1).argmax()
        x, y = center.reshape(-1, 2)[far]
        raise ValueError(
            f"{source}: the principal point ({x:g}, {y:g}) is not in the middle of an image of {width} x {height} px "
            f"({MIDDLE[0]:.0%} to {MIDDLE[1]:.0%} of an edge). Give intrinsics of this size: scale the first two rows."
        )


# --- Where tokens are ------------------------------------------------------------------------------------------------


def token_positions(
    geometry: ClipGeometry, token_grid: Sequence[int], depth_holes: str = "mask"
) -> tuple[np.ndarray, np.ndarray]:
    """The mean world point of the pixels of each visual token.

    A token (t, row, column) sees the pixels of its cell in the frames 2t and 2t + 1. Frames are resized as a whole, so
    that a cell is the same share of an image of any size; a pixel belongs to the cell of its centre.

    Args:
        geometry: of the T frames that the model sees.
        token_grid: (t, rows, columns) of the tokens, t of two frames each.
        depth_holes: `mask` leaves holes out; `average` counts each as a point in the camera, as the official code.

    Returns:
        float32[N, 3] [m], in (t, row, column) order, zeros where there is none; and bool[N], where there is one.
    """
    count, height, width = geometry.depth.shape
    t, rows, columns = token_grid
    if t != (count + 1) // 2:
        raise ValueError(f"{geometry.source}: {t} rows of tokens have no {count} frames with depth.")
    left, top, right, bottom = geometry.shown or (0.0, 0.0, width, height)
    in_rows, in_columns = cells(height, top, bottom, rows), cells(width, left, right, columns)
    valid = has_depth(geometry.depth)
    depth = np.where(valid, geometry.depth, 0).astype(np.float64)
    # A point is R K^-1 (u, v, 1) depth + t, which is linear in depth, so that sums over cells come before cameras.
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    part = cell_sums(depth, in_rows, in_columns * x), cell_sums(depth, in_rows * y, in_columns)
    sums = np.stack([*part, cell_sums(depth, in_rows, in_columns)], axis=-1)  # float[T, rows, columns, 3]
    pixels = cell_sums(valid if depth_holes == "mask" else np.ones_like(depth), in_rows, in_columns)
    pose = geometry.world_from_camera
    cameras = pose[:, :3, :3] @ np.linalg.inv(geometry.intrinsics)  # float[T, 3, 3]
    points = np.einsum("tij,trcj->trci", cameras, sums) + pixels[..., None] * pose[:, None, None, :3, 3]
    first = np.arange(0, count, 2)
    points, pixels = np.add.reduceat(points, first), np.add.reduceat(pixels, first)
    means = np.divide(points, pixels[..., None], out=np.zeros_like(points), where=pixels[..., None] > 0)
    return means.reshape(-1, 3).astype(np.float32), pixels.reshape(-1) > 0


def cells(length: int, start: float, end: float, count: int) -> np.ndarray:
    """float[count, length]: 1 where the centre of a pixel lies in a cell, of `count` equal ones from `start` to `end`.

    Pixels before `start` and from `end` on are in none.
    """
    cell = np.floor((np.arange(length) + 0.5 - start) / (end - start) * count)
    return (cell == np.arange(count)[:, None]).astype(np.float64)


def cell_sums(values: np.ndarray, in_rows: np.ndarray, in_columns: np.ndarray) -> np.ndarray:
    """float64[..., R, C], sums of values [..., h, w] over cells, with the weights [R, h] and [C, w] of `cells`."""
    return in_rows @ (values @ in_columns.T)


def check_direction(geometry: ClipGeometry) -> None:
    """Raises ValueError if poses fit the depth better as world-to-camera: points of a frame, seen in a later one.

    Views near each other agree whatever the poses are, and views far apart may share nothing, so that several
    distances are tried.
    """
    count = len(geometry)
    for step in sorted({1, count // 4, count // 2} & set(range(1, count))):
        given = agreement(geometry, geometry.world_from_camera, step)
        inverted = agreement(geometry, np.linalg.inv(geometry.world_from_camera), step)
        if inverted > TRUSTED and given < CLEARLY_LESS * inverted:
            raise ValueError(
                f"{geometry.source}: the poses seem to be camera_from_world. Of the points of a frame {given:.0%} are "
                f"where a later frame has depth, and {inverted:.0%} if the poses are inverted. Invert them."
            )


def agreement(geometry: ClipGeometry, world_from_camera: np.ndarray, step: int) -> float:
    """Share of sampled points of each frame that the `step`th frame after it sees at their own depth.

    It is that of the points in its view. NaN if there are no such frames, or fewer than `IN_VIEW` of the points are
    in their views.
    """
    count, height, width = geometry.depth.shape
    rows, columns = (np.linspace(0, size - 1, SAMPLES).round().astype(int) for size in (height, width))
    y, x = (grid.ravel() + 0.5 for grid in np.meshgrid(rows, columns, indexing="ij"))
    intrinsics = np.broadcast_to(geometry.intrinsics, (count, 3, 3))
    depth = geometry.depth[:-step, rows][:, :, columns].reshape(count - step, -1).astype(np.float64)  # float[T', S]
    known = has_depth(depth)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.swapaxes(np.linalg.inv(intrinsics[:-step]), 1, 2)
    points = rays * np.where(known, depth, 0)[..., None]  # float[T', S, 3], in the camera
    other_from_this = np.linalg.inv(world_from_camera[step:]) @ world_from_camera[:-step]
    moved = points @ np.swapaxes(other_from_this[:, :3, :3], 1, 2) + other_from_this[:, None, :3, 3]
    pixels = moved @ np.swapaxes(intrinsics[step:], 1, 2)
    ahead = known & (moved[..., 2] > 0)
    u, v = (pixels[..., axis] / np.where(ahead, moved[..., 2], 1) for axis in (0, 1))
    seen = ahead & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    frame, _ = np.nonzero(seen)
    there, here = geometry.depth[frame + step, v[seen].astype(int), u[seen].astype(int)], moved[seen][:, 2]
    comparable = has_depth(there)
    agree = np.abs(there[comparable] - here[comparable]) < AGREEMENT * here[comparable]
    return float(agree.mean()) if agree.size > IN_VIEW * known.sum() else np.nan


# --- What a caller gives ---------------------------------------------------------------------------------------------


def given_geometry(
    depth: Any, intrinsics: Any, world_from_camera: Any, num_images: int, num_videos: int
) -> list[ClipGeometry | None]:
    """For each image, then each video, its depth and cameras, or None.

    Args:
        depth: float[T, h, w] [m] of a single video, float[h, w] of a single image; or a list, with None for a visual
            without depth.
        intrinsics: float[3, 3] [px] for all; float[T, 3, 3] of a single video; or a list.
        world_from_camera: float[T, 4, 4] of a single video, float[4, 4] of a single image; or a list.
        num_images: of the batch; so is `num_videos`.

    Raises:
        ValueError: if there is not one for each, or one of the three is missing, or as `ClipGeometry` does.
    """
    count = num_images + num_videos
    arguments = {"depth": depth, "intrinsics": intrinsics, "world_from_camera": world_from_camera}
    if all(value is None for value in arguments.values()):
        return [None] * count
    missing = [name for name, value in arguments.items() if value is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing: depth, intrinsics and world_from_camera go together.")
    lists = {name: entries(name, value, count) for name, value in arguments.items()}
    found: list[ClipGeometry | None] = []
    for number, values in enumerate(zip(*lists.values(), strict=True)):
        is_image = number < num_images
        source = f"image {number}" if is_image else f"video {number - num_images}"
        if values[0] is None and values[2] is None:
            found.append(None)
        elif any(value is None for value in values):
            raise ValueError(f"{source} lacks depth, intrinsics or poses. Give all three, or none.")
        else:
            images, matrix, poses = values
            if is_image:
                images = float_array("depth", images, np.float32, source)[None]
                poses = float_array("world_from_camera", poses, np.float64, source)[None]
            found.append(ClipGeometry(images, matrix, poses, source=source))
    return found


def check_geometries(pictures: Sequence[np.ndarray], geometries: Sequence[ClipGeometry | None]) -> None:
    """Raises ValueError unless each geometry, of pictures [H, W, 3] and then of videos, is of its frames."""
    for geometry, picture in zip(geometries, pictures, strict=False):
        if geometry is not None:
            geometry.check_frames((1, *picture.shape))
    for geometry in filter(None, geometries):
        check_direction(geometry)


def entries(name: str, given: Any, count: int) -> list:
    """A list of `count`, of what is given for one visual, for each of several, or as one matrix for all."""
    if isinstance(given, np.ndarray) or is_tensor(given):
        if count == 1 or (name == "intrinsics" and given.ndim == 2):
            return [given] * count
    elif isinstance(given, (list, tuple)) and len(given) == count:
        return list(given)
    got = f"a list of {len(given)}" if isinstance(given, (list, tuple)) else f"one {type(given).__name__}"
    raise ValueError(f"`{name}` is {got}, but there are {count} images and videos. {PER_VISUAL}")
