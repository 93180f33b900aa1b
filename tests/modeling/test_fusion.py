import pytest
import torch

from golden_models import fusion_config
from vega3d.modeling.fusion_vega3d import FUSIONS

SIZE, GRID = 16, (2, 2, 3)
GATED = ["token_gated_residual", "token_gated", "token_gated_norm", "channel_gated", "instruction_gated"]


def build(name: str, **config):
    torch.manual_seed(0)
    module = FUSIONS[name](fusion_config(SIZE, name, fusion_num_heads=2, fusion_num_layers=2, **config))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def streams():
    torch.manual_seed(1)
    return torch.randn(1, 12, SIZE), torch.randn(1, 12, SIZE)


@pytest.mark.parametrize("name", FUSIONS)
def test_interface(name):
    semantic, generative = streams()
    fused, gate = build(name)(semantic, generative, GRID, torch.randn(1, SIZE))
    assert fused.shape == semantic.shape
    assert (gate is not None) == (name in GATED)
    if gate is not None:
        assert gate.shape == (1, 12, SIZE if name == "channel_gated" else 1)
        assert ((gate > 0) & (gate < 1)).all()


@pytest.mark.parametrize("name", sorted(set(FUSIONS) - {"add", "generative_only"}))
def test_every_parameter_takes_part(name):
    semantic, generative = streams()
    module = build(name)
    fused, _ = module(semantic, generative, GRID, torch.randn(1, SIZE))
    fused.square().sum().backward()
    still = {key for key, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert still == set()


@pytest.mark.parametrize("name", FUSIONS)
def test_misaligned_tokens_are_refused(name):
    with pytest.raises(ValueError, match=r"semantic \(1, 12, 16\) and generative \(1, 9, 16\)"):
        build(name)(torch.randn(1, 12, SIZE), torch.randn(1, 9, SIZE), GRID, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_closed_residual_keeps_the_vlm(dtype):
    semantic, generative = (stream.to(dtype) for stream in streams())
    module = build("token_gated_residual").to(dtype)
    torch.nn.init.zeros_(module.residual_scale)
    assert torch.equal(module(semantic, generative, GRID, None)[0], semantic)


@pytest.mark.parametrize("name", ["token_gated", "token_gated_residual"])
def test_limits_of_the_gate(name):
    semantic, generative = streams()
    module = build(name)
    with torch.no_grad():
        module.gate.weight.zero_()
        if name == "token_gated_residual":
            module.residual_scale.fill_(1.0)
        for bias, expected in ((30.0, semantic), (-30.0, generative)):
            module.gate.bias.fill_(bias)
            torch.testing.assert_close(module(semantic, generative, GRID, None)[0], expected)


def test_residual_with_full_scale_is_the_papers_gate():
    semantic, generative = streams()
    residual, paper = build("token_gated_residual"), build("token_gated")
    paper.load_state_dict({k: v for k, v in residual.state_dict().items() if k != "residual_scale"})
    torch.nn.init.ones_(residual.residual_scale)
    torch.testing.assert_close(residual(semantic, generative, GRID)[0], paper(semantic, generative, GRID)[0])


@pytest.mark.parametrize("name", FUSIONS)
def test_tokens_are_fused_alone_or_within_their_frame(name):
    semantic, generative = streams()
    module = build(name)
    changed = generative.clone()
    changed[0, 8] += 1.0  # frame 1, token 2
    fused, other = module(semantic, generative, GRID)[0], module(semantic, changed, GRID)[0]
    moved = (fused != other).any(-1)[0]
    assert moved[8]
    assert not moved[:6].any()
    if name != "cross_attention":
        assert moved.sum() == 1


def test_the_question_moves_the_gate():
    semantic, generative = streams()
    module = build("instruction_gated")
    questions = (None, torch.randn(1, SIZE), torch.randn(1, SIZE))
    gates = [module(semantic, generative, GRID, question)[1] for question in questions]
    assert not torch.equal(gates[0], gates[1])
    assert not torch.equal(gates[1], gates[2])
