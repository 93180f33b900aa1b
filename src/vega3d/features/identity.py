"""What the hidden states of a clip depend on besides the clip: the key of a cached entry."""

import json
from collections.abc import Sequence

import torch
import xxhash

from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.modeling.noise_vega3d import noise_level

FORMAT = 1  # of keys and entries; raise it when the features of an unchanged config change


def feature_identity(
    generator: VegaGenerator, blocks: Sequence[int] | None = None, timestep: int | None = None
) -> str:
    """All that decides a clip's hidden states but the clip, as JSON.

    What changes them by rounding only is no part of it: device, `compile`, `chunk_frames`.

    Args:
        generator: loaded from files.
        blocks: 0-based, read in place of those of its config.
        timestep: noise level asked for in place of that of its config.

    Raises:
        ValueError: if the generator was not loaded from files.
    """
    generator.settle()
    config = generator.config
    level = noise_level(config.family, config.timestep if timestep is None else timestep, config.shift)
    prompt = generator.prompt_embeds.detach().float().cpu().contiguous()
    values = {
        "format": FORMAT,
        "files": generator.files_hash(),
        "family": config.family,
        "random_seed": config.random_seed if config.family == "random" else None,
        "blocks": config.block_indices if blocks is None else [block % config.num_layers for block in blocks],
        "step": level.step,
        "sigma": level.sigma,
        "noise": [config.noise_seed, config.noise_shared, config.noise_draws],
        "clip_mode": config.clip_mode,
        "prompt": [config.prompt_length, xxhash.xxh3_128_hexdigest(prompt.numpy().tobytes())],
        "linear_precision": config.linear_precision,
        "dtype": str(next(generator.tower.encoder.parameters()).dtype),
    }
    return json.dumps(values, sort_keys=True)


def clip_hash(clip: torch.Tensor) -> str:
    """XXH3 of the pixels of a clip as the generator sees it, with its type and shape.

    Args:
        clip: uint8 or float[T, 3, H, W].
    """
    pixels = clip.detach().cpu().contiguous()
    digest = xxhash.xxh3_128(f"{pixels.dtype} {tuple(pixels.shape)}".encode())
    digest.update(pixels.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def entry_key(content: str, identity: str) -> str:
    """Name of the entry for a `clip_hash` and a `feature_identity`."""
    return xxhash.xxh3_128_hexdigest(f"{content} {identity}".encode())
