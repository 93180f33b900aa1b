"""Fine-tune a fused model with ms-swift: a plugin that tells it the model, its parts, and how its batches are made.

    swift sft --external_plugins examples/ms_swift_plugin.py --model FOLDER --dataset rows.jsonl \\
        --tuner_type lora --target_modules q_proj v_proj --modules_to_save model.fusion model.projector \\
        --remove_unused_columns false --output_dir tuned

FOLDER is a model on the disk, such as `vega3d assemble` writes, and rows are in the `messages` form with `images` and
`videos`. Labels are those of `VegaCollator`: on the answers alone. The generator stays frozen, also with
`--tuner_type full`. Sequences are not cut, packed or flattened: visual placeholders would lose their features.
"""

from typing import Any

import torch
from swift.model import Model, ModelGroup, ModelLoader, ModelMeta, MultiModelKeys, register_model, register_model_arch
from swift.template import Template, TemplateMeta, register_template
from transformers import AutoConfig

from vega3d import VegaForSpatialReasoning, VegaProcessor
from vega3d.training import VegaCollator

NAME = "vega3d"
SEQUENCES = {"input_ids": None, "attention_mask": 0, "mm_token_type_ids": 0, "labels": -100}  # what pads them


class VegaLoader(ModelLoader):
    """Loads model and processor by their own classes; no code of a checkpoint runs."""

    default_trust_remote_code = False

    def get_config(self, model_dir: str) -> Any:
        return AutoConfig.from_pretrained(model_dir)

    def get_processor(self, model_dir: str, config: Any) -> VegaProcessor:
        return VegaProcessor.from_pretrained(model_dir)

    def get_model(self, model_dir: str, config: Any, processor: Any, model_kwargs: dict) -> VegaForSpatialReasoning:
        return VegaForSpatialReasoning.from_pretrained(model_dir, config=config, **model_kwargs)


class VegaTemplate(Template):
    """Encodes a row as `VegaCollator` does: its own chat template, and the pixels of both streams."""

    use_model = False

    def _encode(self, inputs: Any) -> dict[str, Any]:
        if self.padding_free or self.packing or self.truncation_strategy != "raise":
            raise ValueError(
                "packing, padding_free and truncation_strategy cannot be used: features would be cut off."
            )
        if inputs.audios or inputs.objects or inputs.tools:
            raise ValueError("A row has audios, objects or tools, which the model does not take. Leave them out.")
        messages = [{"role": message["role"], "content": message["content"]} for message in inputs.messages]
        if inputs.system:
            messages.insert(0, {"role": "system", "content": inputs.system})
        if not self.is_training:
            raise ValueError("The plugin is for training; ask the tuned model with `vega3d ask --model OUTPUT`.")
        row = {"messages": messages, "images": list(inputs.images), "videos": list(inputs.videos)}
        encoded = VegaCollator(self.processor)([row])
        return {"encoded": encoded, **{name: encoded[name][0].tolist() for name in ("input_ids", "labels")}}

    def _data_collator(self, batch: list[dict[str, Any]], *, padding_to: int | None = None) -> dict[str, Any]:
        """Sequences padded on the right, pixels of all rows one after the other."""
        rows = [row["encoded"] for row in batch]
        length = max(padding_to or 0, *(row["input_ids"].shape[1] for row in rows))
        result = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row[name] for row in rows if name in row]
            if name in SEQUENCES:
                padding = self.tokenizer.pad_token_id if name == "input_ids" else SEQUENCES[name]
                values = [
                    torch.nn.functional.pad(value, (0, length - value.shape[1]), value=padding) for value in values
                ]
            result[name] = torch.cat(values)
        return result


register_model_arch(
    MultiModelKeys(
        NAME,
        language_model=["model.vlm.model.language_model", "model.vlm.lm_head"],
        vision_tower="model.vlm.model.visual",
        aligner=["model.projector", "model.fusion"],
        generator="model.generator",
    ),
    exist_ok=True,
)
register_template(
    TemplateMeta(NAME, prefix=[], prompt=["{{QUERY}}"], chat_sep=None, template_cls=VegaTemplate), exist_ok=True
)
register_model(
    ModelMeta(
        NAME,
        [ModelGroup([Model(hf_model_id=NAME)])],
        VegaLoader,
        template=NAME,
        model_arch=NAME,
        architectures=["VegaForSpatialReasoning"],
        is_multimodal=True,
    ),
    exist_ok=True,
)
