"""Linears of the generator's blocks in 8 bits, on request: products in float8 or int8, everything else as it was.

torchao's dynamic quantisation has the same cosine, but compiling its tensor subclasses took minutes instead of
seconds, and it cannot take the bound on a row's peak that saves a pass over the widest tensor.
"""

from typing import Any

import torch
from torch import nn

LARGEST = {"fp8": 448.0, "int8": 127.0}  # float8 e4m3 and int8
STORED = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
MULTIPLE = 16  # of the sides of a float8 matrix on a GPU
CONSTANT_LINEARS = ("attn2.to_k", "attn2.to_v")  # of the constant prompt: computed once, so they keep their precision


class EightBitLinear(nn.Module):
    """A linear with weights scaled by row and activations scaled by token, both rounded to 8 bits.

    Args:
        linear: whose weights are rounded.
        precision: `fp8` (float8 e4m3) or `int8`.

    Raises:
        ValueError: if a side is no multiple of 16.
    """

    weight_bits: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear, precision: str):
        super().__init__()
        if linear.in_features % MULTIPLE or linear.out_features % MULTIPLE:
            raise ValueError(
                f"linear_precision={precision!r} needs linears with sides in multiples of {MULTIPLE}, but one is "
                f"{linear.out_features} x {linear.in_features}. Use linear_precision='native'."
            )
        self.precision = precision
        weight, scale = round_rows(linear.weight.detach().float(), precision)
        # As bits, which a change of the module's dtype leaves alone.
        self.register_buffer("weight_bits", weight.view(torch.uint8), persistent=False)
        self.register_buffer("scale", scale.t().contiguous(), persistent=False)  # float32[1, out]
        self.bias = linear.bias

    def forward(self, hidden: torch.Tensor, peak: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            hidden: float[..., in].
            peak: float[..., 1], a bound on the absolute values of each token, where one is known already.

        Returns:
            float[..., out].
        """
        tokens = hidden.flatten(0, -2)
        rounded, scale = round_rows(tokens, self.precision, None if peak is None else peak.reshape(-1, 1))
        weight = self.weight_bits.view(STORED[self.precision]).t()
        if self.precision == "int8":
            product = torch._int_mm(rounded, weight).float() * scale * self.scale + self.bias
        else:
            product = torch._scaled_mm(  # the public scaled_mm breaks compiled graphs (torch 2.11)
                rounded,
                weight,
                scale_a=scale,
                scale_b=self.scale.float(),
                bias=self.bias.bfloat16(),
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        return product.to(hidden.dtype).unflatten(0, hidden.shape[:-1])


def round_rows(
    matrix: torch.Tensor, precision: str, peak: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """8 bits[N, C] and float32[N, 1] whose product is close to float[N, C]."""
    if peak is None:
        peak = matrix.abs().amax(1, keepdim=True)
    scale = peak.float().clamp(min=1e-12) / LARGEST[precision]
    scaled = matrix.float() / scale
    return (scaled.round() if precision == "int8" else scaled).to(STORED[precision]), scale


def lower_linears(transformer: Any, precision: str) -> Any:
    """Replaces the linears of all `blocks` of a transformer, in place; `native` leaves it as it is.

    Raises:
        ValueError: if a linear has a side that is no multiple of 16.
    """
    if precision == "native":
        return transformer
    for block in transformer.blocks:
        for name, module in list(block.named_modules()):
            if isinstance(module, nn.Linear) and name not in CONSTANT_LINEARS:
                parent, _, child = name.rpartition(".")
                setattr(block.get_submodule(parent), child, EightBitLinear(module, precision))
    return transformer
