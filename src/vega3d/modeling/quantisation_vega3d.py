"""Weights of few bits, on request: the language model by bitsandbytes or torchao, the generator's linears by ours.

The generator's products are in float8 or int8, everything else is as it was. torchao's dynamic quantisation has the
same cosine, but compiling its tensor subclasses took minutes instead of seconds, and it cannot take the bound on a
row's peak that saves a pass over the widest tensor.
"""

import copy
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils.import_utils import is_torch_greater_or_equal

# --- The language model in 4 bits: what bitsandbytes leaves alone, and layers of any width on a CPU ------------------


UNQUANTISED = ("generator", "projector", "fusion", "vlm.model.visual", "vlm.lm_head")
PACKED_ROWS = 32  # that bitsandbytes' packed kernel computes at once
QUANTISED_LINEARS = ("Linear4bit", "Linear8bitLt")  # bitsandbytes need not be installed, hence the names


def is_no_kernel_hint(record: logging.LogRecord) -> bool:
    """bitsandbytes asks for another package as soon as diffusers imports it, though nothing may be in 4 bits."""
    return not record.msg.startswith("Failed to load CPU gemm_4bit")


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(is_no_kernel_hint)


def keep_unquantised(quantization_config, prefix: str, beside: Sequence[str] = ()):
    """Fills the list of modules that bitsandbytes or torchao leaves alone, unless the caller did.

    The patterns anchor at the full module name, and without a list generator and gate would be quantised. `prefix` is
    the path of the `VegaModel`; `beside` names modules outside of it.
    """
    modules = [*(prefix + name for name in UNQUANTISED), *beside]
    is_dict = isinstance(quantization_config, dict)
    method = quantization_config.get("quant_method") if is_dict else quantization_config.quant_method
    skipped = "modules_to_not_convert" if method == "torchao" else "llm_int8_skip_modules"
    if is_dict:
        given = quantization_config.get(skipped)
        return {**quantization_config, skipped: modules if given is None else given}
    if vars(quantization_config)[skipped] is None:
        setattr(quantization_config, skipped, modules)
    return quantization_config


def avoid_packed_kernel(model: nn.Module) -> None:
    """Layers that bitsandbytes' packed kernel cannot compute are computed by its plain one, which takes any width.

    The packed kernel, of CPUs with AVX-512 BF16, wants whole blocks of weights in each row, and rows in whole packs.
    Others end in a shape error or a failed assertion.
    """
    keep_shared_weights(model)
    layers: list[Any] = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    for layer in layers:
        if layer.out_features % PACKED_ROWS or layer.in_features % layer.weight.blocksize:
            layer.support_avx512bf16_for_cpu = False


def keep_scales(model: nn.Module) -> None:
    """Layers that bitsandbytes packs for a CPU are saved with the weights that they were loaded with.

    It packs a layer at its first pass without gradients, and rounds the scales of its blocks to 16 bits on the way.
    Its own way back, before a save, can only quantise the rounded ones anew. A packed layer has no gradients either.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.register_forward_pre_hook(before_forward)
            module.register_state_dict_pre_hook(before_saving)


def is_packed(layer: Any) -> bool:
    scales = layer.weight.quant_state  # None on the meta device
    return scales is not None and vars(scales).get("packing_format_for_cpu", False)


def before_forward(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    """Remembers the scales of a layer that may be packed now, and unpacks one that needs gradients."""
    if not is_packed(layer):
        vars(layer)["unpacked_scales"] = copy.copy(layer.weight.quant_state)
    elif layer.training or (torch.is_grad_enabled() and inputs[0].requires_grad):
        unpack(layer)


def before_saving(layer: Any, prefix: str, keep_vars: bool) -> None:
    if is_packed(layer):
        unpack(layer)


def unpack(layer: Any) -> None:
    """Undoes the packing of a layer: bitsandbytes puts its weights back in order, and the scales are as remembered."""
    layer._save_to_state_dict({}, "", False)  # puts the weights back
    scales = vars(layer.weight.quant_state)
    scales.clear()
    scales.update(vars(layer.unpacked_scales))


def keep_shared_weights(model: nn.Module) -> None:
    """A linear that shares its weight with an unquantised module stays a plain one, whatever the caller's list says.

    The head of a VLM with tied embeddings does: its weight is the embedding's, and has no quantised form.
    """
    for name, module in list(model.named_modules()):
        if type(module).__name__ not in QUANTISED_LINEARS or type(module.weight) is not nn.Parameter:
            continue
        linear = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        linear.weight, linear.bias = module.weight, module.bias
        model.set_submodule(name, linear)


# --- The generator's linears in 8 bits -------------------------------------------------------------------------------


LARGEST = {"fp8": 448.0, "int8": 127.0}  # float8 e4m3 and int8
STORED = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
FLOAT8_ON_CPU = "2.12"  # torch before it takes one scale for a whole matrix there
MULTIPLE = 16  # of the sides of a float8 matrix on a GPU
CONSTANT_LINEARS = ("attn2.to_k", "attn2.to_v")  # of the constant prompt: computed once, so they keep their precision


class RoundedTokens(NamedTuple):
    """Tokens that are rounded already, in float8."""

    bits: torch.Tensor  # float8[..., C]
    scale: torch.Tensor  # float32[..., 1]


class EightBitLinear(nn.Module):
    """A linear with weights scaled by row and activations scaled by token, both rounded to `fp8` (e4m3) or `int8`.

    Raises ValueError if a side is no multiple of 16.
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

    def forward(self, hidden: torch.Tensor | RoundedTokens, peak: torch.Tensor | None = None) -> torch.Tensor:
        """float[..., in] -> float[..., out]; `peak` float[..., 1] is a known bound on each token.

        The product of rounded tokens is bfloat16.
        """
        if isinstance(hidden, RoundedTokens):
            product = self.multiply(hidden.bits.flatten(0, -2), hidden.scale.reshape(-1, 1))
            return product.unflatten(0, hidden.bits.shape[:-1])
        tokens = hidden.flatten(0, -2)
        rounded, scale = round_rows(tokens, self.precision, None if peak is None else peak.reshape(-1, 1))
        return self.multiply(rounded, scale).to(hidden.dtype).unflatten(0, hidden.shape[:-1])

    def multiply(self, rounded: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """8 bits[N, in], float32[N, 1] -> float[N, out]"""
        weight = self.weight_bits.view(STORED[self.precision]).t()
        if self.precision == "int8":
            return torch._int_mm(rounded, weight).float() * scale * self.scale + self.bias
        return torch._scaled_mm(  # the public scaled_mm breaks compiled graphs (torch 2.11)
            rounded,
            weight,
            scale_a=scale,
            scale_b=self.scale.float(),
            bias=self.bias.bfloat16(),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )


def round_rows(
    matrix: torch.Tensor, precision: str, peak: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """8 bits[N, C] and float32[N, 1] whose product is close to float[N, C]."""
    if peak is None:
        peak = matrix.abs().amax(1, keepdim=True)
    scale = peak.float().clamp(min=1e-12) / LARGEST[precision]
    scaled = matrix.float() / scale
    return (scaled.round() if precision == "int8" else scaled).to(STORED[precision]), scale


def check_float8(precision: str, device: torch.device) -> None:
    """Raises ValueError for float8 on a CPU if the installed torch cannot multiply it there."""
    if precision == "fp8" and device.type == "cpu" and not is_torch_greater_or_equal(FLOAT8_ON_CPU, accept_dev=True):
        raise ValueError(
            f"linear_precision='fp8' needs torch {FLOAT8_ON_CPU} or newer on a CPU, but {torch.__version__} is "
            "installed. Update torch, or use linear_precision='int8'."
        )


def lower_linears(transformer: Any, precision: str) -> Any:
    """Replaces the linears of all `blocks` of a transformer, in place; `native` leaves it as it is."""
    if precision == "native":
        return transformer
    for block in transformer.blocks:
        for name, module in list(block.named_modules()):
            if isinstance(module, nn.Linear) and name not in CONSTANT_LINEARS:
                block.set_submodule(name, EightBitLinear(module, precision))
    return transformer
