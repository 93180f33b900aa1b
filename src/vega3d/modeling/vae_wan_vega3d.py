"""The encoder of Wan's VAE for single frames, folded to exact 2D convolutions.

At T = 1 a causal 3D convolution sees only zeros before the frame, so its last temporal slice does all the work and
the temporal down-sampling does nothing. The folded encoder has a third of the weights and runs in channels_last.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
    patchify,
)
from torch import nn

from .layouts_vega3d import check_latent_edge

PIXELS_AT_A_TIME = 4 * 1280 * 720


def channel_statistics(
    mean: Sequence[float], std: Sequence[float], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread of latents, float32[Z, 1, 1] each."""
    center, spread = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
    return center.view(-1, 1, 1), spread.view(-1, 1, 1)


def normalise_latents(latents: torch.Tensor, center: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """`(latents - mean) / std` by channel, float[..., Z, h, w] -> float32[..., Z, h, w]: what the transformer sees."""
    return (latents.float() - center) / spread


def fold_conv(conv: WanCausalConv3d) -> nn.Conv2d:
    """The 2D convolution that equals a causal 3D one on a clip of one frame."""
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        kernel_size=conv.kernel_size[1:],
        stride=conv.stride[1:],
        padding=(conv._padding[2], conv._padding[0]),
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    folded.load_state_dict({"weight": conv.weight.data[:, :, -1], "bias": conv.bias.data})
    return folded


class ChannelRMSNorm(nn.Module):
    """`WanRMS_norm` over the channels of float[N, C, H, W], as one fused kernel where memory is channels_last."""

    def __init__(self, norm: WanRMS_norm):
        super().__init__()
        self.weight = nn.Parameter(norm.gamma.data.flatten().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # F.normalize divides by max(norm, 1e-12); RMSNorm's eps is added to the mean square instead.
        return F.rms_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, eps=1e-24).permute(0, 3, 1, 2)


class FoldedResidualBlock(nn.Module):
    """`WanResidualBlock` in two dimensions.

    `conv` folds its convolutions, which also take what `forward` is given beside x.
    """

    def __init__(self, block: WanResidualBlock, conv: Callable[[WanCausalConv3d], nn.Module] = fold_conv):
        super().__init__()
        self.norm1 = ChannelRMSNorm(block.norm1)
        self.conv1 = conv(block.conv1)
        self.norm2 = ChannelRMSNorm(block.norm2)
        self.conv2 = conv(block.conv2)
        is_identity = isinstance(block.conv_shortcut, nn.Identity)
        self.shortcut = nn.Identity() if is_identity else fold_conv(block.conv_shortcut)

    def forward(self, x: torch.Tensor, *given: Any) -> torch.Tensor:
        residual = self.conv1(F.silu(self.norm1(x), inplace=True), *given)
        residual = self.conv2(F.silu(self.norm2(residual), inplace=True), *given)
        return residual.add_(self.shortcut(x))


class FoldedDownsample(nn.Module):
    def __init__(self, block: WanResample):
        super().__init__()
        self.pad, self.conv = copy.deepcopy(block.resample)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.pad(x))


class FoldedAttention(nn.Module):
    """Single-head attention over the pixels of a frame."""

    def __init__(self, block: WanAttentionBlock):
        super().__init__()
        self.norm = ChannelRMSNorm(block.norm)
        self.to_qkv = nn.Linear(block.dim, 3 * block.dim, device=block.to_qkv.weight.device)
        self.proj = nn.Linear(block.dim, block.dim, device=block.proj.weight.device)
        for linear, conv in ((self.to_qkv, block.to_qkv), (self.proj, block.proj)):
            linear.to(conv.weight.dtype)
            linear.weight.data.copy_(conv.weight.data[:, :, 0, 0])
            linear.bias.data.copy_(conv.bias.data)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height = x.shape[2]
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # float[N, H * W, C]
        query, key, value = self.to_qkv(tokens).unsqueeze(1).chunk(3, dim=-1)
        attended = self.proj(attend(query, key, value).squeeze(1))
        return x + attended.unflatten(1, (height, -1)).permute(0, 3, 1, 2)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of one wide head, float[N, 1, L, C].

    No fused kernel of a GPU takes heads of 384 channels but a slow one; two products and a softmax, with scores in
    float32, take a third to a half of its time. One frame at a time: its scores are a gigabyte at 1280x720.
    """
    if not query.is_cuda or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value)
    frames = []
    for q, k, v in zip(query[:, 0], key[:, 0], value[:, 0], strict=True):
        scores = torch.mm(q, k.t(), out_dtype=torch.float32) * q.shape[-1] ** -0.5
        frames.append(scores.softmax(-1).to(v.dtype) @ v)
    return torch.stack(frames).unsqueeze(1)


Classes = Mapping[type[nn.Module], Callable[[Any], nn.Module]]
FOLDED: Classes = {
    WanResidualBlock: FoldedResidualBlock,
    WanAttentionBlock: FoldedAttention,
    WanResample: FoldedDownsample,
}


def fold_block(block: nn.Module, classes: Classes = FOLDED) -> nn.Module:
    """A block of the VAE in two dimensions; raises ValueError for one of another type."""
    if type(block) not in classes:
        raise ValueError(
            f"The VAE has a block of type {type(block).__name__}, which cannot be folded to two dimensions: "
            "use a Wan2.1 VAE (`AutoencoderKLWan` with is_residual=False)."
        )
    return classes[type(block)](block)


class FoldedWanEncoder(nn.Module):
    """`AutoencoderKLWan.encode(...).latent_dist.mean` of single frames; made of a loaded VAE and never stored.

    Raises ValueError for a VAE with residual shortcuts, or latents of 16 px (Wan2.2).
    """

    def __init__(self, vae: AutoencoderKLWan):
        super().__init__()
        encoder = vae.encoder
        self.pixels_at_a_time = PIXELS_AT_A_TIME
        self.patch_size: int = vae.config.patch_size or 1
        check_latent_edge(vae.config)
        self.z_dim = vae.config.z_dim
        self.conv_in = fold_conv(encoder.conv_in)
        self.down_blocks = nn.ModuleList(fold_block(block) for block in encoder.down_blocks)
        first, *pairs = encoder.mid_block.resnets
        mid: list[nn.Module] = [FoldedResidualBlock(first)]
        for attention, resnet in zip(encoder.mid_block.attentions, pairs, strict=True):
            mid += [FoldedAttention(attention), FoldedResidualBlock(resnet)]
        self.mid_blocks = nn.ModuleList(mid)
        self.norm_out = ChannelRMSNorm(encoder.norm_out)
        self.conv_out = fold_conv(encoder.conv_out)
        self.quant_conv = fold_conv(vae.quant_conv)
        self.to(memory_format=torch.channels_last)

    def parts(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Frames to encode at a time: four of 1280x720, as more take gigabytes and save no time; more if small."""
        return frames.split(max(1, self.pixels_at_a_time // (frames.shape[2] * frames.shape[3])))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Mean of the posterior, not yet normalised: float[N, 3, H, W] in [-1, 1] -> float[N, Z, H / 8, W / 8]."""
        patches = patchify(frames.unsqueeze(2), self.patch_size).squeeze(2)
        x = self.conv_in(patches.contiguous(memory_format=torch.channels_last))
        for block in self.down_blocks:
            x = block(x)
        for block in self.mid_blocks:
            x = block(x)
        x = self.conv_out(F.silu(self.norm_out(x), inplace=True))
        return self.quant_conv(x)[:, : self.z_dim]
