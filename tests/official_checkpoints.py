"""Checkpoints as the official code and Wan's own save them, tiny: weights of the golden fixtures under their names."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel

from golden_models import Fixture
from processing.builders import build_processor
from tiny_models import seeded

QWEN = Fixture("qwen_generative")
NOT_IN_CONFIG = ("attn_implementation", "generative", "logits_note", "transformers")
TOWER = "generative_encoder.tower.model."


def official_config() -> dict[str, Any]:
    """The config.json that the official training writes for the model of the fixture."""
    generative = QWEN.config["generative"]
    return {
        **{name: value for name, value in QWEN.config.items() if name not in NOT_IN_CONFIG},
        "architectures": ["Qwen2_5_VLForConditionalGenerationWithGenerative"],
        "model_type": "qwen2_5_vl",
        "torch_dtype": "float32",
        "transformers_version": QWEN.config["transformers"],
        "use_generative_encoder": True,
        "generative_encoder_tower_type": "wan_t2v_online",
        "generative_encoder_path": "data/models/Wan2.1-T2V-1.3B",
        "generative_encoder_feature_dim": 2048,
        "generative_encoder_freeze": True,
        "generative_vision_tower_task": "t2v-1.3B",
        "generative_vision_tower_size": f"{generative['frame_width']}*{generative['frame_height']}",
        "generative_fusion_method": generative["fusion_method"],
        "generative_fusion_num_layers": 1,
        "generative_merger_type": generative["merger_type"],
        "generative_merger_hidden_dim": generative["merger_hidden_dim"],
    }


def official_weights() -> dict[str, torch.Tensor]:
    return QWEN.under("state.model.")


def save_official(folder: Path, weights: dict[str, torch.Tensor] | None = None, **config) -> Path:
    """A spatial-reasoning checkpoint in two shards, with its processor.

    Args:
        folder: a new one.
        weights: in place of those of the fixture.
        config: values of config.json to change.
    """
    weights = official_weights() if weights is None else weights
    build_processor(patch=QWEN.config["vision_config"]["patch_size"]).vlm_processor.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**official_config(), **config}))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "pad_token_id": 0}))
    places = {key: f"model-0000{1 + key.startswith('generative_')}-of-00002.safetensors" for key in weights}
    for place in set(places.values()):
        shard = {key: weights[key].contiguous() for key in weights if places[key] == place}
        save_file(shard, folder / place, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def save_original_wan(
    folder: Path, vae: dict[str, torch.Tensor] | None = None, prompt: bool = True, pickled: bool = True, **config
) -> Path:
    """Wan in the layout of the original code, with the prompt of the official VEGA-3D code beside it.

    Args:
        folder: a new one.
        vae: weights in place of those of the fixture.
        prompt: whether the prompt is there; else there is a place for a text encoder.
        pickled: the VAE as it is published; a process has to be started to read it.
        config: values of config.json to change.
    """
    folder.mkdir(parents=True)
    generative = QWEN.config["generative"]
    names = ("dim", "ffn_dim", "freq_dim", "num_heads", "num_layers", "text_dim", "text_len")
    values = {name: generative[name] for name in names}
    values |= {"_class_name": "WanModel", "model_type": "t2v", "in_dim": 16, "out_dim": 16, "eps": 1e-6}
    (folder / "config.json").write_text(json.dumps({**values, **config}))
    transformer = QWEN.under(f"state.model.{TOWER}")
    save_file(transformer, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    vae = QWEN.under("state.vae.") if vae is None else vae
    if pickled:
        torch.save(vae, folder / "Wan2.1_VAE.pth")
    else:
        save_file(vae, folder / "Wan2.1_VAE.safetensors")
    if prompt:
        torch.save(QWEN["input.prompt_embeds"], folder / "wan_prompt_embedding.pt")
    return folder


def umt5_encoder(width: int) -> UMT5EncoderModel:
    config = UMT5Config(vocab_size=32, d_model=width, d_kv=8, d_ff=16, num_layers=2, num_heads=3, eos_token_id=1)
    return seeded(lambda: UMT5EncoderModel(config), 0)


def original_text_encoder(encoder: UMT5EncoderModel) -> dict[str, torch.Tensor]:
    """Its weights under the names of Wan's own code."""
    state = encoder.state_dict()
    named = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}
    for block in range(encoder.config.num_layers):
        attention, feed_forward = (f"encoder.block.{block}.layer.{layer}" for layer in (0, 1))
        named |= {f"blocks.{block}.attn.{name}": f"{attention}.SelfAttention.{name}" for name in "qkvo"}
        named[f"blocks.{block}.pos_embedding.embedding"] = f"{attention}.SelfAttention.relative_attention_bias"
        named |= {
            f"blocks.{block}.norm1": f"{attention}.layer_norm",
            f"blocks.{block}.norm2": f"{feed_forward}.layer_norm",
        }
        for ours, theirs in (("wi_0", "gate.0"), ("wi_1", "fc1"), ("wo", "fc2")):
            named[f"blocks.{block}.ffn.{theirs}"] = f"{feed_forward}.DenseReluDense.{ours}"
    return {f"{theirs}.weight": state[f"{ours}.weight"].clone() for theirs, ours in named.items()}
