"""Frames of rooms in files, made by several processes."""

from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vega3d.files import write_array
from vega3d.rooms.dataset.stream import RoomJob
from vega3d.rooms.dataset.workers import run_all
from vega3d.rooms.render.light import use_one_thread


class FramesTask(NamedTuple):
    """Frames of the room with a number, for a file."""

    job: RoomJob
    number: int
    path: Path


def write_frames(tasks: Sequence[FramesTask], workers: int) -> Generator[Path, None, None]:
    """Yields the path of each task once its file is there, in order; closed, it calls off those that are not begun.

    A file holds `RoomJob.frames`, and is whole or not there at all. The workers render themselves.
    """
    for place in run_all(partial(_write_frames, tasks), len(tasks), workers, use_one_thread):
        yield tasks[place].path


def _write_frames(tasks: Sequence[FramesTask], place: int) -> int:
    task = tasks[place]
    write_array(task.path, task.job.frames(task.number))
    return place


def is_whole_array(path: Path) -> bool:
    """Whether a .npy is as long as its head says."""
    try:
        np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return True
