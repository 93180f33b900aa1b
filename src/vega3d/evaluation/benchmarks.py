"""What `vega3d evaluate` is asked for: the questions of a benchmark, and the training questions of a baseline."""

from collections.abc import Callable
from pathlib import Path

from vega3d.evaluation.answerers import Answerer
from vega3d.evaluation.baselines import ChanceAnswerer, MostFrequentAnswerer
from vega3d.evaluation.rooms import ROOMS, TRAIN_ROOMS, load_rooms
from vega3d.evaluation.tables import read_table
from vega3d.evaluation.vsibench import QuestionRecord, load_vsibench, records_from_rows, take_balanced

BENCHMARKS = ("rooms", "vsibench")
PLAIN_BASELINES = ("chance", "most-frequent")  # without a model
BASELINES = (*PLAIN_BASELINES, "blind")
OnRooms = Callable[[int, int], None]


def load_benchmark(
    name: str,
    data: Path | None = None,
    table: str | None = None,
    limit: int | None = None,
    allow_missing: bool = False,
    seed: int = 0,
    workers: int = 1,
    on_rooms: OnRooms | None = None,
) -> tuple[list[QuestionRecord], list[str]]:
    """Questions with their videos, and the missing videos whose questions were left out.

    Args:
        name: `rooms` or `vsibench`.
        data: folder or table of a data set; without one, `rooms` are made, and no more than `limit` needs.
        table: which table of `data`.
        limit: questions, balanced over the types; None for all.
        allow_missing: leave out the questions whose video is not in `data`.
        seed: of the choice that `limit` makes.
        workers: processes that make rooms.
        on_rooms: as in `rooms.load_rooms`.

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
        records, missing = load_rooms(ROOMS, limit, workers, on_rooms=on_rooms), []
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
    on_rooms: OnRooms | None = None,
) -> Answerer:
    """A baseline without a model; the arguments as in `training_questions`, which `most-frequent` counts on."""
    if name == "chance":
        return ChanceAnswerer(seed)
    return MostFrequentAnswerer(training_questions(data, train_table, workers, on_rooms))


def training_questions(
    data: Path | None, train_table: Path | None, workers: int = 1, on_rooms: OnRooms | None = None
) -> list[QuestionRecord]:
    """What the most frequent answers are counted on: a table (no videos needed), or rooms of the split `train`.

    Raises:
        ValueError: if the questions come from a folder and there is no table to count on, or it is broken.
    """
    if train_table is not None:
        if not train_table.is_file():
            raise ValueError(f"There is no training table {train_table}. Give a .jsonl or .parquet file.")
        return records_from_rows(read_table(train_table), train_table.parent, str(train_table))
    if data is not None:
        raise ValueError(
            f"--baseline most-frequent counts on training questions, and {data} does not say which. Give a table of "
            "other scenes with --train-table."
        )
    return load_rooms(TRAIN_ROOMS, workers=workers, on_rooms=on_rooms)
