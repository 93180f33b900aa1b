"""The fused model: a vision-language model whose visual tokens are fused with those of a frozen video generator."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, Cache, GenerationMixin
from transformers.utils import ModelOutput

from .alignment_vega3d import PROJECTORS
from .configuration_vega3d import VegaConfig
from .frozen_vega3d import check_finite
from .fusion_vega3d import FUSIONS
from .generator_vega3d import NOT_FINITE, VegaGenerator
from .inputs_vega3d import (
    GENERATOR_INPUTS,
    LANGUAGE_INPUTS,
    VISUAL_INPUTS,
    FusedVisuals,
    VisualInputs,
    cached_frames,
    check_placeholders,
    check_streams,
    copied_outputs,
    generator_clips,
    given_visuals,
    instruction_embeddings,
    text_ids,
    token_type_ids,
    tokens_of_outputs,
    tokens_of_pixels,
    unpack_cells,
    visual_rows,
)
from .outputs_vega3d import Gates, VegaCausalLMOutput, VegaEncoderOutput, VegaModelOutput
from .pretrained_vega3d import VegaPreTrainedModel
from .turns_vega3d import NewTokens, Prompt


class VegaModel(VegaPreTrainedModel):
    """VLM, frozen generator, projector and fusion; returns the hidden states of the language model."""

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.vlm = AutoModelForImageTextToText.from_config(config.vlm_config)
        self.generator = VegaGenerator(config.generator_config)
        fuses = config.fusion != "none"
        self.projector: Any = PROJECTORS[config.projector](config) if fuses else None
        self.fusion: Any = FUSIONS[config.fusion](config) if fuses else None
        self.post_init()

    @property
    def generator_module(self) -> VegaGenerator:
        return self.generator

    def get_input_embeddings(self) -> nn.Embedding:
        return self.vlm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.vlm.set_input_embeddings(value)

    def encode(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        generator_pixel_values: torch.Tensor | None = None,
        generator_pixel_values_videos: torch.Tensor | None = None,
        generator_image_grid_thw: torch.Tensor | None = None,
        generator_video_grid_thw: torch.Tensor | None = None,
        generator_hidden_states: Sequence[torch.Tensor] | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_gates: bool = False,
        **generator_kwargs,
    ) -> VegaEncoderOutput:
        """Both streams of all images and videos of a batch, aligned and fused.

        Args:
            input_ids: int[B, L]; says which prompt a visual belongs to, and what the question is. After a cache the
                tokens that are not in it.
            attention_mask: int[B, L], or that of the cache and these tokens.
            labels: int[B, L]; tokens with a label are the answer, and no part of the instruction.
            pixel_values: float[patches, C], semantic stream of the images, as the VLM's processor packs it.
            pixel_values_videos: the same for the videos.
            image_grid_thw: int[n, 3], patch grid of each image.
            video_grid_thw: int[n, 3], patch grid of each video.
            generator_pixel_values: uint8[P, 3 * cell * cell] or float in [-1, 1], generative stream of the images.
            generator_pixel_values_videos: the same for the videos.
            generator_image_grid_thw: int[n, 3], cell grid of each image.
            generator_video_grid_thw: int[n, 3], cell grid of each video; t is its number of frames.
            generator_hidden_states: float[t, h, w, C] for each image, then each video, in place of generator pixels
                (features of `VegaGenerator.encode`, on its native grid). The generator grids may be left out in the
                `frame` and `views` modes, where t is the number of frames.
            inputs_embeds: float[B, L, D] in place of `input_ids`; placeholders are the rows equal to their embedding.
            output_gates: also return the gates.
            generator_kwargs: `noise`, `on_chunk` of `VegaGenerator.encode`.

        Raises:
            ValueError: if the counts of placeholders, visuals and generator clips do not match, or for hidden states
                that are not finite.
        """
        ids = text_ids(input_ids, inputs_embeds, self.get_input_embeddings(), self.config)
        visuals = given_visuals(
            image=(pixel_values, image_grid_thw, generator_pixel_values, generator_image_grid_thw),
            video=(
                pixel_values_videos,
                video_grid_thw,
                generator_pixel_values_videos,
                generator_video_grid_thw,
            ),
        )
        check_placeholders(ids, self.config, tokens_of_pixels(visuals, self.config))
        check_streams(visuals, image=generator_pixel_values, video=generator_pixel_values_videos)
        sources: dict[str, Any] = {
            "pixel_values": pixel_values,
            "pixel_values_videos": pixel_values_videos,
            "generator_pixel_values": generator_pixel_values,
            "generator_pixel_values_videos": generator_pixel_values_videos,
            "generator_hidden_states": generator_hidden_states,
        }
        if self.config.fusion == "none":
            return VegaEncoderOutput(FusedVisuals(self._semantic(visuals), **sources))
        if generator_hidden_states is None:
            clips, num_frames = generator_clips(visuals, self.config.generator_config)
        else:
            num_frames = cached_frames(visuals, generator_hidden_states, self.config.generator_config)
        questions = self._questions(ids, inputs_embeds, attention_mask, labels, visuals)

        if generator_hidden_states is not None:  # from pinned memory they are copied while the vision tower runs
            hidden = [states.to(ids.device, non_blocking=True) for states in generator_hidden_states]
        semantic = self._semantic(visuals)
        if generator_hidden_states is None:
            hidden = self.generator.encode(clips, **generator_kwargs)  # float[t, h, w, C] a clip
        else:
            check_finite(hidden, "generator_hidden_states", NOT_FINITE[1])
        gates = self._fuse(semantic, visuals, hidden, num_frames, questions)
        return VegaEncoderOutput(FusedVisuals(semantic, **sources), gates if output_gates and gates else None)

    def generator_features(
        self,
        generator_pixel_values: torch.Tensor | None = None,
        generator_pixel_values_videos: torch.Tensor | None = None,
        generator_image_grid_thw: torch.Tensor | None = None,
        generator_video_grid_thw: torch.Tensor | None = None,
        **generator_kwargs,
    ) -> list[torch.Tensor]:
        """Hidden states to keep and to give back later as `generator_hidden_states`.

        Args:
            generator_pixel_values: and the rest as in `encode`.

        Returns:
            float[t, h, w, C] for each image, then each video.
        """
        cell = self.config.generator_config.cell
        clips = unpack_cells(generator_pixel_values, generator_image_grid_thw, cell)
        clips += unpack_cells(generator_pixel_values_videos, generator_video_grid_thw, cell)
        return self.generator.encode(clips, **generator_kwargs)

    def _semantic(self, visuals: dict[str, VisualInputs]) -> dict[str, ModelOutput]:
        """The VLM's own encoder outputs; their `pooler_output` is a tuple of float[N, D].

        Qwen3-VL's `deepstack_features` lie beside it and stay as they are: they are not fused.
        """
        encoders = {"image": self.vlm.get_image_features, "video": self.vlm.get_video_features}
        return {name: encoders[name](visual.pixels, visual.grid, return_dict=True) for name, visual in visuals.items()}

    def _questions(self, ids, embeds, attention_mask, labels, visuals) -> dict[str, list[torch.Tensor | None]]:
        """float[D] for each visual, the mean embedding of its prompt's text, if the fusion reads it."""
        if not (self.fusion.needs_instruction and visuals):
            return {name: [None] * len(visual.grid) for name, visual in visuals.items()}
        embeddings = self.get_input_embeddings() if embeds is None else lambda ids: embeds
        text = instruction_embeddings(ids, attention_mask, labels, self.config, embeddings)
        rows = {name: visual_rows(ids, name, visual.grid, self.config) for name, visual in visuals.items()}
        return {name: [text[row] for row in rows[name]] for name in visuals}

    def _fuse(self, semantic, visuals, hidden, num_frames, questions) -> Gates:
        """Replaces the semantic tokens by the fused ones, item by item; returns the gates on their token grids."""
        gates: Gates = {}
        clips = zip(hidden, num_frames, strict=True)
        merge = self.projector.merge
        for name, visual in visuals.items():
            fused = []
            items = zip(semantic[name].pooler_output, visual.grid.tolist(), questions[name], strict=True)
            for tokens, (t, h, w), question in items:
                clip, count = next(clips)
                generative = self.projector(clip.to(tokens.device, tokens.dtype), count, (t, h, w))  # float[N, D]
                grid = (t, h // merge, w // merge)
                tokens, gate = self.fusion(tokens, generative, grid, question)
                fused.append(tokens)
                if gate is not None:
                    gates[name] = (*gates.get(name, ()), gate.unflatten(0, grid).squeeze(-1))
            semantic[name].pooler_output = tuple(fused)
        return gates

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        generator_pixel_values: torch.Tensor | None = None,
        generator_pixel_values_videos: torch.Tensor | None = None,
        generator_image_grid_thw: torch.Tensor | None = None,
        generator_video_grid_thw: torch.Tensor | None = None,
        generator_hidden_states: Sequence[torch.Tensor] | None = None,
        mm_encoder_outputs: dict[str, ModelOutput] | None = None,
        output_gates: bool = False,
        **kwargs,
    ) -> VegaModelOutput:
        """Arguments as in `encode`, or its `mm_encoder_outputs`; `labels` only mark the answer.

        With a cache that is not empty, the text is that of the new tokens, and so are the visuals. `kwargs` are the
        VLM's own, such as `second_per_grid_ts` of Qwen2.5-VL.

        Raises:
            ValueError: if the visuals given do not match the placeholders of the text, so that some would go unseen.
        """
        visual: dict[str, Any] = {
            "pixel_values": pixel_values,
            "pixel_values_videos": pixel_values_videos,
            "generator_pixel_values": generator_pixel_values,
            "generator_pixel_values_videos": generator_pixel_values_videos,
            "generator_image_grid_thw": generator_image_grid_thw,
            "generator_video_grid_thw": generator_video_grid_thw,
            "generator_hidden_states": generator_hidden_states,
        }
        grids: dict[str, Any] = {"image_grid_thw": image_grid_thw, "video_grid_thw": video_grid_thw}
        ids = text_ids(input_ids, inputs_embeds, self.get_input_embeddings(), self.config)
        turn = NewTokens(self.vlm.base_model, past_key_values, ids.shape, attention_mask, ids.device)
        gates = None
        if mm_encoder_outputs is not None:
            check_placeholders(ids, self.config, tokens_of_outputs(mm_encoder_outputs, visual))
        elif not turn.is_step or any(value is not None for value in visual.values()):
            encoded = self.encode(
                input_ids,
                attention_mask,
                labels,
                inputs_embeds=inputs_embeds,
                output_gates=output_gates,
                **grids,
                **visual,
            )
            mm_encoder_outputs, gates = encoded.mm_encoder_outputs, encoded.gates
        if mm_token_type_ids is None and input_ids is not None:
            mm_token_type_ids = token_type_ids(input_ids, self.config)
        if position_ids is None:
            given = {**grids, "second_per_grid_ts": kwargs.get("second_per_grid_ts")}
            position_ids = turn.positions(ids, self.config, given, mm_encoder_outputs, input_ids is not None)
        outputs = self.vlm.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        turn.remember(outputs.past_key_values, position_ids)
        return VegaModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            gates=gates,
        )


class VegaForSpatialReasoning(VegaPreTrainedModel, GenerationMixin):
    """Answers questions about the space that images and videos show.

    Example:

    ```python
    model = VegaForSpatialReasoning.from_pretrained("org/vega3d", device_map="auto")
    processor = AutoProcessor.from_pretrained("org/vega3d")
    inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    answer = model.generate(**inputs.to(model.device), max_new_tokens=16)
    ```
    """

    _auto_class = "AutoModelForImageTextToText"  # a saved model names its code

    weights_prefix = "model."
    accepts_loss_kwargs = False  # the loss is a mean over the answer tokens of each batch, as in the VLM

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.model = VegaModel(config)
        self.post_init()

    @property
    def generator_module(self) -> VegaGenerator:
        return self.model.generator

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.model.vlm.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.model.vlm.set_output_embeddings(value)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> VegaCausalLMOutput:
        """
        Args:
            input_ids: int[B, L].
            attention_mask: int[B, L].
            labels: int[B, L], -100 where no loss is wanted.
            logits_to_keep: number of last positions, or their indices, for which logits are computed; 0 = all.
            kwargs: as in `VegaModel.forward`.
        """
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.get_output_embeddings()(outputs.last_hidden_state[:, kept])  # float[B, L, V]
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.get_input_embeddings().num_embeddings
            )
        return VegaCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            gates=outputs.gates,
        )

    def encode(self, input_ids: torch.Tensor | None = None, **inputs) -> VegaEncoderOutput:
        """Fused visual tokens of a batch, as in `VegaModel.encode`; hand them to `generate` to ask several questions.

        Inputs that only the language model reads (`second_per_grid_ts`, `mm_token_type_ids`) may be among `inputs`.
        """
        inputs = {name: value for name, value in inputs.items() if name not in LANGUAGE_INPUTS}
        return self.model.encode(input_ids, **inputs)

    def generator_features(self, **inputs) -> list[torch.Tensor]:
        """Hidden states of the generator for the processor's output, as in `VegaModel.generator_features`."""
        kept = {name: value for name, value in inputs.items() if name in GENERATOR_INPUTS}
        return self.model.generator_features(**kept)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, generation_config=None, **kwargs: Any):
        """The VLM's own `generate` (cache, beams, sampling, streamer, static cache) on visuals encoded once.

        Args:
            inputs: int[B, L], another name of `input_ids`.
            generation_config: of transformers; the model's own by default.
            kwargs: the processor's output and any option of `GenerationMixin.generate`; with `mm_encoder_outputs` from
                `encode` the visuals are not encoded again. With `past_key_values` of an earlier turn, `input_ids` are
                the whole conversation, and the visuals those of the tokens that are not in the cache.

        Raises:
            ValueError: if the visuals given do not match the placeholders of the new tokens.
        """
        visual = {name: kwargs.pop(name) for name in VISUAL_INPUTS if name in kwargs}
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is not None:
            kwargs["input_ids"] = input_ids
        core, embeddings = self.model.vlm.base_model, self.get_input_embeddings()
        prompt = Prompt(core, embeddings, self.config, self.generation_config, kwargs)
        if kwargs.get("mm_encoder_outputs") is None:
            encoded = self.encode(**prompt.new, **visual)
            kwargs["mm_encoder_outputs"] = encoded.mm_encoder_outputs
        else:
            check_placeholders(prompt.ids, self.config, tokens_of_outputs(kwargs["mm_encoder_outputs"], visual))
        kwargs["mm_encoder_outputs"] = copied_outputs(kwargs["mm_encoder_outputs"])
        kwargs.update(prompt.language_inputs(kwargs["mm_encoder_outputs"]))
        self.model.vlm.generation_config = self.generation_config
        generated = self.model.vlm.generate(generation_config=generation_config, **kwargs)
        prompt.remember(generated.past_key_values if isinstance(generated, ModelOutput) else None)
        return generated
