"""Actions of a robot: a chunk of the next ones, of images of its cameras, an instruction and its state."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import ModelOutput

from .action_head_vega3d import ActionHead, chunk_loss, chunk_mask, outside, scale_of
from .checkpoint_vega3d import AUTO_MAP
from .configuration_vega3d import VegaConfig
from .inputs_vega3d import IGNORED, PATCH_GRIDS
from .modeling_vega3d import Gates, VegaForSpatialReasoning, VegaTaskModel
from .tokens_vega3d import checked_words, prompt_text

STATE_TOKEN, ACTION_TOKEN = "<state>", "<action>"
TOKENS = {"state_token_id": STATE_TOKEN, "action_token_id": ACTION_TOKEN}
PROMPT = "What actions should the robot take to {task}?"
MASKED_ATTENTION = ("sdpa", "eager")  # that take a mask which is not causal
HOW_TO_MAKE = (
    "Make one of any checkpoint by VegaForActionPrediction.from_reasoning, or by `vega3d train` with `actions`."
)
logger = logging.getLogger(__name__)


@dataclass
class VegaActionOutput(ModelOutput):
    """The next actions of each prompt of a batch.

    Args:
        loss: mean L1 of normalised actions, padding left out, if there are labels.
        actions: float32[B, K, A], in the units of the data set.
        gates: as in `VegaEncoderOutput`.
    """

    loss: torch.Tensor | None = None
    actions: torch.Tensor | None = None
    gates: Gates | None = None


class VegaForActionPrediction(VegaTaskModel):
    """A policy: images of the robot's cameras, an instruction and its state -> the next K actions at once.

    A prompt ends with the token `<state>` and K times `<action>`, which see each other; their hidden states go through
    an MLP. States and actions have the units of the data set; they are normalised by the statistics in the config.

    Example:

    ```python
    model = AutoModel.from_pretrained("org/policy", device_map="auto")
    processor = AutoProcessor.from_pretrained("org/policy")
    actions = model.predict_actions(processor, {"front": image, "wrist": other}, "reach the red ball", state)
    ```
    """

    _auto_class = "AutoModel"  # a saved model names its code
    own_parts = ("action_head",)
    auto_map = {  # noqa: RUF012 (of the class, as its base has it)
        **AUTO_MAP,
        "AutoModel": "actions_vega3d.VegaForActionPrediction",
    }

    def __init__(self, config: VegaConfig):
        if config.action_token_id is None or config.state_token_id is None or config.action_statistics is None:
            raise ValueError(f"The config has no action_token_id or no action_statistics: no policy. {HOW_TO_MAKE}")
        super().__init__(config)
        self.action_head = ActionHead(config)
        self._noted: set[str] = set()
        self.post_init()

    @classmethod
    def from_reasoning(
        cls,
        model: VegaForSpatialReasoning,
        tokenizer: Any,
        statistics: Mapping[str, Any],
        cameras: Sequence[str],
        seed: int = 0,
        **options,
    ) -> "VegaForActionPrediction":
        """A policy around the weights of another model, which are shared, with a new head.

        Args:
            model: assembled or loaded; its config and embeddings get the tokens `<state>` and `<action>`.
            tokenizer: of the model's processor; it gets the same tokens, and is to be saved with the model.
            statistics: `dataset`, and of `state` and `action` the lists `mean`, `std`, `min`, `max`, `q01` and `q99`,
                as `vega3d.robotics.statistics.dataset_statistics` gives them.
            cameras: names, in the order in which the prompt shows them.
            seed: of the head's first weights.
            options: `action_chunk` and other fields of `VegaConfig` that begin with `action_`.

        Raises:
            ValueError: for an option that is none of these, or a bad value.
        """
        given = {**options, "action_statistics": dict(statistics), "action_cameras": list(cameras)}
        return cls.around(model, tokenizer, TOKENS, given, ("action_",), seed)

    @classmethod
    def from_backbones(  # type: ignore[override]
        cls,
        vlm: str | Path,
        generator: str | Path,
        *,
        tokenizer: Any,
        statistics: Mapping[str, Any],
        cameras: Sequence[str],
        seed: int = 0,
        **config,
    ) -> "VegaForActionPrediction":
        """Assembles a policy from a pretrained VLM and a pretrained generator.

        Arguments are those of `VegaForSpatialReasoning.from_backbones` and of `from_reasoning`, as are the errors.
        """
        options = {name: config.pop(name) for name in list(config) if name.startswith("action_")}
        model = VegaForSpatialReasoning.from_backbones(vlm, generator, seed=seed, **config)
        return cls.from_reasoning(model, tokenizer, statistics, cameras, seed, **options)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        action_is_pad: torch.Tensor | None = None,
        output_gates: bool = False,
        **kwargs,
    ) -> VegaActionOutput:
        """The next actions of each prompt, and the loss if there are labels.

        Args:
            input_ids: int[B, L], each row with one `<state>` and K times `<action>`; so is `attention_mask`.
            state: float[B, P], in the units of the data set.
            labels: float[B, K, A], the true actions in the units of the data set.
            action_is_pad: bool[B, K], which of the labels are behind the end of their episode.
            output_gates: also return the gates.
            kwargs: as in `VegaModel.forward`.

        Raises:
            ValueError: if anything has another shape than the config says, or is not finite.
        """
        config, rows = self.config, len(input_ids)
        is_action = self._checked_prompts(input_ids, kwargs)
        state = self._checked("state", state, (rows, config.state_size)).to(input_ids.device)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        centre, scale = scale_of(config, "state", state.device)
        is_placeholder = is_action | torch.eq(input_ids, config.state_token_id)  # type: ignore[arg-type]
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=torch.where(is_placeholder, input_ids, IGNORED),  # no part of the instruction
            token_embeddings=self.own_tokens((state - centre) / scale),
            language_mask=self._language_mask(chunk_mask(mask, is_action)),
            output_gates=output_gates,
            **{"use_cache": False, **kwargs},
        )
        hidden = outputs.last_hidden_state
        predicted = self.normalised_actions(hidden[is_action.to(hidden.device)])
        centre, scale = scale_of(config, "action", predicted.device)
        loss = None
        if labels is not None:
            target, is_pad = self._checked_labels(labels, action_is_pad, rows)
            loss = chunk_loss(predicted, (target.to(centre) - centre) / scale, is_pad.to(predicted.device))
        return VegaActionOutput(
            loss=loss, actions=predicted * scale + centre, gates=outputs.gates if output_gates else None
        )

    def own_tokens(self, state: torch.Tensor) -> dict[Any, torch.Tensor]:
        """Embeddings of `<state>`, float[B, D], and of all `<action>`, float[B * K, D], for normalised states."""
        queries = self.action_head.queries.weight
        return {
            self.config.state_token_id: self.action_head.state(state.to(queries)),
            self.config.action_token_id: queries.repeat(len(state), 1),
        }

    def normalised_actions(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32[B, K, A] of the hidden states of all `<action>`, float[B * K, D]."""
        return self.action_head(
            hidden.unflatten(0, (-1, self.config.action_chunk)).to(self.action_head.queries.weight)
        )

    def predict_actions(
        self,
        processor: Any,
        images: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        instruction: str | Sequence[str],
        state: Any,
    ) -> np.ndarray:
        """The next K actions, float32[K, A], in the units of the data set; or float32[B, K, A] of several robots.

        Args:
            processor: `VegaProcessor` of this model.
            images: uint8[H, W, 3] of each camera by its name, or uint8[n, H, W, 3], its last n frames, where the model
                reads several (`action_frames`); of several robots a list of them.
            instruction: what the robot is told to do, one for each robot.
            state: float[P] or float[B, P].

        Raises:
            ValueError: for another camera, a missing one, or images, a state or an instruction that cannot be.
        """
        actions: Any = self.query(processor, images, instruction, state).actions
        return actions[0].cpu().numpy() if isinstance(images, Mapping) else actions.cpu().numpy()

    @torch.no_grad()
    def query(
        self,
        processor: Any,
        images: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        instruction: str | Sequence[str],
        state: Any,
        output_gates: bool = False,
    ) -> VegaActionOutput:
        """What the model makes of the arguments of `predict_actions`: actions float32[B, K, A], and gates if wanted.

        The gates are one a camera, in the order of the cameras, robot by robot.
        """
        is_one = isinstance(images, Mapping)
        several = [images] if isinstance(images, Mapping) else list(images)
        tasks = [instruction] if isinstance(instruction, str) else list(instruction)
        states = state if isinstance(state, torch.Tensor) else torch.from_numpy(np.asarray(state, np.float64))
        states = states[None] if is_one or states.ndim == 0 else states
        if not len(several) == len(tasks) == len(states) or not several:
            raise ValueError(
                f"There are images of {len(several)} robots, {len(tasks)} instructions and {len(states)} states. "
                "Give one of each for each robot."
            )
        states = self._checked("state", states, (len(several), self.config.state_size))
        self._note_outside(states)
        batch = action_inputs(processor, self.config, several, tasks)
        inputs = {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in batch.items()}
        return self(**inputs, state=states, output_gates=output_gates)

    def _note_outside(self, states: torch.Tensor) -> None:
        """Notes in the log, once for each number, that states are beyond those of the data set."""
        for words in outside(states, self.config, "state"):
            name = words.partition(" ")[0]
            if name not in self._noted:
                self._noted.add(name)
                logger.warning("%s of %s. The model has not seen such states.", words, self._dataset)

    @property
    def _dataset(self) -> str:
        return (self.config.action_statistics or {}).get("dataset", "the data set")

    def _checked(self, name: str, values: Any, shape: tuple[int, ...]) -> torch.Tensor:
        """float32 of this shape; raises ValueError for another one, and for numbers that are not finite."""
        if values is None:
            raise ValueError(f"There is no {name}. Give float{list(shape)}, in the units of {self._dataset}.")
        values = torch.as_tensor(values)
        if tuple(values.shape) != shape:
            raise ValueError(
                f"{name} is {list(values.shape)}, but must be float{list(shape)}, as in {self._dataset}, of which the "
                "model has its statistics."
            )
        if not values.isfinite().all():
            place = (~values.isfinite()).nonzero()[0].tolist()
            raise ValueError(f"{name}{place} is {values[tuple(place)].item()}. Give finite numbers.")
        return values.float()

    def _checked_labels(self, labels: Any, is_pad: Any, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        target = self._checked("labels", labels, (rows, config.action_chunk, config.action_size))
        pad = torch.zeros(target.shape[:2], dtype=torch.bool) if is_pad is None else torch.as_tensor(is_pad)
        if pad.dtype != torch.bool or pad.shape != target.shape[:2] or pad.all(1).any():
            raise ValueError(
                f"action_is_pad is {pad.dtype}{list(pad.shape)}, but must be bool{list(target.shape[:2])}, and leave "
                "an action of each row to learn from."
            )
        return target, pad

    def _checked_prompts(self, input_ids: torch.Tensor, visual: Mapping[str, Any]) -> torch.Tensor:
        """bool[B, L], where `<action>` stands; raises ValueError for prompts that are none of this model."""
        config = self.config
        wanted = {STATE_TOKEN: (config.state_token_id, 1), ACTION_TOKEN: (config.action_token_id, config.action_chunk)}
        for token, (number, count) in wanted.items():
            counts = torch.eq(input_ids, number).sum(-1).tolist()  # type: ignore[arg-type]
            wrong = [row for row, found in enumerate(counts) if found != count]
            if wrong:
                raise ValueError(
                    f"Prompt {wrong[0]} has {counts[wrong[0]]} tokens {token}, but must have {count}. Write it by "
                    "`action_inputs`."
                )
        shown = sum(len(visual[name]) for name in PATCH_GRIDS if visual.get(name) is not None)
        if "mm_encoder_outputs" not in visual and shown != len(input_ids) * len(config.action_cameras):
            raise ValueError(
                f"There are {shown} visuals for {len(input_ids)} prompts, but the model was made for the cameras "
                f"{list(config.action_cameras)}. Give each prompt one of each, in this order."
            )
        return torch.eq(input_ids, config.action_token_id)  # type: ignore[arg-type]

    def _language_mask(self, seen: torch.Tensor) -> torch.Tensor:
        """The mask as the language model's attention takes it."""
        kind = self.config.get_text_config()._attn_implementation
        if kind not in MASKED_ATTENTION:
            raise ValueError(
                f"attn_implementation is {kind!r}, in which actions cannot see each other. Load the model with 'sdpa'."
            )
        if kind == "sdpa":
            return seen
        embeddings: Any = self.get_input_embeddings()
        dtype = embeddings.weight.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def action_inputs(
    processor: Any, config: VegaConfig, images: Sequence[Mapping[str, Any]], tasks: Sequence[str]
) -> dict[str, Any]:
    """What the processor makes of the cameras' images and the instructions of B robots, padded on the right.

    Raises ValueError as `predict_actions`.
    """
    seen = [checked_images(one, config) for one in images]
    written: dict[str, str] = {}
    for task in tasks:
        if not isinstance(task, str) or task not in written:
            written[task] = action_text(processor, task, config)
    texts = [written[task] for task in tasks]
    if config.action_frames == 1:
        given: dict[str, Any] = {"images": [frames[0] for one in seen for frames in one]}
    else:
        clips = [frames for one in seen for frames in one]
        seconds = [np.arange(config.action_frames) / (config.action_fps or 1.0)] * len(clips)
        given = {"videos": clips, "seconds": seconds, "do_sample_frames": False}
    return dict(processor(text=texts, padding=True, padding_side="right", **given))


def action_text(processor: Any, task: str, config: VegaConfig) -> str:
    """The prompt that asks for the actions of a task, up to the last `<action>`."""
    reserved = (STATE_TOKEN, ACTION_TOKEN)
    words = checked_words(processor, task, "The instruction", "what the robot is told to do", reserved)
    kind = "image" if config.action_frames == 1 else "video"
    content: list[dict[str, str]] = []
    for camera in config.action_cameras:
        checked_words(processor, camera, "The camera", "a name", reserved)
        content += [{"type": "text", "text": f"{camera}: "}, {"type": kind}]
    content.append({"type": "text", "text": PROMPT.format(task=words.rstrip("."))})
    return prompt_text(processor, content, STATE_TOKEN + ACTION_TOKEN * config.action_chunk)


def checked_images(images: Mapping[str, Any], config: VegaConfig) -> list[np.ndarray]:
    """uint8[n, H, W, 3] of each camera in the model's order; raises ValueError for others than it was made for."""
    cameras, frames = list(config.action_cameras), config.action_frames
    if not isinstance(images, Mapping):
        raise ValueError(f"images are {type(images).__name__}, but must be a mapping with the cameras {cameras}.")
    missing, unknown = [name for name in cameras if name not in images], sorted(images.keys() - set(cameras))
    if missing or unknown:
        fault = f"no image of {missing}" if missing else f"images of {unknown}, which the model does not know"
        raise ValueError(f"There is {fault}. It was made for the cameras {cameras}: give one image of each.")
    found = []
    for name in cameras:
        values = np.asarray(images[name])
        clip = values[None] if values.ndim == 3 else values
        if values.dtype != np.uint8 or clip.ndim != 4 or clip.shape[0] != frames or clip.shape[3] != 3:
            shape = "uint8[H, W, 3]" if frames == 1 else f"uint8[{frames}, H, W, 3], its last frames"
            raise ValueError(f"The image of {name} is {values.dtype}{list(values.shape)}, but must be {shape}.")
        found.append(clip)
    return found
