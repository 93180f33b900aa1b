"""What the published configs of the two models must say, before anything large is read.

The generator is a text-to-video transformer of Wan with its VAE, the VLM a Qwen-VL of transformers' own; both whole
and unquantised.
"""

import math
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

# --- The generator ---------------------------------------------------------------------------------------------------


CLASSES = {"transformer": ("WanTransformer3DModel",), "vae": ("AutoencoderKLWan", "TAEHV")}
GIVE_WAN = "Give a text-to-video generator of Wan2.1, such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
LATENT_EDGE = 8  # [px]
TEMPORAL_STRIDE = 4  # frames that a latent of the causal VAE stands for, after the first
MOST_LAYERS = 1000
WIDEST = 1 << 20
QK_NORM = "rms_norm_across_heads"
TRANSFORMER_SIZES = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "text_dim",
    "freq_dim",
    "ffn_dim",
    "rope_max_seq_len",
)


def require(condition: bool, name: str, value: Any, limit: str, remedy: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r} is out of range: it must be {limit}. {remedy}")


def is_size(value: Any, most: int = WIDEST) -> bool:
    """Whether a value is a whole number from 1 to `most`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def require_size(name: str, value: Any, remedy: str, most: int = WIDEST) -> None:
    require(is_size(value, most), name, value, f"a whole number, at least 1 and at most {most}", remedy)


def check_finite_values(name: str, value: Any) -> None:
    """Raises ValueError for NaN or infinity anywhere in a config; JSON lacks them, but Python reads them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_finite_values(f"{name}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_finite_values(name, inner)
    elif isinstance(value, float):
        require(math.isfinite(value), name, value, "finite", "Copy the config again.")


def is_tiny(vae: Mapping[str, Any]) -> bool:
    """Whether a config is of a tiny VAE in the layout of TAEHV, in place of Wan's own."""
    return "tiny_width" in vae


def latent_edge(vae: Mapping[str, Any]) -> int:
    """Edge of the square of pixels that one latent covers [px], from the VAE's config."""
    if is_tiny(vae):
        return LATENT_EDGE
    return (vae.get("patch_size") or 1) * 2 ** (len(vae.get("dim_mult", [1, 2, 4, 4])) - 1)


def check_latent_edge(vae: Mapping[str, Any]) -> None:
    """Raises ValueError for a VAE whose latents are of another size, such as the 16 px of Wan2.2."""
    edge, patch, levels = latent_edge(vae), vae.get("patch_size"), vae.get("dim_mult", [1, 2, 4, 4])
    if edge != LATENT_EDGE:
        raise ValueError(
            f"A latent of the VAE is of {edge} px (patch_size {patch}, {len(levels)} levels), but must be of "
            f"{LATENT_EDGE} px: use a Wan2.1 VAE. {GIVE_WAN}"
        )


def check_part_class(part: str, config: Mapping[str, Any], place: Any) -> None:
    """Raises ValueError unless the config of `transformer` or `vae` names the class that reads it, unquantised."""
    found = config.get("_class_name")
    if found not in CLASSES[part]:
        wanted = " or ".join(map(repr, CLASSES[part]))
        raise ValueError(f"The generator's {part} in {place} is of class {found!r}, but must be {wanted}. {GIVE_WAN}")
    if config.get("quantization_config") is not None:
        raise ValueError(f"The generator's {part} in {place} is quantised. Give the one that is not.")


def check_generator(transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Raises ValueError unless the two configs are of a text-to-video Wan whose parts fit each other."""
    check_finite_values("transformer", transformer)
    check_finite_values("vae", vae)
    check_transformer(transformer)
    check_vae(vae)
    channels, latents = transformer.get("in_channels", 16), vae.get("z_dim", 16)
    if channels != latents:
        raise ValueError(
            f"The transformer takes in_channels={channels}, but the VAE makes latents of z_dim={latents}: it expects "
            f"an image or a control beside the noisy video. {GIVE_WAN}"
        )


def check_transformer(config: Mapping[str, Any]) -> None:
    if "num_layers" in config:
        require_size("transformer.num_layers", config["num_layers"], GIVE_WAN, MOST_LAYERS)
    for name in TRANSFORMER_SIZES:
        if name in config:
            require_size(f"transformer.{name}", config[name], GIVE_WAN)
    for name in ("image_dim", "added_kv_proj_dim"):
        value = config.get(name)
        require(value is None, f"transformer.{name}", value, "None: images are no input of text-to-video", GIVE_WAN)
    eps, norm = config.get("eps", 1e-6), config.get("qk_norm", QK_NORM)
    require(is_number(eps) and 0 < eps <= 1, "transformer.eps", eps, "in (0, 1]", GIVE_WAN)
    require(norm == QK_NORM, "transformer.qk_norm", norm, repr(QK_NORM), GIVE_WAN)
    patch = config.get("patch_size", (1, 2, 2))
    fits = isinstance(patch, (list, tuple)) and len(patch) == 3 and all(is_size(edge, 64) for edge in patch)
    fits = fits and patch[0] == 1 and patch[1] == patch[2]
    require(fits, "transformer.patch_size", patch, "like [1, 2, 2]", GIVE_WAN)


def check_tiny_vae(config: Mapping[str, Any]) -> None:
    remedy = "Make the generator again by `vega3d convert`."
    for name in ("z_dim", "tiny_width"):
        require_size(f"vae.{name}", config.get(name), remedy)
    for name in ("latents_mean", "latents_std"):
        require(name in config, f"vae.{name}", None, "given: a tiny VAE has no defaults", remedy)
    check_statistics(config)


def check_vae(config: Mapping[str, Any]) -> None:
    if is_tiny(config):
        check_tiny_vae(config)
        return
    for name in ("z_dim", "base_dim", "num_res_blocks"):
        if name in config:
            require_size(f"vae.{name}", config[name], GIVE_WAN)
    levels = config.get("dim_mult", [1, 2, 4, 4])
    fits = isinstance(levels, (list, tuple)) and 2 <= len(levels) <= 8 and all(is_size(level, 64) for level in levels)
    require(fits, "vae.dim_mult", levels, "a list of 2 to 8 widths", GIVE_WAN)
    require(
        not config.get("is_residual"),
        "vae.is_residual",
        config.get("is_residual"),
        "False, so use a Wan2.1 VAE: the residual one of Wan2.2-TI2V-5B is not read",
        GIVE_WAN,
    )
    patch = config.get("patch_size")
    require(patch is None or is_size(patch, 64), "vae.patch_size", patch, "None or a whole number", GIVE_WAN)
    colours, wanted = config.get("in_channels", 3), 3 * (patch or 1) ** 2
    require(colours == wanted, "vae.in_channels", colours, f"{wanted}, the colours of a patch", GIVE_WAN)
    check_latent_edge(config)
    steps = config.get("temperal_downsample", [False, True, True])
    fits = isinstance(steps, (list, tuple)) and all(isinstance(step, bool) for step in steps)
    fits = fits and len(steps) == len(levels) - 1
    require(fits, "vae.temperal_downsample", steps, "a flag for each level", GIVE_WAN)
    require(sum(steps) == 2, "vae.temperal_downsample", steps, "true twice: a latent is of 4 frames", GIVE_WAN)
    check_statistics(config)


def check_statistics(vae: Mapping[str, Any]) -> None:
    """The mean and the spread of each channel of the latents: finite, and no spread is zero."""
    channels = vae.get("z_dim", 16)
    for name in ("latents_mean", "latents_std"):
        if name not in vae and channels == 16:  # those of Wan2.1, which diffusers fills in
            continue
        values: Any = vae.get(name)
        fits = isinstance(values, (list, tuple)) and len(values) == channels and all(is_number(v) for v in values)
        require(fits, f"vae.{name}", values, f"{channels} finite numbers, one for each channel", GIVE_WAN)
        if name == "latents_std":
            require(min(values) > 0, "vae.latents_std", values, "positive", GIVE_WAN)


# --- The vision-language model ---------------------------------------------------------------------------------------


VLMS = ("qwen2_5_vl", "qwen3_vl")
GIVE_QWEN = "Give a Qwen2.5-VL, or a Qwen3-VL that is not a mixture of experts."
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
        raise ValueError(
            f"The VLM is of model_type {model_type!r}, but supported are {' and '.join(VLMS)}. {GIVE_QWEN}"
        )


def check_vlm_sizes(config: PreTrainedConfig) -> None:
    """Raises ValueError for sizes of which no model can be built, or placeholders outside the vocabulary."""
    check_finite_values("vlm_config", config.to_dict())
    text, vision = config.get_text_config().to_dict(), config.vision_config.to_dict()
    for part, values, sizes, depth in (
        ("text_config", text, TEXT_SIZES, "num_hidden_layers"),
        ("vision_config", vision, VISION_SIZES, "depth"),
    ):
        for name in sizes:
            require_size(f"vlm_config.{part}.{name}", values[name], GIVE_QWEN)
        require_size(f"vlm_config.{part}.{depth}", values[depth], GIVE_QWEN, MOST_LAYERS)
    require_size("vlm_config.text_config.vocab_size", text["vocab_size"], GIVE_QWEN, 1 << 24)
    eps: Any = text["rms_norm_eps"]
    rotary: dict[str, Any] = text["rope_parameters"] or {}
    require(is_number(eps) and 0 < eps <= 1, "vlm_config.text_config.rms_norm_eps", eps, "in (0, 1]", GIVE_QWEN)
    theta: Any = rotary.get("rope_theta")
    sections = rotary.get("mrope_section")
    is_base = is_number(theta) and 1 < theta <= MOST_THETA
    require(is_base, "vlm_config.text_config.rope_theta", theta, f"in (1, {MOST_THETA:g}]", GIVE_QWEN)
    split = sections is None or (isinstance(sections, list) and len(sections) == 3 and all(map(is_size, sections)))
    require(split, "vlm_config.text_config.mrope_section", sections, "three whole numbers", GIVE_QWEN)
    for name, token in (("image_token_id", config.image_token_id), ("video_token_id", config.video_token_id)):
        is_token = isinstance(token, int) and 0 <= token < text["vocab_size"]
        limit = f"a token of the vocabulary of {text['vocab_size']}"
        require(is_token, f"vlm_config.{name}", token, limit, "Copy the config of the VLM again.")


def is_official(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of the official VEGA-3D code, which says so by a field of its own alone."""
    return any(name == "use_generative_encoder" or name.startswith("generative_") for name in config)


def check_vlm_file(config: Mapping[str, Any], vlm: Any) -> None:
    """Raises ValueError for the config.json of more than a plain, unquantised model of transformers' own."""
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
            f"{vlm} brings code of its own (auto_map in {file}), which is never run. {GIVE_QWEN} Take auto_map out if "
            "the model is one of these, unchanged."
        )


def official_words(vlm: Any) -> str:
    return (
        f"{vlm} is an official VEGA-3D checkpoint: its trained projector and fusion would be lost. Make a model of it "
        "with `vega3d convert`, or give the VLM that it was trained from, such as Qwen/Qwen2.5-VL-7B-Instruct."
    )
