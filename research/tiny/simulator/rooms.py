"""Rooms as they are needed: frames from workers, and a window of the newest clips from which batches are drawn.

Which clips a step sees depends on nothing but the step, the seed and the options, so that a run continues exactly: the
window of a step is made anew from the numbers of its rooms.
"""

import hashlib
import json
import math
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from research.tiny.simulator.config import RoomOptions, StageOptions
from research.tiny.simulator.frames import FramesTask, is_whole_array
from vega3d.rooms.dataset.stream import RoomJob, StreamedClip, stream_clips

SHAPING = ("size", "num_frames", "renderer", "quality")  # options that frames depend on
RANK_STRIDE = 1 << 20  # rooms of one process, so that several processes see other rooms


class RoomStream:
    """Frames of the rooms of a split, made ahead by workers while they are asked for in order.

    Args:
        options: of the rooms.
        split: `train` or `validation`.
        walks: clips of a room; those of the options if None.
        end: number of the room at which to stop making rooms ahead, if that is known.
    """

    def __init__(self, options: RoomOptions, split: str = "train", walks: int | None = None, end: int | None = None):
        self.options, self.split, self.end = options, split, end
        self.walks = options.walks if walks is None else walks
        self._clips: Generator[StreamedClip, None, None] | None = None
        self._next = -1

    def frames(self, number: int) -> torch.Tensor:
        """
        Args:
            number: of the room in its split; the next one is there soonest.

        Returns:
            uint8[walks, T, H, W, 3].
        """
        if self.options.workers == 0:
            return torch.from_numpy(self.job.frames(number))
        if self._clips is None or number != self._next:
            self.close()
            options = self.options
            self._clips = stream_clips(
                self.split,
                number,
                None if self.end is None else self.end - number,
                trajectories=self.walks,
                num_frames=options.num_frames,
                size=options.size,
                workers=options.workers,
                renderer=options.renderer,
                quality=options.quality,
            )
        self._next, clips = number + 1, self._clips
        return torch.from_numpy(np.stack([next(clips).clip.rgb for _ in range(self.walks)]))

    @property
    def job(self) -> RoomJob:
        """What makes a room of this stream in one process."""
        options = self.options
        return RoomJob(self.split, self.walks, options.num_frames, options.size, options.renderer, options.quality)

    def close(self) -> None:
        """Ends the workers."""
        if self._clips is not None:
            self._clips.close()
        self._clips = None


class FrameFiles:
    """Frames of rooms in files, a room each, for those that were made beforehand; all others are made when asked for.

    Args:
        folder: for the files; those of other options lie beside each other.
        stream: of the rooms.
    """

    def __init__(self, folder: Path, stream: RoomStream):
        self.stream = stream
        self.folder = folder / f"{stream.split}-{shaping_key(stream)}"

    def path(self, number: int) -> Path:
        return self.folder / f"room-{number:010d}.npy"

    def frames(self, number: int) -> torch.Tensor:
        """uint8[walks, T, H, W, 3], as `RoomStream.frames` gives them."""
        if not is_whole_array(self.path(number)):
            return self.stream.frames(number)
        frames, options = np.load(self.path(number)), self.stream.options
        wanted = (self.stream.walks, options.num_frames, options.size, options.size, 3)
        if frames.dtype != np.uint8 or frames.shape != wanted:
            found = f"{frames.dtype}{list(frames.shape)}"
            raise ValueError(f"{self.path(number)} is {found}, but must be uint8{list(wanted)}. Delete it.")
        return torch.from_numpy(frames)

    def missing(self, count: int) -> list[int]:
        """Which of the first rooms have no file, or none that is whole."""
        return [number for number in range(count) if not is_whole_array(self.path(number))]

    def tasks(self, count: int) -> list[FramesTask]:
        """What makes those files."""
        return [FramesTask(self.stream.job, number, self.path(number)) for number in self.missing(count)]


def shaping_key(stream: RoomStream, *more: str) -> str:
    """By which files are known that were made of these rooms."""
    shaping = {name: value for name, value in asdict(stream.options).items() if name in SHAPING}
    text = json.dumps([*more, stream.split, stream.walks, shaping], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class WalkId(NamedTuple):
    """Number of the room in its split, and of the walk in the room."""

    room: int
    walk: int

    def __str__(self) -> str:
        return f"room {self.room} walk {self.walk}"


def rooms_until(options: StageOptions, walks: int, step: int) -> int:
    """How many rooms a process has seen by a step, counted from 0."""
    return math.ceil((options.first_walks + math.floor(options.new_walks * step)) / walks)


class WalkWindow:
    """The newest walks, as many as fit, of which each step draws some.

    Args:
        options: of the stage.
        walks: of a room.
        seed: of the draws.
        load: gives a room's walks, any[walks, ...], by the number of the room.
        rank: of this process.
    """

    def __init__(
        self, options: StageOptions, walks: int, seed: int, load: Callable[[int], torch.Tensor], rank: int = 0
    ):
        self.options, self.walks, self.seed, self.load = options, walks, seed, load
        self.rank, self.first = rank, rank * RANK_STRIDE
        self._rooms: dict[int, torch.Tensor] = {}

    def rooms_at(self, step: int) -> range:
        """Numbers, counted from this process's first room, of the rooms in the window of a step."""
        end = rooms_until(self.options, self.walks, step)
        return range(max(0, end - math.ceil(self.options.window / self.walks)), end)

    def fill(self, step: int) -> list[torch.Tensor]:
        """any[walks, ...] of each room in the window of a step, oldest first; makes those that are new in it."""
        window = self.rooms_at(step)
        for number in [number for number in self._rooms if number not in window]:
            del self._rooms[number]
        for number in window:
            if number not in self._rooms:
                self._rooms[number] = self.load(self.first + number)
        return [self._rooms[number] for number in window]

    def batch(self, step: int) -> tuple[torch.Tensor, list[WalkId]]:
        """any[batch_size, ...], and which walks they are."""
        window = self.rooms_at(step)
        rooms = self.fill(step)
        random = np.random.default_rng([self.seed, self.rank, step])
        drawn = random.choice(len(window) * self.walks, self.options.batch_size, replace=False)
        places = [divmod(int(place), self.walks) for place in drawn]
        walks = [rooms[room][walk] for room, walk in places]
        return torch.stack(walks), [WalkId(self.first + window[room], walk) for room, walk in places]


def validation_stream(options: RoomOptions) -> RoomStream:
    """Rooms of the split `validation`, as many as are wanted."""
    return RoomStream(options, "validation", options.validation_walks, options.validation_rooms)


def pixels(frames: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8[B, T, H, W, 3] -> float[B, 3, T, H, W] in [-1, 1], on a device."""
    return frames.to(device).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1).contiguous()
