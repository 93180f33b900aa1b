"""The key of a cached entry: a hash of the clip, and of all else that its hidden states depend on."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from weakref import WeakKeyDictionary

import diffusers
import torch
import xxhash

from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.modeling.noise_vega3d import SeededNoise, noise_level

FORMAT = 2  # of keys and entries; raise it when the features of an unchanged config change
WORD = 8  # bytes of an int64
BLOCK = re.compile(r"transformer\.blocks\.(\d+)\.")
OUTSIDE = -1  # stands for the weights that are in no block

Setting = tuple[int, int]  # timestep asked for, block
Hashes = Mapping[int, str]  # block, or OUTSIDE -> hash of its weights
_hashed: WeakKeyDictionary[VegaGenerator, tuple[list[tuple], Hashes]] = WeakKeyDictionary()


def feature_identity(
    generator: VegaGenerator, blocks: Sequence[int] | None = None, timestep: int | None = None
) -> str:
    """Everything but the clip that decides a clip's hidden states, as JSON.

    The weights are those in memory, whatever the config says of their files. Options that change features by rounding
    only (device, `compile`, `chunk_frames`) are left out.

    Args:
        generator: loaded from files.
        blocks: blocks that are read, in place of those of its config.
        timestep: noise level asked for, in place of that of its config.

    Raises:
        ValueError: if the generator has no weights, or weights that cannot be hashed; for a bad block or timestep.
    """
    return identity_with(weights_hashes(generator), generator, blocks, timestep)


def setting_identities(generator: VegaGenerator, settings: Iterable[Setting]) -> dict[Setting, str]:
    """`feature_identity` of several noise levels and blocks, each alone; the weights are hashed once."""
    weights = weights_hashes(generator)
    return {(timestep, block): identity_with(weights, generator, [block], timestep) for timestep, block in settings}


def identity_with(
    weights: Hashes, generator: VegaGenerator, blocks: Sequence[int] | None, timestep: int | None
) -> str:
    config, tower, noise = generator.config, generator.tower, generator.noise
    asked = config.timestep if timestep is None else timestep
    config.check_timestep(asked)
    level = noise_level(config.family, asked, config.shift)
    read = config.block_indices if blocks is None else [config.loaded_block(block) for block in blocks]
    used = [weights[block] for block in sorted(weights) if block <= max(read)]
    prompt = generator.prompt_embeds.detach().float().cpu().contiguous()
    values = {
        "format": FORMAT,
        "files": generator.files_hash(),
        "weights": xxhash.xxh3_128_hexdigest(" ".join(used).encode()),
        "configs": [config.transformer, config.vae, tower.latents_mean, tower.latents_std],
        "diffusers": diffusers.__version__,
        "family": config.family,
        "random_seed": config.random_seed if config.family == "random" else None,
        "blocks": read,
        "step": level.step,
        "sigma": level.sigma,
        "noise": [noise.seed, noise.shared, config.noise_draws, signs_of_noise(noise.seed)],
        "clip_mode": config.clip_mode,
        # As keys were before these two.
        **({"frame_stride": config.frame_stride} if config.frame_stride > 1 else {}),
        **({"attention_backend": config.attention_backend} if config.attention_backend != "native" else {}),
        "prompt": [config.prompt_length, xxhash.xxh3_128_hexdigest(prompt.numpy().tobytes())],
        "linear_precision": config.linear_precision,
        "dtype": str(next(tower.encoder.parameters()).dtype),
    }
    return json.dumps(values, sort_keys=True)


def signs_of_noise(seed: int) -> str:
    """Signs of some noise of a seed: another release of torch may draw other noise. Signs are free of rounding."""
    return "".join("+" if value > 0 else "-" for value in SeededNoise(seed, False)(0, (1, 2, 4, 4)).flatten().tolist())


def weights_hashes(generator: VegaGenerator) -> Hashes:
    """XXH3 of the weights in memory, block by block: classes of modules, and names, types, shapes, values of tensors.

    The hashes are stored until the weights change, which every call checks. After a change the generator forgets what
    it has derived from the earlier weights. Raises ValueError if there are no weights, or they are of a kind whose
    values cannot be read.
    """
    tower = generator.tower
    if tower is None:
        raise ValueError("The generator has no weights, so its features have no key. Load it from its files first.")
    generator.settle()
    tensors = dict(tower.named_parameters(remove_duplicate=False)) | dict(tower.named_buffers(remove_duplicate=False))
    for name, tensor in tensors.items():
        check_readable(name, tensor)
    state = [sum_and_place(tensor) for tensor in (generator.prompt_embeds, *tensors.values())]
    if generator not in _hashed or _hashed[generator][0] != state:
        generator._forget_derived()
        digests: dict[int, xxhash.xxh3_128] = {}
        for name, module in tower.named_modules():
            digest_of(name, digests).update(f"{name} {type(module).__name__}".encode())
        for name, tensor in tensors.items():
            digest_of(name, digests).update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest_of(name, digests).update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        _hashed[generator] = state, {block: digest.hexdigest() for block, digest in digests.items()}
    return _hashed[generator][1]


def digest_of(name: str, digests: dict[int, xxhash.xxh3_128]) -> xxhash.xxh3_128:
    """The digest of the block that a module or tensor of this name belongs to."""
    block = BLOCK.match(f"{name}.")
    return digests.setdefault(OUTSIDE if block is None else int(block[1]), xxhash.xxh3_128())


def check_readable(name: str, tensor: torch.Tensor) -> None:
    """Raises ValueError for a tensor whose value cannot be read from its own bytes: quantised, or on `meta`."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.device.type == "meta":
        raise ValueError(
            f"The generator's weight {name} is a {type(tensor).__name__} on the device {tensor.device}, whose values "
            "cannot be hashed, so its features are not cached. Load it whole and unquantised (linear_precision is "
            "for 8 bits), or do without the cache."
        )


def sum_and_place(tensor: torch.Tensor) -> tuple:
    """A value that differs after any change of the tensor, also in place or through `.data`; cheap on its device."""
    flat = tensor.detach().reshape(-1)
    in_words = flat.nbytes % WORD == 0 and flat.storage_offset() * flat.itemsize % WORD == 0
    total = flat.view(torch.int64 if in_words else torch.uint8).sum(dtype=torch.int64)
    version = None if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tuple(tensor.shape), int(total)


def clip_hash(clip: torch.Tensor) -> str:
    """XXH3 of the pixels, type and shape of a clip uint8 or float[T, 3, H, W], as the generator gets it."""
    pixels = clip.detach().cpu().contiguous()
    digest = xxhash.xxh3_128(f"{pixels.dtype} {tuple(pixels.shape)}".encode())
    digest.update(pixels.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def entry_key(content: str, identity: str) -> str:
    """The name of the entry for a `clip_hash` and a `feature_identity`."""
    return xxhash.xxh3_128_hexdigest(f"{content} {identity}".encode())
