"""Makes `tests/fixtures/checkpoint`: the embedded model's layout at a twentieth of its size, with random weights.

Tests read it in place of the embedded model, so that another embedded model changes no test. Its files are stored,
because random numbers may differ between versions of torch.

    PYTHONPATH=tests python tests/make_frozen_checkpoint.py
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tiny_models import seeded
from vega3d import VegaForSpatialReasoning
from vega3d.shipped import ASSETS

EMBEDDED = ASSETS / "vega3d-tiny"
FOLDER = Path(__file__).parent / "fixtures" / "checkpoint"
NOTICE = "The weights are random: a checkpoint for tests."
WIDTH, LAYERS, CHANNELS, FRAMES = 32, 2, 4, 5


def small_vlm(config: dict[str, Any]) -> Qwen2_5_VLForConditionalGeneration:
    text, vision = dict(config["text_config"]), dict(config["vision_config"])
    rope = {**text["rope_parameters"], "mrope_section": [2, 3, 3]}
    text |= {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "rope_parameters": rope,
    }
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "layer_types": ["full_attention"] * LAYERS}
    vision |= {"depth": LAYERS, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_heads": 2}
    vision |= {"out_hidden_size": WIDTH, "fullatt_block_indexes": list(range(LAYERS))}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(**{**config, "text_config": text, "vision_config": vision})
    )


def mixing(vlm: torch.nn.Module) -> torch.nn.Module:
    """With layers so strong that the next token hangs on the whole prompt; tied embeddings would repeat the last."""
    with torch.no_grad():
        for name, parameter in vlm.named_parameters():
            if ".layers." in name and parameter.ndim > 1:
                parameter.mul_(6)
    return vlm


def save_small_generator(folder: Path, transformer: dict[str, Any], vae: dict[str, Any]) -> None:
    transformer = {**transformer, "in_channels": CHANNELS, "out_channels": CHANNELS, "num_layers": 4}
    transformer |= {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "freq_dim": 32}
    vae = {**vae, "base_dim": 4, "z_dim": CHANNELS}
    vae |= {name: vae[name][:CHANNELS] for name in ("latents_mean", "latents_std")}
    parts = {"transformer": (WanTransformer3DModel, transformer), "vae": (AutoencoderKLWan, vae)}
    for seed, (name, (kind, config)) in enumerate(parts.items()):
        model = seeded(lambda kind=kind, config=config: kind(**config), seed)
        model.to(torch.bfloat16).save_pretrained(folder / name)


def main() -> None:
    config = json.loads((EMBEDDED / "config.json").read_text())
    generator = config["generator_config"]
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        vlm, simulator = Path(temporary) / "vlm", Path(temporary) / "generator"
        mixing(seeded(lambda: small_vlm(config["vlm_config"]), seed=5)).save_pretrained(vlm)
        save_small_generator(simulator, generator["transformer"], generator["vae"])
        prompt = torch.randn(
            generator["prompt_tokens"],
            generator["transformer"]["text_dim"],
            generator=torch.Generator().manual_seed(3),
        )
        names = ("block", "timestep", "shift", "clip_mode", "prompt_length")
        model = VegaForSpatialReasoning.from_backbones(
            vlm,
            simulator,
            prompt,
            dtype=torch.bfloat16,
            fusion_residual_init=config["fusion_residual_init"],
            projector_hidden_size=WIDTH,
            **{name: generator[name] for name in names},
        )
        model.config.notice, model.config.questions = NOTICE, config["questions"]
        model.save_pretrained(FOLDER)
    for code in FOLDER.glob("*.py"):  # copies of the package's own, which would grow old
        code.unlink()
    stored = json.loads((FOLDER / "config.json").read_text())
    del stored["vlm_config"]["_name_or_path"]  # of this machine
    (FOLDER / "config.json").write_text(
        json.dumps({name: value for name, value in stored.items() if name != "auto_map"}, indent=2) + "\n"
    )
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(EMBEDDED / name, FOLDER / name)
    processor = json.loads((EMBEDDED / "processor_config.json").read_text())
    (FOLDER / "processor_config.json").write_text(json.dumps({**processor, "num_frames": FRAMES}, indent=2) + "\n")


if __name__ == "__main__":
    main()
