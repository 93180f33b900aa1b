"""Tiny real processors: a byte-level tokenizer with Qwen's special tokens and Qwen's own pixel processors."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from vega3d.processing.processing_vega3d import VegaProcessor

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content if message.content is string else message.content[0].text }}<|im_end|>"
    "{% endgeneration %}"
    "{% elif message.content is string %}{{ message.content }}<|im_end|>"
    "{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tokenizer(padding_side: str = "left") -> PreTrainedTokenizerFast:
    """Builds a tokenizer of the 256 bytes and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side=padding_side,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
    )


def build_processor(
    vlm: str = "Qwen2_5_VLProcessor", padding_side: str = "left", patch: int = 8, **settings
) -> VegaProcessor:
    """Builds a VegaProcessor around a VLM's processor with patches of `patch` px, merged 2x2 to tokens."""
    classes = {
        "Qwen2_5_VLProcessor": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
        "Qwen3VLProcessor": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
    }
    processor_class, video_class = classes[vlm]
    size = {"shortest_edge": 16 * 16, "longest_edge": 256 * 256}
    video_options = {"cap_pixels_per_frame": False} if video_class is Qwen2VLVideoProcessor else {}
    if video_class is Qwen3VLVideoProcessor:
        size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 256 * 256}
    vlm_processor = processor_class(
        image_processor=Qwen2VLImageProcessor(
            patch_size=patch, merge_size=2, size={**size, "longest_edge": 256 * 256}
        ),
        tokenizer=build_tokenizer(padding_side),
        video_processor=video_class(patch_size=patch, merge_size=2, temporal_patch_size=2, size=size, **video_options),
        chat_template=CHAT_TEMPLATE,
    )
    return VegaProcessor.from_vlm_processor(vlm_processor, **settings)
