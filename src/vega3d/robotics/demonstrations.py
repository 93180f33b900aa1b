"""`Demonstrations`, the episodes of a robot in a folder, whichever its layout.

Letters: T frames, P numbers of a state, A numbers of an action.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from vega3d.processing.video_decoding_vega3d import Timeline, decode_frames, decode_timeline, read_timeline

TIMELINES = 256  # of videos that are kept in memory


class Demonstrations(ABC):
    """Episodes of a robot, each with a task, and with frames of its cameras, a state and an action for each step.

    Attributes:
        folder: where they lie.
        fps: steps a second.
        cameras: names, in the order of the data set.
        state_size, action_size: P and A.
        lengths: T of each episode.
        seen_every: n; frames are new at the steps 0, n, 2n, ... of an episode, and repeated between them.
    """

    folder: Path
    fps: float
    cameras: tuple[str, ...]
    state_size: int
    action_size: int
    lengths: Sequence[int]
    seen_every: int = 1

    @abstractmethod
    def task(self, episode: int, step: int = 0) -> str:
        """What the robot is told to do."""

    @abstractmethod
    def numbers(self, episode: int) -> tuple[np.ndarray, np.ndarray]:
        """States float32[T, P] and actions float32[T, A]."""

    @abstractmethod
    def frames(self, episode: int, camera: str, steps: Sequence[int]) -> np.ndarray:
        """uint8[n, H, W, 3] of a camera at n steps."""

    @abstractmethod
    def number_files(self) -> list[Path]:
        """The files that hold states, actions and tasks."""

    def __len__(self) -> int:
        return len(self.lengths)


def check_demonstrations(data: Demonstrations, skip: Collection[int] = ()) -> list[int]:
    """The numbers of the episodes that can be learned from: all but those skipped.

    Raises:
        ValueError: for an episode without steps, without a task, or with a number that is not finite; for a skipped
            one that is not there; if none is left.
    """
    unknown = sorted(set(skip) - set(range(len(data))))
    if unknown:
        raise ValueError(f"skip_episodes names {unknown}, but {data.folder} has episodes 0 to {len(data) - 1}.")
    wrong = {}
    kept = [episode for episode in range(len(data)) if episode not in set(skip)]
    for episode in kept:
        fault = episode_fault(data, episode)
        if fault is not None:
            wrong[episode] = fault
    if wrong:
        first, fault = next(iter(wrong.items()))
        raise ValueError(
            f"{data.folder}: episode {first} {fault}. Mend it, or leave it out: skip_episodes: {list(wrong)} names "
            "all such episodes."
        )
    if not kept:
        raise ValueError(
            f"{data.folder} has no episode to learn from ({len(data)}, {len(set(skip))} of them skipped)."
        )
    return kept


def episode_fault(data: Demonstrations, episode: int) -> str | None:
    """What keeps an episode from being learned from, or None."""
    if data.lengths[episode] == 0:
        return "has no actions"
    states, actions = data.numbers(episode)
    for name, values in (("state", states), ("action", actions)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            step, place = bad[0].tolist()
            return f"has {name}[{place}] = {values[step, place]} at step {step}"
    if not data.task(episode).strip():
        return "has an empty task"
    return None


def check_replay(data: Demonstrations, episode: int) -> None:
    """Raises ValueError if there is no such episode, or it cannot be shown to a policy."""
    if not 0 <= episode < len(data):
        raise ValueError(f"There is no episode {episode} in {data.folder}, which has 0 to {len(data) - 1}.")
    fault = episode_fault(data, episode)
    if fault is not None:
        raise ValueError(f"{data.folder}: episode {episode} {fault}. Give another episode.")


def checked_numbers(
    folder: Path, episode: int, states: np.ndarray, actions: np.ndarray, sizes: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """States and actions as float32; raises ValueError unless they are of one length and of the sizes (P, A)."""
    for name, values, size in zip(("states", "actions"), (states, actions), sizes, strict=True):
        if values.ndim != 2 or values.shape[1] != size or values.dtype.kind not in "fiu":
            raise ValueError(
                f"{folder}: episode {episode} has {name} {values.dtype}{list(values.shape)}, but they must be "
                f"float[T, {size}], as in the first episode or as the data set says."
            )
    if len(states) != len(actions):
        raise ValueError(
            f"{folder}: episode {episode} has {len(states)} states and {len(actions)} actions. Give one each a step."
        )
    return states.astype(np.float32), actions.astype(np.float32)


@lru_cache(maxsize=TIMELINES)
def timeline_of(path: Path) -> Timeline:
    """When the frames of a video are shown."""
    return read_timeline(path) or decode_timeline(path)


def frames_by_number(path: Path, numbers: Sequence[int]) -> np.ndarray:
    """uint8[n, H, W, 3]: n frames of a video by their numbers, in any order and also several times."""
    timeline = timeline_of(path)
    if max(numbers) >= len(timeline.pts):
        raise ValueError(
            f"{path} has {len(timeline.pts)} frames, but number {max(numbers)} is needed, counted from 0."
        )
    unique, places = np.unique(np.asarray(numbers), return_inverse=True)
    frames = decode_frames(path, timeline, unique)
    if frames is None:
        raise ValueError(f"{path}: decoding it twice gave different frame times. Re-encode it.")
    return np.stack(frames)[places]


def frames_by_time(path: Path, seconds: Sequence[float], fps: float) -> np.ndarray:
    """uint8[n, H, W, 3]: the frames shown at n times of a video [s].

    Raises ValueError where none is within 1/4 step of its time.
    """
    timeline = timeline_of(path)
    times = timeline.pts * timeline.time_base
    wanted = np.asarray(seconds, np.float64)
    distances = np.abs(times - wanted[:, None])
    nearest, off = distances.argmin(1), distances.min(1)
    if off.max() > 0.25 / fps:
        worst = int(off.argmax())
        raise ValueError(
            f"{path} has no frame at {wanted[worst]:.4f} s: the nearest is at {times[nearest[worst]]:.4f} s, but the "
            f"data set has {fps:g} steps a second. Copy or download it again, or mend the times in meta/episodes."
        )
    return frames_by_number(path, nearest.tolist())
