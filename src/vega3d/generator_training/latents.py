"""Latents of rooms, encoded once by the frozen VAE and kept in a file for each room.

Both stages that read them, the video generator and its image twin, see the same clips, and a run that is continued on
the same machine reads what it wrote. A file that is missing is made again.
"""

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vega3d.generator_training.graphs import graphed
from vega3d.generator_training.rooms import FrameFiles, pixels, shaping_key
from vega3d.generator_training.vae import single_frames
from vega3d.generator_training.whole_clip import WholeClips

CLIP, FRAMES = 0, 1  # places of the two encodings
BATCH = 16  # clips encoded together


class LatentEncoder:
    """
    Args:
        vae: frozen, on its device.
        accelerator: with the precision of the run.
    """

    def __init__(self, vae: AutoencoderKLWan, accelerator: Accelerator):
        self.whole_clips, self.z_dim, self.accelerator = WholeClips(vae), vae.config.z_dim, accelerator
        statistics = (vae.config.latents_mean, vae.config.latents_std)
        self.mean, self.spread = (
            torch.tensor(values, device=accelerator.device).view(1, -1, 1, 1, 1) for values in statistics
        )
        self._both = graphed(self._encode, accelerator.device)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """
        Args:
            frames: uint8[B, T, H, W, 3].

        Returns:
            bfloat16[B, 2, Z, t, h, w], normalised: latents of the clip, and of every fourth frame encoded alone.
        """
        device = self.accelerator.device
        return torch.cat([self._both(pixels(part, device)).to(torch.bfloat16) for part in frames.split(BATCH)])

    @torch.no_grad()
    def _encode(self, clip: torch.Tensor) -> torch.Tensor:
        """float[B, 3, T, H, W] -> float[B, 2, Z, t, h, w]."""
        with self.accelerator.autocast():
            whole = self._normalised(clip)  # float[B, Z, t, h, w]
            alone = self._normalised(single_frames(clip)).squeeze(2)  # float[B * t, Z, h, w]
        return torch.stack([whole, alone.unflatten(0, (len(clip), -1)).transpose(1, 2)], 1)

    def _normalised(self, clip: torch.Tensor) -> torch.Tensor:
        mean = self.whole_clips.encode(clip)[:, : self.z_dim]
        return (mean.float() - self.mean) / self.spread


class LatentStore:
    """
    Args:
        folder: for the files; latents of other VAEs and rooms lie beside each other.
        rooms: whose frames are encoded.
        encoder: with the trained VAE.
        vae_hash: of the VAE's files.
    """

    def __init__(self, folder: Path, rooms: FrameFiles, encoder: LatentEncoder, vae_hash: str):
        self.rooms, self.encoder = rooms, encoder
        self.folder = folder / f"{rooms.stream.split}-{shaping_key(rooms.stream, vae_hash)}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def room(self, number: int) -> torch.Tensor:
        """bfloat16[walks, 2, Z, t, h, w] on the encoder's device, see `LatentEncoder.encode`."""
        path = self.folder / f"room-{number:010d}.safetensors"
        device = self.encoder.accelerator.device
        try:
            return load_file(path)["latents"].to(device)
        except (OSError, SafetensorError, KeyError):
            latents = self.encoder.encode(self.rooms.frames(number))
        partial = path.with_name(f".{path.name}.writing")
        save_file({"latents": latents.cpu().contiguous()}, partial)
        partial.replace(path)
        return latents
