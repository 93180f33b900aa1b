"""What `vega3d evaluate` is asked for: the questions of a benchmark, and the training questions of a baseline.

The rooms of the benchmark `rooms` are made when they are asked for, no more of them than are needed, and stored for
the next time: in a folder below the Hub's own cache for each split and setting, which several processes may share.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from vega3d.evaluation.answerers import Answerer, ChanceAnswerer, MostFrequentAnswerer
from vega3d.evaluation.metrics import QUESTION_TYPES
from vega3d.evaluation.vsibench import AnnotatedQuestion, load_vsibench, read_table, records_from_rows, take_balanced
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import default_cache, folder_name, stored_rooms

BENCHMARKS = ("rooms", "vsibench")
PLAIN_BASELINES = ("chance", "most-frequent")  # without a model
BASELINES = (*PLAIN_BASELINES, "blind")
FIRST_ROOMS = 2


class Typed(Protocol):
    """A question of a type, which limits are balanced over."""

    @property
    def question_type(self) -> str: ...


Asked = TypeVar("Asked", bound=Typed)
OnProgress = Callable[[int, int], None]  # rooms newly there, rooms wanted for now


@dataclass(frozen=True)
class RoomsBenchmark:
    """A benchmark of simulated rooms: the first `num_rooms` of the data set (and split) that `settings` describe."""

    settings: DatasetSettings = field(default_factory=lambda: DatasetSettings(split="test"))
    num_rooms: int = 100

    @property
    def folder_name(self) -> str:
        return folder_name(self.settings)


ROOMS = RoomsBenchmark()
TRAIN_ROOMS = RoomsBenchmark(DatasetSettings(split="train"), num_rooms=40)


def load_benchmark(
    name: str,
    data: Path | None = None,
    table: str | None = None,
    limit: int | None = None,
    allow_missing: bool = False,
    seed: int = 0,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> tuple[list[AnnotatedQuestion], list[str]]:
    """Questions with their videos, and the missing videos whose questions were left out.

    Args:
        name: one of `BENCHMARKS`.
        data: folder or table of a data set; without one, `rooms` are made, and no more than `limit` needs.
        table: file or split of `data`, as `vsibench.read_questions` finds it.
        limit: questions, balanced over the types and drawn by `seed`; None for all.
        allow_missing: leave out the questions whose video is not in `data`.
        workers: processes that make rooms.

    Raises:
        ValueError: if an argument is out of range or does not fit the others, or as `load_vsibench` does.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"The benchmark is {name!r}, but must be {' or '.join(BENCHMARKS)}.")
    if data is not None:
        records, missing = load_vsibench(data, table, allow_missing)
    elif name == "rooms":
        if table is not None or allow_missing:
            raise ValueError("--table and --allow-missing are for a folder. Give it with --data, or leave them out.")
        records, missing = load_rooms(ROOMS, limit, workers, on_progress=on_progress), []
    else:
        raise ValueError(f"{name} is not downloaded for you. Give the folder of your local download with --data.")
    return (records if limit is None else take_balanced(records, limit, seed)), missing


def check_baseline(baseline: str | None, model: str | None, train_table: Path | None) -> None:
    """Raises ValueError, before anything is loaded or made, unless the three arguments go together."""
    if baseline is not None and baseline not in BASELINES:
        raise ValueError(f"--baseline is {baseline!r}, but must be {', '.join(BASELINES)}.")
    if model is None and baseline in (None, "blind"):
        raise ValueError("Give a model, such as vega3d-tiny, or --baseline chance or most-frequent, which need none.")
    if train_table is not None and baseline != "most-frequent":
        raise ValueError("--train-table is only read by --baseline most-frequent. Leave it out, or give the baseline.")


def plain_baseline(
    name: str,
    seed: int = 0,
    data: Path | None = None,
    train_table: Path | None = None,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> Answerer:
    """A baseline without a model. `most-frequent` counts on `training_questions`, to which the other arguments go."""
    if name == "chance":
        return ChanceAnswerer(seed)
    return MostFrequentAnswerer(training_questions(data, train_table, workers, on_progress))


def training_questions(
    data: Path | None, train_table: Path | None, workers: int = 1, on_progress: OnProgress | None = None
) -> list[AnnotatedQuestion]:
    """What the most frequent answers are counted on: a table (no videos needed), or rooms of the split `train`."""
    if train_table is not None:
        if not train_table.is_file():
            raise ValueError(f"There is no training table {train_table}. Give a .jsonl or .parquet file.")
        return records_from_rows(read_table(train_table), train_table.parent, str(train_table))
    if data is not None:
        raise ValueError(
            f"--baseline most-frequent counts on training questions, and {data} does not say which. Give a table of "
            "other scenes with --train-table."
        )
    return load_rooms(TRAIN_ROOMS, workers=workers, on_progress=on_progress)


def load_rooms(
    benchmark: RoomsBenchmark,
    limit: int | None = None,
    workers: int = 1,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> list[AnnotatedQuestion]:
    """Questions of the first rooms of a benchmark, as many as a limit needs.

    Args:
        limit: how many questions are wanted, balanced over the types; None for all. See `rooms_for_limit`.
        workers: processes that make rooms.
        cache: where the rooms are stored; by default below `HF_HOME`.
        on_progress: called after each room, with the number of rooms newly done and of those wanted for now.

    Raises:
        ValueError: if `limit` is below 1, or the cache holds something else.
    """
    return read_rooms(
        benchmark, lambda table: load_vsibench(table)[0], QUESTION_TYPES, limit, workers, cache, on_progress
    )


def read_rooms(
    benchmark: RoomsBenchmark,
    read: Callable[[Path], list[Asked]],
    types: Sequence[str],
    limit: int | None = None,
    workers: int = 1,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> list[Asked]:
    """What is read of the first rooms of a benchmark, as many as a limit needs; see `load_rooms`.

    Args:
        read: the questions of the rooms that the data set of a table has.
        types: of question, over which the limit is balanced.
    """
    cache = default_cache() if cache is None else cache
    known = 0

    def first_rooms(count: int) -> list[Asked]:
        nonlocal known
        passed = 0

        def report_new(_: int) -> None:
            nonlocal passed
            passed += 1
            if on_progress is not None and passed > known:
                on_progress(1, count)

        # The table is written anew for each number of rooms, so it is read before another process may change it.
        with stored_rooms(benchmark.settings, count, workers, cache, report_new) as table:
            records = read(table)
        known = count
        return records

    return rooms_for_limit(first_rooms, benchmark.num_rooms, limit, types)


def rooms_for_limit(
    first_rooms: Callable[[int], Sequence[Asked]],
    num_rooms: int,
    limit: int | None,
    types: Sequence[str] = QUESTION_TYPES,
) -> list[Asked]:
    """Questions of the first 2, 4, 8 ... rooms, until each type has its share of `limit`, or of all rooms.

    The number of rooms follows from `limit` alone, so the questions do not depend on what a cache holds. `first_rooms`
    gives the questions of the first n rooms.
    """
    if limit is None:
        return list(first_rooms(num_rooms))
    if limit < 1:
        raise ValueError(f"The limit is {limit}, but must be at least 1 question.")
    share = -(-limit // len(types))
    count = min(FIRST_ROOMS, num_rooms)
    while True:
        records = list(first_rooms(count))
        counts = Counter(record.question_type for record in records)
        if count == num_rooms or all(counts[name] >= share for name in types):
            return records
        count = min(2 * count, num_rooms)
