"""Several questions about one clip: its tokens, most of each prompt, go through the language model once."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache
from transformers.utils import ModelOutput

from vega3d.inference.encoding import EncodedClip
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor


def shared_inputs(
    model: VegaForSpatialReasoning,
    processor: VegaProcessor,
    prompts: Sequence[str],
    clip: EncodedClip,
    tokens: ModelOutput,
) -> dict:
    """Inputs of `generate` for prompts about one clip, with the keys and values of all that they begin with.

    What follows the clip is padded on the left, between the clip and the words.

    Args:
        prompts: whole, with the clip's `text` in each; they differ behind it alone.
        clip: what the prompts are about.
        tokens: its visual tokens, with or without the generator's.
    """
    tokenizer, config = processor.tokenizer, model.config
    placeholder = config.video_token_id if clip.kind == "video" else config.image_token_id
    rows = tokenizer(list(prompts), padding=False)["input_ids"]
    shared = len(rows[0]) - rows[0][::-1].index(placeholder)
    start = torch.tensor([rows[0][:shared]], device=model.device)
    cache = DynamicCache(config=config.get_text_config())
    model(
        input_ids=start,
        past_key_values=cache,
        logits_to_keep=1,
        mm_encoder_outputs={clip.kind: tokens},
        **clip.language,
    )
    cache.batch_repeat_interleave(len(rows))
    ends = tokenizer.pad({"input_ids": [row[shared:] for row in rows]}, padding_side="left", return_tensors="pt")
    ends = ends.to(model.device)
    starts = start.expand(len(rows), -1)
    return {
        "input_ids": torch.cat([starts, ends["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.ones_like(starts), ends["attention_mask"]], dim=1),
        "past_key_values": cache,
    }
