"""What transformers and serving engines ask of a VLM of transformers' own, for a model around one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_vega3d import VegaConfig
from .inputs_vega3d import LANGUAGE_INPUTS, SUFFIXES, placeholder_ids, split_visuals, token_type_ids

ENCODE_INPUTS = ("input_ids", "attention_mask", "labels", "inputs_embeds", "noise", "on_progress", "semantic")


class NativeInterface:
    """The methods of a native VLM beside `forward` and `generate`, with fused tokens in the place of the VLM's own."""

    config: VegaConfig
    encode: Any

    @property
    def vlm_core(self) -> Any:
        """The VLM without its head."""
        raise NotImplementedError

    @property
    def visual(self) -> nn.Module:
        """The VLM's vision encoder, which `get_encoder("image")` and `get_encoder("video")` find by this name."""
        return self.vlm_core.visual

    @property
    def language_model(self) -> nn.Module:
        """The VLM's language model, which `get_decoder` finds by this name."""
        return self.vlm_core.language_model

    def set_encoder(self, encoder: nn.Module, modality: str | None = None) -> None:
        self.vlm_core.set_encoder(encoder, modality=modality)

    def set_decoder(self, decoder: nn.Module) -> None:
        self.vlm_core.set_decoder(decoder)

    def get_rope_index(self, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor | None = None, *args, **kwargs):
        """The VLM's own: positions int[3, B, L], and int[B, 1], the highest + 1 - the number of tokens.

        Without `mm_token_type_ids` placeholders are found by their ids.
        """
        if mm_token_type_ids is None:
            mm_token_type_ids = token_type_ids(input_ids, self.config)
        return self.vlm_core.get_rope_index(input_ids, mm_token_type_ids, *args, **kwargs)

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None = None, **kwargs):
        """The VLM's encoder output of images, with fused tokens, float[N, D] an image, as its `pooler_output`.

        Args:
            pixel_values: as in `VisualInputs`, as is `image_grid_thw`.
            kwargs: any input of `encode`, such as the generator's pixels and their grid, and options of the VLM's
                encoder, such as `output_hidden_states`. The text may be left out, but for a fusion that reads it.

        Raises:
            ValueError: as `encode`.
        """
        return self._features("image", {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw, **kwargs})

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: torch.Tensor, video_grid_thw: torch.Tensor | None = None, **kwargs
    ):
        """The same of videos, as in `get_image_features`."""
        return self._features(
            "video", {"pixel_values_videos": pixel_values_videos, "video_grid_thw": video_grid_thw, **kwargs}
        )

    def _features(self, modality: str, inputs: Mapping[str, Any]) -> ModelOutput:
        pixels = f"pixel_values{SUFFIXES[modality]}"
        if inputs[pixels] is None:
            raise ValueError(f"There are no {modality}s: give {pixels} with their {modality}_grid_thw.")
        visual, others = split_visuals(inputs)
        given = {name: others.pop(name) for name in ENCODE_INPUTS if name in others}
        options = {name: value for name, value in others.items() if name not in LANGUAGE_INPUTS}
        if given.get("input_ids") is None and given.get("inputs_embeds") is None:
            given["input_ids"] = placeholder_ids(visual, self.config)
        return self.encode(**given, **visual, vision_options=options).mm_encoder_outputs[modality]
