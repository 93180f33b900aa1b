"""The VAE of the generator: its loss, the statistics of its latents, and how well it reconstructs."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanResample, WanResidualBlock
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from research.tiny.simulator.config import STRIDE, VAEOptions
from research.tiny.simulator.whole_clip import WholeClips

GOAL = 28.0  # [dB]
PIXELS = 8  # edge of a latent [px]
FIRST_LOG_VARIANCE = -6.0  # of the latents


def build_vae(options: VAEOptions, seed: int) -> AutoencoderKLWan:
    """A VAE with the strides of Wan's (4 frames, 8 px); its weights come from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=options.base_dim,
            z_dim=options.z_dim,
            dim_mult=list(options.dim_mult),
            num_res_blocks=options.num_res_blocks,
            temperal_downsample=[False] * (len(options.dim_mult) - 3) + [True, True],
            patch_size=None if options.patch_size == 1 else options.patch_size,
            in_channels=3 * options.patch_size**2,
            out_channels=3 * options.patch_size**2,
            latents_mean=[0.0] * options.z_dim,
            latents_std=[1.0] * options.z_dim,
        )
        initialise(vae)
    return vae


@torch.no_grad()
def initialise(vae: AutoencoderKLWan) -> None:
    """First weights that let a picture through, frame by frame.

    PyTorch's default shrinks a signal threefold in variance at each convolution; here the path around the residual
    branches keeps it, and the branches add nothing at first. Kernels see only the newest frame, as those of an image
    VAE that is inflated to videos (Wan, section on its VAE), and convolutions in time copy. Latents start with little
    noise: with a standard deviation of 1, which is what zero means, the decoder first learns to do without them.
    """
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.Conv2d):
            kernel = module.weight[:, :, -1] if module.weight.ndim == 5 else module.weight
            fresh = torch.nn.init.kaiming_normal_(torch.empty_like(kernel), nonlinearity="linear")
            module.weight.zero_()
            kernel.copy_(fresh)
            if module.bias is not None:
                module.bias.zero_()
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            module.conv2.weight.zero_()
        elif isinstance(module, WanAttentionBlock):
            module.proj.weight.zero_()
        elif isinstance(module, WanResample) and hasattr(module, "time_conv"):
            outputs, inputs = module.time_conv.weight.shape[:2]
            copies = torch.eye(inputs).repeat(outputs // inputs, 1)
            module.time_conv.weight[:, :, -1, 0, 0] = copies
    z_dim = vae.config.z_dim
    vae.quant_conv.weight[z_dim:] *= 0.1
    vae.quant_conv.bias[z_dim:] = FIRST_LOG_VARIANCE


def latent_shape(clip: torch.Size, z_dim: int) -> tuple[int, ...]:
    """(B, Z, t, h, w) of the latents of clips (B, 3, T, H, W)."""
    batch, _, frames, height, width = clip
    return batch, z_dim, 1 + (frames - 1) // STRIDE, height // PIXELS, width // PIXELS


class VAETrainer(torch.nn.Module):
    """The VAE as a module whose forward pass is its loss, so that several processes can share it."""

    def __init__(self, vae: AutoencoderKLWan, options: VAEOptions):
        super().__init__()
        self.vae, self.options = vae, options
        self.whole_clips = WholeClips(vae, options.compile)

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        The absolute error of pixels and of differences between neighbours (a blurred edge costs more than a shifted
        brightness), and the KL divergence of the latents.

        Args:
            pixels: float[B, 3, T, H, W] in [-1, 1].
            noise: float[B, Z, t, H / 8, W / 8], normal.

        Returns:
            The loss, and its parts.
        """
        posterior = DiagonalGaussianDistribution(self.whole_clips.encode(pixels))
        decoded = self.whole_clips.decode(posterior.mean + posterior.std * noise).float()
        error = F.l1_loss(decoded, pixels)
        edges = edge_error(decoded, pixels)
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = error + self.options.edge_weight * edges + self.options.kl_weight * divergence
        return loss, {"pixel_error": error, "edge_error": edges, "kl": divergence}


def edge_error(decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    error = decoded - pixels
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def psnr(decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """float[B]: peak signal to noise of each clip [dB], for values in [-1, 1]."""
    mse = (decoded.float() - pixels.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / mse)


@torch.no_grad()
def reconstruct(vae: AutoencoderKLWan, pixels: torch.Tensor) -> torch.Tensor:
    """float[B, 3, T, H, W] through the mean latent, clamped."""
    return vae.decode(vae.encode(pixels).latent_dist.mean).sample


def single_frames(pixels: torch.Tensor) -> torch.Tensor:
    """float[B, 3, T, H, W] -> float[B * t, 3, 1, H, W]: every fourth frame as a clip of its own."""
    return pixels[:, :, ::STRIDE].transpose(1, 2).flatten(0, 1).unsqueeze(2)


@torch.no_grad()
def reconstruction(vae: AutoencoderKLWan, batches: Iterable[torch.Tensor]) -> dict[str, float]:
    """
    Args:
        vae: that encodes and decodes.
        batches: float[B, 3, T, H, W] in [-1, 1] each.

    Returns:
        PSNR [dB] of whole clips (mean over clips, and the worst one) and of every fourth frame encoded alone (mean).
    """
    clips, frames = [], []
    for pixels in batches:
        clips.append(psnr(reconstruct(vae, pixels), pixels))
        alone = single_frames(pixels)
        frames.append(psnr(reconstruct(vae, alone), alone))
    whole = torch.cat(clips)
    return {
        "psnr": whole.mean().item(),
        "psnr_worst_clip": whole.min().item(),
        "psnr_single_frames": torch.cat(frames).mean().item(),
    }


@torch.no_grad()
def latent_statistics(vae: AutoencoderKLWan, batches: Iterable[torch.Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of the latents, over all clips, frames and places.

    Raises:
        ValueError: if a channel does not vary.
    """
    count, total, squares = 0, torch.tensor(0.0), torch.tensor(0.0)
    for pixels in batches:
        latents = vae.encode(pixels).latent_dist.mean.double().transpose(0, 1).flatten(1).cpu()  # float[Z, n]
        count += latents.shape[1]
        total = total + latents.sum(1)
        squares = squares + latents.square().sum(1)
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=0).sqrt()
    if not (spread > 1e-6).all():
        raise ValueError(
            f"Channel {int(spread.argmin())} of the latents does not vary: train the VAE longer, or lower kl_weight."
        )
    return [round(value, 6) for value in mean.tolist()], [round(value, 6) for value in spread.tolist()]


def gate(figures: dict[str, float]) -> dict:
    """Whether the VAE reconstructs well enough to train on its latents."""
    passed = math.isfinite(figures["psnr"]) and figures["psnr"] >= GOAL
    return {"gate": "G1", "goal_db": GOAL, "psnr_db": figures["psnr"], "passed": passed}
