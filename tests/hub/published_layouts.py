"""Models in exactly the layouts of published ones, with tiny weights: real configs, depths and names, small widths."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, UMT5Config, UMT5EncoderModel

from tiny_models import TOKENS, VOCABULARY

LAYOUTS = Path(__file__).parents[1] / "fixtures" / "layouts"
WAN = LAYOUTS / "wan2.1-t2v-1.3b-diffusers"
NARROW_TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 16,
    "text_dim": 16,
    "freq_dim": 16,
}
NARROW_ENCODER = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "vocab_size": 32}


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def write(file: Path, values: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))
    return file


def narrow_vlm_config(name: str) -> dict[str, Any]:
    """A published config with its depth and fields, and small widths."""
    config = read(LAYOUTS / name / "config.json")
    config |= TOKENS
    text = config.get("text_config", config)
    text |= {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    text |= {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None}
    config |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    text["rope_scaling"] |= {"mrope_section": [4, 2, 2]}
    if "head_dim" in text:
        text["head_dim"] = 16
    config["vision_config"] |= {"hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    return config


def save_vlm(folder: Path, name: str) -> Path:
    """A published VLM with small widths, sharded as it is if an index of it is at hand."""
    values = narrow_vlm_config(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**values), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    write(folder / "config.json", values)
    index = LAYOUTS / name / "model.safetensors.index.json"
    if index.is_file():
        shard(folder, "model", read(index)["weight_map"])
    return folder


def shard(folder: Path, stem: str, weight_map: dict[str, str]) -> None:
    """Spreads weights over the files that a published index names; each name in it must be one of the weights."""
    weights = load_file(folder / f"{stem}.safetensors")
    for file in sorted(set(weight_map.values())):
        kept = {key: weights[key].contiguous() for key, place in weight_map.items() if place == file}
        save_file(kept, folder / file, metadata={"format": "pt"})
    assert weight_map.keys() <= weights.keys()
    (folder / f"{stem}.safetensors").unlink()
    write(folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})


def save_wan(folder: Path) -> Path:
    """Wan2.1-T2V-1.3B with small widths: its depths, its names, its two indices."""
    transformer, vae = (read(WAN / part / "config.json") for part in ("transformer", "vae"))
    encoder = read(WAN / "text_encoder" / "config.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        WanTransformer3DModel.from_config({**transformer, **NARROW_TRANSFORMER}).save_pretrained(
            folder / "transformer"
        )
        AutoencoderKLWan.from_config({**vae, "base_dim": 3}).save_pretrained(folder / "vae")
        UMT5EncoderModel(UMT5Config(**{**encoder, **NARROW_ENCODER})).save_pretrained(folder / "text_encoder")
    for part, stem in (("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")):
        shard(folder / part, stem, read(WAN / part / f"{stem}.safetensors.index.json")["weight_map"])
    write(folder / "model_index.json", read(WAN / "model_index.json"))
    return folder


def save_configs(folder: Path, name: str, **changes: dict[str, Any]) -> Path:
    """The small files of a published generator; weights are empty files, which nothing may read.

    Args:
        folder: to write into.
        name: of the layout; parts that it lacks are those of Wan2.1-T2V-1.3B.
        changes: values of a part to change, by the part.
    """
    for part in ("transformer", "vae", "text_encoder"):
        stored = LAYOUTS / name / part / "config.json"
        values = read(stored if stored.is_file() else WAN / part / "config.json")
        write(folder / part / "config.json", {**values, **changes.get(part, {})})
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        (folder / part / f"{stem}.safetensors").touch()
    if (LAYOUTS / name / "model_index.json").is_file():
        write(folder / "model_index.json", read(LAYOUTS / name / "model_index.json"))
    return folder
