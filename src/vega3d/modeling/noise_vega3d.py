"""Noise levels of the schedule, and noise that is a function of seed and frame."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

from .configuration_vega3d import NUM_TRAIN_TIMESTEPS

NOISE_STRIDE = 1_000_003  # prime: seeds of (noise_seed, frame) meet only for clips of over a million frames
DRAW_STRIDE = 2_654_435_761  # 2**32 / golden ratio: torch keeps 32 bits of a seed; there the draws must lie far apart
STORED_FRAMES, STORED_SIZES = 64, 4


class NoiseLevel(NamedTuple):
    """A step of the scheduler in [0, 1000), and its sigma in [0, 1]: noisy = (1 - sigma) latent + sigma noise."""

    step: int
    sigma: float


PURE_NOISE = NoiseLevel(NUM_TRAIN_TIMESTEPS - 1, 1.0)
NO_NOISE = NoiseLevel(0, 0.0)


@functools.lru_cache(maxsize=64)
def flow_matching_step(timestep: int, shift: float) -> NoiseLevel:
    """The scheduler's step nearest to `timestep`, and its noise level.

    Sigmas of Wan's flow-matching schedule: s = 0.999 (1 - k / 1000), sigma = shift s / (1 + (shift - 1) s). Steps are
    1000 sigma cut to integers; of two steps equally near the larger is taken, and of equal steps the second one's
    sigma, as Wan's scheduler does when it adds noise. 300 at shift 5 gives step 299 and sigma 0.299924.
    """
    with torch.device("cpu"):  # `from_pretrained` builds models under the meta device, which has no values to compare
        ramp = torch.arange(NUM_TRAIN_TIMESTEPS, dtype=torch.float64) / NUM_TRAIN_TIMESTEPS
        unshifted = (1 - 1 / NUM_TRAIN_TIMESTEPS) * (1 - ramp)
        sigmas = (shift * unshifted / (1 + (shift - 1) * unshifted)).float()
        steps = (sigmas * NUM_TRAIN_TIMESTEPS).long()
        step = steps[(steps - timestep).abs().argmin()]
        matches = (steps == step).nonzero().flatten()
        return NoiseLevel(int(step), float(sigmas[matches[min(1, len(matches) - 1)]]))


def noise_level(family: str, timestep: int, shift: float) -> NoiseLevel:
    """What a family sees: `noise` nothing but noise, `vae` clean latents, the others the level asked for."""
    fixed = {"noise": PURE_NOISE, "vae": NO_NOISE}
    return fixed[family] if family in fixed else flow_matching_step(timestep, shift)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
    """Flow matching: (1 - sigma) latents + sigma noise."""
    return (1 - sigma) * latents + sigma * noise


class SeededNoise:
    """Noise of frames, drawn on the CPU, so that it is the same on every device.

    The first frames of the last sizes are stored on the device; drawing takes as long as the model on a GPU. With
    `shared` there is one map for all frames of a draw.
    """

    def __init__(self, seed: int, shared: bool):
        self.seed, self.shared = seed, shared
        # For each size, float32[n, Z, h, w] of the first n frames of each draw.
        self._stored: dict[tuple[int, ...], dict[int, torch.Tensor]] = {}

    def forget(self) -> None:
        self._stored = {}

    @property
    def stored(self) -> list[torch.Tensor]:
        """The frames that are stored, of each size and draw."""
        return [frames for draws in self._stored.values() for frames in draws.values()]

    def __call__(
        self, start: int, shape: Sequence[int], device: torch.device | str = "cpu", draw: int = 0
    ) -> torch.Tensor:
        """float32[n, Z, h, w] for frames start .. start + n - 1 of a draw."""
        count, size = shape[0], tuple(shape[1:])
        if self.shared:
            return self._first(1, size, device, draw).expand(count, *size)
        if start + count > STORED_FRAMES:
            return self._draw(start, count, size, draw).to(device)
        return self._first(start + count, size, device, draw)[start:]

    def _first(self, count: int, size: tuple[int, ...], device: torch.device | str, draw: int) -> torch.Tensor:
        """float32[count, Z, h, w] of a draw, stored."""
        draws = self._stored.setdefault(size, {})
        if len(self._stored) > STORED_SIZES:
            del self._stored[next(iter(self._stored))]
        stored = draws.get(draw)
        if stored is not None and stored.device != torch.device(device):
            stored = None
        if stored is None or len(stored) < count:
            known = 0 if stored is None else len(stored)
            drawn = self._draw(known, count - known, size, draw).to(device)
            stored = drawn if stored is None else torch.cat([stored, drawn])
            draws[draw] = stored
        return stored[:count]

    def _draw(self, start: int, count: int, size: tuple[int, ...], draw: int) -> torch.Tensor:
        frames = []
        for frame in range(start, start + count):
            random = torch.Generator("cpu").manual_seed(draw * DRAW_STRIDE + self.seed * NOISE_STRIDE + frame)
            frames.append(torch.randn(size, generator=random, dtype=torch.float32, device="cpu"))
        return torch.stack(frames)
