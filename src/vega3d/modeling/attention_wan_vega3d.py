"""What computes the attention between the generator's tokens: torch, or another backend of diffusers by its name."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # of query, key, value
NATIVE = "native"
REMEDY = "Use attention_backend='native', which is torch."
TRIED_TOKENS = 128


def torch_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """float[B, L, H, C / H] of all three."""
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def attention_by(backend: str) -> Attend:
    """`torch_attention`, or the same by another backend of diffusers.

    Raises ValueError for a backend that there is not, or whose package is not installed.
    """
    if backend == NATIVE:
        return torch_attention
    try:
        named = AttentionBackendName(backend)
        with attention_backend(named):  # checks what it needs, and fetches kernels of the Hub
            return functools.partial(dispatch_attention_fn, backend=named)
    except (ValueError, RuntimeError, ImportError) as error:
        names = ", ".join(sorted(name.value for name in AttentionBackendName))
        raise ValueError(f"attention_backend={backend!r}: {error} {REMEDY} diffusers has {names}.") from error


def check_attention(attend: Attend, backend: str, heads: int, channels: int, weight: torch.Tensor) -> None:
    """Raises ValueError if a backend cannot compute heads of some channels in the type and the place of a weight."""
    if backend == NATIVE:
        return
    tokens = weight.new_zeros(1, TRIED_TOKENS, heads, channels)
    try:
        attend(tokens, tokens, tokens)
    except Exception as error:  # each package has its own
        raise ValueError(
            f"attention_backend={backend!r} cannot compute heads of {channels} channels in {weight.dtype} on "
            f"{weight.device} ({str(error).strip().splitlines()[0]}). {REMEDY}"
        ) from error
