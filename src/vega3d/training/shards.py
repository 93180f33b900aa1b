"""Tar shards in the layout of WebDataset: the files of a sample follow one another, and share the name up to a dot.

A sample is a row (`KEY.json`) with its images and videos (`KEY.jpg`, `KEY.0.jpg`, `KEY.mp4`). Only names and places
are held: a file is read when its batch is made.
"""

import contextlib
import hashlib
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vega3d.features.clips import VIDEO_SUFFIXES
from vega3d.files import check_input
from vega3d.training.config import DataSource
from vega3d.training.data import MarkedVideo, TrainingExample, training_example
from vega3d.training.spar_marks import MarkedImage

BLOCK = 512  # bytes of a tar; two blocks of zeros end it
ROW = "json"  # what the row of a sample ends in
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
AGAIN = "Write or download it again."


@dataclass(frozen=True)
class ShardFile:
    """A file within a shard: its name, and where its bytes begin and how many they are."""

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def read(self) -> bytes:
        """Raises ValueError if the shard has become shorter."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise ValueError(f"{self} is cut off. {AGAIN}")
        return data

    @contextlib.contextmanager
    def extracted(self) -> Iterator[Path]:
        """The path of a copy, while the block lasts; errors of its content name the shard."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(self.name).name
            path.write_bytes(self.read())
            try:
                yield path
            except ValueError as error:
                raise ValueError(str(error).replace(str(path), str(self))) from error


@dataclass(frozen=True)
class Sample:
    """The files of one key of a shard, by what follows the key's dot."""

    shard: Path
    key: str
    files: Mapping[str, ShardFile]


def scan_shard(path: Path) -> list[Sample]:
    """The samples of a shard in order. Heads alone are read, so it costs a seek for each file.

    Raises:
        ValueError: if it is no plain tar, is cut off, holds something else than files with a key and an ending, two
            files of one name, or a key in two places.
    """
    found: dict[str, dict[str, ShardFile]] = {}
    last, end = None, 0
    try:
        with tarfile.open(check_input(path), "r:") as tar:
            for member in tar:
                end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isfile() else 0)
                if member.isdir():
                    continue
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                key, _, ending = name.partition(".")
                if not member.isfile() or not key or not ending:
                    raise ValueError(
                        f"{path} holds {member.name}, which is no file with a key and an ending. Remove it."
                    )
                key = f"{folder}/{key}" if folder else key
                if key != last and key in found:
                    raise ValueError(f"{path} has the files of {key} in two places. Sort them by name.")
                if ending in found.setdefault(key, {}):
                    raise ValueError(f"{path} has two files {member.name}. Keep one of them.")
                found[key][ending] = ShardFile(path, member.name, member.offset_data, member.size)
                last = key
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as a tar: {error}. Unpack a compressed one, or download it again."
        ) from error
    check_end(path, end)
    if not found:
        raise ValueError(f"{path} is a tar without files. {AGAIN}")
    return [Sample(path, key, files) for key, files in found.items()]


def check_end(path: Path, end: int) -> None:
    """Raises ValueError unless the tar ends as it should: Python's reader takes a cut for the end."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise ValueError(f"{path} is cut off or damaged after {end} bytes. {AGAIN}")


def sample_example(sample: Sample, format: str | None = None) -> TrainingExample:
    """The example of a sample, its media still in the shard.

    A row that names its media names them as they are called in the shard, or by their ending. One that names none has
    all pictures and videos of the sample, in order.

    Raises:
        ValueError: naming shard and key; for a row without media of that name, and for media without a row.
    """
    id = f"{sample.shard.name}/{sample.key}"
    if ROW not in sample.files:
        raise ValueError(f"{sample.shard} has no {sample.key}.{ROW}, the row of {', '.join(sample.files)}. Add it.")
    try:
        row = json.loads(sample.files[ROW].read())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{sample.files[ROW]} is no JSON: {error}. {AGAIN}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{sample.files[ROW]} is a {type(row).__name__}, which is no object with names and values.")
    media = {ending: file for ending, file in sample.files.items() if ending != ROW}
    if not any(row.get(column) for column in ("image", "images", "video", "videos")):
        row = {**row, **filled(media)}
    example = replace(training_example({**row, "id": id}, id, None, format), id=id)
    used: set[ShardFile] = set()
    images, videos = (
        [in_shard(one, sample, media, used) for one in kind] for kind in (example.images, example.videos)
    )
    unused = [ending for ending, file in media.items() if file not in used]
    if unused:
        raise ValueError(f"Row {id} cannot be trained on: {', '.join(unused)} of its sample are in no place of it.")
    return replace(example, images=images, videos=videos)


def filled(media: Mapping[str, ShardFile]) -> dict[str, list[str]]:
    """The pictures and the videos of a sample as columns, without those that would be empty."""
    kinds = {"images": PICTURES, "videos": VIDEO_SUFFIXES}
    columns = {kind: [one for one in media if f".{one}".lower().endswith(ends)] for kind, ends in kinds.items()}
    return {column: endings for column, endings in columns.items() if endings}


def in_shard(visual: Any, sample: Sample, media: Mapping[str, ShardFile], used: set[ShardFile]) -> Any:
    """The medium that a row names, as a file of its sample."""
    if isinstance(visual, list):
        return [in_shard(one, sample, media, used) for one in visual]
    if isinstance(visual, (MarkedImage, MarkedVideo)):
        return replace(visual, visual=in_shard(visual.visual, sample, media, used))
    named = {file.name.removeprefix("./"): file for file in media.values()}
    file = media.get(str(visual)) or named.get(str(visual))
    if file is None:
        raise ValueError(
            f"Row {sample.shard.name}/{sample.key} cannot be trained on: it names {visual}, but its sample has "
            f"{list(media)}. Name media as they are called in the shard, or by their ending."
        )
    used.add(file)
    return file


class ShardStream(torch.utils.data.IterableDataset):
    """Examples of tar shards, in an order that is a function of seed, epoch, and the number of workers.

    Workers of a data loader share out whole shards, so none gives a row of another. Shards are shuffled, and the rows
    within each, which holds the names of one shard in memory and no media. Processes each go over all rows, and take
    their part of each batch (accelerate), which costs them no reading of media.

    Args:
        shards: tar files.
        format: of the rows, one of `FORMATS`, or None for what their keys tell.
        seed: decides the order, with the number of the pass over the data.
        shuffled: False keeps the order of files and of names.
    """

    def __init__(self, shards: Sequence[Path], format: str | None = None, seed: int = 0, shuffled: bool = True):
        self.shards, self.format, self.seed, self.shuffled = list(shards), format, seed, shuffled
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self, length: int, *index: int) -> list[int]:
        """Numbers from 0 to `length`, shuffled by seed, epoch and `index`."""
        numbers = np.arange(length)
        return numbers.tolist() if not self.shuffled else self.random(*index).permutation(numbers).tolist()

    def random(self, *index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, *index])

    def __iter__(self) -> Iterator[TrainingExample]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in self.order(len(self.shards))[first::step]:
            samples = scan_shard(self.shards[number])
            for place in self.order(len(samples), number):
                yield sample_example(samples[place], self.format)


def shard_examples(source: DataSource) -> list[TrainingExample]:
    """All examples of the shards of a source, in order; their media stay in the shards."""
    return [sample_example(sample, source.format) for path in source.shards() for sample in scan_shard(path)]


def shards_fingerprint(shards: Sequence[Path]) -> str:
    """SHA-256 of names and sizes: what a run is bound to that streams them."""
    return hashlib.sha256(json.dumps([[path.name, path.stat().st_size] for path in shards]).encode()).hexdigest()
