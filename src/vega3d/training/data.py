"""The rows to train on: what a row means, and data sets of them, whole or as a stream.

A row is a `SpatialQuestion` with its answer, chat data in the `messages` form, or a row of a published data set
(`published_rows`); all become a `TrainingExample`. Rows come from folders of rooms, files, tar shards (`shards`), and
data sets of the Hub.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vega3d.extras import optional_module
from vega3d.files import read_rows
from vega3d.questions import Mark, SpatialQuestion
from vega3d.training.config import FILES, DataSource
from vega3d.training.published_rows import messages_row
from vega3d.training.spar_marks import MarkedImage

ROLES = ("system", "user", "assistant")
MEDIA = ("image", "video")
MARKERS = re.compile(r"<(image|video)>")
NAMED = 5  # rows named in a message
PART_FORM = "give type text with its text, image or video"
COORD = "<coord>"  # stands in a text for a point of `coord_positions`
ADDRESS = re.compile(r"^(https?://|data:)")


@dataclass(frozen=True)
class MarkedVideo:
    """A video with boxes to be drawn on one of its frames, as `features.clips.sampled_clip` takes them."""

    visual: Any
    frame: int | None
    marks: Sequence[Mark]


@dataclass(frozen=True)
class TrainingExample:
    """One conversation with its images and videos, checked and ready for the collator.

    Attributes:
        id: names the row in errors.
        messages: `{"role", "content"}`; the content is a list of `{"type": "text", "text"}`, `{"type": "image"}` and
            `{"type": "video"}`. Each placeholder stands for the next of the images or videos below.
        images: one for each placeholder, in order, as `VegaProcessor` takes them; a `MarkedImage` is one with marks to
            draw. Images and videos may be files within a shard (`shards.ShardFile`).
        videos: the same; a `MarkedVideo` is one with boxes to draw.
        coord_positions: x, y, z [m] of each `<coord>` in the messages, in order.
    """

    id: str
    messages: list[dict]
    images: list
    videos: list
    coord_positions: list = field(default_factory=list)

    def media_files(self) -> list[Path]:
        """Files and folders that this row needs; media in memory, in shards, and addresses are none."""
        given = (*self.images, *self.videos)
        visuals = [one.visual if isinstance(one, (MarkedVideo, MarkedImage)) else one for one in given]
        paths = [path for visual in visuals for path in (visual if isinstance(visual, list) else [visual])]
        return [Path(path) for path in paths if isinstance(path, Path) or is_path(path)]


def is_path(value: object) -> bool:
    return isinstance(value, str) and not ADDRESS.match(value)


def training_example(
    row: TrainingExample | SpatialQuestion | Mapping,
    id: str,
    folder: Path | None = None,
    format: str | None = None,
) -> TrainingExample:
    """The example that a row means.

    Args:
        row: a mapping with `messages` and, for their placeholders, `images` and `videos`, and for each `<coord>` in
            them a point in `coord_positions`; a row of a published data set; or a question with answer.
        id: names the row, unless it has an `id` of its own.
        folder: that paths in the row are relative to, unless the row names one (`folder`, as streams do).
        format: that the row is written in, unless the row names one (`row_format`, as streams do); None recognises it
            by keys that no other has.

    Raises:
        ValueError: naming the row, if it has no answer, or if placeholders and media differ in number.
    """
    if isinstance(row, TrainingExample):
        return row
    if not isinstance(row, (SpatialQuestion, Mapping)):
        raise ValueError(f"Row {id} cannot be trained on: it is {named_type(row)}, but must have `messages`.")
    try:
        if isinstance(row, SpatialQuestion):
            return question_example(row, id)
        streamed = row.get("folder")
        if streamed is not None and not isinstance(streamed, (str, Path)):
            raise ValueError(f"its `folder` is {named_type(streamed)}, but must be a path.")
        messages = messages_row(row, format or row.get("row_format"))
        return messages_example(messages, row_id(row, id), Path(streamed) if streamed else folder)
    except ValueError as error:
        raise ValueError(f"Row {row_id(row, id)} cannot be trained on: {error}") from error


def named_type(value: object) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def row_id(row: SpatialQuestion | Mapping, id: str) -> str:
    return id if isinstance(row, SpatialQuestion) or row.get("id") is None else str(row["id"])


def question_example(question: SpatialQuestion, id: str) -> TrainingExample:
    if not question.answer:
        raise ValueError("the question has no `answer`. Give one, or leave the row out.")
    kind = "image" if question.is_image else "video"
    content = [{"type": kind}, {"type": "text", "text": question.prompt}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": question.answer}]},
    ]
    if question.is_image:
        return TrainingExample(id, messages, [question.visual], [])
    marked = MarkedVideo(question.visual, question.frame, question.marks) if question.marks else question.visual
    return TrainingExample(id, messages, [], [marked])


def messages_example(row: Mapping, id: str, folder: Path | None) -> TrainingExample:
    messages = row.get("messages")
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError(f"it has no `messages`; its columns are {sorted(map(str, row))}.")
    waiting = {kind: listed_media(row, f"{kind}s") for kind in MEDIA}
    contents = [content_parts(message) for message in messages]
    named = sum(part["type"] in MEDIA for content in contents for part in content)
    if named == 0 and any(waiting.values()):
        place_first(messages, contents, waiting)
    found: dict[str, list] = {kind: [] for kind in MEDIA}
    for content in contents:
        for part in content:
            if part["type"] in MEDIA:
                found[part["type"]].append(placed_medium(part, waiting[part["type"]], folder))
    for kind, left in waiting.items():
        if left:
            raise ValueError(f"it has {len(left)} {kind}(s) more than placeholders of type {kind!r}.")
    plain = [[{k: part[k] for k in ("type", "text") if k in part} for part in content] for content in contents]
    roles = [message["role"] for message in messages]
    turns = [{"role": role, "content": content} for role, content in zip(roles, plain, strict=True)]
    check_answers(turns)
    return TrainingExample(id, turns, found["image"], found["video"], points_of(row, turns))


def points_of(row: Mapping, turns: list[dict]) -> list[list[float]]:
    """x, y, z [m] of each `<coord>` in a conversation; raises ValueError if it has points of another number."""
    points = row.get("coord_positions")
    points = [] if points is None else points.tolist() if isinstance(points, np.ndarray) else list(points)
    count = sum(part.get("text", "").count(COORD) for turn in turns for part in turn["content"])
    if points and (len(points) != count or any(len(point) != 3 or not np.isfinite(point).all() for point in points)):
        raise ValueError(f"its `coord_positions` are {points}, but must be x, y, z [m] for each of {count} {COORD}.")
    return [[float(value) for value in point] for point in points]


def listed_media(row: Mapping, column: str) -> list:
    """The images or videos of a row: a list, also if there is one."""
    media = row.get(column)
    if media is None:
        return []
    if not isinstance(media, (list, tuple)):
        raise ValueError(f"its `{column}` are {named_type(media)}, but must be a list.")
    return list(media)


def content_parts(message: Any) -> list[dict]:
    """Content parts of one message, without the empty columns that tables add."""
    if not isinstance(message, Mapping):
        raise ValueError(f"a message is {named_type(message)}, but must hold `role` and `content`.")
    if message.get("role") not in ROLES:
        raise ValueError(f"a message has the role {message.get('role')!r}; roles are {list(ROLES)}.")
    content = message.get("content")
    if isinstance(content, str):
        pieces = MARKERS.split(content)  # text, kind, text, kind, ... text
        parts = [{"type": p} if i % 2 else {"type": "text", "text": p} for i, p in enumerate(pieces)]
        return [part for part in parts if part.get("text") != ""]
    if content is not None and not isinstance(content, (list, tuple)):
        raise ValueError(f"the content of a message is {named_type(content)}, but must be text or a list of parts.")
    parts = []
    for part in content or ():
        if not isinstance(part, Mapping):
            raise ValueError(f"a part of a message is {named_type(part)}; {PART_FORM}.")
        part = {key: value for key, value in part.items() if value is not None}
        is_text = part.get("type") == "text" and isinstance(part.get("text"), str)
        if not is_text and part.get("type") not in MEDIA:
            raise ValueError(f"a part of a message is {part}; {PART_FORM}.")
        parts.append(part)
    return parts


def place_first(messages, contents: list[list[dict]], waiting: dict[str, list]) -> None:
    """Text without any placeholder: the media come before the first text of the user, as in TRL."""
    first = next((i for i, message in enumerate(messages) if message["role"] == "user"), None)
    if first is None:
        raise ValueError("it has images or videos, but no message of the user to put them in.")
    contents[first] = [{"type": kind} for kind in MEDIA for _ in waiting[kind]] + contents[first]


def placed_medium(part: Mapping, waiting: list, folder: Path | None):
    """The image or video of a placeholder: its own, or the next of the row's list."""
    kind = part["type"]
    own = [part[key] for key in (kind, "path", "url") if key in part]
    if len(own) > 1:
        raise ValueError(f"a placeholder of type {kind!r} names {len(own)} media. Keep one of them.")
    if not own and not waiting:
        raise ValueError(f"there are more placeholders of type {kind!r} than {kind}s. Give one for each.")
    return located(own[0] if own else waiting.pop(0), folder)


def located(medium, folder: Path | None):
    """A path relative to `folder` made whole; of a table's `{"path", "bytes"}` the path."""
    if isinstance(medium, MarkedImage):
        return replace(medium, visual=located(medium.visual, folder))
    if isinstance(medium, Mapping):
        if not medium.get("path"):
            raise ValueError("an image or video comes as bytes without a path. Decode it, or write it to a file.")
        medium = medium["path"]
    if medium is None or isinstance(medium, (bool, int, float)) or (isinstance(medium, str) and not medium):
        raise ValueError(f"an image or video is {named_type(medium)}, but must be a path or what is read from one.")
    if isinstance(medium, list):
        return [located(one, folder) for one in medium]
    if folder is not None and (isinstance(medium, Path) or is_path(medium)):
        return folder / medium
    return medium


def check_answers(messages: list[dict]) -> None:
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not answers:
        raise ValueError("it has no message of the assistant to learn from.")
    for answer in answers:
        has_media = any(part["type"] in MEDIA for part in answer)
        if has_media or not "".join(part.get("text", "") for part in answer).strip():
            raise ValueError("an answer of the assistant is empty, or holds an image or video; it must be text.")


def check_media(examples: Iterable[TrainingExample]) -> None:
    """Raises ValueError, naming the first few rows, if files or folders that rows need are not there, or are empty."""
    is_there = cache(has_content)  # rows share videos
    missing = [(example.id, path) for example in examples for path in example.media_files() if not is_there(path)]
    if missing:
        named = ", ".join(f"{id} ({path})" for id, path in missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise ValueError(
            f"{len(missing)} videos or images of the data are missing, those of the rows {named}{more}. Put them "
            "there, mend the paths, or leave the rows out; nothing takes their place."
        )


def has_content(path: Path) -> bool:
    """Whether there is such a file, or a folder that holds something."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


class ExampleDataset(torch.utils.data.Dataset):
    """Examples in memory, each of them checked; their media are read when a batch is made."""

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
        names = ("id", "messages", "images", "videos", "coord_positions")
        return {name: [getattr(example, name) for example in chosen] for name in names}


def as_datasets(dataset: ExampleDataset) -> Any:
    """The same rows as a `datasets.Dataset`, for trainers that take nothing else (TRL's)."""
    numbers = optional_module("datasets").Dataset.from_dict({"number": list(range(len(dataset)))})
    return numbers.with_transform(RowsByNumber(dataset.examples))


def load_examples(sources: Sequence[DataSource]) -> ExampleDataset:
    """All rows, one source after the other.

    Raises:
        ValueError: if there is no such data, or no row in it; naming the rows that cannot be trained on, and those
            whose videos or images are missing.
    """
    for source in sources:
        source.check()
    examples = []
    for source in sources:
        with named_source(source):
            found = source_examples(source)
            check_media(found)
        examples += found
    if not examples:
        raise ValueError(f"There are no rows in {', '.join(source.path for source in sources)}.")
    return ExampleDataset(examples)


@contextmanager
def named_source(source: DataSource) -> Iterator[None]:
    """Puts the path of the data before the error of one of its rows: rows of several sources may have one id."""
    try:
        yield
    except ValueError as error:
        named = str(error) if source.path in str(error) else f"{source.path}: {error}"
        raise ValueError(named) from error


def source_examples(source: DataSource) -> list[TrainingExample]:
    path = Path(source.path)
    rows: Iterable
    if source.is_sharded:
        from vega3d.training.shards import shard_examples  # which makes examples, too

        return shard_examples(source)
    if source.is_rooms:
        from vega3d.rooms.dataset.files import load_spatial_questions

        rows = load_spatial_questions(source.path, source.split)
    elif path.is_file():
        rows = read_rows(path)
    else:
        rows = optional_module("datasets").load_dataset(source.path, split=source.split)
    form = source.folder, source.format
    return [training_example(row, f"{path.name}/{number}", *form) for number, row in enumerate(rows)]


def stream_examples(sources: Sequence[DataSource], seed: int, shuffle_buffer: int) -> Any:
    """A `datasets.IterableDataset` of rows as they are, shuffled within a buffer; of tar shards a `ShardStream`.

    Shards are shuffled whole, unless `shuffle_buffer` is 1.

    Raises:
        ValueError: for rooms, which are tables already, or more sources than one. A missing video is found, and named
            with its row, only when the row comes up.
    """
    if len(sources) != 1 or sources[0].is_rooms:
        raise ValueError(
            "A stream reads one file, one data set of the Hub, or tar shards; rooms and several of them need none."
        )
    (source,) = sources
    source.check()
    if source.is_sharded:
        from vega3d.training.shards import ShardStream  # which makes examples, too

        return ShardStream(source.shards(), source.format, seed, shuffle_buffer > 1)
    path = Path(source.path)
    folder = None if source.folder is None else str(source.folder.resolve())
    load = optional_module("datasets").load_dataset
    if path.is_file():
        stream = load(FILES[path.suffix], data_files=str(path), split="train", streaming=True)
    else:
        stream = load(source.path, split=source.split, streaming=True)
    stream = stream.map(StreamedRow(path.name, folder, source.format), with_indices=True)
    return stream.shuffle(seed=seed, buffer_size=shuffle_buffer) if shuffle_buffer > 1 else stream


@dataclass(frozen=True)
class StreamedRow:
    """Gives a row of a stream its id, the folder of its media, and its format."""

    name: str
    folder: str | None
    format: str | None

    def __call__(self, row: Mapping, number: int) -> dict:
        own = row.get("id")
        id = f"{self.name}/{number}" if own is None else str(own)
        return {**row, "id": id, "folder": self.folder, "row_format": self.format}


def fingerprint(dataset: ExampleDataset) -> str:
    """SHA-256 of what is trained on: messages, media and the sizes of their files, in the order of the rows."""
    digest = hashlib.sha256()
    for example in dataset.examples:
        sizes = [path.stat().st_size for path in example.media_files() if path.is_file()]
        media = [[str(video) for video in kind] for kind in (example.images, example.videos)]
        points = [example.coord_positions] if example.coord_positions else []  # runs without any keep their hash
        digest.update(json.dumps([example.id, example.messages, media, sizes, *points]).encode())
    return digest.hexdigest()
