"""From the images and videos that a caller gives, in any accepted form and nesting, to arrays and clips."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .clip_geometry_vega3d import ClipGeometry
from .media_files_vega3d import (
    check_file,
    is_picture,
    list_pictures,
    local_path,
    names_still,
    picture_pixels,
    read_animation,
    read_picture,
)
from .sampling_vega3d import check_flag, check_sampling, check_times, metadata_times
from .video_vega3d import (
    DEFAULT_NUM_FRAMES,
    VideoClip,
    clip_from_frames,
    read_images,
    read_video,
    sample_clip,
)


def flatten_images(images) -> list:
    """The images of a (nested) list in order; an array [N, ...] of four dimensions is a list, None an empty one."""
    if images is None:
        return []
    return _flatten(images, _is_image, "image", "a path, an address, a PIL image, or an array uint8[H, W, 3]", 4)


def flatten_videos(videos) -> list:
    """The videos of a (nested) list in order; None is an empty one.

    One video is a path (of a video file or of a folder of images), a VideoClip, an array of four dimensions, or a
    list of frames: PIL images, arrays of three dimensions, or paths of images.
    """
    if videos is None:
        return []
    accepted = "a path, a VideoClip, an array uint8[T, H, W, 3], or a list of frames"
    return _flatten(videos, _is_video, "video", accepted, 5)


def check_counts(kind: str, wanted: list[int], media) -> None:
    """Raises a ValueError unless the images or videos (`kind`) fit the placeholders wanted in each prompt.

    `media` are as the caller gives them; where they are nested by prompt, each prompt is checked.
    """
    flatten = flatten_images if kind == "image" else flatten_videos
    total = len(flatten(media))
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
    """Number of images or videos of each prompt, or None if they are not nested by prompt."""
    if not isinstance(media, (list, tuple)) or len(media) != num_prompts:
        return None
    if any(not isinstance(item, (list, tuple)) or (flatten is flatten_videos and _is_video(item)) for item in media):
        return None
    return [len(flatten(item)) for item in media]


def load_image_array(image) -> np.ndarray:
    """One image (a path, an address, base64 text, a PIL image, or an array) as uint8[H, W, 3].

    Raises ValueError if it cannot be read or is an animation, or an array is not uint8 with three channels.
    """
    if isinstance(image, (str, Path)):
        return read_picture(image)
    if isinstance(image, Image.Image):
        return picture_pixels(image)
    return clip_from_frames([image]).frames[0]


def load_clips(
    videos: list,
    seconds,
    video_metadata,
    num_frames: int | None,
    fps: float | None,
    do_sample_frames: bool,
    geometries: Sequence[ClipGeometry | None] | None = None,
) -> list[VideoClip]:
    """The videos of `flatten_videos`, read and sampled.

    Args:
        videos: of `flatten_videos`.
        seconds: for each video the times [s] of its images or frames in memory, or None. The times of a single video
            need no list around them.
        video_metadata: the same as transformers' metadata, one for each video, nested by prompt or not.
        num_frames: frames sampled evenly.
        fps: frames a second sampled instead.
        do_sample_frames: False keeps every frame.
        geometries: for each video the depth and cameras of all its frames, or None.

    Raises:
        ValueError: as `read_video`, `read_images`, `clip_from_frames` and `sample_clip` do; if times are given for a
            video that knows its own, twice, or not for each video.
    """
    check_sampling(num_frames, fps)
    if not check_flag("do_sample_frames", do_sample_frames):
        num_frames, fps = sys.maxsize, None
    given = _times_of_videos(videos, seconds, video_metadata)
    parts = zip(videos, given, geometries or [None] * len(videos), strict=True)
    return [_load_clip(video, times, geometry, num_frames, fps) for video, times, geometry in parts]


def read_visual(
    sources: Sequence[str], num_frames: int | None = None, fps: float | None = None, usual: int = DEFAULT_NUM_FRAMES
) -> tuple[VideoClip, bool]:
    """What a user names by paths, read by its content: a film, a folder of images, one image, or several images.

    Frames are sampled evenly (`num_frames`), or `fps` a second. If neither is given, a film gives `usual` frames, and
    all images are taken.

    Returns:
        The clip, and whether it is one image.

    Raises:
        ValueError: if it cannot be read, or `fps` is given for images.
    """
    check_sampling(num_frames, fps)
    if len(sources) > 1:
        return read_images([local_path(source, "image") for source in sources], num_frames, fps), False
    path = local_path(sources[0], "video or image")
    if path.is_dir():
        return read_images(path, num_frames, fps), False
    path = check_file(path, "video")
    is_image = is_picture(path) and read_animation(path) is None
    if is_image and fps is not None:
        raise ValueError(f"{path} is a single image, which has no frames a second. Leave `fps` ({fps}) out.")
    if num_frames is None and fps is None:
        num_frames = usual
    return read_video(path, num_frames, fps), is_image


def _load_clip(video, given, geometry: ClipGeometry | None, num_frames: int | None, fps: float | None) -> VideoClip:
    """One video, read and sampled; `given` are its times [s], its metadata, or None."""
    if isinstance(video, VideoClip) or (isinstance(video, (str, Path)) and not local_path(video, "video").is_dir()):
        if given is not None:
            name = video.source if isinstance(video, VideoClip) else video
            raise ValueError(
                f"{name} knows the times of its frames: give `seconds` or `video_metadata` for images and arrays only "
                "(None for the other videos of the list)."
            )
        if isinstance(video, VideoClip):
            return sample_clip(with_geometry(video, geometry), num_frames=num_frames, fps=fps)
        return read_video(video, num_frames, fps, geometry)
    if isinstance(video, (str, Path)):
        video = list_pictures(local_path(video, "video"))
    times = metadata_times(given, len(video)) if isinstance(given, Mapping) else given
    if _is_list_of(video, (str, Path)):
        return read_images(video, num_frames, fps, times, geometry)
    clip = with_geometry(clip_from_frames(video, seconds=times), geometry)
    return sample_clip(clip, num_frames=num_frames, fps=fps)


def with_geometry(clip: VideoClip, geometry: ClipGeometry | None) -> VideoClip:
    """The clip with depth and cameras that are given beside it; raises ValueError if it has its own."""
    if geometry is not None and clip.geometry is not None:
        raise ValueError(f"{clip.source} has depth and cameras of its own. Leave those given beside it out.")
    return clip if geometry is None else replace(clip, geometry=geometry)


def _times_of_videos(videos: list, seconds, video_metadata) -> list:
    """For each video its times, as a list or as metadata, or None."""
    if seconds is not None and video_metadata is not None:
        raise ValueError("`seconds` and `video_metadata` exclude each other: give one of them.")
    if seconds is not None:
        entries = _as_list("seconds", seconds)
        if len(videos) == 1 and all(isinstance(second, Real) for second in entries):
            entries = [entries]
        _check_one_each("seconds", entries, videos)
        return [None if entry is None else check_times("seconds", entry) for entry in entries]
    if video_metadata is None:
        return [None] * len(videos)
    entries = [video_metadata] if isinstance(video_metadata, Mapping) else _as_list("video_metadata", video_metadata)
    entries = [one for entry in entries for one in (entry if isinstance(entry, (list, tuple)) else [entry])]
    for entry in entries:
        if entry is not None and not isinstance(entry, Mapping):
            raise ValueError(f"`video_metadata` must hold a dict for each video, but has {entry!r}.")
    _check_one_each("video_metadata", entries, videos)
    # Metadata without any value counts as none.
    return [entry if entry and any(value is not None for value in entry.values()) else None for entry in entries]


def _as_list(name: str, given) -> list:
    if isinstance(given, (np.ndarray, torch.Tensor)) and given.ndim:
        return given.tolist()
    if not isinstance(given, (list, tuple, range)):
        raise ValueError(f"`{name}` must be a list with an entry for each video, but got {given!r}.")
    return list(given)


def _check_one_each(name: str, given: list, videos: list) -> None:
    if len(given) != len(videos):
        raise ValueError(
            f"`{name}` holds {len(given)} entries for {len(videos)} video(s). Give one for each video, None where "
            "there is nothing to say."
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
        return all(names_still(path) for path in item)
    frames = (Image.Image, np.ndarray, torch.Tensor)
    return _is_list_of(item, frames) and all(isinstance(frame, Image.Image) or frame.ndim == 3 for frame in item)


def _is_list_of(item, types: tuple[type, ...]) -> bool:
    return isinstance(item, (list, tuple)) and len(item) > 0 and all(isinstance(one, types) for one in item)
