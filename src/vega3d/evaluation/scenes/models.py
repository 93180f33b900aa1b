"""Models that answer about scans: boxes by `VegaForVisualGrounding`, texts by a `Session` with positions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vega3d.evaluation.answerers import model_settings
from vega3d.evaluation.rules import UNIQUE_OR_MULTIPLE
from vega3d.evaluation.scenes.records import ChosenBoxes, GroundingRecord, SceneRecord, TextRecord
from vega3d.features.cache import FeatureCache
from vega3d.inference.session import Session
from vega3d.modeling.boxes_vega3d import checked_boxes
from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.modeling.grounding_head_vega3d import Ranking
from vega3d.modeling.grounding_prompts_vega3d import PROMPT, checked_expression
from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion

TEXT_TOKENS = 128  # the most of a caption or an answer
ReadScan = Callable[[SceneRecord], VideoClip]  # the frames of a question's scan, with depth and poses


def check_asked(records: Sequence[SceneRecord], config: VegaConfig, processor: VegaProcessor) -> None:
    """Raises ValueError, naming the question, for what a model would refuse when its turn comes.

    That is a sentence that cannot be put to it, and a box with its centre outside the scenes that it knows.
    """
    lower, upper = config.position_range
    for record in records:
        try:
            if isinstance(record, GroundingRecord):
                checked_expression(processor, record.expression)
                checked_boxes(record.boxes, lower, upper, f"proposals of {record.scan}")
            elif isinstance(record, TextRecord) and record.box is not None:
                checked_boxes(record.box[None], lower, upper, f"what is described in {record.scan}")
        except ValueError as error:
            raise ValueError(f"Question {record.id}: {error}") from error


class LastScan:
    """What is made of the scan of the last question, kept for the next one: they come scan by scan."""

    def __init__(self, make: Callable[[SceneRecord], Any]):
        self.make, self.key, self.value = make, ("", ""), None

    def of(self, record: SceneRecord) -> Any:
        key = (record.dataset, record.scan)
        if key != self.key:
            self.value = None  # its memory is free before the next one is made
            self.key, self.value = key, self.make(record)
        return self.value


class GroundingAnswerer:
    """A model for grounding: the best box where one object is meant, and else Multi3DRefer's rule.

    A question without proposals is answered with the box that the model reads off the frames. Each scan is encoded
    once, if its questions come one after another.

    Args:
        name: what the result file calls the model.
        read: the clip of a question's scan, all frames of which the model sees.
        cache: the generator's features on disk, as in `Session`.
        settings: more of what answers depend on, such as how many frames are read.
    """

    def __init__(
        self,
        model: VegaForVisualGrounding,
        processor: VegaProcessor,
        name: str,
        read: ReadScan,
        cache: FeatureCache | None = None,
        **settings: Any,
    ):
        self.model, self.processor, self.read, self.cache = model, processor, read, cache
        self.scans = LastScan(self.look)
        self.settings = {
            "name": name,
            "kind": "model",
            **settings,
            **model_settings(model),
            "prompt": PROMPT,
            "position_code": model.config.position_code,
            "grounding_tokens": model.config.grounding_tokens,
        }
        if cache is not None:  # absent otherwise, so that earlier runs continue
            self.settings["cached_features"] = True

    def look(self, record: SceneRecord) -> Any:
        clip = self.read(record)
        return self.model.look(self.processor, clip, cache=self.cache, num_frames=len(clip))

    def answer(self, records: Sequence[SceneRecord]) -> list[ChosenBoxes]:
        """As `SceneAnswerer.answer`; raises ValueError for a question in words, and as `ground` does."""
        return [self.answer_one(record) for record in records]

    def answer_one(self, record: SceneRecord) -> ChosenBoxes:
        if not isinstance(record, GroundingRecord):
            raise ValueError(f"Question {record.id} asks for words, but a model for grounding gives boxes.")
        ranking: Ranking = "scanrefer" if record.kind in UNIQUE_OR_MULTIPLE else "multi3drefer"
        boxes = record.boxes if len(record.boxes) else None
        found: Any = self.model.ground(self.processor, self.scans.of(record), record.expression, boxes, ranking)
        return ChosenBoxes(np.array(found.boxes).reshape(-1, 6), np.array(found.scores))


class TextAnswerer:
    """A model that answers in words about a scan; `<coord>` in a prompt is the centre of the described box.

    A caption whose question has no box is empty, and counts so. Arguments are those of `GroundingAnswerer`.

    Args:
        num_frames: most frames of a clip that the model sees, as in `Session`; so is `cache`.
    """

    def __init__(
        self,
        model: VegaForSpatialReasoning,
        processor: VegaProcessor,
        name: str,
        read: ReadScan,
        num_frames: int | None = None,
        cache: Any = None,
        **settings: Any,
    ):
        self.session = Session(model, processor, cache=cache, num_frames=num_frames)
        self.scans = LastScan(read)
        self.settings = {
            "name": name,
            "kind": "model",
            "num_frames": self.session.num_frames,
            **settings,
            **model_settings(model),
            "position_code": model.config.position_code,
            "max_new_tokens": TEXT_TOKENS,
            "cached_features": cache is not None,
        }

    def answer(self, records: Sequence[SceneRecord]) -> list[str]:
        """As `SceneAnswerer.answer`; raises ValueError for a question about boxes, and as `answer_batch` does."""
        asked = {place: self.question(record) for place, record in enumerate(records) if has_place(record)}
        texts = self.session.answer_batch(list(asked.values()), TEXT_TOKENS) if asked else []
        answers = {place: text.strip() for place, (text, *_) in zip(asked, texts, strict=True)}
        return [answers.get(place, "") for place in range(len(records))]

    def question(self, record: SceneRecord) -> SpatialQuestion:
        if not isinstance(record, TextRecord):
            raise ValueError(f"Question {record.id} asks for boxes, but this model answers in words.")
        points = () if record.box is None else (tuple(record.box[:3].tolist()),)
        return SpatialQuestion(self.scans.of(record), record.prompt, points=points, name=record.id)


def has_place(record: SceneRecord) -> bool:
    """Whether it is known what is asked about: a caption is of a box."""
    return not isinstance(record, TextRecord) or record.target is None or record.box is not None
