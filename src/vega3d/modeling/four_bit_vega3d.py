"""The language model in 4 bits: what bitsandbytes leaves alone, and how it computes layers of any width on a CPU."""

import logging
from typing import Any

from torch import nn

UNQUANTISED = ("generator", "projector", "fusion", "vlm.model.visual", "vlm.lm_head")
PACKED_ROWS = 32  # that bitsandbytes' packed kernel computes at once
QUANTISED_LINEARS = ("Linear4bit", "Linear8bitLt")  # bitsandbytes need not be installed, hence the names


def is_no_kernel_hint(record: logging.LogRecord) -> bool:
    """bitsandbytes asks for another package as soon as diffusers imports it, though nothing may be in 4 bits."""
    return not record.msg.startswith("Failed to load CPU gemm_4bit")


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(is_no_kernel_hint)


def keep_unquantised(quantization_config, prefix: str):
    """Fills the list of modules that bitsandbytes leaves alone, unless the caller did.

    Its patterns anchor at the full module name, and without a list it would quantise generator and gate.
    """
    modules = [prefix + name for name in UNQUANTISED]
    if isinstance(quantization_config, dict):
        given = quantization_config.get("llm_int8_skip_modules")
        return {**quantization_config, "llm_int8_skip_modules": modules if given is None else given}
    if quantization_config.llm_int8_skip_modules is None:
        quantization_config.llm_int8_skip_modules = modules
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


def keep_shared_weights(model: nn.Module) -> None:
    """A linear that shares its weight with an unquantised module stays a plain one, whatever the caller's list says.

    The head of a VLM with tied embeddings does: its weight is the embedding's, and has no quantised form.
    """
    for name, module in list(model.named_modules()):
        if type(module).__name__ not in QUANTISED_LINEARS or type(module.weight) is not nn.Parameter:
            continue
        linear = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        linear.weight, linear.bias = module.weight, module.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, linear)
