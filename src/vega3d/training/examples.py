"""Training examples: what a row of a data set means, in the `messages` form of chat data or as a `SpatialQuestion`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vega3d.questions import Mark, SpatialQuestion

ROLES = ("system", "user", "assistant")
MEDIA = ("image", "video")
MARKERS = re.compile(r"<(image|video)>")
NAMED = 5  # rows named in a message
ADDRESS = re.compile(r"^(https?://|data:)")


@dataclass(frozen=True)
class MarkedVideo:
    """A video with boxes to be drawn on one of its frames, as `features.clips.sampled_clip` takes them."""

    visual: Any
    frame: int | None
    marks: Sequence[Mark]


@dataclass(frozen=True)
class TrainingExample:
    """
    Args:
        id: names the row in messages.
        messages: `{"role", "content"}`; the content is a list of `{"type": "text", "text"}`, `{"type": "image"}` and
            `{"type": "video"}`, whose media are the next of the lists below.
        images: of the placeholders, in order, as `VegaProcessor` takes them.
        videos: the same; a `MarkedVideo` is one with boxes to draw.
    """

    id: str
    messages: list[dict]
    images: list
    videos: list

    def media_files(self) -> list[Path]:
        """Files and folders that this row needs; media in memory and addresses are none."""
        visuals = [video.visual if isinstance(video, MarkedVideo) else video for video in (*self.images, *self.videos)]
        paths = [path for visual in visuals for path in (visual if isinstance(visual, list) else [visual])]
        return [Path(path) for path in paths if isinstance(path, Path) or is_path(path)]


def is_path(value: object) -> bool:
    return isinstance(value, str) and not ADDRESS.match(value)


def example_of(row: "TrainingExample | SpatialQuestion | Mapping", id: str, folder: Path | None = None):
    """
    Args:
        row: a mapping with `messages` and, for their placeholders, `images` and `videos`; or a question with answer.
        id: of the row, unless it has an `id` of its own.
        folder: that paths in the row are relative to, unless the row names one (`folder`, as streams do).

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
        return messages_example(row, row_id(row, id), Path(streamed) if streamed else folder)
    except ValueError as error:
        raise ValueError(f"Row {row_id(row, id)} cannot be trained on: {error}") from error


def named_type(value: object) -> str:
    return "null" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def row_id(row: "SpatialQuestion | Mapping", id: str) -> str:
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
    waiting = {kind: media_of(row, f"{kind}s") for kind in MEDIA}
    contents = [parts_of(message) for message in messages]
    named = sum(part["type"] in MEDIA for content in contents for part in content)
    if named == 0 and any(waiting.values()):
        place_first(messages, contents, waiting)
    found: dict[str, list] = {kind: [] for kind in MEDIA}
    for content in contents:
        for part in content:
            if part["type"] in MEDIA:
                found[part["type"]].append(medium_of(part, waiting[part["type"]], folder))
    for kind, left in waiting.items():
        if left:
            raise ValueError(f"it has {len(left)} {kind}(s) more than placeholders of type {kind!r}.")
    plain = [
        {
            "role": message["role"],
            "content": [{k: v for k, v in part.items() if k in ("type", "text")} for part in content],
        }
        for message, content in zip(messages, contents, strict=True)
    ]
    return TrainingExample(id, check_answers(plain), found["image"], found["video"])


def media_of(row: Mapping, column: str) -> list:
    """The images or videos of a row: a list, also if there is one."""
    media = row.get(column)
    if media is None:
        return []
    if not isinstance(media, (list, tuple)):
        raise ValueError(f"its `{column}` are {named_type(media)}, but must be a list.")
    return list(media)


def parts_of(message: Any) -> list[dict]:
    """Content parts of one message, without the empty columns that tables add."""
    if not isinstance(message, Mapping):
        raise ValueError(f"a message is {named_type(message)}, but must hold `role` and `content`.")
    if message.get("role") not in ROLES:
        raise ValueError(f"a message has the role {message.get('role')!r}; roles are {list(ROLES)}.")
    content = message.get("content")
    if isinstance(content, str):
        pieces = MARKERS.split(content)  # text, kind, text, kind, ... text
        parts = [{"type": "text", "text": p} if i % 2 == 0 else {"type": p} for i, p in enumerate(pieces)]
        return [part for part in parts if part.get("text") != ""]
    if content is not None and not isinstance(content, (list, tuple)):
        raise ValueError(f"the content of a message is {named_type(content)}, but must be text or a list of parts.")
    for part in content or ():
        if not isinstance(part, Mapping):
            raise ValueError(
                f"a part of a message is {named_type(part)}; give type text with its text, image or video."
            )
    parts = [{key: value for key, value in part.items() if value is not None} for part in content or ()]
    for part in parts:
        if part.get("type") not in ("text", *MEDIA) or (
            part["type"] == "text" and not isinstance(part.get("text"), str)
        ):
            raise ValueError(f"a part of a message is {part}; give type text with its text, image or video.")
    return parts


def place_first(messages, contents: list[list[dict]], waiting: dict[str, list]) -> None:
    """Text without any placeholder: the media come before the first text of the user, as in TRL."""
    first = next((i for i, message in enumerate(messages) if message["role"] == "user"), None)
    if first is None:
        raise ValueError("it has images or videos, but no message of the user to put them in.")
    contents[first] = [{"type": kind} for kind in MEDIA for _ in waiting[kind]] + contents[first]


def medium_of(part: Mapping, waiting: list, folder: Path | None):
    """The image or video of a placeholder: its own, or the next of the row's list."""
    kind = part["type"]
    own = [part[key] for key in (kind, "path", "url") if key in part]
    if len(own) > 1:
        raise ValueError(f"a placeholder of type {kind!r} names {len(own)} media. Keep one of them.")
    if not own and not waiting:
        raise ValueError(f"there are more placeholders of type {kind!r} than {kind}s. Give one for each.")
    return resolved(own[0] if own else waiting.pop(0), folder)


def resolved(medium, folder: Path | None):
    """A path relative to `folder` made whole; of a table's `{"path", "bytes"}` the path."""
    if isinstance(medium, Mapping):
        if not medium.get("path"):
            raise ValueError("an image or video comes as bytes without a path. Decode it, or write it to a file.")
        medium = medium["path"]
    if medium is None or isinstance(medium, (bool, int, float)) or (isinstance(medium, str) and not medium):
        raise ValueError(f"an image or video is {named_type(medium)}, but must be a path or what is read from one.")
    if isinstance(medium, list):
        return [resolved(one, folder) for one in medium]
    if folder is not None and (isinstance(medium, Path) or is_path(medium)):
        return folder / medium
    return medium


def check_answers(messages: list[dict]) -> list[dict]:
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise ValueError("it has no message of the assistant to learn from.")
    for answer in answers:
        if any(part["type"] in MEDIA for part in answer["content"]) or not text_of(answer).strip():
            raise ValueError("an answer of the assistant is empty, or holds an image or video; it must be text.")
    return messages


def text_of(message: Mapping) -> str:
    return "".join(part.get("text", "") for part in message["content"])


def missing_media(examples: Iterable[TrainingExample]) -> list[tuple[str, Path]]:
    """Rows, by their ids, and the files and folders that they need and that are not there."""
    known: dict[Path, bool] = {}
    missing = []
    for example in examples:
        for path in example.media_files():
            if path not in known:
                known[path] = path.exists()
            if not known[path]:
                missing.append((example.id, path))
    return missing


def missing_message(missing: Sequence[tuple[str, Path]]) -> str:
    named = ", ".join(f"{id} ({path})" for id, path in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return (
        f"{len(missing)} videos or images of the data are missing, those of the rows {named}{more}. Put them there, "
        "mend the paths, or leave the rows out; nothing takes their place."
    )
