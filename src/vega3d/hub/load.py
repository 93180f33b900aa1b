"""Loading a model with its processor by name: the embedded one, a folder, a Hub id."""

from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import torch
from transformers import BitsAndBytesConfig, TorchAoConfig

from vega3d import VegaConfig, VegaForSpatialReasoning, VegaGenerator, VegaGeneratorConfig, VegaProcessor
from vega3d.extras import optional_module
from vega3d.features.cache import FeatureCache
from vega3d.files import read_json
from vega3d.hub.memory import INT4_GROUP, check_widths, checkpoint_shapes, task_of
from vega3d.hub.memory_choices import CHOICES, Memory, memory_choice
from vega3d.hub.memory_report import check_memory, free_memory
from vega3d.inference.session import Session
from vega3d.inference.vision_attention import pack_vision_attention
from vega3d.modeling.backbones_vega3d import embed_empty_prompt
from vega3d.modeling.configuration_vega3d import FRAME_SETTINGS
from vega3d.modeling.files_vega3d import read_generator_info, read_part_config
from vega3d.modeling.modeling_vega3d import VegaTaskModel
from vega3d.processing.generator_frames_vega3d import FrameSettings
from vega3d.shipped import EMBEDDED, model_folder

Model = TypeVar("Model", bound=VegaTaskModel)
OTHER_KEYS = {  # that transformers and its Trainer write or read
    "auto_map",
    "model_type",
    "tie_word_embeddings",
    "quantization_config",
    "torch_dtype",
    "use_cache",
    "_name_or_path",
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def load(
    name_or_path: str | Path = EMBEDDED[0],
    *,
    four_bit: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    cache: FeatureCache | str | Path | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    stored_clips: int = 8,
    memory: Memory = "full",
) -> Session:
    """A session with a model, which answers questions about videos and images.

    Example:

    ```python
    vega3d.load("vega3d-tiny").ask("room", "Where is the bed, from the first frame?")
    ```

    Args:
        name_or_path: `vega3d-tiny` (embedded), a folder, or a Hub id.
        four_bit: quantise the language model to 4 bits, as in `load_vega`.
        device: by default the GPU if there is one, else the CPU.
        dtype: that of the weights; "auto" keeps that of the files.
        cache: folder in which the generator's features are looked up and stored, or a `FeatureCache`.
        num_frames: as in `Session`, as are `fps` and `stored_clips`.
        memory: as in `load_task`.

    Raises:
        ValueError: as `load_vega`, and if the cache, the sampling or `stored_clips` cannot be.
    """
    features = FeatureCache(cache) if isinstance(cache, (str, Path)) else cache
    model, processor = load_vega(name_or_path, four_bit, device, dtype, memory)
    return Session(model, processor, cache=features, num_frames=num_frames, fps=fps, stored_clips=stored_clips)


def load_vega(
    name_or_path: str | Path,
    four_bit: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    memory: Memory = "full",
) -> tuple[VegaForSpatialReasoning, VegaProcessor]:
    """The model that answers questions, in eval mode on its device, and its processor; as `load_task`."""
    return load_task(VegaForSpatialReasoning, name_or_path, four_bit, device, dtype, memory)


def load_task(
    model_class: type[Model],
    name_or_path: str | Path,
    four_bit: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
    memory: Memory = "full",
) -> tuple[Model, VegaProcessor]:
    """A model of a task, in eval mode on its device, and its processor; the other arguments are those of `load`.

    The vision tower attends to many windows at once (`pack_vision_attention`).

    Args:
        model_class: such as `VegaForVisualGrounding` or `VegaForActionPrediction`, whose checkpoints answer questions,
            too.
        four_bit: quantise the language model to 4 bits (nf4, bitsandbytes); all else keeps its precision.
        memory: how the model is held, one of `memory_choices.CHOICES`. `low` is for small GPUs: 4 bits, the
            generator's blocks in host memory, frames one by one through the VAE. On a CPU the blocks stay in place.

    Raises:
        ValueError: if there is no such model or device, its files are broken, or its processor is of another model;
            if the weights take more memory than the GPU has free, before they are read.
        MissingExtraError: if the package that quantises is not installed.
    """
    check_dtype_name(dtype)
    memory = memory_choice(memory, four_bit)
    package = CHOICES[memory].package
    if package is not None:
        optional_module(package)
    device = usable_device(device)
    if memory == "int4" and device.type != "cuda":
        raise ValueError(f"memory is 'int4', but the device is {device.type!r}, not a GPU of NVIDIA. Use '4bit'.")
    folder = model_folder(name_or_path)
    config = VegaConfig.from_pretrained(folder)
    check_known_keys(folder)
    processor = load_processor(folder, config)
    model = load_model(model_class, folder, memory, device, dtype, config)
    pack_vision_attention(model)
    return model, processor


def load_model(
    model_class: type[Model],
    folder: Path,
    memory: str,
    device: torch.device,
    dtype: str | torch.dtype = "auto",
    config: VegaConfig | None = None,
) -> Model:
    """The model in a folder, in eval mode on a device, held as a choice of `CHOICES` says; raises as `load_task`.

    `config` is that of the folder, if it has been read.
    """
    choice = CHOICES[memory]
    shapes = checkpoint_shapes(folder, config)
    held = shapes.dtype if dtype == "auto" else as_dtype(dtype)
    if memory == "int4" and held != torch.bfloat16:
        raise ValueError(f"memory is 'int4', but the weights are in {held}. Give dtype='bfloat16', or use '4bit'.")
    check_widths(shapes, choice)
    check_memory(shapes, memory, held, free_memory(device))
    options: dict = {"dtype": dtype, "device_map": {"": device}}
    if choice.language != "native":
        options["quantization_config"] = quantisation(choice.language, device)
    if choice.generator == "int8":
        shapes.config.generator_config.linear_precision = "int8"
        options["config"] = shapes.config
    offloads = choice.generator == "offload" and device.type != "cpu"
    model = model_class.from_pretrained(folder, offload_generator=offloads, **options)
    if choice.slices:
        model.generator_module.tower.slice_frames()
    return model.eval()


def quantisation(language: str, device: torch.device) -> BitsAndBytesConfig | TorchAoConfig:
    """The config by which transformers quantises the language model on loading."""
    if language == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        )
    ao = optional_module("torchao.quantization")
    if language == "int4":
        packing = "tile_packed_to_4d"
        return TorchAoConfig(ao.Int4WeightOnlyConfig(group_size=INT4_GROUP, int4_packing_format=packing))
    return TorchAoConfig(ao.Int8WeightOnlyConfig() if language == "int8" else ao.Float8WeightOnlyConfig())


def check_known_keys(folder: Path) -> None:
    """Raises ValueError for a key in the config of a checkpoint that nothing reads: transformers keeps it unsaid."""
    values = read_json(folder / "config.json")
    parts = (("", values, VegaConfig), ("generator_config.", values.get("generator_config"), VegaGeneratorConfig))
    for place, held, kind in parts:
        known = {one.name for one in fields(kind)} | OTHER_KEYS | {*FRAME_SETTINGS}
        unknown = sorted(held.keys() - known) if isinstance(held, dict) else []
        if unknown:
            raise ValueError(
                f"{folder / 'config.json'} has the key {place}{unknown[0]}, which nothing reads. Correct its name, or "
                "remove it; a newer vega3d may know it."
            )


def task_class(folder: Path) -> type[VegaTaskModel]:
    """The class of the model in a folder, as its config names it."""
    return task_of(VegaConfig.from_pretrained(folder))


def load_processor(folder: Path, config: VegaConfig | None = None) -> VegaProcessor:
    """The processor of a checkpoint; raises ValueError if there is none, or it is of another model than its config."""
    config = VegaConfig.from_pretrained(folder) if config is None else config
    processor = VegaProcessor.from_pretrained(folder)
    check_vlm_processor(processor, config)
    for name in ("image_token_id", "video_token_id"):
        ours, theirs = getattr(processor, name), getattr(config, name)
        if ours != theirs:
            raise ValueError(
                f"The tokenizer has {name}={ours!r}, but the VLM's config says {theirs!r}. "
                "Copy the tokenizer's files of this VLM again."
            )
    return processor


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, by default the GPU if there is one; raises ValueError if it is not there."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.ones(1, device=chosen).item()  # one without values, such as meta, is none to compute on
    except Exception as error:  # each kind of device that is not there has errors of its own
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"The device {str(device)!r} cannot be used: {reason} Leave it out, or use 'cpu'.") from error
    return chosen


def check_dtype_name(dtype: str | torch.dtype) -> None:
    """Raises ValueError unless weights can be of this type."""
    known = ["auto", *(str(known).removeprefix("torch.") for known in DTYPES), *DTYPES]
    if not isinstance(dtype, (str, torch.dtype)) or dtype not in known:
        raise ValueError(f"dtype is {dtype!r}, but must be auto, float32, bfloat16 or float16.")


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    return dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)


def check_vlm_processor(processor: VegaProcessor, config: VegaConfig) -> None:
    """Raises ValueError if the VLM's image processors cut other patches than its config says."""
    vision = config.vlm_config.vision_config
    wanted = {
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }
    for name in ("image_processor", "video_processor"):
        settings = getattr(processor, name).to_dict()
        for field, theirs in wanted.items():
            ours = settings[field]
            if ours != theirs:
                raise ValueError(
                    f"The {name} has {field}={ours!r}, but the VLM's vision_config says {theirs!r}. "
                    "Copy the processor's files of this VLM again."
                )


def generator_frames(folder: Path, config: VegaGeneratorConfig) -> FrameSettings:
    """How frames are prepared for a generator alone in a folder: as large as those that it was trained on."""
    return FrameSettings(config.patch_size, max_area=read_generator_info(folder)["size"] ** 2)


def published_generator(folder: Path, device: torch.device) -> tuple[VegaGenerator, FrameSettings]:
    """A generator alone in the published diffusers layout, read at two thirds of its depth, with the empty prompt.

    Raises ValueError if its text encoder, which embeds the prompt, is not there.
    """
    if not (folder / "text_encoder" / "config.json").is_file():
        raise ValueError(
            f"{folder} has neither text_encoder/ nor prompt.safetensors, so its prompt is not known. Name the "
            "checkpoint that it lies in, or download the generator with its text encoder."
        )
    layers = read_part_config(folder, "transformer").get("num_layers", 40)
    prompt = embed_empty_prompt(folder)
    generator = VegaGenerator.from_folder(folder, prompt_embeds=prompt, device=device, block=round(2 * layers / 3))
    return generator, FrameSettings(generator.config.patch_size)
