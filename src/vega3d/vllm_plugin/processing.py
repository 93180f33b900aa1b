"""How vLLM prepares images and videos for the fused model: by `VegaProcessor`, for both streams at once."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import BaseDummyInputsBuilder, BaseMultiModalProcessor, InputProcessingContext

from vega3d.hub.load import check_vlm_processor
from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.modeling.inputs_vega3d import SUFFIXES
from vega3d.processing.processing_vega3d import VegaProcessor


class FusedInfo:
    """What differs from the VLM's own `ProcessingInfo`: its config and its processor are parts of ours."""

    ctx: InputProcessingContext

    @property
    def vega_config(self) -> VegaConfig:
        return self.ctx.get_hf_config(VegaConfig)

    @functools.cached_property
    def vega_processor(self) -> VegaProcessor:
        """The processor of the checkpoint; raises ValueError if it is of another model."""
        model = self.ctx.model_config
        processor = VegaProcessor.from_pretrained(model.model, revision=model.revision)
        check_vlm_processor(processor, self.vega_config)
        return processor

    @functools.cached_property
    def vlm_processor(self) -> Any:
        return self.vega_processor.vlm_processor

    def get_hf_config(self) -> Any:
        return self.vega_config.vlm_config

    def get_hf_processor(self, **kwargs) -> Any:
        """The VLM's processor, which vLLM's code for it asks about; options of a call (`kwargs`) do not change it."""
        return self.vlm_processor


class FusedProcessor:
    """What differs from the VLM's own `MultiModalProcessor`: `VegaProcessor` makes the fields, and two more."""

    info: Any

    def _apply_hf_processor_main(self, mm_items, hf_kwargs: Mapping[str, object]) -> BatchFeature:
        """The fields of all items, from `VegaProcessor`: vLLM's way to it drops options that it does not know."""
        data = BaseMultiModalProcessor._get_hf_mm_inputs(self, mm_items, {})  # type: ignore[arg-type]
        if data.passthrough_data:
            raise ValueError(
                f"{sorted(data.passthrough_data)} are given, but the tokens of a visual are made of its pixels, by "
                "the VLM and the generator. Give the images or videos."
            )
        images: Any = data.hf_data.get("images", [])
        videos: Any = data.hf_data.get("videos", [])
        if not (images or videos):
            return BatchFeature()
        inputs = self.info.vega_processor(
            images=images or None,
            videos=[frames for frames, _ in videos] or None,
            video_metadata=[times_of(metadata) for _, metadata in videos] or None,
            return_metadata=True,
            **self.info.ctx.get_merged_mm_kwargs(hf_kwargs),
        )
        clips = inputs.pop("video_metadata", [])
        inputs = inputs.to(self.info.ctx.model_config.dtype)
        if clips:  # Qwen3-VL writes the times of the temporal patches
            size = self.info.get_hf_config().vision_config.temporal_patch_size
            inputs["timestamps"] = [patch_times(clip.timestamps, size) for clip in clips]
        return inputs

    def _get_mm_fields_config(self, hf_inputs: BatchFeature, hf_processor_mm_kwargs) -> dict[str, Any]:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))  # type: ignore[misc]
        for name, suffix in SUFFIXES.items():
            grids = hf_inputs.get(f"generator_{name}_grid_thw", torch.empty((0, 3), dtype=torch.long))
            pixels = MultiModalFieldConfig.flat_from_sizes(name, grids.prod(-1))
            fields[f"generator_pixel_values{suffix}"] = pixels
            fields[f"generator_{name}_grid_thw"] = MultiModalFieldConfig.batched(name, keep_on_cpu=True)
        return fields

    def _postprocess_prompt(self, prompt: list[int]) -> list[int]:
        token = self.info.vega_config.coord_token_id
        if token is not None and token in prompt:
            raise ValueError(
                f"The prompt has a token that stands for a point ({token}), but vLLM hands on no points. Ask about "
                "it with `vega3d ask` or `generate`."
            )
        return prompt


def times_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What vLLM's reader of a video says about its frames, without what it would have the VLM's processor do."""
    return {name: value for name, value in metadata.items() if name != "do_sample_frames"}


def patch_times(seconds: Sequence[float], size: int) -> list[float]:
    """The time [s] of each temporal patch: the mean of its first frame and its last, which is repeated if missing."""
    padded = [*seconds, *[seconds[-1]] * (-len(seconds) % size)]
    return [(padded[start] + padded[start + size - 1]) / 2 for start in range(0, len(padded), size)]


class Qwen25Info(FusedInfo, Qwen2_5_VLProcessingInfo):
    pass


class Qwen25Processor(FusedProcessor, Qwen2_5_VLMultiModalProcessor):
    pass


class Qwen3Info(FusedInfo, Qwen3VLProcessingInfo):
    pass


class Qwen3Processor(FusedProcessor, Qwen3VLMultiModalProcessor):
    pass


VLMS: dict[str, tuple[type, type, type]] = {  # model_type of the VLM: what stands for it in vLLM
    "qwen2_5_vl": (Qwen25Info, Qwen2_5_VLDummyInputsBuilder, Qwen25Processor),
    "qwen3_vl": (Qwen3Info, Qwen3VLDummyInputsBuilder, Qwen3Processor),
}


def make_info(ctx: InputProcessingContext) -> Any:
    return VLMS[supported_vlm(ctx.get_hf_config(VegaConfig))][0](ctx)


def make_dummy_inputs(info: Any) -> BaseDummyInputsBuilder:
    return VLMS[info.get_hf_config().model_type][1](info)


def make_processor(info: Any, dummy_inputs: BaseDummyInputsBuilder) -> BaseMultiModalProcessor:
    return VLMS[info.get_hf_config().model_type][2](info, dummy_inputs)


def supported_vlm(config: VegaConfig) -> str:
    """The kind of the VLM; raises ValueError for one, or for a fusion, that this plug-in cannot serve."""
    kind = config.vlm_config.model_type
    if kind not in VLMS:
        raise ValueError(f"The VLM is of model_type {kind!r}, but the plug-in of vLLM serves {sorted(VLMS)} only.")
    if config.fusion == "instruction_gated":
        raise ValueError(
            "fusion='instruction_gated' reads the question, but vLLM encodes a visual once for all questions about "
            "it. Use `vega3d ask` or `generate`, or a model with another fusion."
        )
    return kind
