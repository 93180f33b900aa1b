"""Reads videos, folders of images and frames in memory as one `VideoClip`: frames and the time of each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .video_decoding_vega3d import check_video_file, decode_frames, decode_timeline, read_timeline

DEFAULT_NUM_FRAMES = 16
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True, eq=False)
class VideoClip:
    """Frames in the order of presentation.

    Attributes:
        frames: uint8[T, H, W, 3], RGB.
        seconds: float64[T], presentation time of each frame [s] from the start of its video, strictly increasing.
        source: where the frames come from, for messages.
        timed: False when no real times are known; `seconds` then counts frames (0, 1, 2, ...).

    Raises:
        ValueError: if the arrays have another dtype or shape, hold no frame, or the times do not increase.
    """

    frames: np.ndarray
    seconds: np.ndarray
    source: str = "frames in memory"
    timed: bool = True

    def __post_init__(self):
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3 or not self.frames.size:
            raise ValueError(
                f"{self.source}: got {self.frames.dtype}{list(self.frames.shape)}, but a clip holds RGB frames as "
                "uint8[T, H, W, 3] with T, H, W of at least 1. Convert the frames to uint8 in 0..255 first."
            )
        if self.seconds.shape != self.frames.shape[:1] or not np.isfinite(self.seconds).all():
            raise ValueError(
                f"{self.source}: got {len(self.frames)} frames and times {self.seconds.shape}. "
                "Give one finite time in seconds for each frame."
            )
        if (np.diff(self.seconds) <= 0).any():
            raise ValueError(
                f"{self.source}: the times of the frames must increase, but got {self.seconds.tolist()} s."
            )
        # torch takes neither reversed nor read-only arrays; a frozen dataclass is set through `object`.
        object.__setattr__(self, "frames", np.require(self.frames, requirements=["C", "W"]))

    def __len__(self) -> int:
        return len(self.frames)


def choose_frames(seconds: np.ndarray, num_frames: int | None = None, fps: float | None = None) -> np.ndarray:
    """Chooses frames evenly in time: for each of the evenly spaced instants, the nearest frame (the earlier of two).

    No frame is chosen twice. With `num_frames` exactly `min(num_frames, T)` frames come back: where a pause in the
    video would repeat a frame, its neighbour is taken. With `fps` the instants are `1 / fps` apart, from the first
    frame on, and a frame nearest to several instants is taken once.

    Args:
        seconds: float[T], increasing times of the frames [s].
        num_frames: how many frames.
        fps: how many frames a second.

    Returns:
        int64[n], increasing indices.

    Raises:
        ValueError: unless exactly one of `num_frames` and `fps` is given, and is in range.
    """
    check_sampling(num_frames, fps)
    first, last = float(seconds[0]), float(seconds[-1])
    if fps is not None:
        # The tolerance keeps the last frame where (last - first) * fps is a whole number up to rounding.
        count = int((last - first) * fps + 1e-6) + 1
        return np.unique(_nearest(seconds, first + np.arange(count) / fps))
    if num_frames is None:
        raise ValueError("Give `num_frames` or `fps` to say how to sample the frames; got neither.")
    if num_frames >= len(seconds):
        return np.arange(len(seconds))
    indices = _nearest(seconds, np.linspace(first, last, num_frames)) if num_frames > 1 else np.zeros(1, np.int64)
    steps = np.arange(num_frames)
    indices = np.maximum.accumulate(indices - steps) + steps
    return np.minimum(indices, len(seconds) - num_frames + steps)


def check_sampling(num_frames: int | None, fps: float | None) -> None:
    """Raises a ValueError if both are given, `num_frames` is not a whole number from 1 or `fps` is not above 0."""
    if num_frames is not None and fps is not None:
        raise ValueError(f"`num_frames` ({num_frames}) and `fps` ({fps}) exclude each other: give one of them.")
    if num_frames is not None and (not isinstance(num_frames, Integral) or num_frames < 1):
        raise ValueError(f"`num_frames` must be a whole number of at least 1, but got {num_frames!r}.")
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"`fps` must be a finite number above 0 frames a second, but got {fps!r}.")


def sample_clip(clip: VideoClip, num_frames: int | None = None, fps: float | None = None) -> VideoClip:
    """Samples a clip as `choose_frames` says; the frames keep their times.

    Raises:
        ValueError: for `fps` on a clip without real times, and as `choose_frames` does.
    """
    _check_timed(clip.source, clip.timed, fps)
    indices = choose_frames(clip.seconds, num_frames, fps)
    return VideoClip(clip.frames[indices], clip.seconds[indices], clip.source, clip.timed)


def read_video(path: str | Path, num_frames: int | None = None, fps: float | None = None) -> VideoClip:
    """Reads evenly spaced frames of a video file; only the chosen frames are ever held in memory.

    The times are those stored in the file, so a variable frame rate is kept, counted from the first frame. Rotation
    and mirroring stored in the file are applied.

    Args:
        path: a file that FFmpeg can decode.
        num_frames: how many frames, `DEFAULT_NUM_FRAMES` if `fps` is not given either; a shorter video gives all.
        fps: how many frames a second.

    Raises:
        ValueError: if the file is missing, no video, cut off or damaged, stores no usable times, or changes its frame
            size; or if the sampling arguments are out of range. In an MP4 or MOV file every announced frame must be
            there. Matroska, WebM and MPEG-TS announce no number of frames: cut between two frames, they read as
            shorter videos.
    """
    check_sampling(num_frames, fps)
    if num_frames is None and fps is None:
        num_frames = DEFAULT_NUM_FRAMES
    path = check_video_file(path)
    # Packets without a time, or that never become a frame (VP8's alternate references), need the slower reading.
    for timeline in filter(None, (read(path) for read in (read_timeline, decode_timeline))):
        chosen = choose_frames(timeline.seconds, num_frames, fps)
        frames = decode_frames(path, timeline, chosen)
        if frames is not None:
            return VideoClip(np.stack(frames), timeline.seconds[chosen], str(path))
    raise ValueError(f"{path}: decoding it twice gave different frame times. Re-encode it.")


def read_images(
    paths: str | Path | Sequence[str | Path],
    num_frames: int | None = None,
    fps: float | None = None,
    seconds: Sequence[float] | None = None,
) -> VideoClip:
    """Reads a folder of images in natural order (2.png before 10.png), or a list of files in the given order.

    The EXIF orientation is applied. Only the chosen images are read.

    Args:
        paths: the folder or the files (suffixes `IMAGE_SUFFIXES`).
        num_frames: how many images, evenly spaced; without `fps` and `num_frames` all are read.
        fps: how many images a second; needs `seconds`.
        seconds: the time of each image [s]; without it `seconds` of the clip counts the images.

    Raises:
        ValueError: if there is no image, a file is missing or no image, two images differ in size, or as
            `sample_clip` does.
    """
    check_sampling(num_frames, fps)
    source = str(paths) if isinstance(paths, (str, Path)) else f"{len(paths)} image files"
    _check_timed(source, seconds is not None, fps)
    files = _list_images(Path(paths)) if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if not files or (seconds is not None and len(seconds) != len(files)):
        given = "" if seconds is None else f" and {len(seconds)} times"
        raise ValueError(f"Got {len(files)} image files{given}. Give at least one file, and a time for each or none.")
    times = np.arange(len(files), dtype=np.float64) if seconds is None else np.asarray(seconds, dtype=np.float64)
    chosen = np.arange(len(files)) if num_frames is None and fps is None else choose_frames(times, num_frames, fps)
    frames = [_read_image(files[index]) for index in chosen]
    _check_one_size(frames, [str(files[index]) for index in chosen])
    return VideoClip(np.stack(frames), times[chosen], source, timed=seconds is not None)


def clip_from_frames(frames, seconds: Sequence[float] | None = None, fps: float | None = None) -> VideoClip:
    """Builds a clip from frames in memory.

    Args:
        frames: numpy uint8[T, H, W, 3]; torch uint8[T, H, W, 3] or uint8[T, 3, H, W]; or a list of PIL images, or of
            numpy or torch frames, of one size.
        seconds: float[T], the time of each frame [s].
        fps: the frame rate of `frames`, if it is constant.

    Returns:
        The clip; without `seconds` and `fps` the times are unknown and count the frames.

    Raises:
        ValueError: if `frames` are anything else, or both `seconds` and `fps` are given.
    """
    if seconds is not None and fps is not None:
        raise ValueError("`seconds` and `fps` exclude each other: give one of them.")
    check_sampling(None, fps)
    array = _frames_to_array(frames)
    if seconds is None:
        times = np.arange(len(array)) / (1.0 if fps is None else fps)
    else:
        times = np.asarray(seconds, dtype=np.float64)
    return VideoClip(array, times, timed=seconds is not None or fps is not None)


def _check_timed(source: str, timed: bool, fps: float | None) -> None:
    if fps is not None and not timed:
        raise ValueError(
            f"{source}: sampling at `fps` ({fps}) needs the time of each frame, which is not known here. "
            "Sample with `num_frames`, or give the times as `seconds`."
        )


def _nearest(seconds: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """Returns int64[n]: for each instant the index of the nearest time, the earlier of two at the same distance."""
    right = np.searchsorted(seconds, instants).clip(max=len(seconds) - 1)
    left = (right - 1).clip(min=0)
    # Distances are rounded to nanoseconds, so that a tie is a tie in floating point too.
    is_left = (instants - seconds[left]).round(9) <= (seconds[right] - instants).round(9)
    return np.where(is_left, left, right)


def _list_images(folder: Path) -> list[Path]:
    """Returns the images of a folder in natural order, that is with numbers compared by value."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of images. Check the path, or give a list of files.")
    files = [
        file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise ValueError(f"{folder} holds no images. Supported suffixes: {', '.join(IMAGE_SUFFIXES)}.")
    return sorted(files, key=_natural_order)


def _natural_order(file: Path) -> list[str | int]:
    # Splitting at a captured group puts the numbers at the odd places, so only like is compared with like.
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", file.name))]


def _read_image(file: Path) -> np.ndarray:
    """Returns uint8[H, W, 3]."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such image file. Check the path.")
    try:
        with Image.open(file) as image:
            return image_to_array(image)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} cannot be read as an image ({error}). Copy or export it again.") from error


def image_to_array(image: Image.Image) -> np.ndarray:
    """Returns uint8[H, W, 3], RGB, upright as the EXIF orientation says; transparency is dropped."""
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _frames_to_array(frames) -> np.ndarray:
    """Returns uint8[T, H, W, 3] of what `clip_from_frames` accepts."""
    if isinstance(frames, (list, tuple)):
        frames = _stack_frames(frames)
    got = type(frames).__name__
    if isinstance(frames, (np.ndarray, torch.Tensor)):
        got = f"{got} {str(frames.dtype).removeprefix('torch.')}{list(frames.shape)}"
    if isinstance(frames, torch.Tensor) and frames.ndim == 4 and frames.shape[1] == 3:
        if frames.shape[3] == 3:
            raise ValueError(f"Frames {got} can be [T, 3, H, W] or [T, H, W, 3]. Give them as a numpy [T, H, W, 3].")
        frames = frames.permute(0, 2, 3, 1)
    if isinstance(frames, torch.Tensor):
        frames = frames.cpu().numpy()
    accepted = isinstance(frames, np.ndarray) and frames.ndim == 4 and frames.shape[3] == 3 and frames.size
    if not accepted or frames.dtype != np.uint8:
        raise ValueError(
            f"Frames must be numpy uint8[T, H, W, 3], torch uint8[T, H, W, 3] or uint8[T, 3, H, W], or a list of PIL "
            f"images or arrays of one size, at least one frame, but got {got}. Scale float pixels to 0..255 and round."
        )
    return frames


def _stack_frames(frames: Sequence) -> np.ndarray | torch.Tensor:
    """Stacks a list of PIL images, numpy or torch frames, all of one kind and size."""
    if not frames:
        raise ValueError("Got an empty list of frames. Give at least one frame.")
    kinds = [kind for kind in (Image.Image, np.ndarray, torch.Tensor) if isinstance(frames[0], kind)]
    if not kinds or not all(isinstance(frame, kinds[0]) for frame in frames):
        names = sorted({type(frame).__name__ for frame in frames})
        raise ValueError(f"A list of frames holds PIL images, numpy arrays or torch tensors of one kind, got {names}.")
    if kinds[0] is Image.Image:
        frames = [image_to_array(frame) for frame in frames]
    _check_one_size(frames, [f"frame {index}" for index in range(len(frames))])
    return torch.stack(list(frames)) if kinds[0] is torch.Tensor else np.stack(frames)


def _check_one_size(frames: Sequence[np.ndarray | torch.Tensor], names: Sequence[str]) -> None:
    for frame, name in zip(frames, names, strict=True):
        if frame.shape != frames[0].shape:
            raise ValueError(
                f"All frames of a clip must have one size, but {names[0]} is {list(frames[0].shape)} and {name} is "
                f"{list(frame.shape)}. Resize them, or give them as separate images."
            )
