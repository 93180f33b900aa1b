"""Configuration of the fused model and of its frozen generator."""

import difflib
import functools
from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from .files_vega3d import COPY_AGAIN, value_errors
from .layouts_vega3d import (
    MOST_LAYERS,
    WIDEST,
    check_generator,
    check_vlm,
    check_vlm_sizes,
    is_number,
    is_official,
    is_tiny,
    latent_edge,
    official_words,
    require,
    require_size,
)

Fusion = Literal[
    "token_gated_residual",
    "token_gated",
    "token_gated_norm",
    "channel_gated",
    "instruction_gated",
    "add",
    "weighted",
    "concat",
    "cross_attention",
    "generative_only",
    "none",
]
Projector = Literal["merger_mlp", "avg", "mlp2x"]
GroundingHead = Literal["infonce", "mlp", "relations"]
ObjectTokens = Literal["fused", "semantic"]
PositionCode = Literal["none", "sin3d"]
Normalisation = Literal["quantiles", "min_max", "mean_std"]
NUM_TRAIN_TIMESTEPS = 1000
MOST_SHIFT = 1000.0
MOST_PROMPT_ROWS = 1 << 16
MOST_GATE_BIAS = 100.0
MOST_METRES = 1e6
MOST_ACTIONS = 1024  # of a chunk, and frames of a camera
STATISTICS = ("mean", "std", "min", "max", "q01", "q99")
FRAME_SETTINGS = ("max_area", "frame_fit", "frame_size")  # of the processor; configs once held them too


def with_value_errors(config_class: type) -> type:
    """Values of the wrong kind raise what `strict` and transformers raise; callers catch ValueError for bad input.

    A whole number counts as a `float`, as in JSON.
    """
    strict_init = config_class.__init__  # type: ignore[misc]
    floats = {known.name for known in fields(config_class) if known.type in (float, float | None)}

    @functools.wraps(strict_init)
    def init(self, *args, **kwargs):
        try:
            whole = {name: float(kwargs[name]) for name in floats & kwargs.keys() if type(kwargs[name]) is int}
            strict_init(self, *args, **{**kwargs, **whole})
        except (ValueError, MemoryError):
            raise
        except Exception as error:
            cause = (error.__cause__ or error) if isinstance(error, StrictDataclassError) else error
            raise ValueError(f"{config_class.__name__}: {cause}") from error

    config_class.__init__ = init  # type: ignore[misc]
    return config_class


def check_fields(config: Any, *limits: tuple[str, bool, str, str]) -> None:
    """Raises ValueError for the first field that is out of range; each limit is (name, fits, range, remedy)."""
    for name, fits, allowed, remedy in limits:
        require(fits, name, getattr(config, name), allowed, remedy)


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raises ValueError unless weights can be of this type."""
    fits = dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)
    require(fits, "dtype", dtype, "float32, bfloat16 or float16", "It is the type of the weights.")


def refuse_misspelled(config_class: type, unknown: dict[str, Any]) -> None:
    """`PreTrainedConfig` keeps unknown keys without a word, so a misspelled option would silently do nothing."""
    names = [known.name for known in fields(config_class)]
    for key in unknown:
        close = difflib.get_close_matches(key, names, n=1, cutoff=0.8)
        if close:
            raise ValueError(f"{config_class.__name__} has no option {key!r}; did you mean {close[0]!r}?")


def refuse_frame_settings(options: Iterable[str]) -> None:
    """Raises ValueError for an option that says how frames are prepared, which the processor alone does."""
    for name in FRAME_SETTINGS:
        if name in options:
            raise ValueError(
                f"{name} is no option of the model: the processor prepares the frames. Give it to `VegaProcessor` as "
                f"generator_{name}, or to `vega3d assemble`, which gives it to the processor."
            )


@with_value_errors
@strict
class VegaGeneratorConfig(PreTrainedConfig):
    """The frozen video diffusion model that is queried as a latent world simulator.

    Args:
        family: which generator; `wan` is Wan2.1 text-to-video. Controls over the same files: `random` = a transformer
            of the same architecture with weights from `random_seed`; `noise` = the trained transformer at sigma 1,
            which sees no image; `vae` = clean latents of the VAE, 2x2 of them a token.
        source: where its files are: a folder relative to the checkpoint (`generator`), a path, or a Hub id in the
            published diffusers layout (`transformer/`, `vae/`).
        transformer: diffusers config of `WanTransformer3DModel`, with all its layers.
        vae: diffusers config of `AutoencoderKLWan`, or that of a tiny VAE (`TinyVAEToLatents`).
        block: block whose output is read, 0-based; a negative value counts from the end (paper: 20 of 30).
        extra_blocks: more blocks, whose channels follow those of `block`.
        timestep: noise level asked for, in [0, 1000); the scheduler's nearest step is used (paper: 300).
        shift: shift of the flow-matching schedule.
        noise_seed: seed of the noise, which is a function of (seed, draw, frame index).
        noise_draws: draws of the noise whose hidden states are averaged; each costs one pass of the transformer.
        noise_shared: one noise map for all frames; it leaks a position code into the features and is for study only.
        clip_mode: `frame` = each frame alone (the published way); `views` = frames through the VAE one by one, then
            jointly through the transformer; `clip` = consecutive frames through the causal VAE.
        frame_stride: 2 = the generator sees the first of each two frames that the VLM joins in one patch, and half as
            many are computed; 1 = all, whose hidden states are averaged over the patch. Not with `clip`.
        chunk_frames: frames computed at a time, of one clip, or on a GPU of several short clips of one size.
        prompt_tokens: rows of the stored prompt embedding (1 for the empty prompt).
        prompt_length: rows after zero padding, before the text projection; padded rows take part in attention.
        compile: compile the VAE's encoder and the blocks with `torch.compile`.
        linear_precision: of the linears in the blocks: `native`, or rounded to `fp8` or `int8` by row and token.
        attention_backend: what computes the blocks' attention between tokens: `native`, which is torch, or another of
            diffusers by its name, such as `_flash_3` or `sage`; some of them round more, and each needs its package.
        random_seed: of the weights of `family="random"`.
        files_hash: SHA-256 of the generator's files, stored at assembly; part of the key of cached features.
    """

    model_type = "vega3d_generator"

    family: Literal["wan", "random", "noise", "vae"] = "wan"
    source: str = "generator"
    transformer: dict = field(default_factory=dict)
    vae: dict = field(default_factory=dict)
    block: int = 20
    extra_blocks: list[int] | tuple[int, ...] = ()
    timestep: int = 300
    shift: float = 5.0
    noise_seed: int = 0
    noise_draws: int = 1
    noise_shared: bool = False
    clip_mode: Literal["frame", "views", "clip"] = "frame"
    frame_stride: Literal[1, 2] = 1
    chunk_frames: int = 16
    prompt_tokens: int = 1
    prompt_length: int = 512
    compile: bool = False
    linear_precision: Literal["native", "fp8", "int8"] = "native"
    attention_backend: str = "native"
    random_seed: int = 0
    files_hash: str | None = None

    def __post_init__(self, **kwargs):
        refuse_frame_settings(kwargs)
        refuse_misspelled(type(self), kwargs)
        super().__post_init__(**kwargs)

    @property
    def num_layers(self) -> int:
        return self.transformer.get("num_layers", 40)

    @property
    def block_index(self) -> int:
        """`block` counted from the start."""
        return self.block % self.num_layers

    @property
    def block_indices(self) -> list[int]:
        """`block` and `extra_blocks`, counted from the start."""
        return [block % self.num_layers for block in (self.block, *self.extra_blocks)]

    @property
    def num_blocks_read(self) -> int:
        """Blocks to load: those up to the deepest that is read."""
        return max(self.block_indices) + 1

    @property
    def latent_patch(self) -> int:
        """Edge of the square that one token covers [latents]."""
        return self.transformer.get("patch_size", (1, 2, 2))[-1]

    @property
    def hidden_size(self) -> int:
        """Channels C of the hidden states."""
        if self.family == "vae":
            return self.vae.get("z_dim", 16) * self.latent_patch**2
        width = self.transformer.get("num_attention_heads", 40) * self.transformer.get("attention_head_dim", 128)
        return width * len(self.block_indices)

    @property
    def patch_size(self) -> int:
        """Edge of the square that one token covers [px]: pixels of a latent times `latent_patch`."""
        return latent_edge(self.vae) * self.latent_patch

    @property
    def is_relative(self) -> bool:
        """Whether the generator's files are in the checkpoint itself (`source` is a plain folder name)."""
        return "/" not in self.source

    def validate_generator(self):
        check_dtype(self.dtype)
        check_generator(self.transformer, self.vae)
        self._check_block("block", self.block)
        for block in self.extra_blocks:
            self._check_block("extra_blocks", block)
        are_distinct = len(set(self.block_indices)) == len(self.block_indices)
        distinct = f"without block {self.block} and without repetitions"
        for_blocks = self.extra_blocks or self.noise_draws > 1 or self.attention_backend != "native"
        is_alone = self.family != "vae" or not for_blocks
        alone = "another with extra_blocks, noise_draws or attention_backend"
        no_blocks = "The VAE has no blocks and sees no noise: leave them out."
        check_fields(
            self,
            ("extra_blocks", are_distinct, distinct, "Name each block once."),
            ("family", is_alone, alone, no_blocks),
            (
                "frame_stride",
                self.frame_stride == 1 or self.clip_mode != "clip",
                "1 with clip_mode='clip', whose VAE joins consecutive frames",
                "Use clip_mode='frame' or 'views' with a stride.",
            ),
            (
                "clip_mode",
                self.clip_mode != "clip" or not is_tiny(self.vae),
                "'frame' or 'views' with a tiny VAE, whose first latent is of four frames, where Wan's is of one",
                "Use clip_mode='views' for all frames together.",
            ),
            ("shift", 0 < self.shift <= MOST_SHIFT, f"positive, at most {MOST_SHIFT}", "Wan2.1 uses 5.0."),
            ("noise_seed", 0 <= self.noise_seed < 2**31, "in [0, 2**31)", "Use 0 if in doubt."),
            ("random_seed", 0 <= self.random_seed < 2**31, "in [0, 2**31)", "Use 0 if in doubt."),
            ("noise_draws", 1 <= self.noise_draws <= 64, "in [1, 64]", "Use 1 if in doubt."),
        )
        self.check_timestep(self.timestep)
        require_size("chunk_frames", self.chunk_frames, "Use 16 if in doubt.")
        require_size("prompt_length", self.prompt_length, "Wan pads to 512.", MOST_PROMPT_ROWS)
        fits, rows = 1 <= self.prompt_tokens <= self.prompt_length, f"in [1, prompt_length={self.prompt_length}]"
        named = self.source not in ("", ".", "..") and "\0" not in self.source
        check_fields(
            self,
            ("prompt_tokens", fits, rows, "The empty prompt has 1 token."),
            ("source", named, "the name of a folder or a Hub id", "The default is 'generator'."),
        )

    def _check_block(self, name: str, block: int) -> None:
        require(
            -self.num_layers <= block < self.num_layers,
            name,
            block,
            f"in [{-self.num_layers}, {self.num_layers - 1}] for a transformer of {self.num_layers} blocks",
            "Choose a block of the middle, about two thirds of the depth.",
        )

    def loaded_block(self, block: int) -> int:
        """`block` counted from the start; raises ValueError if it is deeper than those that are loaded."""
        self._check_block("block", block)
        index = block % self.num_layers
        require(
            index < self.num_blocks_read,
            "block",
            block,
            f"below {self.num_blocks_read}, the number of blocks that are loaded",
            "Load the generator with a deeper `block`.",
        )
        return index

    def check_timestep(self, timestep: int) -> None:
        """Raises ValueError unless `timestep` is in [0, 1000)."""
        limit = f"in [0, {NUM_TRAIN_TIMESTEPS})"
        require(0 <= timestep < NUM_TRAIN_TIMESTEPS, "timestep", timestep, limit, "The paper uses 300.")


@with_value_errors
@strict
class VegaConfig(PreTrainedConfig):
    """Configuration of `VegaForSpatialReasoning`.

    Args:
        vlm_config: config of the vision-language model (Qwen2.5-VL or Qwen3-VL).
        generator_config: config of the frozen generator.
        fusion: how generative and semantic tokens are fused. `token_gated_residual` leaves the VLM unchanged while
            its residual scale is 0; `token_gated` is the paper's equation; `none` is the plain VLM.
        fusion_residual_init: first value of the residual scale r (0.0: equals the VLM at step 0; 0.2: official).
        fusion_gate_bias: first value of the extra bias of `instruction_gated`.
        fusion_num_heads: attention heads of `cross_attention`.
        fusion_num_layers: blocks of `cross_attention`.
        projector: `merger_mlp` = RMSNorm, 2x2 merge, MLP; `avg` = 2x2 mean, MLP; `mlp2x` = MLP on the token grid.
        projector_hidden_size: hidden width of the projector.
        position_code: what is added to the fused tokens that have a world position: `none`, or `sin3d`, the published
            sinusoids of its voxel.
        position_range: lower and upper bound of x, y and z [m] of the code; what lies outside counts as on the border.
        position_voxel: edge of a voxel of the code [m].
        coord_token_id: token that stands for a point in a prompt; the code of the point is added to its embedding.
        initializer_range: standard deviation of new Linear weights.
        notice: text shown with every answer, such as "untrained".
        questions: forms of the questions that it was trained on, and names of objects; one who asks another is told.
        answers_in_words: whether a choice or a number is said after what it stands on, behind the last full stop, as
            in "lamp 2.0 ahead 0.4 left, bed 1.2 ahead 1.0 left: left. B".
        boxes_in_words: whether marked boxes are told in words ("frame 7, row 5, column 9"), and not drawn.
        ground_token_id: the token `<ground>`, at which `VegaForVisualGrounding` reads what a sentence describes; None
            for a model that was not made for grounding.
        grounding_head: how boxes are scored: `infonce` = cosines, with a class "no target"; `mlp` = logits of each box
            by itself; `relations` = `infonce` of boxes as seen from the things that a sentence names beside the one
            it means.
        grounding_temperature: tau of `infonce` and `relations`.
        grounding_tokens: which visual tokens an object vector is the mean of, `fused` or, as in the official code,
            `semantic`: those before fusion, so that the generator reaches a box through the query alone.
        grounding_margin: by which boxes are grown on every side before tokens are looked up in them [m], since
            surfaces lie on the faces of exact boxes, where rounding decides; 0 is the published way.
        grounding_box_weight: of the loss of the box that is found without proposals, beside the ranking of those
            given; 0 is the published loss.
        state_token_id: the token `<state>`, which stands for the state of a robot in `VegaForActionPrediction`; None
            for a model that is no policy. `action_token_id` is that of `<action>`.
        action_cameras: names of the cameras, in the order in which a prompt shows them.
        action_frames: the last frames of each camera that a prompt shows; `action_fps` are taken a second.
        action_chunk: how many actions are predicted at once, K.
        action_normalisation: of states and actions: `quantiles` takes those of 1 % and 99 % to -1 and 1, `min_max` the
            extremes, and `mean_std` divides by the standard deviation.
        action_statistics: of the data set: its name, and of `state` and `action` `mean`, `std`, `min`, `max`, `q01`
            and `q99`, a list each.
    """

    model_type = "vega3d"
    _auto_class = "AutoConfig"  # a saved config names its code
    sub_configs_defaults = {  # noqa: RUF012 (the contract of PreTrainedConfig)
        "vlm_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2_5_vl"),
        "generator_config": SubConfigSpec(config_class=VegaGeneratorConfig),
    }

    vlm_config: Any = None
    generator_config: Any = None
    fusion: Fusion = "token_gated_residual"
    fusion_residual_init: float = 0.0
    fusion_gate_bias: float = 0.0
    fusion_num_heads: int = 8
    fusion_num_layers: int = 1
    projector: Projector = "merger_mlp"
    projector_hidden_size: int = 2048
    position_code: PositionCode = "none"
    position_range: list | tuple = ((-15.0, -15.0, -5.0), (15.0, 15.0, 5.0))
    position_voxel: float = 0.1
    coord_token_id: int | None = None
    initializer_range: float = 0.02
    notice: str | None = None
    questions: dict | None = None
    answers_in_words: bool = False
    boxes_in_words: bool = False
    ground_token_id: int | None = None
    grounding_head: GroundingHead = "infonce"
    grounding_temperature: float = 0.07
    grounding_tokens: ObjectTokens = "fused"
    grounding_margin: float = 0.02
    grounding_box_weight: float = 1.0
    state_token_id: int | None = None
    action_token_id: int | None = None
    action_cameras: list | tuple = ()
    action_frames: int = 1
    action_fps: float | None = None
    action_chunk: int = 8
    action_normalisation: Normalisation = "quantiles"
    action_statistics: dict | None = None

    def __post_init__(self, **kwargs):
        refuse_misspelled(type(self), kwargs)
        super().__post_init__(**kwargs)
        check_dtype(self.dtype)
        check_vlm(self.vlm_config.model_type)
        check_vlm_sizes(self.vlm_config)
        self.tie_word_embeddings = self.vlm_config.tie_word_embeddings

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; raises ValueError or OSError for whatever is no config of this model."""
        with value_errors(f"The config of {pretrained_model_name_or_path}"):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers, which takes a missing file for an empty one, and an empty one for the defaults."""
        values, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not isinstance(values, dict) or "model_type" not in values:
            raise ValueError(f"{pretrained_model_name_or_path} has no config.json with a model_type. {COPY_AGAIN}")
        return values, rest

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        model_type = config_dict.get("model_type", cls.model_type)
        if is_official(config_dict):
            raise ValueError(official_words("This model"))
        if model_type != cls.model_type:
            raise ValueError(
                f"This is a checkpoint of model_type {model_type!r}, not {cls.model_type!r}. "
                "Assemble a fused model from it with `vega3d assemble` or `from_backbones`."
            )
        generator = config_dict.get("generator_config")
        if isinstance(generator, dict):
            # Earlier versions saved the frame settings here too, and refused a checkpoint whose processor had others.
            kept = {name: value for name, value in generator.items() if name not in FRAME_SETTINGS}
            config_dict = {**config_dict, "generator_config": kept}
        return super().from_dict(config_dict, **kwargs)

    def get_text_config(self, *args, **kwargs) -> PreTrainedConfig:
        return self.vlm_config.get_text_config(*args, **kwargs)

    @property
    def image_token_id(self) -> int:
        return self.vlm_config.image_token_id

    @property
    def video_token_id(self) -> int:
        return self.vlm_config.video_token_id

    @property
    def hidden_size(self) -> int:
        """Width D of the visual tokens."""
        return self.get_text_config().hidden_size

    @property
    def state_size(self) -> int:
        """How many numbers the state of the robot has, P."""
        return len((self.action_statistics or {})["state"]["mean"])

    @property
    def action_size(self) -> int:
        """How many numbers an action has, A."""
        return len((self.action_statistics or {})["action"]["mean"])

    def validate_fusion(self):
        for name, value, most in (
            ("fusion_num_layers", self.fusion_num_layers, MOST_LAYERS),
            ("fusion_num_heads", self.fusion_num_heads, WIDEST),
            ("projector_hidden_size", self.projector_hidden_size, WIDEST),
        ):
            require_size(name, value, "Leave it out for the default.", most)
        bias, spread, size = self.fusion_gate_bias, self.initializer_range, self.hidden_size
        biases = f"in [-{MOST_GATE_BIAS}, {MOST_GATE_BIAS}]"
        scales = "0.0 starts as the plain VLM, 0.2 is the official value."
        divides = self.fusion != "cross_attention" or (size % self.fusion_num_heads == 0 and size % 4 == 0)
        divisor = f"a divisor of the hidden size {size}, itself a multiple of 4"
        check_fields(
            self,
            ("fusion_gate_bias", abs(bias) <= MOST_GATE_BIAS, biases, "The official value is -0.5."),
            ("initializer_range", 0 < spread <= 1, "in (0, 1]", "Leave it out for the default, 0.02."),
            ("fusion_residual_init", -1 <= self.fusion_residual_init <= 1, "in [-1, 1]", scales),
            ("fusion_num_heads", divides, divisor, "Choose another number of heads."),
        )

    def validate_positions(self):
        bounds: Any = self.position_range
        fits = len(bounds) == 2 and all(isinstance(bound, (list, tuple)) and len(bound) == 3 for bound in bounds)
        fits = fits and all(is_number(value) and abs(value) <= MOST_METRES for bound in bounds for value in bound)
        fits = fits and all(lower < upper for lower, upper in zip(*bounds, strict=True))
        ranges = "[[x, y, z], [x, y, z]] [m], the first below the second"
        vocabulary, token = self.get_text_config().vocab_size, self.coord_token_id
        check_fields(
            self,
            ("position_range", fits, ranges, "The official code has [[-15, -15, -5], [15, 15, 5]]."),
            ("position_voxel", 1e-3 <= self.position_voxel <= MOST_METRES, "at least 0.001 m", "The default is 0.1."),
            (
                "coord_token_id",
                token is None or 0 <= token < vocabulary,
                f"in [0, {vocabulary})",
                "See the tokenizer.",
            ),
        )

    def validate_grounding(self):
        vocabulary, token = self.get_text_config().vocab_size, self.ground_token_id
        is_token = token is None or 0 <= token < vocabulary
        heats, weight, margin = self.grounding_temperature, self.grounding_box_weight, self.grounding_margin
        check_fields(
            self,
            ("ground_token_id", is_token, f"in [0, {vocabulary})", "See the tokenizer."),
            ("grounding_temperature", 1e-3 <= heats <= 100, "in [0.001, 100]", "The official value is 0.07."),
            ("grounding_margin", 0 <= margin <= MOST_METRES, "0 m or more", "The default is 0.02."),
            ("grounding_box_weight", 0 <= weight <= 100, "in [0, 100]", "Use 0 for the published loss."),
        )

    def validate_actions(self):
        vocabulary, cameras, fps = self.get_text_config().vocab_size, self.action_cameras, self.action_fps
        for name in ("state_token_id", "action_token_id"):
            token = getattr(self, name)
            fits = token is None or 0 <= token < vocabulary
            require(fits, name, token, f"in [0, {vocabulary})", "See the tokenizer.")
        are_names = all(isinstance(name, str) and name.strip() for name in cameras)
        are_names = are_names and len(set(cameras)) == len(cameras)
        require_size("action_chunk", self.action_chunk, "Use 8 if in doubt.", MOST_ACTIONS)
        require_size("action_frames", self.action_frames, "Use 1 if in doubt.", MOST_ACTIONS)
        check_fields(
            self,
            ("action_cameras", are_names, "names, each once", "Name them as the data set does."),
            ("action_fps", fps is None or 0 < fps <= 1e4, "in (0, 10000]", "It is that of the data set."),
        )
        if self.action_statistics is not None:
            check_statistics(self.action_statistics)


def check_statistics(statistics: dict[str, Any]) -> None:
    """Raises ValueError unless there are statistics of `state` and `action`, lists of finite numbers of one length."""
    for name in ("state", "action"):
        found = statistics.get(name)
        lists: list[Any] = [found.get(key) for key in STATISTICS] if isinstance(found, dict) else [None]
        fits = all(isinstance(one, (list, tuple)) and all(map(is_number, one)) for one in lists)
        if not fits or len({len(one) for one in lists}) != 1 or not lists[0]:
            raise ValueError(
                f"action_statistics of {name} are {found}, but must be {', '.join(STATISTICS)}, a list of finite "
                "numbers each, of one length. Take those of vega3d.robotics.statistics.dataset_statistics."
            )


# `transformers serve` finds a model's kind by this name alone; importing the package or its code on the Hub sets it.
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[VegaConfig.model_type] = "VegaForSpatialReasoning"
