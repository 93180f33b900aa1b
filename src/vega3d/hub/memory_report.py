"""What a model needs in each way of holding it, on this GPU: weights, an estimate of activations, and what fits."""

from collections.abc import Iterable
from typing import Any, get_args

import torch

from vega3d.extras import EXTRAS, is_installed
from vega3d.hub.memory import WEIGHT_PARTS, Held, Shapes, check_widths, weight_bytes
from vega3d.hub.memory_choices import CHOICES, Memory, MemoryChoice
from vega3d.modeling.layouts_vega3d import TEMPORAL_STRIDE
from vega3d.tables import aligned

GIB, MIB = 2**30, 2**20
TOTALS = {  # lines of the table: what they are of
    "weights": "weights_together",
    "activations, about": "activations_together",
    "needed on the GPU, about": "needed",
    "in host memory": "in_host_memory",
}
VISION_PATCH = 14 * 14  # [px]; 16 * 16 of Qwen3-VL makes fewer
PROMPT_TOKENS = 100
VAE_COPIES = 4  # of the widest states: input, residual, its norm, the result
JOINED_COPIES = 4  # beside them in the mode clip: the frames behind those before them, and three of these joined
BLOCK_WIDTHS = 15  # hidden states of C channels in a block, beside the feed-forward's
FORMULAS = {
    "VAE": "4 P base_dim b (8 in the mode clip), P pixels encoded at a time",
    "generator blocks": "L (ffn_dim + 15 C) b, L tokens at a time",
    "visual tower": "N (3 intermediate + 6 hidden) b, N patches",
    "language model": "T (3 intermediate + 6 hidden) b, T tokens; in few bits one linear more, unpacked",
    "kept": "features, visual tokens, keys and values of T tokens, constants of the blocks",
    "together": "kept + the largest of the others; b bytes a number",
}


def activation_bytes(shapes: Shapes, choice: MemoryChoice, dtype: torch.dtype) -> dict[str, int]:
    """An estimate of the most that each stage of a question about one video takes, by `FORMULAS`."""
    stages = {}
    size, tokens = dtype.itemsize, 0
    kept = 0
    if shapes.has_vlm:
        text, vision = shapes.config.vlm_config.get_text_config(), shapes.config.vlm_config.vision_config
        patches = -(-shapes.num_frames // vision.temporal_patch_size) * shapes.area // VISION_PATCH
        tokens = patches // vision.spatial_merge_size**2 + PROMPT_TOKENS
        stages["visual tower"] = patches * (3 * vision.intermediate_size + 6 * vision.hidden_size) * size
        unpacked = text.intermediate_size * text.hidden_size if choice.language != "native" else 0
        wide = tokens * (3 * text.intermediate_size + 6 * text.hidden_size)
        stages["language model"] = (wide + unpacked) * size
        head = text.hidden_size // text.num_attention_heads
        cached = 2 * text.num_hidden_layers * text.num_key_value_heads * head
        kept += tokens * (cached + 2 * text.hidden_size) * size
    if shapes.has_generator:
        stages |= generator_stages(shapes, choice, size)
        config = shapes.config.generator_config
        frames = latent_frames(shapes)
        kept += frames * shapes.area // config.patch_size**2 * config.hidden_size * size
        kept += config.num_blocks_read * config.hidden_size * (8 + 2 * (config.prompt_tokens + 1)) * size
    return {**stages, "kept": kept}


def generator_stages(shapes: Shapes, choice: MemoryChoice, size: int) -> dict[str, int]:
    config, vae = shapes.config.generator_config, shapes.config.generator_config.vae
    from vega3d.modeling.vae_wan_vega3d import PIXELS_AT_A_TIME

    few, copies = 1 if choice.slices else max(1, PIXELS_AT_A_TIME // shapes.area), VAE_COPIES
    if config.clip_mode == "clip":
        frames = min(shapes.num_frames, TEMPORAL_STRIDE * max(1, few // TEMPORAL_STRIDE))
        copies += JOINED_COPIES
    else:
        frames = min(few, shapes.num_frames, config.chunk_frames)
    states = copies * frames * shapes.area * vae.get("tiny_width", vae.get("base_dim", 96))
    stages = {"VAE": states * size // (vae.get("patch_size") or 1) ** 2}
    if config.family != "vae":
        heads, head = (
            config.transformer.get("num_attention_heads", 40),
            config.transformer.get("attention_head_dim", 128),
        )
        together = latent_frames(shapes)
        if config.clip_mode == "frame":
            together = min(together, config.chunk_frames)
        tokens = together * shapes.area // config.patch_size**2
        width = config.transformer.get("ffn_dim", 13824) + BLOCK_WIDTHS * heads * head
        stages["generator blocks"] = tokens * width * size
    return stages


def latent_frames(shapes: Shapes) -> int:
    """Rows of the generator's grid in time."""
    config = shapes.config.generator_config
    if config.clip_mode != "clip":
        return -(-shapes.num_frames // config.frame_stride)
    return 1 + -(-(shapes.num_frames - 1) // TEMPORAL_STRIDE)


def together(stages: dict[str, int]) -> int:
    """The most that is held at once: `kept`, and the largest of the others."""
    return stages["kept"] + max(count for name, count in stages.items() if name != "kept")


# --- The report ------------------------------------------------------------------------------------------------------


def free_memory(device: torch.device) -> int | None:
    """Bytes that a GPU has free; None for another device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def describe_memory(shapes: Shapes, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Bytes of weights and activations of each choice, the first GPU of this machine, and what fits on it."""
    gpu: dict[str, Any] | None = None
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        gpu = {"name": torch.cuda.get_device_name(), "free": free, "total": total}
    dtype = dtype or shapes.dtype
    return {
        "gpu": gpu,
        "dtype": str(dtype).removeprefix("torch."),
        "num_frames": shapes.num_frames,
        "frame_pixels": shapes.area,
        "formulas": FORMULAS,
        "choices": {
            name: described_choice(shapes, name, dtype, None if gpu is None else gpu["free"])
            for name in get_args(Memory)
        },
    }


def described_choice(shapes: Shapes, name: str, dtype: torch.dtype, free: int | None) -> dict[str, Any]:
    choice = CHOICES[name]
    try:
        check_widths(shapes, choice)
    except ValueError as error:
        return {"refused": str(error)}
    held = weight_bytes(shapes, choice, dtype)
    activations = activation_bytes(shapes, choice, dtype)
    needed = held.total + together(activations)
    missing = choice.package is not None and not is_installed(choice.package)
    return {
        "weights": {part: count for part, count in held.parts.items() if count},
        "weights_together": held.total,
        "in_host_memory": held.in_host,
        "activations": activations,
        "activations_together": together(activations),
        "needed": needed,
        "fits": None if free is None else needed <= free,
        "missing_extra": EXTRAS[str(choice.package)] if missing else None,
    }


def memory_table(values: dict[str, Any]) -> list[str]:
    """The lines of a table of `describe_memory`, a column a choice, and what it is measured against."""
    choices = {name: one for name, one in values["choices"].items() if "refused" not in one}
    unit, name = (MIB, "MiB") if all(one["needed"] < GIB for one in choices.values()) else (GIB, "GiB")

    def row(label: str, counts: Iterable[int]) -> list[str]:
        return [label, *(f"{count / unit:.2f}" for count in counts)]

    parts = [part for part in WEIGHT_PARTS if any(part in one["weights"] for one in choices.values())]
    rows = [[name, *choices]]
    rows += [row(part, (one["weights"].get(part, 0) for one in choices.values())) for part in parts]
    rows += [row(label, (one[key] for one in choices.values())) for label, key in TOTALS.items()]
    gpu = values["gpu"]
    if gpu is not None:
        rows.append(["fits", *("yes" if one["fits"] else "no" for one in choices.values())])
    rows.append(["missing extra", *(one["missing_extra"] or "" for one in choices.values())])
    here = "There is no GPU here."
    if gpu is not None:
        here = f"{gpu['name']}: {gib(gpu['free'])} of {gib(gpu['total'])} GiB free."
    frames = (
        f"One video of {values['num_frames']} frames of {values['frame_pixels']} px, weights in {values['dtype']}."
    )
    refused = [f"{name}: {one['refused']}" for name, one in values["choices"].items() if "refused" in one]
    formulas = [f"  {stage}: {formula}" for stage, formula in values["formulas"].items()]
    return [*aligned(rows), "", here, frames, *refused, "Activations are estimated:", *formulas]


def gib(count: int) -> str:
    return f"{count / GIB:.2f}" if count >= GIB / 100 else f"{count / GIB:.2g}"


def check_memory(shapes: Shapes, memory: str, dtype: torch.dtype | None, free: int | None) -> None:
    """Raises ValueError if the weights alone take more than `free` bytes, with what each other choice would save.

    `free` is None where it is not known, as on a CPU. Activations are an estimate, so they refuse nothing.
    """
    if free is None:
        return
    dtype = dtype or shapes.dtype
    held = weight_bytes(shapes, CHOICES[memory], dtype)
    if held.total <= free:
        return
    activations = together(activation_bytes(shapes, CHOICES[memory], dtype))
    saving = [line for name in get_args(Memory) for line in saved(shapes, name, held, dtype)]
    instead = f" {'; '.join(saving)}." if saving else ""
    raise ValueError(
        f"With memory={memory!r} the weights need {gib(held.total)} GiB of GPU memory, and activations about "
        f"{gib(activations)} GiB more, but {gib(free)} GiB are free.{instead} Choose one that fits, free the GPU, or "
        "use the CPU."
    )


def saved(shapes: Shapes, name: str, held: Held, dtype: torch.dtype) -> list[str]:
    """What a choice would save, if it can be taken and saves anything."""
    try:
        check_widths(shapes, CHOICES[name])
    except ValueError:
        return []
    less = held.total - weight_bytes(shapes, CHOICES[name], dtype).total
    return [f"memory={name!r} saves {gib(less)} GiB"] if less > 0 else []
