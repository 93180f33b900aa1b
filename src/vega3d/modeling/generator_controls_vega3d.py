"""Controls with the interface of a generator: what does not come of its training, of the image, of the transformer."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from .configuration_vega3d import VegaGeneratorConfig
from .generator_layout_vega3d import LATENT_EDGE, TEMPORAL_STRIDE
from .generator_wan_vega3d import EarlyExitWanTransformer, LatentTower, WanTower, load_part
from .linears_vega3d import lower_linears


def load_vae(config: VegaGeneratorConfig, folder: Path, dtype: torch.dtype) -> AutoencoderKLWan:
    return load_part(AutoencoderKLWan, folder, "vae", config.vae, dtype)  # type: ignore[return-value]


def load_random_tower(config: VegaGeneratorConfig, folder: Path, dtype: torch.dtype) -> WanTower:
    """The trained VAE before a transformer of the same architecture with weights from `random_seed`.

    The control differs from `wan` in one thing, the training of the transformer.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(config.random_seed)
        layers = {"num_layers": config.num_blocks_read}
        transformer = WanTransformer3DModel.from_config({**config.transformer, **layers})
    in_float32 = set(WanTransformer3DModel._keep_in_fp32_modules)
    for name, parameter in transformer.named_parameters():
        if not in_float32.intersection(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return WanTower(lower_linears(transformer, config.linear_precision), load_vae(config, folder, dtype), config)


class NoiseTower(WanTower):
    """The trained transformer at sigma 1: it sees noise and no image."""

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Zeros in the shape of the latents, float32[B, t, Z, h, w]; at sigma 1 they count for nothing."""
        batch, count, _, height, width = frames.shape
        t = 1 + (count - 1) // TEMPORAL_STRIDE if self.is_causal else count
        size = (batch, t, len(self.latents_mean), height // LATENT_EDGE, width // LATENT_EDGE)
        return torch.zeros(size, device=frames.device, dtype=torch.float32)


def load_noise_tower(config: VegaGeneratorConfig, folder: Path, dtype: torch.dtype) -> NoiseTower:
    layers = {"num_layers": config.num_blocks_read}
    transformer = load_part(EarlyExitWanTransformer, folder, "transformer", config.transformer, dtype, **layers)
    return NoiseTower(lower_linears(transformer, config.linear_precision), load_vae(config, folder, dtype), config)


class VAETower(LatentTower):
    """Clean latents of the VAE, 2x2 of them a token, on the grid of the transformer."""

    def __init__(self, vae: AutoencoderKLWan, config: VegaGeneratorConfig):
        super().__init__(vae, config)
        self.patch = config.patch

    def constants(self, prompt: torch.Tensor, prompt_length: int, timestep: int) -> None:
        """Nothing depends on the prompt or the noise level."""

    def forward(self, latents: torch.Tensor, constants: None, blocks: Sequence[int]) -> dict[int, torch.Tensor]:
        """float[B, Z, t, h, w] -> float[B, t, h / 2, w / 2, 4 Z], the same for every block."""
        batch, channels, t, h, w = latents.shape
        rows, columns = h // self.patch, w // self.patch
        windows = latents.reshape(batch, channels, t, rows, self.patch, columns, self.patch)
        tokens = windows.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)
        return dict.fromkeys(blocks, tokens.to(next(self.encoder.parameters()).dtype))


def load_vae_tower(config: VegaGeneratorConfig, folder: Path, dtype: torch.dtype) -> nn.Module:
    return VAETower(load_vae(config, folder, dtype), config)
