"""What the published configs of a generator must say: a text-to-video transformer of Wan and its VAE, unquantised."""

import math
from collections.abc import Mapping
from typing import Any

CLASSES = {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan"}
REMEDY = "Give a text-to-video generator of Wan2.1, such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
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


def latent_edge(vae: Mapping[str, Any]) -> int:
    """Edge of the square of pixels that one latent of a Wan VAE covers [px], from the VAE's config."""
    return (vae.get("patch_size") or 1) * 2 ** (len(vae.get("dim_mult", [1, 2, 4, 4])) - 1)


def check_part_class(part: str, config: Mapping[str, Any], place: Any) -> None:
    """Raises ValueError unless the config of a part names the class that reads it, with unquantised weights.

    Args:
        part: "transformer" or "vae".
        config: as stored, with diffusers' own names.
        place: folder or Hub id, for the error.
    """
    found = config.get("_class_name")
    if found != CLASSES[part]:
        raise ValueError(
            f"The generator's {part} in {place} is of class {found!r}, but must be {CLASSES[part]!r}. {REMEDY}"
        )
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
            f"an image or a control beside the noisy video. {REMEDY}"
        )


def check_transformer(config: Mapping[str, Any]) -> None:
    if "num_layers" in config:
        require_size("transformer.num_layers", config["num_layers"], REMEDY, MOST_LAYERS)
    for name in TRANSFORMER_SIZES:
        if name in config:
            require_size(f"transformer.{name}", config[name], REMEDY)
    for name in ("image_dim", "added_kv_proj_dim"):
        value = config.get(name)
        require(value is None, f"transformer.{name}", value, "None: images are no input of text-to-video", REMEDY)
    eps, norm = config.get("eps", 1e-6), config.get("qk_norm", QK_NORM)
    require(is_number(eps) and 0 < eps <= 1, "transformer.eps", eps, "in (0, 1]", REMEDY)
    require(norm == QK_NORM, "transformer.qk_norm", norm, repr(QK_NORM), REMEDY)
    patch = config.get("patch_size", (1, 2, 2))
    fits = isinstance(patch, (list, tuple)) and len(patch) == 3 and all(is_size(edge, 64) for edge in patch)
    require(fits and patch[0] == 1 and patch[1] == patch[2], "transformer.patch_size", patch, "like [1, 2, 2]", REMEDY)


def check_vae(config: Mapping[str, Any]) -> None:
    for name in ("z_dim", "base_dim", "num_res_blocks"):
        if name in config:
            require_size(f"vae.{name}", config[name], REMEDY)
    levels = config.get("dim_mult", [1, 2, 4, 4])
    fits = isinstance(levels, (list, tuple)) and 2 <= len(levels) <= 8 and all(is_size(level, 64) for level in levels)
    require(fits, "vae.dim_mult", levels, "a list of 2 to 8 widths", REMEDY)
    require(
        not config.get("is_residual"),
        "vae.is_residual",
        config.get("is_residual"),
        "False, so use a Wan2.1 VAE: the residual one of Wan2.2-TI2V-5B is not read",
        REMEDY,
    )
    patch = config.get("patch_size")
    require(patch is None or is_size(patch, 64), "vae.patch_size", patch, "None or a whole number", REMEDY)
    colours, wanted = config.get("in_channels", 3), 3 * (patch or 1) ** 2
    require(colours == wanted, "vae.in_channels", colours, f"{wanted}, the colours of a patch", REMEDY)
    edge = latent_edge(config)
    if edge != LATENT_EDGE:
        raise ValueError(
            f"A latent of the VAE is of {edge} px (patch_size {patch}, {len(levels)} levels), but must be of "
            f"{LATENT_EDGE} px: use a Wan2.1 VAE. {REMEDY}"
        )
    steps = config.get("temperal_downsample", [False, True, True])
    fits = isinstance(steps, (list, tuple)) and all(isinstance(step, bool) for step in steps)
    require(fits and len(steps) == len(levels) - 1, "vae.temperal_downsample", steps, "a flag for each level", REMEDY)
    require(sum(steps) == 2, "vae.temperal_downsample", steps, "true twice: a latent is of 4 frames", REMEDY)
    check_statistics(config)


def check_statistics(vae: Mapping[str, Any]) -> None:
    """The mean and the spread of each channel of the latents: finite, and no spread is zero."""
    channels = vae.get("z_dim", 16)
    for name in ("latents_mean", "latents_std"):
        if name not in vae and channels == 16:  # those of Wan2.1, which diffusers fills in
            continue
        values: Any = vae.get(name)
        fits = isinstance(values, (list, tuple)) and len(values) == channels and all(is_number(v) for v in values)
        require(fits, f"vae.{name}", values, f"{channels} finite numbers, one for each channel", REMEDY)
        if name == "latents_std":
            require(min(values) > 0, "vae.latents_std", values, "positive", REMEDY)
