"""The recipe of an experiment, read from YAML: rooms, arms, seeds, and two stages that are the same for all arms."""

import hashlib
import json
import math
import types
import typing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vega3d.configs import read_mapping, shown
from vega3d.evaluation.metrics import QUESTION_TYPES

TRAIN, VALIDATION = "train", "validation"
TEST_SPLITS = ("test", "test_unseen")


@dataclass(frozen=True)
class RoomsRecipe:
    """
    Args:
        train, validation, test, test_unseen: number of rooms of each split.
        walks: clips of a room of `train`; the other splits have one.
        num_frames: of a clip.
        size: edge of the square frames [px].
        questions_per_type: most questions of a type about a clip.
        training_questions_per_type: the same in `train`.
        renderer: opengl or embree.
        quality: of the light.
        rooms_per_shard: rooms in a file.
    """

    train: int
    validation: int
    test: int
    test_unseen: int = 0
    walks: int = 2
    num_frames: int = 17
    size: int = 192
    questions_per_type: int = 2
    training_questions_per_type: int = 2
    renderer: str = "opengl"
    quality: str = "full"
    rooms_per_shard: int = 16


@dataclass(frozen=True)
class StageRecipe:
    """
    Args:
        steps: of the optimizer.
        visuals_per_step: clips in a batch.
        questions_per_visual: most questions asked about each of them, their types in turn.
        close_ups_per_step: of stage 0, whose batches are clips and close-ups of objects in turn; 0 for clips
            alone.
        optimizer: `adamw`; or `muon`, for matrices and kernels, with AdamW at a tenth of the rate for embeddings,
            norms and biases.
        learning_rates: peak rate of each part trained (`training.parts.PARTS`).
        residual_scale_rate: of the fusion's r.
        warmup: steps until the peak; a half cosine falls to a tenth of it.
        weight_decay: of matrices.
        max_grad_norm: above which gradients are scaled down.
    """

    steps: int
    visuals_per_step: int = 16
    questions_per_visual: int = 12
    close_ups_per_step: int = 64
    optimizer: str = "adamw"
    learning_rates: dict[str, float] = field(default_factory=dict)
    residual_scale_rate: float = 1e-2
    warmup: int = 50
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0

    def __post_init__(self):
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer is {self.optimizer!r}; choose adamw or muon.")
        for name in ("steps", "visuals_per_step", "questions_per_visual"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name} is {self.__dict__[name]}, but must be at least 1.")
        if self.close_ups_per_step < 0:
            raise ValueError(f"close_ups_per_step is {self.close_ups_per_step}, but must be at least 0, for none.")


@dataclass(frozen=True)
class ArmRecipe:
    """
    Args:
        generator: name in `Recipe.generators`; None for the VLM alone.
        options: of the generator (`VegaGeneratorConfig`), such as block, timestep, clip_mode, family.
        fusion: of `VegaConfig`; none with no generator.
    """

    generator: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    fusion: str = "token_gated_residual"


@dataclass(frozen=True)
class Recipe:
    """
    Args:
        name: of the experiment, in its tables.
        rooms: rooms of each split.
        vlm: seed and sizes of the VLM (`vlm.VLMRecipe`).
        generators: folder of each, in diffusers layout (`transformer/`, `vae/`).
        arms: what is compared; the first is what the others are compared with.
        seeds: of initialisation and data order, shared by all arms.
        stage0: before the arms part: objects, attributes, captions; no generator.
        stage1: spatial questions; the vision tower is frozen.
        base: the same without a generator, once and before the arms part, so that all begin with a language model that
            answers spatial questions, as the paper's does; left out, they begin after stage 0.
        categories: question types of stage 1; all by default.
        projector_hidden_size: width of the projector.
        residual_init: first value of the fusion's r.
        precision: "bfloat16" for autocast and kept tokens, or "float32".
        checkpoint_seconds: between checkpoints of a run [s].
        checkpoint_steps: between checkpoints of a run, in place of seconds.
        keep_hidden: False removes an arm's hidden states once all its seeds are done.
    """

    name: str
    rooms: RoomsRecipe
    arms: dict[str, ArmRecipe]
    stage0: StageRecipe
    stage1: StageRecipe
    base: StageRecipe | None = None
    vlm: dict[str, Any] = field(default_factory=dict)
    generators: dict[str, str] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    categories: list[str] = field(default_factory=lambda: list(QUESTION_TYPES))
    projector_hidden_size: int = 192
    residual_init: float = 0.2
    precision: str = "bfloat16"
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    keep_hidden: bool = True

    def __post_init__(self):
        if not self.arms or len(set(map(str, self.seeds))) < len(self.seeds) or not self.seeds:
            raise ValueError(f"Give arms and seeds, each seed once; got {list(self.arms)} and {shown(self.seeds)}.")
        if not all(type(seed) is int and seed >= 0 for seed in self.seeds):
            raise ValueError(f"seeds are {shown(self.seeds)}, but must be whole numbers from 0 up.")
        for name in (self.name, *self.arms):
            if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
                raise ValueError(f"{shown(name)} names a folder of the output. Leave out slashes and '..'.")
        for name, arm in self.arms.items():
            if (arm.generator is None) != (arm.fusion == "none"):
                raise ValueError(
                    f"Arm {name!r} has the generator {arm.generator!r} and the fusion {arm.fusion!r}: an arm without "
                    "a generator has the fusion none, and no other has."
                )
            if arm.generator is not None and arm.generator not in self.generators:
                raise ValueError(f"Arm {name!r} names {arm.generator!r}, but generators are {list(self.generators)}.")
        unknown = [name for name in self.categories if name not in QUESTION_TYPES]
        if unknown or not self.categories:
            raise ValueError(f"categories are {self.categories}; give some of {', '.join(QUESTION_TYPES)}.")
        if self.precision not in ("bfloat16", "float32"):
            raise ValueError(f"precision is {self.precision!r}; choose bfloat16 or float32.")

    def digest(self, *names: str) -> str:
        """SHA-256 of some of the fields, of `rooms` what training sees; checkpoints hold that of all they need."""
        values = asdict(self)
        for split in (VALIDATION, *TEST_SPLITS):
            del values["rooms"][split]
        chosen = {name: values[name] for name in names}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def read_recipe(path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """
    Args:
        path: YAML file.
        overrides: top-level fields that take the place of the file's.

    Raises:
        ValueError: if the file is no recipe; unknown, missing and mistyped keys are named.
    """
    values = read_mapping(Path(path), "name: first")
    return built(Recipe, {**values, **(overrides or {})}, str(path))


def built(kind: Any, values: Any, where: str) -> Any:
    """A dataclass from nested plain values, with every key and type checked."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be names with values, but is {shown(values)}.")
    known = {item.name: item.type for item in fields(kind)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(
            f"{where} has no {', '.join(str(name)[:100] for name in unknown)}; it knows {', '.join(known)}."
        )
    try:
        return kind(**{name: converted(known[name], value, f"{where}: {name}") for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}.") from error


NESTED: dict[Any, Any] = {
    RoomsRecipe: RoomsRecipe,
    StageRecipe: StageRecipe,
    StageRecipe | None: StageRecipe,
}


def named(value: Any, where: str) -> dict[str, Any]:
    """Raises ValueError unless it holds texts with values."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where} is {shown(value)}, but must be names with values.")
    return value


def converted(kind: Any, value: Any, where: str) -> Any:
    if kind in NESTED:
        return built(NESTED[kind], value, where)
    if kind == dict[str, ArmRecipe]:
        arms = {} if value is None else named(value, where)
        return {name: built(ArmRecipe, {} if arm is None else arm, f"{where}.{name}") for name, arm in arms.items()}
    accepted = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if float in accepted and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML reads 1e-3 as text
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
        raise ValueError(f"{where} is {shown(value)}, but must be a finite number.")
    if kind == dict[str, float]:
        return {name: converted(float, rate, f"{where}.{name}") for name, rate in named(value, where).items()}
    plain = tuple(typing.get_origin(item) or item for item in accepted)
    if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
        raise ValueError(f"{where} is {shown(value)}, but must be {' or '.join(item.__name__ for item in plain)}.")
    return value
