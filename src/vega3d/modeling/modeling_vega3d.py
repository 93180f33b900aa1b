"""The fused model: a vision-language model whose visual tokens are fused with those of a frozen video generator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, Cache, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import ModelOutput

from .alignment_vega3d import PROJECTORS
from .checkpoint_vega3d import CheckpointedModel
from .configuration_vega3d import VegaConfig
from .fusion_vega3d import FUSIONS, InstructionGatedFusion, TokenGatedResidualFusion, WeightedFusion
from .generator_vega3d import NOT_FINITE, VegaGenerator, check_finite
from .inputs_vega3d import (
    LANGUAGE_INPUTS,
    PATCH_GRIDS,
    VISUAL_INPUTS,
    FusedVisuals,
    VisualInputs,
    VisualStreams,
    by_modality,
    cached_frames,
    check_placeholders,
    checked_streams,
    copied_outputs,
    equal_items,
    generator_clips,
    instruction_embeddings,
    replaced_tokens,
    split_visuals,
    text_ids,
    token_type_ids,
    tokens_of_outputs,
    unpacked_clips,
    visual_rows,
)
from .native_vega3d import NativeInterface
from .positions_vega3d import check_coordinates, with_coordinates, with_positions
from .tokens_vega3d import add_tokens
from .turns_vega3d import NewTokens, Prompt

Features = Callable[[], list[torch.Tensor]]  # float[t, h, w, C] a clip
Gates = dict[str, tuple[torch.Tensor, ...]]


@dataclass
class VegaEncoderOutput:
    """Fused visual tokens, computed once a prompt. A `ModelOutput` would unpack the dict of its first field.

    Args:
        mm_encoder_outputs: for each of `image` and `video` given, the VLM's encoder output with the fused tokens,
            float[N, D] an item, as its `pooler_output`.
        gates: for each modality, float[t, h, w] an item on its token grid ([t, h, w, D] for `channel_gated`), where 1
            keeps only the semantic token; None unless asked for, or for a fusion without a gate.
    """

    mm_encoder_outputs: dict[str, ModelOutput]
    gates: Gates | None = None


@dataclass
class VegaModelOutput(BaseModelOutputWithPast):
    """`last_hidden_state` float[B, L, D], cache, and `gates` as in `VegaEncoderOutput`."""

    gates: Gates | None = None


@dataclass
class VegaCausalLMOutput(CausalLMOutputWithPast):
    """`loss`, `logits` float[B, L, V], cache, and `gates` as in `VegaEncoderOutput`."""

    gates: Gates | None = None


class VegaPreTrainedModel(NativeInterface, CheckpointedModel):
    config_class = VegaConfig
    config: VegaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["fusion.residual_scale"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"^(grounding|action)_head\."]  # noqa: RUF012 (others answer, too)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False  # the generator and the VLM's vision tower have data-dependent sizes

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TokenGatedResidualFusion):
            init.constant_(module.residual_scale, self.config.fusion_residual_init)
        elif isinstance(module, WeightedFusion):
            init.constant_(module.semantic_weight, 0.5)
            init.constant_(module.generative_weight, 0.5)
        elif isinstance(module, InstructionGatedFusion):
            init.constant_(module.gate_bias, self.config.fusion_gate_bias)
            init.constant_(module.instruction_scale, 1.0)
        elif isinstance(module, nn.MultiheadAttention):
            init.normal_(module.in_proj_weight, mean=0.0, std=self.config.initializer_range)
            init.zeros_(module.in_proj_bias)


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

    @property
    def vlm_core(self) -> Any:
        return self.vlm.base_model

    def get_input_embeddings(self) -> nn.Embedding:
        return self.vlm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.vlm.set_input_embeddings(value)

    def encode(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_gates: bool = False,
        noise: Sequence[torch.Tensor] | None = None,
        on_progress: Callable[[int], None] | None = None,
        semantic: Mapping[str, ModelOutput] | None = None,
        vision_options: Mapping[str, Any] | None = None,
        instruction: torch.Tensor | None = None,
        finite: list[torch.Tensor] | None = None,
        **visual: Unpack[VisualInputs],
    ) -> VegaEncoderOutput:
        """Both streams of all images and videos of a batch, aligned and fused.

        Args:
            input_ids: int[B, L]; says which prompt a visual belongs to, and what the question is. After a cache the
                tokens that are not in it.
            attention_mask: int[B, L], or that of the cache and these tokens.
            labels: int[B, L]; tokens with a label are the answer, and no part of the instruction.
            inputs_embeds: float[B, L, D] in place of `input_ids`; placeholders are the rows equal to their embedding.
            output_gates: also return the gates.
            noise: as in `VegaGenerator.encode`; so is `on_progress`.
            semantic: the VLM's own encoder outputs of these visuals under `image` and `video`, so that they are not
                computed again where the generator's features alone differ.
            vision_options: of the VLM's encoder, such as `output_hidden_states`.
            instruction: float[B, D], in place of the mean embedding of each prompt's text.
            finite: as in `VegaGenerator.encode`.
            visual: the images and videos.

        Raises:
            ValueError: if the counts of placeholders, visuals and generator clips do not match, or for hidden states
                that are not finite.
        """
        # 1. Check: whatever can be refused is refused before the heavy work
        ids = text_ids(input_ids, inputs_embeds, self.get_input_embeddings(), self.config)
        streams = checked_streams(ids, visual, self.config)
        if self.config.fusion == "none":
            plain = with_positions(self._semantic(streams, semantic, vision_options), visual, self.config)
            return VegaEncoderOutput(FusedVisuals(plain, **visual))
        given = visual.get("generator_hidden_states")
        if given is None:
            num_frames, features = self._computed_features(streams, noise, on_progress, finite)
        else:
            num_frames, features = self._cached_features(streams, given, ids.device)
        questions = self._questions(ids, inputs_embeds, attention_mask, labels, streams, instruction)
        grids = [grid for stream in streams.values() for grid in stream.grids]

        # 2. Semantic stream: float[N, D] a visual
        own_outputs = self._semantic(streams, semantic, vision_options)
        tokens = [item for output in own_outputs.values() for item in output.pooler_output]
        # 3. Generative stream: float[t, h, w, C] a visual
        hidden = features()

        fused: dict[int, torch.Tensor] = {}
        gates: dict[int, torch.Tensor] = {}
        sizes = list(zip([states.shape for states in hidden], num_frames, grids, strict=True))
        for numbers in equal_items(sizes):  # visuals of one grid together: B of them
            _, count, grid = sizes[numbers[0]]
            own = torch.stack([tokens[number] for number in numbers])
            states = torch.stack([hidden[number].to(own.device, own.dtype) for number in numbers])
            question = torch.stack([questions[number] for number in numbers]) if questions else None
            # 4. Align: float[B, N, D]
            generative = self.projector(states, count, grid)
            # 5. Fuse: float[B, N, D], and the gate float[B, N, 1]
            token_grid = (grid[0], grid[1] // self.projector.merge, grid[2] // self.projector.merge)
            mixed, gate = self.fusion(own, generative, token_grid, question)
            fused.update(zip(numbers, mixed, strict=True))
            if gate is not None and output_gates:
                gates.update(zip(numbers, gate.unflatten(1, token_grid).squeeze(-1), strict=True))
        outputs = replaced_tokens(own_outputs, [fused[number] for number in sorted(fused)])
        # 6. Place: the code of where each token is in the world
        placed = with_positions(outputs, visual, self.config, in_place=True)
        on_grids = by_modality(streams, [gates[number] for number in sorted(gates)])
        return VegaEncoderOutput(FusedVisuals(placed, **visual), on_grids or None)

    def generator_features(
        self,
        noise: Sequence[torch.Tensor] | None = None,
        on_progress: Callable[[int], None] | None = None,
        **inputs,
    ) -> list[torch.Tensor]:
        """Hidden states to store and to give back later as `generator_hidden_states`.

        Of the processor's output (`inputs`) the generator's pixels and grids are read, and nothing else; `noise` and
        `on_progress` are those of `VegaGenerator.encode`.

        Returns:
            float[t, h, w, C] for each image, then each video.
        """
        clips = unpacked_clips(inputs, self.config.generator_config.patch_size)
        return self.generator.encode(clips, noise, on_progress)

    def _semantic(
        self,
        streams: dict[str, VisualStreams],
        given: Mapping[str, ModelOutput] | None,
        options: Mapping[str, Any] | None = None,
    ) -> Mapping[str, ModelOutput]:
        """The VLM's own encoder outputs, given or computed; their `pooler_output` is a tuple of float[N, D].

        Qwen3-VL's `deepstack_features` lie beside it and stay as they are: they are not fused. Raises ValueError if
        those given are of other visuals.
        """
        if given is not None:
            merge = self.config.vlm_config.vision_config.spatial_merge_size
            wanted = {name: (stream.grid.prod(-1) // merge**2).tolist() for name, stream in streams.items()}
            sizes = {name: [len(tokens) for tokens in output.pooler_output] for name, output in given.items()}
            if sizes != wanted:
                raise ValueError(
                    f"The semantic tokens given are {sizes}, but the visuals have {wanted}. Leave them out."
                )
            return given
        encoders = {"image": self.vlm.get_image_features, "video": self.vlm.get_video_features}
        return {
            name: encoders[name](stream.pixels, stream.grid, return_dict=True, **(options or {}))
            for name, stream in streams.items()
        }

    def _computed_features(
        self, streams: dict[str, VisualStreams], noise, on_progress, finite
    ) -> tuple[list[int], Features]:
        """Frames of each clip, and its features, which are computed when they are called for."""
        clips = generator_clips(streams, self.config.generator_config)
        return [len(clip) for clip in clips], lambda: self.generator.encode(clips, noise, on_progress, finite)

    def _cached_features(self, streams: dict[str, VisualStreams], given, device) -> tuple[list[int], Features]:
        """The same of stored features; those in pinned memory are copied while the vision tower runs."""
        num_frames = cached_frames(streams, given, self.config.generator_config)
        hidden = [states.to(device, non_blocking=True) for states in given]

        def features() -> list[torch.Tensor]:
            check_finite(hidden, "generator_hidden_states", NOT_FINITE[1])
            return hidden

        return num_frames, features

    def _questions(
        self, ids, embeds, attention_mask, labels, streams: dict[str, VisualStreams], text: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """float[D] for each visual, the mean embedding of its prompt's text; empty if the fusion does not read it."""
        if not (self.fusion.needs_instruction and streams):
            return []
        if text is None:
            embeddings = self.get_input_embeddings() if embeds is None else lambda ids: embeds
            text = instruction_embeddings(ids, attention_mask, labels, self.config, embeddings)
        rows = (row for name, stream in streams.items() for row in visual_rows(ids, name, stream.grid, self.config))
        return [text[row] for row in rows]

    def placed_text(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        coord_positions: torch.Tensor | None,
        token_embeddings: Mapping[Any, torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor | None]:
        """The text as the VLM gets it: ids, or embeddings if some of its tokens stand for points float[K, 3] [m].

        `token_embeddings` are those of all tokens with an id, float[n, D], in the order of the batch. Raises
        ValueError if there is not a point for each such token of the ids.
        """
        if input_ids is not None:
            check_coordinates(input_ids, coord_positions, self.config)
        elif coord_positions is not None:
            raise ValueError("coord_positions belong to tokens of input_ids, which are not given. Give input_ids.")
        if input_ids is None or (coord_positions is None and not token_embeddings):
            return {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        embeds = self.get_input_embeddings()(input_ids)
        for token, values in (token_embeddings or {}).items():
            embeds = embeds.masked_scatter(torch.eq(input_ids, token)[..., None], values.to(embeds))
        if coord_positions is not None:
            embeds = with_coordinates(embeds, input_ids, coord_positions, self.config)
        return {"input_ids": None, "inputs_embeds": embeds}

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, ModelOutput] | None = None,
        output_gates: bool = False,
        coord_positions: torch.Tensor | None = None,
        token_embeddings: Mapping[Any, torch.Tensor] | None = None,
        language_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> VegaModelOutput:
        """Arguments as in `encode`, or its `mm_encoder_outputs`; `labels` only mark the answer.

        `coord_positions` float[K, 3] are the points in the world [m] that the tokens `coord_token_id` of `input_ids`
        stand for, in the order of the batch. `token_embeddings` are those of `placed_text`. `language_mask`
        [B, 1, L, L] says, in place of a causal mask, which tokens those of the language model see. With a cache that
        is not empty, the text is that of the new tokens, and so are the visuals. `kwargs` are the `VisualInputs`, and
        the VLM's own, such as `second_per_grid_ts` of Qwen2.5-VL.

        Raises:
            ValueError: if the visuals given do not match the placeholders of the text, so that some would go unseen.
        """
        visual, vlm_kwargs = split_visuals(kwargs)
        grids = {name: visual.get(name) for name in PATCH_GRIDS}  # read by the VLM, too
        ids = text_ids(input_ids, inputs_embeds, self.get_input_embeddings(), self.config)
        turn = NewTokens(self.vlm_core, past_key_values, ids.shape, attention_mask, ids.device)
        text: dict[str, Any] = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        if coord_positions is not None or not turn.is_step:
            text = self.placed_text(input_ids, inputs_embeds, coord_positions, token_embeddings)
        gates = None
        if mm_encoder_outputs is not None:
            check_placeholders(ids, self.config, tokens_of_outputs(mm_encoder_outputs, visual))
        elif not turn.is_step or any(visual.get(name) is not None for name in VISUAL_INPUTS):
            encoded = self.encode(input_ids, attention_mask, labels, inputs_embeds, output_gates, **visual)
            mm_encoder_outputs, gates = encoded.mm_encoder_outputs, encoded.gates
        if mm_token_type_ids is None and input_ids is not None:
            mm_token_type_ids = token_type_ids(input_ids, self.config)
        if position_ids is None:
            given = {**grids, "second_per_grid_ts": kwargs.get("second_per_grid_ts")}
            position_ids = turn.positions(ids, self.config, given, mm_encoder_outputs, input_ids is not None)
        outputs = self.vlm_core(
            **text,
            attention_mask=attention_mask if language_mask is None else language_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            mm_token_type_ids=mm_token_type_ids,
            mm_encoder_outputs=mm_encoder_outputs,
            **grids,
            **vlm_kwargs,
        )
        turn.remember(outputs.past_key_values, position_ids)
        return VegaModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            gates=gates,
        )


class VegaTaskModel(VegaPreTrainedModel, GenerationMixin):
    """What the models of all tasks share: a `VegaModel`, and text that is generated about visuals."""

    weights_prefix = "model."
    accepts_loss_kwargs = (
        False  # the loss is a mean over the answer tokens of each batch, as in the VLM, or over prompts
    )

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.model = VegaModel(config)
        self.post_init()

    @classmethod
    def around(
        cls,
        model: "VegaTaskModel",
        tokenizer: Any,
        tokens: Mapping[str, str],
        options: Mapping[str, Any],
        prefixes: tuple[str, ...],
        seed: int,
    ):
        """A model of this task around the weights of another one, which are shared, with own parts that are new.

        Args:
            model: its config and embeddings get the tokens, as `add_tokens` gives them to the tokenizer.
            tokens: of each field of the config that holds the id of one.
            options: fields of `VegaConfig` that begin with one of the `prefixes`, `notice` and `questions`.
            seed: of the own parts' first weights, and of the embeddings of new tokens.

        Raises:
            ValueError: for an option that is none of these, or a bad value.
        """
        config = model.config
        known = [name for name in vars(config) if name.startswith(prefixes) and name not in tokens]
        unknown = sorted(options.keys() - {*known, "notice", "questions"})
        if unknown:
            raise ValueError(f"from_reasoning got the options {unknown}, but takes {known}, notice and questions.")
        # Raises for a bad value, before anything is changed.
        checked = VegaConfig.from_dict({**config.to_dict(), **options})
        given = {name: getattr(checked, name) for name in options}
        for name, value in {**given, **add_tokens(model, tokenizer, tokens, seed)}.items():
            setattr(config, name, value)
        with torch.device("meta"):
            made = cls(VegaConfig.from_dict(config.to_dict()))  # without the attention that the model was given
        made.config = config
        made.model = model.model
        made.make_weights([made.get_submodule(name) for name in cls.own_parts], model, seed)
        made.generation_config = model.generation_config
        made.exclude_generator_weights()
        return made.eval()

    @property
    def generator_module(self) -> VegaGenerator:
        return self.model.generator

    @property
    def vlm_core(self) -> Any:
        return self.model.vlm_core

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.model.vlm.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.model.vlm.set_output_embeddings(value)

    def encode(self, input_ids: torch.Tensor | None = None, **inputs) -> VegaEncoderOutput:
        """Fused visual tokens of a batch, as in `VegaModel.encode`; hand them to `generate` to ask several questions.

        Inputs that only the language model reads (`second_per_grid_ts`, `mm_token_type_ids`) may be among `inputs`.
        """
        inputs = {name: value for name, value in inputs.items() if name not in LANGUAGE_INPUTS}
        return self.model.encode(input_ids, **inputs)

    def generator_features(self, **inputs) -> list[torch.Tensor]:
        """Hidden states of the generator for the processor's output, as in `VegaModel.generator_features`."""
        return self.model.generator_features(**inputs)

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, generation_config=None, **kwargs: Any):
        """The VLM's own `generate` (cache, beams, sampling, streamer, static cache) on visuals encoded once.

        Args:
            inputs: int[B, L], another name of `input_ids`.
            generation_config: of transformers; the model's own by default.
            kwargs: the processor's output and any option of `GenerationMixin.generate`; with `mm_encoder_outputs` from
                `encode` the visuals are not encoded again. With `past_key_values` of an earlier turn, `input_ids` are
                the whole conversation, and the visuals those of the tokens that are not in the cache.
                `coord_positions` are those of all `input_ids`.

        Raises:
            ValueError: if the visuals given do not match the placeholders of the new tokens.
        """
        visual = {name: kwargs.pop(name) for name in VISUAL_INPUTS if name in kwargs}
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is not None:
            kwargs["input_ids"] = input_ids
        points = kwargs.pop("coord_positions", None)
        text = self.model.placed_text(input_ids, kwargs.get("inputs_embeds"), points)
        core, embeddings = self.vlm_core, self.get_input_embeddings()
        prompt = Prompt(core, embeddings, self.config, self.generation_config, kwargs)
        if kwargs.get("mm_encoder_outputs") is None:
            encoded = self.encode(**prompt.new, **visual)
            kwargs["mm_encoder_outputs"] = encoded.mm_encoder_outputs
        else:
            check_placeholders(prompt.ids, self.config, tokens_of_outputs(kwargs["mm_encoder_outputs"], visual))
        kwargs["mm_encoder_outputs"] = copied_outputs(kwargs["mm_encoder_outputs"])
        kwargs.update(prompt.language_inputs(kwargs["mm_encoder_outputs"]))
        kwargs["inputs_embeds"] = text["inputs_embeds"]
        self.model.vlm.generation_config = self.generation_config
        generated = self.model.vlm.generate(generation_config=generation_config, **kwargs)
        prompt.remember(generated.past_key_values if isinstance(generated, ModelOutput) else None)
        return generated


class VegaForSpatialReasoning(VegaTaskModel):
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

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> VegaCausalLMOutput:
        """Logits of the answer, and the loss if there are labels.

        Args:
            input_ids: int[B, L]; so is `attention_mask`.
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
