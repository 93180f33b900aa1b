"""The frozen generator: clips in, hidden states of one block out, on the generator's own grid."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import PreTrainedModel

from .configuration_vega3d import NUM_TRAIN_TIMESTEPS, VegaGeneratorConfig

NOISE_STRIDE = 1_000_003  # prime: seeds of (noise_seed, frame) meet only for clips of over a million frames
CACHED_NOISE_FRAMES = 64
PARTS = ("transformer", "vae")


def flow_matching_step(timestep: int, shift: float) -> tuple[int, float]:
    """The scheduler's step nearest to `timestep`, and its noise level.

    Sigmas of Wan's flow-matching schedule: s = 0.999 (1 - k / 1000), sigma = shift s / (1 + (shift - 1) s). Steps are
    1000 sigma cut to integers; of two steps equally near the larger is taken, and of equal steps the second one's
    sigma, as Wan's scheduler does when it adds noise.

    Args:
        timestep: wanted level, in [0, 1000].
        shift: shift of the schedule; 300 at shift 5 gives step 299 and sigma 0.299924.

    Returns:
        (step, sigma), sigma in [0, 1] with noisy = (1 - sigma) latent + sigma noise.
    """
    unshifted = (1 - 1 / NUM_TRAIN_TIMESTEPS) * (
        1 - torch.arange(NUM_TRAIN_TIMESTEPS, dtype=torch.float64) / NUM_TRAIN_TIMESTEPS
    )
    sigmas = (shift * unshifted / (1 + (shift - 1) * unshifted)).float()
    steps = (sigmas * NUM_TRAIN_TIMESTEPS).long()
    step = steps[(steps - timestep).abs().argmin()]
    matches = (steps == step).nonzero().flatten()
    return int(step), float(sigmas[matches[min(1, len(matches) - 1)]])


def load_wan(config: VegaGeneratorConfig, folder: Path, dtype: torch.dtype) -> nn.Module:
    from .generator_wan_vega3d import load_wan_tower

    return load_wan_tower(config, folder, dtype)


def build_wan(config: VegaGeneratorConfig) -> nn.Module:
    from .generator_wan_vega3d import build_wan_tower

    return build_wan_tower(config)


LOADERS: dict[str, Callable[[VegaGeneratorConfig, Path, torch.dtype], nn.Module]] = {"wan": load_wan}
BUILDERS: dict[str, Callable[[VegaGeneratorConfig], nn.Module]] = {"wan": build_wan}


class VegaGenerator(PreTrainedModel):
    """A frozen video diffusion model, queried once at one noise level and one block.

    Its weights are not part of `model.safetensors`: they come from the generator's own files, through its own loader.
    Under the meta device, where `from_pretrained` builds models, nothing is built, so that no way of loading can
    initialise them.
    """

    config_class = VegaGeneratorConfig
    config: VegaGeneratorConfig
    base_model_prefix = "generator"
    main_input_name = "clips"
    _no_split_modules = ["VegaGenerator"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: VegaGeneratorConfig):
        super().__init__(config)
        text_dim = config.transformer.get("text_dim", 4096)
        self.register_buffer("prompt_embeds", torch.zeros(config.prompt_tokens, text_dim))
        self.files: Path | None = None
        self.tower: Any = None  # a family's tower, once its weights are there
        self.step, self.sigma = flow_matching_step_on_cpu(config.timestep, config.shift)
        self._constants = None
        self._noise: dict[tuple, torch.Tensor] = {}
        self.post_init()
        if self.prompt_embeds.device.type != "meta":
            self._set_tower(BUILDERS[config.family](config))

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the generator's weights come from its files."""

    def load_files(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Takes the weights from `folder` (`transformer/`, `vae/`), onto the device where the generator is.

        Raises:
            ValueError: if files are missing, truncated or do not fit the config.
        """
        folder = Path(folder)
        tower = LOADERS[self.config.family](self.config, folder, dtype or self.prompt_embeds.dtype)
        self._set_tower(tower.to(self.prompt_embeds.device))
        self.files = folder

    def _set_tower(self, tower: nn.Module) -> None:
        self.tower = tower
        self.train(False)
        self._forget_derived()

    def train(self, mode: bool = True) -> "VegaGenerator":
        """Stays frozen and in eval mode, whatever `mode` says."""
        self.requires_grad_(False)
        return super().train(False)

    def _forget_derived(self) -> None:
        self._constants = None
        self._noise = {}

    def _apply(self, fn, recurse=True):
        module = super()._apply(fn, recurse)
        self._forget_derived()
        return module

    @torch.no_grad()
    def encode(
        self,
        clips: Sequence[torch.Tensor],
        noise: Sequence[torch.Tensor] | None = None,
        on_chunk: Callable[[int], None] | None = None,
    ) -> list[torch.Tensor]:
        """Hidden states of block l, one clip after the other; a clip's features depend on nothing but itself.

        Args:
            clips: uint8[T, 3, H, W] or float[T, 3, H, W] in [-1, 1], H and W multiples of the cell (16 px); sizes and
                lengths may differ.
            noise: float[t, Z, h, w] for each clip, in place of the seeded noise.
            on_chunk: called with the number of frames after each chunk, for progress.

        Returns:
            float[t, h, w, C] for each clip; t = T, or 1 + ceil((T - 1) / 4) in `clip` mode.

        Raises:
            ValueError: for a clip of another type, shape or range, or if the weights were not loaded.
        """
        if self.tower is None:
            raise ValueError(
                "The generator has no weights: load the model with `from_pretrained` or `from_backbones`."
            )
        for clip in clips:
            check_clip(clip, self.config.cell)
        given = noise if noise is not None else [None] * len(clips)
        # Autocast of a training loop would change the features, which must equal those of inference and of the cache.
        with torch.autocast(self.device.type, enabled=False):
            return [self._encode_clip(clip, n, on_chunk) for clip, n in zip(clips, given, strict=True)]

    def _encode_clip(self, clip, noise, on_chunk) -> torch.Tensor:
        if self._constants is None:
            self._constants = self.tower.constants(self.prompt_embeds, self.config.prompt_length, self.step)
        if self.config.clip_mode == "frame":
            return torch.cat([self._encode_chunk(clip, noise, start, on_chunk) for start in self._chunk_starts(clip)])
        if self.config.clip_mode == "views":
            latents = torch.cat(
                [self._latents(clip[s : s + self.config.chunk_frames]) for s in self._chunk_starts(clip)]
            )
        else:
            padding = -(len(clip) - 1) % 4
            latents = self._latents(torch.cat([clip, clip[-1:].expand(padding, -1, -1, -1)]))
        noisy = self._noisy(latents, 0, noise)
        hidden = self.tower(noisy.transpose(0, 1)[None], self._constants)[0]  # float[t, h, w, C]
        if on_chunk is not None:
            on_chunk(len(clip))
        return hidden

    def _chunk_starts(self, clip: torch.Tensor) -> range:
        return range(0, len(clip), self.config.chunk_frames)

    def _encode_chunk(self, clip, noise, start: int, on_chunk) -> torch.Tensor:
        frames = clip[start : start + self.config.chunk_frames]
        noisy = self._noisy(self._latents(frames), start, noise)
        hidden = self.tower(noisy.unsqueeze(2), self._constants)  # float[n, 1, h, w, C]
        if on_chunk is not None:
            on_chunk(len(frames))
        return hidden[:, 0]

    def _latents(self, frames: torch.Tensor) -> torch.Tensor:
        frames = frames.to(self.device)
        if frames.dtype == torch.uint8:
            frames = frames.float() / 127.5 - 1
        return self.tower.encode_frames(frames)

    def _noisy(self, latents: torch.Tensor, start: int, noise: torch.Tensor | None) -> torch.Tensor:
        given = self.noise(start, latents.shape) if noise is None else noise[start : start + len(latents)].to(latents)
        return self.add_noise(latents, given)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Flow matching: (1 - sigma) latents + sigma noise."""
        return (1 - self.sigma) * latents + self.sigma * noise

    def noise(self, start: int, shape: Sequence[int]) -> torch.Tensor:
        """float32[n, Z, h, w] for frames start..start + n - 1: a function of (seed, frame index), drawn on the CPU.

        The first frames of the last size are kept on the device; drawing takes as long as the model on a GPU.
        """
        count, size = shape[0], tuple(shape[1:])
        if self.config.noise_shared:
            return self._draw(0, 1, size).to(self.device).expand(count, *size)
        if start + count > CACHED_NOISE_FRAMES:
            return self._draw(start, count, size).to(self.device)
        kept = self._noise.get(size)
        if kept is None or len(kept) < start + count:
            known = 0 if kept is None else len(kept)
            drawn = self._draw(known, start + count - known, size).to(self.device)
            kept = drawn if kept is None else torch.cat([kept, drawn])
            self._noise = {size: kept}
        return kept[start : start + count]

    def _draw(self, start: int, count: int, size: tuple[int, ...]) -> torch.Tensor:
        frames = []
        for frame in range(start, start + count):
            seed = self.config.noise_seed * NOISE_STRIDE + frame
            random = torch.Generator("cpu").manual_seed(seed)
            frames.append(torch.randn(size, generator=random, dtype=torch.float32, device="cpu"))
        return torch.stack(frames)


def flow_matching_step_on_cpu(timestep: int, shift: float) -> tuple[int, float]:
    """`from_pretrained` builds models under the meta device, which has no values to compare."""
    with torch.device("cpu"):
        return flow_matching_step(timestep, shift)


def check_clip(clip: torch.Tensor, cell: int) -> None:
    if clip.ndim != 4 or clip.shape[1] != 3 or clip.shape[0] == 0:
        raise ValueError(f"A clip must be [T, 3, H, W] with at least one frame, but got {tuple(clip.shape)}.")
    if clip.shape[2] % cell or clip.shape[3] % cell or clip.shape[2] == 0 or clip.shape[3] == 0:
        raise ValueError(
            f"Frames must be multiples of {cell} px, but got {clip.shape[2]} x {clip.shape[3]}. Resize them first."
        )
    if clip.dtype == torch.uint8:
        return
    if not clip.is_floating_point():
        raise ValueError(f"Frames must be uint8, or float in [-1, 1], but got {clip.dtype}.")
    low, high = clip.min().item(), clip.max().item()
    if not (low >= -1.0 and high <= 1.0):
        raise ValueError(f"Float frames must lie in [-1, 1], but got [{low:.3g}, {high:.3g}]. Rescale them first.")


def resolve_files(source: str, checkpoint: str | Path | None, **hub) -> Path:
    """The local folder with the generator's `transformer/` and `vae/`.

    Args:
        source: `generator_config.source`.
        checkpoint: folder or Hub id of the model whose config names the source.
        hub: `revision`, `cache_dir`, `token`, `local_files_only`; passed on if the checkpoint is on the Hub.

    Raises:
        ValueError: if nothing is found there.
    """
    if Path(source).is_absolute():
        return Path(source)
    if checkpoint is not None and Path(checkpoint).is_dir():
        if (Path(checkpoint) / source).is_dir():
            return Path(checkpoint) / source
        if "/" not in source:
            raise ValueError(
                f"The generator's files are missing: {checkpoint} has no folder {source!r}. "
                "Copy the checkpoint whole, or assemble it again."
            )
    if "/" in source:
        if Path(source).is_dir():
            return Path(source)
        return Path(snapshot_download(source, allow_patterns=[f"{part}/*" for part in PARTS]))
    patterns = [f"{source}/{part}/*" for part in PARTS]
    return Path(snapshot_download(str(checkpoint), allow_patterns=patterns, **hub)) / source


def copy_files(files: Path, target: Path) -> None:
    """Copies `transformer/` and `vae/` file by file; each file appears under its name only when it is whole."""
    for part in PARTS:
        (target / part).mkdir(parents=True, exist_ok=True)
        for file in sorted((files / part).iterdir()):
            copy = target / part / file.name
            if not file.is_file() or (copy.exists() and copy.samefile(file)):
                continue
            partial = copy.with_name(copy.name + ".partial")
            shutil.copyfile(file, partial)
            partial.replace(copy)
