"""vLLM's multimodal processor of a fused checkpoint: prompts and fields are those of `VegaProcessor`."""

import json
import shutil

import pytest
import torch
from visuals import IMAGE, VIDEO, film, picture, seconds

from tiny_models import every_vlm
from vega3d import VegaProcessor

pytest.importorskip("vllm", reason="vLLM is not installed; `make test-vllm` makes an environment that has it")
from vllm import ModelRegistry
from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.cache import MultiModalProcessorOnlyCache
from vllm.plugins import load_general_plugins

load_general_plugins()
pytestmark = every_vlm
CASES = {  # what stands in the prompt, and the images and videos in their order
    "image": (f"look {IMAGE} and say", [picture(0)], []),
    "video": (f"watch {VIDEO} and say", [], [film(1)]),
    "frame": (f"watch {VIDEO} and say", [], [film(1, 1)]),
    "mixture": (f"a {VIDEO} b {IMAGE} c", [picture(2, 80, 48)], [film(3, 2)]),
    "several": (
        f"{VIDEO}{IMAGE} then {IMAGE} {VIDEO} now",
        [picture(4), picture(5, 48, 48)],
        [film(6), film(7, 4, 64, 48)],
    ),
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


def changed(checkpoint, folder, **values):
    """A copy of a checkpoint with other values in its config."""
    shutil.copytree(checkpoint, folder)
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, **values}))
    return folder


def apply(processor, text: str, images: list, videos: list, cache=None, **options):
    data = {name: items for name, items in (("image", images), ("video", videos)) if items}
    return processor(text, processor.info.parse_mm_data(data), hf_processor_mm_kwargs=options, cache=cache)


def made_by(ours: VegaProcessor, text: str, images: list, videos: list, **options):
    """What our processor makes of the same."""
    frames, times = [frames for frames, _ in videos], [seconds(video) for video in videos]
    return ours(text=text, images=images or None, videos=frames or None, seconds=times or None, **options)


def check(made, expected) -> None:
    """Raises AssertionError unless prompt and fields of vLLM are those of our own processor, item by item."""
    assert made["prompt_token_ids"] == expected["input_ids"][0].tolist()
    for modality, suffix in (("image", ""), ("video", "_videos")):
        found = [item.get_data() for item in made["mm_kwargs"].get(modality, [])]
        grids = expected.get(f"{modality}_grid_thw", [])
        assert len(found) == len(grids) == len(made["mm_placeholders"].get(modality, []))
        for start in ("", "generator_") if found else ():
            for name in (f"{start}{modality}_grid_thw", f"{start}pixel_values{suffix}"):
                parts = [item[name] for item in found]
                whole = torch.stack(parts) if name.endswith("thw") else torch.cat(parts)
                assert whole.dtype == expected[name].dtype and torch.equal(whole, expected[name])
            pixels = [len(item[f"{start}pixel_values{suffix}"]) for item in found]
            assert pixels == expected[f"{start}{modality}_grid_thw"].prod(-1).tolist()
        if "second_per_grid_ts" in expected and modality == "video":
            rates = [float(item["second_per_grid_ts"]) for item in found]
            assert rates == pytest.approx(expected["second_per_grid_ts"])


def test_vllm_knows_what_the_model_can_do(config):
    assert config.is_multimodal_model and config.uses_mrope and config.runner_type == "generate"
    info, architecture = ModelRegistry.inspect_model_cls(config.architectures, config)
    assert architecture == "VegaForSpatialReasoning"
    assert info.supports_multimodal and info.is_text_generation_model
    past_the_fusion = (info.supports_pp, info.supports_multimodal_raw_input_only)
    assert past_the_fusion == (False, False)


@pytest.mark.parametrize("case", CASES)
def test_prompt_and_fields_are_those_of_our_processor(processor, ours, case):
    text, images, videos = CASES[case]

    check(apply(processor, text, images, videos), made_by(ours, text, images, videos))


@pytest.mark.parametrize("options", [{"num_frames": 3}, {"fps": 1.0}])
def test_options_of_a_call_are_those_of_our_processor(processor, ours, options):
    text, images, videos = CASES["mixture"][0], [picture(2)], [film(3, 6)]
    expected = made_by(ours, text, images, videos, **options)

    check(apply(processor, text, images, videos, **options), expected)
    assert (
        expected["generator_video_grid_thw"].tolist()
        != made_by(ours, text, images, videos)["generator_video_grid_thw"].tolist()
    )


def test_items_from_the_cache_are_those_that_were_made(config, processor, ours):
    cache = MultiModalProcessorOnlyCache(config)
    text, images, videos = CASES["several"]
    turned = (text, images[::-1], [videos[0], film(8, 3)])  # three of four items are known, the last is not

    for case in (CASES["several"], CASES["several"], turned, CASES["image"]):
        check(apply(processor, *case, cache=cache), made_by(ours, *case))


def test_memory_is_measured_with_the_pixels_of_the_generator(processor):
    counts = {"image": 1, "video": 1}
    most = processor.info.get_mm_max_tokens_per_item(512, counts)

    made = processor.get_dummy_mm_inputs(counts)

    for modality, suffix in (("image", ""), ("video", "_videos")):
        (item,) = made["mm_kwargs"][modality]
        (place,) = made["mm_placeholders"][modality]
        assert len(item.get_data()[f"generator_pixel_values{suffix}"]) > 0
        assert place.get_num_embeds() <= most[modality]


def test_an_unknown_option_is_refused(processor):
    with pytest.raises(ValueError, match=r"`frames` .* is no option of this processor"):
        apply(processor, *CASES["video"], frames=3)


def test_embeddings_in_place_of_pixels_are_refused(checkpoint):
    processor = MULTIMODAL_REGISTRY.create_processor(config_of(checkpoint, enable_mm_embeds=True))
    embeddings = {"image_embeds": torch.zeros(4, 64), "image_grid_thw": torch.tensor([[1, 4, 4]])}

    with pytest.raises(ValueError, match=r"image_embeds.* are given, but .* Give the images or videos"):
        apply(processor, IMAGE, embeddings, [])


def test_a_point_in_the_prompt_is_refused(checkpoint, tmp_path):
    folder = changed(checkpoint, tmp_path / "model", coord_token_id=7)
    processor = MULTIMODAL_REGISTRY.create_processor(config_of(folder))

    apply(processor, *CASES["image"])
    with pytest.raises(ValueError, match=r"stands for a point \(7\), but vLLM hands on no points"):
        processor([7, 8], processor.info.parse_mm_data({}))


def test_a_fusion_that_reads_the_question_is_refused(make_checkpoint, vlm_type):
    with pytest.raises(ValueError, match=r"'instruction_gated' reads the question.*another fusion"):
        MULTIMODAL_REGISTRY.create_processor(config_of(make_checkpoint(vlm_type, fusion="instruction_gated")))


def test_another_vlm_is_refused(checkpoint):
    config = config_of(checkpoint)
    config.hf_config.vlm_config.model_type = "qwen9_vl"

    with pytest.raises(ValueError, match=r"'qwen9_vl', but the plug-in of vLLM serves \['qwen2_5_vl', 'qwen3_vl'\]"):
        MULTIMODAL_REGISTRY.create_processor(config)


def test_a_processor_of_another_model_is_refused(checkpoint, tmp_path):
    folder = changed(checkpoint, tmp_path / "model")
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"]["patch_size"] = 14
    (folder / "processor_config.json").write_text(json.dumps(settings))
    processor = MULTIMODAL_REGISTRY.create_processor(config_of(folder))

    with pytest.raises(ValueError, match="image_processor has patch_size=14"):
        apply(processor, *CASES["image"])
