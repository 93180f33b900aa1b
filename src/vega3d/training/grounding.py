"""Rows of grounding to a batch: sentences about posed clips, boxes to choose from, and the true ones as labels."""

import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from vega3d.modeling.boxes_vega3d import checked_boxes
from vega3d.modeling.grounding_prompts_vega3d import ground_text
from vega3d.processing.clip_geometry_vega3d import ClipGeometry
from vega3d.processing.media_vega3d import flatten_videos, load_clips
from vega3d.processing.video_vega3d import VideoClip
from vega3d.training.collator import VegaCollator

GEOMETRY = ("depth", "intrinsics", "world_from_camera")
ANYWHERE = (-math.inf,) * 3, (math.inf,) * 3  # the model knows how large a scene may be, a row does not


@dataclass(frozen=True, kw_only=True)
class GroundingExample:
    """A sentence about a posed clip, the boxes to choose from, and those that it means.

    Attributes:
        id: names the row in errors.
        expression: describes no, one or several objects.
        video: as `VegaProcessor` takes it; a `VideoClip` may have its geometry, as `read_posed_video` gives it.
        targets: float[K, 6 or 7], the true boxes: centre and sizes along x, y, z [m], the seventh the yaw [rad]; K may
            be 0, if nothing fits.
        boxes: float[M, 6 or 7], proposals; None to learn to do without.
        anchors: float[A, 6 or 7], the true boxes of what the sentence names beside the targets, in the order of its
            words, for the head `relations`; None if they are not known.
        geometry: depth and cameras of all frames of `video`, unless it has its own.
    """

    id: str
    expression: str
    video: Any
    targets: Any
    boxes: Any = None
    anchors: Any = None
    geometry: ClipGeometry | None = None


def grounding_example(row: GroundingExample | Mapping, id: str) -> GroundingExample:
    """The example that a row means: one, or a mapping with its fields, or with `depth`, `intrinsics` and poses.

    Other columns, such as `scene` and `kind`, stay unread. Raises ValueError, naming the row, for one that lacks some.
    """
    if isinstance(row, GroundingExample):
        return row
    if not isinstance(row, Mapping):
        raise ValueError(f"Row {id} is {type(row).__name__}, but must be a mapping or a GroundingExample.")
    name = str(row.get("id", id))
    missing = [column for column in ("expression", "video", "targets") if row.get(column) is None]
    if missing:
        raise ValueError(f"Row {name} has no {', '.join(missing)}; its columns are {sorted(map(str, row))}.")
    values = {field.name: row[field.name] for field in fields(GroundingExample) if field.name in row}
    given = [column for column in GEOMETRY if row.get(column) is not None]
    with named_row(name):
        if given and (len(given) < len(GEOMETRY) or row.get("geometry") is not None):
            raise ValueError(f"it has {', '.join(given)}. Give all of {', '.join(GEOMETRY)}, or `geometry`.")
        if given:
            values["geometry"] = ClipGeometry(*(row[column] for column in GEOMETRY))
    return GroundingExample(**{**values, "id": name})


def optional_boxes(boxes: Any, name: str) -> Any:
    return None if boxes is None else checked_boxes(boxes, *ANYWHERE, name)


@contextmanager
def named_row(id: str):
    """Puts the name of a row before the error of its bad input."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"Row {id} cannot be trained on: {error}") from error


@dataclass
class GroundingCollator(VegaCollator):
    """Makes a batch for `VegaForVisualGrounding` of rows of grounding (`GroundingExample`, or mappings).

    It returns the processor's output with the positions of visual tokens, padded on the right; `boxes`, float[M, 6 or
    7] or None for each row; `labels`, float[K, 6 or 7] for each row; and, if a row has `anchors`, these or None for
    each row. Arguments are those of `VegaCollator`.

    Raises:
        ValueError: naming the row whose clip cannot be read or has no depth, whose boxes are none, or whose sentence
            is empty or holds special tokens.
    """

    def __call__(self, rows: Sequence[GroundingExample | Mapping]) -> dict[str, Any]:  # type: ignore[override]
        examples = [grounding_example(row, f"number {number} of the batch") for number, row in enumerate(rows)]
        texts, clips, boxes, labels, anchors = [], [], [], [], []
        for example in examples:
            with named_row(example.id):
                texts.append(ground_text(self.processor, example.expression))
                boxes.append(optional_boxes(example.boxes, "its boxes"))
                anchors.append(optional_boxes(example.anchors, "its anchors"))
                labels.append(checked_boxes(example.targets, *ANYWHERE, "its targets"))
                clips.append(self.posed_clip(example))
        inputs = dict(
            self.processor(text=texts, videos=clips, do_sample_frames=False, padding=True, padding_side="right")
        )
        if self.cache is not None:
            inputs = dict(self.cache.attach(inputs, self.identity, self.processor.generator_patch_size))
        inputs |= {"boxes": boxes, "labels": labels}
        if any(own is not None for own in anchors):
            inputs["anchors"] = anchors
        return {**inputs, "ids": [example.id for example in examples]} if self.return_ids else inputs

    def posed_clip(self, example: GroundingExample) -> VideoClip:
        """The sampled frames with their geometry; raises ValueError if there is none, or for several videos."""
        videos = flatten_videos(example.video)
        if len(videos) != 1:
            raise ValueError(f"its video is {len(videos)} videos, but a sentence is about one. Give a row for each.")
        [clip] = load_clips(videos, None, None, self.num_frames, self.fps, True, [example.geometry])
        if clip.geometry is None:
            raise ValueError("its video has no depth and cameras. Give depth, intrinsics and world_from_camera.")
        return clip
