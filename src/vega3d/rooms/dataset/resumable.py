"""The same results from any number of processes."""

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import TypeVar

import numpy as np

from vega3d.rooms.dataset.workers import run_in_order

Result = TypeVar("Result")


def run_all(
    make: Callable[[int], Result], count: int, workers: int, initializer: Callable[[], None] | None = None
) -> Generator[Result, None, None]:
    """The results for 0 to `count` - 1, in this order; with several workers, `make` and its results are pickled.

    Each worker calls `initializer` first. Closed, it calls off what is not begun; an error or a signal ends the
    workers at once.
    """
    if workers == 1:
        yield from map(make, range(count))
        return
    job = partial(without_arrays, make)
    numbers = iter(range(count))
    results = run_in_order(
        job, numbers, min(workers, count), workers, first=initializer, own_threads=True, finish=True
    )
    with closing(results):
        for result in results:
            yield result.info


def without_arrays(make: Callable[[int], Result], number: int) -> tuple[Result, list[np.ndarray]]:
    return make(number), []
