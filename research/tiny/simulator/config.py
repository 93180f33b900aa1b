"""`GeneratorConfig`: all that the training of a generator depends on, from a YAML or JSON file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from vega3d.configs import check_range, make_settings, read_settings, shown

BatchKind = Literal["clip", "views", "frame"]
KINDS: tuple[BatchKind, ...] = ("clip", "views", "frame")
STRIDE, CELL = 4, 16  # frames of a latent; edge of a token [px]
MOST = 10**9  # of numbers that have no limit of their own
MOST_OF = {
    "workers": 256,
    "size": 4096,
    "num_frames": 4097,
    "clip_frames": 4097,
    "walks": 4096,
    "validation_walks": 4096,
    "new_walks": 10**6,
    "window": 10**6,
    "batch_size": 10**5,
    "base_dim": 4096,
    "z_dim": 4096,
    "num_res_blocks": 64,
    "num_layers": 1024,
    "num_attention_heads": 1024,
    "attention_head_dim": 1024,
    "ffn_dim": 10**6,
    "freq_dim": 10**5,
    "prompt_tokens": 4096,
    "seed": 2**31 - 1,  # from which torch's own are made
}
MOST_TIMES_WIDER = 64  # of `dim_mult`
LEVELS_OF_PATCHES = {1: 4, 2: 3}  # of the VAE, whose latents are of 8 px
WITHOUT_EFFECT = {
    "workers",
    "save_steps",
    "save_minutes",
    "logging_steps",
    "compile",
    "cuda_graphs",
}  # speed, not values


@dataclass(frozen=True, kw_only=True)
class RoomOptions:
    """
    Args:
        size: edge of the square frames [px], a multiple of 16.
        num_frames: of a walk, 1 + n (clip_frames - 1).
        clip_frames: consecutive frames that the causal VAE and the transformer see as a clip, 1 + 4k. Views, which are
            farther apart, are every fourth frame of a walk.
        walks: of a room, which share its light.
        workers: processes that make rooms, for each process that trains; 0 makes them in between steps (embree).
        renderer: as in `stream_clips`.
        quality: of the light.
        validation_rooms: of the split `validation`.
        validation_walks: of each.
    """

    size: int = 192
    num_frames: int = 65
    clip_frames: int = 17
    walks: int = 4
    workers: int = 1
    renderer: Literal["opengl", "embree"] = "opengl"
    quality: Literal["full", "fast"] = "fast"
    validation_rooms: int = 16
    validation_walks: int = 4

    def __post_init__(self):
        at_least(self, 1, "size", "num_frames", "clip_frames", "walks", "validation_rooms", "validation_walks")
        at_least(self, 0, "workers")
        if not self.workers and self.renderer != "embree":
            raise ValueError(f"rooms.workers is 0, but {self.renderer} needs at least 1. Use embree, or more workers.")
        if self.size % CELL:
            raise ValueError(f"rooms.size is {self.size}, but must be a multiple of {CELL} px, the edge of a token.")
        if self.clip_frames < 1 + STRIDE or (self.clip_frames - 1) % STRIDE:
            raise ValueError(f"rooms.clip_frames is {self.clip_frames}, but must be 1 + {STRIDE}k, such as 17.")
        step = self.clip_frames - 1
        if self.num_frames <= step or (self.num_frames - 1) % step:
            raise ValueError(
                f"rooms.num_frames is {self.num_frames}, but a walk must consist of clips of {self.clip_frames} "
                f"frames, which share their ends: 1 + {step}n, such as {1 + 4 * step}."
            )

    @property
    def num_latents(self) -> int:
        """Latent frames of a clip."""
        return 1 + (self.clip_frames - 1) // STRIDE

    @property
    def num_clips(self) -> int:
        """Clips of a walk."""
        return (self.num_frames - 1) // (self.clip_frames - 1)

    @property
    def num_views(self) -> int:
        """Frames of a walk that are encoded alone."""
        return 1 + (self.num_frames - 1) // STRIDE


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """
    Args:
        steps: optimizer steps.
        batch_size: clips of a step on each process, each from another walk.
        learning_rate: highest; it rises for `warmup` of the steps and falls as a cosine.
        optimizer: `adamw`; or `muon`, for matrices and kernels, with AdamW at a tenth of the rate for the rest.
        weight_decay: of matrices and kernels.
        warmup: share of the steps.
        max_grad_norm: gradients are scaled down to this norm.
        ema_decay: of the moving average of the weights, which is what is validated and exported.
        first_walks: that are made before the first step.
        new_walks: made for each step after it, on average, so that a walk is seen `batch_size / new_walks` times.
        window: newest walks from which batches are drawn.
        precision: "auto" is bfloat16 (autocast, weights in float32) on a GPU.
        compile: the blocks of the transformer, the norms of the VAE; takes half a minute.
        cuda_graphs: on one GPU, loss and gradients of a step are one launch.
        logging_steps: also when the clock is looked at.
        validation_steps: how often validated and pictured; at the end too.
        save_steps: steps between checkpoints, a multiple of `logging_steps`.
        save_minutes: between checkpoints, whichever comes first.
    """

    steps: int
    batch_size: int
    learning_rate: float
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.01
    warmup: float = 0.03
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    first_walks: int = 256
    new_walks: float = 1.0
    window: int = 1024
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    cuda_graphs: bool = True
    logging_steps: int = 10
    validation_steps: int = 1000
    save_steps: int = 1000
    save_minutes: float = 2.0

    def __post_init__(self):
        at_least(self, 1, "steps", "batch_size", "logging_steps", "validation_steps", "save_steps", "window")
        at_least(self, 0, "weight_decay", "new_walks", "warmup", "ema_decay")
        check_range(self, "learning_rate", "max_grad_norm", "save_minutes", above=0)
        check_range(self, "warmup", "ema_decay", below=1)
        if self.save_steps % self.logging_steps:
            raise ValueError(
                f"save_steps is {self.save_steps}, but must be a multiple of logging_steps {self.logging_steps}, so "
                "that a run that is continued logs the same losses."
            )
        if not self.batch_size <= self.first_walks <= self.window:
            raise ValueError(
                f"batch_size {self.batch_size}, first_walks {self.first_walks} and window {self.window} must not "
                "fall: a batch is drawn without repetition from the walks that are there."
            )


@dataclass(frozen=True, kw_only=True)
class VAEOptions(StageOptions):
    """
    Args:
        base_dim: and `z_dim`, `dim_mult`, `num_res_blocks`: of `AutoencoderKLWan`.
        patch_size: edge of the squares of pixels that become channels first [px]; 2 takes the place of a level.
        kl_weight: of the KL divergence of a latent [nats], beside the error of a pixel in [-1, 1].
        edge_weight: of the error of differences between neighbouring pixels.
        frames_first: steps at the beginning that are all on single frames: what a picture is, is learnt faster there.
        frames_every: each such later step is on single frames, as the generator also reads them; 0 is never.
        statistics_rooms: of the last window, over which mean and spread of the latents are taken.
    """

    base_dim: int = 16
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 1
    patch_size: int = 1
    kl_weight: float = 3e-5
    edge_weight: float = 0.1
    frames_first: int = 0
    frames_every: int = 4
    statistics_rooms: int = 32

    def __post_init__(self):
        super().__post_init__()
        at_least(self, 1, "base_dim", "z_dim", "num_res_blocks", "statistics_rooms")
        at_least(self, 0, "kl_weight", "edge_weight", "frames_first", "frames_every")
        levels = LEVELS_OF_PATCHES.get(self.patch_size)
        if levels is None:
            raise ValueError(f"vae.patch_size is {self.patch_size}, but must be 1 or 2.")
        if len(self.dim_mult) != levels:
            raise ValueError(
                f"vae.dim_mult is {shown(list(self.dim_mult))}, but must have {levels} levels with patch_size "
                f"{self.patch_size}: Wan's stride is 8 px."
            )
        if not all(1 <= times <= MOST_TIMES_WIDER for times in self.dim_mult):
            raise ValueError(
                f"vae.dim_mult is {list(self.dim_mult)}, but each level must be 1 to {MOST_TIMES_WIDER} times as wide "
                "as base_dim."
            )
        if self.base_dim * min(self.dim_mult) < 2:
            raise ValueError(
                "vae.base_dim is 1 and a level of vae.dim_mult, too, but a level has at least 2 channels, which are "
                "halved where it grows. Make one of them 2."
            )


@dataclass(frozen=True, kw_only=True)
class DiTOptions(StageOptions):
    """
    Args:
        num_layers: and `num_attention_heads`, `attention_head_dim`, `ffn_dim`, `freq_dim`: of `WanTransformer3DModel`.
        prompt_tokens: rows of the stored prompt, one-hot, which the text projection turns into learned vectors.
        mixture: kinds of batches, in turn: `clip` = latents of the causal VAE over consecutive frames, `views` =
            every fourth frame of a walk encoded alone, all together, `frame` = such frames alone. Batches of all
            kinds have about as many tokens.
        sigmas: how noise levels are drawn (diffusers' densities), before the shift.
        shift: sigma = shift u / (1 + (shift - 1) u).
        sampling_steps: of the pictures.
    """

    num_layers: int = 8
    num_attention_heads: int = 4
    attention_head_dim: int = 48
    ffn_dim: int = 512
    freq_dim: int = 128
    prompt_tokens: int = 16
    mixture: tuple[BatchKind, ...] = ("clip", "clip", "views", "frame")
    sigmas: Literal["logit_normal", "uniform"] = "logit_normal"
    shift: float = 2.0
    sampling_steps: int = 30

    def __post_init__(self):
        super().__post_init__()
        names = ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "freq_dim")
        at_least(self, 1, *names, "prompt_tokens", "sampling_steps")
        if self.attention_head_dim % 2:
            raise ValueError(
                f"dit.attention_head_dim is {self.attention_head_dim}, but must be even: positions turn pairs of it."
            )
        at_least(self, 2, "freq_dim")
        check_range(self, "shift", above=0)
        if not self.mixture:
            raise ValueError(f"dit.mixture is [], but must name some of {list(KINDS)}.")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """
    Args:
        output: folder: `runs/`, `latents/`, and what comes out, `generator/` and `image-twin/`.
        vae: of the first stage.
        dit: of the second stage, and of the image twin.
        rooms: what clips are.
        seed: of weights, order of clips and noise.
        device: `auto` is the GPU if there is one.

    Raises:
        ValueError: for a value out of range, and for values that exclude each other.
    """

    output: Path
    vae: VAEOptions
    dit: DiTOptions
    rooms: RoomOptions = field(default_factory=RoomOptions)
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self):
        at_least(self, 0, "seed")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but there is no GPU here. Use 'auto' or 'cpu'.")

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu" and torch.cuda.is_available()

    def binding(self, stage: Literal["vae", "dit"]) -> dict[str, Any]:
        """What must be the same for a run of a stage to be continued; plain values for JSON."""
        parts = {"rooms": asdict(self.rooms), stage: asdict(self.vae if stage == "vae" else self.dit)}
        kept = {
            f"{part}.{name}": value
            for part, values in parts.items()
            for name, value in values.items()
            if name not in WITHOUT_EFFECT
        }
        return json.loads(json.dumps({"stage": stage, "seed": self.seed, **kept}))


def at_least(options: Any, least: float, *names: str) -> None:
    for name in names:
        check_range(options, name, least=least, most=MOST_OF.get(name, MOST))


def read_generator_config(path: Path, settings: Mapping[str, Any] | None = None) -> GeneratorConfig:
    """The config of a YAML or JSON file.

    Args:
        path: of the file.
        settings: values that take the place of the file's; `dit.steps` names one of a section.

    Raises:
        ValueError: if the file cannot be read, or for an unknown key or a bad value.
    """
    return read_settings(make_generator_config, path, settings, "output: world-simulator")


def make_generator_config(values: Mapping[str, Any]) -> GeneratorConfig:
    """The config of plain values; unknown names are refused with the nearest one that is known."""
    return make_settings(GeneratorConfig, values)
