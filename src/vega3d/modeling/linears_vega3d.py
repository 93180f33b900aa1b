"""Linears of the generator's blocks in 8 bits, on request, by torchao."""

from typing import Any

INSTALL = "pip install 'vega3d[quant]'"


def lower_linears(transformer: Any, precision: str) -> Any:
    """Quantises the linears of the blocks in place; embeddings, norms and modulations keep their precision.

    Args:
        transformer: with `blocks`.
        precision: `native`; `fp8`, weights by row and activations by token in float8 e4m3 (a GPU of compute
            capability 8.9 or more); `int8`, the same in int8.

    Raises:
        ValueError: if torchao is missing.
    """
    if precision == "native":
        return transformer
    try:
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            Int8DynamicActivationInt8WeightConfig,
            PerRow,
            quantize_,
        )
    except ImportError as error:
        raise ValueError(f"linear_precision={precision!r} needs torchao. Install it: {INSTALL}.") from error
    if precision == "fp8":
        quantize_(transformer.blocks, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
    else:
        quantize_(transformer.blocks, Int8DynamicActivationInt8WeightConfig())
    return transformer
