"""vLLM's multimodal processor of a fused checkpoint: prompts and fields are those of `VegaProcessor`."""

import pytest
import torch

from tiny_models import every_vlm
from vega3d import VegaProcessor
from visuals import IMAGE, VIDEO, film, picture, seconds

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` makes an environment that has it")
from vllm import ModelRegistry
from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.cache import MultiModalProcessorOnlyCache
from vllm.plugins import load_general_plugins

load_general_plugins()
pytestmark = every_vlm
PREFIX = "generator_"
CASES = {  # what stands in the prompt, and the images and videos in their order
    "image": (f"look {IMAGE} and say", [picture(0)], []),
    "video": (f"watch {VIDEO} and say", [], [film(1)]),
    "mixture": (f"a {VIDEO} b {IMAGE} c", [picture(2, 80, 48)], [film(3, 2)]),
    "several": (f"{VIDEO}{IMAGE} then {IMAGE} {VIDEO} now", [picture(4), picture(5, 48, 48)], [film(6), film(7, 4, 64, 48)]),
    "text": ("no picture", [], []),
}


@pytest.fixture(scope="module")
def ours(checkpoint) -> VegaProcessor:
    return VegaProcessor.from_pretrained(checkpoint)


def config_of(folder, **options) -> ModelConfig:
    return ModelConfig(str(folder), dtype="float32", max_model_len=512, **options)


@pytest.fixture(scope="module")
def config(checkpoint) -> ModelConfig:
    return config_of(checkpoint)


@pytest.fixture(scope="module")
def processor(config):
    return MULTIMODAL_REGISTRY.create_processor(config)


def apply(processor, text: str, images: list, videos: list, cache=None, **options):
    data = {name: items for name, items in (("image", images), ("video", videos)) if items}
    return processor(
        text, processor.info.parse_mm_data(data), hf_processor_mm_kwargs=options, cache=cache
    )


def fields_of(made, modality: str) -> list[dict[str, torch.Tensor]]:
    """For each image or video its fields by name."""
    return [item.get_data() for item in made["mm_kwargs"].get(modality, [])]


def check(made, expected, images: list, videos: list) -> None:
    """Raises AssertionError unless prompt and fields of vLLM are those of our own processor."""
    assert made["prompt_token_ids"] == expected["input_ids"][0].tolist()
    for modality, items, suffix in (("image", images, ""), ("video", videos, "_videos")):
        found = fields_of(made, modality)
        assert len(found) == len(items) == len(made["mm_placeholders"].get(modality, []))
        for start in ("", PREFIX):
            grids = [item[f"{start}{modality}_grid_thw"] for item in found]
            pixels = [item[f"{start}pixel_values{suffix}"] for item in found]
            if items:
                assert torch.equal(torch.stack(grids), expected[f"{start}{modality}_grid_thw"])
                assert torch.equal(torch.cat(pixels), expected[f"{start}pixel_values{suffix}"])
                assert [len(one) for one in pixels] == [int(grid.prod()) for grid in grids]


def test_vllm_knows_what_the_model_can_do(config):
    assert config.is_multimodal_model and config.uses_mrope and config.runner_type == "generate"
    info, architecture = ModelRegistry.inspect_model_cls(config.architectures, config)
    assert architecture == "VegaForSpatialReasoning"
    assert info.supports_multimodal and info.is_text_generation_model
    assert not (info.supports_pp or info.supports_multimodal_raw_input_only or info.supports_multimodal_encoder_tp_data)


@pytest.mark.parametrize("case", CASES)
def test_prompt_and_fields_are_those_of_our_processor(processor, ours, case):
    text, images, videos = CASES[case]
    expected = ours(
        text=text, images=images or None, videos=[v for v, _ in videos] or None,
        seconds=[seconds(video) for video in videos] if videos else None,
    )

    made = apply(processor, text, images, videos)

    check(made, expected, images, videos)
    pixels = {name: value.dtype for item in fields_of(made, "image") for name, value in item.items()}
    assert pixels.get("generator_pixel_values", torch.uint8) == torch.uint8
