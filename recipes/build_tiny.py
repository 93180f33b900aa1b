"""Builds the embedded checkpoint `vega3d-tiny`, UNTRAINED: real classes at tiny size with random weights.

python recipes/build_tiny.py                # writes src/vega3d/assets/vega3d-tiny
python recipes/build_tiny.py --output DIR
"""

import argparse
import itertools
import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from vega3d import VegaForSpatialReasoning
from vega3d.hub.assemble import make_processor

SEED = 0
WIDTH = 64
TEXT_DIM = 64
NOTICE = "vega3d-tiny is untrained in this version: its weights are random and its answers mean nothing."
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>"
    "{% endgeneration %}\n{% else %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def corpus() -> list[str]:
    """Sentences with the words of spatial questions, for the tokenizer's merges."""
    # fmt: off
    things = [
        "chair", "table", "sofa", "bed", "wardrobe", "lamp", "shelf", "desk", "door",
        "window", "plant", "television", "stool", "cabinet", "mirror", "rug", "sink", "refrigerator",
        "piano", "pillow", "book", "vase", "armchair", "bookcase", "oven", "bathtub",
    ]
    # fmt: on
    relations = [
        "left of",
        "right of",
        "behind",
        "in front of",
        "next to",
        "above",
        "below",
        "closer to",
        "farther from",
    ]
    sentences = [f"Is the {a} {r} the {b}?" for a, r, b in itertools.product(things, relations, things[:6])]
    sentences += [
        f"{question} the {a} and the {b} in meters?"
        for question in ("What is the distance between", "Measuring from the closest points, how far apart are")
        for a, b in itertools.product(things, things[:6])
    ]
    sentences += [f"How many {a}s are in this room? Options: A. {n} B. {n + 1}" for a in things for n in range(10)]
    sentences += [
        "These are frames of a video.",
        "Answer with the option's letter from the given choices directly.",
        "Please answer the question using a single word or phrase.",
        "user assistant system",
    ] * 20
    return sentences


def build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )


def build_vlm(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(SPECIAL), strict=True))
    head = WIDTH // 2
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [head // 4, head // 8, head // 8],
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "window_size": 64,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    size = {"shortest_edge": 64 * 64, "longest_edge": 256 * 256}
    patches = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**patches, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def write_backbones(folder: Path) -> None:
    tokenizer = build_tokenizer()
    build_vlm(tokenizer).save_pretrained(folder / "vlm")
    build_processor(tokenizer).save_pretrained(folder / "vlm")
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=2 * WIDTH,
        num_layers=6,
    )
    transformer.save_pretrained(folder / "generator" / "transformer")
    AutoencoderKLWan(base_dim=4, num_res_blocks=1).save_pretrained(folder / "generator" / "vae")


def main() -> None:
    assets = Path(__file__).parents[1] / "src" / "vega3d" / "assets"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=assets / "vega3d-tiny")
    output = parser.parse_args().output
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_backbones(folder)
        model = VegaForSpatialReasoning.from_backbones(
            folder / "vlm",
            folder / "generator",
            prompt_embeds=torch.zeros(1, TEXT_DIM),
            block=4,
            max_area=192 * 256,
            projector_hidden_size=2 * WIDTH,
            fusion_residual_init=0.2,
            notice=NOTICE,
            seed=SEED,
        )
        processor = make_processor(folder / "vlm", model.config.generator_config)
        model.save_pretrained(folder / "tiny")
        processor.save_pretrained(folder / "tiny")
        strip_code(folder / "tiny")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(folder / "tiny", output)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{output.name}: {size / 1e6:.2f} MB")


def strip_code(folder: Path) -> None:
    """The embedded checkpoint is used with the package, which holds the code already."""
    for file in folder.glob("*.py"):
        file.unlink()
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        values.pop("auto_map", None)
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
