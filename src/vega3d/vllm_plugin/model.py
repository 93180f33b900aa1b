"""The fused model in vLLM: vLLM's own Qwen2.5-VL or Qwen3-VL, and our generator, projector and fusion."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMRoPE, SupportsMultiModal
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import set_default_torch_dtype

from vega3d.modeling.checkpoint_vega3d import cast, check_weights_are_finite
from vega3d.modeling.configuration_vega3d import VegaConfig
from vega3d.modeling.files_vega3d import COPY_AGAIN, check_complete, resolve_files
from vega3d.modeling.inputs_vega3d import SUFFIXES, placeholder_ids, token_type_ids
from vega3d.modeling.modeling_vega3d import VegaModel

from .processing import make_dummy_inputs, make_info, make_processor, supported_vlm

VLMS: dict[str, type] = {
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}
MODALITIES = {f"pixel_values{suffix}": name for name, suffix in SUFFIXES.items()}

logger = logging.getLogger(__name__)


class FusedStreams(VegaModel):
    """A `VegaModel` without its VLM: generator, projector and fusion, for semantic tokens that vLLM has computed."""

    def __init__(self, config: VegaConfig, device: torch.device, dtype: torch.dtype):
        with torch.device("meta"), set_default_torch_dtype(torch.float32):
            super().__init__(config)  # no VLM takes memory, no generator is initialised, and r stays float32
        self.rope_index = self.vlm_core.get_rope_index  # reads the config alone
        self.vlm = None
        self.to_empty(device=device)
        cast(self, dtype)
        self.generator.prompt_embeds = self.generator.prompt_embeds.to(dtype)
        self.requires_grad_(False).eval()

    def get_input_embeddings(self) -> Any:
        """None: the text is vLLM's."""
        return self.vlm

    def fuse(
        self, modality: str, semantic: Iterable[torch.Tensor], visual: dict[str, Any]
    ) -> tuple[torch.Tensor, ...]:
        """Fused tokens float[N, D] of each of the images or videos `visual`, for the VLM's own float[N, D]."""
        own = {modality: BaseModelOutputWithPooling(pooler_output=tuple(semantic))}  # type: ignore[arg-type]
        ids = placeholder_ids(visual, self.config)
        return self.encode(ids, semantic=own, **visual).mm_encoder_outputs[modality].pooler_output

    def load(self, weights: dict[str, torch.Tensor], name: str, **hub) -> None:
        """Takes the weights of a checkpoint by their names in a `VegaModel`, and the generator from its own files.

        Raises ValueError if some are missing, unknown, of other shapes or not finite, or if the files are missing.
        """
        wanted = self.state_dict()
        check_complete(name, wanted.keys() - weights.keys(), COPY_AGAIN)
        for key, weight in weights.items():
            if key not in wanted or wanted[key].shape != weight.shape:
                shape = tuple(wanted[key].shape) if key in wanted else None
                raise ValueError(f"{name}: {key} is {tuple(weight.shape)}, but the model has {shape}. {COPY_AGAIN}")
        self.load_state_dict(weights)
        check_weights_are_finite(self, name)
        files = resolve_files(self.config.generator_config.source, name, **hub)
        with set_default_torch_dtype(torch.float32):  # vLLM's is the model's, and rotary tables would take it
            self.generator.load_files(files)


@MULTIMODAL_REGISTRY.register_processor(make_processor, info=make_info, dummy_inputs=make_dummy_inputs)
class VegaForVllm(nn.Module, SupportsMultiModal, SupportsMRoPE):
    """Answers questions about images and videos; vLLM's encoder cache holds the fused tokens.

    What the VLM's own classes can do beyond (adapters, pipeline stages, pruning of videos, graphs of the encoder)
    would go past the fusion, so this class does not claim it, and vLLM refuses or leaves it out.
    """

    packed_modules_mapping = Qwen3VLForConditionalGeneration.packed_modules_mapping

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return Qwen3VLForConditionalGeneration.get_placeholder_str(modality, i)  # Qwen2.5-VL's are the same

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        model_config = vllm_config.model_config
        self.config: VegaConfig = model_config.hf_config
        vlm_class = VLMS[supported_vlm(self.config)]
        if model_config.get_multimodal_config().is_multimodal_pruning_enabled():
            raise ValueError("Pruning of videos would drop tokens before they are fused. Leave --video-pruning-* out.")
        self.hub = {"revision": model_config.revision, "cache_dir": vllm_config.load_config.download_dir}
        self.name = model_config.model
        inner = vllm_config.with_hf_config(self.config.vlm_config, architectures=[vlm_class.__name__])
        self.vlm = vlm_class(vllm_config=inner, prefix=f"{prefix}.vlm" if prefix else "vlm")
        self.streams = FusedStreams(self.config, vllm_config.device_config.device, model_config.dtype)
        if self.config.notice:
            logger.warning("%s: %s", self.name, self.config.notice)

    def get_language_model(self) -> Any:
        return self.vlm.get_language_model()

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features) -> tuple[torch.Tensor, int]:
        """Positions int[3, L] of a prompt, and the highest + 1 - L, as transformers has them.

        vLLM's own for Qwen2.5-VL differ where a video lasts longer than it is wide: text after it stands behind the
        time of its last frame.
        """
        given: dict[str, list] = {}
        for feature in sorted(mm_features, key=lambda one: one.mm_position.offset):
            for name in (f"{feature.modality}_grid_thw", "second_per_grid_ts"):
                if name in feature.data:
                    given.setdefault(name, []).append(feature.data[name].data)
        ids = torch.tensor([input_tokens])
        stacked = {name: torch.stack(values) for name, values in given.items()}
        positions, delta = self.streams.rope_index(ids, token_type_ids(ids, self.config), **stacked)
        return positions[:, 0], int(delta)

    def embed_input_ids(self, *args, **kwargs) -> torch.Tensor:
        return self.vlm.embed_input_ids(*args, **kwargs)

    def embed_multimodal(self, **inputs) -> tuple[torch.Tensor, ...]:
        """Fused tokens of each item, float[N, D]; Qwen3-VL's are followed by those of its inner layers (deepstack)."""
        tokens: tuple[torch.Tensor, ...] = ()
        for pixels in (name for name in inputs if name in MODALITIES):  # vLLM reads the items in this order
            modality = MODALITIES[pixels]
            names = (pixels, f"{modality}_grid_thw")
            visual = {name: inputs[name] for name in (*names, *(f"generator_{name}" for name in names))}
            own = self.vlm.embed_multimodal(**{name: visual[name] for name in names})
            width = self.config.hidden_size
            fused = self.streams.fuse(modality, [item[:, :width] for item in own], visual)
            tokens += tuple(torch.cat([one, item[:, width:]], -1) for one, item in zip(fused, own, strict=True))
        return tokens

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None, **kwargs) -> torch.Tensor:
        return self.vlm(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        return self.vlm.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Names of what was loaded: the VLM by vLLM's own loader, the rest by `FusedStreams.load`."""
        own: dict[str, torch.Tensor] = {}

        def of_vlm() -> Iterator[tuple[str, torch.Tensor]]:
            for name, weight in weights:
                name = name.removeprefix("model.")
                if name.startswith("vlm."):
                    yield name.removeprefix("vlm."), weight
                else:
                    own[name] = weight

        loaded = {f"vlm.{name}" for name in self.vlm.load_weights(of_vlm())}
        self.streams.load(own, self.name, **self.hub)
        return loaded | {f"streams.{name}" for name, _ in self.streams.named_parameters()}
