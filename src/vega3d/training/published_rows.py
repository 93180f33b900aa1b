"""Rows of published data sets as they are: chat in `conversations`, and media that are named beside it.

A row becomes one in the `messages` form, which `data.training_example` reads. What the formats share is LLaVA's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vega3d.configs import shown
from vega3d.training.spar_marks import TYPES, MarkedImage, marks_of_images, spar_info

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
COLUMNS = {"images": ("images", "image"), "videos": ("videos", "video")}  # of media, in the form of each data set
IMAGE, VIDEO = "<image>", "<video>"
MOST_IMAGES = 10  # of a SPAR row that are images; more are the frames of a video
FORMATS = {  # what each is read for, in errors
    "messages": "chat in `messages`",
    "llava": "chat in `conversations`, with `image` or `video`",
    "spar": "the same with marks to draw (`spar_info`, or their names in the row itself)",
    "llava_hound": "the same with `video`, a folder of frames",
    "vlm3r": "the same with `video`, and `scene_name`",
    "vsi590k": "the same with `video` or `image`, and `question_type`",
}
NEEDED = {"llava_hound": ("video",), "vlm3r": ("video", "scene_name"), "vsi590k": ("question_type",)}
VLM3R_SOURCES = ("scannet", "scannetpp", "arkitscenes")


def messages_row(row: Mapping, format: str | None) -> Mapping:
    """A row in the `messages` form: itself, or what a published one means.

    Args:
        row: a mapping with `messages`, or with `conversations`.
        format: one of `FORMATS`; None recognises it by keys that no other has.

    Raises:
        ValueError: if the row is of another format, or of one that its keys do not tell; if its media are not as many
            as their placeholders; if a mark of SPAR is not there.
    """
    format = recognised(row) if format is None else format
    if format == "messages":
        return row
    missing = [name for name in ("conversations", *NEEDED.get(format, ())) if row.get(name) is None]
    if missing:
        raise ValueError(f"it has no `{missing[0]}`, but {format} is {FORMATS[format]}; its columns are {names(row)}.")
    media = {column: listed(row, *given) for column, given in COLUMNS.items()}
    messages = [message(turn) for turn in turns(row["conversations"])]
    if format == "spar":
        info = spar_info(row)
        place_images(messages, len(media["images"]), info["type"])
        marks = marks_of_images(info, len(media["images"]))
        media["images"] = [
            MarkedImage(image, drawn) if drawn else image for image, drawn in zip(media["images"], marks, strict=True)
        ]
    check_placeholders(messages, media)
    kept = {name: row[name] for name in ("id", "folder") if row.get(name) is not None}
    return {**kept, "messages": messages, **media}


def recognised(row: Mapping) -> str:
    """The format that the keys of a row tell; raises ValueError, naming those to choose from, if they tell none."""
    if "conversations" not in row or row.get("messages") is not None:
        return "messages"
    if row.get("spar_info") is not None or row.get("type") in TYPES:
        return "spar"
    if row.get("data_source") == "llava_hound":
        return "llava_hound"
    if row.get("data_source") in VLM3R_SOURCES and row.get("scene_name") is not None:
        return "vlm3r"
    raise ValueError(
        f"it has `conversations`, but its columns {names(row)} do not tell its format. Give `format`: "
        f"{', '.join(name for name in FORMATS if name != 'messages')}."
    )


def names(row: Mapping) -> list[str]:
    return sorted(str(name) for name, value in row.items() if value is not None)


def listed(row: Mapping, *columns: str) -> list:
    """The media in the one of some columns that a row has: a path, or a list."""
    there = [column for column in columns if row.get(column) is not None]
    if len(there) > 1:
        raise ValueError(f"it has both {' and '.join(f'`{column}`' for column in there)}. Keep one of them.")
    media = row[there[0]] if there else []
    if isinstance(media, (str, Mapping)):
        return [media]
    if not isinstance(media, (list, tuple)):
        raise ValueError(f"its `{there[0]}` is {shown(media)}, but must be a path, or a list of them.")
    return list(media)


def turns(conversations: Any) -> Sequence:
    if not isinstance(conversations, (list, tuple)) or not conversations:
        raise ValueError(f"its `conversations` are {shown(conversations)}, but must be a list with a turn.")
    return conversations


def message(turn: Any) -> dict[str, str]:
    """A turn as a message. The line that ends behind a placeholder is no part of the text, as in evaluations."""
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
        raise ValueError(f"a turn is {shown(turn)}, but must hold `from`, and text in `value`.")
    if not isinstance(turn.get("from"), str) or turn["from"] not in ROLES:
        raise ValueError(f"a turn is from {shown(turn.get('from'))}; they are from {', '.join(ROLES)}.")
    text = turn["value"]
    for placeholder in (IMAGE, VIDEO):
        text = text.replace(f"{placeholder}\n", placeholder)
    return {"role": ROLES[turn["from"]], "content": text}


def place_images(messages: list[dict], images: int, kind: str) -> None:
    """Writes the placeholders that SPAR's own rows leave out, as its authors do; frames of a video get numbers."""
    first = messages[0]
    if IMAGE in first["content"]:
        return
    if VIDEO in first["content"] or images > MOST_IMAGES or kind == "nav":
        frames = "\n".join(f"Frame-{number}: {IMAGE}" for number in range(1, images + 1))
        first["content"] = f"{frames}\n{first['content'].replace(VIDEO, '', 1)}"
    else:
        first["content"] = IMAGE * images + first["content"]


def check_placeholders(messages: list[dict], media: Mapping[str, list]) -> None:
    """Makes `<image>` stand for a video in rows with nothing but videos, as LLaVA does; raises if numbers differ."""
    counts = {mark: sum(one["content"].count(mark) for one in messages) for mark in (IMAGE, VIDEO)}
    if counts[IMAGE] == len(media["videos"]) and not media["images"] and not counts[VIDEO]:
        for one in messages:
            one["content"] = one["content"].replace(IMAGE, VIDEO)
        return
    for mark, column in ((IMAGE, "images"), (VIDEO, "videos")):
        if counts[mark] != len(media[column]):
            raise ValueError(
                f"its text holds {mark} {counts[mark]} time(s), but it has {len(media[column])} {column}. Give one "
                "for each, or leave the row out."
            )
