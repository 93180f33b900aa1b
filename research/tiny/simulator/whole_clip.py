"""Wan's VAE on whole clips in one pass: the weights and the values of diffusers, which goes four frames at a time.

diffusers saves memory, and spends most of a training step on launches, copies of its cache and padding. A causal
convolution over the whole clip sees what the cache would have held; only the first frame is special, because it is not
joined with others in time. Memory is channels-last.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock, patchify, unpatchify

NormedRows = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def normed_rows(rows: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """SiLU of the RMS-normalised rows, float[N, C]; gamma is float[C]."""
    exact = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    normed = F.normalize(exact, dim=1).to(rows.dtype)
    return F.silu(normed * (rows.shape[1] ** 0.5 * gamma.to(rows.dtype)))


class WholeClips:
    """
    Args:
        vae: of Wan2.1; its weights are used as they are at each call.
        compile: the norms with `torch.compile`, which then read and write memory once.

    Raises:
        ValueError: for a VAE with residual shortcuts (Wan2.2).
    """

    def __init__(self, vae: AutoencoderKLWan, compile: bool = False):
        if vae.config.is_residual:
            raise ValueError("The VAE has residual shortcuts (Wan2.2): use one with is_residual=False.")
        self.vae: Any = vae
        self.patch_size: int = vae.config.patch_size or 1
        self._normed_rows: NormedRows = torch.compile(normed_rows, dynamic=True) if compile else normed_rows

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """`vae.encode`.

        Args:
            clip: float[B, 3, T, H, W] in [-1, 1], T = 1 + 4k.

        Returns:
            float[B, 2 Z, t, H / 8, W / 8]: means and log variances of the latents, not normalised.
        """
        encoder = self.vae.encoder
        patches = patchify(clip, self.patch_size)
        x = encoder.conv_in(patches.contiguous(memory_format=torch.channels_last_3d))
        for block in encoder.down_blocks:
            x = self._block(block, x)
        x = self._middle(encoder.mid_block, x)
        return self.vae.quant_conv(encoder.conv_out(self._activated(encoder.norm_out, x)))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """`vae.decode` without its clamp to [-1, 1], under which a pixel that is too bright gets no gradient.

        Args:
            latents: float[B, Z, t, h, w], not normalised.

        Returns:
            float[B, 3, 1 + 4 (t - 1), 8 h, 8 w].
        """
        decoder = self.vae.decoder
        hidden = self.vae.post_quant_conv(latents.contiguous(memory_format=torch.channels_last_3d))
        x = self._middle(decoder.mid_block, decoder.conv_in(hidden))
        for block in decoder.up_blocks:
            for part in (*block.resnets, *(block.upsamplers or ())):
                x = self._block(part, x)
        return unpatchify(decoder.conv_out(self._activated(decoder.norm_out, x)), self.patch_size)

    def _middle(self, block: Any, x: torch.Tensor) -> torch.Tensor:
        x = self._residual(block.resnets[0], x)
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            x = self._residual(resnet, attention(x))
        return x

    def _block(self, block: Any, x: torch.Tensor) -> torch.Tensor:
        if isinstance(block, WanResidualBlock):
            return self._residual(block, x)
        if not isinstance(block, WanResample):
            return block(x)
        return upsampled(block, x) if block.mode.startswith("up") else downsampled(block, x)

    def _residual(self, block: Any, x: torch.Tensor) -> torch.Tensor:
        hidden = block.conv1(self._activated(block.norm1, x))
        return block.conv2(self._activated(block.norm2, hidden)) + block.conv_shortcut(x)

    def _activated(self, norm: Any, x: torch.Tensor) -> torch.Tensor:
        last = x.permute(0, 2, 3, 4, 1).contiguous()
        rows = self._normed_rows(last.view(-1, last.shape[-1]), norm.gamma.flatten())
        return rows.view(last.shape).permute(0, 4, 1, 2, 3)


def frame_by_frame(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """float[B, C, T, H, W] through a function of images float[B * T, C, H, W]."""
    images = function(x.transpose(1, 2).flatten(0, 1))
    return images.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def downsampled(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Half the height and width; and in time, of each two frames after the first one, with the one before them."""
    x = frame_by_frame(block.resample, x)
    if block.mode == "downsample3d" and x.shape[2] > 1:
        conv = block.time_conv
        x = torch.cat([x[:, :, :1], F.conv3d(x, conv.weight, conv.bias, conv.stride)], 2)
    return x


def upsampled(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Twice the height and width; and in time two frames of each after the first one."""
    if block.mode == "upsample3d" and x.shape[2] > 1:
        both = block.time_conv(x[:, :, 1:]).permute(0, 2, 3, 4, 1)  # float[B, T - 1, H, W, 2 C]
        both = both.unflatten(-1, (2, -1)).movedim(4, 2).flatten(1, 2)
        x = torch.cat([x[:, :, :1], both.movedim(-1, 1)], 2)
    upsample, conv = block.resample

    def larger(images: torch.Tensor) -> torch.Tensor:
        return conv(F.interpolate(images, scale_factor=upsample.scale_factor, mode=upsample.mode))

    return frame_by_frame(larger, x)
