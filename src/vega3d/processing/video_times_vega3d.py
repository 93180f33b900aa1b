"""The times of a video's frames: as a caller gives them, and as the VLM's processors take them."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from .sampling_vega3d import check_sampling, check_times
from .video_vega3d import VideoClip

# Times reach the VLM's processor as whole microseconds: the frame numbers of a video of so many frames a second.
MICROSECONDS = 1_000_000
METADATA = ("total_num_frames", "fps", "width", "height", "duration", "video_backend", "frames_indices")


def seconds_of_metadata(metadata: Mapping, count: int) -> np.ndarray | None:
    """Reads the times of the frames of a video from transformers' metadata of it.

    Args:
        metadata: `fps` of the whole video, or its `duration` [s] instead; `total_num_frames` of it, and
            `frames_indices` of the frames that are given, which are needed where frames were left out.
        count: how many frames are given.

    Returns:
        float64[count] [s], or None if it says no times.

    Raises:
        ValueError: if a value is out of range, or values contradict each other or the frames.
    """
    values = {name: value for name, value in metadata.items() if value is not None}
    unknown = sorted(set(values) - set(METADATA), key=str)
    if unknown:
        raise ValueError(f"`video_metadata` holds {unknown}, but is read for {', '.join(METADATA)} only.")
    total = _positive("total_num_frames", values.get("total_num_frames"))
    duration = _positive("duration", values.get("duration"))
    check_sampling(None, values.get("fps"))
    indices = _indices(values.get("frames_indices"), total, count)
    fps = _rate(values.get("fps"), duration, total if "frames_indices" in values else count)
    if fps is None and "frames_indices" in values:
        raise ValueError("`video_metadata` holds `frames_indices`, but no `fps`. Give it, so that they say times.")
    if fps is not None and duration is not None and indices[-1] / fps > duration + 1 / fps:
        raise ValueError(
            f"`video_metadata` contradicts itself: frame {indices[-1]:.0f} at {fps:g} frames a second is shown at "
            f"{indices[-1] / fps:.3f} s, but the video lasts {duration:g} s. Mend or leave out one of them."
        )
    return None if fps is None else indices / fps


def _rate(fps: float | None, duration: float | None, total: float | None) -> float | None:
    """Frames a second of the whole video, of `total` frames where that is known."""
    if duration is None or total is None:
        return None if fps is None else float(fps)
    if fps is None:
        return total / duration
    # The duration may leave out the last frame, and a rate is rounded, as 29.97 is.
    if abs(total / fps - duration) > max(1.5 / fps, 0.02 * duration):
        raise ValueError(
            f"`video_metadata` contradicts itself: {total:g} frames at {fps:g} frames a second last {total / fps:.3f} "
            f"s, but the duration is {duration:g} s. Mend or leave out one of them; where frames were left out, give "
            "`frames_indices`."
        )
    return float(fps)


def _indices(given: Any, total: float | None, count: int) -> np.ndarray:
    """Returns float64[count], numbers of the given frames in the whole video."""
    if given is None:
        if total not in (None, count):
            raise ValueError(
                f"`video_metadata` says {total:g} frames, but {count} are given. Give `frames_indices`, the numbers "
                "of the given frames in the whole video."
            )
        return np.arange(count, dtype=np.float64)
    indices = check_times("frames_indices", given)
    whole = np.isfinite(indices).all() and (indices == np.floor(indices)).all()
    if len(indices) != count or not whole or (np.diff(indices) <= 0).any() or (count and indices[0] < 0):
        raise ValueError(
            f"`frames_indices` must be {count} increasing whole numbers from 0, one for each frame that is given, but "
            f"got {indices.tolist()}."
        )
    if total is not None and indices[-1] >= total:
        raise ValueError(
            f"`video_metadata` contradicts itself: it says {total:g} frames, but `frames_indices` goes up to "
            f"{indices[-1]:.0f}. Mend one of them."
        )
    return indices


def _positive(name: str, value: Any) -> float | None:
    if value is None:
        return None
    [number] = check_times(f"{name}` of `video_metadata", [value])
    if not 0 < number < np.inf or (name == "total_num_frames" and not isinstance(value, Integral)):
        raise ValueError(f"`{name}` of `video_metadata` must be a finite number above 0, but got {value!r}.")
    return float(number)


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
