"""The vision tower's windows at once: the same bits on a CPU, no wait on a GPU, and nothing of it in saved files.

The kernel's figures on a GPU are in docs/results.md.
"""

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tiny_inputs import CASES, IMAGE, SHORT_VIDEO, VIDEO, Visual
from tiny_models import every_vlm
from vega3d import VegaForSpatialReasoning
from vega3d.inference.vision_attention import NAME, pack_vision_attention, packed_attention

LATER_IMAGE, WIDE_IMAGE = Visual(0, patches=(4, 4), generator_patches=(2, 2), seed=4), Visual(0, seed=5)
PROMPTS = {
    "windows of one length": CASES["video"],
    "of several lengths": CASES["batch"],
    "equal images": [[5, IMAGE, LATER_IMAGE, IMAGE, 7], [WIDE_IMAGE, 4, VIDEO], [IMAGE, SHORT_VIDEO, LATER_IMAGE, 9]],
}


def vision_of(model: VegaForSpatialReasoning) -> torch.nn.Module:
    return model.model.vlm.base_model.visual


def logits_and_gradients(model, inputs) -> list[torch.Tensor]:
    logits = model(**inputs).logits
    gradients = torch.autograd.grad(logits.square().mean(), list(model.model.vlm.parameters()), allow_unused=True)
    return [logits, *(gradient for gradient in gradients if gradient is not None)]


@every_vlm
@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_windows_at_once_equal_windows_one_by_one_bit_for_bit(checkpoint, batch, prompts):
    model = VegaForSpatialReasoning.from_pretrained(checkpoint)
    inputs = batch(*prompts)
    expected = logits_and_gradients(model, inputs)

    assert pack_vision_attention(model)

    found = logits_and_gradients(model, inputs)
    assert len(found) == len(expected) > 40
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("lengths", [[64] * 6, [64, 16, 64, 64, 16, 4], [5, 7, 9], [36]])
def test_each_window_attends_to_itself_alone(lengths):
    random = torch.Generator().manual_seed(0)
    states = [torch.randn(1, 3, sum(lengths), 20, generator=random, requires_grad=True) for _ in range(3)]
    apart = zip(*(one.split(lengths, dim=2) for one in states), strict=True)
    module = torch.nn.Module()
    module.is_causal = False
    expected = torch.cat([sdpa_attention_forward(module, *one, None, scaling=0.3)[0] for one in apart], dim=1)
    starts = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)

    found, weights = packed_attention(
        module, *states, None, cu_seq_lens_q=starts, max_length_q=max(lengths), scaling=0.3
    )

    assert weights is None and torch.equal(found, expected)
    upwards = torch.randn(found.shape, generator=random)
    for one, other in zip(*(torch.autograd.grad(out, states, upwards) for out in (found, expected)), strict=True):
        assert torch.equal(one, other)


def test_a_gpu_is_not_waited_for_where_all_windows_are_of_one_length():
    states = torch.empty(1, 2, 24, 8, device="meta")  # whose values cannot be read
    starts = torch.empty(4, dtype=torch.int32, device="meta")
    found, _ = packed_attention(torch.nn.Module(), states, states, states, None, cu_seq_lens_q=starts, max_length_q=8)
    assert found.shape == (1, 24, 2, 8)


def grids_seen(model: VegaForSpatialReasoning, inputs) -> list[list[int]]:
    seen: list = []

    def keep(module, args, kwargs) -> None:
        seen.extend(kwargs["grid_thw"].tolist())

    hook = vision_of(model).register_forward_pre_hook(keep, with_kwargs=True)
    model(**inputs)
    hook.remove()
    return seen


@every_vlm
def test_positions_of_images_of_one_size_in_a_row_are_counted_once(checkpoint, batch):
    model = VegaForSpatialReasoning.from_pretrained(checkpoint)
    inputs = batch([IMAGE, LATER_IMAGE, WIDE_IMAGE, IMAGE])
    assert grids_seen(model, inputs) == [[1, 4, 4], [1, 4, 4], [1, 4, 6], [1, 4, 4]]
    pack_vision_attention(model)
    assert grids_seen(model, inputs) == [[2, 4, 4], [1, 4, 6], [1, 4, 4]]


def test_another_attention_that_was_chosen_stays(checkpoint, batch):
    eager = VegaForSpatialReasoning.from_pretrained(checkpoint, attn_implementation="eager")
    assert not pack_vision_attention(eager)
    assert vision_of(eager).config._attn_implementation == "eager"

    model = VegaForSpatialReasoning.from_pretrained(checkpoint)
    assert pack_vision_attention(model) and pack_vision_attention(model)
    model.set_attn_implementation("eager")
    inputs = batch(*CASES["batch"])
    assert vision_of(model).config._attn_implementation == "eager"
    assert torch.equal(model(**inputs).logits, eager(**inputs).logits)


def test_saved_files_do_not_name_it(checkpoint, tmp_path):
    model = VegaForSpatialReasoning.from_pretrained(checkpoint)
    pack_vision_attention(model)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    again = VegaForSpatialReasoning.from_pretrained(tmp_path)
    assert vision_of(again).config._attn_implementation == "sdpa"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel is for GPUs")
def test_packed_windows_equal_windows_apart(checkpoint, batch):
    model = VegaForSpatialReasoning.from_pretrained(checkpoint, dtype=torch.bfloat16).cuda()
    inputs = {name: value.cuda() for name, value in batch(*CASES["video"]).items()}
    expected = model(**inputs).logits
    assert pack_vision_attention(model)
    torch.testing.assert_close(model(**inputs).logits, expected, atol=0.05, rtol=0.05)
