"""The two things that are trained, as the loop sees them: the VAE, and the transformer on its latents."""

from pathlib import Path

import torch

from vega3d.generator_training.config import BatchKind, DiTOptions, VAEOptions
from vega3d.generator_training.dit import LEVELS, DiTTrainer, as_batch, draw_sigmas, validation_losses
from vega3d.generator_training.latents import CLIP, FRAMES
from vega3d.generator_training.loop import StepInputs
from vega3d.generator_training.pictures import as_uint8, grid_of_videos, save_picture
from vega3d.generator_training.rooms import ClipWindow, pixels
from vega3d.generator_training.sampling import sample_videos
from vega3d.generator_training.vae import VAETrainer, latent_shape, reconstruct, reconstruction, single_frames

SHOWN = 6  # clips of a picture
VALIDATION_BATCH = 8
STEP_STRIDE, RANK_STRIDE = 1_000_003, 7_919  # of seeds


def noise_of(seed: int, step: int, rank: int, device: torch.device) -> torch.Generator:
    """The random stream of a step; nothing else is drawn at random in training."""
    return torch.Generator(device).manual_seed((seed + 1) * 2_147_483_647 + step * STEP_STRIDE + rank * RANK_STRIDE)


class VAEStage:
    """
    Args:
        module: of the VAE.
        options: of the stage.
        window: of uint8[T, H, W, 3] clips.
        validation: uint8[N, T, H, W, 3].
        device: of the module.
        seed: of the noise.
    """

    def __init__(
        self,
        module: VAETrainer,
        options: VAEOptions,
        window: ClipWindow,
        validation: torch.Tensor,
        device: torch.device,
        seed: int,
    ):
        self.module, self.options, self.window, self.validation = module, options, window, validation
        self.device, self.seed = device, seed

    def is_of_frames(self, step: int) -> bool:
        every = self.options.frames_every
        return step < self.options.frames_first or (every > 0 and step % every == every - 1)

    def inputs(self, step: int) -> StepInputs:
        frames, clips = self.window.batch(step)
        batch = pixels(frames, self.device)
        if self.is_of_frames(step):
            batch = single_frames(batch)
        noise = noise_of(self.seed, step, self.window.rank, self.device)
        shape = latent_shape(batch.shape, self.options.z_dim)
        return StepInputs((batch, torch.randn(shape, generator=noise, device=self.device)), clips)

    def figures(self, sums: dict[str, torch.Tensor], steps: int) -> dict[str, float]:
        return {name: sums[name].item() / steps for name in ("pixel_error", "edge_error", "kl")}

    def batches(self):
        return (pixels(part, self.device) for part in self.validation.split(VALIDATION_BATCH))

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        vae = self.module.vae
        if self.window.rank == 0:
            shown = pixels(self.validation[:SHOWN:2], self.device)
            pairs = torch.stack([shown, reconstruct(vae, shown)], 1).flatten(0, 1)
            save_picture(folder / f"step-{step:07d}.png", grid_of_videos(as_uint8(pairs)))
        return reconstruction(vae, self.batches())


class DiTStage:
    """
    Args:
        module: of the transformer.
        options: of the stage.
        window: of bfloat16[2, Z, t, h, w] latents on the device.
        validation: the same, bfloat16[N, 2, Z, t, h, w].
        vae: frozen, for pictures.
        num_frames: of a clip.
        size: of its frames [px].
        seed: of the noise.
    """

    def __init__(
        self,
        module: DiTTrainer,
        options: DiTOptions,
        window: ClipWindow,
        validation: torch.Tensor,
        vae,
        num_frames: int,
        size: int,
        seed: int,
    ):
        self.module, self.options, self.window, self.validation = module, options, window, validation
        self.vae, self.num_frames, self.size, self.seed = vae, num_frames, size, seed

    def kind(self, step: int) -> BatchKind:
        return self.options.mixture[step % len(self.options.mixture)]

    def inputs(self, step: int) -> StepInputs:
        kind = self.kind(step)
        latents, clips = self.window.batch(step)
        batch = as_batch(latents[:, CLIP if kind == "clip" else FRAMES], kind)
        noise = noise_of(self.seed, step, self.window.rank, batch.device)
        sigmas = draw_sigmas(self.options, len(batch), noise)
        return StepInputs((batch, torch.randn(batch.shape, generator=noise, device=batch.device), sigmas), clips)

    def figures(self, sums: dict[str, torch.Tensor], steps: int) -> dict[str, float]:
        """Losses by fifths of sigma; a fifth that nothing was drawn from is left out."""
        totals, counts = sums["level_total"].tolist(), sums["level_count"].tolist()
        return {
            f"loss_sigma_{level / LEVELS:.1f}_{(level + 1) / LEVELS:.1f}": total / count
            for level, (total, count) in enumerate(zip(totals, counts, strict=True))
            if count
        }

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Losses of each kind of batch that is trained on, and a picture of samples."""
        figures: dict[str, float] = {}
        for kind in dict.fromkeys(self.options.mixture):
            latents = self.validation[:, CLIP if kind == "clip" else FRAMES]
            batches = [as_batch(part, kind) for part in latents.split(VALIDATION_BATCH)]
            losses = validation_losses(self.module, batches, self.seed)
            figures |= {f"{name}_{kind}": value for name, value in losses.items()}
        if self.window.rank == 0:
            videos = sample_videos(
                self.module.transformer,
                self.vae,
                self.module.prompt,
                seeds=[self.seed + number for number in range(SHOWN)],
                num_frames=self.num_frames if set(self.options.mixture) != {"frame"} else 1,
                height=self.size,
                width=self.size,
                steps=self.options.sampling_steps,
            )
            save_picture(folder / f"step-{step:07d}.png", grid_of_videos(videos))
        return figures
