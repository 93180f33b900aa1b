"""The fused model: equality with the plain VLM, batches, generation, gates, cached features, bad input."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, TextIteratorStreamer

from tiny_inputs import CASES, IMAGE, SHORT_VIDEO, VIDEO, Visual, without_generator
from tiny_models import IMAGE_TOKEN, VIDEO_TOKEN, every_vlm
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.inputs_vega3d import instruction_embeddings, unpacked_clips

pytestmark = every_vlm
TOLERANCE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def plain(backbones):
    return AutoModelForImageTextToText.from_pretrained(backbones[0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{"fusion": "none"}, {"fusion_residual_init": 0.0}], ids=["none", "closed"])
def test_identity_is_bit_equal_to_the_plain_vlm(assemble, plain, options, case, batch):
    model, inputs = assemble(**options), batch(*CASES[case])
    theirs = without_generator(inputs)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    ours, reference = model(**inputs, labels=labels), plain(**theirs, labels=labels)
    assert torch.equal(ours.logits, reference.logits)
    assert torch.equal(ours.loss, reference.loss)
    generated = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(generated, plain.generate(**theirs, max_new_tokens=6, do_sample=False))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_moves_the_answer(assemble, plain, fusion, batch):
    model, inputs = assemble(fusion=fusion, fusion_num_heads=2), batch(*CASES["mixture"])
    logits = model(**inputs).logits
    assert (logits - plain(**without_generator(inputs)).logits).abs().max() > 1e-3
    other = {**inputs, "generator_pixel_values_videos": 255 - inputs["generator_pixel_values_videos"]}
    assert (logits - model(**other).logits).abs().max() > 1e-5


def test_deepstack_features_stay_semantic(assemble, batch, plain, vlm_type):
    """Qwen3-VL adds features of earlier vision layers inside the language model; they pass by the fusion."""
    model, inputs = assemble(fusion="generative_only"), batch(*CASES["mixture"])
    encoded = model.encode(**inputs).mm_encoder_outputs
    theirs = {
        "image": plain.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]),
        "video": plain.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"]),
    }

    assert ("deepstack_features" in encoded["video"]) == (vlm_type == "qwen3_vl")
    for modality, output in encoded.items():
        assert not torch.equal(output.pooler_output[0], theirs[modality].pooler_output[0])
        if vlm_type == "qwen3_vl":
            for ours, reference in zip(output.deepstack_features, theirs[modality].deepstack_features, strict=True):
                assert all(torch.equal(*pair) for pair in zip(ours, reference, strict=True))

    other = model(**{**inputs, "pixel_values_videos": -inputs["pixel_values_videos"]}).logits
    assert torch.equal(other, model(**inputs).logits) == (vlm_type != "qwen3_vl")


@pytest.mark.parametrize("projector", ["merger_mlp", "avg", "mlp2x"])
def test_every_projector_runs(assemble, projector, batch):
    model, inputs = assemble(projector=projector), batch(*CASES["batch"])
    assert torch.isfinite(model(**inputs).logits).all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_batch_equals_single(assemble, fusion, batch):
    model = assemble(fusion=fusion, fusion_num_heads=2)
    prompts = CASES["batch"]
    together = model(**batch(*prompts)).logits
    for row, prompt in enumerate(prompts):
        inputs = batch(prompt)
        alone = model(**inputs).logits[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, **TOLERANCE)


def test_batch_generation_equals_single(model, batch):
    prompts = CASES["batch"]
    together = model.generate(**batch(*prompts), max_new_tokens=6, do_sample=False)[:, -6:]
    alone = [model.generate(**batch(prompt), max_new_tokens=6, do_sample=False)[0, -6:] for prompt in prompts]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("clip_mode", ["frame", "views", "clip"])
def test_every_clip_mode_answers(assemble, clip_mode, batch):
    model, inputs = assemble(clip_mode=clip_mode), batch(*CASES["batch"])
    assert model.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


def test_with_a_stride_a_token_is_of_the_first_frame_of_its_two(assemble, batch):
    inputs = batch(*CASES["video"])
    frames = int(inputs["generator_video_grid_thw"][0, 0])
    every, seen = (assemble(frame_stride=stride).eval() for stride in (1, 2))
    repeated = {**inputs, "generator_pixel_values_videos": with_first_of_two(inputs, frames)}

    torch.testing.assert_close(seen(**inputs).logits, seen(**repeated).logits, atol=0, rtol=0)
    assert not torch.allclose(seen(**inputs).logits, every(**inputs).logits)
    hidden = seen.model.generator.encode(unpacked_clips(inputs, seen.config.generator_config.patch_size))
    assert [len(states) for states in hidden] == [(frames + 1) // 2]
    given = {name: value for name, value in inputs.items() if "generator_pixel" not in name}
    cached = seen(**given, generator_hidden_states=hidden)
    torch.testing.assert_close(cached.logits, seen(**inputs).logits, **TOLERANCE)
    del given["generator_video_grid_thw"]
    with pytest.raises(ValueError, match="frame_stride=2 needs the generator's grids"):
        seen(**given, generator_hidden_states=hidden)


def with_first_of_two(inputs, frames: int) -> torch.Tensor:
    """The generator's pixels with each second frame replaced by the one before."""
    patches = inputs["generator_pixel_values_videos"]
    by_frame = patches.unflatten(0, (frames, -1))
    return by_frame[torch.arange(frames) // 2 * 2].flatten(0, 1)


def test_cache_equals_full_recompute(model, batch):
    inputs = batch(*CASES["batch"])
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    # A recompute would take a generated placeholder for a visual; a trained model does not write any.
    options["suppress_tokens"] = [IMAGE_TOKEN, VIDEO_TOKEN]
    cached, full = (model.generate(**inputs, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached.sequences, full.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(full.logits), **TOLERANCE)


def test_forward_with_a_cache(model, batch):
    inputs = batch(*CASES["video"])
    whole = model(**inputs)
    prefix = {**inputs, "input_ids": inputs["input_ids"][:, :-1], "attention_mask": inputs["attention_mask"][:, :-1]}
    cache = model(**prefix, use_cache=True).past_key_values
    last = model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache)
    torch.testing.assert_close(last.logits[:, -1], whole.logits[:, -1], **TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3, "top_k": 5},
        {"cache_implementation": "static"},
        {"num_beams": 2, "cache_implementation": "static"},
    ],
    ids=["beams", "sampling", "static", "static-beams"],
)
def test_generation_equals_the_vlm_on_the_fused_tokens(model, options, batch):
    inputs = batch(*CASES["batch"])
    encoded = model.encode(**inputs).mm_encoder_outputs
    names = ("input_ids", "attention_mask", "image_grid_thw", "video_grid_thw")
    theirs = {name: without_generator(inputs)[name] for name in (*names, "mm_token_type_ids")}
    torch.manual_seed(0)
    ours = model.generate(**inputs, **options, max_new_tokens=5)
    torch.manual_seed(0)
    expected = model.model.vlm.generate(**theirs, **options, mm_encoder_outputs=encoded, max_new_tokens=5)
    assert torch.equal(ours, expected)
    assert len(ours) == len(inputs["input_ids"]) * options.get("num_return_sequences", 1)


def test_generation_does_not_ignore_the_visuals_of_beams(model, batch):
    """A prompt's beams see its own video: single equals batch also when features are expanded."""
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 4}
    together = model.generate(**batch(*CASES["batch"]), **options)[:, -4:].view(4, 3, 4)
    for row, prompt in enumerate(CASES["batch"]):
        assert torch.equal(model.generate(**batch(prompt), **options)[:, -4:], together[row])


def test_several_questions_on_one_encoding(model, batch):
    inputs = batch(*CASES["video"])
    encoded = model.encode(**inputs)
    asked = model.generate(**inputs, mm_encoder_outputs=encoded.mm_encoder_outputs, max_new_tokens=4)
    assert torch.equal(asked, model.generate(**inputs, max_new_tokens=4))


def test_streamer_sees_every_token(model, batch):
    class Tokens(TextIteratorStreamer):
        def __init__(self):
            self.seen: list[int] = []

        def put(self, value):
            self.seen += value.flatten().tolist()

        def end(self):
            pass

    tokens = Tokens()
    generated = model.generate(**batch(*CASES["video"]), max_new_tokens=4, streamer=tokens)
    assert tokens.seen == generated[0].tolist()


def test_gates_have_the_shape_of_the_token_grid(model, batch):
    visual = Visual(5, patches=(4, 6))
    gates = model(**batch([visual, IMAGE, 5], [SHORT_VIDEO]), output_gates=True).gates
    assert [gate.shape for gate in gates["video"]] == [(3, 2, 3), (1, 3, 2)]
    assert [gate.shape for gate in gates["image"]] == [(1, 2, 2)]
    assert model(**batch([visual])).gates is None


def test_gates_of_channels_and_without_gate(assemble, batch):
    inputs = batch([VIDEO])
    assert assemble(fusion="channel_gated")(**inputs, output_gates=True).gates["video"][0].shape == (3, 2, 3, 32)
    assert assemble(fusion="add")(**inputs, output_gates=True).gates is None


@pytest.mark.parametrize("case", ["video", "image", "mixture", "batch"])
def test_cached_features_equal_online(model, case, batch):
    inputs = batch(*CASES[case])
    hidden = model.generator_features(**inputs)
    cached = {name: value for name, value in inputs.items() if not name.startswith("generator_")}
    expected = model(**inputs).logits
    assert torch.equal(model(**cached, generator_hidden_states=hidden).logits, expected)
    generated = model.generate(**cached, generator_hidden_states=hidden, max_new_tokens=4)
    assert torch.equal(generated, model.generate(**inputs, max_new_tokens=4))


def test_the_question_gates_of_its_own_row_only(assemble, batch):
    model = assemble(fusion="instruction_gated")
    first, second = [VIDEO, 7, 8], [SHORT_VIDEO, 9]
    gates = model(**batch(first, second), output_gates=True).gates["video"]
    assert torch.allclose(gates[1], model(**batch(second), output_gates=True).gates["video"][0], atol=1e-6)
    other = model(**batch([VIDEO, 20, 21], second), output_gates=True).gates["video"]
    assert not torch.allclose(other[0], gates[0], atol=1e-4)
    assert torch.allclose(other[1], gates[1], atol=1e-6)


def test_the_instruction_is_the_words_alone(assemble, batch):
    """No placeholder, marker, padding, or time that the processor writes beside a frame."""
    model = assemble(fusion="none")
    prompts = [[5, 6, VIDEO, 7, SHORT_VIDEO, IMAGE, 8], [9, VIDEO], [IMAGE, 10, 11, IMAGE], [12, 13]]
    inputs, embeddings = batch(*prompts), model.get_input_embeddings()
    means = instruction_embeddings(inputs["input_ids"], inputs["attention_mask"], None, model.config, embeddings)
    for mean, prompt in zip(means, prompts, strict=True):
        words = torch.tensor([part for part in prompt if isinstance(part, int)])
        torch.testing.assert_close(mean, embeddings(words).mean(0))


def test_the_answer_does_not_leak_into_the_instruction(assemble, batch):
    model = assemble(fusion="instruction_gated")
    asked, answered = batch([VIDEO, 7, 8]), batch([VIDEO, 7, 8, 30, 31])
    labels = answered["input_ids"].clone()
    labels[:, :-2] = -100
    expected = model(**asked, output_gates=True).gates["video"][0]
    assert torch.allclose(model(**answered, labels=labels, output_gates=True).gates["video"][0], expected, atol=1e-6)


def test_gradients_reach_fusion_and_projector_and_stop_at_the_generator(assemble, batch):
    model, inputs = assemble().train(), batch(*CASES["mixture"])
    assert not model.model.generator.training
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    parts = {name: list(part.parameters()) for name, part in model.model.named_children()}
    for name in ("fusion", "projector"):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in parts[name]), name
    assert all(not p.requires_grad and p.grad is None for p in parts["generator"])


def test_gradient_checkpointing_changes_nothing(assemble, batch):
    inputs = batch(*CASES["mixture"])
    losses, gradients = [], []

    for checkpointing in (False, True):
        model = assemble().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        losses.append(loss)
        gradients.append(model.model.fusion.gate.weight.grad)

    assert torch.equal(*losses)
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-5)


def test_logits_to_keep(model, batch):
    inputs = batch(*CASES["batch"])
    whole = model(**inputs).logits
    assert torch.equal(model(**inputs, logits_to_keep=2).logits, whole[:, -2:])
    assert torch.equal(model(**inputs, logits_to_keep=torch.tensor([0, 3])).logits, whole[:, [0, 3]])


def test_attention_implementation_reaches_the_vlm(checkpoint, batch):
    from vega3d import VegaForSpatialReasoning

    inputs = batch(*CASES["mixture"])
    logits = []
    for name in ("eager", "sdpa"):
        model = VegaForSpatialReasoning.from_pretrained(checkpoint, attn_implementation=name)
        assert model.model.vlm.config.text_config._attn_implementation == name
        logits.append(model(**inputs).logits)
    torch.testing.assert_close(*logits, **TOLERANCE)


def test_embeddings_can_be_resized(assemble, batch):
    model = assemble()
    model.resize_token_embeddings(320)
    assert model.get_input_embeddings().num_embeddings == 320
    assert model(**batch(*CASES["video"])).logits.shape[-1] == 320


BAD_INPUTS = {
    "a video too few": (
        lambda inputs: {
            **inputs,
            "video_grid_thw": inputs["video_grid_thw"][:1],
            "pixel_values_videos": inputs["pixel_values_videos"][: inputs["video_grid_thw"][0].prod()],
        },
        "24 video placeholder tokens, but the videos given have 18",
    ),
    "a video for no placeholder": (
        lambda inputs: {**inputs, "input_ids": inputs["input_ids"].masked_fill(inputs["input_ids"] == VIDEO_TOKEN, 9)},
        "0 video placeholder tokens, but the videos given have 24",
    ),
    "no pixels": (
        lambda inputs: {k: v for k, v in inputs.items() if k != "pixel_values_videos"},
        "24 video placeholder tokens, but the videos given have 0",
    ),
    "no generator pixels": (
        lambda inputs: {k: v for k, v in inputs.items() if not k.startswith("generator_")},
        "no generator_pixel_values_videos .* Use VegaProcessor",
    ),
    "a generator clip too few": (
        lambda inputs: {**inputs, "generator_video_grid_thw": inputs["generator_video_grid_thw"][:1]},
        "2 videos for the VLM, but 1 for the generator",
    ),
    "patches that do not fill the grid": (
        lambda inputs: {**inputs, "generator_pixel_values_videos": inputs["generator_pixel_values_videos"][1:]},
        r"must be \[42, 768\] for the grid .* but are \[41, 768\]",
    ),
    "other frames than the VLM's": (
        lambda inputs: {
            **inputs,
            "generator_video_grid_thw": torch.tensor([[3, 2, 5], [2, 3, 2]]),
        },
        "3 generator frames has 2 temporal patches, but the VLM has 3",
    ),
    "too few cached clips": (
        lambda inputs: {**inputs, "generator_hidden_states": [torch.zeros(5, 2, 3, 24)]},
        "2 images and videos, but generator_hidden_states of 1",
    ),
    "grid missing": (
        lambda inputs: {k: v for k, v in inputs.items() if k != "video_grid_thw"},
        "video pixels come without video_grid_thw",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs_are_refused(model, name, batch):
    change, message = BAD_INPUTS[name]
    inputs = change(batch([VIDEO, 5, SHORT_VIDEO, 6]))
    with pytest.raises(ValueError, match=message):
        model(**inputs)
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs, max_new_tokens=1)


def test_a_prompt_without_text_has_no_instruction(assemble, batch):
    model = assemble(fusion="instruction_gated")
    inputs = batch([IMAGE])
    keep = inputs["input_ids"] == IMAGE_TOKEN
    inputs["input_ids"], inputs["attention_mask"] = (
        inputs["input_ids"][keep][None],
        inputs["attention_mask"][keep][None],
    )
    with pytest.raises(ValueError, match="needs a question"):
        model(**inputs)
