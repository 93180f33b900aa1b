"""The two things that are trained, as the loop sees them: the VAE, and the transformer on its latents."""

from pathlib import Path

import numpy as np
import torch

from research.tiny.simulator.config import BatchKind, DiTOptions, RoomOptions, VAEOptions
from research.tiny.simulator.dit import LEVELS, DiTTrainer, draw_sigmas, validation_losses
from research.tiny.simulator.latents import as_batch
from research.tiny.simulator.loop import StepInputs
from research.tiny.simulator.pictures import as_uint8, grid_of_videos, save_picture
from research.tiny.simulator.rooms import WalkWindow, pixels
from research.tiny.simulator.sampling import sample_videos
from research.tiny.simulator.vae import VAETrainer, latent_shape, reconstruct, reconstruction

SHOWN = 6  # clips of a picture
VALIDATION_BATCH = 8
STEP_STRIDE, RANK_STRIDE = 1_000_003, 7_919  # of seeds


def noise_of(seed: int, step: int, rank: int, device: torch.device) -> torch.Generator:
    """The stream of the noise of a step."""
    return torch.Generator(device).manual_seed((seed + 1) * 2_147_483_647 + step * STEP_STRIDE + rank * RANK_STRIDE)


def choices_of(seed: int, step: int, rank: int) -> np.random.Generator:
    """What of the walks of a step is seen."""
    return np.random.default_rng([seed, rank, step, 1])


class VAEStage:
    """
    Args:
        module: of the VAE.
        options: of the stage.
        rooms: says what clips are.
        window: of walks, uint8[T, H, W, 3].
        validation: uint8[N, T, H, W, 3].
        device: of the module.
        seed: of the noise.
    """

    def __init__(
        self,
        module: VAETrainer,
        options: VAEOptions,
        rooms: RoomOptions,
        window: WalkWindow,
        validation: torch.Tensor,
        device: torch.device,
        seed: int,
    ):
        self.module, self.options, self.rooms, self.window = module, options, rooms, window
        self.validation = validation[:, : rooms.clip_frames]
        self.device, self.seed = device, seed

    def is_of_frames(self, step: int) -> bool:
        every = self.options.frames_every
        return step < self.options.frames_first or (every > 0 and step % every == every - 1)

    def inputs(self, step: int) -> StepInputs:
        walks, ids = self.window.batch(step)
        random = choices_of(self.seed, step, self.window.rank)
        if self.is_of_frames(step):
            chosen = random.integers(self.rooms.num_frames, size=(len(walks), self.rooms.num_latents))
            frames = [walk[place, None] for walk, places in zip(walks, chosen, strict=True) for place in places]
        else:
            starts = random.integers(1 + self.rooms.num_frames - self.rooms.clip_frames, size=len(walks))
            frames = [walk[start:][: self.rooms.clip_frames] for walk, start in zip(walks, starts, strict=True)]
        batch = pixels(torch.stack(frames), self.device)
        noise = noise_of(self.seed, step, self.window.rank, self.device)
        shape = latent_shape(batch.shape, self.options.z_dim)
        return StepInputs((batch, torch.randn(shape, generator=noise, device=self.device)), ids)

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
        rooms: says what clips are.
        window: of latents of walks, bfloat16[Z, n, h, w], on the device.
        validation: the same, bfloat16[N, Z, n, h, w].
        vae: frozen, for pictures.
        seed: of the noise.
    """

    def __init__(
        self,
        module: DiTTrainer,
        options: DiTOptions,
        rooms: RoomOptions,
        window: WalkWindow,
        validation: torch.Tensor,
        vae,
        seed: int,
    ):
        self.module, self.options, self.rooms, self.window = module, options, rooms, window
        self.validation, self.vae, self.seed = validation, vae, seed

    def kind(self, step: int) -> BatchKind:
        return self.options.mixture[step % len(self.options.mixture)]

    def inputs(self, step: int) -> StepInputs:
        walks, ids = self.window.batch(step)
        batch = as_batch(walks, self.kind(step), self.rooms, choices_of(self.seed, step, self.window.rank))
        noise = noise_of(self.seed, step, self.window.rank, batch.device)
        sigmas = draw_sigmas(self.options, len(batch), noise)
        return StepInputs((batch, torch.randn(batch.shape, generator=noise, device=batch.device), sigmas), ids)

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
            random = choices_of(self.seed, 0, 0)
            batches = [as_batch(part, kind, self.rooms, random) for part in self.validation.split(VALIDATION_BATCH)]
            losses = validation_losses(self.module, batches, self.seed)
            figures |= {f"{name}_{kind}": value for name, value in losses.items()}
        if self.window.rank == 0:
            videos = sample_videos(
                self.module.transformer,
                self.vae,
                self.module.prompt,
                seeds=[self.seed + number for number in range(SHOWN)],
                num_frames=self.rooms.clip_frames if set(self.options.mixture) != {"frame"} else 1,
                height=self.rooms.size,
                width=self.rooms.size,
                steps=self.options.sampling_steps,
            )
            save_picture(folder / f"step-{step:07d}.png", grid_of_videos(videos))
        return figures
