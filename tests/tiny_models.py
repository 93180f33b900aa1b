"""Real classes at tiny size: a Qwen2.5-VL, a Qwen3-VL, a Wan transformer and VAE, a UMT5 encoder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    UMT5Config,
    UMT5EncoderModel,
)

IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END = 290, 291, 288, 289
TOKENS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
VOCABULARY = 300
BLOCK = 1

WAN_TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 3,
}
WAN_VAE = {
    "base_dim": 3,
    "z_dim": 4,
    "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.1, 0.9, 1.3, 1.0],
}


def tiny_qwen2_5_vl(
    width: int = 32, heads: int = 2, merge: int = 2, tied: bool = False, **tokens: int
) -> Qwen2_5_VLForConditionalGeneration:
    head = width // heads
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head // 4, head // 8, head // 8],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_heads": heads,
            "out_hidden_size": width,
            "patch_size": 8,
            "spatial_merge_size": merge,
            "temporal_patch_size": 2,
            "window_size": 32,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        **{**TOKENS, **tokens},
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def tiny_qwen3_vl(
    width: int = 32, heads: int = 2, merge: int = 2, tied: bool = False, **tokens: int
) -> Qwen3VLForConditionalGeneration:
    head = width // heads
    config = Qwen3VLConfig(
        text_config={
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 3,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": head,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head // 4, head // 8, head // 8],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_heads": heads,
            "out_hidden_size": width,
            "patch_size": 8,
            "spatial_merge_size": merge,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **{**TOKENS, **tokens},
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return Qwen3VLForConditionalGeneration(config)


TINY_VLMS: dict[str, Callable[..., PreTrainedModel]] = {"qwen2_5_vl": tiny_qwen2_5_vl, "qwen3_vl": tiny_qwen3_vl}
every_vlm = pytest.mark.parametrize("vlm_type", TINY_VLMS, indirect=True)


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights far enough from their initialisation that a wrong one shows."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.add_(torch.randn(parameter.shape, generator=random) * scale * 0.5)
    return model.eval()


def seeded(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomise(build(), seed)


def save_vlm(folder: Path, vlm_type: str = "qwen2_5_vl", seed: int = 1, **config) -> Path:
    seeded(lambda: TINY_VLMS[vlm_type](**config), seed).save_pretrained(folder)
    return folder


def save_generator(folder: Path, seed: int = 2, with_text_encoder: bool = True) -> Path:
    """A generator in the published diffusers layout."""
    seeded(lambda: WanTransformer3DModel(**WAN_TRANSFORMER), seed).save_pretrained(folder / "transformer")
    seeded(lambda: AutoencoderKLWan(**WAN_VAE), seed + 1).save_pretrained(folder / "vae")
    if with_text_encoder:
        config = UMT5Config(
            vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, eos_token_id=1, pad_token_id=0
        )
        seeded(lambda: UMT5EncoderModel(config), seed + 2).save_pretrained(folder / "text_encoder")
    return folder
