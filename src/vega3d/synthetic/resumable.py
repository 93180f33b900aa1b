"""The same results from any number of processes."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


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
