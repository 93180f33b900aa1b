"""Clips with depth and poses: what the analyses measure a generator's features against."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vega3d.configs import check_count
from vega3d.processing.clip_geometry_vega3d import ClipGeometry, array_type, check_poses

if TYPE_CHECKING:  # it imports torch, which a refusal does not wait for
    from vega3d.processing.video_vega3d import VideoClip

DEFAULT_VIEWS = 32
COVERED = 0.1  # share of a frame's edge by which the field of view of the depth may miss it


@dataclass(frozen=True, eq=False)
class PosedClip:
    """Views of one scene. Depth and colour share the camera's centre and axes; sizes and intrinsics may differ.

    Raises:
        ValueError: for other shapes or types, depth that is negative or not finite, poses that are not rigid, or a
            depth image that shows another field of view than the frames.
    """

    name: str  # of the clip, unique in its data
    scene: str  # what it was taken in; clips of one scene are not independent
    frames: np.ndarray  # uint8[T, H, W, 3]
    depth: np.ndarray  # float32[T, h, w], along the optical axis [m]; 0 is a hole
    intrinsics: np.ndarray  # float[3, 3], of the frames [px]
    depth_intrinsics: np.ndarray  # float[3, 3], of the depth [px]
    world_from_camera: np.ndarray  # float[T, 4, 4], rigid [m]
    left_out: tuple[str, ...] = ()  # frames of the source that could not be used, for the result file
    instances: np.ndarray | None = None  # int[T, h, w]: the object of each depth pixel, 0 for none; None if not known
    seconds: np.ndarray | None = None  # float64[T], times of the frames, increasing [s]; None if not known

    def __post_init__(self):
        count = len(self.frames)
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3 or not self.frames.size:
            raise ValueError(f"{self.name}: frames must be uint8[T, H, W, 3], but got {array_type(self.frames)}.")
        if self.depth.dtype != np.float32 or self.depth.ndim != 3 or len(self.depth) != count:
            raise ValueError(
                f"{self.name}: depth must be float32[{count}, h, w], one a frame, but got {array_type(self.depth)}."
            )
        if not (np.isfinite(self.depth).all() and (self.depth >= 0).all()):
            raise ValueError(f"{self.name}: depth must be finite and at least 0 m. Mark holes with 0.")
        if self.instances is not None and self.instances.shape != self.depth.shape:
            raise ValueError(
                f"{self.name}: ids of objects must be int{list(self.depth.shape)}, one a depth pixel, but got "
                f"{array_type(self.instances)}."
            )
        check_poses(self.world_from_camera, count, self.name)
        check_cameras(self)

    def __len__(self) -> int:
        return len(self.frames)

    def video(self) -> "VideoClip":
        """The frames with their depth and cameras, as `VegaProcessor`, a session and the collator take a video."""
        from vega3d.processing.video_vega3d import VideoClip

        height, width = self.frames.shape[1:3]
        frame_from_depth = self.intrinsics @ np.linalg.inv(self.depth_intrinsics)
        corners = np.linalg.solve(frame_from_depth, np.array([[0, 0, 1], [width, height, 1.0]]).T)[:2].T
        geometry = ClipGeometry(
            self.depth, self.depth_intrinsics, self.world_from_camera, tuple(corners.ravel().tolist()), self.name
        )
        seconds = np.arange(float(len(self))) if self.seconds is None else self.seconds
        return VideoClip(self.frames, seconds, self.name, self.seconds is not None, geometry)


class ClipSource(NamedTuple):
    """A clip on disk that is not read yet."""

    layout: str  # a name of `layouts.LAYOUTS`
    path: Path  # its folder, or its file of arrays
    name: str  # unique among the clips of its data
    scene: str  # see `PosedClip`


class ReadOptions(NamedTuple):
    """How clips are read."""

    views: int = DEFAULT_VIEWS  # frames taken evenly from a clip; a shorter clip gives all
    skip_lost: bool = False  # whether frames whose pose was lost are left out (and reported), or are an error
    # fx, fy, cx, cy [px] instead of the layout's, where the layout stores none
    intrinsics: tuple[float, ...] | None = None


def check_cameras(clip: PosedClip) -> None:
    """Raises ValueError unless the depth image covers the field of view of the frames, up to `COVERED` of an edge."""
    for name, matrix in (("intrinsics", clip.intrinsics), ("depth_intrinsics", clip.depth_intrinsics)):
        usable = matrix.shape == (3, 3) and np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0
        if not usable:
            raise ValueError(
                f"{clip.name}: {name} must be finite [3, 3] with focal lengths above 0, but got {matrix}."
            )
    size, depth_size = np.array(clip.frames.shape[2:0:-1]), np.array(clip.depth.shape[2:0:-1])
    corners = in_frame(clip, np.array([[0.0, 0.0], depth_size]))
    miss = np.abs(corners - np.array([np.zeros(2), size])) / size
    if miss.max() > COVERED:
        raise ValueError(
            f"{clip.name}: the depth image ({depth_size[0]} x {depth_size[1]}) covers the pixels "
            f"{np.round(corners[0], 1).tolist()} to {np.round(corners[1], 1).tolist()} of a frame of {size[0]} x "
            f"{size[1]}, but must cover all of it up to {COVERED:.0%}. Give depth of the frames' size, or each image "
            "the intrinsics of its own size."
        )


def in_frame(clip: PosedClip, pixels: np.ndarray) -> np.ndarray:
    """float[..., 2]: where pixels float[..., 2] of the depth image lie in the frames [px]; the same at any depth."""
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    mapped = homogeneous @ (clip.intrinsics @ np.linalg.inv(clip.depth_intrinsics)).T
    return mapped[..., :2] / mapped[..., 2:]


def evenly(length: int, count: int) -> np.ndarray:
    """int[n]: `count` (2 or more) of `length` frames, evenly, the first and the last among them; all if no more."""
    check_count("The number of views (they are compared in pairs)", count, 2)
    return np.arange(length) if count >= length else np.linspace(0, length - 1, count).round().astype(int)


def checked_intrinsics(values: Sequence[float]) -> np.ndarray:
    """float[3, 3] of finite fx, fy, cx, cy [px], fx and fy above 0; the first pixel's centre is at (0.5, 0.5)."""
    if len(values) != 4 or not np.isfinite(values).all() or min(values[:2]) <= 0:
        raise ValueError(f"Intrinsics are fx,fy,cx,cy [px] with fx and fy above 0, but got {list(values)}.")
    fx, fy, cx, cy = values
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
