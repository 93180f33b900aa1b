"""Data sets to train on: rooms, files of messages, and data sets of the Hub; whole or as a stream."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from vega3d.files import check_input
from vega3d.rooms.dataset.files import load_spatial_questions, table_file
from vega3d.training.examples import TrainingExample, example_of, missing_media, missing_message

FILES = {".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class DataSource:
    """
    Args:
        path: a folder of rooms (`vega3d synthesize`), a `.jsonl` or `.parquet` file with a column `messages`, or the
            id of such a data set on the Hub. Paths of media are relative to the file.
        split: of a folder of rooms or of a data set of the Hub.
    """

    path: str
    split: str = "train"

    @property
    def is_rooms(self) -> bool:
        return Path(self.path).is_dir()

    def check(self) -> None:
        """Raises ValueError if there is no such data, before anything is loaded."""
        path = Path(self.path)
        if self.is_rooms and not (path / table_file(self.split, "questions")).is_file():
            raise ValueError(
                f"{path} has no {table_file(self.split, 'questions')}: it is no folder of rooms with the split "
                f"{self.split!r}. Make one with `vega3d synthesize {path} --split {self.split}`."
            )
        if path.is_file() and path.suffix not in FILES:
            raise ValueError(f"{path} is no file of messages: give one of {list(FILES)}.")
        if not path.exists() and (
            path.suffix in FILES or self.path.count("/") != 1 or self.path.startswith((".", "/"))
        ):
            raise ValueError(f"There is no data {self.path}. Give a folder of rooms, a file of messages, or a Hub id.")


class ExampleDataset(torch.utils.data.Dataset):
    """Examples by number, each of them checked and all their media there."""

    def __init__(self, examples: Sequence[TrainingExample]):
        self.examples = list(examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> TrainingExample:
        return self.examples[number]


@dataclass(frozen=True)
class RowsByNumber:
    """The transform of `as_datasets`: columns of the examples with these numbers."""

    examples: Sequence[TrainingExample]

    def __call__(self, batch: Mapping) -> dict[str, list]:
        chosen = [self.examples[number] for number in batch["number"]]
        return {
            "id": [example.id for example in chosen],
            "messages": [example.messages for example in chosen],
            "images": [example.images for example in chosen],
            "videos": [example.videos for example in chosen],
        }


def as_datasets(dataset: ExampleDataset) -> Any:
    """The same rows as a `datasets.Dataset`, for trainers that take nothing else (TRL's)."""
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ValueError('datasets is missing: pip install ".[train]" in a clone') from error
    numbers = Dataset.from_dict({"number": list(range(len(dataset)))})
    return numbers.with_transform(RowsByNumber(dataset.examples))


def load_examples(sources: Sequence[DataSource]) -> ExampleDataset:
    """All rows, one source after the other.

    Raises:
        ValueError: if there is no such data, or no row in it; naming the rows that cannot be trained on, and those
            whose videos or images are missing.
    """
    for source in sources:
        source.check()
    examples = [example for source in sources for example in source_examples(source)]
    if not examples:
        raise ValueError(f"There are no rows in {', '.join(source.path for source in sources)}.")
    missing = missing_media(examples)
    if missing:
        raise ValueError(missing_message(missing))
    return ExampleDataset(examples)


def source_examples(source: DataSource) -> list[TrainingExample]:
    name = Path(source.path).name
    if source.is_rooms:
        questions = load_spatial_questions(source.path, source.split)
        return [example_of(question, f"{name}/{number}") for number, question in enumerate(questions)]
    path = Path(source.path)
    if not path.is_file():
        rows = load_dataset(source.path, split=source.split)
        return [example_of(row, f"{name}/{number}") for number, row in enumerate(rows)]
    rows = json_rows(path) if path.suffix == ".jsonl" else parquet_rows(path)
    return [example_of(row, f"{name}/{number}", path.parent) for number, row in enumerate(rows)]


def json_rows(path: Path) -> list[dict]:
    rows = []
    try:
        lines = check_input(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}. Give a file of messages.") from error
    for number, line in enumerate(lines):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"Line {number + 1} of {path} is no JSON: {error}") from error
            if not isinstance(rows[-1], dict):
                raise ValueError(f"Line {number + 1} of {path} is no object with `messages`.")
    return rows


def parquet_rows(path: Path) -> list[dict]:
    try:
        return pyarrow.parquet.read_table(check_input(path)).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def load_dataset(*arguments, **options):
    try:
        from datasets import load_dataset as load
    except ImportError as error:
        raise ValueError(
            'Data of the Hub and streams need the library datasets: pip install ".[train]" in a clone'
        ) from error
    return load(*arguments, **options)


def stream_examples(sources: Sequence[DataSource], seed: int, shuffle_buffer: int) -> Any:
    """A `datasets.IterableDataset` whose rows hold `id`, `messages`, `images`, `videos`, shuffled within a buffer.

    Raises:
        ValueError: for rooms, which are tables already, or more sources than one. A missing video is found, and named
            with its row, only when the row comes up.
    """
    if len(sources) != 1 or sources[0].is_rooms:
        raise ValueError("A stream reads one file or one data set of the Hub; rooms and several of them need none.")
    (source,) = sources
    source.check()
    path = Path(source.path)
    if path.is_file():
        stream = load_dataset(FILES[path.suffix], data_files=str(path), split="train", streaming=True)
    else:
        stream = load_dataset(source.path, split=source.split, streaming=True)
    folder = str(path.parent.resolve()) if path.is_file() else None
    stream = stream.map(StreamedRow(path.name, folder), with_indices=True)
    return stream.shuffle(seed=seed, buffer_size=shuffle_buffer) if shuffle_buffer > 1 else stream


@dataclass(frozen=True)
class StreamedRow:
    """Gives a row of a stream its id and the folder of its media."""

    name: str
    folder: str | None

    def __call__(self, row: Mapping, number: int) -> dict:
        own = row.get("id")
        return {**row, "id": f"{self.name}/{number}" if own is None else str(own), "folder": self.folder}


def fingerprint(dataset: ExampleDataset) -> str:
    """Of what is trained on: messages and media, with the sizes of files; the same rows in the same order."""
    digest = hashlib.sha256()
    for example in dataset.examples:
        sizes = [path.stat().st_size for path in example.media_files() if path.is_file()]
        media = [[str(video) for video in kind] for kind in (example.images, example.videos)]
        digest.update(json.dumps([example.id, example.messages, media, sizes]).encode())
    return digest.hexdigest()
