import pytest
import torch

from golden_models import fusion_config
from vega3d.modeling.alignment_vega3d import PROJECTORS, align_space, align_time, merge_windows


def numbered(frames: int) -> torch.Tensor:
    return torch.arange(frames, dtype=torch.float).view(1, -1, 1, 1, 1)


@pytest.mark.parametrize(
    ("frames", "mode", "latents", "expected"),
    [
        (4, "frame", 4, [0.5, 2.5]),
        (5, "frame", 5, [0.5, 2.5, 4.0]),
        (5, "views", 5, [0.5, 2.5, 4.0]),
        (1, "frame", 1, [0.0]),
        (2, "frame", 2, [0.5]),
        # frame f is in latent ceil(f / 4): 0 | 1 1 1 1 | 2 2 2 2
        (9, "clip", 3, [0.5, 1.0, 1.5, 2.0, 2.0]),
        (7, "clip", 3, [0.5, 1.0, 1.5, 2.0]),
    ],
)
def test_time(frames, mode, latents, expected):
    aligned = align_time(numbered(latents), frames, (frames + 1) // 2, mode)
    assert aligned.flatten().tolist() == expected


def test_streams_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="5 generator frames has 3 temporal patches, but the VLM has 2"):
        align_time(numbered(5), 5, 2, "frame")


def test_space_keeps_dtype_and_identity():
    hidden = torch.randn(1, 2, 3, 5, 4, dtype=torch.bfloat16)
    assert align_space(hidden, 3, 5) is hidden
    assert align_space(hidden, 6, 4).dtype == torch.bfloat16
    assert align_space(hidden, 6, 4).shape == (1, 2, 6, 4, 4)


def test_windows_merge_in_row_order():
    hidden = torch.arange(2 * 4).view(1, 2, 4, 1)
    assert merge_windows(hidden, 2).flatten(-2).tolist() == [[[[0, 1, 4, 5], [2, 3, 6, 7]]]]


@pytest.mark.parametrize("name", PROJECTORS)
def test_one_token_for_each_of_the_vlm(name):
    config = fusion_config(16, "add", projector=name, projector_hidden_size=8)
    config.generator_config.transformer = {"num_attention_heads": 1, "attention_head_dim": 6}
    projector = PROJECTORS[name](config)

    tokens = projector(torch.randn(2, 5, 3, 4, 6), 5, (3, 8, 6))

    assert tokens.shape == (2, 3 * 4 * 3, 16)

    # Another frame moves only the tokens of its own temporal patch.
    changed = torch.randn(1, 5, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    other = changed.clone()
    other[0, 3] += 1

    moved = (projector(changed, 5, (3, 8, 6)) != projector(other, 5, (3, 8, 6))).any(-1).view(3, 12)

    assert moved.all(-1).tolist() == [False, True, False]
    assert moved.any(-1).tolist() == [False, True, False]
