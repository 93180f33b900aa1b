"""Latents of rooms, encoded once by the frozen VAE and kept in a file for each room.

Both stages that read them, the video generator and its image twin, see the same clips, and a run that is continued on
the same machine reads what it wrote. A file that is missing is made again.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vega3d.generator_training.rooms import RoomStream, pixels
from vega3d.generator_training.vae import single_frames

CLIP, FRAMES = 0, 1  # places of the two encodings
BATCH = 8  # clips encoded together
SHAPING = ("size", "num_frames", "renderer", "quality")  # options that the latents depend on


class LatentEncoder:
    """
    Args:
        vae: frozen, on its device.
        accelerator: with the precision of the run.
    """

    def __init__(self, vae: AutoencoderKLWan, accelerator: Accelerator):
        self.vae, self.accelerator = vae, accelerator
        statistics = (vae.config.latents_mean, vae.config.latents_std)
        self.mean, self.spread = (
            torch.tensor(values, device=accelerator.device).view(1, -1, 1, 1, 1) for values in statistics
        )

    @torch.no_grad()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """
        Args:
            frames: uint8[B, T, H, W, 3].

        Returns:
            bfloat16[B, 2, Z, t, h, w], normalised: latents of the clip, and of every fourth frame encoded alone.
        """
        parts = []
        for part in frames.split(BATCH):
            clip = pixels(part, self.accelerator.device)
            with self.accelerator.autocast():
                whole = self._normalised(clip)  # float[B, Z, t, h, w]
                alone = self._normalised(single_frames(clip)).squeeze(2)  # float[B * t, Z, h, w]
            alone = alone.unflatten(0, (len(part), -1)).transpose(1, 2)
            parts.append(torch.stack([whole, alone], 1).to(torch.bfloat16))
        return torch.cat(parts)

    def _normalised(self, clip: torch.Tensor) -> torch.Tensor:
        return (self.vae.encode(clip).latent_dist.mean.float() - self.mean) / self.spread


class LatentStore:
    """
    Args:
        folder: for the files; latents of other VAEs and rooms lie beside each other.
        stream: of the rooms.
        encoder: with the trained VAE.
        vae_hash: of the VAE's files.
    """

    def __init__(self, folder: Path, stream: RoomStream, encoder: LatentEncoder, vae_hash: str):
        self.stream, self.encoder = stream, encoder
        self.folder = folder / f"{stream.split}-{latents_key(stream, vae_hash)}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def room(self, number: int) -> torch.Tensor:
        """bfloat16[walks, 2, Z, t, h, w] on the encoder's device, see `LatentEncoder.encode`."""
        path = self.folder / f"room-{number:010d}.safetensors"
        device = self.encoder.accelerator.device
        try:
            return load_file(path)["latents"].to(device)
        except (OSError, SafetensorError, KeyError):
            latents = self.encoder.encode(self.stream.frames(number))
        partial = path.with_name(f".{path.name}.writing")
        save_file({"latents": latents.cpu().contiguous()}, partial)
        partial.replace(path)
        return latents


def latents_key(stream: RoomStream, vae_hash: str) -> str:
    """By which latents of these rooms by this VAE are known."""
    shaping = {name: value for name, value in asdict(stream.options).items() if name in SHAPING}
    text = json.dumps([vae_hash, stream.split, stream.walks, shaping], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
