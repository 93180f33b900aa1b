"""Latents of rooms, encoded once by the frozen VAE and kept in a file for each room.

Both stages that read them, the video generator and its image twin, see the same clips, and a run that is continued on
the same machine reads what it wrote. A file that is missing is made again.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from research.tiny.simulator.config import BatchKind, RoomOptions
from research.tiny.simulator.graphs import graphed
from research.tiny.simulator.rooms import FrameFiles, pixels, shaping_key
from research.tiny.simulator.vae import single_frames
from research.tiny.simulator.whole_clip import WholeClips
from vega3d.files import write_whole

BATCH = 16  # clips encoded together


class LatentEncoder:
    """
    Args:
        vae: frozen, on its device.
        rooms: says what clips are.
        accelerator: with the precision of the run.
    """

    def __init__(self, vae: AutoencoderKLWan, rooms: RoomOptions, accelerator: Accelerator):
        self.whole_clips, self.z_dim = WholeClips(vae), vae.config.z_dim
        self.rooms, self.accelerator = rooms, accelerator
        statistics = (vae.config.latents_mean, vae.config.latents_std)
        self.mean, self.spread = (
            torch.tensor(values, device=accelerator.device).view(1, -1, 1, 1, 1) for values in statistics
        )
        self._latents = graphed(self._encode, accelerator.device)

    def encode(self, walks: torch.Tensor) -> torch.Tensor:
        """
        Args:
            walks: uint8[B, T, H, W, 3].

        Returns:
            bfloat16[B, Z, n, h, w], normalised: latents of the clips of each walk, one after another, then of its
            views: every fourth frame encoded alone.
        """
        frames = pixels(walks, self.accelerator.device)
        clips = frames.unfold(2, self.rooms.clip_frames, self.rooms.clip_frames - 1)  # float[B, 3, clips, H, W, T]
        of_clips = self._in_parts(clips.permute(0, 2, 1, 5, 3, 4).flatten(0, 1), BATCH)
        of_views = self._in_parts(single_frames(frames), BATCH * self.rooms.num_latents)
        in_order = [one.unflatten(0, (len(walks), -1)).transpose(1, 2).flatten(2, 3) for one in (of_clips, of_views)]
        return torch.cat(in_order, 2)

    def _in_parts(self, clips: torch.Tensor, at_a_time: int) -> torch.Tensor:
        return torch.cat([self._latents(part).to(torch.bfloat16) for part in clips.split(at_a_time)])

    @torch.no_grad()
    def _encode(self, clips: torch.Tensor) -> torch.Tensor:
        """float[B, 3, T, H, W] -> float[B, Z, t, h, w]."""
        with self.accelerator.autocast():
            mean = self.whole_clips.encode(clips)[:, : self.z_dim]
        return (mean.float() - self.mean) / self.spread


def as_batch(walks: torch.Tensor, kind: BatchKind, rooms: RoomOptions, random: np.random.Generator) -> torch.Tensor:
    """What the transformer sees of some walks; about as many tokens for each kind.

    Args:
        walks: bfloat16[B, Z, n, h, w] of `LatentEncoder.encode`.
        kind: of the batch.
        rooms: says what clips are.
        random: chooses clips, or frames.

    Returns:
        A clip of each walk, float[B, Z, t, h, w]; or all views of the first walks, float[B * t // V, Z, V, h, w]; or
        single frames, float[B * t, Z, 1, h, w].
    """
    length, views = rooms.num_latents, walks[:, :, rooms.num_clips * rooms.num_latents :]
    if kind == "clip":
        starts = length * random.integers(rooms.num_clips, size=len(walks))
        return torch.stack(
            [walk[:, start : start + length] for walk, start in zip(walks, starts, strict=True)]
        ).float()
    if kind == "views":
        return views[: max(1, len(walks) * length // rooms.num_views)].float()
    chosen = random.integers(rooms.num_views, size=(len(walks), length))
    frames = [walk[:, place] for walk, places in zip(views, chosen, strict=True) for place in places]
    return torch.stack(frames).unsqueeze(2).float()


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
        """bfloat16[walks, Z, n, h, w] on the encoder's device, see `LatentEncoder.encode`."""
        path = self.folder / f"room-{number:010d}.safetensors"
        device = self.encoder.accelerator.device
        try:
            return load_file(path)["latents"].to(device)
        except (OSError, SafetensorError, KeyError):
            latents = self.encoder.encode(self.rooms.frames(number))
        write_whole(path, partial(save_file, {"latents": latents.cpu().contiguous()}))
        return latents
