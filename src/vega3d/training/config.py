"""`TrainingConfig`: all that a run depends on, from a YAML or JSON file. Reading one needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vega3d.configs import check_range, make_settings, read_settings, shown
from vega3d.training.parts import LORA_TARGETS, RESIDUAL_SCALE_RATE, check_parts, compiled_targets, learning_rates
from vega3d.training.presets import PresetName, check_preset, with_preset

# Of rows: the loader of `datasets` for each suffix.
FILES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
SHARD = ".tar"
RowFormat = Literal["messages", "llava", "spar", "llava_hound", "vlm3r", "vsi590k"]  # those of `published_rows`
# Without effect on losses and weights; a run may be continued with other values.
WITHOUT_EFFECT = ("preset", "output", "logging_steps", "save_steps", "save_total_limit", "report_to")


@dataclass(frozen=True)
class DataSource:
    """One data set: a folder of rooms, a file of rows, tar shards, or an id on the Hub.

    Attributes:
        path: a folder of rooms (`vega3d synthesize`), a `.jsonl`, `.json` or `.parquet` file with a column `messages`
            or `conversations`, a `.tar` or a pattern of several (`train-*.tar`), or the id of such a data set on the
            Hub.
        split: `train`, `validation` or `test`, as the folder of rooms or the data set of the Hub names it.
        format: that the rows are written in, one of `published_rows.FORMATS`; None recognises it by keys that no other
            has, and refuses rows that have none.
        media_root: the folder that paths of images and videos are relative to; None is that of the file.
    """

    path: str
    split: str = "train"
    format: RowFormat | None = None
    media_root: Path | None = None

    @property
    def is_rooms(self) -> bool:
        return Path(self.path).is_dir()

    @property
    def is_sharded(self) -> bool:
        return Path(self.path).suffix == SHARD

    @property
    def folder(self) -> Path | None:
        """That paths of media are relative to; None is the working folder, for data sets of the Hub."""
        path = Path(self.path)
        return self.media_root or (path.parent if path.is_file() else None)

    def shards(self) -> list[Path]:
        """The tar files that the path names, in the order of their names; raises ValueError if there is none."""
        path = Path(self.path)
        found = [path] if path.exists() else sorted(path.parent.glob(path.name)) if "*" in path.name else []
        if not found or not all(one.is_file() for one in found):
            raise ValueError(f"There is no shard {self.path}. Give a tar file, or a pattern such as `train-*.tar`.")
        return found

    def check(self) -> None:
        """Raises ValueError if there is no such data, before anything is loaded."""
        self.check_options()
        path = Path(self.path)
        if self.is_sharded and not self.is_rooms:
            self.shards()
            return
        if self.is_rooms:
            from vega3d.rooms.dataset.files import table_file

            table = table_file(self.split, "questions")
            if not (path / table).is_file():
                raise ValueError(
                    f"{path} has no {table}: it is no folder of rooms with the split {self.split!r}. Make one with "
                    f"`vega3d synthesize {path} --split {self.split}`."
                )
        if path.is_file() and path.suffix not in FILES:
            raise ValueError(f"{path} is no file of rows: give one of {[*FILES, SHARD]}.")
        is_local = path.suffix in FILES or self.path.count("/") != 1 or self.path.startswith((".", "/"))
        if is_local and not path.exists():
            raise ValueError(f"There is no data {self.path}. Give a folder of rooms, a file of rows, or a Hub id.")

    def check_options(self) -> None:
        """Raises ValueError for a format that there is not, and for options that would have no effect."""
        if self.format is not None and self.format not in get_args(RowFormat):
            raise ValueError(f"format is {shown(self.format)}, but must be one of {list(get_args(RowFormat))}.")
        if self.is_rooms and (self.format or self.media_root):
            raise ValueError(
                f"{self.path} is a folder, of which rooms are read: they have no format and no media_root. Give the "
                "file of the rows as path, or leave both out."
            )
        if self.is_sharded and self.media_root is not None:
            raise ValueError(f"media_root is {self.media_root}, but the media of {self.path} are in its shards.")
        if self.media_root is not None and not self.media_root.is_dir():
            raise ValueError(f"media_root is {self.media_root}, but there is no such folder. Mend the path.")


@dataclass(frozen=True, kw_only=True)
class ActionOptions:
    """How a policy learns from demonstrations (docs/manipulation.md).

    Raises:
        ValueError: for a value out of range.
    """

    # How many actions are predicted at once.
    chunk: int = 8
    # How many of the last frames of each camera the policy sees.
    frames: int = 1
    # The cameras in the order in which the policy sees them; all of the data set if none is named.
    cameras: tuple[str, ...] = ()
    # How states and actions are normalised, as in `VegaConfig.action_normalisation`.
    normalisation: Literal["quantiles", "min_max", "mean_std"] = "quantiles"
    # Whose statistics a policy that is trained further keeps: its own (`model`), or those of `data`.
    statistics: Literal["model", "data"] = "model"
    # The numbers of the episodes of `data` that are left out.
    skip_episodes: tuple[int, ...] = ()
    # Whether all images are decoded once, before the first step, and stay in memory; of no effect on what is learned.
    in_memory: bool = False

    def __post_init__(self):
        check_range(self, "chunk", "frames", least=1, most=1024)


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of one run.

    Raises:
        ValueError: for a value out of range, and for values that exclude each other.
    """

    # The model to start from: `vega3d-tiny` (embedded), a folder, or a Hub id.
    model: str
    # What is trained on. In a file: one source or a list of them, each a path or `{path, split, format, media_root}`.
    data: tuple[DataSource, ...]
    # The folder of the run, with its checkpoints. The model that comes out lies in it.
    output: Path
    # The parts that are trained, of `parts.PARTS`; all else is frozen. In a file: a list, or words with commas.
    tune: tuple[str, ...] = ("gate", "projector")
    # Sources whose loss is taken every `eval_steps` and at the end; nothing is trained on them.
    eval_data: tuple[DataSource, ...] = ()
    # The number of optimizer steps. Give this or `epochs`, not both.
    steps: int | None = None
    # The number of passes over the data, which need not be whole. One pass is made if neither is given.
    epochs: float | None = None
    # How many rows each process takes at once.
    batch_size: int = 1
    # How many such batches make one optimizer step.
    gradient_accumulation: int = 1
    # The highest learning rate of each part; a part without one has that of `parts.LEARNING_RATES`.
    learning_rates: dict[str, float] = field(default_factory=dict)
    # The highest learning rate of r, the residual scale, which would hardly move at the rate of the gate.
    residual_scale_rate: float = RESIDUAL_SCALE_RATE
    # The weight decay of matrices; norms, biases and r have none.
    weight_decay: float = 0.0
    # The share of the steps, in [0, 1), in which the rates rise from 0.
    warmup: float = 0.03
    # How the rates change after that.
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    # The largest norm of the gradient of all trained weights; a larger one is scaled down to it.
    max_grad_norm: float = 1.0
    # How many frames are sampled evenly from each video; None is the processor's own number.
    num_frames: int | None = None
    # The seed of the order of rows, of dropout, and of the first weights of adapters.
    seed: int = 0
    # Where the run computes; `auto` is the GPU if there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # The dtype of the weights; `auto` keeps the model's.
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    # Whether trained weights are float32 whatever `dtype` is; the forward pass then autocasts to `dtype`.
    float32_trained: bool = True
    # Whether activations are computed again in the backward pass, which needs less memory and more time.
    gradient_checkpointing: bool = False
    # Whether the language model is loaded in 4 bits (bitsandbytes); for training with `llm-lora` only.
    four_bit: bool = False
    # A folder of the generator's hidden states, which is read and filled; without one they are computed each time.
    cache: Path | None = None
    # The rank of the adapters of `llm-lora`.
    lora_rank: int = 16
    # The scale of the adapters is this number divided by their rank.
    lora_alpha: float = 32.0
    # The share, in [0, 1), of the inputs of an adapter that dropout sets to 0.
    lora_dropout: float = 0.0
    # A regular expression that the full names of the linear layers with adapters match.
    lora_targets: str = LORA_TARGETS
    # Whether rows are read as they come, and not all before the first step; needs `steps`.
    streaming: bool = False
    # How many rows of a stream are in memory, from which the next one is drawn.
    shuffle_buffer: int = 1000
    # The number of processes that prepare batches; 0 prepares them between steps.
    workers: int = 0
    # Steps between entries of the log.
    logging_steps: int = 1
    # Steps between checkpoints, a multiple of `logging_steps`.
    save_steps: int = 100
    # Steps between evaluations on `eval_data`.
    eval_steps: int = 100
    # How many checkpoints stay, at least 2: the last whole one is needed until the next one is.
    save_total_limit: int = 2
    # Where transformers sends the log as well: `tensorboard`, `wandb`, or another of its integrations.
    report_to: str = "none"
    # How a policy learns from demonstrations; None for a run that trains answers in words.
    actions: ActionOptions | None = None
    # Settings that go together, one of `presets.PRESETS`: those of a file or `make_config` that are not given.
    preset: PresetName | None = None

    def __post_init__(self):
        counts = ("batch_size", "gradient_accumulation", "logging_steps", "save_steps", "eval_steps", "shuffle_buffer")
        check_range(self, *counts, "lora_rank", "num_frames", "steps", least=1)
        check_range(self, "save_total_limit", least=2)
        check_range(self, "workers", "weight_decay", "seed", least=0)
        check_range(self, "warmup", "lora_dropout", least=0, below=1)
        check_range(self, "epochs", "residual_scale_rate", "max_grad_norm", "lora_alpha", above=0)
        check_parts(self.tune)
        compiled_targets(self.lora_targets)
        learning_rates(self.tune, self.learning_rates)
        if not self.data:
            raise ValueError("data names nothing to train on.")
        if self.actions is not None:
            self._check_actions()
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps is {self.steps} and epochs is {self.epochs}: give one of them.")
        if self.streaming and self.steps is None:
            raise ValueError("A stream has no known length: give steps.")
        check_preset(self.preset, self.tune, self.four_bit)
        if self.four_bit and "llm-lora" not in self.tune:
            raise ValueError(f"four_bit is for training with llm-lora, but tune is {list(self.tune)}.")
        if self.save_steps % self.logging_steps:
            raise ValueError(
                f"save_steps is {self.save_steps}, but must be a multiple of logging_steps {self.logging_steps}, so "
                "that a run that is continued logs the same losses."
            )
        if self.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                raise ValueError("device is 'cuda', but there is no GPU here. Use 'auto' or 'cpu'.")

    def _check_actions(self) -> None:
        """Raises ValueError for what a run on demonstrations cannot have."""
        if len(self.data) != 1 or len(self.eval_data) > 1:
            raise ValueError(f"data names {len(self.data)} sources, but a policy learns from one. Join them first.")
        for name in ("streaming", "num_frames"):
            if getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}, which has no effect with `actions`. Leave it out.")

    def check_data(self) -> None:
        """Raises ValueError if there is no such data, before anything is loaded."""
        for source in (*self.data, *self.eval_data):
            if self.actions is None:
                source.check()
            else:
                from vega3d.robotics.episode_folder import open_demonstrations

                open_demonstrations(source.path)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = json.loads(json.dumps(asdict(self), default=str))
        for source in (*values["data"], *values["eval_data"]):
            for name in ("format", "media_root"):  # runs that name none keep the settings that they are known by
                if source[name] is None:
                    del source[name]
        if self.preset is None:
            del values["preset"]
        return values

    def binding(self) -> dict[str, Any]:
        """What must be the same for a run to be continued; the number of workers only shapes streams."""
        left_out = WITHOUT_EFFECT if self.streaming else (*WITHOUT_EFFECT, "workers")
        values = {name: value for name, value in self.to_dict().items() if name not in left_out}
        if self.actions is not None:
            del values["actions"]["in_memory"]
        return values


def read_config(path: Path, settings: Mapping[str, Any] | None = None) -> TrainingConfig:
    """The config in a YAML or JSON file.

    Args:
        path: where the file lies.
        settings: values that take the place of the file's; `learning_rates.gate` names one within another.

    Raises:
        ValueError: if the file cannot be read, or for an unknown key or a bad value; the message begins with the path.
    """
    return read_settings(make_config, path, settings, "model: vega3d-tiny")


def make_config(values: Mapping[str, Any]) -> TrainingConfig:
    """The config of plain values; unknown names are refused with the nearest one that is known."""
    values = with_preset(values)
    for name in ("data", "eval_data"):
        if values.get(name) is not None:
            values[name] = full_sources(name, values[name])
    if isinstance(values.get("tune"), str):
        values["tune"] = [word.strip() for word in values["tune"].split(",")]
    return make_settings(TrainingConfig, values)


def full_sources(name: str, value: Any) -> list:
    """A list of sources from what may be written shorter: one source without the list, or a path alone."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    for one in listed:
        if not isinstance(one, (str, Mapping, DataSource)):
            raise ValueError(
                f"{name} is {shown(value)}, but must be a path, or hold path, and perhaps split and format."
            )
    return [{"path": one} if isinstance(one, str) else one for one in listed]
