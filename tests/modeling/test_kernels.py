"""Triton's kernels of the generator: what they compute, and the blocks that are made of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers.utils.import_utils import is_torch_greater_or_equal

from forks import run_forked
from golden_models import load_generator
from tiny_models import WAN_TRANSFORMER, WAN_VAE, seeded
from vega3d import VegaGenerator
from vega3d.modeling import kernels_wan_vega3d as kernels
from vega3d.modeling.generator_wan_vega3d import run_block
from vega3d.modeling.quantisation_vega3d import FLOAT8_ON_CPU, EightBitLinear, RoundedTokens

TESTS = Path(__file__).parents[1]
TRANSFORMER = {**WAN_TRANSFORMER, "attention_head_dim": 16}  # linears in multiples of 16
needs_triton = pytest.mark.skipif(not kernels.HAS_TRITON, reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
HAS_FLOAT8 = is_torch_greater_or_equal(FLOAT8_ON_CPU, accept_dev=True)
needs_float8 = pytest.mark.skipif(not HAS_FLOAT8, reason=f"float8 on a CPU needs torch {FLOAT8_ON_CPU}")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    return F.cosine_similarity(first.double(), second.double(), dim=-1).mean().item()


# --- The kernels -----------------------------------------------------------------------------------------------------


@needs_triton
def test_interpreted_kernels_compute_what_their_definitions_say():
    """Also for rows of zeros, no rows, huge and tiny values, NaN and infinity, and widths that are no power of two."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-W", "ignore", str(TESTS / "interpreted_kernels.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 88
    for row in rows:
        lost = 2**-7 if row["case"].endswith("bfloat16") else 1e-6  # bfloat16 is cut off there
        assert row["as finite"], row
        assert row.get("steps", 0) <= 1 and row.get("off", 0) < 2e-3 and row.get("scale", 0) < 1e-6, row
        assert row.get("peak", 0) < 448.01, row  # a GPU saturates, torch rounds up to 464 down
        assert row.get("difference", 0) < lost and row.get("sum", 0) < lost, row
        assert row.get("cosine", 1) > 0.99999, row


def signature(kernel, constants: dict) -> tuple[dict, dict]:
    """Types and alignments of a kernel's arguments, as a launch with rows in bfloat16 has them."""
    numbers = dict.fromkeys(("width", "tokens"), "i32")
    numbers |= dict.fromkeys(("epsilon", "factor", "largest", "least"), "fp32")
    pointers = {"bits": "*fp8e4nv", "scales": "*fp32", "rotary": "*fp32"}
    types = {**numbers, **pointers, **dict.fromkeys(constants, "constexpr")}
    names = {name: types.get(name, "*bf16") for name in kernel.arg_names}
    aligned = [place for place, (name, type_) in enumerate(names.items()) if name == "width" or type_.startswith("*")]
    return names, {(place,): [["tt.divisibility", 16]] for place in aligned}


SIDES = {1536: {"head": 1024, "tail": 512}, 8960: {"head": 8192, "tail": 1024}}


@needs_triton
@pytest.mark.parametrize(
    ("name", "width", "warps", "constants"),
    [
        ("round_kernel", 1536, 4, {}),
        ("gelu_round_kernel", 8960, 8, {}),
        ("norm_round_kernel", 1536, 4, {"adds": False, "gates": False}),
        ("norm_round_kernel", 1536, 4, {"adds": True, "gates": True}),
        ("rotate_heads_kernel", 1536, 4, {"half": 64}),
        ("prompt_round_kernel", 1536, 4, {"count": 2, "channels": 128}),
    ],
)
def test_kernels_compile_for_a_gpu_that_is_not_there(name, width, warps, constants, tmp_path, monkeypatch):
    """For compute capability 9.0 (H100, H200): loads of 16 bytes, rounding that saturates, and nothing is spilled."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, constants = getattr(kernels, name), {**constants, **SIDES[width]}
    types, attributes = signature(kernel, constants)
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=attributes)
    code = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps}).asm["ptx"]
    assert "ld.global.v4.b32" in code
    assert ("cvt.rn.satfinite.e4m3x2.f32" in code) == ("round" in name)
    assert "ld.local" not in code and "st.local" not in code


@needs_gpu
@needs_triton
@pytest.mark.parametrize(("rows", "width"), [(1, 1536), (4097, 1536), (515, 8960), (7, 384)])
def test_kernels_on_a_gpu_compute_what_their_definitions_say(rows, width):
    """In float32, as kernels round but once."""
    hidden, update = (random(2, rows, width, seed=seed).bfloat16().cuda() for seed in range(2))
    scale, shift, gate = (random(width, seed=seed).bfloat16().cuda() for seed in range(3, 6))
    angles = random(1, rows, 1, 64, seed=6).cuda()
    rotary = torch.stack([angles.cos(), angles.sin()])
    prompt = [random(1, width // 128, 2, 128, seed=seed).bfloat16().cuda() for seed in (7, 8)]
    prompt.append(torch.tensor([0.0, 6.25]).view(1, 1, 1, 2).bfloat16().cuda())
    assert kernels.can_run(hidden)

    def exact(plain, *given):
        return plain(*(value.float() if isinstance(value, torch.Tensor) else value for value in given))

    rounded = [
        (kernels.ROUND(hidden), exact(kernels.plain_round, hidden)),
        (kernels.GELU_ROUND(hidden), exact(kernels.plain_gelu_round, hidden)),
        (kernels.NORM_ROUND(hidden, scale, shift, 1e-6), exact(kernels.plain_norm_round, hidden, scale, shift, 1e-6)),
        (
            kernels.PROMPT_ROUND(hidden, scale, *prompt, 1e-6),
            exact(kernels.plain_prompt_round, hidden, scale, *prompt, 1e-6),
        ),
    ]
    for factor in (gate, None):
        summed, *ours = kernels.ADD_NORM_ROUND(hidden, update, factor, scale, shift, 1e-6)
        torch.testing.assert_close(summed, kernels.add(hidden, update, factor))
        rounded.append((ours, exact(kernels.plain_norm_round, summed, scale, shift, 1e-6)))
    for (bits, scales), (plain_bits, plain_scales) in rounded:
        assert bits.dtype == torch.float8_e4m3fn and bits.float().isfinite().all()
        torch.testing.assert_close(scales, plain_scales, rtol=1e-4, atol=0)
        assert cosine(bits.float() * scales, plain_bits.float() * plain_scales) > 0.9999
    given = hidden, update, scale, shift, rotary, 1e-6
    for ours, theirs in zip(kernels.ROTATE_HEADS(*given), exact(kernels.plain_rotate_heads, *given), strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=2**-7, atol=1e-4)


@needs_gpu
@needs_triton
def test_values_that_are_not_finite_stay_so_on_a_gpu():
    hidden = random(1, 4, 1536).bfloat16().cuda()
    hidden[0, 1, 7], hidden[0, 2, 8], hidden[0, 3] = torch.inf, torch.nan, torch.nan
    weight = torch.ones(1536, device="cuda", dtype=torch.bfloat16)
    for bits, scales in (
        kernels.ROUND(hidden),
        kernels.GELU_ROUND(hidden),
        kernels.NORM_ROUND(hidden, weight, weight, 1e-6),
    ):
        assert (bits.float() * scales).isfinite().all(-1).tolist() == [[True, False, False, False]]


# --- The operators ---------------------------------------------------------------------------------------------------

ROWS = {
    **{"hidden": (2, 5, 48), "update": (2, 5, 48), "gate": (48,), "scale": (48,), "shift": (48,)},
    **{"key": (1, 3, 2, 16), "value": (1, 3, 2, 16), "bias": (1, 1, 1, 2)},
}


@pytest.mark.parametrize(
    ("operator", "names", "numbers"),
    [
        (kernels.ROUND, ["hidden"], []),
        (kernels.GELU_ROUND, ["hidden"], []),
        (kernels.NORM_ROUND, ["hidden", "scale", "shift"], [1e-6]),
        (kernels.ADD_NORM_ROUND, ["hidden", "update", "gate", "scale", "shift"], [1e-6]),
        (kernels.ROTATE_HEADS, ["hidden", "update", "scale", "shift", "rotary"], [1e-6]),
        (kernels.PROMPT_ROUND, ["hidden", "scale", "key", "value", "bias"], [1e-6]),
    ],
)
def test_the_compiler_knows_what_an_operator_gives(operator, names, numbers):
    angles = random(1, 5, 1, 12)
    tensors = {name: random(*shape, seed=seed).bfloat16() for seed, (name, shape) in enumerate(ROWS.items())}
    tensors["rotary"] = torch.stack([angles.cos(), angles.sin()])
    torch.library.opcheck(operator, (*(tensors[name] for name in names), *numbers))


def test_without_triton_the_definitions_compute(tmp_path):
    code = """
import sys
sys.modules["triton"] = None
import torch
from vega3d.modeling import kernels_wan_vega3d as kernels
assert not kernels.HAS_TRITON and not kernels.can_run(torch.zeros(1, 1, 16))
rows = torch.randn(1, 3, 16)
for ours, theirs in zip(kernels.ROUND(rows), kernels.plain_round(rows), strict=True):
    assert torch.equal(ours.float(), theirs.float())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = run_forked(code, folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr


def test_kernels_do_not_run_on_a_cpu_and_nobody_is_warned(caplog):
    assert not kernels.can_run(torch.zeros(1, 1, 16, dtype=torch.bfloat16))
    assert not caplog.records


@needs_triton
def test_a_triton_that_does_not_work_is_told_once(caplog):
    """As on a CPU, for which Triton has no compiler."""
    kernels.works.cache_clear()
    assert not kernels.works(torch.device("cpu")) and not kernels.works(torch.device("cpu"))
    assert ["runs without Triton's kernels" in record.message for record in caplog.records] == [True]


# --- Blocks made of them ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> VegaGenerator:
    transformer = seeded(lambda: WanTransformer3DModel(**TRANSFORMER), 2)
    vae = seeded(lambda: AutoencoderKLWan(**WAN_VAE), 3)
    prompt = torch.randn(1, TRANSFORMER["text_dim"], generator=torch.Generator().manual_seed(5))
    loaded = load_generator(
        tmp_path_factory.mktemp("wan") / "files", transformer, vae, prompt, block=-1, chunk_frames=4
    )
    return loaded.to(torch.bfloat16)


def clip() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def both(generator: VegaGenerator, **changes) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with what is between the products as it is on a CPU, and as it is where the kernels run."""
    changed = generator.variant(**changes)
    plain = changed.encode([clip()])[0]
    changed.tower.with_kernels = True
    return plain, changed.encode([clip()])[0]


@pytest.mark.parametrize(("precision", "with_kernels"), [("fp8", None), ("int8", False), ("native", False)])
def test_kernels_are_for_products_in_float8_alone(generator, precision, with_kernels):
    assert generator.variant(linear_precision=precision).tower.with_kernels is with_kernels


@needs_gpu
@needs_triton
@pytest.mark.parametrize("precision", ["fp8", "native"])
def test_on_a_gpu_a_block_takes_rounded_tokens_for_products_in_float8_alone(generator, precision):
    changed = generator.variant(linear_precision=precision).cuda()
    taken = []
    for block in changed.tower.transformer.blocks:
        query = block.attn1.to_q
        query.register_forward_pre_hook(lambda module, given: taken.append(isinstance(given[0], RoundedTokens)))
    changed.encode([clip().cuda()])
    assert taken == [precision == "fp8"] * TRANSFORMER["num_layers"]


@needs_float8
def test_blocks_of_the_kernels_compute_what_others_do(generator):
    plain, fused = both(generator, linear_precision="fp8")
    assert fused.dtype == plain.dtype == torch.bfloat16
    assert cosine(fused, plain) > 0.9999


@needs_float8
def test_blocks_of_the_kernels_compute_the_same_bits_with_the_same_rotation(generator):
    """A block's steps are those of the other composition one by one, but for complex numbers."""
    changed = generator.variant(linear_precision="fp8")
    tower, latents = changed.tower, random(2, 4, 1, 4, 6)
    rotary = tower.rotary(latents, fused=True)
    constants = tower.constants(changed.prompt_embeds, changed.config.prompt_length, 500)
    width = tower.transformer.blocks[0].attn1.to_q.bias.shape[0]
    hidden = random(2, 6, width).bfloat16()
    for block, of_block in zip(tower.transformer.blocks, constants.blocks, strict=True):
        given = block, hidden, of_block, constants.prompt_bias, rotary, tower.attend
        plain = run_block(*given, False)
        assert torch.equal(run_block(*given, True), plain)
        hidden = plain


@needs_float8
@pytest.mark.parametrize("with_kernels", [True, False])
def test_every_linear_in_float8_takes_tokens_that_a_kernel_rounded(generator, with_kernels):
    changed = generator.variant(linear_precision="fp8")
    changed.tower.with_kernels = with_kernels
    taken = []
    for module in changed.tower.modules():
        if isinstance(module, EightBitLinear):
            module.register_forward_pre_hook(lambda module, given: taken.append(isinstance(given[0], RoundedTokens)))
    changed.encode([clip()])
    assert taken == [with_kernels] * 8 * TRANSFORMER["num_layers"]


@needs_float8
def test_features_in_float8_are_close_to_those_in_full_precision(generator):
    exact = generator.variant().to(torch.float32).encode([clip()])[0]
    assert cosine(both(generator, linear_precision="fp8")[1], exact) > 0.998


@needs_float8
@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_blocks_of_the_kernels_compile_to_one_graph(generator, backend):
    changed = generator.variant(linear_precision="fp8", attention_backend=backend)
    changed.tower.with_kernels = True
    expected = changed.encode([clip()])[0]
    torch._dynamo.reset()
    changed.tower.run_block = torch.compile(run_block, fullgraph=True)
    assert cosine(changed.encode([clip()])[0], expected) > 0.9999


@needs_float8
def test_a_linear_takes_tokens_that_are_rounded():
    linear, hidden = EightBitLinear(torch.nn.Linear(32, 48), "fp8"), random(2, 5, 32).bfloat16()
    rounded = kernels.round_tokens(hidden)
    assert isinstance(rounded, RoundedTokens) and rounded.bits.shape == hidden.shape
    assert torch.equal(linear(rounded), linear(hidden))


def test_operators_of_another_copy_of_the_file_have_other_names():
    """Code of a model on the Hub is a copy of these modules."""
    assert re.fullmatch(r"\w+", kernels.NAMESPACE) and kernels.NAMESPACE.endswith("modeling_kernels_wan_vega3d")
