"""Several questions about one clip: its tokens, most of each prompt, go through the language model once."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.utils import ModelOutput

from vega3d.inference.encoding import EncodedClip
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor

ROOM = 128  # tokens that are written before keys and values are copied again


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer that lie in tensors with room for more, into which those of new tokens are written.

    `DynamicLayer` copies all of them for each new token, which costs more than the rest of the decoding where several
    questions stand on one long clip. Without gradients alone.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self._rooms: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.get_seq_length() == 0:
            return super().update(key_states, value_states, *args, **kwargs)
        self.keys = self._extended("keys", self.keys, key_states)
        self.values = self._extended("values", self.values, value_states)
        return self.keys, self.values

    def _extended(self, name: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """float[B, H, L + N, C]; `held` is copied if it is not in its room, as after a repetition, or that is full."""
        start, end = held.shape[-2], held.shape[-2] + new.shape[-2]
        room = self._rooms.get(name)
        if room is None or room.data_ptr() != held.data_ptr() or room.shape[-2] < end:
            room = held.new_empty(*held.shape[:-2], end + ROOM, held.shape[-1])
            room[..., :start, :] = held
            self._rooms[name] = room
        room[..., start:end, :] = new
        return room[..., :end, :]


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
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
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
