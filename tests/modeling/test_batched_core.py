"""Clips of one grid are aligned and fused together, bit by bit as each of them alone (float32, on a CPU)."""

import pytest
import torch

from golden_models import fusion_config
from tiny_inputs import Visual
from vega3d.modeling.alignment_vega3d import PROJECTORS
from vega3d.modeling.fusion_vega3d import FUSIONS

CLIPS = 8
# Token grids and widths at which products of several clips, in one call, differ from those of one clip.
SIZES = [((3, 1, 2), 64), ((3, 5, 1), 64), ((4, 6, 2), 48), ((2, 6, 6), 96)]
# Frames, (h, w) of the VLM's patches, channels C; the projectors' products differ so at the last, with two threads.
PROJECTED_SIZES = [(1, (6, 14), 24), (2, (6, 14), 24), (9, (6, 14), 24), (2, (2, 10), 256)]
MODES = ["frame", "views", "clip"]


def image(seed: int) -> Visual:
    return Visual(0, patches=(4, 4), generator_patches=(2, 2), seed=seed)


# Three grids of videos; of two videos the VLM's grid is the same, and the generator's is not.
PROMPTS = [
    [image(1), Visual(5, seed=2), 5],
    [Visual(5, seed=3), 6, 7],
    [Visual(2, patches=(6, 4), generator_patches=(3, 2), seed=4), image(5), 8],
    [Visual(5, generator_patches=(3, 2), seed=6), Visual(2, patches=(6, 4), generator_patches=(3, 2), seed=7), 9],
    [image(8), 4],
]


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


@torch.no_grad()
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("grid", "width"), SIZES, ids=str)
@pytest.mark.parametrize("name", FUSIONS)
def test_fused_tokens_of_many_clips_are_those_of_each(name, grid, width):
    torch.manual_seed(0)
    module = randomised(FUSIONS[name](fusion_config(width, name, fusion_num_heads=2, fusion_num_layers=2)))
    tokens = torch.Size(grid).numel()
    semantic, generative = torch.randn(2, CLIPS, tokens, width)
    question = torch.randn(CLIPS, width)

    together, gates = module(semantic, generative, grid, question)

    for row in range(CLIPS):
        fused, gate = module(semantic[[row]], generative[[row]], grid, question[[row]])
        assert torch.equal(together[row], fused[0])
        assert (gates is None and gate is None) or torch.equal(gates[row], gate[0])


@torch.no_grad()
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("frames", "size", "channels"), PROJECTED_SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROJECTORS)
def test_aligned_tokens_of_many_clips_are_those_of_each(name, mode, frames, size, channels):
    torch.manual_seed(0)
    config = fusion_config(64, "add", projector=name, projector_hidden_size=40)
    config.generator_config.transformer = {"num_attention_heads": 1, "attention_head_dim": channels}
    config.generator_config.clip_mode = mode
    projector = randomised(PROJECTORS[name](config))
    latents = 1 + (frames + 2) // 4 if mode == "clip" else frames
    hidden = torch.randn(CLIPS, latents, 3, 5, channels)
    patch_grid = ((frames + 1) // 2, *size)

    together = projector(hidden, frames, patch_grid)

    for row in range(CLIPS):
        assert torch.equal(together[row], projector(hidden[[row]], frames, patch_grid)[0])


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("projector", PROJECTORS)
def test_visuals_of_several_grids_in_one_batch(assemble, batch, projector, mode):
    """`generative_only` passes the generative tokens on, so no product of the vision tower is compared."""
    model = assemble(fusion="generative_only", projector=projector, clip_mode=mode, chunk_frames=64)
    together = model.encode(**batch(*PROMPTS)).mm_encoder_outputs

    alone: dict[str, list[torch.Tensor]] = {"image": [], "video": []}
    for prompt in PROMPTS:
        for name, output in model.encode(**batch(prompt)).mm_encoder_outputs.items():
            alone[name] += output.pooler_output

    for name, tokens in alone.items():
        assert all(map(torch.equal, together[name].pooler_output, tokens))


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_visual_gets_its_own_question_and_gate(assemble, batch, fusion):
    model = assemble(fusion=fusion, fusion_num_heads=2)
    together = model.encode(**batch(*PROMPTS), output_gates=True)

    gates: dict[str, list[torch.Tensor]] = {"image": [], "video": []}
    for prompt in PROMPTS:
        alone = model.encode(**batch(prompt), output_gates=True)
        for name, found in (alone.gates or {}).items():
            gates[name] += found

    for name, found in (together.gates or {}).items():
        assert len(found) == len(gates[name])
        for ours, reference in zip(found, gates[name], strict=True):
            torch.testing.assert_close(ours, reference, atol=2e-5, rtol=0)  # the vision tower rounds by the batch
