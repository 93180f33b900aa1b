"""The encoder of a tiny VAE in the layout of TAEHV, for single frames: nearly Wan's latents, in less time.

TAEHV (https://github.com/madebyollin/taehv) is trained to give the latents of a large video VAE; its `taew2_1` gives
those of Wan2.1. Four frames make a latent, in blocks that also see the frame before: a single frame stands for four.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from .vae_wan_vega3d import PIXELS_AT_A_TIME

FRAMES_TOGETHER = (2, 2, 1)  # that become one at each level
BLOCKS = 3  # of a level, which see the frame before
MODULES = 2 + BLOCKS  # of a level
LAST = 2 + len(FRAMES_TOGETHER) * MODULES  # number of the last layer


class MemoryBlock(nn.Module):
    """Convolutions of a frame together with the frame before it; the weights alone, as they are stored."""

    def __init__(self, width: int):
        super().__init__()
        convs = [nn.Conv2d(inner, width, 3, padding=1) for inner in (2 * width, width, width)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])


class FramePool(nn.Module):
    """One frame of several that lie side by side in channels; the weights alone, as they are stored."""

    def __init__(self, width: int, frames: int):
        super().__init__()
        self.conv = nn.Conv2d(frames * width, width, 1, bias=False)


class TinyVAEToLatents(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """The weights of TAEHV without its decoder, under their published names.

    Args:
        z_dim: channels of a latent.
        tiny_width: channels of all that is between.
        latents_mean: subtracted from latents; zeros, as TAEHV gives them normalised.
        latents_std: by which they are divided after that; ones.
    """

    _keys_to_ignore_on_load_unexpected = (r"^decoder\.",)

    @register_to_config
    def __init__(self, z_dim: int, tiny_width: int, latents_mean: Sequence[float], latents_std: Sequence[float]):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, tiny_width, 3, padding=1), nn.ReLU()]
        for frames in FRAMES_TOGETHER:
            down = nn.Conv2d(tiny_width, tiny_width, 3, stride=2, padding=1, bias=False)
            layers += [FramePool(tiny_width, frames), down, *(MemoryBlock(tiny_width) for _ in range(BLOCKS))]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(tiny_width, z_dim, 3, padding=1))


def convolution(weight: torch.Tensor, bias: torch.Tensor | None, stride: int = 1) -> nn.Conv2d:
    """A convolution of float[out, in, 3, 3] that keeps height and width, or halves them."""
    out, inner = weight.shape[:2]
    factory: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    made = nn.Conv2d(inner, out, 3, stride, padding=1, bias=bias is not None, **factory)
    made.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return made


def pooled_down(pool: FramePool, down: nn.Conv2d, are_equal: bool) -> nn.Conv2d:
    """The pool of frames and the convolution after it as one: both are linear; `are_equal` if the frames are one."""
    pooling = pool.conv.weight.data[:, :, 0, 0].float()  # float[C, frames * C]
    if are_equal:
        pooling = pooling.unflatten(1, (-1, len(pooling))).sum(1)
    weight = torch.einsum("ochw,ci->oihw", down.weight.data.float(), pooling)
    return convolution(weight.to(down.weight.dtype), None, stride=2)


class FoldedMemoryBlock(nn.Module):
    """`MemoryBlock` on the frames of a level in their order, float[T, N, C, H, W]; before the first one are zeros."""

    def __init__(self, block: MemoryBlock, frames: int):
        super().__init__()
        convs: Any = block.conv
        first, _, self.second, _, self.third = convs
        self.has_memory = frames > 1
        width = first.out_channels
        weight = first.weight.data if self.has_memory else first.weight.data[:, :width]
        self.first = convolution(weight, first.bias.data)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        seen = frames
        if self.has_memory:
            seen = torch.cat([frames, torch.cat([torch.zeros_like(frames[:1]), frames[:-1]])], dim=2)
        inner = F.relu(self.first(seen.flatten(0, 1)), inplace=True)
        inner = self.third(F.relu(self.second(inner), inplace=True))
        return F.relu(inner.unflatten(0, frames.shape[:2]) + frames)


class TinyFrameEncoder(nn.Module):
    """TAEHV's latents of single frames, each of which stands for four; made of loaded weights and never stored.

    What four equal frames have in common is computed once: all of the first level's input, and from the second level
    on there is one frame.
    """

    def __init__(self, vae: TinyVAEToLatents):
        super().__init__()
        self.pixels_at_a_time = PIXELS_AT_A_TIME
        layers: Any = vae.encoder
        self.conv_in, self.conv_out = layers[0], layers[-1]
        downs, blocks = [], []
        for level in range(len(FRAMES_TOGETHER)):
            pool, down, *memories = layers[2 + level * MODULES : 2 + (level + 1) * MODULES]
            downs.append(pooled_down(pool, down, are_equal=level == 0))
            blocks.append(nn.Sequential(*(FoldedMemoryBlock(memory, 2 if level == 0 else 1) for memory in memories)))
        self.downs, self.blocks = nn.ModuleList(downs), nn.ModuleList(blocks)
        self.to(memory_format=torch.channels_last)

    def parts(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Frames to encode at a time, as `FoldedWanEncoder.parts`."""
        return frames.split(max(1, self.pixels_at_a_time // (frames.shape[2] * frames.shape[3])))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Latents float[N, Z, H / 8, W / 8] of frames float[N, 3, H, W] in [-1, 1]."""
        pixels = frames.add(1).div(2).contiguous(memory_format=torch.channels_last)
        x = self.downs[0](F.relu(self.conv_in(pixels), inplace=True))
        first, second = self.blocks[0](torch.stack([x, x]))
        x = self.downs[1](torch.cat([first, second], dim=1))
        x = self.downs[2](self.blocks[1](x[None])[0])
        return self.conv_out(self.blocks[2](x[None])[0])
