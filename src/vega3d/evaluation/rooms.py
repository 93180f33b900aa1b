"""The benchmark `rooms`: synthesised when it is asked for, no more of it than is needed, and kept for the next time.

A folder below the Hub's own cache holds the rooms of one split and one setting. Several processes may use it at once.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.evaluation.vsibench import QuestionRecord, load_vsibench
from vega3d.rooms.dataset.settings import DatasetSettings
from vega3d.rooms.dataset.store import default_cache, folder_name, stored_rooms

FIRST_ROOMS = 2


@dataclass(frozen=True)
class RoomsBenchmark:
    """
    Attributes:
        settings: of the data set, the split among them.
        num_rooms: of the whole benchmark.
    """

    settings: DatasetSettings = field(default_factory=lambda: DatasetSettings(split="test"))
    num_rooms: int = 100

    @property
    def folder_name(self) -> str:
        return folder_name(self.settings)


ROOMS = RoomsBenchmark()
TRAIN_ROOMS = RoomsBenchmark(DatasetSettings(split="train"), num_rooms=40)


def load_rooms(
    benchmark: RoomsBenchmark,
    limit: int | None = None,
    workers: int = 1,
    cache: Path | None = None,
    on_rooms: Callable[[int, int], None] | None = None,
) -> list[QuestionRecord]:
    """Questions of the first rooms of a benchmark, as many as a limit needs.

    Args:
        benchmark: which rooms.
        limit: how many questions are wanted, balanced over the types; None for all. See `rooms_for_limit`.
        workers: processes that make rooms.
        cache: folder for the rooms; by default below `HF_HOME`.
        on_rooms: called after each room, with the number of rooms newly done and of those wanted for now.

    Raises:
        ValueError: if `limit` is below 1, or the cache holds something else.
    """
    cache = default_cache() if cache is None else cache
    known = 0

    def first_rooms(count: int) -> list[QuestionRecord]:
        nonlocal known
        passed = 0

        def on_scene(_: int) -> None:
            nonlocal passed
            passed += 1
            if on_rooms is not None and passed > known:
                on_rooms(1, count)

        records = make_rooms(benchmark, count, workers, cache, on_scene)
        known = count
        return records

    return rooms_for_limit(first_rooms, benchmark.num_rooms, limit)


def make_rooms(
    benchmark: RoomsBenchmark, count: int, workers: int, cache: Path, on_scene: Callable[[int], None]
) -> list[QuestionRecord]:
    """Questions of the first `count` rooms, of which those that are not in the cache are made."""
    # The table is written anew for each number of rooms, so it is read before another process may change it.
    with stored_rooms(benchmark.settings, count, workers, cache, on_scene) as table:
        return load_vsibench(table)[0]


def rooms_for_limit(
    first_rooms: Callable[[int], Sequence[QuestionRecord]], num_rooms: int, limit: int | None
) -> list[QuestionRecord]:
    """Questions of the first 2, 4, 8 ... rooms, until each type has its share of `limit`, or of all rooms.

    The number of rooms follows from `limit` alone, so the questions do not depend on what a cache holds.

    Args:
        first_rooms: the questions of the first rooms, by their number.
        num_rooms: the most rooms.
        limit: how many questions are wanted; None for all rooms.

    Raises:
        ValueError: if `limit` is below 1.
    """
    if limit is None:
        return list(first_rooms(num_rooms))
    if limit < 1:
        raise ValueError(f"The limit is {limit}, but must be at least 1 question.")
    share = -(-limit // len(QUESTION_TYPES))
    count = min(FIRST_ROOMS, num_rooms)
    while True:
        records = list(first_rooms(count))
        counts = Counter(record.question_type for record in records)
        if count == num_rooms or all(counts[name] >= share for name in QUESTION_TYPES):
            return records
        count = min(2 * count, num_rooms)
