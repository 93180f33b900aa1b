"""What the config of a vision-language model must say: its family, its sizes, weights that are whole and its own."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from .generator_layout_vega3d import MOST_LAYERS, check_finite_values, is_number, is_size, require, require_size

VLMS = ("qwen2_5_vl", "qwen3_vl")
REMEDY = "Give a Qwen2.5-VL, or a Qwen3-VL that is not a mixture of experts."
MOST_THETA = 1e12
TEXT_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
VISION_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "out_hidden_size",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
)


def check_vlm(model_type: str) -> None:
    """Raises ValueError unless visual tokens of this family of VLMs can be fused."""
    if model_type not in VLMS:
        raise ValueError(f"The VLM is of model_type {model_type!r}, but supported are {' and '.join(VLMS)}. {REMEDY}")


def check_vlm_sizes(config: PreTrainedConfig) -> None:
    """Raises ValueError for sizes of which no model can be built, or placeholders outside the vocabulary."""
    check_finite_values("vlm_config", config.to_dict())
    text, vision = config.get_text_config().to_dict(), config.vision_config.to_dict()
    for part, values, sizes, depth in (
        ("text_config", text, TEXT_SIZES, "num_hidden_layers"),
        ("vision_config", vision, VISION_SIZES, "depth"),
    ):
        for name in sizes:
            require_size(f"vlm_config.{part}.{name}", values[name], REMEDY)
        require_size(f"vlm_config.{part}.{depth}", values[depth], REMEDY, MOST_LAYERS)
    require_size("vlm_config.text_config.vocab_size", text["vocab_size"], REMEDY, 1 << 24)
    eps: Any = text["rms_norm_eps"]
    rotary: dict[str, Any] = text["rope_parameters"] or {}
    require(is_number(eps) and 0 < eps <= 1, "vlm_config.text_config.rms_norm_eps", eps, "in (0, 1]", REMEDY)
    theta: Any = rotary.get("rope_theta")
    sections = rotary.get("mrope_section")
    is_base = is_number(theta) and 1 < theta <= MOST_THETA
    require(is_base, "vlm_config.text_config.rope_theta", theta, f"in (1, {MOST_THETA:g}]", REMEDY)
    split = sections is None or (isinstance(sections, list) and len(sections) == 3 and all(map(is_size, sections)))
    require(split, "vlm_config.text_config.mrope_section", sections, "three whole numbers", REMEDY)
    for name, token in (("image_token_id", config.image_token_id), ("video_token_id", config.video_token_id)):
        is_token = isinstance(token, int) and 0 <= token < text["vocab_size"]
        limit = f"a token of the vocabulary of {text['vocab_size']}"
        require(is_token, f"vlm_config.{name}", token, limit, "Copy the config of the VLM again.")


def is_official(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of the official VEGA-3D code, which says so by a field of its own alone."""
    return any(name == "use_generative_encoder" or name.startswith("generative_") for name in config)


def check_vlm_file(config: Mapping[str, Any], vlm: Any) -> None:
    """Raises ValueError for a config.json that tells of more than a plain, unquantised model of transformers' own.

    Args:
        config: as stored.
        vlm: folder or Hub id, for the error.
    """
    if is_official(config):
        raise ValueError(official_words(vlm))
    quantised = config.get("quantization_config") or config.get("compression_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        raise ValueError(
            f"{vlm} is quantised ({method or 'by an unknown method'}). Give the model that is not; `--4bit`, or "
            "`load_vega(..., four_bit=True)`, quantises the fused model on loading."
        )
    check_own_code(config, "config.json", vlm)


def check_own_code(values: Mapping[str, Any], file: str, vlm: Any) -> None:
    """Raises ValueError for a VLM that wants code of its own folder to be run."""
    if values.get("auto_map"):
        raise ValueError(
            f"{vlm} brings code of its own (auto_map in {file}), which is never run. {REMEDY} Take auto_map out if "
            "the model is one of these, unchanged."
        )


def official_words(vlm: Any) -> str:
    return (
        f"{vlm} is an official VEGA-3D checkpoint: its trained projector and fusion cannot be taken over, and would "
        "be lost. Give the VLM that it was trained from, such as Qwen/Qwen2.5-VL-7B-Instruct."
    )
