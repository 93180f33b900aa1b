"""A small fused model of random weights, from which a policy is trained: VLM, tokenizer, and generator."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from vega3d.hub.assemble import assemble
from vega3d.modeling.actions_vega3d import PROMPT
from vega3d.robotics.metaworld import INSTRUCTIONS, VIEWS

PATCH = 8  # of the images [px]; 2 x 2 of them are a token
SIZE = 96  # largest side of the images of the embedded policy [px]
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WORDS, SPARE = 384, 16  # tokens of text and special ones, and rows for those that a policy adds
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WAN_TRANSFORMER = {
    "num_attention_heads": 1,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 4,
    "freq_dim": 8,
    "ffn_dim": 16,
    "num_layers": 1,
}
WAN_VAE = {
    "base_dim": 2,
    "z_dim": 4,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}


def make_small_model(
    output: Path, seed: int = 0, generator: Path | None = None, size: int = SIZE, **options: Any
) -> Path:
    """Writes an untrained model of 0.6 million parameters for images of about 100 px.

    The weights of the VLM depend on the seed alone, those of projector and fusion on the seed and their shapes.

    Args:
        output: a new folder.
        seed: decides all first weights.
        generator: folder of one in diffusers' layout; by default a random one of few weights, which a model without
            fusion has, and does not use.
        size: largest side of a square image; what is larger is made smaller [px].
        options: of `assemble`, such as `fusion`.
    """
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = small_tokenizer()
        small_vlm(tokenizer, size).save_pretrained(Path(folder) / "vlm")
        small_processor(tokenizer, size).save_pretrained(Path(folder) / "vlm")
        if generator is None:
            generator = random_generator(Path(folder) / "generator")
            options = {"block": 0, "prompt_embeds": torch.zeros(1, WAN_TRANSFORMER["text_dim"]), **options}
        return assemble(Path(folder) / "vlm", generator, output, seed=seed, **options)


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs of the prompts that a policy of Meta-World gets."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    prompts = [PROMPT.format(task=task) for task in INSTRUCTIONS.values()]
    tokenizer.train_from_iterator([*prompts, *(f"user\n{view}: assistant\n" for view in VIEWS)], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        additional_special_tokens=list(SPECIAL[1:]),
    )


def small_processor(tokenizer: PreTrainedTokenizerFast, largest: int) -> Qwen3VLProcessor:
    size = {"shortest_edge": 64 * 64, "longest_edge": largest**2}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH, merge_size=2, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=PATCH, merge_size=2, temporal_patch_size=2, size=size),
        chat_template=TEMPLATE,
    )


def small_vlm(tokenizer: PreTrainedTokenizerFast, largest: int) -> Qwen3VLForConditionalGeneration:
    """A Qwen3-VL, whose vision tower has a learned code of each place, without deepstack."""
    names = ("vision_start", "vision_end", "image", "video")
    markers = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokens = dict(zip(names, tokenizer.convert_tokens_to_ids(list(markers)), strict=True))
    text = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 24,
        "vocab_size": WORDS + SPARE,
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100.0,
            "mrope_section": [4, 4, 4],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_heads": 4,
        "out_hidden_size": text["hidden_size"],
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": (largest // PATCH) ** 2,
        "deepstack_visual_indexes": [],
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        **{f"{name}_token_id": token for name, token in tokens.items()},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3VLForConditionalGeneration(config)


def random_generator(folder: Path) -> Path:
    """A Wan transformer and VAE of random weights, in diffusers' layout."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    WanTransformer3DModel(**WAN_TRANSFORMER).save_pretrained(folder / "transformer")
    AutoencoderKLWan(**WAN_VAE).save_pretrained(folder / "vae")
    return folder
