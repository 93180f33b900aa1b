"""A marked patch in a frame moves the same token in both streams, at the same time index."""

import numpy as np
import pytest
import torch

from tiny_checkpoints import FROZEN
from vega3d.hub.load import load_vega
from vega3d.processing.video_vega3d import clip_from_frames

PROMPT = "<|vision_start|><|video_pad|><|vision_end|>Where is the mark?"
TOKEN = 16  # px


@pytest.fixture(scope="module")
def tiny():
    """Frame by frame, so that no frame can tell the others of its mark."""
    model, processor = load_vega(FROZEN, device="cpu", dtype="float32")
    model.config.generator_config.clip_mode = "frame"
    see_own_pixels(model.model.generator)
    return model, processor


@torch.no_grad()
def see_own_pixels(generator: torch.nn.Module) -> None:
    """Each token of a generator with random weights, which would carry the mark anywhere: a trained one does not."""
    for name, module in generator.named_modules():
        if name.endswith("attn1.to_out.0"):
            module.weight.zero_()
        elif isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            taps = slice(0, 2) if module.stride == (2, 2) else slice(1, 2)  # a pixel is made of 2 x 2, or of one
            own = module.weight[..., taps, taps].clone()
            module.weight.zero_()
            module.weight[..., taps, taps] = own


def textured(frames: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(90, 160, (frames, height, width, 3), dtype=np.uint8)


@torch.no_grad()
def tokens_of_both_streams(model, processor, frames: np.ndarray) -> dict[str, torch.Tensor]:
    """float[t, h, w, D] on the VLM's token grid, before they are fused."""
    inputs = processor(text=PROMPT, videos=[clip_from_frames(frames)], do_sample_frames=False)
    core, grid = model.model, inputs["video_grid_thw"][0].tolist()
    features = core.vlm.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True)
    hidden = model.generator_features(**inputs)[0]
    generative = core.projector(hidden[None], len(frames), tuple(grid))[0]
    streams = {"semantic": features.pooler_output[0], "generative": generative}
    return {name: tokens.unflatten(0, (grid[0], grid[1] // 2, grid[2] // 2)) for name, tokens in streams.items()}


def centre_of(moved: torch.Tensor) -> tuple[float, float]:
    """Centre of the strongest movement of float[h, w]: a convolution spreads a mark over its neighbours."""
    weight = moved.where(moved > moved.max() / 2, 0.0)
    rows, columns = (torch.arange(size, dtype=weight.dtype) for size in weight.shape)
    return float((weight.sum(1) * rows).sum() / weight.sum()), float((weight.sum(0) * columns).sum() / weight.sum())


@pytest.mark.parametrize("shape", [(144, 240), (240, 144), (128, 128), (192, 112)], ids=str)
@pytest.mark.parametrize(("frame", "row", "column"), [(0, 0, 0), (3, 2, 5), (4, 5, 1), (6, 3, 6)])
def test_a_mark_moves_the_same_token(tiny, shape, frame, row, column):
    frames = textured(7, *shape)
    marked = frames.copy()
    marked[frame, TOKEN * row : TOKEN * (row + 1), TOKEN * column : TOKEN * (column + 1)] = (255, 0, 0)
    before, after = (tokens_of_both_streams(*tiny, clip) for clip in (frames, marked))
    for stream in before:
        moved = (after[stream] - before[stream]).norm(dim=-1)
        assert centre_of(moved[frame // 2]) == pytest.approx((row, column), abs=0.75), stream
        others = torch.cat([moved[: frame // 2], moved[frame // 2 + 1 :]])
        assert not others.any(), stream  # other times see nothing of it
