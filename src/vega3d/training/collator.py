"""Rows to a batch: both pixel streams packed, labels on the answers alone."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vega3d.features.clips import sampled_clip
from vega3d.modeling.inputs_vega3d import IGNORED
from vega3d.processing.media_vega3d import load_clips, load_image_array
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.processing.sampling_vega3d import check_sampling
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion
from vega3d.training.data import MarkedVideo, TrainingExample, check_media, training_example
from vega3d.training.shards import ShardFile
from vega3d.training.spar_marks import MarkedImage, draw_spar_marks

Row = TrainingExample | SpatialQuestion | Mapping


@dataclass
class VegaCollator:
    """Makes a batch of rows, with labels on the answers alone.

    Called with a list of rows (`TrainingExample`, `SpatialQuestion`, or a mapping with `messages`, or as a published
    data set has it whose keys tell its format), it returns the
    processor's output, padded on the right, and `labels` int[B, L]: the tokens of the assistant's answers with the
    token that ends each turn, and -100 elsewhere. Videos that are a `VideoClip` with a geometry bring the positions of
    their tokens, and rows with `coord_positions` those of the `<coord>` in their texts.

    Args:
        processor: writes the texts and samples the pixels as the model was made for.
        num_frames: frames sampled evenly from each video; by default the processor's own number.
        fps: frames sampled a second instead.
        cache: `features.cache.FeatureCache`, from which the generator's hidden states take the place of its pixels if
            those of every clip of the batch are there.
        identity: what the cached states depend on (`features.cache.feature_identity`); needed with `cache`.
        return_ids: also give the rows' ids (`ids`), which `VegaTrainer` takes out before the model sees the batch.

    Raises:
        ValueError: naming the row whose video or image cannot be read, or whose answer has no tokens of its own.
    """

    processor: VegaProcessor
    num_frames: int | None = None
    fps: float | None = None
    cache: Any = None
    identity: str | None = None
    return_ids: bool = False

    def __post_init__(self):
        check_sampling(self.num_frames, self.fps)
        if self.cache is not None and self.identity is None:
            raise ValueError("A cache needs the `identity` of the generator: features.cache.feature_identity(...).")
        if self.num_frames is None and self.fps is None:
            self.num_frames = self.processor.num_frames

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        examples = [training_example(row, f"number {number} of the batch") for number, row in enumerate(rows)]
        texts = [self.render(example.messages) for example in examples]
        spans = [self.answer_spans(example, text) for example, text in zip(examples, texts, strict=True)]
        visuals = [self.visuals(example) for example in examples]
        images = [image for pictures, _ in visuals for image in pictures]
        clips = [clip for _, videos in visuals for clip in videos]
        inputs = dict(
            self.processor(
                text=texts,
                images=images or None,
                videos=clips or None,
                do_sample_frames=False,
                padding=True,
                padding_side="right",
                return_offsets_mapping=True,
                return_text_replacement_offsets=True,
            )
        )
        replaced = inputs.pop("text_replacement_offsets", None) or [[] for _ in examples]
        offsets = inputs.pop("offset_mapping").tolist()
        inputs["labels"] = torch.full_like(inputs["input_ids"], IGNORED)
        for row, example in enumerate(examples):
            answers = answer_tokens(offsets[row], spans[row], replaced[row], example.id)
            inputs["labels"][row, answers] = inputs["input_ids"][row, answers]
        points = [point for example in examples for point in example.coord_positions]
        if points:
            inputs["coord_positions"] = torch.tensor(points, dtype=torch.float32)
        if self.cache is not None:
            inputs = dict(self.cache.attach(inputs, self.identity, self.processor.generator_patch_size))
        return {**inputs, "ids": [example.id for example in examples]} if self.return_ids else inputs

    def render(self, messages: list[dict], add_generation_prompt: bool = False) -> str:
        return self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    def answer_spans(self, example: TrainingExample, text: str) -> list[tuple[int, int]]:
        """Characters (start, end) of each answer with the mark of its turn's end, whatever the template.

        An answer begins where the prompt before it ends, and ends where the conversation up to it does, but for the
        white space that only parts it from the next turn and that no model writes.
        """
        spans = []
        for number, message in enumerate(example.messages):
            if message["role"] != "assistant":
                continue
            prompt = self.render(example.messages[:number], add_generation_prompt=True)
            answered = self.render(example.messages[: number + 1])
            if not (answered.startswith(prompt) and text.startswith(answered.rstrip())):
                raise ValueError(
                    f"Row {example.id} cannot be trained on: the chat template writes message {number} otherwise "
                    "where other messages follow or none do, so its answer has no place of its own. Use a template "
                    "that adds turn to turn."
                )
            spans.append((len(prompt), len(answered.rstrip())))
        return spans

    def visuals(self, example: TrainingExample) -> tuple[list[np.ndarray], list[VideoClip]]:
        """Its images uint8[H, W, 3] and the sampled frames of its videos."""
        check_media([example])
        try:
            return [image_pixels(image) for image in example.images], [self.clip(one) for one in example.videos]
        except (ValueError, OSError) as error:
            raise ValueError(f"Row {example.id} has a video or image that cannot be used: {error}") from error

    def clip(self, video) -> VideoClip:
        """The sampled frames, with the boxes of the question drawn in."""
        if isinstance(video, MarkedVideo):
            with on_disk(video.visual) as visual:
                return sampled_clip(visual, self.num_frames, self.fps, video.frame, video.marks)
        with on_disk(video) as visual:
            return load_clips([visual], None, None, self.num_frames, self.fps, True)[0]


def image_pixels(image) -> np.ndarray:
    """uint8[H, W, 3] of an image of a `TrainingExample`, with its marks."""
    if isinstance(image, MarkedImage):
        return draw_spar_marks(image_pixels(image.visual), image.marks)
    with on_disk(image) as visual:
        return load_image_array(visual)


@contextmanager
def on_disk(visual) -> Iterator[Any]:
    """The visual itself; of files within shards, paths of copies while the block lasts."""
    with ExitStack() as copies:
        if isinstance(visual, list):
            yield [copies.enter_context(on_disk(one)) for one in visual]
        else:
            yield copies.enter_context(visual.extracted()) if isinstance(visual, ShardFile) else visual


def answer_tokens(offsets: list, spans: list[tuple[int, int]], replaced: list[dict], id: str) -> list[int]:
    """Positions, in a row of tokens, of those of its answers.

    Args:
        offsets: (start, end) of each token in the text whose placeholders are written out; (0, 0) for padding.
        spans: (start, end) of the answers in the text before that.
        replaced: of each placeholder its `span` before and its `new_span` after.

    Raises:
        ValueError: if a token holds the end of the prompt and the beginning of the answer, which a model that is asked
            never sees as one; or if an answer has no tokens.
    """
    places: list[int] = []
    for span in spans:
        gained = sum(
            (one["new_span"][1] - one["new_span"][0]) - (one["span"][1] - one["span"][0])
            for one in replaced
            if one["span"][1] <= span[0]
        )
        start, end = span[0] + gained, span[1] + gained
        within = [place for place, (first, last) in enumerate(offsets) if first < end and last > start]
        if not within or offsets[within[0]][0] < start:
            raise ValueError(
                f"Row {id} cannot be trained on: the first token of an answer is not its own. Take white space off "
                "the answer's beginning."
            )
        places += within
    return places
