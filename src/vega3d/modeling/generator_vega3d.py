"""The frozen generator: clips in, hidden states of one block out, on the generator's own grid."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn
from transformers import PreTrainedModel

from .configuration_vega3d import VegaGeneratorConfig
from .files_vega3d import (
    EXPORT_AGAIN,
    INFO_FILE,
    PARTS,
    generator_options,
    hash_files,
    is_generator,
    read_part_config,
)
from .inputs_vega3d import equal_items
from .layouts_vega3d import TEMPORAL_STRIDE
from .noise_vega3d import NoiseLevel, SeededNoise, add_noise, noise_level
from .quantisation_vega3d import check_float8

Hidden = dict[int, torch.Tensor]  # block -> float[..., t, h, w, C]
NOT_FINITE = (
    "The generator's features",
    "Its weights may hold NaN (copy the checkpoint again), or float16 is too narrow for it (use bfloat16 or float32).",
)


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
        self.is_offloaded = False
        self.noise = SeededNoise(config.noise_seed, config.noise_shared)
        self._constants: dict[int, Any] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._state: tuple = ()
        self.post_init()
        if self.prompt_embeds.device.type != "meta":
            from .generator_wan_vega3d import build_wan_tower

            self._set_tower(build_wan_tower(config))

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the generator's weights come from its files."""

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        dtype: torch.dtype = torch.float32,
        prompt_embeds: torch.Tensor | None = None,
        device: torch.device | str = "cpu",
        **options,
    ) -> "VegaGenerator":
        """A generator alone, without a VLM.

        Args:
            folder: with `transformer/` and `vae/` in diffusers' layout. Of a generator trained here (one with
                `prompt.safetensors` and `generator.json`) the prompt and the size of its frames are taken, and the
                block in its middle.
            dtype: of the weights.
            prompt_embeds: float[P, text_dim], in place of the stored prompt; needed where none is stored.
            device: where the weights go.
            options: fields of `VegaGeneratorConfig`, such as `block` or `clip_mode`.

        Raises:
            ValueError: if files are missing or do not fit, or for a bad option.
        """
        folder = Path(folder)
        usual: dict[str, Any] = {}
        if is_generator(folder):
            usual = generator_options(folder)
            stored = usual.pop("prompt_embeds")
            prompt_embeds = stored if prompt_embeds is None else prompt_embeds
        elif prompt_embeds is None:
            raise ValueError(
                f"{folder} holds no generator with its own prompt: {INFO_FILE} is not there. Give prompt_embeds."
            )
        configs = {part: read_part_config(folder, part) for part in PARTS}
        if usual:
            layers = configs["transformer"].get("num_layers")
            if type(layers) is not int:
                raise ValueError(f"{folder / 'transformer' / 'config.json'} does not say num_layers. {EXPORT_AGAIN}")
            usual["block"] = layers // 2
        with torch.device("meta"):
            generator = cls(cls.config_class(**configs, **{**usual, "prompt_tokens": len(prompt_embeds), **options}))
        generator.prompt_embeds = prompt_embeds.to(device, dtype)
        generator.load_files(folder)
        return generator

    def load_files(self, folder: str | Path, dtype: torch.dtype | None = None, offload: bool = False) -> None:
        """Takes the weights from `folder` (`transformer/`, `vae/`), onto the device where the generator is.

        Args:
            folder: of the two parts.
            dtype: of the weights, by default that of the prompt.
            offload: the transformer's blocks stay in host memory, and come to the device one by one when they are
                computed. The features are the same.

        Raises:
            ValueError: if files are missing, truncated or do not fit the config; for `offload` with `compile=True`.
        """
        if offload and self.config.compile:
            raise ValueError("offload is True and compile is True, but compiled blocks stay in place. Choose one.")
        from .generator_wan_vega3d import LOADERS  # and diffusers, which takes seconds, only where it is needed

        folder = Path(folder)
        tower: Any = LOADERS[self.config.family](self.config, folder, dtype or self.prompt_embeds.dtype)
        if offload:
            tower.offload(self.prompt_embeds.device)
        else:
            tower.to(self.prompt_embeds.device)
        self.is_offloaded = offload
        self._set_tower(tower)
        self.files = folder

    def variant(self, **changes) -> "VegaGenerator":
        """Another generator over the same files and prompt, with other options.

        Args:
            changes: fields of `VegaGeneratorConfig`, such as `family="random"` or `clip_mode="views"`.

        Raises:
            ValueError: if the weights of this one were not loaded from files, or for a bad option.
        """
        if self.files is None:
            raise ValueError("A variant needs the generator's files: load this one with `load_files` first.")
        config = type(self.config)(**{**self.config.to_dict(), **changes})
        with torch.device("meta"):
            other = type(self)(config)
        other.prompt_embeds = self.prompt_embeds
        other.load_files(self.files)
        return other

    def files_hash(self) -> str:
        """Hash of the files of the weights: stored at assembly, else computed, which reads them all."""
        if self.config.files_hash is None:
            if self.files is None:
                raise ValueError("The generator was not loaded from files: there is nothing to hash. Load it first.")
            self.config.files_hash = hash_files(self.files)
        return self.config.files_hash

    def _set_tower(self, tower: nn.Module) -> None:
        self.tower = tower
        self.train(False)
        self._forget_derived()

    def train(self, mode: bool = True) -> "VegaGenerator":
        """Stays frozen and in eval mode, whatever `mode` says."""
        self.requires_grad_(False)
        return super().train(False)

    def _forget_derived(self) -> None:
        self._constants = {}
        self.noise.forget()
        self._dtypes = dtypes_of(self)

    def _apply(self, fn, recurse=True):
        module = super()._apply(fn, recurse)
        self._forget_derived()
        return module

    def settle(self) -> None:
        """Undoes casts that went past `to`, and forgets what was derived from weights that have changed since.

        Offloaded weights are in another place after every pass, so nothing is looked at. Raises ValueError if a cast
        has lost digits.
        """
        if not self.is_offloaded and state_of(self) != self._state:
            restore_dtypes(self, self._dtypes)
            self._forget_derived()
            self._state = state_of(self)

    @property
    def derived(self) -> list[Any]:
        """What was derived from weights, prompt and seed so far, and is read at every use; more is in the tower."""
        return [self.tower, *self._constants.values(), *self.noise.stored]

    @property
    def level(self) -> NoiseLevel:
        """The configured noise level."""
        return noise_level(self.config.family, self.config.timestep, self.config.shift)

    def encode(
        self,
        clips: Sequence[torch.Tensor],
        noise: Sequence[torch.Tensor] | None = None,
        on_progress: Callable[[int], None] | None = None,
        finite: list[torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Hidden states of block l; a clip's features depend on nothing but itself, whatever is computed with it.

        Args:
            clips: uint8[T, 3, H, W] or float[T, 3, H, W] in [-1, 1], H and W multiples of a patch (16 px); sizes and
                lengths may differ.
            noise: float[t, Z, h, w] for each clip, in place of the seeded noise.
            on_progress: called after each chunk with its number of frames.
            finite: takes bool[n], whether the features of each clip are finite, which is then not looked at here:
                reading it waits for the GPU.

        Returns:
            float[t, h, w, C] for each clip; t = T, or ceil(T / 2) with `frame_stride=2`, or 1 + ceil((T - 1) / 4) in
            `clip` mode. With `extra_blocks` their channels follow those of `block`. They are the same in training and
            inference, whatever autocast says.

        Raises:
            ValueError: for a clip of another type, shape or range, if the weights were not loaded, for features that
                are not finite, or for `fp8` on a CPU with a torch that lacks it there.
        """
        self._check(clips)
        if noise is not None and self.config.noise_draws > 1:
            raise ValueError(f"noise is one draw, but noise_draws is {self.config.noise_draws}. Leave out one.")
        if noise is not None and len(noise) != len(clips):
            raise ValueError(f"There is noise for {len(noise)} clips, but there are {len(clips)}. Give one for each.")
        blocks = self.config.block_indices
        features: dict[int, torch.Tensor] = {}
        with undisturbed(self):
            for numbers in self._groups(clips):
                together = torch.stack([clips[number].to(self.device) for number in numbers])
                given = None if noise is None else torch.stack([noise[number].to(self.device) for number in numbers])
                chunks = []  # float[B, t, h, w, C] each
                for start, frames in self._chunks(together):
                    hidden = self._hidden(self._latents(frames), start, blocks, self.config.timestep, given)
                    chunks.append(torch.cat([hidden[block] for block in blocks], dim=-1))
                    if on_progress is not None:
                        on_progress(frames.shape[0] * self._frames_done(start, frames.shape[1], together.shape[1]))
                for row, number in enumerate(numbers):
                    features[number] = torch.cat([chunk[row] for chunk in chunks])
            in_order = [features[number] for number in range(len(clips))]
            if finite is None:
                check_finite(in_order, *NOT_FINITE)
            elif in_order:
                finite.append(all_finite(in_order))
        return in_order

    def read(
        self, clip: torch.Tensor, blocks: Sequence[int], timesteps: Sequence[int]
    ) -> Iterator[tuple[int, Hidden]]:
        """Hidden states of several blocks at several noise levels: one VAE pass a clip, one of the blocks a level.

        Args:
            clip: as in `encode`.
            blocks: 0-based, or negative from the end; none deeper than those loaded (`block`, `extra_blocks`).
            timesteps: levels asked for, in [0, 1000).

        Yields:
            The timestep, and float[t, h, w, C] for each block.

        Raises:
            ValueError: for a bad clip, block or timestep, or for hidden states that are not finite.
        """
        self._check([clip])
        indices = {block: self.config.loaded_block(block) for block in blocks}
        for timestep in timesteps:
            self.config.check_timestep(timestep)
        with undisturbed(self):
            latents = [(start, self._latents(frames)) for start, frames in self._chunks(clip[None])]
        for timestep in timesteps:
            with undisturbed(self):
                chunks = [self._hidden(chunk, start, list(indices.values()), timestep) for start, chunk in latents]
                hidden = {block: torch.cat([chunk[index][0] for chunk in chunks]) for block, index in indices.items()}
                for block, states in hidden.items():
                    check_finite([states], f"The hidden states of block {block}", NOT_FINITE[1])
            yield timestep, hidden

    def _check(self, clips: Sequence[torch.Tensor]) -> None:
        if self.tower is None:
            raise ValueError(
                "The generator has no weights: load the model with `from_pretrained` or `from_backbones`."
            )
        check_float8(self.config.linear_precision, self.device)
        self.tower.check_attention()
        for clip in clips:
            check_clip(clip, self.config.patch_size)
        self.settle()

    def _groups(self, clips: Sequence[torch.Tensor]) -> Iterator[list[int]]:
        """Numbers of the clips that are computed together: of one size, and no more frames than a chunk has.

        On a CPU each clip is alone: convolutions and matrix products round differently with the number of clips there
        (by up to 2e-5 in features of the tests' models), and features must not depend on what is beside them.
        """
        for numbers in equal_items([(clip.shape, clip.dtype) for clip in clips]):
            frames = len(clips[numbers[0]])
            count = 1 if self.device.type == "cpu" else max(1, self.config.chunk_frames // frames)
            yield from (numbers[start : start + count] for start in range(0, len(numbers), count))

    def _chunks(self, clips: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Frames of [B, T, 3, H, W] that go through the transformer together, with the number of the first.

        With a stride they are those that it sees, and are numbered anew.
        """
        seen = clips[:, :: self.config.frame_stride]
        size = self.config.chunk_frames if self.config.clip_mode == "frame" else seen.shape[1]
        for start in range(0, seen.shape[1], size):
            yield start, seen[:, start : start + size]

    def _frames_done(self, start: int, seen: int, num_frames: int) -> int:
        """Frames of a clip that are done with a chunk of frames that the generator sees, those between them too."""
        stride = self.config.frame_stride
        return min(stride * (start + seen), num_frames) - stride * start

    def _latents(self, frames: torch.Tensor) -> torch.Tensor:
        """[B, T, 3, H, W] -> float32[B, t, Z, h, w], without noise."""
        frames = unit_pixels(frames.to(self.device))
        if self.config.clip_mode == "clip":
            padding = -(frames.shape[1] - 1) % TEMPORAL_STRIDE
            return self.tower.encode_frames(torch.cat([frames, frames[:, -1:].expand(-1, padding, -1, -1, -1)], dim=1))
        chunks = frames.split(self.config.chunk_frames, dim=1)
        return torch.cat([self.tower.encode_frames(chunk) for chunk in chunks], dim=1)

    def _hidden(
        self,
        latents: torch.Tensor,
        start: int,
        blocks: Sequence[int],
        timestep: int,
        noise: torch.Tensor | None = None,
    ) -> Hidden:
        """float[B, t, h, w, C] a block for float[B, t, Z, h, w], averaged over the draws of the noise."""
        level = noise_level(self.config.family, timestep, self.config.shift)
        if level.step not in self._constants:
            self._constants[level.step] = self.tower.constants(
                self.prompt_embeds, self.config.prompt_length, level.step
            )
        constants = self._constants[level.step]
        if level.sigma == 0:
            return self._run(latents, constants, blocks)
        if noise is not None:
            given = noise[:, start : start + latents.shape[1]].to(latents)
            return self._run(add_noise(latents, given, level.sigma), constants, blocks)
        draws = []
        for draw in range(self.config.noise_draws):
            given = self._seeded_noise(start, latents, draw)
            draws.append(self._run(add_noise(latents, given, level.sigma), constants, blocks))
        return draws[0] if len(draws) == 1 else {block: mean([draw[block] for draw in draws]) for block in blocks}

    def _seeded_noise(self, start: int, latents: torch.Tensor, draw: int) -> torch.Tensor:
        """The noise of each frame, which does not depend on the stride: float[t, Z, h, w]"""
        stride = self.config.frame_stride
        shape = (latents.shape[1] * stride, *latents.shape[2:])
        return self.noise(start * stride, shape, latents.device, draw)[::stride]

    def _run(self, noisy: torch.Tensor, constants: Any, blocks: Sequence[int]) -> Hidden:
        """Frames are a batch in `frame` mode, and otherwise the time of their clip."""
        if self.config.clip_mode != "frame":
            return self.tower(noisy.transpose(1, 2), constants, blocks)
        hidden = self.tower(noisy.flatten(0, 1).unsqueeze(2), constants, blocks)  # float[B * t, 1, h, w, C] each
        return {block: states[:, 0].unflatten(0, noisy.shape[:2]) for block, states in hidden.items()}


def unit_pixels(frames: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 in [-1, 1]; floats pass, as they lie there already."""
    return frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames


def mean(draws: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([draw.float() for draw in draws]).mean(0).to(draws[0].dtype)


def check_clip(clip: torch.Tensor, size: int) -> None:
    if clip.ndim != 4 or clip.shape[1] != 3 or clip.shape[0] == 0:
        raise ValueError(f"A clip must be [T, 3, H, W] with at least one frame, but got {tuple(clip.shape)}.")
    if clip.shape[2] % size or clip.shape[3] % size or clip.shape[2] == 0 or clip.shape[3] == 0:
        raise ValueError(
            f"Frames must be multiples of {size} px, but got {clip.shape[2]} x {clip.shape[3]}. Resize them first."
        )
    if clip.dtype == torch.uint8:
        return
    if not clip.is_floating_point():
        raise ValueError(f"Frames must be uint8, or float in [-1, 1], but got {clip.dtype}.")
    low, high = clip.min().item(), clip.max().item()
    if not (low >= -1.0 and high <= 1.0):
        raise ValueError(f"Float frames must lie in [-1, 1], but got [{low:.3g}, {high:.3g}]. Rescale them first.")


# --- What keeps a frozen module the same whatever surrounds it: autocast, inference mode, casts, offloading ----------


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Computes as if the module were alone: without gradients, autocast and inference mode, its weights in place.

    What is derived here may be kept, as it does not depend on who asked first: a training loop under autocast or an
    evaluation in inference mode, whose tensors could not be used elsewhere. Weights that accelerate offloads are
    loaded, all at once, for as long as this lasts.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for part in module.modules():
            if "_hf_hook" in part.__dict__ and has_offloaded_params(part):  # accelerate's own test takes far longer
                stack.enter_context(align_module_device(part))
        for device_type in {"cpu", *(tensor.device.type for tensor in tensors_of(module))}:
            if device_type == "meta":
                raise ValueError(
                    f"Weights of {type(module).__name__} are on the meta device, which holds no values. Load the "
                    "model with `from_pretrained(..., device_map=...)` rather than moving it there."
                )
            stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


def dtypes_of(module: nn.Module) -> dict[str, torch.dtype]:
    return {name: parameter.dtype for name, parameter in module.named_parameters()}


def restore_dtypes(module: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
    """Gives parameters back the types they had, where someone set wider ones past `Module.to`.

    PEFT's `prepare_model_for_kbit_training` does: it casts all that is not quantised to float32, frozen or not. Raises
    ValueError if a parameter was set to a narrower type, which has lost digits.
    """
    for name, parameter in module.named_parameters():
        before = dtypes.get(name, parameter.dtype)  # adapters may have come, or given a parameter another name
        if parameter.dtype == before:
            continue
        if torch.promote_types(parameter.dtype, before) != parameter.dtype:
            raise ValueError(
                f"{name} of the frozen {type(module).__name__} was cast from {before} to {parameter.dtype} past `to`, "
                "and has lost digits. Use `model.to(dtype)`, or load the model in that dtype."
            )
        parameter.data = parameter.data.to(before)


def state_of(module: nn.Module) -> tuple:
    """Changes when a parameter or buffer of a module is cast, written to or replaced; says nothing about values."""
    return tuple(
        (tensor.dtype, tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version)
        for tensor in tensors_of(module)
    )


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers of a module in one walk; it is taken at every use of a generator."""
    return [
        tensor
        for part in module.modules()
        for tensor in (*part._parameters.values(), *part._buffers.values())
        if tensor is not None
    ]


def check_finite(states: Sequence[torch.Tensor], origin: str, remedy: str) -> None:
    """Raises ValueError if one of several tensors holds NaN or infinity; reads the device once for all of them."""
    if not states:
        return
    check_all(all_finite(states), origin, remedy)


def all_finite(states: Sequence[torch.Tensor]) -> torch.Tensor:
    """bool[n], which of n tensors hold neither NaN nor infinity."""
    return torch.stack([state.isfinite().all().to(states[0].device) for state in states])


def check_all(finite: torch.Tensor, origin: str, remedy: str) -> None:
    """Raises ValueError, as `check_finite`, unless `all_finite` of tensors, bool[n], is true of all."""
    found = finite.tolist()
    if not all(found):
        clip = f"clip {found.index(False)} (of {len(found)})"
        raise ValueError(f"{origin} of {clip} are not finite: they hold NaN or infinity. {remedy}")
