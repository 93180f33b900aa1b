"""The vision tower's windows in one kernel: only where the kernel is. Its figures on a GPU are in docs/results.md."""

import pytest
import torch

from vega3d import VegaForSpatialReasoning
from vega3d.inference.vision_attention import NAME, pack_vision_attention


def test_on_a_cpu_nothing_changes(checkpoint):
    model = VegaForSpatialReasoning.from_pretrained(checkpoint)
    assert not pack_vision_attention(model)
    assert model.model.vlm.base_model.visual.config._attn_implementation == "sdpa"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel is for GPUs")
def test_packed_windows_equal_windows_apart(checkpoint, batch):
    from tiny_inputs import CASES

    model = VegaForSpatialReasoning.from_pretrained(checkpoint, dtype=torch.bfloat16).cuda()
    inputs = {name: value.cuda() for name, value in batch(*CASES["video"]).items()}
    expected = model(**inputs).logits
    assert pack_vision_attention(model) and model.model.vlm.base_model.visual.config._attn_implementation == NAME
    torch.testing.assert_close(model(**inputs).logits, expected, atol=0.05, rtol=0.05)
