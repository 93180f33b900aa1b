"""Turns the images and videos that a caller gives, in any accepted form and nesting, into arrays and clips."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import load_image
from transformers.video_utils import VideoMetadata

from .video_vega3d import (
    IMAGE_SUFFIXES,
    VideoClip,
    check_sampling,
    clip_from_frames,
    image_to_array,
    read_images,
    read_video,
    sample_clip,
)

# Times reach the VLM's processor as whole microseconds: the frame numbers of a video of so many frames a second.
MICROSECONDS = 1_000_000


def flatten_images(images) -> list:
    """Lists the images of a (nested) list in order; an array [N, ...] of four dimensions is a list of images."""
    return _flatten(images, _is_image, "image", "a path, an address, a PIL image, or an array uint8[H, W, 3]", 4)


def flatten_videos(videos) -> list:
    """Lists the videos of a (nested) list in order.

    One video is a path (of a video file or of a folder of images), a VideoClip, an array of four dimensions, or a
    list of frames: PIL images, arrays of three dimensions, or paths of images.
    """
    accepted = "a path, a VideoClip, an array uint8[T, H, W, 3], or a list of frames"
    return _flatten(videos, _is_video, "video", accepted, 5)


def check_counts(kind: str, wanted: list[int], media) -> None:
    """Raises a ValueError unless the images or videos fit the placeholders.

    Args:
        kind: "image" or "video".
        wanted: how many placeholders each prompt holds.
        media: the images or videos as the caller gives them; where they are nested by prompt, each prompt is checked.
    """
    flatten = flatten_images if kind == "image" else flatten_videos
    total = 0 if media is None else len(flatten(media))
    given = _count_per_prompt(media, len(wanted), flatten)
    if sum(wanted) == total and given in (None, wanted):
        return
    detail = "" if given is None else f" (prompt by prompt {wanted} and {given})"
    raise ValueError(
        f"The prompts hold {sum(wanted)} {kind} placeholder(s), but {total} {kind}(s) were given{detail}. Put one "
        f"placeholder into the prompt for each {kind}, and pass every {kind} as `{kind}s`; `apply_chat_template` does "
        "both."
    )


def _count_per_prompt(media, num_prompts: int, flatten: Callable[[object], list]) -> list[int] | None:
    """Returns how many images or videos each prompt got, or None if they are not nested by prompt."""
    if not isinstance(media, (list, tuple)) or len(media) != num_prompts:
        return None
    if any(not isinstance(item, (list, tuple)) or (flatten is flatten_videos and _is_video(item)) for item in media):
        return None
    return [len(flatten(item)) for item in media]


def load_image_array(image) -> np.ndarray:
    """Returns uint8[H, W, 3] of one image: a path, an address, base64 text, a PIL image, or an array.

    Raises:
        ValueError: if it cannot be read, or an array is not uint8 with three channels.
    """
    if isinstance(image, Path) or (isinstance(image, str) and os.path.isfile(image)):
        return read_images([image]).frames[0]
    if isinstance(image, str):
        image = load_image(image)
    if isinstance(image, Image.Image):
        return image_to_array(image)
    return clip_from_frames([image]).frames[0]


def load_clips(
    videos: list, seconds, video_metadata, num_frames: int | None, fps: float | None, do_sample_frames: bool
) -> list[VideoClip]:
    """Reads and samples videos.

    Args:
        videos: of `flatten_videos`.
        seconds: for each video the times [s] of its images or frames in memory, or None; for one video also its times
            alone.
        video_metadata: the same as transformers' metadata, one for each video, nested by prompt or not.
        num_frames: how many frames to sample.
        fps: how many frames a second to sample.
        do_sample_frames: False keeps every frame.

    Raises:
        ValueError: as `read_video`, `read_images`, `clip_from_frames` and `sample_clip` do; if times are given for a
            video that knows its own, twice, or not for each video.
    """
    check_sampling(num_frames, fps)
    times = _times_of_videos(videos, seconds, video_metadata)
    if do_sample_frames is False:
        num_frames, fps = sys.maxsize, None
    return [_load_clip(video, known, num_frames, fps) for video, known in zip(videos, times, strict=True)]


def _load_clip(video, seconds: Sequence[float] | None, num_frames: int | None, fps: float | None) -> VideoClip:
    is_images = _is_list_of(video, (str, Path)) or (isinstance(video, (str, Path)) and Path(video).is_dir())
    if is_images:
        return read_images(video, num_frames=num_frames, fps=fps, seconds=seconds)
    if isinstance(video, (str, Path, VideoClip)) and seconds is not None:
        name = video.source if isinstance(video, VideoClip) else video
        raise ValueError(
            f"{name} knows the times of its frames: give `seconds` or `video_metadata` for images and arrays only "
            "(None for the other videos of the list)."
        )
    if isinstance(video, (str, Path)):
        return read_video(video, num_frames=num_frames, fps=fps)
    clip = video if isinstance(video, VideoClip) else clip_from_frames(video, seconds=seconds)
    return sample_clip(clip, num_frames=num_frames, fps=fps)


def _times_of_videos(videos: list, seconds, video_metadata) -> list[Sequence[float] | None]:
    if seconds is not None and video_metadata is not None:
        raise ValueError("`seconds` and `video_metadata` exclude each other: give one of them.")
    if seconds is None and video_metadata is None:
        return [None] * len(videos)
    if seconds is not None:
        times = (
            [seconds] if len(videos) == 1 and all(isinstance(second, Real) for second in seconds) else list(seconds)
        )
        _check_one_each("seconds", times, videos)
        return times
    entries = [video_metadata] if isinstance(video_metadata, Mapping) else list(video_metadata)
    entries = [one for entry in entries for one in (entry if isinstance(entry, (list, tuple)) else [entry])]
    _check_one_each("video_metadata", entries, videos)
    return [_seconds_of_metadata(entry, video) for entry, video in zip(entries, videos, strict=True)]


def _check_one_each(name: str, given: list, videos: list) -> None:
    if len(given) != len(videos):
        raise ValueError(
            f"`{name}` holds {len(given)} entries for {len(videos)} video(s). Give one for each video, None where "
            "there is nothing to say."
        )


def _seconds_of_metadata(metadata: Mapping | None, video) -> list[float] | None:
    """Reads `fps` and, where frames were left out, `frames_indices`."""
    if metadata is None or metadata.get("fps") is None:
        return None
    indices = metadata.get("frames_indices")
    if indices is None and not isinstance(video, (str, Path, VideoClip)):
        indices = range(len(video))
    return [] if indices is None else [float(index) / metadata["fps"] for index in indices]


def metadata_of_clip(clip: VideoClip) -> VideoMetadata:
    """Says the times of a clip's frames so that the VLM's processors read them right.

    Qwen3-VL writes `frames_indices / fps` into the prompt, the mean over the two frames of a temporal patch; its
    `replace_video_token` lengthens the list of an odd clip in place, so each use needs metadata of its own. Qwen2.5-VL
    knows one spacing, the inverse of `len(frames_indices) / total_num_frames * fps`: the mean one. A single frame
    counts as one second.
    """
    count = len(clip)
    spacing = (clip.seconds[-1] - clip.seconds[0]) / (count - 1) if count > 1 else 1.0
    return VideoMetadata(
        total_num_frames=round(count * spacing * MICROSECONDS),
        fps=float(MICROSECONDS),
        width=clip.frames.shape[2],
        height=clip.frames.shape[1],
        duration=float(count * spacing),
        frames_indices=[round(second * MICROSECONDS) for second in clip.seconds.tolist()],
    )


def at_least_a_patch(frames: np.ndarray) -> np.ndarray:
    """uint8[T, H, W, 3] with a single frame twice: Qwen3-VL's processor refuses it, Qwen2.5-VL's repeats it itself."""
    return frames if len(frames) > 1 else frames.repeat(2, axis=0)


def _flatten(media, is_one: Callable[[object], bool], kind: str, accepted: str, batch_ndim: int) -> list:
    if is_one(media):
        return [media]
    is_batch = isinstance(media, (np.ndarray, torch.Tensor)) and media.ndim == batch_ndim
    if not is_batch and not isinstance(media, (list, tuple)):
        got = type(media).__name__
        if isinstance(media, (np.ndarray, torch.Tensor)):
            got = f"{got} of shape {list(media.shape)}"
        raise ValueError(f"Got {got} as a {kind}. Give {accepted}, or a list of them.")
    return [one for item in media for one in _flatten(item, is_one, kind, accepted, batch_ndim)]


def _is_image(item) -> bool:
    is_array = isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 3
    return is_array or isinstance(item, (str, Path, Image.Image))


def _is_video(item) -> bool:
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return item.ndim == 4
    if isinstance(item, (str, Path, VideoClip)):
        return True
    if _is_list_of(item, (str, Path)):
        return all(str(path).lower().endswith(IMAGE_SUFFIXES) for path in item)
    frames = (Image.Image, np.ndarray, torch.Tensor)
    return _is_list_of(item, frames) and all(isinstance(frame, Image.Image) or frame.ndim == 3 for frame in item)


def _is_list_of(item, types: tuple[type, ...]) -> bool:
    return isinstance(item, (list, tuple)) and len(item) > 0 and all(isinstance(one, types) for one in item)
