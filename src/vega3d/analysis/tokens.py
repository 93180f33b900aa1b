"""Clips as a generator sees them: which pixels a token covers, and the point of the scene that it shows."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from vega3d.analysis.clips import PosedClip, in_frame
from vega3d.modeling.layouts_vega3d import TEMPORAL_STRIDE
from vega3d.processing.generator_frames_vega3d import (
    FrameSettings,
    center_crop_frames,
    generator_frame_size,
    resize_frames,
)

LEAST_DEPTH = 0.1  # share of a token's depth pixels that must not be holes


class FrameFit(NamedTuple):
    """How frames become the generator's: scaled, then cut. Generator pixel = frame pixel * scale - offset."""

    height: int  # of the generator's frames [px]
    width: int  # likewise
    scale: np.ndarray  # float[2], along x and y
    offset: np.ndarray  # float[2], what is cut off at the left and at the top [px of the generator]
    patch_size: int  # edge of a token [px of the generator]
    is_crop: bool  # whether only the centre of the frames is seen

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.height // self.patch_size, self.width // self.patch_size


def frame_fit(height: int, width: int, settings: FrameSettings) -> FrameFit:
    """The fit that the processor makes of frames of `height` x `width` px."""
    if settings.frame_size is not None:
        rows, columns = settings.frame_size
        factor = max(rows / height, columns / width)
        scaled = np.array([round(width * factor), round(height * factor)])
        offset = (scaled - (columns, rows)) // 2
        return FrameFit(rows, columns, scaled / (width, height), offset.astype(float), settings.patch_size, True)
    rows, columns = generator_frame_size(height, width, settings.patch_size, settings.max_area)
    scale = np.array([columns / width, rows / height])
    return FrameFit(rows, columns, scale, np.zeros(2), settings.patch_size, False)


class FittedClip(NamedTuple):
    """A clip as a generator reads it."""

    clip: PosedClip  # the views that its features stand for
    fit: FrameFit  # from the clip's frames to the generator's
    frames: torch.Tensor  # uint8[T, 3, height, width], all of them
    content: str  # hash of the frames and their geometry


def fit_clip(clip: PosedClip, settings: FrameSettings, clip_mode: str) -> FittedClip:
    """The clip as a generator of this `clip_mode` reads it."""
    fit = frame_fit(clip.frames.shape[1], clip.frames.shape[2], settings)
    views = read_views(len(clip), clip_mode)
    seen = at_views(clip, views) if len(views) < len(clip) else clip
    frames = generator_frames(clip.frames, fit)
    return FittedClip(seen, fit, frames, content_hash(clip, frames))


def at_views(clip: PosedClip, views: np.ndarray) -> PosedClip:
    """The clip of some of its views, int[t]."""
    return replace(
        clip,
        frames=clip.frames[views],
        depth=clip.depth[views],
        world_from_camera=clip.world_from_camera[views],
        instances=None if clip.instances is None else clip.instances[views],
        seconds=None if clip.seconds is None else clip.seconds[views],
    )


def content_hash(clip: PosedClip, frames: torch.Tensor) -> str:
    """Names the clip in the keys of parts, so that it must not change between versions."""
    digest = xxhash.xxh3_128(f"{clip.name} {clip.scene} {tuple(frames.shape)} {clip.depth.shape}".encode())
    for array in (frames.numpy(), clip.depth, clip.intrinsics, clip.depth_intrinsics, clip.world_from_camera):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def generator_frames(frames: np.ndarray, fit: FrameFit) -> torch.Tensor:
    """uint8[T, H, W, 3] -> uint8[T, 3, height, width], as the processor fits them."""
    channels_first = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    return (center_crop_frames if fit.is_crop else resize_frames)(channels_first, fit.height, fit.width)


def token_of_pixels(clip: PosedClip, fit: FrameFit) -> np.ndarray:
    """int[h * w]: the token, row * columns + column, of each pixel of a depth image; -1 where none sees it."""
    height, width = clip.depth.shape[1:]
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5
    places = np.floor((in_frame(clip, pixels) * fit.scale - fit.offset) / fit.patch_size).astype(int)
    inside = ((places >= 0) & (places < fit.grid[::-1])).all(axis=1)
    return np.where(inside, places[:, 1] * fit.grid[1] + places[:, 0], -1)


def token_centres(fit: FrameFit) -> np.ndarray:
    """float[rows * columns, 2]: centre of each token in the frames [px]."""
    rows, columns = np.mgrid[: fit.grid[0], : fit.grid[1]]
    centres = (np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5) * fit.patch_size
    return (centres + fit.offset) / fit.scale


def token_means(values: np.ndarray, valid: np.ndarray, token: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """float[T, N, K]: means over the valid pixels of each token, 0 if none is; and float[T, N], share that is valid.

    `values` float[T, P, K] and `valid` bool[T, P] are of the depth pixels, `token` int[P] is the one that each is in,
    -1 for none, and `count` is N, tokens of a view.
    """
    views = len(values)
    seen = token >= 0
    place = np.where(valid & seen, np.arange(views)[:, None] * count + token, views * count)  # int[T, P]
    numbers = np.bincount(place.ravel(), minlength=views * count + 1)[:-1].reshape(views, count)
    sums = [
        np.bincount(place.ravel(), values[..., k].ravel(), minlength=views * count + 1)[:-1].reshape(views, count)
        for k in range(values.shape[2])
    ]
    pixels = np.bincount(token[seen], minlength=count)
    means = np.stack(sums, axis=-1) / np.maximum(numbers, 1)[..., None]
    return means, numbers / np.maximum(pixels, 1)


def camera_points(clip: PosedClip) -> np.ndarray:
    """float[T, h * w, 3]: points in the camera's axes [m]; (0, 0, 0) in holes."""
    height, width = clip.depth.shape[1:]
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones((height, width))], axis=-1).reshape(-1, 3)
    rays = pixels @ np.linalg.inv(clip.depth_intrinsics).T
    return clip.depth.reshape(len(clip), -1, 1) * rays


def token_points(clip: PosedClip, fit: FrameFit) -> tuple[np.ndarray, np.ndarray]:
    """float[T, N, 3]: the point of each token, the mean of the points of its depth pixels, world [m].

    And bool[T, N], whether at least `LEAST_DEPTH` of the token's pixels have depth.
    """
    rows, columns = fit.grid
    points, valid = camera_points(clip), clip.depth.reshape(len(clip), -1) > 0
    means, share = token_means(points, valid, token_of_pixels(clip, fit), rows * columns)
    rotation, position = clip.world_from_camera[:, :3, :3], clip.world_from_camera[:, :3, 3]
    world = means @ np.swapaxes(rotation, 1, 2) + position[:, None]
    return world, (share >= LEAST_DEPTH) & (share > 0)


def read_views(num_frames: int, clip_mode: str) -> np.ndarray:
    """int[t]: the frame whose depth and pose stand for each latent time of the features.

    In `clip` mode latent i > 0 covers frames 4i - 3 to 4i, of which the one in the middle is taken (the later of two),
    so that no two views share their features. Elsewhere each frame has features of its own.
    """
    if clip_mode != "clip":
        return np.arange(num_frames)
    latents = np.arange(1 + -(-(num_frames - 1) // TEMPORAL_STRIDE))
    first = np.maximum(TEMPORAL_STRIDE * (latents - 1) + 1, 0)
    last = np.minimum(TEMPORAL_STRIDE * latents, num_frames - 1)
    return np.where(latents == 0, 0, (first + last + 1) // 2)
