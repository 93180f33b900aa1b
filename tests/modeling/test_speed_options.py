"""Options that make the generator faster: compiled code, linears in 8 bits. Close to the plain features, not equal."""

import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.attention import FeedForward
from transformers.utils.import_utils import is_torch_greater_or_equal

from golden_models import load_generator
from tiny_models import WAN_TRANSFORMER, WAN_VAE, seeded
from vega3d import VegaGenerator, VegaGeneratorConfig
from vega3d.features.identity import feature_identity
from vega3d.modeling.generator_wan_vega3d import WanTower, feed_forward, rotate
from vega3d.modeling.quantisation_vega3d import (
    FLOAT8_ON_CPU,
    EightBitLinear,
    check_float8,
    lower_linears,
    round_rows,
)

TRANSFORMER = {**WAN_TRANSFORMER, "attention_head_dim": 16}  # linears in multiples of 16
HAS_FLOAT8 = is_torch_greater_or_equal(FLOAT8_ON_CPU, accept_dev=True)
needs_float8 = pytest.mark.skipif(not HAS_FLOAT8, reason=f"float8 on a CPU needs torch {FLOAT8_ON_CPU}")


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> VegaGenerator:
    transformer = seeded(lambda: WanTransformer3DModel(**TRANSFORMER), 2)
    vae = seeded(lambda: AutoencoderKLWan(**WAN_VAE), 3)
    prompt = torch.randn(1, TRANSFORMER["text_dim"], generator=torch.Generator().manual_seed(5))
    return load_generator(tmp_path_factory.mktemp("wan") / "files", transformer, vae, prompt, block=-1, chunk_frames=4)


def clip(frames: int = 4) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 3, 32, 48), dtype=torch.uint8, generator=random)


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return F.cosine_similarity(first.float(), second.float(), dim=-1).mean().item()


@pytest.mark.parametrize(("precision", "least"), [pytest.param("fp8", 0.998, marks=needs_float8), ("int8", 0.999)])
def test_eight_bits_stay_close(generator, precision, least):
    plain = generator.encode([clip()])[0]
    lowered = generator.variant(linear_precision=precision)
    features = lowered.encode([clip()])[0]
    assert features.dtype == plain.dtype
    assert least < cosine(features, plain) < 1 - 1e-6


def test_every_linear_of_a_token_is_lowered_and_no_other(generator):
    lowered = generator.variant(linear_precision="fp8")
    block = lowered.tower.transformer.blocks[0]

    names = {name for name, module in block.named_modules() if isinstance(module, EightBitLinear)}

    assert names == {
        *(f"attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        "attn2.to_q",
        "attn2.to_out.0",
        "ffn.net.0.proj",
        "ffn.net.2",
    }

    others = [m for n, m in lowered.tower.transformer.named_modules() if not n.startswith("blocks.")]
    assert not any(isinstance(module, EightBitLinear) for module in others)
    assert not any(parameter.requires_grad for parameter in lowered.parameters())


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_rows_are_rounded_by_their_own_peak(precision):
    matrix = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[1e-4], [1], [10], [1e3], [0]]
    )
    rounded, scale = round_rows(matrix, precision)
    error = (rounded.float() * scale - matrix).abs().amax(1) / matrix.abs().amax(1).clamp(min=1e-9)
    assert rounded.element_size() == 1 and error.max() < (0.04 if precision == "fp8" else 0.005)


@needs_float8
def test_a_change_of_dtype_leaves_the_weights_alone():
    linear, tokens = torch.nn.Linear(32, 48), torch.randn(3, 7, 32)
    expected = linear(tokens)
    lowered = EightBitLinear(linear, "fp8")
    before = lowered.weight_bits.clone()
    lowered.to(torch.bfloat16)
    assert torch.equal(lowered.weight_bits, before)
    assert cosine(lowered(tokens.bfloat16()), expected) > 0.998


@needs_float8
def test_a_known_bound_takes_the_place_of_the_peak():
    lowered = EightBitLinear(torch.nn.Linear(32, 48), "fp8")
    tokens = torch.randn(6, 32)
    exact = lowered(tokens)
    assert torch.equal(lowered(tokens, tokens.abs().amax(1, keepdim=True)), exact)
    assert cosine(lowered(tokens, 2 * tokens.abs().amax(1, keepdim=True)), exact) > 0.998


@pytest.mark.skipif(HAS_FLOAT8, reason=f"torch has float8 on a CPU from {FLOAT8_ON_CPU} on")
def test_float8_on_a_cpu_is_refused_where_torch_lacks_it(generator):
    lowered = generator.variant(linear_precision="fp8")

    with pytest.raises(ValueError, match=f"needs torch {re.escape(FLOAT8_ON_CPU)} or newer on a CPU, but 2"):
        lowered.encode([clip()])
    with pytest.raises(ValueError, match="Update torch, or use linear_precision='int8'"):
        next(lowered.read(clip(), [-1], [500]))


def test_float8_on_a_gpu_is_not_asked_for_a_version():
    check_float8("fp8", torch.device("cuda"))


def test_sides_that_a_gpu_cannot_take_are_refused():
    with pytest.raises(ValueError, match="multiples of 16, but one is 24 x 24"):
        EightBitLinear(torch.nn.Linear(24, 24), "fp8")


def test_compiled_code_gives_the_same_features(generator):
    plain = generator.encode([clip()])[0]
    compiled = generator.variant(compile=True)
    assert not compiled.tower.rotary(torch.zeros(1, 4, 1, 4, 6)).is_complex()
    torch.testing.assert_close(compiled.encode([clip()])[0], plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", ["_native_math", "_native_flash"])
def test_another_backend_computes_the_same_attention(generator, backend):
    other = generator.variant(attention_backend=backend)
    calls = []
    attend, other.tower.attend = other.tower.attend, lambda *states: (calls.append(states), attend(*states))[1]
    torch.testing.assert_close(other.encode([clip()])[0], generator.encode([clip()])[0], atol=2e-5, rtol=0)
    assert len(calls) == 1 + TRANSFORMER["num_layers"]  # the trial, and each block
    assert feature_identity(other) != feature_identity(generator)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("fast", "attention_backend='fast': .* attention_backend='native', .* diffusers has .*_flash_3"),
        ("_flash_3", "attention_backend='_flash_3': .*not usable"),
        (
            "_native_cudnn",
            r"attention_backend='_native_cudnn' cannot compute heads of 16 channels in torch.float32 on cpu",
        ),
    ],
)
def test_a_backend_that_cannot_be_used_is_refused_before_the_vae_runs(generator, backend, message):
    with pytest.raises(ValueError, match=message):
        other = generator.variant(attention_backend=backend)
        other.tower.encoder.register_forward_pre_hook(lambda *given: pytest.fail("the VAE ran"))
        other.encode([clip()])


def test_the_vae_alone_has_no_attention_to_choose():
    with pytest.raises(ValueError, match=r"family='vae'.*attention_backend"):
        VegaGeneratorConfig(transformer=TRANSFORMER, vae=WAN_VAE, block=1, family="vae", attention_backend="sage")


def test_the_rotation_of_compiled_code_is_that_of_the_plain(generator):
    compiled = WanTower(generator.tower.transformer, AutoencoderKLWan(**WAN_VAE), compiled_config(generator))
    hidden, latents = torch.randn(1, 12, 2, 16), torch.zeros(1, 4, 2, 4, 6)
    expected = rotate(hidden, generator.tower.rotary(latents))
    torch.testing.assert_close(rotate(hidden, compiled.rotary(latents)), expected)


def compiled_config(generator: VegaGenerator) -> VegaGeneratorConfig:
    return VegaGeneratorConfig(**{**generator.config.to_dict(), "compile": True})


@needs_float8
@pytest.mark.parametrize("bias", [-0.75, 0.0, 2.0])
def test_the_bound_of_the_feed_forward_holds(bias):
    """Also where all that goes into the GELU is negative, and all that comes out lies between -0.17 and 0."""
    ffn = FeedForward(32, inner_dim=64, activation_fn="gelu-approximate")
    torch.nn.init.constant_(ffn.net[0].proj.bias, bias)
    torch.nn.init.normal_(ffn.net[0].proj.weight, std=0.01)
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    expected = ffn(hidden)
    lower_linears(SimpleNamespace(blocks=[ffn]), "fp8")
    assert cosine(feed_forward(ffn, hidden), expected) > 0.995
