"""A small Qwen2.5-VL with a tokenizer of its own, built from a seed; nothing in it is trained."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from research.tiny.study.question_forms import FORMS, PLAN_FORMS
from research.tiny.study.wordings import all_texts
from vega3d.questions import CHOICE_POST_PROMPT, NUMERIC_POST_PROMPT, PRE_PROMPT
from vega3d.rooms.scene.classes import CLASSES

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
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
# Rotary frequencies are shared out in order: time, height, width. The fastest ones tell places apart. The slowest
# must hardly turn within a prompt: a name finds its tokens by what they are, however far away it stands. With a theta
# of 16 all of them turn, and answers are learnt by heart, not looked up. With the usual 10,000 and heads of 32, those
# of width turn by 0.04 in all of a frame, and a column is hard to tell from another.
ROPE_THETA = 1000.0
ROPE_SECTIONS = [3, 3, 10]  # frequencies of time, height and width
TOKENS_PER_SECOND = 2  # of Qwen2.5-VL's published checkpoints; two frames are one step in time
# A number is one token, so that a place is four; so is a word with the space before it.
NUMBER = re.compile(r"\d+(\.\d)?")
PIECES = Regex(r" ?\d+\.\d| ?\d+| ?\p{L}+| ?[^\s\p{L}\d]+|\s+")


PERIODS = (360.0, 180.0, 120.0, 90.0, 20.0, 10.0, 5.0, 2.5)  # of the sines of numbers: of a circle, and of a room
CODE_SIZE, OWN_SIZE = 3.0, 0.3  # of a number's code and of what is its own, in standard deviations of a word


@dataclass(frozen=True)
class VLMRecipe:
    """
    Args:
        seed: of the weights.
        hidden: width of the language model; a multiple of 32, the width of a head.
        layers: of the language model.
        intermediate: width of its feed-forward layers.
        vision_hidden: width of the vision tower; a multiple of 32.
        vision_depth: its blocks; each token of a frame attends to all others of its two frames.
        vision_intermediate: width of their feed-forward layers.
        patch: edge of a patch [px]; a visual token is 2 x 2 of them, of two frames.
        vocabulary: tokens, most of them whole words.
    """

    seed: int = 0
    hidden: int = 160
    layers: int = 6
    intermediate: int = 416
    vision_hidden: int = 128
    vision_depth: int = 4
    vision_intermediate: int = 256
    patch: int = 8
    vocabulary: int = 2048

    def __post_init__(self):
        for name in ("hidden", "vision_hidden"):
            if self.__dict__[name] % 32 or self.__dict__[name] < 32:
                raise ValueError(
                    f"{name} is {self.__dict__[name]}, but must be a multiple of 32, the width of a head."
                )
        if self.vocabulary < 512:
            raise ValueError(f"vocabulary is {self.vocabulary}, but 256 bytes and the words need at least 512.")


def corpus() -> Iterator[str]:
    """All words that questions, floor plans and answers have, so that words and numbers become tokens."""
    yield from all_texts()
    tenths = [f"{number / 10:.1f}" for number in range(100)]
    for number, name in enumerate(CLASSES):
        others = [CLASSES[(number + step) % len(CLASSES)] for step in (7, 17, 31)]
        names = dict(zip("abcde", (name, *others, name), strict=True))
        yield from (form.format(**names) for form in (*FORMS.values(), *PLAN_FORMS.values()))
        yield from (PRE_PROMPT, CHOICE_POST_PROMPT, NUMERIC_POST_PROMPT)
        yield from (f"{name} {tenth} ahead {tenth} left, {name} {tenth} behind {tenth} right" for tenth in tenths)
        yield f"Options:\nA. {name}\nB. Turn Right, Turn Back; {name} at 15: Turn Left. C\nuser\nassistant\n"
        yield f"A {number} yes, B {number} no"
        yield f"frame {number}, row {number % 12}, column {number % 11}: {name}. A {name}. B {name}. C {name}. D"
        yield from (
            f"{name} to {name} {degrees}, {name} {degrees}: {name} {tenths[number % 9]} away" for degrees in range(360)
        )
    yield from (f"{number}" for number in range(400) for _ in range(20))


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level pairs, so that any text can be written; numbers, and each option's letter, are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        chat_template=CHAT_TEMPLATE,
    )


def build_vlm(recipe: VLMRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    text = {
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.intermediate,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.hidden // 32,
        "num_key_value_heads": recipe.hidden // 32,
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "max_position_embeddings": 16384,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": ROPE_SECTIONS},
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": recipe.vision_depth,
        "hidden_size": recipe.vision_hidden,
        "intermediate_size": recipe.vision_intermediate,
        "num_heads": recipe.vision_hidden // 32,
        "out_hidden_size": recipe.hidden,
        "patch_size": recipe.patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": TOKENS_PER_SECOND,
        "window_size": 8 * recipe.patch,
        "fullatt_block_indexes": list(range(recipe.vision_depth)),
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
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
        tell_numbers(model.get_input_embeddings().weight, tokenizer)
    return model


@torch.no_grad()
def tell_numbers(embeddings: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
    """Lets the embeddings float[V, D] of numbers begin as sines and cosines of their values (Zhou et al., 2025, FoNE).

    From these one layer learns directions from bearings in some 24,000 examples (`test_symbols.py`), from embeddings
    that know nothing of each other in twice as many.
    """
    numbers = {place: float(word) for word, place in words_of(tokenizer) if NUMBER.fullmatch(word)}
    angles = 2 * torch.pi * torch.tensor(list(numbers.values()))[:, None] / torch.tensor(PERIODS)
    codes = torch.cat([angles.sin(), angles.cos()], dim=1)
    directions = torch.randn(codes.shape[1], embeddings.shape[1]) / codes.shape[1] ** 0.5
    places = list(numbers)
    embeddings[places] = CODE_SIZE * embeddings.std() * codes @ directions + OWN_SIZE * embeddings[places]


def words_of(tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[str, int]]:
    """Each token without the space before it, and its number, in the order of the vocabulary."""
    for token, place in sorted(tokenizer.get_vocab().items(), key=itemgetter(1)):
        yield token.removeprefix("\u0120"), place


def build_processor(recipe: VLMRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """Frames between 64 x 64 and 256 x 256 px pass at their own size, but for rounding to tokens."""
    size = {"shortest_edge": 64 * 64, "longest_edge": 256 * 256}
    patches = {"patch_size": recipe.patch, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**patches, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def write_vlm(recipe: VLMRecipe, folder: Path) -> None:
    """The untrained VLM and its processor, as `from_pretrained` takes them."""
    tokenizer = build_tokenizer(recipe.vocabulary)
    build_vlm(recipe, tokenizer).save_pretrained(folder)
    build_processor(recipe, tokenizer).save_pretrained(folder)
