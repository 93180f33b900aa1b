"""Triton kernels between the float8 products of Wan's blocks: each reads a row once, and writes its result once.

They are for rows in bfloat16 on an NVIDIA GPU. Between products in bfloat16 kernels won 2.7 % (docs/results.md), too
little for their code, so there torch alone computes. Each has a definition in plain torch, which computes elsewhere.
Results are those of the definition but for rounding: kernels keep float32 until the end, where the definition rounds
to the type of its input between two steps.

To `torch.compile` each kernel is one operator, so that it breaks no graph.
"""

import functools
import logging
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .quantisation_vega3d import LARGEST, RoundedTokens, round_rows

try:
    import triton
    import triton.language as tl
except ImportError:  # torch on a CPU, or on another system than Linux, comes without it
    HAS_TRITON = False
else:
    HAS_TRITON = True

LOGGER = logging.getLogger(__name__)
NARROWEST, WIDEST = 16, 32768  # rows that the kernels take, in channels
FLOAT8 = torch.float8_e4m3fn
MOST_KEYS = 8  # of a prompt that a kernel reads for each query; there are two for the empty prompt
LEAST_GELU = 0.17  # GELU(x) is no less than -0.17, wherever x is
# A copy of this file, as the Hub makes them, has another name and must not take these operators away.
NAMESPACE = re.sub(r"\W", "_", __name__)

# --- Definitions in plain torch --------------------------------------------------------------------------------------


def split_heads(hidden: torch.Tensor, num_heads: int) -> torch.Tensor:
    """float[B, L, C] -> float[B, L, H, C / H]"""
    return hidden.unflatten(2, (num_heads, -1))


def rotate(hidden: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Rotates pairs of neighbouring channels of float[B, L, H, C / H] by the angles of the token's (t, h, w)."""
    pairs = hidden.float().unflatten(-1, (-1, 2))
    if rotary.is_complex():
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * rotary)
    else:
        (first, second), (cosine, sine) = pairs.unbind(-1), rotary
        rotated = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return rotated.flatten(-2).to(hidden.dtype)


def plain_round(hidden: torch.Tensor, peak: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """float8[B, L, C] and the scale of each token, float32[B, L, 1]; `peak` float[B, L, 1] is a known bound on it."""
    tokens = hidden.flatten(0, -2)
    bits, scale = round_rows(tokens, "fp8", None if peak is None else peak.reshape(-1, 1))
    return bits.unflatten(0, hidden.shape[:-1]), scale.unflatten(0, hidden.shape[:-1])


def plain_gelu_round(widened: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `plain_round`, of GELU (tanh)."""
    return plain_round(F.gelu(widened, approximate="tanh"), gelu_peak(widened))


def gelu_peak(widened: torch.Tensor) -> torch.Tensor:
    """A bound on |GELU(x)| of each row, which is known without computing GELU: it is at most x or 0.17."""
    return widened.amax(-1, keepdim=True).clamp(min=LEAST_GELU)


def plain_norm_round(
    hidden: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `plain_round`, of the layer norm of float[B, L, C] with an affine part float[C]."""
    return plain_round(F.layer_norm(hidden, hidden.shape[-1:], scale, shift, epsilon))


def add(hidden: torch.Tensor, update: torch.Tensor, gate: torch.Tensor | None) -> torch.Tensor:
    """The residual stream float[B, L, C] after an update, which a gate float[C] may scale."""
    return hidden + update if gate is None else torch.addcmul(hidden, update, gate)


def plain_add_norm_round(
    hidden: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sum of `add`, and then what `plain_norm_round` makes of it."""
    summed = add(hidden, update, gate)
    return summed, *plain_norm_round(summed, scale, shift, epsilon)


def plain_norm_heads(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root mean square norm of float[B, L, C] across all heads."""
    return F.rms_norm(hidden, hidden.shape[-1:], weight, epsilon)


def plain_rotate_heads(
    query: torch.Tensor,
    key: torch.Tensor,
    query_weight: torch.Tensor,
    key_weight: torch.Tensor,
    rotary: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key float[B, L, C], normed across heads and rotated, float[B, L, H, C / H].

    `rotary` is float32[2, 1, L, 1, C / H / 2], cosines and sines.
    """
    heads = query.shape[-1] // (2 * rotary.shape[-1])
    normed = plain_norm_heads(query, query_weight, epsilon), plain_norm_heads(key, key_weight, epsilon)
    turned, turned_key = (rotate(split_heads(states, heads), rotary) for states in normed)
    return turned, turned_key


def plain_prompt_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Attention of float[B, L, C] to the rows of one prompt for all clips, float[1, H, P, C / H] -> float[B, L, C]

    `bias` float[1, 1, 1, P] is added to the scores.
    """
    queries = split_heads(query, key.shape[1]).transpose(1, 2)
    key, value = (rows.expand(len(query), -1, -1, -1) for rows in (key, value))
    return F.scaled_dot_product_attention(queries, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


def plain_prompt_round(
    query: torch.Tensor,
    weight: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `plain_round`, of the attention to the prompt after the norm of the query."""
    return plain_round(plain_prompt_attention(plain_norm_heads(query, weight, epsilon), key, value, bias))


# --- Kernels: a program computes a row, in two tiles whose sides are powers of two, so that few lanes are idle -------

if HAS_TRITON:

    @triton.jit
    def load_tiles(row, width, head: tl.constexpr, tail: tl.constexpr):
        """A row in float32; the second tile has zeros behind the row."""
        columns = head + tl.arange(0, tail)
        first = tl.load(row + tl.arange(0, head)).to(tl.float32)
        second = tl.load(row + columns, mask=columns < width, other=0.0).to(tl.float32)
        return first, second

    @triton.jit
    def store_tiles(row, first, second, width, head: tl.constexpr, tail: tl.constexpr):
        """A row, in the type that it is stored in."""
        columns = head + tl.arange(0, tail)
        tl.store(row + tl.arange(0, head), first)
        tl.store(row + columns, second, mask=columns < width)

    @triton.jit
    def store_rounded(row, first, second, peak, scale, largest, width, head: tl.constexpr, tail: tl.constexpr):
        """A row of float8, and its scale."""
        tl.store(scale, peak / largest)
        inverse = largest / peak  # one division instead of one for each channel
        store_tiles(row, first * inverse, second * inverse, width, head, tail)

    @triton.jit
    def peak_of(first, second):
        peak = tl.maximum(tl.max(tl.abs(first), axis=0), tl.max(tl.abs(second), axis=0))
        return tl.maximum(peak, 1e-12)

    @triton.jit
    def gelu(values):
        """x / (1 + exp(-2 u)), which is GELU (tanh): u = sqrt(2 / pi) (x + 0.044715 x^3), here times log2(e)."""
        return values / (1.0 + tl.exp2(values * (-2.302208198 - 0.1029432396 * (values * values))))

    @triton.jit
    def round_kernel(hidden, bits, scales, width, largest, head: tl.constexpr, tail: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        first, second = load_tiles(hidden + row * width, width, head, tail)
        peak = peak_of(first, second)
        store_rounded(bits + row * width, first, second, peak, scales + row, largest, width, head, tail)

    @triton.jit
    def gelu_round_kernel(widened, bits, scales, width, least, largest, head: tl.constexpr, tail: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        first, second = load_tiles(widened + row * width, width, head, tail)
        peak = tl.maximum(tl.maximum(tl.max(first, axis=0), tl.max(second, axis=0)), least)
        first, second = gelu(first), gelu(second)
        store_rounded(bits + row * width, first, second, peak, scales + row, largest, width, head, tail)

    @triton.jit
    def norm_round_kernel(
        hidden,
        update,
        gate,
        scale,
        shift,
        summed,
        bits,
        scales,
        width,
        epsilon,
        largest,
        adds: tl.constexpr,
        gates: tl.constexpr,
        head: tl.constexpr,
        tail: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        start = row * width
        first, second = load_tiles(hidden + start, width, head, tail)
        if adds:
            first_update, second_update = load_tiles(update + start, width, head, tail)
            if gates:
                first_gate, second_gate = load_tiles(gate, width, head, tail)
                first_update, second_update = first_update * first_gate, second_update * second_gate
            # The norm is that of the stream as it is stored.
            first = (first + first_update).to(summed.dtype.element_ty).to(tl.float32)
            second = (second + second_update).to(summed.dtype.element_ty).to(tl.float32)
            store_tiles(summed + start, first, second, width, head, tail)
        mean = (tl.sum(first, axis=0) + tl.sum(second, axis=0)) / width
        first = first - mean
        second = tl.where(head + tl.arange(0, tail) < width, second - mean, 0.0)
        variance = (tl.sum(first * first, axis=0) + tl.sum(second * second, axis=0)) / width
        inverse = tl.rsqrt(variance + epsilon)
        first_scale, second_scale = load_tiles(scale, width, head, tail)
        first_shift, second_shift = load_tiles(shift, width, head, tail)
        first = first * inverse * first_scale + first_shift
        second = second * inverse * second_scale + second_shift
        store_rounded(bits + start, first, second, peak_of(first, second), scales + row, largest, width, head, tail)

    @triton.jit
    def load_normed(row, weight, width, epsilon, head: tl.constexpr, tail: tl.constexpr):
        first, second = load_tiles(row, width, head, tail)
        square = (tl.sum(first * first, axis=0) + tl.sum(second * second, axis=0)) / width
        inverse = tl.rsqrt(square + epsilon)
        first_weight, second_weight = load_tiles(weight, width, head, tail)
        return first * inverse * first_weight, second * inverse * second_weight

    @triton.jit
    def rotate_pairs(values, cosine, sine, pairs: tl.constexpr):
        first, second = tl.split(tl.reshape(values, (pairs, 2)))
        return tl.interleave(first * cosine - second * sine, first * sine + second * cosine)

    @triton.jit
    def rotate_heads_kernel(
        query,
        key,
        query_weight,
        key_weight,
        rotary,
        turned_query,
        turned_key,
        width,
        tokens,
        epsilon,
        half: tl.constexpr,
        head: tl.constexpr,
        tail: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        start = row * width
        cosines = rotary + (row % tokens) * half
        sines = cosines + tokens * half
        first_pairs = tl.arange(0, head // 2) % half
        second_pairs = (head // 2 + tl.arange(0, tail // 2)) % half
        first_cosine, second_cosine = tl.load(cosines + first_pairs), tl.load(cosines + second_pairs)
        first_sine, second_sine = tl.load(sines + first_pairs), tl.load(sines + second_pairs)
        first, second = load_normed(query + start, query_weight, width, epsilon, head, tail)
        first = rotate_pairs(first, first_cosine, first_sine, head // 2)
        second = rotate_pairs(second, second_cosine, second_sine, tail // 2)
        store_tiles(turned_query + start, first, second, width, head, tail)
        first, second = load_normed(key + start, key_weight, width, epsilon, head, tail)
        first = rotate_pairs(first, first_cosine, first_sine, head // 2)
        second = rotate_pairs(second, second_cosine, second_sine, tail // 2)
        store_tiles(turned_key + start, first, second, width, head, tail)

    @triton.jit
    def attend_tile(
        query,
        keys,
        values,
        bias,
        width,
        factor,
        count: tl.constexpr,
        start: tl.constexpr,
        lanes: tl.constexpr,
        channels: tl.constexpr,
    ):
        """Attention of a tile of whole heads to the rows of the prompt, one after the other; exponents are of 2."""
        columns = start + tl.arange(0, lanes)
        heads: tl.constexpr = lanes // channels
        query = tl.reshape(query, (heads, channels))
        highest = tl.full((heads,), float("-inf"), tl.float32)
        total = tl.zeros((heads,), tl.float32)
        attended = tl.zeros((heads, channels), tl.float32)
        for place in tl.static_range(count):
            key = tl.load(keys + place * width + columns, mask=columns < width, other=0.0).to(tl.float32)
            value = tl.load(values + place * width + columns, mask=columns < width, other=0.0).to(tl.float32)
            score = tl.sum(query * tl.reshape(key, (heads, channels)), axis=1)
            score = (score * factor + tl.load(bias + place).to(tl.float32)) * 1.4426950408889634
            above = tl.maximum(highest, score)
            kept, share = tl.exp2(highest - above), tl.exp2(score - above)
            total = total * kept + share
            attended = attended * kept[:, None] + share[:, None] * tl.reshape(value, (heads, channels))
            highest = above
        return tl.reshape(attended * (1.0 / total)[:, None], (lanes,))

    @triton.jit
    def prompt_round_kernel(
        query,
        weight,
        keys,
        values,
        bias,
        bits,
        scales,
        width,
        epsilon,
        factor,
        largest,
        count: tl.constexpr,
        channels: tl.constexpr,
        head: tl.constexpr,
        tail: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        start = row * width
        first, second = load_normed(query + start, weight, width, epsilon, head, tail)
        first = attend_tile(first, keys, values, bias, width, factor, count, 0, head, channels)
        second = attend_tile(second, keys, values, bias, width, factor, count, head, tail, channels)
        store_rounded(bits + start, first, second, peak_of(first, second), scales + row, largest, width, head, tail)


def launch(kernel: Any, rows: torch.Tensor, *arguments, **constants) -> None:
    """Runs a kernel with a program for each row of float[..., C], where the rows are."""
    width = rows.shape[-1]
    head = 1 << ((width - 1).bit_length() - 1)  # the largest power of two below the width
    tail = 1 << (width - head - 1).bit_length()
    lanes = head + tail
    warps = 4 if lanes <= 4096 else 8 if lanes <= 16384 else 16
    with torch.cuda.device_of(rows):
        kernel[(rows.numel() // width,)](*arguments, **constants, head=head, tail=tail, num_warps=warps)


def empty_rounded(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    bits = torch.empty(hidden.shape, device=hidden.device, dtype=FLOAT8)
    return bits, torch.empty((*hidden.shape[:-1], 1), device=hidden.device, dtype=torch.float32)


def triton_round(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = hidden.contiguous()
    bits, scales = empty_rounded(hidden)
    launch(round_kernel, hidden, hidden, bits, scales, hidden.shape[-1], LARGEST["fp8"])
    return bits, scales


def triton_gelu_round(widened: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    widened = widened.contiguous()
    bits, scales = empty_rounded(widened)
    launch(gelu_round_kernel, widened, widened, bits, scales, widened.shape[-1], LEAST_GELU, LARGEST["fp8"])
    return bits, scales


def triton_norm_round(
    hidden: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    hidden, scale, shift = hidden.contiguous(), scale.contiguous(), shift.contiguous()
    bits, scales = empty_rounded(hidden)
    tensors = hidden, hidden, hidden, scale, shift, hidden, bits, scales  # no update, gate or sum: not read
    numbers = hidden.shape[-1], epsilon, LARGEST["fp8"]
    launch(norm_round_kernel, hidden, *tensors, *numbers, adds=False, gates=False)
    return bits, scales


def triton_add_norm_round(
    hidden: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden, update, scale, shift = (tensor.contiguous() for tensor in (hidden, update, scale, shift))
    summed = torch.empty_like(hidden)
    bits, scales = empty_rounded(hidden)
    factors = hidden if gate is None else gate.contiguous()  # not read without a gate
    tensors = hidden, update, factors, scale, shift, summed, bits, scales
    numbers = hidden.shape[-1], epsilon, LARGEST["fp8"]
    launch(norm_round_kernel, hidden, *tensors, *numbers, adds=True, gates=gate is not None)
    return summed, bits, scales


def triton_rotate_heads(
    query: torch.Tensor,
    key: torch.Tensor,
    query_weight: torch.Tensor,
    key_weight: torch.Tensor,
    rotary: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    states = query.contiguous(), key.contiguous()
    rotary, half = rotary.contiguous(), rotary.shape[-1]
    turned = torch.empty_like(states[0]), torch.empty_like(states[1])
    weights = query_weight.contiguous(), key_weight.contiguous()
    numbers = query.shape[-1], query.shape[-2], epsilon
    launch(rotate_heads_kernel, query, *states, *weights, rotary, *turned, *numbers, half=half)
    return split_heads(turned[0], query.shape[-1] // (2 * half)), split_heads(turned[1], query.shape[-1] // (2 * half))


def triton_prompt_round(
    query: torch.Tensor,
    weight: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    _, heads, count, channels = key.shape
    if count > MOST_KEYS or heads == 1 or channels & (channels - 1):  # tiles are whole heads
        return triton_round(plain_prompt_attention(plain_norm_heads(query, weight, epsilon), key, value, bias))
    query = query.contiguous()
    bits, scales = empty_rounded(query)
    rows = (states.transpose(1, 2).contiguous() for states in (key, value))  # as they lie in memory
    tensors = query, weight.contiguous(), *rows, bias.contiguous(), bits, scales
    numbers = query.shape[-1], epsilon, channels**-0.5, LARGEST["fp8"]
    launch(prompt_round_kernel, query, *tensors, *numbers, count=count, channels=channels)
    return bits, scales


# --- Operators of torch ----------------------------------------------------------------------------------------------


def operator(name: str, schema: str, kernel: Callable, plain: Callable, empty: Callable) -> Callable:
    """An operator that is the kernel on a GPU, its definition elsewhere, and of known shapes to the compiler.

    Args:
        schema: of arguments and results; the first argument has the rows.
        empty: makes results of the right shape and type.
    """

    def compute(rows: torch.Tensor, *others):
        fits = rows.is_cuda and HAS_TRITON and NARROWEST <= rows.shape[-1] <= WIDEST
        return (kernel if fits else plain)(rows, *others)

    made = torch.library.custom_op(f"{NAMESPACE}::{name}", compute, mutates_args=(), schema=schema)
    made.register_fake(empty)
    return made


def empty_rows(hidden: torch.Tensor, *others) -> torch.Tensor:
    return torch.empty(hidden.shape, device=hidden.device, dtype=hidden.dtype)


def empty_heads(query: torch.Tensor, key: torch.Tensor, *others) -> tuple[torch.Tensor, torch.Tensor]:
    heads = query.shape[-1] // (2 * others[2].shape[-1])
    return split_heads(empty_rows(query), heads), split_heads(empty_rows(key), heads)


NORM = "Tensor scale, Tensor shift, float epsilon"
ROUND = operator(
    "round", "(Tensor hidden) -> (Tensor, Tensor)", triton_round, plain_round, lambda hidden: empty_rounded(hidden)
)
GELU_ROUND = operator(
    "gelu_round",
    "(Tensor widened) -> (Tensor, Tensor)",
    triton_gelu_round,
    plain_gelu_round,
    lambda widened: empty_rounded(widened),
)
NORM_ROUND = operator(
    "norm_round",
    f"(Tensor hidden, {NORM}) -> (Tensor, Tensor)",
    triton_norm_round,
    plain_norm_round,
    lambda hidden, *others: empty_rounded(hidden),
)
ADD_NORM_ROUND = operator(
    "add_norm_round",
    f"(Tensor hidden, Tensor update, Tensor? gate, {NORM}) -> (Tensor, Tensor, Tensor)",
    triton_add_norm_round,
    plain_add_norm_round,
    lambda hidden, *others: (empty_rows(hidden), *empty_rounded(hidden)),
)
ROTATE_HEADS = operator(
    "rotate_heads",
    "(Tensor query, Tensor key, Tensor query_weight, Tensor key_weight, Tensor rotary, float epsilon)"
    " -> (Tensor, Tensor)",
    triton_rotate_heads,
    plain_rotate_heads,
    empty_heads,
)
PROMPT_ROUND = operator(
    "prompt_round",
    "(Tensor query, Tensor weight, Tensor key, Tensor value, Tensor bias, float epsilon) -> (Tensor, Tensor)",
    triton_prompt_round,
    plain_prompt_round,
    lambda query, *others: empty_rounded(query),
)


def round_tokens(hidden: torch.Tensor) -> RoundedTokens:
    """float[B, L, C] in float8."""
    return RoundedTokens(*ROUND(hidden))


def gelu_round(widened: torch.Tensor) -> RoundedTokens:
    """GELU (tanh) of float[B, L, C] in float8."""
    return RoundedTokens(*GELU_ROUND(widened))


def norm_round(hidden: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, epsilon: float) -> RoundedTokens:
    """The layer norm of float[B, L, C] with an affine part float[C], in float8."""
    return RoundedTokens(*NORM_ROUND(hidden, scale, shift, epsilon))


def add_norm_round(
    hidden: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, RoundedTokens]:
    """The residual stream after an update (`add`), and its layer norm in float8 (`norm_round`)."""
    summed, bits, scales = ADD_NORM_ROUND(hidden, update, gate, scale, shift, epsilon)
    return summed, RoundedTokens(bits, scales)


def prompt_round(
    query: torch.Tensor,
    weight: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    epsilon: float,
) -> RoundedTokens:
    """Attention to the prompt (`plain_prompt_attention`) after the norm of the query across heads, in float8."""
    return RoundedTokens(*PROMPT_ROUND(query, weight, key, value, bias, epsilon))


# --- Where the kernels run -------------------------------------------------------------------------------------------


def can_run(hidden: torch.Tensor) -> bool:
    """Whether the kernels compute rows like these: bfloat16, on an NVIDIA GPU, with a Triton that works."""
    if not (HAS_TRITON and hidden.is_cuda and hidden.dtype == torch.bfloat16 and torch.version.hip is None):
        return False
    return works(hidden.device)


@functools.cache
def works(device: torch.device) -> bool:
    """Whether Triton can compile a kernel here and it computes what it should; says once why not.

    Triton needs a C compiler, which a machine without development tools may lack.
    """
    numbers = torch.arange(3 * 48, device=device) % 8
    rows = ((-0.5) ** numbers.float()).view(3, 48).bfloat16()  # powers of two, of which float8 rounds nothing off
    try:
        bits, scales = triton_round(rows)
        torch.testing.assert_close(bits.float() * scales, rows.float())
    except Exception as error:  # Triton, the driver and the C compiler have each their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        LOGGER.warning("The generator runs without Triton's kernels, and is slower: %s", reason)
        return False
    return True
