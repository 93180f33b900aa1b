"""A clip or an image as the model sees it: read, identified by its content, and encoded once for all questions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from PIL import Image
from transformers.utils import ModelOutput

from vega3d.features.cache import FeatureCache, without_pixels
from vega3d.features.clips import sampled_clip
from vega3d.modeling.fusion_vega3d import ONE_GATE_A_TOKEN
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.modeling.positions_vega3d import with_positions
from vega3d.processing.media_files_vega3d import check_file, local_path
from vega3d.processing.media_vega3d import flatten_videos, load_clips, load_image_array
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion
from vega3d.shipped import example_clip

SHOWN_WIDTH = 384  # of the frames that are stored for pictures [px]
LANGUAGE_INPUTS = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
TEXT_INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class EncodedClip:
    """What all questions about one video or image share.

    Attributes:
        kind: "video" or "image".
        text: what stands for it in a prompt: its placeholders, and the times that Qwen3-VL writes between them.
        language: what the language model reads beside the tokens, such as the grid.
        seconds: time of each frame [s]; None for an image.
        semantic: tokens of the VLM alone; None if nobody wanted them yet.
        fused: tokens of both streams; None if nobody wanted them yet, or they depend on the question.
        encoder: inputs of `encode`, for a fusion that reads the question; the generator's features stand in for its
            pixels. Else empty.
        gates: float[t, h, w] on the CPU, or None if the fusion has not one gate for each token. Of a fusion that reads
            the question they are there only if they were asked for, and then of that question.
        frames: uint8[T, H, W, 3] for pictures, at most `SHOWN_WIDTH` wide, with the boxes of a marked question; None
            if nobody wanted them yet.
    """

    kind: str
    text: str
    language: Mapping[str, torch.Tensor]
    seconds: list[float] | None
    semantic: ModelOutput | None = None
    fused: ModelOutput | None = None
    encoder: Mapping[str, Any] = field(default_factory=dict)
    gates: torch.Tensor | None = None
    frames: np.ndarray | None = None


def visual_kind(question: SpatialQuestion) -> str:
    return "image" if question.is_image else "video"


def video_file(question: SpatialQuestion) -> Path | None:
    """The file that a question is about, the name of a shipped clip included; None for frames, folders and images."""
    if question.is_image or not isinstance(question.visual, (str, Path)):
        return None
    path = local_path(question.visual, "video")
    if path.name == str(question.visual) and not path.suffix and not path.exists():
        return example_clip(path.name)
    return None if path.is_dir() else check_file(path, "video")


def read_frames(question: SpatialQuestion, num_frames: int | None, fps: float | None) -> VideoClip:
    """The frames of a question's video that the model sees, its boxes drawn in; of an image the one frame."""
    if question.is_image:
        return VideoClip(load_image_array(question.visual)[None], np.zeros(1), "image", timed=False)
    file = video_file(question)
    videos = flatten_videos(file or question.visual)
    if len(videos) != 1:
        raise ValueError(f"A question is about one video, but {len(videos)} were given. Ask about each by itself.")
    if not question.marks:
        return load_clips(videos, None, None, num_frames, fps, do_sample_frames=True)[0]
    if file is None and not isinstance(videos[0], VideoClip):  # the marked frame is one of the whole video
        videos = load_clips(videos, None, None, None, None, do_sample_frames=False)
    return sampled_clip(videos[0], num_frames, fps, question.frame, question.marks)


def content_hash(content: Path | VideoClip) -> str:
    """Equal for files, or for clips, of the same content."""
    if isinstance(content, Path):
        return xxhash.xxh3_128_hexdigest(content.read_bytes())
    state = xxhash.xxh3_128(repr(content.frames.shape).encode())
    arrays = [content.seconds, content.frames]
    if content.geometry is not None:
        shown = np.array(content.geometry.shown or ())
        arrays += [content.geometry.depth, content.geometry.intrinsics, content.geometry.world_from_camera, shown]
    for array in arrays:
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def fused_tokens(
    model: VegaForSpatialReasoning, kind: str, encoder: Mapping, input_ids: torch.Tensor
) -> tuple[ModelOutput, torch.Tensor | None]:
    """Tokens of both streams for one prompt int[1, L] without padding, and the gate of each, float[t, h, w]."""
    encoded = model.encode(input_ids, **encoder, output_gates=True)
    gates = None
    if encoded.gates and model.config.fusion in ONE_GATE_A_TOKEN:
        gates = encoded.gates[kind][0].float().cpu()
    return join_visuals([encoded.mm_encoder_outputs[kind]]), gates


def semantic_tokens(model: VegaForSpatialReasoning, kind: str, inputs: Mapping) -> ModelOutput:
    """Tokens of the VLM alone."""
    vlm, grid = model.model.vlm, inputs[f"{kind}_grid_thw"]
    if kind == "image":
        return join_visuals([vlm.get_image_features(inputs["pixel_values"], grid, return_dict=True)])
    return join_visuals([vlm.get_video_features(inputs["pixel_values_videos"], grid, return_dict=True)])


def placed_tokens(model: VegaForSpatialReasoning, kind: str, tokens: ModelOutput, inputs: Mapping) -> ModelOutput:
    """Tokens of the VLM alone with the code of their positions, if the model has one and the inputs have positions."""
    return with_positions({kind: tokens}, inputs, model.config)[kind]


def with_features(
    model: VegaForSpatialReasoning,
    inputs: Mapping,
    cache: FeatureCache | None,
    on_progress: Callable[[int], None] | None,
) -> dict:
    """Inputs of `encode`, with the generator's features, stored or computed, in the place of its pixels."""
    encoder = {name: value for name, value in inputs.items() if name not in TEXT_INPUTS}
    if cache is not None:
        return cache.fill(model, encoder, on_progress)
    generator = {name: value for name, value in encoder.items() if name.startswith("generator_")}
    features = model.model.generator_features(**generator, on_progress=on_progress)
    return without_pixels(encoder, features)


def join_visuals(outputs: Sequence[ModelOutput]) -> ModelOutput:
    """Encoder outputs one after another, of what the language model reads only.

    That is `pooler_output`, float[N, D] a video, and of Qwen3-VL also `deepstack_features`, the same for each layer.
    """
    joined: dict = {"pooler_output": tuple(tokens for output in outputs for tokens in output.pooler_output)}
    if "deepstack_features" in outputs[0]:
        layers = zip(*(output.deepstack_features for output in outputs), strict=True)
        joined["deepstack_features"] = [tuple(chain.from_iterable(layer)) for layer in layers]
    return type(outputs[0])(**joined)


def small(frames: np.ndarray) -> np.ndarray:
    """uint8[T, h, w, 3], at most `SHOWN_WIDTH` wide."""
    height, width = frames.shape[1:3]
    if width <= SHOWN_WIDTH:
        return frames
    size = (SHOWN_WIDTH, max(1, round(height * SHOWN_WIDTH / width)))
    return np.stack([np.array(Image.fromarray(frame).resize(size)) for frame in frames])
