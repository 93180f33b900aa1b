"""What the configs of the official VEGA-3D code and of Wan's own say, in the fields of ours.

A key that is not known is refused, as it may change what the weights mean. Those that say where files lay, how it was
trained, or something about other towers than Wan's, change nothing here, and are known.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from transformers import Qwen2_5_VLConfig

from vega3d.hub.official_names import FUSION_NAMES
from vega3d.modeling.layouts_vega3d import QK_NORM, is_number, is_size, require

TOWER_TYPES = {"sr": ("wan_t2v_online", "wan_online", "wan_vace_online"), "main": ("wan_t2v_online",)}
TOWER_SIZES = {"sr": "832*480", "main": "1280*720"}  # width*height [px], if the config does not say
TOWER_KEYS = {
    f"generative_vision_tower_{name}"
    for names in (
        ("type", "checkpoint", "task", "size", "timestep", "shift", "feat_block_idx", "prompt_emb_path", "dtype"),
        ("context_scale", "condition_on_first_frame", "weight_name", "model_name", "model_version", "pretrained"),
        ("input_size", "output_spatial", "height", "width", "num_frames", "img_size", "tubelet_size", "chunk_size"),
        ("num_inference_steps", "pool_kernel", "clip_checkpoint", "sd21_checkpoint", "empty_prompt_path"),
        ("cfg_min", "camera_scale"),
    )
    for name in names
}
SPATIAL_KEYS = TOWER_KEYS | {
    "use_generative_encoder",
    "generative_encoder_tower_type",
    "generative_encoder_path",
    "generative_encoder_feature_dim",
    "generative_encoder_freeze",
    "generative_fusion_method",
    "generative_fusion_num_layers",
    "generative_fusion_attention_heads",
    "generative_fusion_dropout",
    "generative_merger_type",
    "generative_merger_hidden_dim",
}
SCENE_KEYS = TOWER_KEYS | {
    "use_generative_feature",
    "generative_feat_dim",
    "generative_projector_type",
    "generative_feature_source",
    "generative_cache_max_items",
    "generative_profile",
    "use_feat_fusion",
    "feature_fusion_method",
    "fusion_attention_heads",
    "fusion_dropout",
    "fusion_num_layers",
    "ground_head_type",
    "ground_head_hidden_size",
    "ground_head_temperature",
    "ground_loss_scale",
}
SCENE_PREFIXES = ("generative_", "use_generative_", "use_feat_", "feature_fusion_", "fusion_", "ground_")
QWEN_KEYS = {  # of earlier transformers
    "rope_theta",
    "rope_scaling",
    "torch_dtype",
    "vision_token_id",
    "sliding_window",
    "pretraining_tp",
    "base_model_tp_plan",
    "base_model_pp_plan",
    "_attn_implementation_autoset",
}
WAN_KEYS = {
    "_class_name",
    "_diffusers_version",
    "model_type",
    "dim",
    "eps",
    "ffn_dim",
    "freq_dim",
    "in_dim",
    "out_dim",
    "num_heads",
    "num_layers",
    "patch_size",
    "text_dim",
    "text_len",
    "window_size",
    "qk_norm",
    "cross_attn_norm",
}
WAN_ALWAYS: dict[str, Any] = {"window_size": [-1, -1], "qk_norm": True, "cross_attn_norm": True}
GIVE_OFFICIAL = "Only models with a Wan2.1 text-to-video tower are converted."


class Settings(NamedTuple):
    """Fields of our configs, and those of `VegaProcessor`."""

    model: dict[str, Any]
    generator: dict[str, Any]
    processor: dict[str, Any]


def check_known(config: Mapping[str, Any], known: Collection[str], place: Any) -> None:
    """Raises ValueError for a key of a config that is not known."""
    unknown = sorted(key for key in config if key not in known)
    if unknown:
        raise ValueError(
            f"{place} has {len(unknown)} keys that are not known, the first is {unknown[0]!r}: they may change what "
            "the weights mean. Take out those that do not."
        )


def spatial_settings(config: Mapping[str, Any], place: Any) -> tuple[Settings, dict[str, Any]]:
    """What the config of a spatial-reasoning checkpoint says about the fused model, and the config of its VLM.

    Raises ValueError for unknown keys, another VLM, or a tower that is not Wan's text-to-video.
    """
    if config.get("model_type") != "qwen2_5_vl":
        raise ValueError(f"{place} has model_type {config.get('model_type')!r}, but must be of a Qwen2.5-VL.")
    own = Qwen2_5_VLConfig()
    known = {*own.to_dict(), *own.get_text_config().to_dict(), *QWEN_KEYS}
    check_known(config, known | SPATIAL_KEYS, place)
    merger = chosen(config, "generative_merger_type", "mlp", {"mlp": "merger_mlp", "avg": "avg"}, place)
    model = {
        "fusion": fusion_of(config, "generative_fusion_method", "token_gated_residual", "sr", place),
        "fusion_num_heads": config.get("generative_fusion_attention_heads", 8),
        "fusion_num_layers": config.get("generative_fusion_num_layers", 1),
        "projector": merger,
        "projector_hidden_size": config.get("generative_merger_hidden_dim", 4096),
    }
    kind = config.get("generative_encoder_tower_type", "wan_vace_online")
    generator, processor = tower_settings(config, kind, "sr", place)
    vlm = {key: value for key, value in config.items() if key not in SPATIAL_KEYS and key not in ("architectures",)}
    return Settings(model, generator, processor), vlm


def scene_settings(config: Mapping[str, Any], place: Any) -> Settings:
    """What the config of a 3D-scene checkpoint says about its generative parts and its grounding head.

    Raises ValueError for unknown keys about them, or parts that there are not.
    """
    about = {key: value for key, value in config.items() if key.startswith(SCENE_PREFIXES)}
    check_known(about, SCENE_KEYS, place)
    for key in ("use_generative_feature", "use_feat_fusion"):
        require(config.get(key) is True, f"{key} in {place}", config.get(key), "true", GIVE_OFFICIAL)
    model = {
        "fusion": fusion_of(config, "feature_fusion_method", "add", "main", place),
        "fusion_num_heads": config.get("fusion_attention_heads", 8),
        "fusion_num_layers": config.get("fusion_num_layers", 1),
        "projector": chosen(config, "generative_projector_type", "mlp2x_gelu", {"mlp2x_gelu": "mlp2x"}, place),
        "position_code": position_code_of(config.get("world_position_embedding_type"), place),
    }
    if config.get("ground_head_type") is not None:
        heads = {"infonce": "infonce", "mlp": "mlp"}
        model["grounding_head"] = chosen(config, "ground_head_type", None, heads, place)
        temperature = config.get("ground_head_temperature")
        model["grounding_temperature"] = 0.07 if temperature is None else temperature
        model["grounding_box_weight"] = 0.0
        objects = {"patch14-pe": "semantic", "patch14": "semantic", "patch27-pe": "fused", "patch27": "fused"}
        model["grounding_tokens"] = chosen(config, "object_feature_type", None, objects, place)
    kind = config.get("generative_vision_tower_type", "wan_t2v_online")
    return Settings(model, *tower_settings(config, kind, "main", place))


def position_code_of(kind: str | None, place: Any) -> str:
    if kind is None:
        return "none"
    if "sin3d" not in kind or "discrete" not in kind:
        raise ValueError(
            f"{place} has world_position_embedding_type {kind!r}, but only sinusoids of voxels, such as "
            "'avg-discrete-sin3d', are converted."
        )
    return "sin3d"


def chosen(config: Mapping[str, Any], key: str, default: Any, names: Mapping[str, str], place: Any) -> str:
    """Our name for a value of a config; raises ValueError for one that we have nothing for."""
    value = config.get(key, default)
    if value not in names:
        raise ValueError(f"{place} has {key} {value!r}, but only {', '.join(names)} can be converted.")
    return names[value]


def fusion_of(config: Mapping[str, Any], key: str, default: str, branch: str, place: Any) -> str:
    return chosen(
        config, key, default, {name: ours for (of, name), ours in FUSION_NAMES.items() if of == branch}, place
    )


def tower_settings(config: Mapping[str, Any], kind: Any, branch: str, place: Any) -> tuple[dict, dict]:
    """Block, noise level and frames of the tower; raises ValueError for one that is not Wan's text-to-video."""
    task = config.get("generative_vision_tower_task")
    if kind not in TOWER_TYPES[branch] or (isinstance(task, str) and not task.startswith("t2v")):
        raise ValueError(f"{place} has a tower of type {kind!r} and task {task!r}. {GIVE_OFFICIAL}")
    tower = {key: config.get(f"generative_vision_tower_{key}") for key in ("size", "timestep", "shift")}
    size = TOWER_SIZES[branch] if tower["size"] is None else tower["size"]
    parts = re.fullmatch(r"(\d+)\*(\d+)", str(size))
    if parts is None:
        raise ValueError(f"{place} has generative_vision_tower_size {size!r}, but must have one like '832*480'.")
    block = config.get("generative_vision_tower_feat_block_idx", -1)
    generator = {
        "block": -1 if isinstance(block, int) and block < 0 else block,  # there any negative number is the last block
        "timestep": 300 if tower["timestep"] is None else tower["timestep"],
        "shift": 5.0 if tower["shift"] is None else float(tower["shift"]),
    }
    frames = {"generator_frame_fit": "center_crop", "generator_frame_size": [int(parts[2]), int(parts[1])]}
    return generator, frames


def wan_transformer_config(config: Mapping[str, Any], place: Any) -> tuple[dict[str, Any], int]:
    """The config of `WanTransformer3DModel` for that of the original code, and the length of a padded prompt.

    Raises ValueError for another model, and keys that are not known.
    """
    name, kind = config.get("_class_name"), config.get("model_type")
    if name != "WanModel" or kind != "t2v":
        raise ValueError(f"{place} is of {name!r} and model_type {kind!r}, but must be of WanModel and t2v.")
    check_known(config, WAN_KEYS, place)
    for key, value in WAN_ALWAYS.items():
        given = config.get(key, value)
        require(given == value, f"{key} in {place}", given, repr(value), "Give Wan2.1-T2V.")
    names = ("dim", "ffn_dim", "freq_dim", "in_dim", "out_dim", "num_heads", "num_layers")
    sizes: dict[str, Any] = {key: config.get(key) for key in names}
    sizes |= {"text_dim": config.get("text_dim", 4096), "text_len": config.get("text_len", 512)}
    for key, value in sizes.items():
        require(is_size(value), f"{key} in {place}", value, "a whole number", "Copy the config again.")
    eps, width, heads = config.get("eps", 1e-6), sizes["dim"], sizes["num_heads"]
    require(is_number(eps), f"eps in {place}", eps, "a number", "Copy the config again.")
    require(width % heads == 0, f"dim in {place}", width, f"a multiple of num_heads={heads}", "Copy the config again.")
    diffusers = {
        "added_kv_proj_dim": None,
        "attention_head_dim": width // heads,
        "cross_attn_norm": True,
        "eps": eps,
        "ffn_dim": sizes["ffn_dim"],
        "freq_dim": sizes["freq_dim"],
        "image_dim": None,
        "in_channels": sizes["in_dim"],
        "num_attention_heads": heads,
        "num_layers": sizes["num_layers"],
        "out_channels": sizes["out_dim"],
        "patch_size": list(config.get("patch_size", (1, 2, 2))),
        "qk_norm": QK_NORM,
        "rope_max_seq_len": 1024,
        "text_dim": sizes["text_dim"],
    }
    return diffusers, sizes["text_len"]
