"""Triton's kernels on a CPU, by its interpreter, beside their definitions in plain torch: numbers for the tests.

TRITON_INTERPRET=1 python tests/interpreted_kernels.py   # a line of JSON for each case

The variable is read when Triton is imported, so that this is a process of its own. The interpreter's cast to float8 is
not that of a GPU (3.8 forgets the carry of a mantissa, and cuts off what is subnormal), nor is its cast to bfloat16,
which cuts off too. So the kernels store here what they would round to float8, and torch rounds it.
"""

import json
from collections.abc import Iterator

import torch

from vega3d.modeling import kernels_wan_vega3d as kernels

EPSILON = 1e-6
FILLS = {
    "normal": lambda rows: rows,
    "zeros": lambda rows: rows * 0,
    "huge": lambda rows: rows * 1e30,
    "tiny": lambda rows: rows * 1e-20,
    "negative": lambda rows: -rows.abs() - 1,
    "outlier": lambda rows: torch.cat([rows[..., :1] * 1e4, rows[..., 1:]], dim=-1),
    "not finite": lambda rows: rows.index_fill(-1, torch.tensor([5]), torch.inf).index_fill(0, ONE, torch.nan),
}
ONE = torch.tensor([1])  # the clip of which all is NaN
HEAD = 48  # channels


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compare_rounded(ours: tuple, theirs: tuple) -> dict:
    """How far numbers before their rounding, and scales, are from the float8 and the scales of the definition.

    Returns:
        `off`, the share of float8 numbers that differ; `steps`, by how many of the steps between neighbours at most;
        `scale`, the largest relative difference of a scale; `cosine` of all that the two mean; `peak` before rounding.
    """
    (values, scale), (bits, plain_scale) = ours, theirs
    assert values.shape == bits.shape and scale.shape == plain_scale.shape and scale.dtype == torch.float32
    assert values.is_contiguous() and scale.is_contiguous()
    rounded = values.to(torch.float8_e4m3fn)
    finite = bits.float().isfinite() & plain_scale.isfinite()
    meant, plain_meant = (b.double() * s.double() for b, s in ((rounded, scale), (bits, plain_scale)))
    row = {"as finite": torch.equal(meant.isfinite().all(-1), plain_meant.isfinite().all(-1))}
    if not finite.any():
        return row
    steps = (code_of(rounded) - code_of(bits)).abs()[finite]
    return {
        **row,
        "off": (steps > 0).float().mean().item(),
        "steps": int(steps.max()),
        "scale": ((scale - plain_scale).abs() / plain_scale).nan_to_num(0).max().item(),
        "cosine": cosine(meant[finite], plain_meant[finite]),
        "peak": values[finite].abs().max().item(),
    }


def code_of(bits: torch.Tensor) -> torch.Tensor:
    """A number for each float8, in their order."""
    codes = bits.view(torch.uint8).int()
    return torch.where(codes < 128, codes, 128 - codes)


def cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """1 for two tensors of zeros."""
    ours, theirs = ours.double().flatten(), theirs.double().flatten()
    if torch.equal(ours, theirs):
        return 1.0
    return float(ours @ theirs / (ours.norm() * theirs.norm()))


def compare(ours: torch.Tensor, theirs: torch.Tensor) -> dict:
    """The largest difference as a share of the largest value, and the cosine."""
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.is_contiguous()
    finite = theirs.isfinite()
    row = {"as finite": torch.equal(ours.isfinite(), finite)}
    if not finite.any():
        return {**row, "difference": 0.0, "cosine": 1.0}
    ours, theirs = ours[finite].double(), theirs[finite].double()
    difference = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)
    return {**row, "difference": difference.item(), "cosine": cosine(ours, theirs)}


def rounding(rows: torch.Tensor) -> dict:
    return compare_rounded(kernels.triton_round(rows), kernels.plain_round(rows))


def gelu_rounding(rows: torch.Tensor) -> dict:
    return compare_rounded(kernels.triton_gelu_round(rows), kernels.plain_gelu_round(rows.float()))


def affine(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    width = rows.shape[-1]
    return (1 + 0.1 * random(width, seed=1)).to(rows.dtype), (0.1 * random(width, seed=2)).to(rows.dtype)


def norm_rounding(rows: torch.Tensor) -> dict:
    scale, shift = affine(rows)
    theirs = kernels.plain_norm_round(rows.float(), scale.float(), shift.float(), EPSILON)
    return compare_rounded(kernels.triton_norm_round(rows, scale, shift, EPSILON), theirs)


def add_norm_rounding(rows: torch.Tensor, gated: bool) -> dict:
    gate = random(rows.shape[-1], seed=3).to(rows.dtype) if gated else None
    update, (scale, shift) = random(*rows.shape, seed=4).to(rows.dtype), affine(rows)
    summed, *rounded = kernels.triton_add_norm_round(rows, update, gate, scale, shift, EPSILON)
    theirs = kernels.plain_norm_round(summed.float(), scale.float(), shift.float(), EPSILON)
    exact = kernels.add(rows.double(), update.double(), None if gate is None else gate.double())
    return {**compare_rounded(tuple(rounded), theirs), "sum": compare(summed, exact.to(rows.dtype))["difference"]}


def rotation(rows: torch.Tensor) -> dict:
    angles = 6 * random(1, rows.shape[1], 1, HEAD // 2, seed=5)
    rotary = torch.stack([angles.cos(), angles.sin()])
    given = rows, rows.flip(-1), *affine(rows), rotary, EPSILON
    results = zip(kernels.triton_rotate_heads(*given), kernels.plain_rotate_heads(*given), strict=True)
    query, key = (compare(*pair) for pair in results)
    worse = min(query, key, key=lambda row: row["cosine"])
    return {**worse, "as finite": query["as finite"] and key["as finite"]}


def prompt_rounding(rows: torch.Tensor, count: int) -> dict:
    """The heads of the queries are of 128 channels, of which three fit into 384, or of 16."""
    channels = 128 if rows.shape[-1] % 128 == 0 else 16
    heads = rows.shape[-1] // channels
    key, value = (random(1, heads, count, channels, seed=seed).to(rows.dtype) for seed in (6, 7))
    bias = torch.arange(1.0, 1 + count).log().view(1, 1, 1, count).to(rows.dtype)
    given = affine(rows)[0], key, value, bias
    theirs = kernels.plain_prompt_round(rows.float(), *(tensor.float() for tensor in given), EPSILON)
    return compare_rounded(kernels.triton_prompt_round(rows, *given, EPSILON), theirs)


JOBS = {
    "round": rounding,
    "gelu": gelu_rounding,
    "norm": norm_rounding,
    "add and norm": lambda rows: add_norm_rounding(rows, gated=True),
    "add and norm without a gate": lambda rows: add_norm_rounding(rows, gated=False),
    "rotate": rotation,
    "prompt": lambda rows: prompt_rounding(rows, 2),
    "longer prompt": lambda rows: prompt_rounding(rows, 7),
}


def cases() -> Iterator[tuple[str, int, str, tuple[int, int], torch.dtype]]:
    """Name of a job, width, fill, clips and tokens, and type."""
    for name in JOBS:
        for fill in FILLS if name not in ("add and norm without a gate", "longer prompt") else ["normal"]:
            if fill != "huge" or name in ("round", "gelu"):  # elsewhere its square is infinite
                yield name, 384, fill, (2, 3), torch.bfloat16
        yield name, 768, "normal", (0, 7), torch.bfloat16
        for width, size in ((HEAD, (3, 5)), (5 * HEAD, (2, 2)), (384, (2, 3)), (1536, (1, 1)), (1536, (2, 2))):
            yield name, width, "normal", size, torch.float32


def main() -> None:
    assert type(kernels.round_kernel).__name__ == "InterpretedFunction", "set TRITON_INTERPRET=1"
    kernels.FLOAT8 = torch.float32
    assert kernels.works(torch.device("cpu")), "the numbers of the probe are not those of its definition"
    for name, width, fill, size, dtype in cases():
        rows = FILLS[fill](random(*size, width)).to(dtype)
        case = f"{name}, {fill}, {size[0] * size[1]} rows of {width}, {str(dtype).partition('.')[2]}"
        print(json.dumps({"case": case, **JOBS[name](rows)}), flush=True)


if __name__ == "__main__":
    main()
