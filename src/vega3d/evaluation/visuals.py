"""The videos of questions: sampled, with marks drawn in, and encoded once for all their questions."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from transformers import BatchFeature
from transformers.utils import ModelOutput

from vega3d.evaluation.vsibench import QuestionRecord
from vega3d.features.cache import FeatureCache
from vega3d.features.clips import sampled_clip
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.video_vega3d import VideoClip


def visual_key(record: QuestionRecord) -> Hashable:
    """Questions with equal keys show the model the same frames."""
    return record.visual, record.frame, record.marks


def question_clip(record: QuestionRecord, num_frames: int | None, fps: float | None) -> VideoClip:
    """The frames of a question's video that the model sees, as in `sampled_clip`.

    Raises:
        ValueError: if the video is missing or cannot be read, or lacks the frame or a marked place; the question is
            named.
    """
    if record.visual is None:
        raise ValueError(f"Question {record.id} has no video {record.dataset}/{record.scene}.mp4. Leave it out.")
    try:
        return sampled_clip(record.visual, num_frames, fps, record.frame, record.marks)
    except ValueError as error:
        raise ValueError(f"Question {record.id}: {error}") from error


@dataclass(frozen=True)
class EncodedVisual:
    """What all questions about one video share.

    Attributes:
        text: what stands for the video in a prompt: its placeholders, and the times that Qwen3-VL writes between them.
        language: inputs of the language model for this video, such as its grid.
        encoder: inputs of `encode`, for a fusion that reads the question; the generator's features stand in for its
            pixels.
        tokens: fused, as `encode` returns them; None if they depend on the question.
    """

    text: str
    language: Mapping[str, torch.Tensor]
    encoder: Mapping
    tokens: ModelOutput | None


LANGUAGE_INPUTS = ("video_grid_thw", "second_per_grid_ts")


def encode_visual(
    model: VegaForSpatialReasoning, inputs: BatchFeature, text: str, cache: FeatureCache | None = None
) -> EncodedVisual:
    """One pass of the generator and of the vision tower.

    Args:
        model: on the device of the inputs.
        inputs: of the processor, of one prompt with one video.
        text: what stands for the video in that prompt.
        cache: of the generator's features, in which they are looked up and kept.
    """
    fusion = model.config.fusion
    encoder = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    if fusion != "none" and cache is not None:
        encoder = cache.fill(model, encoder)
    elif fusion != "none":
        encoder["generator_hidden_states"] = model.generator_features(**inputs)
        del encoder["generator_pixel_values_videos"]
    tokens = None
    if fusion == "none" or not FUSIONS[fusion].needs_instruction:
        tokens = fused_tokens(model, encoder, inputs["input_ids"])
        encoder = {}
    return EncodedVisual(
        text=text,
        language={name: torch.as_tensor(inputs[name]) for name in LANGUAGE_INPUTS if name in inputs},
        encoder=encoder,
        tokens=tokens,
    )


def fused_tokens(model: VegaForSpatialReasoning, encoder: Mapping, input_ids: torch.Tensor) -> ModelOutput:
    """Of one video, for one prompt int[1, L] without padding."""
    return join_visuals([model.encode(input_ids, **encoder).mm_encoder_outputs["video"]])


def join_visuals(outputs: Sequence[ModelOutput]) -> ModelOutput:
    """Encoder outputs one after another, of what the language model reads only.

    That is `pooler_output`, float[N, D] a video, and of Qwen3-VL also `deepstack_features`, the same for each layer.
    """
    joined: dict = {"pooler_output": tuple(tokens for output in outputs for tokens in output.pooler_output)}
    if "deepstack_features" in outputs[0]:
        layers = zip(*(output.deepstack_features for output in outputs), strict=True)
        joined["deepstack_features"] = [tuple(chain.from_iterable(layer)) for layer in layers]
    return type(outputs[0])(**joined)
