"""How many bytes the weights of a model take in each way of holding them, before it is loaded.

Configs say which weights there are: the model is built on the meta device, which holds no values. A header of a
safetensors file says their type where the config does not.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from vega3d import (
    VegaConfig,
    VegaForActionPrediction,
    VegaForSpatialReasoning,
    VegaForVisualGrounding,
    VegaGeneratorConfig,
)
from vega3d.hub.memory_choices import MemoryChoice
from vega3d.modeling.backbones_vega3d import GENERATOR_FILES, VLM_FILES, read_vlm_config
from vega3d.modeling.files_vega3d import (
    PARTS,
    download,
    is_generator,
    open_repository,
    read_generator_info,
    read_json,
    read_part_config,
    read_prompt,
    value_errors,
)
from vega3d.modeling.modeling_vega3d import VegaTaskModel
from vega3d.modeling.quantisation_vega3d import CONSTANT_LINEARS, MULTIPLE, lower_linears
from vega3d.shipped import EMBEDDED, SHIPPED, model_folder

LANGUAGE, VISUAL, GENERATOR, VAE, TEXT, FUSION = (
    *("language model", "visual tower", "generator", "VAE", "text states"),
    "projector, fusion, heads",
)
WEIGHT_PARTS = (LANGUAGE, VISUAL, GENERATOR, VAE, TEXT, FUSION)
SMALL_FILES = (*VLM_FILES, *GENERATOR_FILES, "*/*/config.json", "generator.json")
DEFAULT_FRAMES, DEFAULT_AREA = 32, 832 * 480
HEADER_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
BLOCK, BLOCKS_OF_SCALES = 64, 256  # of bitsandbytes: weights that share a scale, and scales that share one
CODES, CODES_OF_SCALES = 4 * 16, 4 * 256  # bytes of its tables, which each layer has
INT4_GROUP = 128  # weights of a row that share a scale in torchao's int4
INT4_ROWS, INT4_COLUMNS = 8, 1024  # to whose multiples its matrices are padded
ON_GPU = 2  # offloaded blocks: the one that is computed, and the next


@dataclass(frozen=True)
class Weight:
    """A tensor of a model that is not loaded.

    Attributes:
        name: that its module has in the model, for messages.
        part: one of `WEIGHT_PARTS`.
        count: numbers in it, in `rows` rows.
        is_linear: whether it is the matrix of a linear in the language model's layers, which may be in few bits.
        own_bytes: what it takes, if the type that the model is loaded in makes no difference.
    """

    name: str
    part: str
    count: int
    rows: int
    is_linear: bool
    own_bytes: int | None


@dataclass(frozen=True)
class Shapes:
    """What is known of a model that is not loaded: a fused one, or a VLM and a generator, or one of them alone.

    Attributes:
        config: of the fused model; what it says of a part that is not there counts for nothing.
        task: the class of the model.
        dtype: of the weights as they are stored.
        has_vlm: whether there is a VLM, and `has_generator` whether there is a generator.
        num_frames: that are sampled from a video.
        area: of a frame [px], in both streams.
    """

    config: VegaConfig
    task: type[VegaTaskModel]
    dtype: torch.dtype
    has_vlm: bool = True
    has_generator: bool = True
    num_frames: int = DEFAULT_FRAMES
    area: int = DEFAULT_AREA

    @cached_property
    def weights(self) -> list[Weight]:
        """Each weight of VLM, projector, fusion and heads once; the model is built without values."""
        with torch.device("meta"):
            model = self.task(self.config)
        found: dict[int, Weight] = {}
        for name, module in model.named_modules():
            part = part_of(f"{name}.".removeprefix(model.weights_prefix))
            is_language = name.startswith(f"{model.weights_prefix}vlm.model.language_model.")
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is None or part == TEXT:
                    continue
                is_linear = is_language and isinstance(module, nn.Linear) and key == "weight"
                is_fixed = key in module._non_persistent_buffers_set or key == "residual_scale"
                rows = tensor.shape[0] if tensor.ndim else 1
                own_bytes = tensor.nbytes if is_fixed else None
                found.setdefault(id(tensor), Weight(name, part, tensor.numel(), rows, is_linear, own_bytes))
        return list(found.values())


def task_of(config: VegaConfig) -> type[VegaTaskModel]:
    """The class of the model that a config names."""
    classes: tuple[type[VegaTaskModel], ...] = (VegaForVisualGrounding, VegaForActionPrediction)
    return next((one for one in classes if config.architectures == [one.__name__]), VegaForSpatialReasoning)


# --- What is known ---------------------------------------------------------------------------------------------------


def read_shapes(name: str | Path, generator: str | Path | None = None) -> Shapes:
    """The shapes of a checkpoint, of a VLM, or of a generator, by the small files of a folder or a Hub repository.

    `generator` names the one that a VLM is to be assembled with. Raises ValueError if there is no such model.
    """
    folder = small_files(name)
    stored = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if stored.get("model_type") == VegaConfig.model_type:
        if generator is not None:
            raise ValueError(f"{name} has a generator of its own. Leave {generator} out.")
        return checkpoint_shapes(folder)
    if all((folder / part / "config.json").is_file() for part in PARTS):
        config = VegaConfig(generator_config=published_config(folder).to_dict(), fusion="none")
        return Shapes(config, task_of(config), torch.bfloat16, has_vlm=False)
    vlm_config = read_vlm_config(open_repository(folder, "a vision-language model", VLM_FILES))
    beside: dict[str, Any] = {"fusion": "none"}
    if generator is not None:
        beside = {"generator_config": published_config(small_files(generator)).to_dict()}
    config = VegaConfig(vlm_config=vlm_config.to_dict(), **beside)
    dtype = stored_dtype(folder, vlm_config.dtype or vlm_config.get_text_config().dtype)
    return Shapes(config, task_of(config), dtype, has_generator=generator is not None)


def small_files(name: str | Path) -> Path:
    """The folder of a model; of one on the Hub its JSON files are fetched, and no weights."""
    if str(name) in SHIPPED or Path(name).exists():
        return model_folder(name) if str(name) in SHIPPED else Path(name)
    repository, _, revision = str(name).partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "/")):
        raise ValueError(f"There is no model {str(name)!r}. Give {EMBEDDED[0]!r}, a folder, or a Hub id.")
    return download(repository, SMALL_FILES, f"The model {str(name)!r}: ", revision=revision or None)


def checkpoint_shapes(folder: Path, config: VegaConfig | None = None) -> Shapes:
    """Those of a fused checkpoint, with the frames that its processor samples; `config` is its own, if read."""
    config = VegaConfig.from_pretrained(folder) if config is None else config
    stored = folder / "processor_config.json"
    frames = read_json(stored) if stored.is_file() else {}
    return Shapes(
        config,
        task_of(config),
        stored_dtype(folder, config.dtype),
        num_frames=frames.get("num_frames", DEFAULT_FRAMES),
        area=frames.get("generator_max_area", DEFAULT_AREA),
    )


def published_config(folder: Path) -> VegaGeneratorConfig:
    """The config of a generator alone, read at the block that `load_generator` reads."""
    configs = {part: read_part_config(folder, part) for part in PARTS}
    layers = configs["transformer"].get("num_layers", 40)
    if is_generator(folder):
        rows = {
            "prompt_tokens": len(read_prompt(folder)),
            "prompt_length": read_generator_info(folder)["prompt_length"],
        }
        return VegaGeneratorConfig(**configs, **rows, block=layers // 2)
    return VegaGeneratorConfig(**configs, block=round(2 * layers / 3))


def stored_dtype(folder: Path, named: torch.dtype | None) -> torch.dtype:
    """The type that a config names, else that of the first weights in the folder, else float32."""
    if named is not None:
        return named
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 (no mapping)
                name = weights.get_slice(key).get_dtype()
                if name in HEADER_TYPES:
                    return HEADER_TYPES[name]
    return torch.float32


# --- Bytes of weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """Bytes of weights by part, where they are computed; and those that wait in host memory."""

    parts: dict[str, int]
    in_host: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def weight_bytes(shapes: Shapes, choice: MemoryChoice, dtype: torch.dtype | None = None, device: str = "cuda") -> Held:
    """What the weights take once a model is loaded.

    Args:
        shapes: as `read_shapes` gives them.
        choice: one of `memory_choices.CHOICES`.
        dtype: that it is loaded in; None keeps the stored one.
        device: `cuda`, or `cpu`, where nothing is offloaded.

    Raises:
        ValueError: if no model can be built from the config.
    """
    dtype = dtype or shapes.dtype
    parts = dict.fromkeys(WEIGHT_PARTS, 0)
    in_host = 0
    with value_errors("The config describes no model that can be built: it"), torch.device("meta"):
        stored: dict[str, Any] = shapes.config.to_dict().get("quantization_config") or {}
        for weight in shapes.weights if shapes.has_vlm else ():
            if weight.is_linear:
                parts[weight.part] += language_bytes(weight, stored, choice.language, dtype)
            else:
                parts[weight.part] += weight.own_bytes or weight.count * dtype.itemsize
        if shapes.has_generator:
            blocks, rest = transformer_bytes(shapes.config.generator_config, choice, dtype)
            offloads = choice.generator == "offload" and device == "cuda"
            parts[GENERATOR] = rest + sum(sorted(blocks)[-ON_GPU:] if offloads else blocks)
            in_host = sum(blocks) if offloads else 0
            parts[VAE] = encoder_bytes(shapes.config.generator_config, dtype)
            text_dim = shapes.config.generator_config.transformer.get("text_dim", 4096)
            parts[TEXT] = shapes.config.generator_config.prompt_tokens * text_dim * dtype.itemsize
    return Held(parts, in_host)


def language_bytes(weight: Weight, stored: dict[str, Any], language: str, dtype: torch.dtype) -> int:
    """A linear of the language model; `stored` is the quantisation that a checkpoint was saved in, or empty."""
    is_double = stored.get("bnb_4bit_use_double_quant", True)
    precision = "nf4" if stored.get("load_in_4bit") else language
    if precision == "native":
        return weight.count * dtype.itemsize
    if precision == "nf4":
        scales = ceil(weight.count / BLOCK)
        doubled = scales + 4 * ceil(scales / BLOCKS_OF_SCALES) + 4  # 8 bits each, with scales of their own and a mean
        tables = CODES + (CODES_OF_SCALES if is_double else 0)
        return ceil(weight.count / 2) + (doubled if is_double else 4 * scales) + tables
    if precision == "int4":
        padded = next_multiple(weight.rows, INT4_ROWS) * next_multiple(weight.count // weight.rows, INT4_COLUMNS)
        return padded // 2 + 4 * (padded // INT4_GROUP)  # a scale and a zero point of 16 bits for each group
    return weight.count + weight.rows * (5 if precision == "int8" else 4)  # a scale in float32; int8 has a zero, too


def next_multiple(number: int, of: int) -> int:
    return ceil(number / of) * of


def part_of(name: str) -> str:
    """The part that a tensor belongs to, by its name in a `VegaModel`."""
    places = {
        "vlm.model.visual.": VISUAL,
        "vlm.": LANGUAGE,
        "generator.tower.encoder.": VAE,
        "generator.tower.": GENERATOR,
        "generator.": TEXT,
    }
    return next((part for prefix, part in places.items() if name.startswith(prefix)), FUSION)


def transformer_bytes(config: VegaGeneratorConfig, choice: MemoryChoice, dtype: torch.dtype) -> tuple[list[int], int]:
    """Bytes of each block up to the deepest that is read, and of the rest of the transformer; on the meta device."""
    from vega3d.modeling.generator_wan_vega3d import WanTransformer3DModel, build_transformer

    if config.family == "vae":
        return [], 0
    precision = "int8" if choice.generator == "int8" else config.linear_precision
    transformer = lower_linears(build_transformer(config), precision)
    in_float32 = set(WanTransformer3DModel._keep_in_fp32_modules)

    def count(module: nn.Module) -> int:
        weights = sum(
            weight.numel() * (4 if in_float32.intersection(name.split(".")) else dtype.itemsize)
            for name, weight in module.named_parameters()
        )
        return weights + sum(buffer.nbytes for buffer in module.buffers())

    blocks = [count(block) for block in transformer.blocks]
    return blocks, count(transformer) - sum(blocks)


def encoder_bytes(config: VegaGeneratorConfig, dtype: torch.dtype) -> int:
    """Bytes of the VAE's encoder; on the meta device."""
    from vega3d.modeling.generator_wan_vega3d import LatentTower, vae_class

    encoder = LatentTower(vae_class(config).from_config(config.vae), config).encoder
    buffers = sum(buffer.nbytes for buffer in encoder.buffers())
    return sum(weight.numel() for weight in encoder.parameters()) * dtype.itemsize + buffers


def held_bytes(model: VegaTaskModel) -> dict[str, int]:
    """What the weights of a loaded model take, by part; what shares its memory counts once."""
    parts, seen = dict.fromkeys(WEIGHT_PARTS, 0), set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        for inner in stored_tensors(tensor):
            if inner.data_ptr() not in seen:
                seen.add(inner.data_ptr())
                parts[part_of(name.removeprefix(model.weights_prefix))] += inner.nbytes
    return parts


def stored_tensors(tensor: Any) -> Iterable[torch.Tensor]:
    """The tensors that a weight is made of: itself, or those of its quantised form."""
    if type(tensor).__name__ == "Params4bit":
        state = tensor.quant_state
        inner = [state.state2.absmax, state.state2.code, state.offset] if state.nested else []
        return [tensor.data, state.absmax, state.code, *inner]
    if dataclasses.is_dataclass(tensor) or type(tensor) not in (torch.Tensor, nn.Parameter):
        names, _ = tensor.__tensor_flatten__()
        return [vars(tensor)[name] for name in names]
    return [tensor]


# --- What cannot be ------------------------------------------------------------------------------------------------


def check_widths(shapes: Shapes, choice: MemoryChoice) -> None:
    """Raises ValueError, naming the layer, for widths that the weights of few bits cannot have."""
    from vega3d.modeling.generator_wan_vega3d import build_transformer

    config = shapes.config.generator_config
    for weight in shapes.weights if choice.language == "int4" and shapes.has_vlm else ():
        columns = weight.count // weight.rows
        if weight.is_linear and columns % INT4_GROUP:
            raise ValueError(
                f"memory='int4' needs inputs in multiples of {INT4_GROUP}, but {weight.name} has {columns}. "
                "Use memory='4bit', which takes any width."
            )
    if choice.generator != "int8" or not shapes.has_generator or config.family == "vae":
        return
    with torch.device("meta"):
        blocks = build_transformer(config).blocks
    for number, block in enumerate(blocks):
        for name, module in block.named_modules():
            if not isinstance(module, nn.Linear) or name in CONSTANT_LINEARS:
                continue
            rows, columns = module.out_features, module.in_features
            if rows % MULTIPLE or columns % MULTIPLE:
                raise ValueError(
                    f"memory='low-8bit' needs linears with sides in multiples of {MULTIPLE}, but block {number} of "
                    f"the generator has {name} of {rows} x {columns}. Use memory='low'."
                )
