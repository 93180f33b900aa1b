"""`VideoClip`, frames and the time of each: of a video, of a folder of images, or of frames in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata

from .clip_geometry_vega3d import ClipGeometry
from .media_files_vega3d import (
    check_file,
    is_picture,
    list_pictures,
    local_path,
    picture_pixels,
    read_animation,
    read_pages,
    read_picture,
)
from .sampling_vega3d import check_sampling, check_times, choose_frames
from .video_decoding_vega3d import decode_frames, decode_timeline, read_timeline

DEFAULT_NUM_FRAMES = 16
# Times reach the VLM's processor as whole microseconds: the frame numbers of a video of so many frames a second.
MICROSECONDS = 1_000_000


@dataclass(frozen=True, eq=False)
class VideoClip:
    """Frames of a video in the order of presentation, with the time of each.

    Attributes:
        frames: uint8[T, H, W, 3], RGB.
        seconds: float64[T], presentation time of each frame [s] from the start of its video, strictly increasing.
        source: where the frames come from, for messages.
        timed: False when no real times are known; `seconds` then counts frames (0, 1, 2, ...).
        geometry: depth and cameras of the frames; None if they are not known.

    Raises:
        ValueError: if the arrays have another dtype or shape, hold no frame, or the times do not increase; or if the
            geometry is of other frames.
    """

    frames: np.ndarray
    seconds: np.ndarray
    source: str = "frames in memory"
    timed: bool = True
    geometry: ClipGeometry | None = None

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
        if self.geometry is not None:
            self.geometry.check_frames(self.frames.shape)
        # torch takes neither reversed nor read-only arrays; a frozen dataclass is set through `object`.
        object.__setattr__(self, "frames", np.require(self.frames, requirements=["C", "W"]))

    def __len__(self) -> int:
        return len(self.frames)

    def metadata(self) -> VideoMetadata:
        """The times of the frames, in the form in which the VLM's processors read them right; new at each call.

        Qwen3-VL writes `frames_indices / fps` into the prompt, the mean over the two frames of a temporal patch. Its
        `replace_video_token` lengthens the list of an odd clip in place, so each use needs metadata of its own.
        Qwen2.5-VL knows one spacing, the inverse of `len(frames_indices) / total_num_frames * fps`: the mean one. A
        single frame counts as one second.
        """
        count = len(self)
        spacing = (self.seconds[-1] - self.seconds[0]) / (count - 1) if count > 1 else 1.0
        return VideoMetadata(
            total_num_frames=round(count * spacing * MICROSECONDS),
            fps=float(MICROSECONDS),
            width=self.frames.shape[2],
            height=self.frames.shape[1],
            duration=float(count * spacing),
            frames_indices=[round(second * MICROSECONDS) for second in self.seconds.tolist()],
        )


def sample_clip(clip: VideoClip, num_frames: int | None = None, fps: float | None = None) -> VideoClip:
    """The frames of a clip that `choose_frames` chooses, with their times.

    Raises:
        ValueError: for `fps` on a clip without real times, and as `choose_frames` does.
    """
    _check_timed(clip.source, clip.timed, fps)
    indices = choose_frames(clip.seconds, num_frames, fps)
    geometry = None if clip.geometry is None else clip.geometry.of_frames(indices, len(clip))
    return replace(clip, frames=clip.frames[indices], seconds=clip.seconds[indices], geometry=geometry)


def read_video(
    path: str | Path,
    num_frames: int | None = None,
    fps: float | None = None,
    geometry: ClipGeometry | None = None,
) -> VideoClip:
    """Evenly spaced frames of a video file; only the chosen frames are ever held in memory.

    The content of a file decides what it is, not its name. The times are those stored in the file, counted from the
    first frame, so a variable frame rate is kept. Frames come as players show them: of the main stream, cut, turned
    and mirrored as stored, with square pixels (the height stays), transparent pixels on white, HDR as SDR. They are
    not deinterlaced.

    Args:
        path: a file that FFmpeg can decode, or an animated GIF, PNG, WebP or AVIF; a still image is one frame.
        num_frames: number of frames, `DEFAULT_NUM_FRAMES` if `fps` is not given either; a shorter video gives all.
        fps: frames a second instead.
        geometry: depth and cameras of all its frames.

    Raises:
        ValueError: if the file is missing, no video, cut off or damaged as far as its decoder notices, stores no
            usable times, or changes its frame size; or if the sampling arguments are out of range. In an MP4 or MOV
            file every announced frame must be there. Matroska, WebM and MPEG-TS announce no number of frames: cut
            between two frames, they read as shorter videos.
    """
    check_sampling(num_frames, fps)
    if num_frames is None and fps is None:
        num_frames = DEFAULT_NUM_FRAMES
    path = check_file(path, "video")
    if is_picture(path):
        return _read_picture_file(path, num_frames, fps, geometry)
    # Packets without a time, or that never become a frame (VP8's alternate references), need the slower reading.
    for timeline in filter(None, (read(path) for read in (read_timeline, decode_timeline))):
        chosen = choose_frames(timeline.seconds, num_frames, fps)
        frames = decode_frames(path, timeline, chosen)
        if frames is not None:
            return _chosen_clip(frames, timeline.seconds, chosen, str(path), True, geometry)
    raise ValueError(f"{path}: decoding it twice gave different frame times. Re-encode it.")


def _read_picture_file(
    path: Path, num_frames: int | None, fps: float | None, geometry: ClipGeometry | None
) -> VideoClip:
    animation = read_animation(path)
    if animation is None:
        return _chosen_clip([read_picture(path)], np.zeros(1), np.zeros(1, int), str(path), True, geometry)
    chosen = choose_frames(animation.seconds, num_frames, fps)
    pages = read_pages(path, animation.pages[chosen])
    return _chosen_clip(pages, animation.seconds, chosen, str(path), True, geometry)


def _chosen_clip(
    frames: Sequence[np.ndarray],
    seconds: np.ndarray,
    chosen: np.ndarray,
    source: str,
    timed: bool,
    geometry: ClipGeometry | None,
) -> VideoClip:
    """The clip of the chosen frames; times and geometry are those of all."""
    part = None if geometry is None else geometry.of_frames(chosen, len(seconds))
    return VideoClip(np.stack(frames), seconds[chosen], source, timed, part)


def read_images(
    paths: str | Path | Sequence[str | Path],
    num_frames: int | None = None,
    fps: float | None = None,
    seconds: Sequence[float] | np.ndarray | None = None,
    geometry: ClipGeometry | None = None,
) -> VideoClip:
    """The images of a folder in natural order (2.png before 10.png), or of a list of files in the given order.

    The EXIF orientation is applied, and transparent pixels show white. Only the chosen images are read.

    Args:
        paths: the folder, in which hidden files and files that are no media are ignored; or a list of images, as
            `read_picture` takes them.
        num_frames: number of images, evenly spaced; without `fps` and `num_frames` all are read.
        fps: images a second instead; needs `seconds`.
        seconds: the time of each image [s]; without it the clip's `seconds` count the images.
        geometry: depth and cameras of all the images.

    Raises:
        ValueError: if there is no image, a file is missing or no image, two images differ in size, or as `sample_clip`
            does.
    """
    check_sampling(num_frames, fps)
    source = str(paths) if isinstance(paths, (str, Path)) else f"{len(paths)} image files"
    _check_timed(source, seconds is not None, fps)
    files = list_pictures(local_path(paths, "folder")) if isinstance(paths, (str, Path)) else list(paths)
    times = np.arange(len(files), dtype=np.float64) if seconds is None else check_times("seconds", seconds)
    if not files or len(times) != len(files):
        given = "" if seconds is None else f" and {len(times)} times"
        raise ValueError(f"Got {len(files)} image files{given}. Give at least one file, and a time for each or none.")
    chosen = np.arange(len(files)) if num_frames is None and fps is None else choose_frames(times, num_frames, fps)
    frames = [read_picture(files[index]) for index in chosen]
    _check_one_size(frames, [str(files[index]) for index in chosen])
    return _chosen_clip(frames, times, chosen, source, seconds is not None, geometry)


def clip_from_frames(
    frames, seconds: Sequence[float] | np.ndarray | None = None, fps: float | None = None
) -> VideoClip:
    """The clip of frames in memory.

    Args:
        frames: numpy uint8[T, H, W, 3]; torch uint8[T, H, W, 3] or uint8[T, 3, H, W]; or a list of PIL images, or of
            numpy or torch frames, of one size.
        seconds: float[T], the time of each frame [s]. Without `seconds` and `fps` the times are unknown, and the
            clip's `seconds` count the frames.
        fps: the frame rate of `frames`, if it is constant.

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
        times = check_times("seconds", seconds)
    return VideoClip(array, times, timed=seconds is not None or fps is not None)


def _check_timed(source: str, timed: bool, fps: float | None) -> None:
    if fps is not None and not timed:
        raise ValueError(
            f"{source}: sampling at `fps` ({fps}) needs the time of each frame, which is not known here. "
            "Sample with `num_frames`, or give the times as `seconds`."
        )


def _frames_to_array(frames) -> np.ndarray:
    """uint8[T, H, W, 3] of what `clip_from_frames` accepts."""
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
        frames = [picture_pixels(frame, f"frame {index}") for index, frame in enumerate(frames)]
    _check_one_size(frames, [f"frame {index}" for index in range(len(frames))])
    return torch.stack(list(frames)) if kinds[0] is torch.Tensor else np.stack(frames)


def _check_one_size(frames: Sequence[np.ndarray | torch.Tensor], names: Sequence[str]) -> None:
    for frame, name in zip(frames, names, strict=True):
        if frame.shape != frames[0].shape:
            raise ValueError(
                f"All frames of a clip must have one size, but {names[0]} is {list(frames[0].shape)} and {name} is "
                f"{list(frame.shape)}. Resize them, or give them as separate images."
            )
