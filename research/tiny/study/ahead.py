"""What a step needs, prepared while the steps before it run."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """
    Args:
        make: of the number of a step; what it gives must depend on nothing else.
        steps: of the run.
        depth: steps prepared ahead, by as many threads.
    """

    def __init__(self, make: Callable[[int], Item], steps: int, depth: int = 3):
        self.make, self.steps, self.depth = make, steps, depth
        self.pool = ThreadPoolExecutor(depth)
        self.waiting: dict[int, Future[Item]] = {}

    def __enter__(self) -> "Ahead[Item]":
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def __getitem__(self, step: int) -> Item:
        for number in range(step, min(step + self.depth + 1, self.steps)):
            if number not in self.waiting:
                self.waiting[number] = self.pool.submit(self.make, number)
        return self.waiting.pop(step).result()
