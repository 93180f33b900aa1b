"""Loading a model with its processor by name: the embedded one, a folder, a Hub id."""

from importlib.resources import files
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from transformers import BitsAndBytesConfig

from vega3d import VegaConfig, VegaForSpatialReasoning, VegaGeneratorConfig, VegaProcessor
from vega3d.inference.vision_attention import pack_vision_attention

EMBEDDED = ("vega3d-tiny",)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ASSETS = Path(str(files("vega3d"))) / "assets"


def model_folder(name_or_path: str | Path) -> Path:
    """Local folder of a checkpoint; one on the Hub is downloaded first.

    Raises:
        ValueError: if there is none of this name.
    """
    name = str(name_or_path)
    if name in EMBEDDED:
        return ASSETS / name
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ValueError(f"{name} is no checkpoint: it has no config.json. Give the folder that was saved.")
        check_regular(Path(name))
        return Path(name)
    remedy = f"Give {EMBEDDED[0]!r}, a folder, or the id of a repository such as 'org/vega3d'."
    if Path(name).exists() or name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(f"There is no model {name!r}. {remedy}")
    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"The model {name!r} cannot be downloaded: {first_line} {remedy}") from error


def check_regular(folder: Path) -> None:
    """Raises ValueError for a folder or a pipe in the place of a file: loaders take it for one that is not there."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".safetensors") and not path.is_file():
            raise ValueError(f"{path} is no regular file. Copy the checkpoint again.")


def load_vega(
    name_or_path: str | Path,
    four_bit: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
) -> tuple[VegaForSpatialReasoning, VegaProcessor]:
    """The model, in eval mode on its device, and its processor.

    On a GPU and in 16 bits the vision tower attends to all its windows at once (`pack_vision_attention`).

    Args:
        name_or_path: `vega3d-tiny` (embedded), a folder, or a Hub id.
        four_bit: quantise the language model to 4 bits (nf4, bitsandbytes); generator, projector, fusion and vision
            tower keep their precision.
        device: by default the GPU if there is one, else the CPU.
        dtype: of the weights; "auto" keeps that of the files.

    Raises:
        ValueError: if there is no such model or device, its files are broken, or its processor is of another model.
    """
    check_dtype_name(dtype)
    device = usable_device(device)
    folder = model_folder(name_or_path)
    processor = load_processor(folder)
    options: dict = {"dtype": dtype, "device_map": {"": device}}
    if four_bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        )
    model = VegaForSpatialReasoning.from_pretrained(folder, **options)
    pack_vision_attention(model)
    return model.eval(), processor


def load_processor(folder: Path) -> VegaProcessor:
    """The processor of a checkpoint; raises ValueError if there is none, or it is of another model."""
    config = VegaConfig.from_pretrained(folder)
    processor = VegaProcessor.from_pretrained(folder)
    check_processor(processor, config)
    check_tokens(processor, config)
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


def check_processor(processor: VegaProcessor, config: VegaConfig) -> None:
    """Raises ValueError if the processor prepares other frames or patches than the model's config says."""
    check_frames(processor, config.generator_config)
    vision = config.vlm_config.vision_config
    parts = {"image_processor": processor.image_processor, "video_processor": processor.video_processor}
    for name, part in parts.items():
        settings = part.to_dict()
        for field, theirs in (
            ("patch_size", vision.patch_size),
            ("merge_size", vision.spatial_merge_size),
            ("temporal_patch_size", vision.temporal_patch_size),
        ):
            ours = settings[field]
            if ours != theirs:
                raise ValueError(
                    f"The {name} has {field}={ours!r}, but the VLM's vision_config says {theirs!r}. "
                    "Copy the processor's files of this VLM again."
                )


def check_tokens(processor: VegaProcessor, config: VegaConfig) -> None:
    """Raises ValueError if the tokenizer writes other placeholders than the model looks for."""
    for name, ours, theirs in (
        ("image_token_id", processor.image_token_id, config.image_token_id),
        ("video_token_id", processor.video_token_id, config.video_token_id),
    ):
        if ours != theirs:
            raise ValueError(
                f"The tokenizer has {name}={ours!r}, but the VLM's config says {theirs!r}. "
                "Copy the tokenizer's files of this VLM again."
            )


def check_frames(processor: VegaProcessor, config: VegaGeneratorConfig) -> None:
    """Raises ValueError if the processor prepares other frames than the generator's config describes."""
    size = None if config.frame_size is None else list(config.frame_size)
    for name, ours, theirs in (
        ("cell", processor.generator_cell, config.patch_size),
        ("max_area", processor.generator_max_area, config.max_area),
        ("frame_fit", processor.generator_frame_fit, config.frame_fit),
        ("frame_size", processor.generator_frame_size, size),
    ):
        if ours != theirs:
            raise ValueError(
                f"The processor has generator_{name}={ours!r}, but the model's generator_config says {theirs!r}. "
                "Make it with `vega3d.hub.assemble.make_processor`, or mend processor_config.json."
            )


def example_clip(name: str) -> Path:
    """Path of a shipped clip, such as `room`.

    Raises:
        ValueError: if there is no clip of this name.
    """
    clips = {path.stem: path for path in sorted((ASSETS / "clips").glob("*.mp4"))}
    if name not in clips:
        raise ValueError(f"There is no example clip {name!r}. Shipped are {', '.join(clips)}.")
    return clips[name]
