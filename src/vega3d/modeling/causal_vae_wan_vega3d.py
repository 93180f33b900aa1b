"""The encoder of Wan's VAE for consecutive frames, as 2D convolutions over frames that lie side by side in channels.

A causal 3D convolution of a frame sees that frame and the two before it. As one 2D convolution of their channels,
joined, it runs in channels_last and in the kernels that are fast on a GPU, and compiles: what diffusers keeps between
its chunks of four frames is handed over here as values.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    patchify,
)
from torch import nn

from .layouts_vega3d import TEMPORAL_STRIDE, check_latent_edge
from .vae_wan_vega3d import (
    PIXELS_AT_A_TIME,
    ChannelRMSNorm,
    Classes,
    FoldedAttention,
    FoldedDownsample,
    FoldedResidualBlock,
    fold_block,
    fold_conv,
)


class EarlierFrames:
    """What the convolutions keep of the frames before a chunk, in the order in which they are computed.

    Args:
        clips: that are encoded together; the rows of a tensor are the first frame of each clip, then the second.
        before: what they kept after the chunk before, or None for the first frames.
    """

    def __init__(self, clips: int, before: list[torch.Tensor] | None):
        self.clips, self.before = clips, before
        self.after: list[torch.Tensor] = []

    @property
    def are_none(self) -> bool:
        return self.before is None

    def with_frames(self, frames: torch.Tensor, count: int) -> torch.Tensor:
        """The last `count` frames before a chunk, which are zeros before a clip, then float[T * clips, C, H, W]."""
        joined = torch.cat([*self._last(frames, count), frames])
        self.keep(joined[-count * self.clips :])
        return joined

    def _last(self, frames: torch.Tensor, count: int) -> list[torch.Tensor]:
        if self.before is None:
            return [torch.zeros_like(frames[: self.clips])] * count
        return [self.before[len(self.after)]]

    def keep(self, frames: torch.Tensor) -> None:
        self.after.append(frames.clone())


class CausalConv(nn.Module):
    """`WanCausalConv3d` with three frames in its kernel, on float[T * clips, C, H, W]."""

    def __init__(self, conv: WanCausalConv3d):
        super().__init__()
        self.size, self.stride = conv.kernel_size[0], conv.stride[0]
        self.conv = nn.Conv2d(
            self.size * conv.in_channels,
            conv.out_channels,
            kernel_size=conv.kernel_size[1:],
            padding=(conv._padding[2], conv._padding[0]),
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        weight = conv.weight.data.transpose(1, 2).flatten(1, 2)  # the earliest frame's channels first
        self.conv.load_state_dict({"weight": weight, "bias": conv.bias.data})

    def forward(self, frames: torch.Tensor, earlier: EarlierFrames) -> torch.Tensor:
        in_time = earlier.with_frames(frames, self.size - self.stride).unflatten(0, (-1, earlier.clips))
        last = len(in_time) - self.size + 1
        seen = [in_time[first : first + last : self.stride].flatten(0, 1) for first in range(self.size)]
        return self.conv(torch.cat(seen, dim=1))


class CausalDownsample(nn.Module):
    """Half the height and width; and in time, of each two frames after the first one, with the one before them."""

    def __init__(self, block: WanResample):
        super().__init__()
        self.in_space = FoldedDownsample(block)
        self.in_time = CausalConv(block.time_conv) if block.mode == "downsample3d" else None

    def forward(self, x: torch.Tensor, earlier: EarlierFrames) -> torch.Tensor:
        x = self.in_space(x)
        if self.in_time is None:
            return x
        if earlier.are_none:
            earlier.keep(x)
            return x
        return self.in_time(x, earlier)


class FrameAttention(nn.Module):
    """Attention within each frame, which needs no other."""

    def __init__(self, block: WanAttentionBlock):
        super().__init__()
        self.attention = FoldedAttention(block)

    def forward(self, x: torch.Tensor, earlier: EarlierFrames) -> torch.Tensor:
        return self.attention(x)


CAUSAL: Classes = {
    WanResidualBlock: partial(FoldedResidualBlock, conv=CausalConv),
    WanAttentionBlock: FrameAttention,
    WanResample: CausalDownsample,
}


class CausalWanEncoder(nn.Module):
    """`AutoencoderKLWan.encode(...).latent_dist.mean` of consecutive frames; made of a loaded VAE and never stored.

    Raises ValueError for a VAE with residual shortcuts, or latents of 16 px (Wan2.2).
    """

    def __init__(self, vae: AutoencoderKLWan):
        super().__init__()
        encoder, middle = vae.encoder, vae.encoder.mid_block
        self.pixels_at_a_time = PIXELS_AT_A_TIME
        self.patch_size: int = vae.config.patch_size or 1
        check_latent_edge(vae.config)
        self.z_dim = vae.config.z_dim
        self.conv_in = CausalConv(encoder.conv_in)
        pairs = zip(middle.attentions, middle.resnets[1:], strict=True)
        blocks = [*encoder.down_blocks, middle.resnets[0], *(block for pair in pairs for block in pair)]
        self.blocks = nn.ModuleList(fold_block(block, CAUSAL) for block in blocks)
        self.norm_out = ChannelRMSNorm(encoder.norm_out)
        self.conv_out = CausalConv(encoder.conv_out)
        self.quant_conv = fold_conv(vae.quant_conv)
        self.to(memory_format=torch.channels_last)

    def parts(self, frames: torch.Tensor) -> Iterator[torch.Tensor]:
        """Frames to encode at a time: the first, then fours, as many pixels as `FoldedWanEncoder` takes at a time."""
        yield frames[:, :1]
        fours = max(1, self.pixels_at_a_time // frames[:, :1, 0].numel() // TEMPORAL_STRIDE)
        yield from frames[:, 1:].split(fours * TEMPORAL_STRIDE, dim=1) if frames.shape[1] > 1 else ()

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Means of clips float[B, T, 3, H, W] in [-1, 1] with T = 1 + 4k -> float[B, 1 + k, Z, H / 8, W / 8]."""
        latents, kept = [], None
        for part in self.parts(frames):
            means, kept = self(part, kept)
            latents.append(means)
        return torch.cat(latents, dim=1)

    def forward(
        self, frames: torch.Tensor, before: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Means of the posterior of a chunk, not yet normalised, and what the next one needs.

        The first frames alone, or float[B, 4k, 3, H, W] after them -> float[B, 1 or k, Z, H / 8, W / 8].
        """
        earlier = EarlierFrames(len(frames), before)
        patches = patchify(frames.transpose(0, 1).flatten(0, 1).unsqueeze(2), self.patch_size).squeeze(2)
        x = self.conv_in(patches.contiguous(memory_format=torch.channels_last), earlier)
        for block in self.blocks:
            x = block(x, earlier)
        x = self.conv_out(F.silu(self.norm_out(x), inplace=True), earlier)
        return self.quant_conv(x)[:, : self.z_dim].unflatten(0, (-1, len(frames))).transpose(0, 1), earlier.after
