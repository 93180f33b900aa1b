"""The fused classes stand where transformers and serving engines expect a VLM of transformers' own."""

import copy
import inspect

import pytest
import torch
from transformers import (
    GenerationMixin,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
)
from transformers.utils import ModelOutput

from tiny_inputs import CASES, VIDEO
from tiny_models import every_vlm
from vega3d import VegaForSpatialReasoning
from vega3d.modeling.inputs_vega3d import SUFFIXES, token_type_ids
from vega3d.modeling.modeling_vega3d import VegaModel

pytestmark = every_vlm
TOLERANCE = {"atol": 1e-5, "rtol": 0}
NATIVE = {
    "qwen2_5_vl": (Qwen2_5_VLModel, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLModel, Qwen3VLForConditionalGeneration),
}
OURS = (VegaModel, VegaForSpatialReasoning)
INTERNAL = {"get_vision_position_ids", "get_placeholder_mask", "compute_3d_position_ids"}  # of the VLM's own forward
heads = pytest.mark.parametrize("head", [0, 1], ids=["core", "with head"])


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def owners(model) -> tuple:
    return model.model, model


def of_one_kind(inputs, name: str) -> dict:
    """The visual inputs of images, or of videos, alone."""
    suffix = SUFFIXES[name]
    names = (f"pixel_values{suffix}", f"{name}_grid_thw")
    return {key: inputs[key] for key in (*names, *(f"generator_{one}" for one in names))}


@heads
def test_methods_of_the_native_class_are_there_and_take_the_same_arguments(vlm_type, head):
    native, ours = NATIVE[vlm_type][head], OURS[head]
    methods = {name for name, _ in inspect.getmembers(native, callable) if not name.startswith("_")}
    added = methods - {*dir(PreTrainedModel), *dir(GenerationMixin)} - INTERNAL

    assert {"get_image_features", "get_video_features"} <= added
    for name in added:
        wanted, given = (inspect.signature(getattr(owner, name)) for owner in (native, ours))
        named = [one.name for one in wanted.parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
        given.bind(*named)  # by position, then by name
        given.bind(**dict.fromkeys(named))
    forward = inspect.signature(native.forward).parameters.values()
    named = [one.name for one in forward if one.kind is one.POSITIONAL_OR_KEYWORD]
    inspect.signature(ours.forward).bind(**dict.fromkeys(named))


@heads
def test_parts_of_the_native_model_are_found(model, head):
    owner, core = owners(model)[head], model.model.vlm.model
    children = dict(core.named_children())

    assert set(children) == {"visual", "language_model"}
    assert all(getattr(owner, name) is part for name, part in children.items())
    for modality in ("image", "video"):
        assert owner.get_encoder(modality=modality) is core.get_encoder(modality=modality) is core.visual
    assert owner.get_encoder(modality="audio") is owner and owner.get_encoder() is owner
    assert owner.get_decoder() is core.get_decoder() is core.language_model


@heads
def test_parts_that_are_set_are_the_vlms(assemble, batch, head):
    model, inputs = assemble(), batch(*CASES["video"])
    owner, core, expected = owners(model)[head], model.model.vlm.model, model(**inputs).logits
    names = [name for name, _ in model.named_parameters()]

    for part, name in ((owner.get_decoder(), "decoder"), (owner.get_encoder(modality="video"), "encoder")):
        changed = copy.deepcopy(part)
        for parameter in changed.parameters():
            parameter.mul_(1.5)
        getattr(owner, f"set_{name}")(changed, *(["video"] if name == "encoder" else []))
        assert changed in (core.language_model, core.visual)
        assert not torch.equal(model(**inputs).logits, expected)
    assert [name for name, _ in model.named_parameters()] == names


@heads
@pytest.mark.parametrize("case", ["video", "image", "mixture", "batch"])
def test_features_are_the_fused_tokens(model, batch, case, head):
    inputs, owner, core = batch(*CASES[case]), owners(model)[head], model.model.vlm.model
    expected = model.encode(**inputs).mm_encoder_outputs
    found = {}
    for name, fused in expected.items():
        features, native = (getattr(one, f"get_{name}_features") for one in (owner, core))
        pixels, grid, *generator = of_one_kind(inputs, name).items()

        found[name] = features(pixels[1], grid[1], **dict(generator))
        detailed = features(**inputs, output_hidden_states=True)

        theirs = native(pixels[1], grid[1], output_hidden_states=True)
        assert isinstance(found[name], ModelOutput) and type(found[name]) is type(theirs)
        assert isinstance(features(**inputs, return_dict=False), tuple)
        assert len(fused.pooler_output) == len(found[name].pooler_output) == len(grid[1])
        for tokens, alone, whole, plain in zip(
            fused.pooler_output,
            found[name].pooler_output,
            detailed.pooler_output,
            theirs.pooler_output,
            strict=True,
        ):
            torch.testing.assert_close(alone, tokens, **TOLERANCE)
            torch.testing.assert_close(whole, tokens, **TOLERANCE)
            assert not torch.equal(alone, plain)
        assert torch.equal(detailed.last_hidden_state, theirs.last_hidden_state)
        assert all(torch.equal(*pair) for pair in zip(detailed.hidden_states, theirs.hidden_states, strict=True))
    text = {name: value for name, value in inputs.items() if "pixel" not in name}
    torch.testing.assert_close(model(**text, mm_encoder_outputs=found).logits, model(**inputs).logits, **TOLERANCE)


def test_features_without_their_generator_or_their_pixels_are_refused(model, batch):
    inputs = of_one_kind(batch(*CASES["video"]), "video")
    pixels, grid = inputs["pixel_values_videos"], inputs["video_grid_thw"]

    with pytest.raises(ValueError, match="no generator_pixel_values_videos"):
        model.get_video_features(pixels, grid)
    with pytest.raises(ValueError, match="pixels come without video_grid_thw"):
        model.get_video_features(pixels)
    with pytest.raises(ValueError, match="There are no images: give pixel_values"):
        model.get_image_features(None, grid)


def test_a_fusion_that_reads_the_question_wants_it(assemble, batch):
    model, inputs = assemble(fusion="instruction_gated"), batch(*CASES["video"])
    expected = model.encode(**inputs).mm_encoder_outputs["video"].pooler_output[0]

    found = model.get_video_features(**inputs).pooler_output[0]

    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match=r"needs a question.*Give input_ids"):
        model.get_video_features(**of_one_kind(inputs, "video"))


@heads
@pytest.mark.parametrize("case", ["mixture", "batch"])
def test_positions_are_the_vlms(model, batch, case, head):
    inputs, owner = batch(*CASES[case]), owners(model)[head]
    ids, types = inputs["input_ids"], token_type_ids(inputs["input_ids"], model.config)
    given = {name: inputs[name] for name in ("image_grid_thw", "video_grid_thw", "attention_mask")}
    expected = model.model.vlm.model.get_rope_index(ids, types, **given)

    for found in (owner.get_rope_index(ids, types, **given), owner.get_rope_index(input_ids=ids, **given)):
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("case", ["mixture", "batch", "several"])
def test_pixels_of_the_generator_as_one_tensor_a_visual(model, batch, case):
    inputs = batch(*CASES[case])
    apart = dict(inputs)
    for name, suffix in SUFFIXES.items():
        if f"generator_{name}_grid_thw" in inputs:
            counts = inputs[f"generator_{name}_grid_thw"].prod(-1).tolist()
            key = f"generator_pixel_values{suffix}"
            apart[key] = list(inputs[key].split(counts))

    assert torch.equal(model(**apart).logits, model(**inputs).logits)
    assert torch.equal(model.generate(**apart, max_new_tokens=2), model.generate(**inputs, max_new_tokens=2))
    features = (model.generator_features(**one) for one in (apart, inputs))
    assert all(torch.equal(*pair) for pair in zip(*features, strict=True))


def test_equal_clips_of_the_generator_may_be_stacked(model, batch):
    inputs, name = batch([VIDEO, 9, VIDEO, 7]), "generator_pixel_values_videos"

    stacked = {**inputs, name: inputs[name].unflatten(0, (2, -1))}

    assert torch.equal(model(**stacked).logits, model(**inputs).logits)


def test_pixels_of_another_clip_are_refused(model, batch):
    """Their rows are as many as there should be in all."""
    inputs, name = batch(*CASES["several"]), "generator_pixel_values_videos"
    clips = list(inputs[name].split(inputs["generator_video_grid_thw"].prod(-1).tolist()))

    for wrong in (clips[::-1], clips[:1]):
        with pytest.raises(ValueError, match=r"one tensor a clip, must be \[\[30, 768\], \[12, 768\]\].*but are"):
            model(**{**inputs, name: wrong})
