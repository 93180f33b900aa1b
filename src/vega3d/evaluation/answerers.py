"""What can be evaluated: a fused model, and the same model blind. `baselines` has those without a model."""

from collections.abc import Hashable, Sequence
from typing import Protocol

import torch

from vega3d.evaluation.visuals import (
    EncodedVisual,
    encode_visual,
    fused_tokens,
    join_visuals,
    question_clip,
    visual_key,
)
from vega3d.evaluation.vsibench import GENERATION, QuestionRecord
from vega3d.features.cache import FeatureCache
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.questions import SpatialQuestion, checked_logits, letter_probabilities

Answer = tuple[str, dict[str, float] | None]


class Answerer(Protocol):
    """What is evaluated.

    Attributes:
        settings: plain values for the result file, with a `name`; all that its answers depend on. A run is continued
            only with the same settings.
    """

    settings: dict

    def answer(self, records: Sequence[QuestionRecord]) -> list[Answer]:
        """For each question of a batch the raw text, and the probability of each letter for a choice, or None.

        An answer must not depend on other questions, their order or the size of the batch.
        """
        ...


class ModelAnswerer:
    """A fused model: 16 new tokens, greedy, as VSI-Bench asks, and the likelihood of the letters as the next token.

    Questions are answered in batches, with padding on the left. The fused tokens of a video are kept for the batch and
    the next one, so that all questions on one scene cost one pass of the generator and of the vision tower, if they
    come one after another. A fusion that reads the question keeps the generator's features and the pixels only.

    Args:
        model: loaded, in eval mode.
        processor: of the model.
        name: of the model, for the result file.
        num_frames: frames sampled evenly; the processor's default if neither this nor `fps` is given.
        fps: frames sampled a second instead.
        cache: of the generator's features, in which they are looked up and kept; they are rounded to bf16 there.
    """

    kind = "model"

    def __init__(
        self,
        model: VegaForSpatialReasoning,
        processor: VegaProcessor,
        name: str,
        num_frames: int | None = None,
        fps: float | None = None,
        cache: FeatureCache | None = None,
    ):
        self.model, self.processor = model, processor
        self.num_frames = processor.num_frames if num_frames is None and fps is None else num_frames
        self.fps = fps
        self.cache = cache
        generator = model.config.generator_config
        self.settings = {
            "name": name,
            "kind": self.kind,
            "num_frames": self.num_frames,
            "fps": fps,
            "seed": generator.noise_seed,
            "fusion": model.config.fusion,
            "block": generator.block,
            "timestep": generator.timestep,
            "dtype": str(model.dtype),
            "device": model.device.type,
            "generation": GENERATION,
            "cached_features": cache is not None,
            "vision_attention": model.config.vlm_config.vision_config._attn_implementation,
            "notice": model.config.notice,
        }
        self._visuals: dict[Hashable, EncodedVisual] = {}

    @torch.no_grad()
    def answer(self, records: Sequence[QuestionRecord]) -> list[Answer]:
        """
        Raises:
            ValueError: if a video cannot be read, a letter is no token, or logits are not finite.
        """
        inputs = self.inputs_of(records)
        greedy: dict = {name: GENERATION[name] for name in ("max_new_tokens", "num_beams", "do_sample")}
        generated = self.model.generate(
            **inputs, **greedy, output_logits=True, return_dict_in_generate=True, logits_processor=checked_logits()
        )
        first = generated.logits[0]  # float[B, V], of the first new token
        new_tokens = generated.sequences[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new_tokens, skip_special_tokens=True)
        tokenizer = self.processor.tokenizer
        return [
            (text, letter_probabilities(logits, record.letters, tokenizer) if record.options else None)
            for record, text, logits in zip(records, texts, first, strict=True)
        ]

    def inputs_of(self, records: Sequence[QuestionRecord]) -> dict:
        """The prompts, padded on the left, with their visual tokens."""
        visuals = self.visuals_of(records)
        prompts = [
            self.prompt_with_video(record, visual.text) for record, visual in zip(records, visuals, strict=True)
        ]
        inputs = self.tokenise(prompts)
        for name in visuals[0].language:
            inputs[name] = torch.cat([visual.language[name] for visual in visuals])
        rows = zip(visuals, inputs["input_ids"], inputs["attention_mask"], strict=True)
        tokens = [
            fused_tokens(self.model, visual.encoder, ids[mask.bool()][None])
            if visual.tokens is None
            else visual.tokens
            for visual, ids, mask in rows
        ]
        inputs["mm_encoder_outputs"] = {"video": join_visuals(tokens)}
        return inputs

    def visuals_of(self, records: Sequence[QuestionRecord]) -> list[EncodedVisual]:
        """The encoded video of each question; those of earlier batches that this one does not need are dropped."""
        keys = [visual_key(record) for record in records]
        self._visuals = {key: visual for key, visual in self._visuals.items() if key in keys}
        for record, key in zip(records, keys, strict=True):
            if key not in self._visuals:
                self._visuals[key] = self.encoded(record)
        return [self._visuals[key] for key in keys]

    def encoded(self, record: QuestionRecord) -> EncodedVisual:
        clip = question_clip(record, self.num_frames, self.fps)
        inputs = self.processor.apply_chat_template(
            SpatialQuestion(clip, record.prompt).messages(),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            num_frames=len(clip),
        ).to(self.model.device)
        text = self.processor.video_text(clip, inputs["video_grid_thw"][0])
        ids = self.tokenise([self.prompt_with_video(record, text)])["input_ids"]
        if not torch.equal(ids, inputs["input_ids"]):
            raise ValueError(
                f"The processor writes the video of question {record.id} into the prompt in another way than "
                f"{text[:80]!r}..., so it cannot be shared between questions. Use the chat template of the VLM."
            )
        return encode_visual(self.model, inputs, text, self.cache)

    def prompt_with_video(self, record: QuestionRecord, video_text: str) -> str:
        """The conversation as text, with what the processor writes for the video (`VegaProcessor.video_text`)."""
        prompt = self.render([{"type": "video"}, {"type": "text", "text": record.prompt}])
        placeholder = self.processor.video_token
        if prompt.count(placeholder) != 1 or self.processor.image_token in prompt:
            raise ValueError(f"Question {record.id} holds placeholders of images or videos. Reword it.")
        return prompt.replace(placeholder, video_text)

    def render(self, content: list[dict]) -> str:
        messages = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def tokenise(self, prompts: list[str]) -> dict:
        """`input_ids` and `attention_mask` int[B, L], padded on the left, so that the last token is each prompt's."""
        tokens = self.processor.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        return {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}


class BlindAnswerer(ModelAnswerer):
    """The same model with the same prompt and no video: what the words alone give away."""

    kind = "blind"

    def inputs_of(self, records: Sequence[QuestionRecord]) -> dict:
        return self.tokenise([self.render([{"type": "text", "text": record.prompt}]) for record in records])
