"""Wan2.1 text-to-video as a latent world simulator: VAE, blocks 0..l of the transformer, and nothing after them.

Everything that does not depend on the frames is computed once: modulations of the single noise level, keys and values
of the constant prompt, rotary tables. Three controls have the same interface: what does not come of the training, of
the image, of the transformer.
"""

import contextlib
import functools
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention import FeedForward
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from diffusers.utils import logging as diffusers_logging
from torch import nn

from .attention_wan_vega3d import Attend, attention_by, check_attention
from .causal_vae_wan_vega3d import CausalWanEncoder
from .configuration_vega3d import VegaGeneratorConfig
from .files_vega3d import check_indices, read_json, value_errors, weight_names
from .kernels_wan_vega3d import (
    ROTATE_HEADS,
    add,
    add_norm_round,
    can_run,
    gelu_peak,
    gelu_round,
    norm_round,
    plain_prompt_attention,
    prompt_round,
    rotate,
    round_tokens,
    split_heads,
)
from .layouts_vega3d import LATENT_EDGE, TEMPORAL_STRIDE, check_part_class, is_tiny
from .quantisation_vega3d import EightBitLinear, RoundedTokens, lower_linears
from .tiny_vae_wan_vega3d import TinyFrameEncoder, TinyVAEToLatents
from .vae_wan_vega3d import FoldedWanEncoder, channel_statistics, normalise_latents

Visit = Callable[[int, WanTransformerBlock], None]  # the index of a block, and the block
VisitBlocks = Callable[[Visit, int], None]  # visits as many blocks, from the first
OFFLOADING: dict[str, Any] = {"offload_device": "cpu", "offload_type": "block_level"}
OTHER_FILES = "The files are of another generator: copy the checkpoint again, or assemble it anew."

# --- The generator ---------------------------------------------------------------------------------------------------


class BlockConstants(NamedTuple):
    """What a block needs besides the hidden states; C channels, H heads, P + 1 distinct prompt rows."""

    attention_scale: torch.Tensor  # float[C]
    attention_shift: torch.Tensor  # float[C]
    attention_gate: torch.Tensor  # float[C]
    feed_forward_scale: torch.Tensor  # float[C]
    feed_forward_shift: torch.Tensor  # float[C]
    feed_forward_gate: torch.Tensor  # float[C]
    prompt_norm: tuple[torch.Tensor, torch.Tensor]  # weight and bias, float[C]
    prompt_key: torch.Tensor  # float[1, H, P + 1, C / H]
    prompt_value: torch.Tensor  # float[1, H, P + 1, C / H]


class WanConstants(NamedTuple):
    blocks: list[BlockConstants]
    prompt_bias: torch.Tensor  # float[1, 1, 1, P + 1], log of how often each prompt row occurs


class EarlyExitWanTransformer(WanTransformer3DModel):
    """Wan's transformer, loaded up to the block that is read: the blocks after it are in the files and not wanted."""

    _keys_to_ignore_on_load_unexpected = ("norm_added_q", r"^blocks\.")


class WanVAEToLatents(AutoencoderKLWan):
    """Wan's VAE without its decoder, which features do not need and files may lack."""

    _keys_to_ignore_on_load_unexpected = (r"^decoder\.", r"^post_quant_conv\.")

    @functools.wraps(AutoencoderKLWan.__init__)  # type: ignore[misc]  # diffusers reads the signature
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.decoder = None
        self.post_quant_conv = None


VAEToLatents = WanVAEToLatents | TinyVAEToLatents


def vae_class(config: VegaGeneratorConfig) -> type[VAEToLatents]:
    """What the VAE's config is of."""
    return TinyVAEToLatents if is_tiny(config.vae) else WanVAEToLatents


class LatentTower(nn.Module):
    """The VAE's encoder, with the normalisation of its latents."""

    def __init__(self, vae: VAEToLatents, config: VegaGeneratorConfig):
        super().__init__()
        self.is_causal = config.clip_mode == "clip"
        self.encoder: Any
        if isinstance(vae, TinyVAEToLatents):
            self.encoder = TinyFrameEncoder(vae)
        else:
            self.encoder = CausalWanEncoder(vae) if self.is_causal else FoldedWanEncoder(vae)
        self.latents_mean = vae.config.latents_mean
        self.latents_std = vae.config.latents_std
        self._statistics: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        if config.compile:
            self.encoder.compile()

    def slice_frames(self) -> None:
        """From now on the VAE encodes one frame at a time; the causal one, which goes by fours, four."""
        self.encoder.pixels_at_a_time = 1

    def check_attention(self) -> None:
        """Nothing: the VAE's attention is torch's."""

    def offload(self, device: torch.device) -> None:
        """Goes to the device, but for what a subclass leaves in host memory."""
        self.to(device)

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Mean of the posterior, normalised per channel: float[B, T, 3, H, W] in [-1, 1] -> float32[B, t, Z, h, w].

        t is 1 + (T - 1) / 4 for the causal encoder, else T.
        """
        frames = frames.to(next(self.encoder.parameters()).dtype)
        if self.is_causal:
            latents = self.encoder.encode(frames)
        else:
            parts = self.encoder.parts(frames.flatten(0, 1))
            latents = torch.cat([self.encoder(part) for part in parts]).unflatten(0, frames.shape[:2])
        device = latents.device
        if device not in self._statistics:
            self._statistics[device] = channel_statistics(self.latents_mean, self.latents_std, device)
        return normalise_latents(latents, *self._statistics[device])


class WanTower(LatentTower):
    """VAE encoder and transformer up to the deepest block that is read, and nothing after it."""

    def __init__(self, transformer: WanTransformer3DModel, vae: VAEToLatents, config: VegaGeneratorConfig):
        super().__init__(vae, config)
        self.is_compiled = config.compile
        # None is where they can run, and theirs are products in float8; tests and benchmarks say yes or no.
        self.with_kernels: bool | None = None if takes_float8(transformer) else False
        self.attend = attention_by(config.attention_backend)
        self.attention_backend = config.attention_backend
        self.run_block = torch.compile(run_block) if config.compile else run_block
        self.transformer: Any = transformer
        self.visit_offloaded: VisitBlocks | None = None

    def offload(self, device: torch.device) -> None:
        """Goes to the device, but for the blocks: they wait in host memory, and are there one by one when needed."""
        blocks, self.transformer.blocks = self.transformer.blocks, nn.ModuleList()
        self.to(device)
        self.transformer.blocks = blocks
        # Not as a module, which would give each block a second name.
        self.visit_offloaded = OffloadedBlocks(blocks, device).__call__

    def visit_blocks(self, visit: Visit, count: int) -> None:
        """Calls `visit` with the first blocks in their order, each where it can be computed."""
        if self.visit_offloaded is not None:
            self.visit_offloaded(visit, count)
            return
        for index in range(count):
            visit(index, self.transformer.blocks[index])

    def check_attention(self) -> None:
        """Raises ValueError if the attention backend cannot compute with the weights' type where they are."""
        config, weight = self.transformer.config, self.transformer.patch_embedding.weight
        check_attention(
            self.attend, self.attention_backend, config.num_attention_heads, config.attention_head_dim, weight
        )

    def embed_prompt(self, prompt: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The distinct rows of the projected prompt, and the logarithm of how often each occurs.

        The prompt float[P, text_dim] is padded to `length` rows of zeros before the text projection and attention has
        no mask, so the padded rows take part. They are all the same row: one key, counted `length - P` times.

        Returns:
            float[1, P + 1, C] and float[P + 1] (P, if nothing is padded).
        """
        padded = length - prompt.shape[0]
        count = torch.ones(prompt.shape[0], device=prompt.device, dtype=torch.float32)
        if padded > 0:
            prompt = torch.cat([prompt, torch.zeros_like(prompt[:1])])
            count = torch.cat([count, count.new_tensor([float(padded)])])
        return self.transformer.condition_embedder.text_embedder(prompt)[None], count.log()

    def constants(self, prompt: torch.Tensor, prompt_length: int, timestep: int) -> WanConstants:
        """Modulations, prompt keys and values for one prompt float[P, text_dim], not yet padded, and one noise level.

        `timestep` is a step of the scheduler, an integer in [0, 1000).
        """
        embedder = self.transformer.condition_embedder
        dtype = embedder.time_proj.weight.dtype
        embedded, prompt_bias = self.embed_prompt(prompt.to(dtype), prompt_length)
        frequencies = embedder.timesteps_proj(torch.tensor([timestep], device=prompt.device))
        time = embedder.time_embedder(frequencies.to(embedder.time_embedder.linear_1.weight.dtype)).to(dtype)
        modulation = embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1)).float()  # float[1, 6, C]
        blocks: list[BlockConstants] = []

        def add(index: int, block: WanTransformerBlock) -> None:
            blocks.append(block_constants(block, modulation, embedded))

        self.visit_blocks(add, len(self.transformer.blocks))
        return WanConstants(blocks, prompt_bias.to(dtype).view(1, 1, 1, -1))

    def rotary(self, latents: torch.Tensor, fused: bool = False) -> torch.Tensor:
        """complex[1, L, 1, C / H / 2] for float[B, Z, t, h, w], or float[2, ...] for the compiler and the kernels."""
        cosine, sine = self.transformer.rope(latents)
        parts = cosine[..., 0::2].float(), sine[..., 1::2].float()
        return torch.stack(parts) if self.is_compiled or fused else torch.complex(*parts)

    def forward(
        self, latents: torch.Tensor, constants: WanConstants, blocks: Sequence[int]
    ) -> dict[int, torch.Tensor]:
        """Hidden states after the blocks asked for, before the output head; nothing is computed after the deepest.

        Noisy latents float[B, Z, t, h, w] -> float[B, t, h / p, w / p, C] for each block, which count from 0; a token
        covers p x p latents, `latent_patch` of the config.
        """
        embedded = self.transformer.patch_embedding(latents.to(self.transformer.patch_embedding.weight.dtype))
        grid = embedded.shape[2:]
        hidden = embedded.flatten(2).transpose(1, 2).contiguous()  # float[B, L, C]
        fused = can_run(hidden) if self.with_kernels is None else self.with_kernels
        rotary = self.rotary(latents, fused)
        kept = {}

        def run(index: int, block: WanTransformerBlock) -> None:
            nonlocal hidden
            given = constants.blocks[index], constants.prompt_bias, rotary, self.attend, fused
            hidden = self.run_block(block, hidden, *given)
            if index in blocks:
                kept[index] = hidden.unflatten(1, grid)

        self.visit_blocks(run, max(blocks) + 1)
        return kept


class OffloadedBlocks(nn.Module):
    """Blocks of a transformer that wait in host memory; each is on the device while it is visited.

    diffusers' hooks bring them there. They act on calls of a module, so the visits take the place of `forward`.

    Args:
        blocks: in the order in which they are computed, on the CPU.
        device: where they are computed; on a GPU the next block is brought while one is computed.
    """

    start: torch.Tensor

    def __init__(self, blocks: nn.ModuleList, device: torch.device):
        super().__init__()
        for block in blocks:
            block.forward = functools.partial(visited, block)
        self.blocks = blocks
        # diffusers brings blocks ahead only for a module with a tensor beside them.
        self.register_buffer("start", torch.zeros(()), persistent=False)
        apply_group_offloading(
            self, onload_device=device, num_blocks_per_group=1, use_stream=device.type == "cuda", **OFFLOADING
        )

    def forward(self, visit: Visit, count: int) -> None:
        for index, block in enumerate(itertools.islice(self.blocks, count)):
            block(functools.partial(visit, index))


def visited(block: nn.Module, visit: Callable[[nn.Module], None]) -> None:
    visit(block)


def block_constants(block: WanTransformerBlock, modulation: torch.Tensor, prompt: torch.Tensor) -> BlockConstants:
    """What a block needs for the noise level of float32[1, 6, C], and for the projected prompt float[1, P + 1, C]."""
    shift, scale, gate, ff_shift, ff_scale, ff_gate = (block.scale_shift_table.float() + modulation)[0].to(
        prompt.dtype
    )
    cross = block.attn2
    key = split_heads(cross.norm_k(cross.to_k(prompt)), cross.heads).transpose(1, 2)
    value = split_heads(cross.to_v(prompt), cross.heads).transpose(1, 2)
    norm = (block.norm2.weight.to(prompt.dtype), block.norm2.bias.to(prompt.dtype))
    return BlockConstants(1 + scale, shift, gate, 1 + ff_scale, ff_shift, ff_gate, norm, key, value)


def self_attention(
    attention: WanAttention, hidden: torch.Tensor | RoundedTokens, rotary: torch.Tensor, attend: Attend
) -> torch.Tensor:
    rounded = isinstance(hidden, RoundedTokens)
    norms = attention.norm_q, attention.norm_k
    if rounded:
        states = attention.to_q(hidden), attention.to_k(hidden)
        query, key = ROTATE_HEADS(*states, norms[0].weight, norms[1].weight, rotary, norms[0].eps)
    else:
        query = rotate(split_heads(norms[0](attention.to_q(hidden)), attention.heads), rotary)
        key = rotate(split_heads(norms[1](attention.to_k(hidden)), attention.heads), rotary)
    value = split_heads(attention.to_v(hidden), attention.heads)
    attended = attend(query, key, value).flatten(2)
    return attention.to_out[0](round_tokens(attended) if rounded else attended)


def prompt_attention(
    attention: WanAttention,
    hidden: torch.Tensor | RoundedTokens,
    constants: BlockConstants,
    prompt_bias: torch.Tensor,
) -> torch.Tensor:
    query, norm = attention.to_q(hidden), attention.norm_q
    prompt = constants.prompt_key, constants.prompt_value, prompt_bias
    if isinstance(hidden, RoundedTokens):
        return attention.to_out[0](prompt_round(query, norm.weight, *prompt, norm.eps))
    return attention.to_out[0](plain_prompt_attention(norm(query), *prompt))


def feed_forward(ffn: FeedForward, hidden: torch.Tensor | RoundedTokens) -> torch.Tensor:
    """Linear, GELU (tanh), linear, on float[B, L, C]."""
    gelu, down = ffn.net[0], ffn.net[2]
    if isinstance(hidden, RoundedTokens):
        return down(gelu_round(gelu.proj(hidden)))
    if isinstance(down, EightBitLinear):
        widened = gelu.proj(hidden)
        return down(gelu.gelu(widened), gelu_peak(widened))
    if hidden.is_cuda:  # there the GELU is part of the product; on a CPU the same function takes another GELU
        tokens, up = hidden.flatten(0, 1), gelu.proj
        widened = torch._addmm_activation(up.bias, tokens, up.weight.t(), use_gelu=True)
        return down(widened).unflatten(0, hidden.shape[:2])
    return ffn(hidden)


def run_block(
    block: WanTransformerBlock,
    hidden: torch.Tensor,
    constants: BlockConstants,
    prompt_bias: torch.Tensor,
    rotary: torch.Tensor,
    attend: Attend,
    fused: bool,
) -> torch.Tensor:
    """One `WanTransformerBlock` on float[B, L, C]; the modulations are the affine part of its norms.

    With `fused`, what is between its products in float8 is that of the kernels.
    """
    epsilon = block.norm1.eps
    # 1. Self-attention
    normed = norm(hidden, constants.attention_scale, constants.attention_shift, epsilon, fused)
    attended = self_attention(block.attn1, normed, rotary, attend)
    # 2. Cross-attention to the prompt
    hidden, normed = add_norm(hidden, attended, constants.attention_gate, *constants.prompt_norm, epsilon, fused)
    attended = prompt_attention(block.attn2, normed, constants, prompt_bias)
    # 3. Feed-forward
    affine = constants.feed_forward_scale, constants.feed_forward_shift
    hidden, normed = add_norm(hidden, attended, None, *affine, epsilon, fused)
    return add(hidden, feed_forward(block.ffn, normed), constants.feed_forward_gate)


def takes_float8(transformer: WanTransformer3DModel) -> bool:
    """Whether the linears of its blocks, which all have one precision, multiply in float8."""
    linear = transformer.blocks[0].attn1.to_q
    return isinstance(linear, EightBitLinear) and linear.precision == "fp8"


def norm(
    hidden: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, epsilon: float, fused: bool
) -> torch.Tensor | RoundedTokens:
    """The layer norm of float[B, L, C] with an affine part float[C], rounded to float8 with `fused`."""
    if fused:
        return norm_round(hidden, scale, shift, epsilon)
    return F.layer_norm(hidden, hidden.shape[-1:], scale, shift, epsilon)


def add_norm(
    hidden: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor | None,
    scale: torch.Tensor,
    shift: torch.Tensor,
    epsilon: float,
    fused: bool,
) -> tuple[torch.Tensor, torch.Tensor | RoundedTokens]:
    """The residual stream float[B, L, C] after an update, and its `norm`."""
    if fused:
        return add_norm_round(hidden, update, gate, scale, shift, epsilon)
    hidden = add(hidden, update, gate)
    return hidden, norm(hidden, scale, shift, epsilon, fused)


def build_wan_tower(config: VegaGeneratorConfig) -> WanTower:
    """A tower with random weights, for tests and benchmarks."""
    return WanTower(build_transformer(config), vae_class(config).from_config(config.vae), config)


def build_transformer(config: VegaGeneratorConfig) -> WanTransformer3DModel:
    return WanTransformer3DModel.from_config({**config.transformer, "num_layers": config.num_blocks_read})


def load_wan_tower(
    config: VegaGeneratorConfig, folder: Path, dtype: torch.dtype, tower_class: type[WanTower] = WanTower
) -> WanTower:
    """Loads the blocks that are read and the VAE by diffusers' own loader, with its own float32 exceptions.

    Raises ValueError if a file is missing, truncated, or of other shapes than the config says.
    """
    layers = {"num_layers": config.num_blocks_read}
    transformer = load_part(EarlyExitWanTransformer, folder, "transformer", config.transformer, dtype, **layers)
    return tower_class(lower_linears(transformer, config.linear_precision), load_vae(config, folder, dtype), config)


def load_vae(config: VegaGeneratorConfig, folder: Path, dtype: torch.dtype) -> VAEToLatents:
    return load_part(vae_class(config), folder, "vae", config.vae, dtype)  # type: ignore[return-value]


def load_part(part_class: Any, folder: Path, name: str, config: dict, dtype: torch.dtype, **changes) -> nn.Module:
    place = folder / name
    check_files(place, name, config)
    remedy = "Copy the checkpoint again; its files may be missing, truncated or of another model."
    try:
        with value_errors(str(place), remedy), bars_on_terminals_only():
            model, info = part_class.from_pretrained(
                folder, subfolder=name, torch_dtype=dtype, use_safetensors=True, output_loading_info=True, **changes
            )
            unknown = weight_names(place, "diffusion_pytorch_model") - model.state_dict().keys()
    except (OSError, ValueError) as error:
        raise ValueError(f"The generator's {name} in {place} cannot be loaded: {error} {remedy}") from error
    wrong = [*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])]
    if wrong:
        raise ValueError(
            f"The generator's {name} in {place} lacks {len(wrong)} of its weights, the first is {wrong[0]}. "
            "Copy the checkpoint again; a generator is never initialised at random."
        )
    unused = sorted(key for key in unknown if not is_unread(key, changes.get("num_layers")))
    if unused:
        raise ValueError(
            f"The generator's {name} in {place} has {len(unused)} weights that its config does not tell of, the first "
            f"is {unused[0]}. {OTHER_FILES}"
        )
    return model


def is_unread(key: str, num_layers: int | None) -> bool:
    """Whether a weight is of a block after those that are loaded, of the decoder, or of a norm without a place."""
    block = re.match(r"blocks\.(\d+)\.", key)
    is_after = block is not None and num_layers is not None and int(block[1]) >= num_layers
    return is_after or "norm_added_q" in key or key.startswith(("decoder.", "post_quant_conv."))


def check_files(place: Path, name: str, config: dict) -> None:
    """Raises ValueError unless the files of a part are there and of the class and config that the model says."""
    if not (place / "config.json").is_file():
        raise ValueError(
            f"The generator's {name} is missing: {place} has no config.json. "
            "Copy the checkpoint whole, with its generator folder, or assemble it again."
        )
    stored = read_json(place / "config.json")
    check_part_class(name, stored, place)
    check_indices(place)
    for key in config.keys() & stored.keys():
        ours, theirs = (list(value) if isinstance(value, tuple) else value for value in (config[key], stored[key]))
        if ours != theirs:
            raise ValueError(
                f"The generator's {name} in {place} has {key}={theirs!r}, but the model's config says {ours!r}. "
                f"{OTHER_FILES}"
            )


@contextlib.contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Progress bars of diffusers are for people: a file that standard error goes to gets none."""
    silenced = diffusers_logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    if silenced:
        diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if silenced:
            diffusers_logging.enable_progress_bar()


# --- Controls --------------------------------------------------------------------------------------------------------


def load_random_tower(config: VegaGeneratorConfig, folder: Path, dtype: torch.dtype) -> WanTower:
    """The trained VAE before a transformer of the same architecture with weights from `random_seed`.

    The control differs from `wan` in one thing, the training of the transformer.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(config.random_seed)
        transformer = build_transformer(config)
    in_float32 = set(WanTransformer3DModel._keep_in_fp32_modules)
    for name, parameter in transformer.named_parameters():
        if not in_float32.intersection(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return WanTower(lower_linears(transformer, config.linear_precision), load_vae(config, folder, dtype), config)


class NoiseTower(WanTower):
    """The trained transformer at sigma 1: it sees noise and no image."""

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Zeros in the shape of the latents, float32[B, t, Z, h, w]; at sigma 1 they count for nothing."""
        batch, count, _, height, width = frames.shape
        t = 1 + (count - 1) // TEMPORAL_STRIDE if self.is_causal else count
        size = (batch, t, len(self.latents_mean), height // LATENT_EDGE, width // LATENT_EDGE)
        return torch.zeros(size, device=frames.device, dtype=torch.float32)


class VAETower(LatentTower):
    """Clean latents of the VAE, on the grid of the transformer: a token is p x p of them (`latent_patch`)."""

    def __init__(self, vae: VAEToLatents, config: VegaGeneratorConfig):
        super().__init__(vae, config)
        self.latent_patch = config.latent_patch

    def constants(self, prompt: torch.Tensor, prompt_length: int, timestep: int) -> None:
        """Nothing depends on the prompt or the noise level."""

    def forward(self, latents: torch.Tensor, constants: None, blocks: Sequence[int]) -> dict[int, torch.Tensor]:
        """float[B, Z, t, h, w] -> float[B, t, h / p, w / p, p * p * Z], the same for every block."""
        batch, channels, t, h, w = latents.shape
        rows, columns = h // self.latent_patch, w // self.latent_patch
        windows = latents.reshape(batch, channels, t, rows, self.latent_patch, columns, self.latent_patch)
        tokens = windows.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)
        return dict.fromkeys(blocks, tokens.to(next(self.encoder.parameters()).dtype))


def load_vae_tower(config: VegaGeneratorConfig, folder: Path, dtype: torch.dtype) -> nn.Module:
    return VAETower(load_vae(config, folder, dtype), config)


LOADERS: dict[str, Callable[[VegaGeneratorConfig, Path, torch.dtype], nn.Module]] = {
    "wan": load_wan_tower,
    "random": load_random_tower,
    "noise": functools.partial(load_wan_tower, tower_class=NoiseTower),
    "vae": load_vae_tower,
}
