"""Which frames of a video a model sees, and when each of them is shown, as a caller says it."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

# Times are told apart by nanoseconds, so more frames a second than this ask for every frame.
MOST_FPS = 1e9
METADATA = ("total_num_frames", "fps", "width", "height", "duration", "video_backend", "frames_indices")


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
    if fps is not None:
        return _at_rate(seconds, float(min(fps, MOST_FPS)))
    if num_frames is None:
        raise ValueError("Give `num_frames` or `fps` to say how to sample the frames; got neither.")
    if num_frames >= len(seconds):
        return np.arange(len(seconds))
    first, last = float(seconds[0]), float(seconds[-1])
    indices = _nearest(seconds, np.linspace(first, last, num_frames)) if num_frames > 1 else np.zeros(1, np.int64)
    steps = np.arange(num_frames)
    indices = np.maximum.accumulate(indices - steps) + steps
    return np.minimum(indices, len(seconds) - num_frames + steps)


def check_sampling(num_frames: int | None, fps: float | None) -> None:
    """Raises a ValueError if both are given, `num_frames` is not a whole number from 1 or `fps` is not above 0."""
    if num_frames is not None and fps is not None:
        raise ValueError(f"`num_frames` ({num_frames!r}) and `fps` ({fps!r}) exclude each other: give one of them.")
    if num_frames is not None and (not _is_number(num_frames, Integral) or num_frames < 1):
        raise ValueError(f"`num_frames` must be a whole number of at least 1, but got {num_frames!r}.")
    if fps is not None and (not _is_number(fps, Real) or not 0 < fps < float("inf")):
        raise ValueError(
            f"`fps` must be a finite number above 0 frames a second, but got {fps!r}. It is one for all videos."
        )


def check_times(name: str, seconds: Any) -> np.ndarray:
    """Returns float64[T] of times that a caller gives; raises a ValueError if they are not a list of numbers."""
    times = seconds.tolist() if isinstance(seconds, (np.ndarray, torch.Tensor)) else seconds
    if not isinstance(times, Sequence) or isinstance(times, (str, bytes)):
        raise ValueError(f"`{name}` must hold one time in seconds for each frame, but got {seconds!r}.")
    for second in times:
        if not _is_number(second, Real):
            raise ValueError(f"`{name}` must hold numbers, one time in seconds for each frame, but has {second!r}.")
    try:
        return np.array([float(second) for second in times], dtype=np.float64)
    except OverflowError as error:
        raise ValueError(f"`{name}` holds a number that is too large for a time in seconds.") from error


def check_flag(name: str, value: Any) -> bool:
    """Returns a yes or no; raises a ValueError for anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False, but got {value!r}.")
    return bool(value)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, (bool, np.bool_))


def _at_rate(seconds: np.ndarray, fps: float) -> np.ndarray:
    """Returns the frames that are nearest to some multiple of `1 / fps`, without listing the multiples."""
    elapsed = seconds - seconds[0]
    # A frame is nearest from the middle to the frame before it, exclusive, to the middle to the next, inclusive.
    # Distances are rounded to nanoseconds, so that a tie is a tie in floating point too.
    ends = np.append((elapsed[:-1] + elapsed[1:]) / 2 + 0.5e-9, elapsed[-1])
    # The tolerance keeps the last frame where its time times fps is a whole number up to rounding.
    last = np.floor(ends * fps + np.append(np.zeros(len(ends) - 1), 1e-6))
    last = np.minimum(last, last[-1])
    return np.flatnonzero(np.diff(last, prepend=-1) > 0)


def _nearest(seconds: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """Returns int64[n]: for each instant the index of the nearest time, the earlier of two at the same distance."""
    right = np.searchsorted(seconds, instants).clip(max=len(seconds) - 1)
    left = (right - 1).clip(min=0)
    # Distances are rounded to nanoseconds, so that a tie is a tie in floating point too.
    is_left = (instants - seconds[left]).round(9) <= (seconds[right] - instants).round(9)
    return np.where(is_left, left, right)


def metadata_times(metadata: Mapping, count: int) -> np.ndarray | None:
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
