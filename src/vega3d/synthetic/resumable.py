"""Long work that may be cut off at any moment: whole files, and the same results from any number of processes."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file under a temporary name, and gives it its own when it is whole.

    What a failed write leaves, as on a full disk, is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.name}.partial")
    try:
        write(partial_path)
        partial_path.replace(path)
    except BaseException:
        partial_path.unlink(missing_ok=True)
        raise


def write_array(path: Path, array: np.ndarray) -> None:
    """A whole .npy file, or none."""
    write_whole(path, partial(_save_array, array=array))


def _save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would add .npy to a temporary name
        np.save(file, array)


def run_all(
    make: Callable[[int], Result], count: int, workers: int, initializer: Callable[[], None] | None = None
) -> Iterator[Result]:
    """The results for 0 to `count` - 1, in this order; with several workers, `make` and its results are pickled.

    Each worker calls `initializer` first.
    """
    if workers == 1:
        yield from map(make, range(count))
        return
    # A forked process inherits locks of threads that it does not have (torch, FFmpeg) and can wait for them for ever.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=initializer) as pool:
        yield from pool.map(make, range(count))
