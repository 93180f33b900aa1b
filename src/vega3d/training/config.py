"""`TrainingConfig`: all that a run depends on, from a YAML or JSON file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch

from vega3d.configs import checked, read_mapping, refuse_unknown
from vega3d.training.data import DataSource
from vega3d.training.parts import LORA_TARGETS, RESIDUAL_SCALE_RATE, check_parts, compiled_targets, learning_rates

Tune = Sequence[str]
WITHOUT_EFFECT = (  # on losses and weights; a run may be continued with other values
    "output",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "report_to",
)


@dataclass(frozen=True)
class TrainingConfig:
    """
    Args:
        model: `vega3d-tiny`, a folder, or a Hub id.
        data: one source or a list: a path, or `{path, split}` (`DataSource`).
        output: folder of the run; the model that comes out lies in it.
        tune: parts that are trained (`parts.PARTS`), as a list or with commas.
        eval_data: sources whose loss is taken every `eval_steps` and at the end.
        steps: optimizer steps; or
        epochs: passes over the data, one if neither is given.
        batch_size: rows of a step on each process, times `gradient_accumulation`.
        learning_rates: of parts; those of `parts.LEARNING_RATES` where none is given.
        residual_scale_rate: of r.
        weight_decay: of matrices.
        warmup: share of the steps in which the rates rise from 0.
        schedule: of the rates afterwards.
        max_grad_norm: gradients are scaled down to this norm.
        num_frames: sampled from each video; the processor's own number if None.
        seed: of the order of rows, dropout and adapters.
        device: `auto` is the GPU if there is one.
        dtype: of the weights: `auto` keeps the model's.
        float32_trained: trained weights are kept in float32 whatever `dtype` is, with autocast.
        gradient_checkpointing: less memory, slower.
        four_bit: language model in 4 bits (bitsandbytes); with `llm-lora` only.
        cache: folder of the generator's hidden states, read and filled.
        lora_rank: and `lora_alpha`, `lora_dropout`, `lora_targets` (a regular expression on names of layers).
        streaming: rows are read as they come, shuffled within `shuffle_buffer`; needs `steps`.
        workers: processes that prepare batches.
        logging_steps: and `save_steps`, `eval_steps`: how often [steps].
        save_total_limit: checkpoints kept, at least 2.
        report_to: of transformers (`tensorboard`, `wandb`, ...).

    Raises:
        ValueError: for a value of another type or out of range, and for values that exclude each other.
    """

    model: str
    data: tuple[DataSource, ...]
    output: Path
    tune: Tune = ("gate", "projector")
    eval_data: tuple[DataSource, ...] = ()
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 1
    gradient_accumulation: int = 1
    learning_rates: dict[str, float] = field(default_factory=dict)
    residual_scale_rate: float = RESIDUAL_SCALE_RATE
    weight_decay: float = 0.0
    warmup: float = 0.03
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    max_grad_norm: float = 1.0
    num_frames: int | None = None
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    float32_trained: bool = True
    gradient_checkpointing: bool = False
    four_bit: bool = False
    cache: Path | None = None
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: str = LORA_TARGETS
    streaming: bool = False
    shuffle_buffer: int = 1000
    workers: int = 0
    logging_steps: int = 1
    save_steps: int = 100
    eval_steps: int = 100
    save_total_limit: int = 2
    report_to: str = "none"

    def __post_init__(self):
        self.check_ranges()
        check_parts(self.tune)
        compiled_targets(self.lora_targets)
        learning_rates(self.tune, self.learning_rates)
        if not self.data:
            raise ValueError("data names nothing to train on.")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps is {self.steps} and epochs is {self.epochs}: give one of them.")
        if self.streaming and self.steps is None:
            raise ValueError("A stream has no known length: give steps.")
        if self.four_bit and "llm-lora" not in self.tune:
            raise ValueError(f"four_bit is for training with llm-lora, but tune is {list(self.tune)}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but there is no GPU here. Use 'auto' or 'cpu'.")
        if self.save_steps % self.logging_steps:
            raise ValueError(
                f"save_steps is {self.save_steps}, but must be a multiple of logging_steps {self.logging_steps}, so "
                "that a run that is continued logs the same losses."
            )

    def check_ranges(self) -> None:
        lowest = {"batch_size": 1, "gradient_accumulation": 1, "logging_steps": 1, "save_steps": 1, "eval_steps": 1}
        lowest |= {
            "save_total_limit": 2,
            "lora_rank": 1,
            "num_frames": 1,
            "steps": 1,
            "workers": 0,
            "shuffle_buffer": 1,
        }
        lowest |= {"weight_decay": 0, "warmup": 0, "lora_dropout": 0, "seed": 0}
        values = asdict(self)
        for name, least in lowest.items():
            value = values[name]
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, but must be at least {least}.")
        for name in ("epochs", "residual_scale_rate", "max_grad_norm", "lora_alpha"):
            if values[name] is not None and not values[name] > 0:
                raise ValueError(f"{name} is {values[name]}, but must be above 0.")
        for name in ("warmup", "lora_dropout"):
            if values[name] >= 1:
                raise ValueError(f"{name} is {values[name]}, but must be below 1.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return json.loads(json.dumps(asdict(self), default=str))

    def binding(self) -> dict[str, Any]:
        """What must be the same for a run to be continued; the number of workers only shapes streams."""
        left_out = WITHOUT_EFFECT if self.streaming else (*WITHOUT_EFFECT, "workers")
        return {name: value for name, value in self.to_dict().items() if name not in left_out}


def read_config(path: Path, settings: Mapping[str, Any] | None = None) -> TrainingConfig:
    """
    Args:
        path: of a YAML or JSON file.
        settings: values that take the place of the file's.

    Raises:
        ValueError: if the file cannot be read, or for an unknown key or a bad value.
    """
    return make_config({**read_mapping(path, "model: vega3d-tiny"), **(settings or {})})


def make_config(values: Mapping[str, Any]) -> TrainingConfig:
    """The config of plain values; unknown names are refused with the nearest one that is known."""
    hints = get_type_hints(TrainingConfig)
    refuse_unknown(values, hints)
    missing = [one.name for one in fields(TrainingConfig) if one.name in REQUIRED and values.get(one.name) is None]
    if missing:
        raise ValueError(f"The config does not say {', '.join(missing)}.")
    special = {"data": sources, "eval_data": sources, "tune": words, "learning_rates": rates}
    made: dict[str, Any] = {
        name: special[name](name, value) if name in special else checked(name, value, hints[name])
        for name, value in values.items()
    }
    return TrainingConfig(**made)


REQUIRED = ("model", "data", "output")


def sources(name: str, value: Any) -> tuple[DataSource, ...]:
    return tuple(source(name, one) for one in (value if isinstance(value, list) else [value]))


def source(name: str, value: Any) -> DataSource:
    if isinstance(value, str):
        return DataSource(value)
    known = [one.name for one in fields(DataSource)]
    if isinstance(value, Mapping) and "path" in value and set(value) <= set(known):
        return DataSource(**{key: checked(f"{name}.{key}", one, str) for key, one in value.items()})
    raise ValueError(f"{name} is {value!r}, but must be a path, or hold path and perhaps split.")


def words(name: str, value: Any) -> tuple[str, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise ValueError(f"{name} is {value!r}, but must be a list of words.")
    return tuple(one.strip() for one in listed)


def rates(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}, but must hold a rate for each part, such as {{gate: 0.001}}.")
    return {str(part): checked(f"{name}.{part}", rate, float) for part, rate in value.items()}
