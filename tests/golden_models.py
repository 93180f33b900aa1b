"""Official weights of a fixture -> vega3d's public classes, through the key tables of `official_names`."""

import json
import os
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import safe_open

from vega3d import VegaConfig, VegaGenerator, VegaGeneratorConfig
from vega3d.hub.official_names import WAN_TRANSFORMER, rename, rename_vae

GOLDEN = Path(os.environ.get("VEGA3D_GOLDEN", Path(__file__).parent / "fixtures" / "golden"))


class Fixture:
    """Tensors and configuration of one fixture file."""

    def __init__(self, name: str):
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            self.config = json.loads(file.metadata()["config"])
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def names(self, prefix: str) -> list[str]:
        """Distinct next parts of the keys under `prefix`, in order."""
        return list(dict.fromkeys(key.split(".")[0] for key in self.under(prefix)))


def wan_transformer(config: dict, state: dict[str, torch.Tensor]) -> WanTransformer3DModel:
    model = WanTransformer3DModel(
        num_attention_heads=config["num_heads"],
        attention_head_dim=config["dim"] // config["num_heads"],
        in_channels=config.get("in_dim", 16),
        out_channels=config.get("out_dim", 16),
        text_dim=config["text_dim"],
        freq_dim=config["freq_dim"],
        ffn_dim=config["ffn_dim"],
        num_layers=config["num_layers"],
        patch_size=tuple(config.get("patch_size", (1, 2, 2))),
        eps=config.get("eps", 1e-6),
    )
    model.load_state_dict(rename(state, WAN_TRANSFORMER), strict=True)
    return model.eval()


def wan_vae(base_dim: int, num_res_blocks: int, state: dict[str, torch.Tensor], **config) -> AutoencoderKLWan:
    vae = AutoencoderKLWan(base_dim=base_dim, num_res_blocks=num_res_blocks, **config)
    result = vae.load_state_dict(rename_vae(state, num_res_blocks), strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith(("decoder.", "post_quant_conv.")) for key in result.missing_keys)
    return vae.eval()


def generator_config(transformer: WanTransformer3DModel, vae: AutoencoderKLWan, **config) -> VegaGeneratorConfig:
    return VegaGeneratorConfig(
        transformer={key: value for key, value in transformer.config.items() if not key.startswith("_")},
        vae={key: value for key, value in vae.config.items() if not key.startswith("_")},
        **config,
    )


def load_generator(folder: Path, transformer, vae, prompt: torch.Tensor, **config) -> VegaGenerator:
    """A generator as users get it: written in diffusers' layout, loaded from there."""
    if not folder.exists():
        transformer.save_pretrained(folder / "transformer")
        vae.save_pretrained(folder / "vae")
    return VegaGenerator.from_folder(folder, prompt_embeds=prompt, **config)


def encoder_parts(config: dict, transformer_state: dict, vae_state: dict) -> tuple:
    """Transformer and VAE of the `wan_encoder_*` and `qwen_generative` fixtures."""
    names = {"z_dim": "z_dim", "vae_dim_mult": "dim_mult", "vae_temperal_downsample": "temperal_downsample"}
    options = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    vae = wan_vae(config["vae_dim"], config["vae_res"], vae_state, **options)
    return wan_transformer(config, transformer_state), vae


def fusion_config(hidden_size: int, fusion: str, merge: int = 2, **config) -> VegaConfig:
    """Only what a fusion or projector reads matters; the VLM is the smallest that is valid."""
    text = {"hidden_size": hidden_size, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    return VegaConfig(
        vlm_config={"model_type": "qwen2_5_vl", "text_config": text, "vision_config": {"spatial_merge_size": merge}},
        fusion=fusion,
        **config,
    )
