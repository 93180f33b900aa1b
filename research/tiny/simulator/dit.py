"""The transformer of the generator: flow matching in the convention that `VegaGenerator` reads.

noisy = (1 - sigma) latents + sigma noise, target = noise - latents, timestep = 1000 sigma.

Noise levels are drawn logit-normal with a moderate shift. Wan's own shift of 5 is for tens of thousands of tokens,
where noise hides less of the picture; at 720 tokens it would leave one step in eight below sigma 0.4, where features
are read. The logit-normal's mass lies in the middle, and shift 2 moves its median to sigma 0.67, since the layout of a
room is decided at high noise.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.training_utils import compute_density_for_timestep_sampling

from research.tiny.simulator.config import DiTOptions
from vega3d.modeling.configuration_vega3d import NUM_TRAIN_TIMESTEPS
from vega3d.modeling.noise_vega3d import add_noise

LEVELS = 5  # equal parts of [0, 1] by which losses are logged
VALIDATION_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)


def build_dit(options: DiTOptions, z_dim: int, seed: int) -> WanTransformer3DModel:
    """A transformer with weights from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WanTransformer3DModel(
            num_attention_heads=options.num_attention_heads,
            attention_head_dim=options.attention_head_dim,
            in_channels=z_dim,
            out_channels=z_dim,
            text_dim=options.prompt_tokens,
            freq_dim=options.freq_dim,
            ffn_dim=options.ffn_dim,
            num_layers=options.num_layers,
        )


def empty_prompt(options: DiTOptions) -> torch.Tensor:
    """float[P, P]: one-hot rows, which the transformer's text projection turns into P vectors that it learns."""
    return torch.eye(options.prompt_tokens)


def draw_sigmas(options: DiTOptions, count: int, noise: torch.Generator) -> torch.Tensor:
    """float[count] in [0, 1]."""
    uniform = compute_density_for_timestep_sampling(
        options.sigmas, count, logit_mean=0.0, logit_std=1.0, device=noise.device, generator=noise
    )
    return options.shift * uniform / (1 + (options.shift - 1) * uniform)


class DiTTrainer(torch.nn.Module):
    """The transformer as a module whose forward pass is its loss, so that several processes can share it."""

    def __init__(self, transformer: WanTransformer3DModel, options: DiTOptions):
        super().__init__()
        self.transformer: Any = transformer
        self.options = options
        self.prompt: torch.Tensor
        self.register_buffer("prompt", empty_prompt(options), persistent=False)

    def errors(self, latents: torch.Tensor, epsilon: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        """
        Args:
            latents: float32[B, Z, t, h, w], normalised.
            epsilon: noise, of the same shape.
            sigmas: float[B].

        Returns:
            float[B]: mean squared error of each.
        """
        noisy = add_noise(latents, epsilon, sigmas.view(-1, 1, 1, 1, 1))
        predicted = self.transformer(
            hidden_states=noisy,
            timestep=sigmas * NUM_TRAIN_TIMESTEPS,
            encoder_hidden_states=self.prompt.expand(len(latents), -1, -1),
            return_dict=False,
        )[0]
        return F.mse_loss(predicted.float(), epsilon - latents, reduction="none").flatten(1).mean(1)

    def forward(
        self, latents: torch.Tensor, epsilon: torch.Tensor, sigmas: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and sums by level of noise; arguments as for `errors`."""
        errors = self.errors(latents, epsilon, sigmas)
        total, count = by_level(errors, sigmas)
        return errors.mean(), {"level_total": total, "level_count": count}


def by_level(errors: torch.Tensor, sigmas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float[LEVELS]: sum of the errors of each level, and how many there are."""
    level = (sigmas * LEVELS).long().clamp(max=LEVELS - 1)
    levels = F.one_hot(level, LEVELS).float()  # float[B, LEVELS]
    return errors.detach() @ levels, levels.sum(0)


@torch.no_grad()
def validation_losses(
    trainer: DiTTrainer, batches: Sequence[torch.Tensor], seed: int, sigmas: Sequence[float] = VALIDATION_SIGMAS
) -> dict[str, float]:
    """Mean squared error at fixed noise levels with fixed noise, and their mean.

    Args:
        trainer: with the weights to validate.
        batches: float[B, Z, t, h, w] each.
        seed: of the noise.
        sigmas: noise levels.
    """
    losses = {}
    for sigma in sigmas:
        errors = []
        for number, latents in enumerate(batches):
            noise = torch.Generator(latents.device).manual_seed(seed * 1_000_003 + number)
            epsilon = torch.randn(latents.shape, generator=noise, device=latents.device)
            level = torch.full((len(latents),), sigma, device=latents.device)
            errors.append(trainer.errors(latents, epsilon, level))
        losses[f"validation_loss_{sigma}"] = torch.cat(errors).mean().item()
    return {"validation_loss": sum(losses.values()) / len(losses), **losses}
